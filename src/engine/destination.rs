//! The directory that a backup is written into: checked, made, marked incomplete first and complete last.
//!
//! Its path is walked once, when it is opened; from then on everything goes by directory descriptor. At the end
//! the path must still lead to the same directory: a backup that nobody can find is no success.

mod place;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::manifest::Manifest;
use place::{Id, Place};

/// The file that says that a backup is not complete.
pub const INCOMPLETE: &CStr = c"backup_incomplete";
/// The file that lists a complete backup.
pub const MANIFEST: &CStr = c"backup_manifest";
/// The manifest while it is being written.
const UNFINISHED_MANIFEST: &CStr = c"backup_manifest.unfinished";

const INCOMPLETE_TEXT: &str = "This backup is not complete: it is still running, it failed, or it was interrupted.\n\
    Do not start a server on it. If no backup runs, remove this directory.\n";

/// The longest path of a destination, bytes.
const LONGEST: usize = 4096;
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// A destination that was checked and holds nothing but the mark of an incomplete backup and image directories.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    directory: OwnedFd,
    id: Id,
    /// The parent and the name in it, when the directory was made by us.
    made: Option<(OwnedFd, CString)>,
    images: Vec<(CString, Id)>,
}

impl Destination {
    /// Checks the destination `path` (as the user wrote it), makes its last component if need be, and marks it
    /// incomplete. Nothing is left behind when it is refused.
    ///
    /// Refused with: EINVAL (relative, not UTF-8, inside one of `sources` or the reverse), ENAMETOOLONG, ENOENT (no
    /// parent), ENOTDIR, ENOTEMPTY, EACCES (not writable), EPERM (not below `allowed_prefix`), and what the system
    /// says.
    pub fn prepare(path: &[u8], allowed_prefix: Option<&Path>, sources: &[PathBuf]) -> Result<Destination> {
        let path = check_text(path)?;
        let (place, name) = find(path)?;
        let real = match &name {
            Some(name) => place.path.join(OsStr::from_bytes(name.to_bytes())),
            None => place.path.clone(),
        };
        if let Some(prefix) = allowed_prefix {
            check_prefix(&real, prefix)?;
        }
        for source in sources {
            check_source(&real, &place, name.is_some(), source)?;
        }
        let destination = match name {
            Some(name) => make(place, name, real)?,
            None => {
                Destination { path: real, directory: place.fd, id: place.id, made: None, images: Vec::new() }
            }
        };
        let marked = destination.check_empty().and_then(|()| {
            destination.mark_incomplete().inspect_err(|_| {
                let _ = rustix::fs::unlinkat(&destination.directory, INCOMPLETE, AtFlags::empty());
            })
        });
        if let Err(error) = marked {
            destination.remove_if_made();
            return Err(error);
        }
        Ok(destination)
    }

    /// Its real path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode: a source directory that is the same must not be copied into itself.
    pub fn device_and_inode(&self) -> (u64, u64) {
        (self.id.device, self.id.inode)
    }

    /// Makes an empty directory (mode 0750) for the image of a source and returns its path.
    pub fn make_image(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        let c_name = CString::new(name)
            .map_err(|_| Error::invalid(format!("an image cannot be named {}", path.display())))?;
        let id = make_directory(self.directory.as_fd(), &c_name, &path)?.1;
        self.images.push((c_name, id));
        Ok(path)
    }

    /// Removes an image from which everything was moved into another one.
    pub fn remove_image(&mut self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        let c_name = CString::new(name).unwrap_or_default();
        rustix::fs::unlinkat(&self.directory, &c_name, AtFlags::REMOVEDIR)
            .map_err(|errno| failed("remove", &path, errno))?;
        self.images.retain(|(image, _)| *image != c_name);
        Ok(())
    }

