//! What reads bytes that others wrote, on bytes that nobody would write: properties that hold whatever the input is.
//! (`docs/fuzzing.md`)
//!
//! A property makes its input from a string of bytes, random ones here. Each stands beside the code that it is about.

use arbitrary::{Result, Unstructured};

use crate::{capture, engine, plugin, server};

/// Panics where it does not hold. An error: the bytes did not suffice to make an input.
pub type Property = fn(&mut Unstructured<'_>) -> Result<()>;

macro_rules! properties {
    ($($name:ident: $property:path;)*) => {
        mod tests {
            use super::*;

            $(#[test]
            fn $name() {
                random::hold(stringify!($name), $property);
            })*
        }
    };
}

properties! {
    manifest_is_read_as_written: engine::manifest::fuzz::is_read_as_written;
    manifest_of_anybody: engine::manifest::fuzz::of_anybody;
    exclude_expressions: engine::exclude::fuzz::expressions;
    mounts: engine::destination::place::fuzz::mounts;
    binlog_of_transactions: server::binlog::fuzz::of_transactions;
    binlog_damaged: server::binlog::fuzz::damaged;
    gtid_sets: server::binlog::fuzz::gtid_sets;
    log_index: plugin::indexes::fuzz::index;
    isl: plugin::relocate::tablespaces::fuzz::isl;
    redo_records: plugin::redo::fuzz::records;
    redo_turned: plugin::redo::fuzz::turned;
    redo_damaged: plugin::redo::fuzz::damaged;
    elf_tables: capture::elf::fuzz::tables;
    elf_damaged: capture::elf::fuzz::damaged;
    proc_lines: capture::process::fuzz::lines;
}

/// Changes a few bytes, or cuts, repeats or swaps pieces.
pub fn damage(bytes: &mut Vec<u8>, u: &mut Unstructured<'_>) -> Result<()> {
    const NUMBERS: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'\n', b'.'];
    for _ in 0..u.int_in_range(1..=8)? {
        let at = u.choose_index(bytes.len().max(1))?;
        let length = u.int_in_range(1..=16)?.min(bytes.len().saturating_sub(at));
        match u.int_in_range(0..=7)? {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + length)),
            2 => {
                let piece = bytes[at..at + length].to_vec();
                let to = u.choose_index(bytes.len() + 1)?;
                bytes.splice(to..to, piece);
            }
            3 => bytes[at..at + length].fill(*u.choose(&NUMBERS)?),
            4 => bytes[at..at + length].reverse(),
            _ if bytes.is_empty() => bytes.push(u.arbitrary()?),
            5 => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
            6 => bytes[at] = *u.choose(&NUMBERS)?,
            _ => bytes[at] = u.arbitrary()?,
        }
    }
    Ok(())
}

/// A name: often an ordinary one, and else anything without a NUL.
pub fn name(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const NAMES: [&[u8]; 10] =
        [b"t.ibd", b"mysql", b".", b"..", b"", b"a b", b"#sql-1_2", b"t\xff\xfe", b"\xc3\xa9", b"bl.000001"];
    if u.ratio(2, 3)? {
        return Ok(u.choose(&NAMES)?.to_vec());
    }
    let length = u.int_in_range(0..=40)?;
    Ok(u.bytes(length.min(u.len()))?.iter().copied().filter(|&byte| byte != 0).collect())
}

/// A path of such names.
pub fn path(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut path = if u.arbitrary()? { b"/".to_vec() } else { Vec::new() };
    for _ in 0..u.int_in_range(0..=5)? {
        path.extend(name(u)?);
        path.push(b'/');
    }
    path.extend(name(u)?);
    Ok(path)
}

/// A file in memory.
pub fn file(bytes: &[u8]) -> std::fs::File {
    let memory =
        rustix::fs::memfd_create(c"fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = std::fs::File::from(memory);
    std::io::Write::write_all(&mut file, bytes).expect("room in memory");
    file
}

mod random {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::{Duration, Instant};

    use super::*;

    /// How long one property is tried in the suite; `FUZZ_SECONDS` says otherwise.
    const SECONDS: f64 = 0.5;
    /// Whoever needs longer than this for one input does not end.
    const PATIENCE: Duration = Duration::from_secs(120);
    /// Inputs of a run however slow they are, so that no run proves nothing.
    const LEAST: u64 = 10;
    /// The most bytes that an input is made of.
    const LONGEST: usize = 4096;

    fn given<T: std::str::FromStr>(name: &str) -> Option<T> {
        let value = std::env::var(name).ok()?;
        Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, no number")))
    }

    /// Tries the property on random inputs, each with a seed of its own. `FUZZ_SEED` repeats the first one alone,
    /// unless `FUZZ_SECONDS` is given as well.
    pub fn hold(name: &'static str, property: Property) {
        let (seed, seconds) = (given("FUZZ_SEED"), given("FUZZ_SECONDS"));
        let once = seed.is_some() && seconds.is_none();
        let budget = Duration::from_secs_f64(seconds.unwrap_or(SECONDS));
        let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..1 << 48));
        let (tell, told) = channel();
        let work = std::thread::spawn(move || {
            let begin = Instant::now();
            let mut made = 0;
            for count in 0.. {
                if count > 0 && (once || begin.elapsed() > budget && count >= LEAST) {
                    println!("{name}: {made} of {count} inputs, from FUZZ_SEED={seed} on");
                    // Who always runs out of bytes tests nothing.
                    assert!(once || made > count / 4, "{name}: only {made} of {count} inputs could be made");
                    return;
                }
                let seed = seed.wrapping_add(count);
                let _ = tell.send(seed);
                made += u64::from(one(name, property, seed));
            }
        });
        let mut last = seed;
        loop {
            match told.recv_timeout(PATIENCE) {
                Ok(seed) => last = seed,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{name} does not end: FUZZ_SEED={last}"),
            }
        }
        work.join().unwrap_or_else(|panic| resume_unwind(panic));
    }

    /// Whether an input could be made of the seed's bytes.
    fn one(name: &str, property: Property, seed: u64) -> bool {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; random.usize(LONGEST / 16..LONGEST)];
        random.fill(&mut bytes);
        match catch_unwind(AssertUnwindSafe(|| property(&mut Unstructured::new(&bytes)))) {
            Ok(made) => made.is_ok(),
            Err(panic) => {
                println!("{name} does not hold: FUZZ_SEED={seed}");
                resume_unwind(panic)
            }
        }
    }
}
