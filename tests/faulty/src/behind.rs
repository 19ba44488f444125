//! The directory behind: its inodes as the kernel knows them, each held open by path only, and the open files.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, INodeNo, TimeOrNow};

use crate::lock;

#[derive(Default)]
pub struct Behind {
    /// By number, with how often the kernel has looked them up. Held open, so that a number is nobody else's.
    files: Mutex<HashMap<u64, (Arc<File>, u64)>>,
    open: Mutex<HashMap<u64, Arc<File>>>,
}

/// What a setattr asks for.
#[derive(Default)]
pub struct Change {
    pub mode: Option<u32>,
    pub owner: (Option<u32>, Option<u32>),
    pub size: Option<u64>,
    pub times: [Option<TimeOrNow>; 2],
}

/// The result of a call that returns -1 and sets errno.
pub fn done<T: PartialOrd + Default>(value: T) -> io::Result<T> {
    if value < T::default() { Err(io::Error::last_os_error()) } else { Ok(value) }
}

pub fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    Ok(CString::new(text.as_ref().as_bytes())?)
}

fn path_only(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

impl Behind {
    pub fn new(root: &Path) -> io::Result<Behind> {
        let behind = Behind::default();
        lock(&behind.files).insert(INodeNo::ROOT.0, (Arc::new(path_only(root)?), 1));
        Ok(behind)
    }

    fn inode(&self, inode: INodeNo) -> io::Result<Arc<File>> {
        let files = lock(&self.files);
        files.get(&inode.0).map(|(file, _)| file.clone()).ok_or(io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// The path that leads to an inode whatever its name is.
    pub fn path(&self, inode: INodeNo) -> io::Result<PathBuf> {
        Ok(format!("/proc/self/fd/{}", self.inode(inode)?.as_raw_fd()).into())
    }

    pub fn below(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    pub fn attr(&self, inode: INodeNo) -> io::Result<FileAttr> {
        Ok(attr(inode, &self.inode(inode)?.metadata()?))
    }

    pub fn look_up(&self, path: &Path) -> io::Result<FileAttr> {
        let file = path_only(path)?;
        let metadata = file.metadata()?;
        let mut files = lock(&self.files);
        files.entry(metadata.ino()).or_insert_with(|| (Arc::new(file), 0)).1 += 1;
        Ok(attr(INodeNo(metadata.ino()), &metadata))
    }

    pub fn forget(&self, inode: INodeNo, times: u64) {
        let mut files = lock(&self.files);
        if let Some((_, known)) = files.get_mut(&inode.0) {
            *known = known.saturating_sub(times);
            if *known == 0 {
                files.remove(&inode.0);
            }
        }
    }

    pub fn handle(&self, file: File) -> FileHandle {
        let number = file.as_raw_fd() as u64;
        lock(&self.open).insert(number, Arc::new(file));
        FileHandle(number)
    }

    pub fn opened(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        lock(&self.open).get(&handle.0).cloned().ok_or(io::Error::from_raw_os_error(libc::EBADF))
    }

    pub fn close(&self, handle: FileHandle) {
        lock(&self.open).remove(&handle.0);
    }

    pub fn set(&self, inode: INodeNo, change: &Change) -> io::Result<FileAttr> {
        let (path, file) = (self.path(inode)?, self.inode(inode)?);
        let (fd, itself) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
        if let Some(mode) = change.mode {
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        if change.owner != (None, None) {
            let (user, group) = (change.owner.0.unwrap_or(u32::MAX), change.owner.1.unwrap_or(u32::MAX));
            // SAFETY: a descriptor, an empty C string and numbers.
            done(unsafe { libc::fchownat(fd, c"".as_ptr(), user, group, itself) })?;
        }
        if let Some(size) = change.size {
            File::options().write(true).open(&path)?.set_len(size)?;
        }
        if change.times != [None, None] {
            let times = change.times.map(timespec);
            // SAFETY: a descriptor, an empty C string and an array of two.
            done(unsafe { libc::utimensat(fd, c"".as_ptr(), times.as_ptr(), itself) })?;
        }
        self.attr(inode)
    }

    pub fn read_link(&self, inode: INodeNo) -> io::Result<Vec<u8>> {
        let (file, mut target) = (self.inode(inode)?, vec![0; libc::PATH_MAX as usize]);
        let (fd, room) = (file.as_raw_fd(), target.len());
        // SAFETY: a descriptor of a symbolic link, an empty C string and a buffer of that size.
        let length = done(unsafe { libc::readlinkat(fd, c"".as_ptr(), target.as_mut_ptr().cast(), room) })?;
        target.truncate(length as usize);
        Ok(target)
    }

    pub fn link(&self, inode: INodeNo, new: &Path) -> io::Result<FileAttr> {
        let (from, to, here) = (c_string(self.path(inode)?)?, c_string(new)?, libc::AT_FDCWD);
        // SAFETY: two C strings that outlive the call.
        done(unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) })?;
        self.look_up(new)
    }

    pub fn list(&self, inode: INodeNo) -> io::Result<Vec<(u64, FileType, OsString)>> {
        let mut all = vec![(1, FileType::Directory, ".".into()), (1, FileType::Directory, "..".into())];
        for entry in fs::read_dir(self.path(inode)?)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            all.push((metadata.ino(), kind(&metadata), entry.file_name()));
        }
        Ok(all)
    }

    /// What a call of the kind of getxattr puts into a buffer, all of it.
    pub fn xattr(&self, inode: INodeNo, name: Option<&OsStr>) -> io::Result<Vec<u8>> {
        let (path, mut value) = (c_string(self.path(inode)?)?, vec![0; 65_536]);
        let (to, room) = (value.as_mut_ptr(), value.len());
        let length = match name {
            // SAFETY: C strings that outlive the call, and a buffer of that size.
            Some(name) => unsafe { libc::getxattr(path.as_ptr(), c_string(name)?.as_ptr(), to.cast(), room) },
            // SAFETY: the same.
            None => unsafe { libc::listxattr(path.as_ptr(), to.cast(), room) },
        };
        value.truncate(done(length)? as usize);
        Ok(value)
    }

    pub fn set_xattr(&self, inode: INodeNo, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
        let path = c_string(self.path(inode)?)?;
        let (from, length) = (value.as_ptr().cast(), value.len());
        // SAFETY: C strings that outlive the call, and a buffer of that size.
        done(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), from, length, flags) }).map(drop)
    }

    pub fn remove_xattr(&self, inode: INodeNo, name: &CStr) -> io::Result<()> {
        let path = c_string(self.path(inode)?)?;
        // SAFETY: C strings that outlive the call.
        done(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
    }

    pub fn fallocate(&self, handle: FileHandle, mode: i32, offset: u64, length: u64) -> io::Result<()> {
        let fd: RawFd = self.opened(handle)?.as_raw_fd();
        // SAFETY: a descriptor and numbers.
        done(unsafe { libc::fallocate(fd, mode, offset as i64, length as i64) }).map(drop)
    }

    pub fn statvfs(&self, inode: INodeNo) -> io::Result<libc::statvfs> {
        let path = c_string(self.path(inode)?)?;
        // SAFETY: all zeroes are a valid statvfs.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: a C string that outlives the call, and a place for the answer.
        done(unsafe { libc::statvfs(path.as_ptr(), &mut stat) })?;
        Ok(stat)
    }
}

fn timespec(time: Option<TimeOrNow>) -> libc::timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, libc::UTIME_OMIT),
        Some(TimeOrNow::Now) => (0, libc::UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            (since.as_secs() as i64, since.subsec_nanos().into())
        }
    };
    libc::timespec { tv_sec, tv_nsec }
}

fn kind(metadata: &Metadata) -> FileType {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => FileType::Directory,
        () if kind.is_symlink() => FileType::Symlink,
        () if kind.is_socket() => FileType::Socket,
        () if kind.is_fifo() => FileType::NamedPipe,
        () => FileType::RegularFile,
    }
}

fn attr(ino: INodeNo, metadata: &Metadata) -> FileAttr {
    let time = |time: io::Result<SystemTime>| time.unwrap_or(UNIX_EPOCH);
    FileAttr {
        ino,
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: time(metadata.accessed()),
        mtime: time(metadata.modified()),
        ctime: time(metadata.modified()),
        crtime: UNIX_EPOCH,
        kind: kind(metadata),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
