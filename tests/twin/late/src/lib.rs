//! Loaded while a backup runs; what it writes by its own imports must be in the image.

use std::ffi::{c_char, c_int, c_void};

/// `pwrite` by this object's own import.
///
/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn late_pwrite(fd: c_int, data: *const c_void, length: usize, offset: i64) -> isize {
    // SAFETY: what the caller promised.
    unsafe { libc::pwrite(fd, data, length, offset) }
}

/// `rename` by this object's own import.
///
/// # Safety
/// Both are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn late_rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: what the caller promised.
    unsafe { libc::rename(from, to) }
}
