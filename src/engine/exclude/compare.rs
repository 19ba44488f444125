//! The same expressions and paths through libc's regcomp(3) and regexec(3), in the C locale.

use std::ffi::CString;
use std::mem::MaybeUninit;

use super::*;

/// An expression compiled by libc.
struct Libc(libc::regex_t);

impl Libc {
    fn compile(expression: &str) -> Option<Libc> {
        let expression = CString::new(expression).ok()?;
        let mut compiled = MaybeUninit::uninit();
        let flags = libc::REG_EXTENDED | libc::REG_NOSUB;
        // SAFETY: both pointers are valid; regcomp initialises `compiled` when it returns 0.
        let failed = unsafe { libc::regcomp(compiled.as_mut_ptr(), expression.as_ptr(), flags) } != 0;
        // SAFETY: initialised by regcomp, see above.
        (!failed).then(|| Libc(unsafe { compiled.assume_init() }))
    }

    fn matches(&self, path: &[u8]) -> bool {
        let path = CString::new(path).unwrap();
        // SAFETY: `self.0` was compiled; no match positions are asked for.
        unsafe { libc::regexec(&self.0, path.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Libc {
    fn drop(&mut self) {
        // SAFETY: compiled once, freed once.
        unsafe { libc::regfree(&mut self.0) }
    }
}

/// Words of errors about what libc would take and we do not, on purpose.
const REFUSED_BY_US: &[&str] = &["references to groups", "no such escape", "[. .] and [= =]", "too large"];

/// Compares on all `paths`; what we refuse and libc does not must be refused on purpose. Returns whether compared.
fn compare(expression: &str, paths: &[Vec<u8>], note: &str) -> bool {
    let theirs = Libc::compile(expression);
    match (Exclude::parse(expression), theirs) {
        (Ok(ours), Some(theirs)) => {
            for path in paths {
                let shown = String::from_utf8_lossy(path);
                assert_eq!(
                    ours.matches(path),
                    theirs.matches(path),
                    "{expression:?} on {shown:?}: ours, libc's; {ours:?}; {note}"
                );
            }
            true
        }
        (Err(_), None) => false,
        (Err(error), Some(_)) => {
            let on_purpose = REFUSED_BY_US.iter().any(|word| error.message.contains(word));
            assert!(on_purpose, "libc takes {expression:?}, we do not: {error}; {note}");
            false
        }
        (Ok(ours), None) => panic!("we take {expression:?}, libc does not: {ours:?}; {note}"),
    }
}

/// Small, fast, and the same on every machine: xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

#[test]
fn table_as_libc() {
    let expressions = [
        r"(mysqld_safe\.pid)+",
        r"/lost\+found($|/)",
        r"^/var/lib/[^/]+/t[0-9]{1,3}\.(ibd|frm)$",
        r"[[:digit:]]+",
        r"[^[:alpha:]/]",
        r"a|b|",
        r"()",
        r"(|a)+b",
        r"((a)|b)*c",
        r"a{0}b",
        r"a{0,0}b",
        r"a{,}b",
        r"(ab){2,}",
        r"a^b",
        r"a$b",
        r"(a$|b)c",
        r"(^a|b)c",
        r"[]a]+",
        r"[^]a]+",
        r"[]-a]",
        r"[a\]",
        r"[\w]",
        r"[a-]",
        r"[--/]",
        r"[+--]",
        r"[%--]",
        r"[a-a]",
        r"[[]",
        r"[[a]",
        r"[^-a]",
        r"[a-c-e]",
        r"[a-c-]",
        r"[[:alpha:]-z]",
        r"[[:alpha:]-]",
        r"[a-[:alpha:]]",
        r"[[:foo:]]",
        r"[[:",
        r"[[:alpha:",
        r"a)",
        r")",
        r"()a)",
        r"}",
        r"a}",
        r"{",
        r"a{",
        r"a{1",
        r"a{1a}",
        r"a{,1",
        r"a|{1}",
        r"({1})",
        r"^{1}",
        r"a{2}{3}",
        r"a{2,1}",
        r"a{32768}",
        r"*",
        r"a|*",
        r"(*a)",
        r"^*",
        r"$*",
        r"^+a",
        r"\<*",
        r"a**",
        r"a+?",
        r"a??",
        r"(a?){3}",
        r"\<a",
        r"a\>",
        r"\bab\b",
        r"\`a",
        r"a\'",
        r"\w\W",
        r"\s\S",
        r"\/\.\-\*",
        r"\",
        r"a\",
        r"a||b",
        r"||",
        r"(",
        r"(()",
        r"[",
        r"[]",
        r"[^]",
        r"a.b",
        r"^$",
        r"$^",
        r"a&&b",
        r"[a&&b]",
        r"[a~~b]",
        r"[&-~]",
        r"(?i)a",
        r"(?:a)",
        r"#a",
        r"a b",
        r"\{1}",
        r"a\{1\}",
    ];
    let paths = [
        "",
        "a",
        "b",
        "c",
        "ab",
        "ba",
        "aa",
        "aab",
        "abab",
        "ababab",
        "abc",
        "bc",
        "ac",
        "aaaaaa",
        "/",
        "/a",
        "a/",
        "/a/b",
        "a b",
        " a",
        "a.b",
        "a-b",
        "-",
        "--",
        "]",
        "[",
        "\\",
        "^",
        "^a",
        "$",
        "a$b",
        "a^b",
        "*",
        "+",
        "?",
        "{",
        "}",
        "{1}",
        "a{1}",
        "a{",
        ")",
        "(",
        "a)",
        "&",
        "&&",
        "~",
        "a&&b",
        "_",
        "a_b",
        "1",
        "a1",
        "9z",
        "\n",
        "a\nb",
        "\t",
        "#a",
        "e",
        "w",
        "z",
        ",",
        ".",
        "/d/mysqld_safe.pid",
        "/d/lost+found",
        "/d/lost+found/x",
        "/d/lostfound",
        "/var/lib/mysql/t12.ibd",
        "/var/lib/mysql/t1234.ibd",
        "/var/lib/x/y/t1.ibd",
    ];
    let mut paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    paths.extend([vec![0x80], vec![b'a', 0xFF, b'b'], vec![0xC3, 0xA9], vec![0x01], vec![0x7F]]);
    for expression in expressions {
        compare(expression, &paths, "table");
    }
}

/// Random expressions in a run.
const EXPRESSIONS: usize = 20_000;

#[test]
fn random_as_libc() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        time.as_nanos() as u64 | 1
    });
    println!("seed {seed}");
    let mut random = Random(seed);
    let parts = [
        "a",
        "b",
        "/",
        ".",
        "-",
        "_",
        "1",
        " ",
        "]",
        "}",
        ")",
        "(",
        "(a",
        ")",
        "|",
        "^",
        "$",
        "*",
        "+",
        "?",
        "{2}",
        "{1,2}",
        "{,2}",
        "{0,1}",
        "{",
        "[ab]",
        "[^a]",
        "[]a]",
        "[^]/]",
        "[a-]",
        "[\\]",
        "[[:alpha:]]",
        "[^[:digit:]]",
        "[[]",
        "[/-_]",
        "\\.",
        "\\+",
        "\\(",
        "\\/",
        "\\w",
        "\\W",
        "\\s",
        "(a|b)",
        "(a|)",
        "(^a|b$)",
        "[",
        "\\",
    ];
    // No line feed: glibc lets $ match before one in the middle of some expressions (`$[^a]`), against POSIX.
    let characters: [&[u8]; 13] =
        [b"a", b"a", b"b", b"/", b".", b"-", b"_", b"1", b" ", b"]", b"[", b"\\", b"\xFF"];
    let mut compared = 0;
    for _ in 0..EXPRESSIONS {
        let expression: String = (0..=random.below(8)).map(|_| random.pick(&parts)).collect();
        // glibc forgets an anchor when it repeats its group: "(^a|b$){2}" matches "baa" there.
        let anchored = expression.contains(['^', '$']) && expression.contains('(');
        if anchored && expression.contains(['{', '+', '*', '?']) {
            continue;
        }
        let paths: Vec<Vec<u8>> = (0..20)
            .map(|_| (0..random.below(9)).flat_map(|_| random.pick(&characters).iter().copied()).collect())
            .collect();
        compared += usize::from(compare(&expression, &paths, &format!("SEED={seed}")));
    }
    println!("{compared} of {EXPRESSIONS} expressions were valid and compared");
    assert!(compared > EXPRESSIONS / 5, "only {compared} of {EXPRESSIONS} random expressions were valid");
}
