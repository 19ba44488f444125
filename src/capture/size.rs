//! Sizes and holes (P8).

use std::ffi::{CStr, c_char, c_int};
use std::ops::Range;

use super::attributes;
use super::changes::SHRINKS;
use super::hook::{self, keep_errno};
use crate::tracker::tracker;

const TO_THE_END: u64 = u64::MAX;

fn from(length: i64) -> Range<u64> {
    length.max(0) as u64..TO_THE_END
}

/// ftruncate(2).
pub fn ftruncate(call: &'static CStr, fd: c_int, length: i64, real: impl FnOnce() -> c_int) -> c_int {
    let Some((file, pass)) = hook::enter(call, fd) else { return real() };
    let shrink = SHRINKS.begin();
    let result = real();
    keep_errno(|| {
        if hook::may_have_changed(result.into()) {
            tracker().mark_range(&pass, file.key, from(length));
        }
    });
    drop(shrink);
    result
}

/// truncate(2).
///
/// # Safety
/// As for the real call.
pub unsafe fn truncate(
    call: &'static CStr,
    path: *const c_char,
    length: i64,
    real: impl FnOnce() -> c_int,
) -> c_int {
    let real = || {
        let shrink = SHRINKS.begin();
        let result = real();
        drop(shrink);
        result
    };
    // SAFETY: by the caller's promise.
    unsafe {
        attributes::by_path(call, libc::AT_FDCWD, path, true, real, |pass, key| {
            tracker().mark_range(pass, key, from(length));
        })
    }
}

/// What fallocate(2) changes.
pub fn allocated(mode: c_int, offset: i64, length: i64) -> Range<u64> {
    const IN_PLACE: c_int = libc::FALLOC_FL_KEEP_SIZE
        | libc::FALLOC_FL_PUNCH_HOLE
        | libc::FALLOC_FL_ZERO_RANGE
        | libc::FALLOC_FL_UNSHARE_RANGE;
    const MOVES_THE_REST: c_int = libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE;
    let offset = offset.max(0) as u64;
    if mode & !IN_PLACE == 0 {
        offset..offset.saturating_add(length.max(0) as u64)
    } else if mode & !(IN_PLACE | MOVES_THE_REST) == 0 {
        offset..TO_THE_END
    } else {
        0..TO_THE_END
    }
}

/// fallocate(2), and posix_fallocate(3), which returns the error instead of -1. What a failed one did in part is
/// marked too.
pub fn fallocate(
    call: &'static CStr,
    fd: c_int,
    mode: c_int,
    offset: i64,
    length: i64,
    real: impl FnOnce() -> c_int,
) -> c_int {
    let Some((file, pass)) = hook::enter(call, fd) else { return real() };
    let shrink = (mode & libc::FALLOC_FL_COLLAPSE_RANGE != 0).then(|| SHRINKS.begin());
    let result = real();
    keep_errno(|| {
        let range = allocated(mode, offset, length);
        if !range.is_empty() {
            tracker().mark_range(&pass, file.key, range);
        }
    });
    drop(shrink);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_that_moves_bytes_changes_all_that_follows() {
        assert_eq!(allocated(0, 100, 50), 100..150);
        assert_eq!(allocated(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 100, 50), 100..150);
        assert_eq!(allocated(libc::FALLOC_FL_COLLAPSE_RANGE, 100, 50), 100..TO_THE_END);
        assert_eq!(allocated(libc::FALLOC_FL_INSERT_RANGE, 100, 50), 100..TO_THE_END);
        assert_eq!(allocated(0x4000, 100, 50), 0..TO_THE_END, "a mode that is not known");
    }
}
