//! `FILE*` streams: libc opens and writes by itself. Few files, as only few may be written so (P24). A file that keeps no
//! name gives its inode number to others, which are then read in the gate, too: only when all stand still.

use std::ffi::{CStr, CString, c_int};

use libc::FILE;

use super::{Operation, op, unseen};
use crate::rng::Rng;
use crate::sys::{self, Outcome};
use crate::worker::Worker;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("fopen", 3, |w, r| {
        let (path, mode) = (path(w, r), mode(r));
        fill(w, r, sys::fopen(&path, mode))
    }),
    op("fopen64", 3, |w, r| {
        let (path, mode) = (path(w, r), mode(r));
        fill(w, r, sys::fopen64(&path, mode))
    }),
    op("fdopen", 2, |w, r| {
        let flags =
            libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC | if r.one_in(2) { libc::O_APPEND } else { 0 };
        let fd = sys::check(sys::open(&path(w, r), flags, 0o644))?;
        fill(w, r, sys::fdopen(fd, c"r+"))
    }),
    op("freopen", 1, |w, r| again(w, r, sys::freopen)),
    op("freopen64", 1, |w, r| again(w, r, sys::freopen64)),
    unseen("tmpfile", 1, |w, r| fill(w, r, sys::tmpfile())),
    unseen("tmpfile64", 1, |w, r| fill(w, r, sys::tmpfile64())),
    unseen("fwrite (unlinked)", 1, |w, r| {
        let path = path(w, r);
        let stream = sys::fopen(&path, c"a");
        let unlinked = sys::unlink(&path);
        fill(w, r, stream).and(super::zero(unlinked))
    }),
];

/// `io0` or `io1` of a source.
fn path(w: &mut Worker<'_>, rng: &mut Rng) -> CString {
    let source = rng.below(w.shared.world.sources.len() as u64);
    CString::new(format!("source{source}/io{}", rng.below(2))).expect("no NUL in it")
}

fn mode(rng: &mut Rng) -> &'static CStr {
    rng.pick::<&CStr>(&[c"w", c"a", c"w+", c"a+", c"ae", c"we"])
}

/// Writes to a stream and closes it.
fn fill(w: &mut Worker<'_>, rng: &mut Rng, stream: *mut FILE) -> Outcome {
    if stream.is_null() {
        return Err(sys::errno());
    }
    let mut outcome = Ok(());
    for _ in 0..1 + rng.below(3) {
        let length = 1 + rng.below(6000) as usize;
        if sys::fwrite(w.fill(length), 1, length, stream) != length {
            outcome = Err(sys::errno());
        }
        match rng.below(8) {
            0..3 => drop(sys::fflush(stream)),
            3 => drop((0..rng.below(5000)).map(|_| sys::fputc(i32::from(b'c'), stream)).max()),
            4 => drop(sys::fputs(c"a line of text\n", stream)),
            5 => sys::rewind(stream),
            6 => drop(sys::fseek(stream, rng.below(6000) as i64, libc::SEEK_SET)),
            _ => drop(sys::fseeko(stream, 0, libc::SEEK_END)),
        }
    }
    // What is appended to for ever would soon be too large to be read inside the gate.
    let fd = descriptor(stream);
    if rng.one_in(10) && fd >= 0 {
        sys::fflush(stream);
        sys::ftruncate(fd, 100);
    }
    if sys::fclose(stream) == 0 { outcome } else { Err(sys::errno()) }
}

/// The descriptor of a stream.
fn descriptor(stream: *mut FILE) -> c_int {
    // SAFETY: an open stream.
    unsafe { libc::fileno(stream) }
}

fn again(w: &mut Worker<'_>, rng: &mut Rng, call: fn(&CStr, &CStr, *mut FILE) -> *mut FILE) -> Outcome {
    let first = sys::fopen(&path(w, rng), c"r+");
    if first.is_null() {
        return Err(sys::errno());
    }
    let (path, mode) = (path(w, rng), mode(rng));
    fill(w, rng, call(&path, mode, first))
}