    /// Writes a file beside the images, durably.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let c_name = CString::new(name)
            .map_err(|_| Error::invalid(format!("a file cannot be named {}", path.display())))?;
        let mut file = self.create(&c_name, &path)?;
        file.write_all(content)
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io("write", &path, &error))
    }

    /// Takes back everything that was made, while nothing has been copied yet: for a backup that is refused. What
    /// is not empty stays, and stays marked incomplete.
    pub fn discard(self) {
        let removed = self
            .images
            .iter()
            .all(|(name, _)| rustix::fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR).is_ok());
        if removed {
            let _ = rustix::fs::unlinkat(&self.directory, INCOMPLETE, AtFlags::empty());
            self.remove_if_made();
        }
    }

    /// Everything is copied and durable: writes the manifest and takes the mark away. Until it returns Ok the
    /// backup is incomplete.
    pub fn finish(&self, manifest: &Manifest) -> Result<()> {
        self.verify()?;
        if let Err(error) = self.write_manifest(manifest) {
            let _ = rustix::fs::unlinkat(&self.directory, UNFINISHED_MANIFEST, AtFlags::empty());
            return Err(error);
        }
        self.verify()?;
        let unmarked = match rustix::fs::unlinkat(&self.directory, INCOMPLETE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => self.sync(),
            Err(errno) => Err(failed("remove", &self.file_path(INCOMPLETE), errno)),
        };
        // A failed backup is marked whatever happens; if even that fails, the error is the first one.
        unmarked.and_then(|()| self.verify()).inspect_err(|_| {
            let _ = self.mark_incomplete();
        })
    }

    /// After [`Destination::finish`], when the backup has been reported as failed meanwhile: marks it again.
    pub fn revoke(&self) {
        // Already marked, or beyond help: the report was of a failure in any case.
        let _ = self.mark_incomplete();
        let _ = rustix::fs::unlinkat(&self.directory, MANIFEST, AtFlags::empty());
    }

    fn file_path(&self, name: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.to_bytes()))
    }

    fn check_empty(&self) -> Result<()> {
        let path = self.path.display();
        let refuse = |what: String| Error::new(libc::ENOTEMPTY, format!("the destination {path} {what}"));
        let holds =
            |name: &CStr| rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if holds(INCOMPLETE) {
            return Err(refuse(
                "holds an incomplete backup: remove it, or choose another directory".to_owned(),
            ));
        }
        if holds(MANIFEST) {
            return Err(refuse("holds a backup already: choose another directory".to_owned()));
        }
        let cannot = |errno| failed("list the destination", &self.path, errno);
        for entry in rustix::fs::Dir::read_from(&self.directory).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name().to_owned();
            if name.as_c_str() != c"." && name.as_c_str() != c".." {
                let name = name.to_string_lossy();
                return Err(refuse(format!(
                    "is not empty, it holds '{name}': choose an empty or a new directory"
                )));
            }
        }
        Ok(())
    }

    /// On failure the mark may be there, without its text or not durable: it marks all the same.
    fn mark_incomplete(&self) -> Result<()> {
        let path = self.file_path(INCOMPLETE);
        let mut file = self.create(INCOMPLETE, &path)?;
        file.write_all(INCOMPLETE_TEXT.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io("write", &path, &error))?;
        self.sync()
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let path = self.file_path(MANIFEST);
        let file = self.create(UNFINISHED_MANIFEST, &path)?;
        manifest
            .write(&file)
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io("write", &path, &error))?;
        rustix::fs::renameat(&self.directory, UNFINISHED_MANIFEST, &self.directory, MANIFEST)
            .map_err(|errno| failed("write", &path, errno))?;
        self.sync()
    }

    /// A new file (mode 0640, whatever the umask).
    fn create(&self, name: &CStr, path: &Path) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = retry(|| rustix::fs::openat(&self.directory, name, flags, FILE_MODE))
            .map_err(|errno| failed("make", path, errno))?;
        rustix::fs::fchmod(&file, FILE_MODE).map_err(|errno| failed("set the mode of", path, errno))?;
        Ok(File::from(file))
    }

    /// The names in the directory are durable.
    fn sync(&self) -> Result<()> {
        sync_directory(self.directory.as_fd(), &self.path)
    }

    /// The path still leads to the directory, and the directory to its images.
    pub fn verify(&self) -> Result<()> {
        let moved = |path: &Path| {
            let text = format!("{} was removed or replaced while the backup ran", path.display());
            Error::new(libc::ENOENT, text)
        };
        match rustix::fs::stat(&self.path) {
            Ok(stat) if Id::of(&stat) == self.id => {}
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return Err(moved(&self.path)),
            Err(errno) => return Err(failed("look at", &self.path, errno)),
        }
        for (name, id) in &self.images {
            let path = self.file_path(name);
            match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if Id::of(&stat) == *id => {}
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return Err(moved(&path)),
                Err(errno) => return Err(failed("look at", &path, errno)),
            }
        }
        Ok(())
    }

    fn remove_if_made(&self) {
        if let Some((parent, name)) = &self.made {
            remove_made(parent, name, self.id);
        }
    }
}

fn failed(operation: &str, path: &Path, errno: Errno) -> Error {
    Error::io(operation, path, &errno.into())
}

