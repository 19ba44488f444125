//! Shared mappings: stores through them cannot be seen, so their files are read again inside the gate (P24).

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::hook::{self, keep_errno};
use crate::tracker::{How, Key, tracker};

/// Shared mappings that cannot be written yet but may become writable by mprotect(2).
const READABLE: usize = 256;

#[derive(Debug)]
struct Readable {
    start: AtomicUsize,
    /// 0: a free place.
    end: AtomicUsize,
    dev: AtomicU64,
    ino: AtomicU64,
}

static MAPPINGS: [Readable; READABLE] = [const {
    Readable {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        dev: AtomicU64::new(0),
        ino: AtomicU64::new(0),
    }
}; READABLE];

/// Forgets all mappings: a backup begins.
pub fn forget_all() {
    for mapping in &MAPPINGS {
        mapping.end.store(0, Ordering::SeqCst);
    }
}

/// A shared mapping of a file on a watched device.
pub fn add(key: Key, at: Range<usize>, writable: bool) {
    if writable {
        tracker().add_unseen(key, How::Mapped, -1);
        return;
    }
    for mapping in &MAPPINGS {
        let known = mapping.start.load(Ordering::SeqCst)..mapping.end.load(Ordering::SeqCst);
        if known == at
            && mapping.dev.load(Ordering::SeqCst) == key.dev
            && mapping.ino.load(Ordering::SeqCst) == key.ino
        {
            return;
        }
        if known.start < at.end && at.start < known.end {
            // A mapping at the same address is gone: munmap is not looked at.
            mapping.end.store(0, Ordering::SeqCst);
        }
    }
    for mapping in &MAPPINGS {
        // An end below any address reserves the place.
        if mapping.end.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            mapping.start.store(at.start, Ordering::SeqCst);
            mapping.dev.store(key.dev, Ordering::SeqCst);
            mapping.ino.store(key.ino, Ordering::SeqCst);
            mapping.end.store(at.end, Ordering::SeqCst);
            return;
        }
    }
    // No place is left to remember that it cannot be written.
    tracker().add_unseen(key, How::Mapped, -1);
}

/// The mappings in this range become writable, or are moved to where they would not be recognized.
fn may_be_written(at: Range<usize>) {
    for mapping in &MAPPINGS {
        let end = mapping.end.load(Ordering::SeqCst);
        if mapping.start.load(Ordering::SeqCst) < at.end && at.start < end {
            let key =
                Key { dev: mapping.dev.load(Ordering::SeqCst), ino: mapping.ino.load(Ordering::SeqCst) };
            tracker().add_unseen(key, How::Mapped, -1);
        }
    }
}

/// mmap(2).
pub fn mmap(
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    real: impl FnOnce() -> *mut c_void,
) -> *mut c_void {
    let shared = flags & libc::MAP_SHARED != 0 && flags & libc::MAP_ANONYMOUS == 0;
    let mapped = real();
    if !shared || mapped == libc::MAP_FAILED || !hook::is_on() {
        return mapped;
    }
    keep_errno(|| {
        // SAFETY: F_GETFL takes no argument.
        let open = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        if open & libc::O_ACCMODE != libc::O_RDWR {
            return;
        }
        if let Some(file) = hook::regular(fd) {
            let start = mapped as usize;
            add(file.key, start..start.saturating_add(length), protection & libc::PROT_WRITE != 0);
        }
    });
    mapped
}

/// mprotect(2).
pub fn mprotect(start: usize, length: usize, protection: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if protection & libc::PROT_WRITE != 0 && hook::is_on() {
        may_be_written(start..start.saturating_add(length));
    }
    real()
}

/// mremap(2).
pub fn mremap(start: usize, length: usize, real: impl FnOnce() -> *mut c_void) -> *mut c_void {
    if hook::is_on() {
        may_be_written(start..start.saturating_add(length.max(1)));
    }
    real()
}
