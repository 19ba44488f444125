//! The directory that a backup is written into: checked, made, marked incomplete first and complete last.
//!
//! Its path is walked once, when it is opened, and what was opened is what is checked; from then on everything goes
//! by directory descriptor ([`Folder`]). At the end the path must still lead to the same directory: a backup that
//! nobody can find is no success.

pub mod place;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString, OsStr};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::folder::{Folder, retry};
use super::manifest::Manifest;
use super::store::STORE_NAME;
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
    folder: Folder,
    id: Id,
    /// The parent and the name in it, when the directory was made by us.
    made: Option<(Folder, CString)>,
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
        let allowed = |place: &Place, new: bool| {
            allowed_prefix.map_or(Ok(()), |prefix| check_prefix(&real, place, prefix))?;
            sources.iter().try_for_each(|source| check_source(&real, place, new, source))
        };
        allowed(&place, name.is_some())?;
        let destination = match name {
            Some(name) => make(place, name)?,
            None => Destination {
                id: place.id,
                folder: Folder::new(place.fd, place.path),
                made: None,
                images: Vec::new(),
            },
        };
        let ready = match &destination.made {
            // What was opened is what counts, should it not be what was made.
            Some(_) => destination.place().and_then(|place| allowed(&place, false)),
            None => Ok(()),
        };
        let marked = ready.and_then(|()| destination.check_empty()).and_then(|()| {
            destination.mark_incomplete().inspect_err(|_| {
                let _ = destination.folder.remove_file(INCOMPLETE);
            })
        });
        if let Err(error) = marked {
            destination.remove_if_made();
            return Err(error);
        }
        Ok(destination)
    }

    fn place(&self) -> Result<Place> {
        Place::of(self.folder.again()?.into(), self.folder.path())
    }

    /// Its real path, for messages.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The directory.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Device and inode: a source directory that is the same must not be copied into itself.
    pub fn device_and_inode(&self) -> (u64, u64) {
        (self.id.device, self.id.inode)
    }

    /// Makes an empty directory (mode 0750) for the image of a source.
    pub fn make_image(&mut self, name: &str) -> Result<Folder> {
        let name = self.name(name)?;
        let image = self.folder.make_folder(&name, DIRECTORY_MODE)?;
        let id = Id::of_folder(&image).inspect_err(|_| {
            let _ = self.folder.remove_folder(&name);
        })?;
        self.images.push((name, id));
        Ok(image)
    }

    /// Removes an image from which everything was moved into another one.
    pub fn remove_image(&mut self, name: &str) -> Result<()> {
        let name = self.name(name)?;
        self.folder.remove_folder(&name)?;
        self.images.retain(|(image, _)| *image != name);
        Ok(())
    }

    /// Writes a file beside the images (mode 0640), durably.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let name = self.name(name)?;
        let mut file = self.folder.create(&name, FILE_MODE)?;
        file.write_all(content)
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io("write", &self.folder.path_of(&name), &error))
    }

    fn name(&self, name: &str) -> Result<CString> {
        CString::new(name).map_err(|_| {
            let path = self.path().join(name);
            Error::invalid(format!("nothing in the destination can be named {}", path.display()))
        })
    }

    /// Takes back everything that was made, while nothing has been copied yet: for a backup that is refused. What
    /// is not empty stays, and stays marked incomplete.
    pub fn discard(self) {
        for (name, _) in &self.images {
            let image = self.folder.folder(Path::new(OsStr::from_bytes(name.to_bytes())));
            let _ = image.and_then(|image| image.remove_folder(STORE_NAME));
        }
        let removed = self.images.iter().all(|(name, _)| self.folder.remove_folder(name).is_ok());
        if removed {
            let _ = self.folder.remove_file(INCOMPLETE);
            self.remove_if_made();
        }
    }

    /// Everything is copied and durable: writes the manifest and takes the mark away. Until it returns Ok the
    /// backup is incomplete.
    pub fn finish(&self, manifest: &Manifest) -> Result<()> {
        self.verify()?;
        let finish = || {
            self.write_manifest(manifest)?;
            self.verify()?;
            self.folder.remove_file(INCOMPLETE)?;
            self.folder.sync()?;
            self.verify()
        };
        // A failed backup is marked whatever happens; if even that fails, the error is the first one.
        finish().inspect_err(|_| self.revoke())
    }

    /// After [`Destination::finish`], when the backup has been reported as failed meanwhile: marks it again.
    pub fn revoke(&self) {
        // Already marked, or beyond help: the report was of a failure in any case.
        let _ = self.mark_incomplete();
        let _ = self.folder.remove_file(MANIFEST);
        let _ = self.folder.remove_file(UNFINISHED_MANIFEST);
    }

    fn check_empty(&self) -> Result<()> {
        let path = self.path().display();
        let refuse = |what: String| Error::new(libc::ENOTEMPTY, format!("the destination {path} {what}"));
        let holds = |name: &CStr| self.folder.stat(name).is_ok_and(|stat| stat.is_some());
        if holds(INCOMPLETE) {
            return Err(refuse(
                "holds an incomplete backup: remove it, or choose another directory".to_owned(),
            ));
        }
        if holds(MANIFEST) {
            return Err(refuse("holds a backup already: choose another directory".to_owned()));
        }
        match self.folder.names()?.first() {
            None => Ok(()),
            Some(name) => {
                let name = name.to_string_lossy();
                Err(refuse(format!("is not empty, it holds '{name}': choose an empty or a new directory")))
            }
        }
    }

    /// On failure the mark may be there, without its text or not durable: it marks all the same.
    fn mark_incomplete(&self) -> Result<()> {
        let mut file = self.folder.create(INCOMPLETE, FILE_MODE)?;
        file.write_all(INCOMPLETE_TEXT.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io("write", &self.folder.path_of(INCOMPLETE), &error))?;
        self.folder.sync()
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let path = self.folder.path_of(MANIFEST);
        let file = self.folder.create(UNFINISHED_MANIFEST, FILE_MODE)?;
        manifest
            .write(&file)
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io("write", &path, &error))?;
        rustix::fs::renameat(&self.folder, UNFINISHED_MANIFEST, &self.folder, MANIFEST)
            .map_err(|errno| failed("write", &path, errno))?;
        self.folder.sync()
    }

    /// The path still leads to the directory, and the directory to its images. (This is only looked at.)
    pub fn verify(&self) -> Result<()> {
        let moved = |path: &Path| {
            let text = format!("{} was removed or replaced while the backup ran", path.display());
            Error::new(libc::ENOENT, text)
        };
        if !self.id.is_found_by(self.path())? {
            return Err(moved(self.path()));
        }
        for (name, id) in &self.images {
            if self.folder.stat(name)?.is_none_or(|stat| Id::of(&stat) != *id) {
                return Err(moved(&self.folder.path_of(name)));
            }
        }
        Ok(())
    }

    /// Removes the directory if we made it, unless another has its name now.
    fn remove_if_made(&self) {
        if let Some((parent, name)) = &self.made
            && parent.stat(name).is_ok_and(|stat| stat.is_some_and(|stat| Id::of(&stat) == self.id))
        {
            let _ = parent.remove_folder(name);
        }
    }
}

