//! Bracket expressions: `[...]`. A backslash is an ordinary character in them, so are `[`, `&&`, `--` and `~~`.

use super::posix::{Invalid, Reader, byte_escape};

type Result<T> = std::result::Result<T, Invalid>;

/// Which bytes a bracket expression stands for.
type Set = [bool; 256];

/// One element of a bracket expression.
enum Element {
    Byte(u8),
    Class(fn(&u8) -> bool),
}

/// Reads what follows `[`, up to its `]`, and writes it as a list of byte ranges.
pub fn translate(input: &mut Reader<'_>, output: &mut String) -> Result<()> {
    let open = input.at.saturating_sub(1);
    let negated = input.take(b'^');
    let mut set: Set = [false; 256];
    let mut first = true;
    while first || input.peek() != Some(b']') {
        let at = input.at;
        // A hyphen is itself as the first, as the last, and as the end of a range.
        if !first && input.peek() == Some(b'-') && !matches!(input.peek_second(), Some(b']') | None) {
            return Err(Invalid { at, what: "put the hyphen first or last in [ ]" });
        }
        first = false;
        let element = element(open, input)?;
        let range = input.peek() == Some(b'-') && !matches!(input.peek_second(), Some(b']') | None);
        match element {
            Element::Class(class) => add(&mut set, |byte| class(&byte)),
            Element::Byte(low) if range => {
                input.at += 1;
                let Element::Byte(high) = self::element(open, input)? else {
                    return Err(Invalid { at, what: "a range in [ ] cannot end in a class" });
                };
                if low > high {
                    return Err(Invalid { at, what: "the ends of a range in [ ] are in the wrong order" });
                }
                add(&mut set, |byte| (low..=high).contains(&byte));
            }
            Element::Byte(byte) => add(&mut set, |other| other == byte),
        }
    }
    input.at += 1;
    write(&set, negated, output);
    Ok(())
}

fn add(set: &mut Set, member: impl Fn(u8) -> bool) {
    for (byte, is) in (0..=u8::MAX).zip(set.iter_mut()) {
        *is |= member(byte);
    }
}

fn element(open: usize, input: &mut Reader<'_>) -> Result<Element> {
    let at = input.at;
    let Some(byte) = input.next() else {
        return Err(Invalid { at: open, what: "this [ is not closed; write \\[ for the character" });
    };
    match (byte, input.peek()) {
        (0, _) => Err(Invalid { at, what: "a path holds no NUL" }),
        (b'[', Some(b':')) => class(at, input),
        (b'[', Some(b'.' | b'=')) => {
            Err(Invalid { at, what: "[. .] and [= =] are not supported; write the characters themselves" })
        }
        (byte, _) if !byte.is_ascii() => Err(Invalid {
            at,
            what: "[ ] takes single bytes, and this character is several; write alternatives: (a|b)",
        }),
        (byte, _) => Ok(Element::Byte(byte)),
    }
}

/// A class by its name, as in the C locale.
fn class(at: usize, input: &mut Reader<'_>) -> Result<Element> {
    input.at += 1;
    let mut name = Vec::new();
    while let Some(byte) = input.next() {
        if byte == b':' && input.take(b']') {
            break;
        }
        name.push(byte);
    }
    let class: fn(&u8) -> bool = match name.as_slice() {
        b"alpha" => u8::is_ascii_alphabetic,
        b"digit" => u8::is_ascii_digit,
        b"alnum" => u8::is_ascii_alphanumeric,
        b"upper" => u8::is_ascii_uppercase,
        b"lower" => u8::is_ascii_lowercase,
        b"space" => |byte| byte.is_ascii_whitespace() || *byte == b'\x0B',
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"punct" => u8::is_ascii_punctuation,
        b"print" => |byte| byte.is_ascii_graphic() || *byte == b' ',
        b"graph" => u8::is_ascii_graphic,
        b"cntrl" => u8::is_ascii_control,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return Err(Invalid { at, what: "no such class: [[:alpha:]], [[:digit:]], ... are known" }),
    };
    Ok(Element::Class(class))
}

/// Writes the ranges of a set; at least one byte is always in it, or not in it (NUL).
fn write(set: &Set, negated: bool, output: &mut String) {
    output.push_str(if negated { "[^" } else { "[" });
    let mut bytes = (0..=u8::MAX).zip(set).filter(|(_, is)| **is).map(|(byte, _)| byte).peekable();
    while let Some(low) = bytes.next() {
        let mut high = low;
        while let Some(next) = bytes.next_if(|next| u16::from(*next) == u16::from(high) + 1) {
            high = next;
        }
        byte_escape(low, output);
        if high > low {
            output.push('-');
            byte_escape(high, output);
        }
    }
    output.push(']');
}