/// Until it is not interrupted by a signal.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// What can be said of a destination by its text alone: a full path in UTF-8, not too long.
pub fn check_text(path: &[u8]) -> Result<&Path> {
    let shown = String::from_utf8_lossy(path);
    if path.len() > LONGEST {
        let text = format!("the path of the destination has {} bytes, {LONGEST} are allowed", path.len());
        return Err(Error::new(libc::ENAMETOOLONG, text));
    }
    if path.contains(&0) || std::str::from_utf8(path).is_err() {
        return Err(Error::invalid(format!("the destination '{shown}' is not valid UTF-8")));
    }
    if path.first() != Some(&b'/') {
        return Err(Error::invalid(format!(
            "the destination '{shown}' is a relative path: write a full one"
        )));
    }
    Ok(Path::new(OsStr::from_bytes(path)))
}

/// The destination, or its parent and its name when it does not exist.
fn find(path: &Path) -> Result<(Place, Option<CString>)> {
    let error = match Place::open(path) {
        Ok(place) => return Ok((place, None)),
        Err(error) if error.errno != libc::ENOENT => return Err(error),
        Err(error) => error,
    };
    // Split by hand: `Path` would take `..` and `.` out of what the kernel is to walk.
    let bytes = path.as_os_str().as_bytes();
    let trimmed = bytes.iter().rposition(|byte| *byte != b'/').and_then(|last| bytes.get(..=last));
    let slash = trimmed.and_then(|path| path.iter().rposition(|byte| *byte == b'/'));
    let (Some(path_bytes), Some(slash)) = (trimmed, slash) else { return Err(error) };
    let (parent, name) = path_bytes.split_at(slash + 1);
    let Ok(name) = CString::new(name) else { return Err(error) };
    let parent = Path::new(OsStr::from_bytes(parent));
    let place = Place::open(parent).map_err(|error| match error.errno {
        libc::ENOENT => Error::new(
            libc::ENOENT,
            format!("cannot make {}: its parent directory does not exist", path.display()),
        ),
        _ => error,
    })?;
    // Its last component is there after all: a symbolic link that leads nowhere.
    if rustix::fs::statat(&place.fd, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        let text = format!("the destination {} leads to a directory that does not exist", path.display());
        return Err(Error::new(libc::ENOENT, text));
    }
    Ok((place, Some(name)))
}

fn check_prefix(real: &Path, prefix: &Path) -> Result<()> {
    let real_prefix =
        std::fs::canonicalize(prefix).map_err(|error| Error::io("use the allowed prefix", prefix, &error))?;
    if !prefix.is_absolute() || !real.starts_with(&real_prefix) {
        let text = format!(
            "the destination {} is not below the allowed prefix {}",
            real.display(),
            prefix.display()
        );
        return Err(Error::new(libc::EPERM, text));
    }
    Ok(())
}

/// Neither inside the other, by path, by inode, and by what is mounted where. `place` is the destination, or its
/// parent when it is `new`.
fn check_source(real: &Path, place: &Place, new: bool, source: &Path) -> Result<()> {
    let from = Place::open(source)?;
    let (real, source) = (real.display(), source.display());
    if place.is_inside(&from) {
        return Err(Error::invalid(format!("the destination {real} lies inside the source {source}")));
    }
    if !new && from.is_inside(place) {
        return Err(Error::invalid(format!("the source {source} lies inside the destination {real}")));
    }
    Ok(())
}

fn make(parent: Place, name: CString, path: PathBuf) -> Result<Destination> {
    let (directory, id) = make_directory(parent.fd.as_fd(), &name, &path)?;
    if let Err(error) = sync_directory(parent.fd.as_fd(), &parent.path) {
        remove_made(&parent.fd, &name, id);
        return Err(error);
    }
    Ok(Destination { path, directory, id, made: Some((parent.fd, name)), images: Vec::new() })
}

/// A new directory (mode 0750, whatever the umask takes from others), opened.
fn make_directory(parent: impl AsFd, name: &CStr, path: &Path) -> Result<(OwnedFd, Id)> {
    retry(|| rustix::fs::mkdirat(&parent, name, DIRECTORY_MODE))
        .map_err(|errno| failed("make the directory", path, errno))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = retry(|| rustix::fs::openat(&parent, name, flags, Mode::empty())).and_then(|directory| {
        rustix::fs::fchmod(&directory, DIRECTORY_MODE)?;
        let id = Id::of(&rustix::fs::fstat(&directory)?);
        Ok((directory, id))
    });
    opened.map_err(|errno| {
        let _ = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
        failed("open the directory", path, errno)
    })
}

/// Removes a directory that we made, unless another has its name now.
fn remove_made(parent: &OwnedFd, name: &CStr, id: Id) {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    if stat.is_ok_and(|stat| Id::of(&stat) == id) {
        let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
    }
}

/// fsync of a directory; EINVAL: the file system has no such thing (fsync(2)).
fn sync_directory(directory: impl AsFd, path: &Path) -> Result<()> {
    match retry(|| rustix::fs::fsync(&directory)) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(failed("sync", path, errno)),
    }
}
