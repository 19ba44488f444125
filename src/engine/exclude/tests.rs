use super::*;

/// Expression, a path that it matches, a path that it does not.
const PAIRS: &[(&str, &str, &str)] = &[
    // What users of the earlier plugin wrote.
    (r"(mysqld_safe\.pid)+", "/d/mysqld_safe.pid", "/d/mysqld_safe_pid"),
    (r"/lost\+found($|/)", "/d/lost+found", "/d/lost+founder"),
    (r"/lost\+found($|/)", "/d/lost+found/#12", "/d/lostfound/"),
    (r"_test_t1", "/d/test/_test_t1_main_1.tokudb", "/d/test/_test_t2_main_1.tokudb"),
    (r"(t1|t2)\.ibd$", "/d/db/t2.ibd", "/d/db/t3.ibd"),
    (r"\.(pid|sock)(\.lock)?$", "/d/x.sock.lock", "/d/x.sock.locked"),
    // Ordinary characters that are special in the crate, or the other way round.
    (r"a#b c", "/a#b c", "/ab c"),
    (r"a&&b~~c--d", "/a&&b~~c--d", "/a&b~c-d"),
    (r"a}", "/a}", "/a"),
    (r"a)", "/a)", "/a"),
    (r"a\{2}", "/a{2}", "/aa"),
    (r"\-\_\ \@\!\%\,\:\;\=\#\&\~\/", "-_ @!%,:;=#&~/", "-_ @!%,:;=#&~"),
    (r"\(\?i\)A", "(?i)A", "a"),
    // Anchors are anchors wherever they stand.
    (r"^/d/x$", "/d/x", "/d/x/y"),
    (r"(^/d|x$)", "/e/x", "/e/d"),
    (r"(^)/d", "/d", "/e/d"),
    // Repetitions; a second one repeats the first, it does not make it lazy.
    (r"^ab{2}$", "abb", "ab"),
    (r"^ab{2,}$", "abbbb", "ab"),
    (r"^ab{2,3}$", "abbb", "abbbb"),
    (r"^ab{,2}$", "a", "abbb"),
    (r"^ab+?$", "a", "ac"),
    (r"^ab{2}?$", "a", "ab"),
    (r"^ab**$", "abbb", "ac"),
    (r"^ab{2}{3}$", "abbbbbb", "abbbbb"),
    (r"^(ab)*+c$", "ababc", "abac"),
    (r"^(a|bc){2}$", "abc", "ac"),
    (r"^()$|x", "", "y"),
    (r"^(a|)b$", "b", "aab"),
    (r"^(|a)b$", "ab", "cb"),
    // Brackets.
    (r"^[]abc]$", "]", "d"),
    (r"^[^]abc]$", "d", "]"),
    (r"^[a\]$", "\\", "]"),
    (r"^[\n]$", "n", "\n"),
    (r"^[\]]$", "\\]", "]"),
    (r"^[a-c]$", "b", "-"),
    (r"^[a-]$", "-", "b"),
    (r"^[-a]$", "-", "b"),
    (r"^[+--]$", ",", "."),
    (r"^[]-a]$", "_", "b"),
    (r"^[[a]$", "[", "]"),
    (r"^[[]$", "[", "]"),
    (r"^[a[b]c$", "[c", "ac]"),
    (r"^[a&&b]$", "&", "c"),
    (r"^[a~~b]$", "~", "c"),
    (r"^[*.+?(){}|$^]$", "^", "a"),
    (r"^[[:alpha:]_]+$", "ab_C", "a1"),
    (r"^[[:digit:][:space:]]+$", "1 2\u{b}", "a"),
    (r"^[^[:alnum:]]$", "-", "a"),
    (r"^[[:upper:]-]$", "-", "a"),
    (r"^[:alpha:]$", "p", "z"),
    (r"^[^a]$", "\n", "a"),
    // The peers' dot matches a line feed, and their $ only the end.
    (r"^a.b$", "a\nb", "ab"),
    (r"a$", "b\na", "a\n"),
    // GNU's additions.
    (r"\<t1\>", "/d/t1.ibd", "/d/at1.ibd"),
    (r"\bt1\b", "/d/t1.ibd", "/d/t12.ibd"),
    (r"^\w+\W\w+$", "a.b", "a_b"),
    (r"^\S+\s\S+$", "a b", "ab"),
    (r"\`/d\'", "/d", "/d/e"),
    // Outside ASCII: a character is repeated as a whole.
    ("^/é+$", "/éé", "/e"),
    ("^/é?x$", "/x", "/\u{e8}x"),
    ("^/..$", "/é", "/e"),
    ("\\é", "/é", "/e"),
    ("(ä|ö)", "/ö", "/ü"),
];

