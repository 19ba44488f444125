//! From POSIX extended regular expressions, as glibc's regcomp(3) takes them, to the syntax of the regex crate.
//!
//! Everything that the two read differently is written out in a form that has one meaning only: a repetition gets
//! a group around what it repeats a second time (`a+?` is lazy there), a bracket expression becomes a list of byte
//! ranges, an ordinary character is escaped. What has no counterpart is refused.

use super::bracket;

/// How deep groups may be nested, and how many repetitions one thing may have.
const DEEPEST: usize = 40;
/// The nesting that the regex crate must allow for that: a group, its alternatives, its sequence, its repetitions.
pub const DEEPEST_PARSED: u32 = 250;
/// glibc's RE_DUP_MAX.
const MOST_REPEATED: u32 = 32767;

/// What is wrong with an expression, and at which byte of it (from 0).
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Offset of the byte.
    pub at: usize,
    /// What is wrong and what to do.
    pub what: &'static str,
}

type Result<T> = std::result::Result<T, Invalid>;

/// Reads an expression from its start to its end.
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// The next byte.
    pub at: usize,
}

impl Reader<'_> {
    /// The next byte, left where it is.
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The byte after the next one.
    pub fn peek_second(&self) -> Option<u8> {
        self.bytes.get(self.at + 1).copied()
    }

    /// Takes the next byte.
    pub fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Takes the next byte if it is `byte`.
    pub fn take(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        if is {
            self.at += 1;
        }
        is
    }
}

/// What a repetition would apply to.
#[derive(Clone, Copy)]
enum Last {
    /// Nothing: the start, or after `(`, `|`, `^`, `$` and the like. A repetition is an error here.
    Nothing,
    /// What was written from here on, with so many repetitions already.
    Thing { from: usize, repeated: usize },
}

/// The same expression in the syntax of the regex crate (bytes, `unicode(false)`, `dot_matches_new_line(true)`).
pub fn translate(expression: &str) -> Result<String> {
    let mut input = Reader { bytes: expression.as_bytes(), at: 0 };
    let mut output = String::with_capacity(expression.len() * 2);
    let mut last = Last::Nothing;
    // Where each open group begins, in the input and in the output.
    let mut groups: Vec<(usize, usize)> = Vec::new();
    loop {
        let at = input.at;
        let from = output.len();
        let thing = Last::Thing { from, repeated: 0 };
        let Some(byte) = input.next() else { break };
        match byte {
            0 => return Err(Invalid { at, what: "a path holds no NUL" }),
            b'(' => {
                if groups.len() == DEEPEST {
                    return Err(Invalid { at, what: "groups are nested too deep" });
                }
                groups.push((at, from));
                output.push_str("(?:");
                last = Last::Nothing;
            }
            b')' => match groups.pop() {
                Some((_, from)) => {
                    output.push(')');
                    last = Last::Thing { from, repeated: 0 };
                }
                None => {
                    output.push_str("\\)");
                    last = thing;
                }
            },
            b'|' => {
                output.push('|');
                last = Last::Nothing;
            }
            b'^' | b'$' => {
                output.push(char::from(byte));
                last = Last::Nothing;
            }
            b'.' => {
                output.push('.');
                last = thing;
            }
            b'[' => {
                bracket::translate(&mut input, &mut output)?;
                last = thing;
            }
            b'\\' => last = if escape(&mut input, &mut output)? { thing } else { Last::Nothing },
            b'*' | b'+' | b'?' | b'{' => last = repeat(byte, last, &mut input, &mut output)?,
            _ => {
                literal(byte, &mut input, &mut output);
                last = thing;
            }
        }
    }
    match groups.pop() {
        Some((at, _)) => Err(Invalid { at, what: "this ( is not closed; write \\( for the character" }),
        None => Ok(output),
    }
}

/// One ordinary character; outside ASCII all of its bytes, so that a repetition repeats the character.
fn literal(first: u8, input: &mut Reader<'_>, output: &mut String) {
    if first.is_ascii() {
        byte_escape(first, output);
        return;
    }
    output.push_str("(?:");
    byte_escape(first, output);
    // The expression is UTF-8: the bytes of a character after its first are 0x80 to 0xBF.
    while let Some(byte) = input.peek().filter(|byte| (0x80..0xC0).contains(byte)) {
        byte_escape(byte, output);
        input.at += 1;
    }
    output.push(')');
}

