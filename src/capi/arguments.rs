//! What a caller may ask for: everything is checked here before anything is touched.
//!
//! Whether the destinations are empty is looked at by the backup itself once it is the only one: beside another one
//! to the same place, EBUSY is the better answer.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backup::{Frame, Members, Report, Source};
use crate::engine::error::{Error, Result, describe};

/// The sources and their images, resolved and checked.
///
/// # Safety
/// Each array is NULL or holds `count` pointers that are NULL or C strings.
pub unsafe fn check(
    sources: *const *const c_char,
    images: *const *const c_char,
    count: c_int,
) -> Result<Vec<Source>> {
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 {
        return Err(Error::invalid("dir_count must be 1 or more: there is no directory to back up"));
    }
    // SAFETY: what the caller promised.
    let sources = unsafe { directories(sources, count, "source", "source_dirs") }?;
    // SAFETY: as above.
    let images = unsafe { directories(images, count, "destination", "dest_dirs") }?;
    for source in &sources {
        if !source.is_directory {
            return Err(not_a_directory(libc::ENOTDIR, "source", source));
        }
    }
    for (source, image) in sources.iter().flat_map(|source| images.iter().map(move |image| (source, image))) {
        if source.same(image) {
            return Err(Error::invalid(format!(
                "Source and destination directories are the same. Both are {}: give a destination outside",
                source.path.display()
            )));
        }
        apart("The destination directory", image, "the source directory", source)?;
        apart("The source directory", source, "the destination directory", image)?;
    }
    pairwise("source", &sources)?;
    pairwise("destination", &images)?;
    for image in &images {
        if !image.is_directory {
            return Err(not_a_directory(libc::EINVAL, "destination", image));
        }
    }
    let pairs = sources.into_iter().zip(images);
    Ok(pairs
        .map(|(source, image)| Source { path: source.path, image: image.path, members: Members::All })
        .collect())
}

/// The destinations of a backup that is about to begin.
#[derive(Debug)]
pub struct Images {
    directories: Vec<PathBuf>,
    refused: AtomicBool,
}

impl Images {
    pub fn of(sources: &[Source]) -> Self {
        let directories = sources.iter().map(|source| source.image.clone()).collect();
        Images { directories, refused: AtomicBool::new(false) }
    }

    /// Whether they were not fit to be written to: then nothing has begun.
    pub fn were_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }
}

impl Frame for Images {
    fn begin(&self) -> Result<()> {
        let result = self.directories.iter().try_for_each(|image| empty(image));
        self.refused.store(result.is_err(), Ordering::SeqCst);
        result
    }

    fn complete(&self, _: &Report) -> Result<()> {
        Ok(())
    }
}

/// A resolved argument.
struct Directory {
    given: PathBuf,
    path: PathBuf,
    identity: (u64, u64),
    is_directory: bool,
}

impl Directory {
    fn same(&self, other: &Directory) -> bool {
        self.identity == other.identity
    }

    /// Whether it lies below `outer`, also by way of a bind mount.
    fn is_below(&self, outer: &Directory) -> bool {
        self.path.ancestors().skip(1).any(|above| {
            above == outer.path
                || fs::metadata(above).is_ok_and(|found| (found.dev(), found.ino()) == outer.identity)
        })
    }
}

/// # Safety
/// `array` is NULL or holds `count` pointers that are NULL or C strings.
unsafe fn directories(
    array: *const *const c_char,
    count: usize,
    which: &str,
    name: &str,
) -> Result<Vec<Directory>> {
    if array.is_null() {
        return Err(Error::invalid(format!(
            "{name} is NULL: give an array of dir_count {which} directories"
        )));
    }
    // SAFETY: not NULL, so it holds `count` pointers.
    let given = unsafe { std::slice::from_raw_parts(array, count) };
    if given.iter().any(|directory| directory.is_null()) {
        return Err(Error::invalid(format!("One of the {which} directories is NULL")));
    }
    given
        .iter()
        .map(|directory| {
            // SAFETY: not NULL, so a C string.
            let given = unsafe { CStr::from_ptr(*directory) };
            resolve(which, Path::new(OsStr::from_bytes(given.to_bytes())))
        })
        .collect()
}

fn resolve(which: &str, given: &Path) -> Result<Directory> {
    let resolved = fs::canonicalize(given).and_then(|path| fs::metadata(&path).map(|found| (path, found)));
    match resolved {
        Ok((path, found)) => Ok(Directory {
            given: given.to_owned(),
            path,
            identity: (found.dev(), found.ino()),
            is_directory: found.is_dir(),
        }),
        Err(cause) => {
            let errno = cause.raw_os_error().unwrap_or(libc::EIO);
            let message = format!(
                "Could not resolve {which} directory path. {:?}: {}; the directory must exist before the backup",
                given.display(),
                describe(errno)
            );
            Err(Error::new(errno, message))
        }
    }
}

fn not_a_directory(errno: i32, which: &str, found: &Directory) -> Error {
    Error::new(errno, format!("Backup {which} {} is not a directory", found.given.display()))
}

fn apart(what: &str, inner: &Directory, container: &str, outer: &Directory) -> Result<()> {
    if !inner.is_below(outer) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} {} is inside {container} {}: choose directories apart from each other",
        inner.path.display(),
        outer.path.display()
    )))
}

/// No directory may be given twice or lie inside another of its kind: its files would be backed up twice, and two
/// images would share them.
fn pairwise(which: &str, all: &[Directory]) -> Result<()> {
    for (index, one) in all.iter().enumerate() {
        for other in all.iter().skip(index + 1) {
            if one.same(other) {
                return Err(Error::invalid(format!(
                    "The {which} directory {} is given twice",
                    one.path.display()
                )));
            }
            apart(&format!("The {which} directory"), one, "another one,", other)?;
            apart(&format!("The {which} directory"), other, "another one,", one)?;
        }
    }
    Ok(())
}

fn empty(image: &Path) -> Result<()> {
    let mut names =
        fs::read_dir(image).map_err(|cause| Error::io("read the destination directory", image, &cause))?;
    match names.next() {
        None => Ok(()),
        Some(Err(cause)) => Err(Error::io("read the destination directory", image, &cause)),
        Some(Ok(name)) => Err(Error::invalid(format!(
            "Backup directory {} is not empty: it holds {:?}; empty it or give another one",
            image.display(),
            name.file_name()
        ))),
    }
}
