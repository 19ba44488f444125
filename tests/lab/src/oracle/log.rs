//! What strace wrote: one file for each thread (`-ff`), one line for each call.

use anyhow::{Context, Result, bail};
use std::fs;
use std::ops::Range;
use std::path::Path;

/// Device and inode.
pub type Key = (u64, u64);

/// Nanoseconds since the epoch.
pub type Time = u64;

/// What a thread did.
#[derive(Debug)]
pub enum Line {
    /// A system call that has returned.
    Call(Call),
    /// What capture said (`src/tracker/trace.rs`).
    Said(Said),
}

/// A system call.
#[derive(Debug)]
pub struct Call {
    /// When it began.
    pub at: Time,
    /// Its name.
    pub name: String,
    /// Its arguments, as strace shows them.
    pub args: Vec<String>,
    /// What it returned; -1: it failed.
    pub result: i64,
    /// What follows the result: the path of a new descriptor, the name of an error.
    pub rest: String,
}

/// One line of capture's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// When.
    pub at: Time,
    /// The word: "range", "born" and so on.
    pub what: String,
    /// The file.
    pub key: Key,
    /// Bytes, or what else the word counts.
    pub range: Range<u64>,
}

/// A thread's lines.
#[derive(Debug)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// In their order.
    pub lines: Vec<Line>,
}

/// Reads all files `t.TID` of a folder.
///
/// # Errors
/// When one cannot be read, or has a line that is none of strace's.
pub fn read(folder: &Path) -> Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let tid = path.extension().and_then(|tid| tid.to_str()?.parse().ok());
        let Some(tid) = tid else { bail!("{} is no file of strace's", path.display()) };
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(parse).collect::<Result<Vec<_>>>();
        let lines = lines.with_context(|| path.display().to_string())?.into_iter().flatten().collect();
        threads.push(Thread { tid, lines });
    }
    threads.sort_by_key(|thread: &Thread| thread.tid);
    Ok(threads)
}

/// `None`: a signal, an end, or a call that has not returned.
fn parse(line: &str) -> Result<Option<Line>> {
    let odd = || format!("an odd line: {line}");
    let (at, text) = line.split_once(' ').with_context(odd)?;
    let at = at.replace('.', "").parse().with_context(odd)?;
    let Some((name, text)) = text.split_once('(').filter(|(name, _)| is_word(name)) else { return Ok(None) };
    let Some((args, text)) = split_args(text) else { return Ok(None) };
    let Some(text) = text.trim_start().strip_prefix("= ") else { return Ok(None) };
    let (number, rest) = text.split_at(text.find([' ', '<']).unwrap_or(text.len()));
    let result = match number.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => number.parse().ok(),
    };
    let Some(result) = result else { return Ok(None) };
    if name == "write"
        && let Some(said) = args.get(1).and_then(|text| text.strip_prefix("\"tokudb_backup "))
    {
        return said_of(at, said.trim_end_matches('"')).map(|said| Some(Line::Said(said))).with_context(odd);
    }
    Ok(Some(Line::Call(Call { at, name: name.into(), args, result, rest: rest.trim().into() })))
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn said_of(at: Time, text: &str) -> Option<Said> {
    let mut words = text.split(' ');
    let what = words.next()?.to_owned();
    let (dev, ino) = words.next()?.split_once(':')?;
    let key = (u64::from_str_radix(dev, 16).ok()?, ino.parse().ok()?);
    let range = words.next()?.parse().ok()?..words.next()?.parse().ok()?;
    Some(Said { at, what, key, range })
}

/// The arguments up to the parenthesis that ends them, and what follows it.
fn split_args(text: &str) -> Option<(Vec<String>, &str)> {
    let (mut args, mut begin, mut depth) = (Vec::new(), 0, 0u32);
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                while let Some((_, byte)) = bytes.next().filter(|(_, byte)| *byte != b'"') {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            // A path behind its descriptor; no shift.
            b'<' if !text[at + 1..].starts_with('<') && !text[..at].ends_with('<') => {
                bytes.find(|(_, byte)| *byte == b'>')?;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' if depth == 0 => {
                args.push(text[begin..at].trim().to_owned());
                return Some((args, &text[at + 1..]));
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                args.push(text[begin..at].trim().to_owned());
                begin = at + 1;
            }
            _ => {}
        }
    }
    None
}

