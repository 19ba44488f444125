//! Writes: what landed is marked, by offset or between the file positions before and after (P7).

use std::ffi::{CStr, c_int};
use std::ops::Range;

use libc::iovec;

use super::changes::{SHRINKS, Stamp};
use super::hook::{self, Stat, keep_errno, peek};
use crate::tracker::tracker;

const TO_THE_END: u64 = u64::MAX;
/// UIO_MAXIOV of linux/uio.h.
const MAX_VECTOR: c_int = 1024;
/// linux/fs.h; RWF_NOAPPEND since Linux 6.9.
const RWF_NOAPPEND: c_int = 0x20;

/// Whether a write through `fd` goes to the end of the file, whatever offset it names: so does pwrite(2) on Linux
/// when the file is open with O_APPEND.
pub fn appends(fd: c_int, flags: c_int) -> bool {
    if flags & libc::RWF_APPEND != 0 {
        return true;
    }
    // SAFETY: F_GETFL takes no argument.
    let open = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags & RWF_NOAPPEND == 0 && open >= 0 && open & libc::O_APPEND != 0
}

fn position(fd: c_int) -> Option<u64> {
    // SAFETY: lseek takes plain values.
    u64::try_from(unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }).ok()
}

/// What an append changed: all from the size seen before on, unless the file became shorter meanwhile.
fn appended(file: &Stat, shrinks: Stamp) -> Range<u64> {
    if SHRINKS.quiet_since(shrinks, 0) { file.size..TO_THE_END } else { 0..TO_THE_END }
}

/// How much a call was asked to write. It counts when the call failed: a direct write that ends with EINVAL, ENOSPC or
/// EFAULT may have landed in part where the file lies in several extents (ext4).
#[derive(Clone, Copy, Debug)]
pub enum Asked {
    /// This many bytes.
    Bytes(usize),
    /// What this many buffers hold.
    Vector(*const iovec, c_int),
}

impl Asked {
    fn bytes(self) -> u64 {
        match self {
            Asked::Bytes(bytes) => bytes as u64,
            // Longer ones are refused before anything is written.
            Asked::Vector(_, count) if !(0..=MAX_VECTOR).contains(&count) => 0,
            // The kernel may have refused the vector because it is not readable.
            Asked::Vector(vector, count) => (0..count as usize).fold(0, |sum: u64, index| {
                // SAFETY: an address and a number.
                let part = unsafe { peek::<iovec>(vector.wrapping_add(index).expose_provenance()) };
                sum.saturating_add(part.map_or(u64::MAX, |part| part.iov_len as u64))
            }),
        }
    }
}

/// Whether a failed write was refused before anything else was looked at.
fn was_no_write() -> bool {
    matches!(hook::errno(), libc::EBADF | libc::ESPIPE)
}

/// A write at an offset: pwrite(2) and its family. `flags`: those of pwritev2(2).
pub fn at(
    call: &'static CStr,
    fd: c_int,
    offset: i64,
    asked: Asked,
    flags: c_int,
    real: impl FnOnce() -> isize,
) -> isize {
    let shrinks = SHRINKS.stamp();
    let Some((file, pass)) = hook::enter(call, fd) else { return real() };
    let result = real();
    keep_errno(|| {
        let Ok(from) = u64::try_from(offset) else { return };
        let range = match u64::try_from(result) {
            Ok(0) => return,
            Err(_) if was_no_write() => return,
            _ if appends(fd, flags) => appended(&file, shrinks),
            Ok(landed) => from..from.saturating_add(landed),
            Err(_) => from..from.saturating_add(asked.bytes()),
        };
        tracker().mark_range(&pass, file.key, range);
    });
    result
}

/// A write at the file position: write(2), writev(2), sendfile(2) and the like.
pub fn at_position(
    call: &'static CStr,
    fd: c_int,
    asked: Asked,
    flags: c_int,
    real: impl FnOnce() -> isize,
) -> isize {
    let shrinks = SHRINKS.stamp();
    let Some((file, pass)) = hook::enter(call, fd) else { return real() };
    let before = keep_errno(|| position(fd));
    let result = real();
    keep_errno(|| {
        if result == 0 || result < 0 && was_no_write() {
            return;
        }
        let range = if appends(fd, flags) {
            appended(&file, shrinks)
        } else {
            match u64::try_from(result) {
                Ok(landed) => between(before, position(fd), landed),
                Err(_) => around(before, position(fd), asked.bytes()),
            }
        };
        tracker().mark_range(&pass, file.key, range);
    });
    result
}

