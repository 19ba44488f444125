//! The image while it is being made: one file for each inode, in a folder of its own beside what will be the tree.
//!
//! Only worker threads come here: the destination may be slow, full or hung (P22, P28).

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::error::{Error, Result};

/// The folder of store files, in each image directory until the tree is built.
pub const STORE_NAME: &CStr = c".tokudb_backup.store";

/// Written pages do not pile up in the page cache: kernel 6.14 and later drop them once written (P22).
const RWF_DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// No file system has larger blocks, bytes.
const LARGEST_BLOCK: u64 = 64 << 10;
/// On older kernels: at most this much is left dirty, bytes.
const WINDOW: u64 = 32 << 20;
static DONTCACHE_READ: AtomicBool = AtomicBool::new(true);
static DONTCACHE_WRITE: AtomicBool = AtomicBool::new(true);

/// The image of one source.
#[derive(Debug)]
pub struct Store {
    /// The image directory's path, for messages.
    pub path: PathBuf,
    /// The image directory.
    pub image: OwnedFd,
    /// The folder of store files.
    pub folder: OwnedFd,
}

/// The name of a store file.
pub fn store_name(id: u64) -> CString {
    CString::new(id.to_string()).unwrap_or_default()
}

fn failed(operation: &str, path: &Path, errno: Errno) -> Error {
    Error::io(operation, path, &errno.into())
}

impl Store {
    /// Opens the image directory and makes the folder of store files in it.
    pub fn create(path: &Path) -> Result<Store> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let image = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| failed("open the backup directory", path, errno))?;
        rustix::fs::mkdirat(&image, STORE_NAME, Mode::RWXU)
            .map_err(|errno| failed("make the store folder in", path, errno))?;
        let folder = rustix::fs::openat(&image, STORE_NAME, flags, Mode::empty())
            .map_err(|errno| failed("open the store folder in", path, errno))?;
        Ok(Store { path: path.to_owned(), image, folder })
    }

    /// Opens a store file for writing, making it when it is not there.
    pub fn open(&self, id: u64) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.folder, store_name(id).as_c_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("write a file in", &self.path, errno))
    }

    /// Deletes a store file; one that is not there is as good.
    pub fn remove(&self, id: u64) -> Result<()> {
        match rustix::fs::unlinkat(&self.folder, store_name(id).as_c_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("delete a file in", &self.path, errno)),
        }
    }

    /// Removes the folder of store files, which must be empty.
    pub fn remove_folder(&self) -> Result<()> {
        rustix::fs::unlinkat(&self.image, STORE_NAME, AtFlags::REMOVEDIR)
            .map_err(|errno| failed("remove the store folder from", &self.path, errno))
    }

    /// Makes everything durable. An error of an earlier write-back is reported here too (syncfs(2)).
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.image).map_err(|errno| failed("sync", &self.path, errno))
    }
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
                    self.note(offset, n as u64);
                    offset += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        Ok(())
    }

    fn note(&mut self, offset: u64, length: u64) {
        if DONTCACHE_WRITE.load(Ordering::Relaxed) {
            return;
        }
        if self.pending.0 + self.pending.1 == offset {
            self.pending.1 += length;
        } else {
            self.pending = (offset, length);
        }
        if self.pending.1 >= WINDOW {
            let (start, length) = std::mem::take(&mut self.pending);
            use std::os::fd::AsRawFd;
            // SAFETY: sync_file_range only takes numbers; that it fails is harmless (syncfs comes at the end).
            unsafe {
                libc::sync_file_range(
                    self.file.as_raw_fd(),
                    start as i64,
                    length as i64,
                    libc::SYNC_FILE_RANGE_WAIT_BEFORE
                        | libc::SYNC_FILE_RANGE_WRITE
                        | libc::SYNC_FILE_RANGE_WAIT_AFTER,
                );
            }
            self.pending.0 = start + length;
        }
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