fn failed(operation: &str, path: &Path, errno: Errno) -> Error {
    Error::io(operation, path, &errno.into())
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

/// The destination, or its parent and its name when it does not exist. Each component is looked up once.
fn find(path: &Path) -> Result<(Place, Option<CString>)> {
    let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Split by hand: `Path` would take `..` and `.` out of what the kernel is to walk.
    let bytes = path.as_os_str().as_bytes();
    let trimmed = bytes.iter().rposition(|byte| *byte != b'/').and_then(|last| bytes.get(..=last));
    let slash = trimmed.and_then(|path| path.iter().rposition(|byte| *byte == b'/'));
    let split = trimmed.zip(slash).map(|(path, slash)| path.split_at(slash + 1));
    let Some((parent, Ok(name))) = split.map(|(parent, name)| (parent, CString::new(name))) else {
        return Ok((Place::open(Path::new("/"))?, None));
    };
    let parent_path = Path::new(OsStr::from_bytes(parent));
    let parent = retry(|| rustix::fs::open(parent_path, OFlags::PATH | directory, Mode::empty()));
    let parent = parent.map_err(|errno| match errno {
        Errno::NOENT => Error::new(
            libc::ENOENT,
            format!("cannot make {}: its parent directory does not exist", path.display()),
        ),
        errno => failed("open the directory", path, errno),
    })?;
    // A link is followed, as the user may have written one.
    match retry(|| rustix::fs::openat(&parent, &name, OFlags::RDONLY | directory, Mode::empty())) {
        Ok(fd) => Ok((Place::of(fd, path)?, None)),
        Err(Errno::NOENT) => {
            // Its last component is there after all: a symbolic link that leads nowhere.
            if rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                let text =
                    format!("the destination {} leads to a directory that does not exist", path.display());
                return Err(Error::new(libc::ENOENT, text));
            }
            Ok((Place::of(parent, parent_path)?, Some(name)))
        }
        Err(errno) => Err(failed("open the directory", path, errno)),
    }
}

/// `place` is the destination, or its parent.
fn check_prefix(real: &Path, place: &Place, prefix: &Path) -> Result<()> {
    let allowed = rustix::fs::stat(prefix)
        .map_err(|errno| failed("use the allowed prefix", prefix, errno))
        .map(|stat| Id::of(&stat))?;
    if !prefix.is_absolute() || !place.is_below(allowed) {
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

fn make(parent: Place, name: CString) -> Result<Destination> {
    // To be read, for fsync: the one that was checked, no path.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = retry(|| rustix::fs::openat(&parent.fd, c".", flags, Mode::empty()))
        .map_err(|errno| failed("open the directory", &parent.path, errno))?;
    let parent = Folder::new(readable, parent.path);
    let folder = parent.make_folder(&name, DIRECTORY_MODE)?;
    let id = Id::of_folder(&folder).inspect_err(|_| {
        let _ = parent.remove_folder(&name);
    })?;
    let destination = Destination { folder, id, made: Some((parent, name)), images: Vec::new() };
    if let Some((parent, _)) = &destination.made
        && let Err(error) = parent.sync()
    {
        destination.remove_if_made();
        return Err(error);
    }
    Ok(destination)
}
