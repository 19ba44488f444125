//! A number that goes up, written to two files in turn: an image of one instant has it in both, or in the first only.
//! It must also lie between what was written when the backup began to end and what was begun when it had ended.

use std::ffi::{CString, c_int};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use libc::iovec;

use super::{Operation, op};
use crate::rng::Rng;
use crate::sys::{self, Outcome, check};
use crate::worker::Worker;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[op("ledger", 10, step)];

/// Where the two files of a thread are, in the first and in the last of these directories.
pub fn paths(directories: &[PathBuf], thread: usize) -> [PathBuf; 2] {
    let [first, .., last] = directories else {
        return ["first", "second"].map(|name| directories[0].join(format!("ledger-{name}-{thread}")));
    };
    [first.join(format!("ledger-first-{thread}")), last.join(format!("ledger-second-{thread}"))]
}

/// Makes the files, so that steps need no more room on the file system.
pub fn prepare(directories: &[PathBuf], threads: usize) -> std::io::Result<()> {
    (0..threads)
        .flat_map(|thread| paths(directories, thread))
        .try_for_each(|path| std::fs::write(path, 0u64.to_le_bytes()))
}

/// The numbers in the two files of a thread; 0 for a file that is not there.
pub fn read(directories: &[PathBuf], thread: usize) -> [u64; 2] {
    paths(directories, thread).map(|path| number(&path))
}

fn number(path: &Path) -> u64 {
    let mut bytes = [0; 8];
    let _ = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, 0));
    u64::from_le_bytes(bytes)
}

fn step(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let files = match w.ledger {
        Some(files) => files,
        None => {
            let [first, second] = paths(&w.shared.world.sources, w.id).map(|path| {
                let path = crate::library::c_string(&path);
                sys::open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC, 0o644)
            });
            *w.ledger.insert([check(first)?, check(second)?])
        }
    };
    let ledger = &w.shared.ledgers[w.id];
    let next = ledger.done.load(Ordering::SeqCst) + 1;
    ledger.begun.store(next, Ordering::SeqCst);
    for fd in files {
        put(w, rng, fd, next)?;
    }
    ledger.done.store(next, Ordering::SeqCst);
    Ok(())
}

fn put(w: &mut Worker<'_>, rng: &mut Rng, fd: c_int, number: u64) -> Outcome {
    let bytes = number.to_le_bytes();
    let data = bytes.as_ptr().cast();
    let part = [(); 2].map(|()| iovec { iov_base: data as *mut _, iov_len: 8 });
    let done = match rng.below(6) {
        0 => sys::pwrite(fd, data, 8, 0),
        1 => sys::pwrite64(fd, data, 8, 0),
        2 => sys::pwritev(fd, &part, 1, 0),
        3 => {
            sys::lseek(fd, 0, libc::SEEK_SET);
            sys::write(fd, data, 8)
        }
        4 => sys::syscall(libc::SYS_pwrite64, [fd as usize, data.addr(), 8, 0, 0, 0]) as isize,
        _ => {
            let name = CString::new(format!("outside/ledger{}", w.id)).expect("no NUL in it");
            let from = sys::open(&name, libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC, 0o600);
            let filled = sys::pwrite(from, data, 8, 0);
            let done = if filled == 8 {
                sys::copy_file_range(from, Some(&mut 0), fd, Some(&mut 0), 8, 0)
            } else {
                -1
            };
            sys::close(from);
            done
        }
    };
    // No room for the copy's source, or for a block that is not written in place: the number goes where it belongs.
    let done = if done < 0 { sys::pwrite(fd, data, 8, 0) } else { done };
    if done == 8 {
        Ok(())
    } else {
        // Half of a step would look like a torn image.
        w.shared.fail(format!("a ledger could not be written: {done}, errno {}", sys::errno()));
        Err(sys::errno())
    }
}
