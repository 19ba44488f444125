//! What all hooks share: errno, finding a file, entering the gate.
//!
//! A hook runs in a thread of the server: it allocates nothing, takes no lock but the tracker's, makes no system
//! call of its own but those that look (fstat, lseek, fcntl), and leaves errno as the real call left it (P10).

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;

use crate::tracker::{Key, Pass, tracker};

/// The calling thread's errno.
pub fn errno() -> c_int {
    // SAFETY: __errno_location gives the address of the calling thread's errno.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
pub fn set_errno(value: c_int) {
    // SAFETY: as in `errno`.
    unsafe { *libc::__errno_location() = value }
}

/// Runs `work` and leaves errno as it was.
pub fn keep_errno<R>(work: impl FnOnce() -> R) -> R {
    let kept = errno();
    let result = work();
    set_errno(kept);
    result
}

/// Whether anything is to be seen at all. The first thing that a hook asks.
#[inline]
pub fn is_on() -> bool {
    tracker().gate().is_on()
}

/// What stat(2) tells, as far as hooks care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device and inode.
    pub key: Key,
    /// `st_mode`.
    pub mode: libc::mode_t,
    /// Bytes.
    pub size: u64,
    /// Names that it has.
    pub links: u64,
}

impl Stat {
    fn of(stat: &libc::stat) -> Stat {
        Stat {
            key: Key { dev: stat.st_dev, ino: stat.st_ino },
            mode: stat.st_mode,
            size: stat.st_size.max(0) as u64,
            // 32 bits wide on aarch64.
            #[allow(clippy::useless_conversion)]
            links: stat.st_nlink.into(),
        }
    }

    /// Whether it is of this type (`S_IFREG` and the like).
    pub fn is(&self, kind: libc::mode_t) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    /// Whether it lies on a device of a source.
    pub fn is_watched(&self) -> bool {
        tracker().watches(self.key.dev)
    }
}

/// fstat(2).
pub fn stat(fd: c_int) -> Option<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes the whole struct when it returns 0.
    (unsafe { libc::fstat(fd, stat.as_mut_ptr()) } == 0).then(|| Stat::of(unsafe { stat.assume_init_ref() }))
}

/// fstatat(2).
pub fn stat_at(directory: c_int, path: &CStr, flags: c_int) -> Option<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `path` is NUL-terminated; fstatat writes the whole struct when it returns 0.
    (unsafe { libc::fstatat(directory, path.as_ptr(), stat.as_mut_ptr(), flags) } == 0)
        .then(|| Stat::of(unsafe { stat.assume_init_ref() }))
}

/// The regular file behind `fd`, when it lies on a device of a source (P5).
pub fn regular(fd: c_int) -> Option<Stat> {
    stat(fd).filter(|stat| stat.is(libc::S_IFREG) && stat.is_watched())
}

/// Enters the gate for a call that changes the regular file behind `fd`. `None`: the call is none of ours.
pub fn enter(call: &'static CStr, fd: c_int) -> Option<(Stat, Pass<'static>)> {
    if !is_on() {
        return None;
    }
    keep_errno(|| {
        let file = regular(fd)?;
        Some((file, tracker().enter(call)?))
    })
}

/// Whether a call that returned `result` may have changed anything: it succeeded, or failed in the middle.
pub fn may_have_changed(result: i64) -> bool {
    use libc::{EDQUOT, EINTR, EIO, ENOMEM, ENOSPC, ESTALE, ETIMEDOUT};
    result >= 0 || matches!(errno(), EIO | EINTR | ESTALE | ETIMEDOUT | ENOSPC | EDQUOT | ENOMEM)
}

/// Copies a `T` from an address that may not be mapped. `None`: it is not, or the system lets nobody ask.
///
/// # Safety
/// A `T` may have any bytes.
pub unsafe fn peek<T: Copy>(address: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let local = libc::iovec { iov_base: value.as_mut_ptr().cast(), iov_len: size_of::<T>() };
    let remote = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut::<c_void>(address),
        iov_len: size_of::<T>(),
    };
    // SAFETY: one vector each; the kernel checks the remote one.
    let copied =
        unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    // SAFETY: all of it has been written, and any bytes are a `T`.
    (copied == size_of::<T>() as isize).then(|| unsafe { value.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_mapped_is_not_read() {
        let value = 42u64;
        // SAFETY: numbers.
        unsafe {
            assert_eq!(peek::<u64>(0x10), None);
            assert_eq!(peek::<u64>((&raw const value).expose_provenance()), Some(42));
        }
    }
}
