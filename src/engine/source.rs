//! Reading the source: by descriptors of its roots, read-only, never mapped (P23).

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::backup::Members;
use crate::tracker::Key;

/// One source directory.
#[derive(Debug)]
pub struct Root {
    /// Its real path.
    pub path: PathBuf,
    /// Open for the whole backup.
    pub fd: OwnedFd,
    /// Its inode.
    pub key: Key,
    /// What of it is backed up.
    pub members: Members,
}

/// Who an inode is.
pub fn key_of(stat: &Stat) -> Key {
    Key { dev: stat.st_dev, ino: stat.st_ino }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, FIFO or device: left out.
    Other,
}

/// The type in `st_mode`.
pub fn type_of(stat: &Stat) -> Type {
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::RegularFile => Type::File,
        rustix::fs::FileType::Directory => Type::Directory,
        rustix::fs::FileType::Symlink => Type::Symlink,
        _ => Type::Other,
    }
}

/// Opens a regular file below `root` for reading. `O_NONBLOCK`: should the name now be a FIFO, nobody waits.
pub fn open_file(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::openat(root, path, flags | OFlags::NOATIME, Mode::empty()) {
        // O_NOATIME is for the file's owner (and root) only.
        Err(Errno::PERM) => rustix::fs::openat(root, path, flags, Mode::empty()),
        other => other,
    }
}

/// Opens a directory below `root`; an empty path is the root itself.
pub fn open_directory(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { c"." } else { path };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    rustix::fs::openat(root, path, flags, Mode::empty())
}

/// `lstat` of a name in a directory.
pub fn stat_name(directory: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Whether an error means that the name is gone or became something else: for the next pass to find out.
pub fn is_vanished(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::NXIO | Errno::ISDIR)
}

/// A number that tells two files apart that had the same inode number one after the other: from the file handle,
/// which holds the generation, and the time of birth (P6). 0: the file system tells neither; then it is left to the
/// marks of creation, and for other processes to size and mtime (P25).
pub fn generation(file: BorrowedFd<'_>) -> u64 {
    // FNV-1a: only ever compared with itself.
    let hash = |seed: u64, bytes: &[u8]| {
        bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    // overlayfs gives no handles that could be opened again, but such that identify.
    let handle = handle(file, 0).or_else(|| handle(file, AT_HANDLE_FID));
    let born = born(file);
    if handle.is_none() && born.is_none() {
        return 0;
    }
    let (kind, bytes) = handle.as_ref().map_or((0, &[][..]), |handle| {
        (handle.kind, handle.data.get(..(handle.bytes as usize).min(HANDLE)).unwrap_or(&[]))
    });
    let (seconds, nanoseconds) = born.unwrap_or_default();
    let after = hash(hash(START ^ kind as u64, bytes), &seconds.to_ne_bytes());
    hash(after, &nanoseconds.to_ne_bytes()) | 1
}

/// Room for any handle (MAX_HANDLE_SZ).
const HANDLE: usize = 128;
/// linux/fcntl.h, since Linux 6.5.
const AT_HANDLE_FID: i32 = 0x200;

/// struct file_handle.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; HANDLE],
}

fn handle(file: BorrowedFd<'_>, flags: i32) -> Option<Handle> {
    let mut handle = Handle { bytes: HANDLE as u32, kind: 0, data: [0; HANDLE] };
    let mut mount = 0i32;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: name_to_handle_at(2) writes at most `bytes` bytes behind the header, which are there, and one int.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd,
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH | flags,
        )
    };
    (result == 0).then_some(handle)
}

fn born(file: BorrowedFd<'_>) -> Option<(i64, u32)> {
    let wanted = rustix::fs::StatxFlags::BTIME;
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    (found.stx_mask & wanted.bits() != 0).then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}
