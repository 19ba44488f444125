//! Lines of /proc.

use arbitrary::{Result, Unstructured};

use super::*;
use crate::fuzz;

/// What the kernel writes is read as it was meant; what it never wrote is no harm.
pub fn lines(u: &mut Unstructured<'_>) -> Result<()> {
    let (start, end): (usize, usize) = (u.arbitrary()?, u.arbitrary()?);
    let (shared, writable): (bool, bool) = (u.arbitrary()?, u.arbitrary()?);
    let (major, minor, inode): (u8, u8, u64) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
    let name = String::from_utf8_lossy(&fuzz::path(u)?).into_owned();
    let right = |is: bool, letter: char| if is { letter } else { '-' };
    let (write, share) = (right(writable, 'w'), if shared { 's' } else { 'p' });
    let mut line =
        format!("{start:x}-{end:x} r{write}-{share} 0001f000 {major:02x}:{minor:02x} {inode}        {name}");
    let mapping = Mapping::parse(&line).unwrap_or_else(|| panic!("{line:?}"));
    assert_eq!(mapping.at, start..end, "{line:?}");
    assert_eq!((mapping.is_shared, mapping.is_writable), (shared, writable), "{line:?}");
    assert_eq!(
        (mapping.device, mapping.inode),
        (libc::makedev(major.into(), minor.into()), inode),
        "{line:?}"
    );
    assert_eq!(mapping.name, name.split_ascii_whitespace().collect::<Vec<_>>().join(" "), "{line:?}");

    let (number, arguments): (u16, [u64; 8]) = (u.arbitrary()?, u.arbitrary()?);
    let shown: Vec<String> = arguments.iter().map(|argument| format!("{argument:#x}")).collect();
    let mut call = format!("{number} {}\n", shown.join(" "));
    let [a, b, c, d, e, f, _, instruction] = arguments;
    assert_eq!(Doing::parse(&call), Doing::Call(number.into(), [a, b, c, d, e, f]), "{call:?}");
    let waiting = format!("-1 {}\n", shown[6..].join(" "));
    assert_eq!(Doing::parse(&waiting), Doing::Waiting(instruction as usize), "{waiting:?}");

    let (taken, done, thread): (u32, u32, Option<u16>) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
    let thread = thread.filter(|&thread| thread > 0);
    let mut ring = format!(
        "pos:\t0\nino:\t{inode}\nSqMask:\t0x7\nCachedSqHead:\t{taken}\nCachedCqTail:\t{done}\nSqThread:\t{}\n",
        thread.map_or(-1, i32::from)
    );
    let state = UringState::parse(7, &ring);
    let in_flight = u32::try_from(taken.wrapping_sub(done) as i32).unwrap_or(0);
    assert_eq!((state.taken, state.in_flight), (Some(taken), in_flight), "{ring:?}");
    assert_eq!(state.has_thread, thread.is_some(), "{ring:?}");

    for text in [&mut line, &mut call, &mut ring] {
        let mut bytes = std::mem::take(text).into_bytes();
        fuzz::damage(&mut bytes, u)?;
        let text = String::from_utf8_lossy(&bytes);
        let _ = (Mapping::parse(&text), Doing::parse(&text), UringState::parse(7, &text));
    }
    Ok(())
}