/// Where a write of `landed` bytes went, by the positions before and after it. Others may have moved the position
/// meanwhile: forward by writing too; a position that is less far than our own bytes was set by somebody, and then
/// nothing is certain.
fn between(before: Option<u64>, after: Option<u64>, landed: u64) -> Range<u64> {
    match (before, after) {
        (Some(before), Some(after)) if after >= before.saturating_add(landed) => before..after,
        _ => 0..TO_THE_END,
    }
}

/// Where a write that failed may have landed: it does not move the position, but others do.
fn around(before: Option<u64>, after: Option<u64>, asked: u64) -> Range<u64> {
    match (before, after) {
        (Some(before), Some(after)) if after >= before => before..after.saturating_add(asked),
        _ => 0..TO_THE_END,
    }
}

/// copy_file_range(2), and pwritev2(2) with its offset of -1: by offset where there is one.
pub fn at_or_position(
    call: &'static CStr,
    fd: c_int,
    offset: Option<i64>,
    asked: Asked,
    flags: c_int,
    real: impl FnOnce() -> isize,
) -> isize {
    match offset {
        Some(offset) => at(call, fd, offset, asked, flags, real),
        None => at_position(call, fd, asked, flags, real),
    }
}

/// splice(2) into `fd`: it may wait for the pipe `from`, but not inside the gate. `real` gets the flags to use.
pub fn splice(
    call: &'static CStr,
    from: c_int,
    fd: c_int,
    offset: *const i64,
    count: usize,
    flags: u32,
    real: impl Fn(u32) -> isize,
) -> isize {
    if !hook::is_on() || keep_errno(|| hook::regular(fd)).is_none() {
        return real(flags);
    }
    let kept = hook::errno();
    loop {
        // SAFETY: the caller gave null or a valid offset, which the kernel would read too.
        let target = unsafe { offset.as_ref() }.copied();
        let result = at_or_position(call, fd, target, Asked::Bytes(count), 0, || {
            real(flags | libc::SPLICE_F_NONBLOCK)
        });
        let wait = result < 0
            && hook::errno() == libc::EAGAIN
            && flags & libc::SPLICE_F_NONBLOCK == 0
            // SAFETY: F_GETFL takes no argument.
            && unsafe { libc::fcntl(from, libc::F_GETFL) } & libc::O_NONBLOCK == 0;
        if !wait {
            return result;
        }
        let mut pipe = libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        if unsafe { libc::poll(&raw mut pipe, 1, -1) } < 0 {
            return -1;
        }
        hook::set_errno(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_tell_where_a_write_went_or_that_it_is_not_known() {
        assert_eq!(between(Some(10), Some(30), 20), 10..30);
        assert_eq!(between(Some(10), Some(70), 20), 10..70, "another thread wrote too");
        assert_eq!(between(Some(10), Some(5), 20), 0..TO_THE_END, "somebody sought back");
        assert_eq!(between(None, Some(5), 20), 0..TO_THE_END);
    }

    #[test]
    fn a_failed_write_may_have_landed_in_part() {
        assert_eq!(around(Some(10), Some(10), 20), 10..30);
        assert_eq!(around(Some(10), Some(70), 20), 10..90, "another thread wrote before it");
        assert_eq!(around(Some(10), Some(5), 20), 0..TO_THE_END, "somebody sought back");
    }

    #[test]
    fn what_was_asked_for_is_read_without_trusting_the_vector() {
        let part = |len| iovec { iov_base: std::ptr::null_mut(), iov_len: len };
        let vector = [part(100), part(28)];
        assert_eq!(Asked::Vector(vector.as_ptr(), 2).bytes(), 128);
        assert_eq!(Asked::Vector(std::ptr::without_provenance(16), 2).bytes(), u64::MAX);
        assert_eq!(Asked::Vector(vector.as_ptr(), -1).bytes(), 0);
        assert_eq!(Asked::Vector(vector.as_ptr(), c_int::MAX).bytes(), 0);
    }

    #[test]
    fn append_is_seen_on_the_descriptor_and_in_the_flags() {
        // SAFETY: a valid path and flags.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_APPEND) };
        assert!(appends(fd, 0));
        assert!(!appends(fd, RWF_NOAPPEND));
        // SAFETY: F_SETFL with plain flags.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, 0) }, 0);
        assert!(!appends(fd, 0));
        assert!(appends(fd, libc::RWF_APPEND));
        // SAFETY: our own descriptor.
        unsafe { libc::close(fd) };
    }
}
