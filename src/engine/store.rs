//! The image while it is being made: one file for each inode, in a folder of its own beside what will be the tree.
//!
//! Only worker threads come here: the destination may be slow, full or hung (P22, P28).

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::error::{Error, Result};
use super::folder::Folder;
use super::tree::File;

/// The folder of store files, in each image directory until the tree is built.
pub const STORE_NAME: &CStr = c".tokudb_backup.store";

/// Written pages do not pile up in the page cache: kernel 6.14 and later drop them once written (P22).
const RWF_DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// No file system has larger blocks, bytes.
const LARGEST_BLOCK: u64 = 64 << 10;
/// On older kernels: at most this much is left dirty, bytes.
const WINDOW: u64 = 32 << 20;
/// `statfs.f_type` of FUSE.
const FUSE: i64 = 0x6573_5546;
/// The first kernel whose syncfs tells of failed write-back.
const SYNCFS_TELLS: (u32, u32) = (5, 8);
static DONTCACHE_READ: AtomicBool = AtomicBool::new(true);
static DONTCACHE_WRITE: AtomicBool = AtomicBool::new(true);

/// The image of one source.
#[derive(Debug)]
pub struct Store {
    /// The image directory's path, for messages.
    pub path: PathBuf,
    /// The image directory. Opened before the first byte is written: syncfs on it tells of whatever write-back has
    /// failed since then, even when somebody else was told before.
    pub image: Folder,
    /// The folder of store files, which nobody else may enter.
    pub folder: Folder,
    /// Each file and directory is synced by itself, since syncfs does not do or does not tell.
    each: bool,
}

/// The name of a store file.
pub fn store_name(id: u64) -> CString {
    CString::new(id.to_string()).unwrap_or_default()
}

fn failed(operation: &str, path: &Path, errno: Errno) -> Error {
    Error::io(operation, path, &errno.into())
}

impl Store {
    /// Makes the folder of store files in the image directory.
    pub fn create(image: Folder) -> Result<Store> {
        let folder = image.make_folder(STORE_NAME, Mode::RWXU)?;
        let path = image.path().to_owned();
        let kind = rustix::fs::fstatfs(&image).map_err(|errno| failed("look at", &path, errno))?.f_type;
        // The kernel sends FUSE servers no syncfs.
        let each = kind as i64 == FUSE || kernel().is_none_or(|version| version < SYNCFS_TELLS);
        Ok(Store { path, image, folder, each })
    }

