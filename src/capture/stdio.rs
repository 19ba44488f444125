//! `FILE*` streams: libc writes by itself, unseen, so their files are read again inside the gate (P24). The calls in
//! which it does so are held up there all the same, but for fprintf(3): a variadic function cannot be passed on.

use std::ffi::{CStr, c_char, c_int};

use libc::{AT_FDCWD, FILE};

use super::hook::{self, keep_errno};
use super::names::{self, Opening};
use crate::tracker::{How, tracker};

/// What a mode of fopen(3) opens, as flags of open(2). `None`: only for reading.
fn flags_of(mode: &[u8]) -> Option<c_int> {
    match mode.first()? {
        b'w' => Some(libc::O_CREAT | libc::O_TRUNC),
        b'a' => Some(libc::O_CREAT),
        _ if mode.contains(&b'+') => Some(0),
        _ => None,
    }
}

/// # Safety
/// `mode` is null or a NUL-terminated string.
unsafe fn writes(mode: *const c_char) -> Option<c_int> {
    // SAFETY: by the caller's promise.
    (!mode.is_null() && hook::is_on()).then(|| unsafe { CStr::from_ptr(mode) }.to_bytes()).and_then(flags_of)
}

/// # Safety
/// `stream` is open.
unsafe fn descriptor(stream: *mut FILE) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { libc::fileno(stream) }
}

/// From now on the stream's file may be written unseen.
///
/// # Safety
/// `stream` is null or open.
unsafe fn is_unseen(stream: *mut FILE) {
    if stream.is_null() {
        return;
    }
    // SAFETY: by the caller's promise.
    let fd = unsafe { descriptor(stream) };
    if let Some(file) = hook::regular(fd) {
        let how = if fd == 1 || fd == 2 { How::Log } else { How::Stdio };
        tracker().add_unseen(file.key, how, fd);
    }
}

/// fopen(3), and freopen(3) with a path.
///
/// # Safety
/// As for the real call.
pub unsafe fn fopen(
    call: &'static CStr,
    path: *const c_char,
    mode: *const c_char,
    real: impl FnOnce() -> *mut FILE,
) -> *mut FILE {
    // SAFETY: by the caller's promise.
    let Some(flags) = (unsafe { writes(mode) }) else { return real() };
    let opening = keep_errno(|| {
        // SAFETY: by the caller's promise.
        if flags == 0 { None } else { unsafe { Opening::begin(call, AT_FDCWD, path, flags) } }
    });
    let stream = real();
    keep_errno(|| {
        match opening {
            Some(opening) if stream.is_null() => opening.failed(),
            // SAFETY: `stream` is open.
            Some(opening) => opening.succeeded(hook::stat(unsafe { descriptor(stream) })),
            None => {}
        }
        // SAFETY: null or open.
        unsafe { is_unseen(stream) };
    });
    stream
}

/// fdopen(3), and freopen(3) without a path.
///
/// # Safety
/// As for the real call.
pub unsafe fn fdopen(mode: *const c_char, real: impl FnOnce() -> *mut FILE) -> *mut FILE {
    // SAFETY: by the caller's promise.
    let writes = unsafe { writes(mode) }.is_some();
    let stream = real();
    if writes {
        // SAFETY: null or open.
        keep_errno(|| unsafe { is_unseen(stream) });
    }
    stream
}

/// A call in which libc may write a stream's buffer out: not while the gate is closed. It leaves no mark, since the file
/// is read again in there.
///
/// # Safety
/// `stream` is open; or null, for all that are (fflush(3)).
pub unsafe fn write_out<R>(call: &'static CStr, stream: *mut FILE, real: impl FnOnce() -> R) -> R {
    if !hook::is_on() {
        return real();
    }
    let _pass = keep_errno(|| {
        // A stream to a pipe may wait for whoever reads it: nobody waits for that inside.
        // SAFETY: by the caller's promise.
        let may_write = stream.is_null() || hook::regular(unsafe { descriptor(stream) }).is_some();
        may_write.then(|| tracker().enter(call)).flatten()
    });
    real()
}

/// tmpfile(3): nobody finds its file, but the inode may be one that had another life before (P6).
pub fn tmpfile(call: &'static CStr, real: impl FnOnce() -> *mut FILE) -> *mut FILE {
    if !hook::is_on() {
        return real();
    }
    names::made_without_name(call, real, |stream| {
        // SAFETY: not null, hence open.
        if stream.is_null() { -1 } else { unsafe { descriptor(*stream) } }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_tells_whether_it_writes_and_creates() {
        assert_eq!(flags_of(b"r"), None);
        assert_eq!(flags_of(b"rbe"), None);
        assert_eq!(flags_of(b"rb+"), Some(0));
        assert_eq!(flags_of(b"w"), Some(libc::O_CREAT | libc::O_TRUNC));
        assert_eq!(flags_of(b"a+"), Some(libc::O_CREAT));
    }
}