impl Call {
    /// An argument; empty where there is none.
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// A number among the arguments.
    pub fn number(&self, index: usize) -> Option<u64> {
        number(self.arg(index))
    }

    /// The path behind the descriptor that an argument is.
    pub fn path_of_fd(&self, index: usize) -> Option<&str> {
        path_in(self.arg(index))
    }

    /// The path that the call made a descriptor of.
    pub fn opened(&self) -> Option<&str> {
        path_in(&self.rest)
    }

    /// The path that arguments give: relative to the descriptor `directory`, or without one to `here`.
    pub fn path(&self, here: &str, directory: Option<usize>, path: usize) -> Option<String> {
        let path = unquoted(self.arg(path))?;
        if path.starts_with('/') {
            return Some(normal(&path));
        }
        let base = match directory {
            Some(directory) => self.path_of_fd(directory)?,
            None => here,
        };
        Some(if path.is_empty() { normal(base) } else { normal(&format!("{base}/{path}")) })
    }

    /// What a call of the stat family found.
    pub fn found(&self) -> Option<(String, Key)> {
        let (path, stat) = match self.name.as_str() {
            "fstat" => (normal(self.path_of_fd(0)?), self.arg(1)),
            "newfstatat" => (self.path("", Some(0), 1)?, self.arg(2)),
            _ => return None,
        };
        let field = |name: &str| Some(stat.split_once(name)?.1);
        let (major, minor) = field("st_dev=makedev(")?.split_once(')')?.0.split_once(", ")?;
        let dev = libc::makedev(number(major)? as u32, number(minor)? as u32);
        let ino = field("st_ino=")?;
        Some((path, (dev, number(&ino[..ino.find([',', '}'])?])?)))
    }
}

/// A decimal or hexadecimal number.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The path in `5</path>`.
pub fn path_in(text: &str) -> Option<&str> {
    let (_, path) = text.split_once('<')?;
    path.rsplit_once('>').map(|(path, _)| path).filter(|path| path.starts_with('/'))
}

fn unquoted(text: &str) -> Option<String> {
    text.strip_prefix('"')?.strip_suffix('"').map(str::to_owned)
}

/// Without empty names and ".".
pub fn normal(path: &str) -> String {
    let names = path.split('/').filter(|name| !name.is_empty() && *name != ".");
    names.fold(String::new(), |path, name| path + "/" + name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Call {
        match parse(&format!("1795844205.316533708 {text}")) {
            Ok(Some(Line::Call(call))) => call,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn calls_are_read() {
        let write = call(r#"pwrite64(5</d/a (1), b.ibd>, "\"(,\\"..., 16384, 0x4000) = 16384"#);
        assert_eq!((write.at, write.result), (1_795_844_205_316_533_708, 16384));
        assert_eq!((write.path_of_fd(0), write.number(3)), (Some("/d/a (1), b.ibd"), Some(0x4000)));
        let open = call(r#"openat(AT_FDCWD</d>, "./x//y", O_RDWR|O_CREAT, 0660) = 7</d/x/y>"#);
        assert_eq!((open.path("", Some(0), 1).as_deref(), open.opened()), (Some("/d/x/y"), Some("/d/x/y")));
        let failed = call(r#"unlink("./x") = -1 ENOENT (No such file or directory)"#);
        assert_eq!((failed.result, failed.path("/d", None, 0).as_deref()), (-1, Some("/d/x")));
        let stat = call(
            r#"newfstatat(5</d/x>(deleted), "", {st_dev=makedev(0xfe, 0x1), st_ino=42, st_mode=S_IFREG}, AT_EMPTY_PATH) = 0"#,
        );
        assert_eq!(stat.found(), Some(("/d/x".into(), (libc::makedev(0xfe, 1), 42))));
        assert!(parse("1.0 futex(0x1, FUTEX_WAIT <unfinished ...>").unwrap().is_none());
        assert!(parse("1.0 +++ killed by SIGKILL +++").unwrap().is_none());
    }

    #[test]
    fn what_capture_says_is_read() {
        let line = r#"1.000000002 write(77</dev/null>, "tokudb_backup range fe00:12 16384 32768", 39) = 39"#;
        let Some(Line::Said(said)) = parse(line).unwrap() else { panic!() };
        let expected =
            Said { at: 1_000_000_002, what: "range".into(), key: (0xfe00, 12), range: 16384..32768 };
        assert_eq!(said, expected);
    }
}