    /// Opens the store file of `file` for writing, and makes it the first time.
    pub fn open(&self, file: &File) -> Result<OwnedFd> {
        let name = store_name(file.id);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mode = Mode::RUSR | Mode::WUSR;
        let is_new = !file.stored.swap(true, Ordering::Relaxed);
        let made = if is_new { OFlags::CREATE | OFlags::EXCL } else { OFlags::empty() };
        let opened = rustix::fs::openat(&self.folder, name.as_c_str(), flags | made, mode);
        let opened = opened.map_err(|errno| match errno {
            Errno::EXIST | Errno::LOOP | Errno::NXIO => self.folder.foreign(&name, "is not of this backup"),
            errno => failed("write a file in", &self.path, errno),
        })?;
        if is_new {
            return Ok(opened);
        }
        // Until the tree is built it has one name: what has two may lie elsewhere, too.
        let stat = rustix::fs::fstat(&opened).map_err(|errno| failed("look at", &self.path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
            return Err(self.folder.foreign(&name, "is not of this backup"));
        }
        Ok(opened)
    }

    /// Ends the writing of a file of the image. Some file systems (FUSE, NFS) tell only here what has failed.
    pub fn close(&self, file: OwnedFd) -> Result<()> {
        let synced = if self.each { rustix::fs::fsync(&file) } else { Ok(()) };
        // SAFETY: the descriptor is ours, and nobody uses it after this; also on error it is closed (close(2)).
        let closed = unsafe { libc::close(file.into_raw_fd()) };
        let closed = match std::io::Error::last_os_error() {
            error if closed != 0 && error.raw_os_error() != Some(libc::EINTR) => Err(error),
            _ => Ok(()),
        };
        synced.map_err(|errno| failed("sync a file in", &self.path, errno))?;
        closed.map_err(|error| Error::io("write a file in", &self.path, &error))
    }

    /// A directory of the image is complete.
    pub fn complete_directory(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<()> {
        match if self.each { rustix::fs::fsync(directory) } else { Ok(()) } {
            // The file system has no such thing (fsync(2)).
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(failed("sync", path, errno)),
        }
    }

    /// Deletes a store file; one that is not there is as good.
    pub fn remove(&self, id: u64) -> Result<()> {
        self.folder.remove_file(&store_name(id))
    }

    /// Removes the folder of store files, which must be empty.
    pub fn remove_folder(&self) -> Result<()> {
        self.image.remove_folder(STORE_NAME)
    }

    /// Makes everything durable. An error of an earlier write-back is reported here too (syncfs(2)); where it is not,
    /// files and directories have been synced one by one.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.image).map_err(|errno| failed("sync", &self.path, errno))
    }
}

/// Major and minor version of the running kernel.
fn kernel() -> Option<(u32, u32)> {
    // SAFETY: all zeroes are a valid utsname.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: a place for the answer.
    if unsafe { libc::uname(&mut name) } != 0 {
        return None;
    }
    // SAFETY: uname succeeded, so it is a C string.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) }.to_str().ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Reads at `offset`, as much as there is up to the buffer's length.
pub fn read_full(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> std::result::Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset + done as u64;
        let result = if DONTCACHE_READ.load(Ordering::Relaxed) {
            match rustix::io::preadv2(file, &mut [std::io::IoSliceMut::new(rest)], at, RWF_DONTCACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    DONTCACHE_READ.store(false, Ordering::Relaxed);
                    continue;
                }
                other => other,
            }
        } else {
            rustix::io::pread(file, rest, at)
        };
        match result {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Writes into one store file; keeps its dirty pages few.
#[derive(Debug)]
pub struct Writer<'a> {
    file: BorrowedFd<'a>,
    image: &'a Path,
    /// Where the bytes begin whose write-back was not started yet, and how many there are.
    pending: (u64, u64),
}

impl<'a> Writer<'a> {
    /// A writer of `file`, which belongs to the image `image`.
    pub fn new(file: BorrowedFd<'a>, image: &'a Path) -> Self {
        Writer { file, image, pending: (0, 0) }
    }

    fn failed(&self, errno: Errno) -> Error {
        failed("write to the backup in", self.image, errno)
    }

    /// Writes all of `data` at `offset`.
    pub fn write(&mut self, mut data: &[u8], mut offset: u64) -> Result<()> {
        while !data.is_empty() {
            let result = if DONTCACHE_WRITE.load(Ordering::Relaxed) {
                match rustix::io::pwritev2(self.file, &[std::io::IoSlice::new(data)], offset, RWF_DONTCACHE) {
                    Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                        DONTCACHE_WRITE.store(false, Ordering::Relaxed);
                        continue;
                    }
                    other => other,
                }
            } else {
                rustix::io::pwrite(self.file, data, offset)
            };
            match result {
                Ok(0) => return Err(self.failed(Errno::NOSPC)),
                Ok(n) => {
                    data = data.get(n..).unwrap_or(&[]);
                    self.note(offset, n as u64)?;
                    offset += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        Ok(())
    }

    fn note(&mut self, offset: u64, length: u64) -> Result<()> {
        if DONTCACHE_WRITE.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.pending.0 + self.pending.1 == offset {
            self.pending.1 += length;
        } else {
            self.pending = (offset, length);
        }
        if self.pending.1 >= WINDOW {
            let (start, length) = std::mem::take(&mut self.pending);
            // SAFETY: sync_file_range only takes numbers.
            let started = unsafe {
                libc::sync_file_range(
                    self.file.as_raw_fd(),
                    start as i64,
                    length as i64,
                    libc::SYNC_FILE_RANGE_WAIT_BEFORE
                        | libc::SYNC_FILE_RANGE_WRITE
                        | libc::SYNC_FILE_RANGE_WAIT_AFTER,
                )
            };
            self.pending.0 = start + length;
            match Errno::from_io_error(&std::io::Error::last_os_error()) {
                // It does not exist here; everything is synced later.
                _ if started == 0 => {}
                None | Some(Errno::INVAL | Errno::NOSYS | Errno::SPIPE | Errno::INTR) => {}
                // Told once: who syncs later hears nothing of it on this descriptor.
                Some(errno) => return Err(self.failed(errno)),
            }
        }
        Ok(())
    }

    /// Makes a hole of `length` bytes at `offset`, where the file may have data: punched, or zeroes where holes
    /// cannot be punched. What lies beyond the end of the file is a hole already.
    pub fn hole(&mut self, offset: u64, length: u64) -> Result<()> {
        let size = rustix::fs::fstat(self.file).map_err(|errno| self.failed(errno))?.st_size as u64;
        if offset >= size {
            return Ok(());
        }
        // Punching a part of a block only zeroes it: at the end of the file, the whole last block goes.
        let end = offset.saturating_add(length);
        let length = if end >= size { size.next_multiple_of(LARGEST_BLOCK) - offset } else { length };
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self.file, punch, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let length = length.min(size - offset);
                let zeroes = vec![0u8; length.min(1 << 20) as usize];
                let mut at = offset;
                while at < offset + length {
                    let part = zeroes.get(..(offset + length - at).min(1 << 20) as usize).unwrap_or(&zeroes);
                    self.write(part, at)?;
                    at += part.len() as u64;
                }
                Ok(())
            }
            Err(errno) => Err(self.failed(errno)),
        }
    }

    /// Cuts the file to `size`, if it is longer.
    pub fn cut(&self, size: u64) -> Result<()> {
        let now = rustix::fs::fstat(self.file).map_err(|errno| self.failed(errno))?;
        if now.st_size as u64 > size { self.set_size(size) } else { Ok(()) }
    }

    /// Gives the file its size.
    pub fn set_size(&self, size: u64) -> Result<()> {
        rustix::fs::ftruncate(self.file, size).map_err(|errno| self.failed(errno))
    }

    /// The file itself.
    pub fn file(&self) -> BorrowedFd<'a> {
        self.file
    }

    /// The image it belongs to.
    pub fn image(&self) -> &'a Path {
        self.image
    }
}