/// Expression, a word of its error, the byte (from 1) that the error names.
const REFUSED: &[(&str, &str, usize)] = &[
    ("*a", "nothing to repeat", 1),
    ("+", "nothing to repeat", 1),
    ("a|*b", "nothing to repeat", 3),
    ("(*a)", "nothing to repeat", 2),
    ("^*", "nothing to repeat", 2),
    ("{1}", "nothing to repeat", 1),
    ("(?i)a", "nothing to repeat", 2),
    ("(?:a)", "nothing to repeat", 2),
    ("(a", "not closed", 1),
    ("a(b(c)", "not closed", 2),
    ("[a", "not closed", 1),
    ("[]", "not closed", 1),
    ("[^]", "not closed", 1),
    ("[a-", "not closed", 1),
    ("a\\", "backslash at the end", 2),
    (r"(a)\1", "references", 4),
    (r"\d+", "no such escape", 1),
    (r"a\n", "no such escape", 2),
    (r"a\0", "no such escape", 2),
    (r"a\x41", "no such escape", 2),
    (r"\p{L}", "no such escape", 1),
    ("[[:foo:]]", "no such class", 2),
    ("[[:alpha]", "no such class", 2),
    ("[[.a.]]", "not supported", 2),
    ("[[=a=]]", "not supported", 2),
    ("[z-a]", "wrong order", 2),
    ("[a-c-e]", "hyphen first or last", 5),
    ("[a-[:alpha:]]", "cannot end in a class", 2),
    ("[é]", "single bytes", 2),
    ("a{x}", "write \\{", 2),
    ("a{", "write \\{", 2),
    ("a{}", "write \\{", 2),
    ("a{1", "write \\{", 2),
    ("a{3,2}", "wrong order", 2),
    ("a{40000}", "more than 32767", 2),
    ("a\0b", "NUL", 2),
];

#[test]
fn expressions_mean_what_they_meant() {
    for (expression, yes, no) in PAIRS {
        let exclude = Exclude::parse(expression).unwrap();
        assert!(exclude.matches(yes.as_bytes()), "{expression} does not match {yes:?}: {exclude:?}");
        assert!(!exclude.matches(no.as_bytes()), "{expression} matches {no:?}: {exclude:?}");
    }
}

#[test]
fn errors_name_expression_cause_and_place() {
    for (expression, word, at) in REFUSED {
        let error = Exclude::parse(expression).expect_err(expression);
        assert_eq!(error.errno, libc::EINVAL);
        let place = format!("(at byte {at})");
        for part in [word, *expression, place.as_str()] {
            assert!(error.message.contains(part), "no {part:?} in: {}", error.message);
        }
    }
}

#[test]
fn paths_need_not_be_utf8() {
    let exclude = Exclude::parse(r"/t.\.ibd$").unwrap();
    assert!(exclude.matches(b"/\xFF\xFE/t\x80.ibd"));
    assert!(!exclude.matches(b"/\xFF\xFE/t.ibd"));
}

#[test]
fn nothing_and_the_callers_choice_match_nothing() {
    assert!(matches!(Exclude::parse("").unwrap(), Exclude::Nothing));
    assert!(!Exclude::Nothing.matches(b"/a"));
    assert!(!Exclude::AskCaller.matches(b"/a"));
}