/// One byte as itself.
pub fn byte_escape(byte: u8, output: &mut String) {
    if byte.is_ascii_alphanumeric() || byte == b'/' || byte == b'_' {
        output.push(char::from(byte));
    } else {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
        output.push_str("\\x");
        for digit in [byte >> 4, byte & 15] {
            output.extend(DIGITS.get(usize::from(digit)));
        }
    }
}

/// What stands behind a backslash. True: something that a repetition may follow.
fn escape(input: &mut Reader<'_>, output: &mut String) -> Result<bool> {
    let at = input.at.saturating_sub(1);
    let Some(byte) = input.next() else {
        return Err(Invalid { at, what: "a backslash at the end; write \\\\ for the character" });
    };
    let (text, repeatable) = match byte {
        b'1'..=b'9' => {
            return Err(Invalid { at, what: "references to groups (\\1) are not supported" });
        }
        b'w' => ("\\w", true),
        b'W' => ("\\W", true),
        b's' => ("\\s", true),
        b'S' => ("\\S", true),
        b'<' => ("\\b{start}", false),
        b'>' => ("\\b{end}", false),
        b'b' => ("\\b", false),
        b'B' => ("\\B", false),
        b'`' => ("\\A", false),
        b'\'' => ("\\z", false),
        _ if byte.is_ascii_alphanumeric() => {
            // regcomp takes the letter itself, most other languages a class or a control character.
            return Err(Invalid {
                at,
                what: "no such escape in a POSIX expression; write [0-9], [[:alpha:]] and the like",
            });
        }
        0 => return Err(Invalid { at, what: "a path holds no NUL" }),
        _ => {
            literal(byte, input, output);
            return Ok(true);
        }
    };
    output.push_str(text);
    Ok(repeatable)
}

/// A repetition of what was written last.
fn repeat(sign: u8, last: Last, input: &mut Reader<'_>, output: &mut String) -> Result<Last> {
    let at = input.at.saturating_sub(1);
    let Last::Thing { from, repeated } = last else {
        return Err(Invalid { at, what: "nothing to repeat here; write a backslash before *, +, ? and {" });
    };
    if repeated == DEEPEST {
        return Err(Invalid { at, what: "too many repetitions of one thing" });
    }
    if repeated > 0 {
        output.insert_str(from, "(?:");
        output.push(')');
    }
    if sign == b'{' {
        let (low, high) = interval(at, input)?;
        match high {
            Some(high) => output.push_str(&format!("{{{low},{high}}}")),
            None => output.push_str(&format!("{{{low},}}")),
        }
    } else {
        output.push(char::from(sign));
    }
    Ok(Last::Thing { from, repeated: repeated + 1 })
}

/// What stands in `{ }`: {3}, {3,}, {3,5}, {,5} (the last is glibc's).
fn interval(at: usize, input: &mut Reader<'_>) -> Result<(u32, Option<u32>)> {
    let low = number(at, input)?;
    let comma = input.take(b',');
    let high = if comma { number(at, input)? } else { low };
    if !input.take(b'}') || (low.is_none() && !comma) {
        return Err(Invalid {
            at,
            what: "{ must begin {n}, {n,}, {,n} or {n,m}; write \\{ for the character",
        });
    }
    if low.zip(high).is_some_and(|(low, high)| low > high) {
        return Err(Invalid { at, what: "the two numbers of a repetition are in the wrong order" });
    }
    Ok((low.unwrap_or(0), high))
}

fn number(at: usize, input: &mut Reader<'_>) -> Result<Option<u32>> {
    let mut number = None;
    while let Some(digit) = input.peek().filter(u8::is_ascii_digit) {
        let value = number.unwrap_or(0) * 10 + u32::from(digit - b'0');
        if value > MOST_REPEATED {
            return Err(Invalid { at, what: "more than 32767 repetitions" });
        }
        number = Some(value);
        input.at += 1;
    }
    Ok(number)
}
