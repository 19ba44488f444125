//! ioctl(2): sharing blocks, and requests that are not known.

use std::ffi::{CStr, c_int, c_ulong, c_void};
use std::ops::Range;

use super::changes::SHRINKS;
use super::hook::{self, keep_errno};
use crate::tracker::tracker;

const TO_THE_END: u64 = u64::MAX;

// linux/fs.h, asm-generic/ioctls.h and linux/fiemap.h.
const FICLONE: c_ulong = 0x4004_9409;
const FICLONERANGE: c_ulong = 0x4020_940d;
const FIDEDUPERANGE: c_ulong = 0xc018_9436;
const FIBMAP: c_ulong = 1;
const FIGETBSZ: c_ulong = 2;
const FS_IOC_FIEMAP: c_ulong = 0xc020_660b;
const FS_IOC_GETFLAGS: c_ulong = 0x8008_6601;
const FS_IOC_FSGETXATTR: c_ulong = 0x801c_581f;
/// Those of terminals and sockets have the types 'T' and 0x89 and do nothing to a file.
const TERMINAL: c_ulong = b'T' as c_ulong;
const SOCKET: c_ulong = 0x89;

/// linux/fs.h: struct file_clone_range.
#[repr(C)]
struct CloneRange {
    from: i64,
    from_offset: u64,
    length: u64,
    to_offset: u64,
}

/// Whether a request leaves the content of a file as it is.
fn is_harmless(request: c_ulong) -> bool {
    matches!(request, FIDEDUPERANGE | FIBMAP | FIGETBSZ | FS_IOC_FIEMAP | FS_IOC_GETFLAGS | FS_IOC_FSGETXATTR)
        || matches!(request >> 8 & 0xff, TERMINAL | SOCKET)
}

/// What a request changes.
///
/// # Safety
/// `argument` is what the request asks for.
unsafe fn changed(request: c_ulong, argument: *const c_void) -> Range<u64> {
    if request != FICLONERANGE {
        return 0..TO_THE_END;
    }
    // SAFETY: by the caller's promise.
    let range = unsafe { &*argument.cast::<CloneRange>() };
    let length = if range.length == 0 { TO_THE_END } else { range.length };
    range.to_offset..range.to_offset.saturating_add(length)
}

/// ioctl(2).
///
/// # Safety
/// As for the real call.
pub unsafe fn ioctl(
    call: &'static CStr,
    fd: c_int,
    request: c_ulong,
    argument: *const c_void,
    real: impl FnOnce() -> c_int,
) -> c_int {
    // The kernel takes 32 bits of it.
    let request = request & 0xffff_ffff;
    if !hook::is_on() || is_harmless(request) {
        return real();
    }
    let entered = keep_errno(|| {
        let stat = hook::stat(fd)
            .filter(|stat| stat.is_watched() && (stat.is(libc::S_IFREG) || stat.is(libc::S_IFDIR)))?;
        Some((stat, tracker().enter(call)?))
    });
    let Some((stat, pass)) = entered else { return real() };
    let shrink = (request != FICLONE && request != FICLONERANGE).then(|| SHRINKS.begin());
    let result = real();
    if hook::may_have_changed(result.into()) {
        if stat.is(libc::S_IFDIR) {
            // A file system's own way of making names.
            tracker().mark_all_names(&pass);
        } else {
            // SAFETY: the request was known to the kernel and read its argument.
            tracker().mark_range(&pass, stat.key, unsafe { changed(request, argument) });
        }
    }
    drop(shrink);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_of_a_range_changes_the_range() {
        let mut range = CloneRange { from: 0, from_offset: 5, length: 100, to_offset: 1000 };
        // SAFETY: what FICLONERANGE takes.
        assert_eq!(unsafe { changed(FICLONERANGE, (&raw const range).cast()) }, 1000..1100);
        range.length = 0;
        // SAFETY: as above.
        assert_eq!(unsafe { changed(FICLONERANGE, (&raw const range).cast()) }, 1000..TO_THE_END);
        // SAFETY: others are not looked into.
        assert_eq!(unsafe { changed(FICLONE, std::ptr::null()) }, 0..TO_THE_END);
    }

    #[test]
    fn what_looks_only_is_harmless() {
        assert!(is_harmless(libc::TCGETS));
        assert!(is_harmless(libc::FIONREAD));
        assert!(!is_harmless(FICLONE));
        assert!(!is_harmless(0x4030_5829), "XFS_IOC_RESVSP");
    }
}
