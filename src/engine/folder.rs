//! A directory of the destination, held open. Everything in the destination is reached by these.
//!
//! Who may write there can put a symbolic link in the place of any name, at any time. So no path is given to the
//! kernel to walk: each component is opened by itself, from the descriptor of the one before, links not followed. What
//! is opened is what is used; it is never looked up again.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::{Error, Result};

/// The largest file that is read whole: indexes of logs and the like.
const LARGEST: u64 = 64 << 20;

/// An open directory.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> OwnedFd {
        folder.fd
    }
}

impl Folder {
    /// The directory of a descriptor; `path` is for messages.
    pub fn new(fd: OwnedFd, path: PathBuf) -> Folder {
        Folder { path, fd }
    }

    /// The directory that `path` leads to.
    #[cfg(test)]
    pub fn open(path: &Path) -> Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", path, errno))?;
        Ok(Folder { path: path.to_owned(), fd })
    }

    /// Its path when it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something in it, for messages.
    pub fn path_of(&self, name: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.to_bytes()))
    }

    /// The same directory, opened once more.
    pub fn again(&self) -> Result<Folder> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
            .map_err(|errno| failed("open", &self.path, errno))?;
        Ok(Folder { path: self.path.clone(), fd })
    }

    /// The directory `below` this one. ELOOP: a component is a symbolic link.
    pub fn folder(&self, below: &Path) -> Result<Folder> {
        let mut folder = self.again()?;
        for part in below.components() {
            folder = folder.step(&component(part, below)?)?;
        }
        Ok(folder)
    }

    fn step(&self, name: &CStr) -> Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = self.path_of(name);
        let fd = retry(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty()))
            .map_err(|errno| self.refused("open the directory", name, errno))?;
        Ok(Folder { path, fd })
    }

    /// The directory that `below` lies in, and its name there.
    pub fn parent_of(&self, below: &Path) -> Result<(Folder, CString)> {
        let name = below.components().next_back().ok_or_else(|| not_below(below))?;
        let name = component(name, below)?;
        Ok((self.folder(below.parent().unwrap_or(Path::new("")))?, name))
    }

    /// A regular file for reading; `None` when there is none of this name.
    pub fn open_file(&self, name: &CStr) -> Result<Option<File>> {
        // Not waiting, should it be a FIFO.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match retry(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty())) {
            Ok(fd) => self.regular(name, fd).map(|fd| Some(File::from(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.refused("open", name, errno)),
        }
    }

    /// The same by a path below this directory.
    pub fn open_below(&self, below: &Path) -> Result<Option<File>> {
        let (folder, name) = match self.parent_of(below) {
            Err(error) if error.errno == libc::ENOENT => return Ok(None),
            found => found?,
        };
        folder.open_file(&name)
    }

    /// What a file below this directory holds; `None` when there is none.
    pub fn read_below(&self, below: &Path) -> Result<Option<Vec<u8>>> {
        match self.parent_of(below) {
            Err(error) if error.errno == libc::ENOENT => Ok(None),
            Err(error) => Err(error),
            Ok((folder, name)) => folder.read(&name),
        }
    }

    /// What a file holds; `None` when there is none of this name.
    pub fn read(&self, name: &CStr) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let path = self.path_of(name);
        let mut content = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut content).map_err(|e| Error::io("read", &path, &e))?;
        if content.len() as u64 > LARGEST {
            return Err(failed("read", &path, Errno::FBIG));
        }
        Ok(Some(content))
    }

    /// What was opened is a regular file still.
    fn regular(&self, name: &CStr, fd: OwnedFd) -> Result<OwnedFd> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("look at", &self.path_of(name), errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            return Ok(fd);
        }
        Err(self.foreign(name, "is no regular file any more"))
    }

    /// `lstat` of a name; `None` when there is none.
    pub fn stat(&self, name: &CStr) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("look at", &self.path_of(name), errno)),
        }
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, name: &CStr) -> Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new()).map_err(|errno| match errno {
            Errno::INVAL => self.foreign(name, "is no symbolic link any more"),
            errno => failed("read the link", &self.path_of(name), errno),
        })?;
        Ok(PathBuf::from(OsStr::from_bytes(target.to_bytes())))
    }

    /// A new file of this mode, whatever the umask; no wider at any time.
    pub fn create(&self, name: &CStr, mode: Mode) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = retry(|| rustix::fs::openat(&self.fd, name, flags, mode))
            .map_err(|errno| failed("make", &self.path_of(name), errno))?;
        rustix::fs::fchmod(&file, mode)
            .map_err(|errno| failed("set the mode of", &self.path_of(name), errno))?;
        Ok(File::from(file))
    }

    /// A new directory of this mode, whatever the umask, opened.
    pub fn make_folder(&self, name: &CStr, mode: Mode) -> Result<Folder> {
        retry(|| rustix::fs::mkdirat(&self.fd, name, mode))
            .map_err(|errno| failed("make the directory", &self.path_of(name), errno))?;
        let opened = self.step(name).and_then(|made| {
            // No system call makes and opens a directory at once: another may have got its name. An empty one in here
            // is as good as ours.
            if !made.lies_in(self)? || !made.is_empty()? {
                return Err(self.foreign(name, "was replaced while it was made"));
            }
            rustix::fs::fchmod(&made, mode).map_err(|errno| failed("set the mode of", made.path(), errno))?;
            Ok(made)
        });
        opened.inspect_err(|_| {
            let _ = self.remove_folder(name);
        })
    }

    fn lies_in(&self, parent: &Folder) -> Result<bool> {
        let id = |stat: Stat| (stat.st_dev, stat.st_ino);
        let above = rustix::fs::statat(&self.fd, c"..", AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("look at what is above", &self.path, errno))?;
        let parent_is =
            rustix::fs::fstat(&parent.fd).map_err(|errno| failed("look at", &parent.path, errno))?;
        Ok(id(above) == id(parent_is))
    }

    /// Removes an empty directory.
    pub fn remove_folder(&self, name: &CStr) -> Result<()> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
            .map_err(|errno| self.refused("remove", name, errno))
    }

    /// Removes a file or link; one that is not there is as good.
    pub fn remove_file(&self, name: &CStr) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("remove", &self.path_of(name), errno)),
        }
    }

    /// The names in it.
    pub fn names(&self) -> Result<Vec<CString>> {
        let cannot = |errno| failed("list", &self.path, errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> Result<bool> {
        self.names().map(|names| names.is_empty())
    }

    /// Calls `visit` with the path below this directory of everything that is below `below`, the directory that it is
    /// in, its name and its attributes.
    pub fn walk(
        &self,
        below: &Path,
        visit: &mut dyn FnMut(&Path, &Folder, &CStr, &Stat) -> Result<()>,
    ) -> Result<()> {
        let mut open = vec![below.to_owned()];
        while let Some(path) = open.pop() {
            let folder = self.folder(&path)?;
            for name in folder.names()? {
                let Some(stat) = folder.stat(&name)? else { continue };
                let path = path.join(OsStr::from_bytes(name.to_bytes()));
                visit(&path, &folder, &name, &stat)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    open.push(path);
                }
            }
        }
        Ok(())
    }

    /// Makes its names durable. EINVAL: the file system has no such thing (fsync(2)).
    pub fn sync(&self) -> Result<()> {
        match retry(|| rustix::fs::fsync(&self.fd)) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(failed("sync", &self.path, errno)),
        }
    }

    /// An error on a name, which a symbolic link in its place explains best.
    fn refused(&self, operation: &str, name: &CStr, errno: Errno) -> Error {
        let is_link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if matches!(errno, Errno::LOOP | Errno::NOTDIR) && self.stat(name).ok().flatten().is_some_and(is_link)
        {
            return self.foreign(name, "is a symbolic link now");
        }
        failed(operation, &self.path_of(name), errno)
    }

    /// Somebody else writes to the destination.
    pub fn foreign(&self, name: &CStr, what: &str) -> Error {
        Error::new(
            libc::ELOOP,
            format!(
                "{} {what}: somebody else changes the destination while the backup is written, and nothing was \
                 written there; see who may write to it, and take the backup to another directory",
                self.path_of(name).display()
            ),
        )
    }
}

/// A component that leads down.
fn component(part: Component<'_>, below: &Path) -> Result<CString> {
    match part {
        Component::Normal(name) => CString::new(name.as_bytes()).map_err(|_| not_below(below)),
        _ => Err(not_below(below)),
    }
}

fn not_below(path: &Path) -> Error {
    Error::invalid(format!("'{}' is no path below the destination", path.display()))
}

fn failed(operation: &str, path: &Path, errno: Errno) -> Error {
    Error::io(operation, path, &errno.into())
}

/// Until it is not interrupted by a signal.
pub fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
