//! Listing directories: raw records of getdents64, into memory that the caller has.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// One record of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// `d_ino`.
    pub d_ino: u64,
    /// `d_type`: a hint, DT_UNKNOWN on some file systems.
    pub d_type: u8,
    /// The name.
    pub name: &'a CStr,
}

/// Fills `space` with records from the directory's current position. 0: the end. EINVAL: the space is too small.
pub fn read(directory: BorrowedFd<'_>, space: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: getdents64(2) writes at most `space.len()` bytes to the buffer.
    let result = unsafe {
        libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), space.as_mut_ptr(), space.len())
    };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(result as usize)
}

/// The records in a buffer that [`read`] filled, without `.` and `..`.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    // struct linux_dirent64: u64 d_ino, i64 d_off, u16 d_reclen, u8 d_type, char d_name[].
    std::iter::from_fn(move || {
        loop {
            let d_ino = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
            let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
            let d_type = *bytes.get(18)?;
            let name = CStr::from_bytes_until_nul(bytes.get(19..length)?).ok()?;
            bytes = bytes.get(length..)?;
            if !matches!(name.to_bytes(), b"." | b"..") {
                return Some(Record { d_ino, d_type, name });
            }
        }
    })
}