#[test]
fn hostile_expressions_end_in_errors_on_a_small_stack() {
    let expressions = [
        "(".repeat(LONGEST),
        format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000)),
        format!("a{}", "*".repeat(LONGEST - 1)),
        format!("a{}", "{2}".repeat(20_000)),
        "a{32767}{32767}".to_owned(),
        "((a{1000}){1000}){1000}".to_owned(),
        "x".repeat(LONGEST + 1),
    ];
    // The smallest stack of a server's thread is 192 KiB; the frames of a sanitizer are larger.
    let sanitized = ["ASAN_OPTIONS", "TSAN_OPTIONS"].iter().any(|name| std::env::var_os(name).is_some());
    let stack = if sanitized { 4 << 20 } else { 192 << 10 };
    let thread = std::thread::Builder::new().stack_size(stack).spawn(move || {
        for expression in &expressions {
            let error = Exclude::parse(expression).unwrap_err();
            assert_eq!(error.errno, libc::EINVAL);
            assert!(error.message.len() < 450, "{}", error.message);
        }
        // What is just allowed works there, too.
        let deep = format!("{}a{}", "(b|".repeat(40), "){1,2}".repeat(40));
        assert!(Exclude::parse(&deep).unwrap_err().message.contains("too large"));
        let deep = format!("{}a{}", "(".repeat(40), ")*".repeat(40));
        assert!(Exclude::parse(&deep).unwrap().matches(b"/"));
        let many = format!("a{}", "*".repeat(40));
        assert!(Exclude::parse(&many).unwrap().matches(b"/"));
        let long = Exclude::parse(&format!("{}|^/+$", "x".repeat(LONGEST - 5))).unwrap();
        assert!(long.matches("/".repeat(4096).as_bytes()));
        assert!(!long.matches("x".repeat(4096).as_bytes()));
    });
    thread.unwrap().join().unwrap();
}

/// The most that one expression may take, with a wide margin: measured are 4 s to compile and 1 s to match, without
/// optimisation, on a busy machine. Exponential would be longer than anybody waits.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn time_is_bounded_whatever_the_shape() {
    let shapes = [
        // What takes exponential time where expressions are tried by going back.
        "(x+x+)+y".to_owned(),
        "(a|a)*b".to_owned(),
        "(a|aa)+$".to_owned(),
        "(.*)*(.*)*(.*)*z".to_owned(),
        "(a?){40}a{40}$".to_owned(),
        "([a-z]+)*[0-9]([a-z]*)*$".to_owned(),
        // What has exponentially many states when it is made deterministic.
        "(a|b)*a(a|b){200}$".to_owned(),
        "(a|b)*a(a|b){3000}c".to_owned(),
        // Nothing at all, many times.
        "(){32767}".to_owned(),
        "(){32767}{32767}{32767}".to_owned(),
        "(|){1000}{1000}{1000}".to_owned(),
        "(^){32767}{32767}".to_owned(),
        "(\\b){32767}{32767}".to_owned(),
        "((((){999}){999}){999}){999}".to_owned(),
        // As much as fits.
        "a{1000}{1000}".to_owned(),
        "(a{1,100}){1,100}".to_owned(),
        ".{0,32767}z".to_owned(),
        "(a?){32767}".to_owned(),
        "[^b]{0,9999}c".to_owned(),
        format!("({})*z", "a?".repeat(20_000)),
        format!("{}z", ".*".repeat(30_000)),
        format!("({}|z)+y", "a|".repeat(30_000)),
        format!("{}z", "(a|b|".repeat(40) + &")*".repeat(40)),
        "[[:alnum:]/._-]{1,255}{1,16}$".to_owned(),
        "[".repeat(LONGEST),
        "[a".repeat(LONGEST / 2),
        "\\".repeat(LONGEST / 2),
        "{1}".repeat(LONGEST / 3),
        "a|".repeat(500_000),
        "a".repeat(1 << 20),
    ];
    let paths = ["a".repeat(1024), format!("/{}", "ab".repeat(511))];
    for shape in shapes {
        let start = std::time::Instant::now();
        let parsed = Exclude::parse(&shape);
        let to_parse = start.elapsed();
        let start = std::time::Instant::now();
        if let Ok(exclude) = &parsed {
            for path in &paths {
                exclude.matches(path.as_bytes());
            }
        }
        let to_match = start.elapsed();
        let shown = shorten(&shape);
        println!("{to_parse:?} {to_match:?} {} {shown}", parsed.is_ok());
        assert!(to_parse < PATIENCE && to_match < PATIENCE, "{to_parse:?} {to_match:?} {shown}");
        assert!(parsed.map_or_else(|error| error.errno == libc::EINVAL, |_| true), "{shown}");
    }
}

#[test]
fn alternatives_by_the_thousand() {
    let names: Vec<String> = (0..3000).map(|n| format!("table_{n}")).collect();
    let exclude = Exclude::parse(&format!("/db/({})\\.ibd$", names.join("|"))).unwrap();
    assert!(exclude.matches(b"/d/db/table_2999.ibd"));
    assert!(!exclude.matches(b"/d/db/table_3000.ibd"));
}
