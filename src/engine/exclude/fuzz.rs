//! Expressions of any bytes.

use arbitrary::{Result, Unstructured};

use super::*;
use crate::fuzz;

const PARTS: [&str; 36] = [
    "a",
    "b",
    "/",
    ".",
    "-",
    "_",
    "é",
    "]",
    "}",
    ")",
    "(",
    "|",
    "^",
    "$",
    "*",
    "+",
    "?",
    "{2}",
    "{1,2}",
    "{,2}",
    "{0}",
    "{",
    ",",
    "[",
    "[^",
    "[:alpha:]",
    "[[:digit:]",
    "[.",
    "&&",
    "~~",
    "\\",
    "\\w",
    "\\<",
    "\\`",
    "\\.",
    "\0",
];

/// Whatever is asked for is refused by ourselves, with a reason, or compiled: the translation is never what the regex
/// crate refuses. Matching looks at bytes that nobody chose.
pub fn expressions(u: &mut Unstructured<'_>) -> Result<()> {
    let mut expression = String::new();
    for _ in 0..u.int_in_range(0..=24)? {
        if u.ratio(1, 8)? {
            expression.push(u.arbitrary()?);
        } else {
            expression.push_str(u.choose(&PARTS)?);
        }
    }
    let path = fuzz::path(u)?;
    match Exclude::parse(&expression) {
        Ok(exclude) => {
            let matches = exclude.matches(&path);
            // Alternatives change nothing for who matches, and a group changes nothing at all.
            let parse = |text: String| Exclude::parse(&text);
            if let Exclude::Matching(_) = exclude {
                if let Ok(either) = parse(format!("{expression}|^/nobody$")) {
                    assert!(either.matches(&path) || !matches, "{expression:?} on {}", path.escape_ascii());
                }
                let is_flat = !expression.contains([')', '(', '\\', '[']);
                if let Some(grouped) = parse(format!("({expression})")).ok().filter(|_| is_flat) {
                    assert_eq!(grouped.matches(&path), matches, "{expression:?} on {}", path.escape_ascii());
                }
            }
        }
        Err(error) => {
            assert_eq!(error.errno, libc::EINVAL);
            let ours = ["(at byte ", "it is too large"].iter().any(|word| error.message.contains(word));
            assert!(ours, "{expression:?}: {error}");
        }
    }
    Ok(())
}
