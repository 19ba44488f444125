//! Which source files are left out.
//!
//! The expressions are POSIX extended ones, as users of the earlier plugin wrote them; [`posix`] turns them into
//! the syntax of the regex crate. `docs/exclude.md` tells users what they mean.

mod bracket;
#[cfg(test)]
mod compare;
#[cfg(test)]
pub(crate) mod fuzz;
mod posix;
#[cfg(test)]
mod tests;

use regex::bytes::{Regex, RegexBuilder};

use super::error::{Error, Result};

/// The longest expression, in bytes.
pub const LONGEST: usize = 64 << 10;

/// What a compiled expression, and what matching with it, may take of memory, in bytes each.
const MEMORY: usize = 4 << 20;

/// How the files to leave out are chosen.
#[derive(Clone, Debug, Default)]
pub enum Exclude {
    /// Nothing is left out.
    #[default]
    Nothing,
    /// Full source paths that this expression matches somewhere.
    Matching(Regex),
    /// What [`crate::backup::Caller::excluded`] says.
    AskCaller,
}

impl Exclude {
    /// Reads a POSIX extended regular expression; an empty one leaves nothing out. EINVAL says what is wrong, and
    /// where.
    pub fn parse(expression: &str) -> Result<Exclude> {
        if expression.is_empty() {
            return Ok(Exclude::Nothing);
        }
        let refuse = |why: &str| {
            let shown = shorten(expression);
            Error::invalid(format!("the expression of what to leave out, '{shown}', is not valid: {why}"))
        };
        if expression.len() > LONGEST {
            return Err(refuse(&format!("it has {} bytes, {LONGEST} are allowed", expression.len())));
        }
        let translated = posix::translate(expression)
            .map_err(|error| refuse(&format!("{} (at byte {})", error.what, error.at + 1)))?;
        RegexBuilder::new(&translated)
            .unicode(false)
            .dot_matches_new_line(true)
            .nest_limit(posix::DEEPEST_PARSED)
            .size_limit(MEMORY)
            .dfa_size_limit(MEMORY)
            .build()
            .map(Exclude::Matching)
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => refuse("it is too large; repeat fewer times"),
                // Not reached: the translation is valid by construction. Said plainly all the same.
                other => refuse(&other.to_string().replace('\n', " ")),
            })
    }

    /// Whether the expression leaves out the source file with this full path. Always false for
    /// [`Exclude::AskCaller`], whose answer only the caller has.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            Exclude::Nothing | Exclude::AskCaller => false,
            Exclude::Matching(expression) => expression.is_match(path),
        }
    }
}

/// The expression as an error message shows it: whole, or its first 200 bytes.
fn shorten(expression: &str) -> String {
    if expression.len() <= 200 {
        return expression.to_owned();
    }
    let mut end = 200;
    while !expression.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", expression.get(..end).unwrap_or_default())
}
