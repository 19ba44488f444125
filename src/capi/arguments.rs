//! What a caller may ask for: everything is checked here before anything is touched. Each path is walked once; what
//! was opened is what is checked and written to.
//!
//! Whether the destinations are empty is looked at by the backup itself once it is the only one: beside another one
//! to the same place, EBUSY is the better answer.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::backup::{Frame, Members, Report, Source};
use crate::engine::destination::place::{Id, Place};
use crate::engine::error::{Error, Result, describe};
use crate::engine::folder::Folder;

/// The sources and their images, resolved and checked, and the images opened.
///
/// # Safety
/// Each array is NULL or holds `count` pointers that are NULL or C strings.
pub unsafe fn check(
    sources: *const *const c_char,
    images: *const *const c_char,
    count: c_int,
) -> Result<(Vec<Source>, Images)> {
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 {
        return Err(Error::invalid("dir_count must be 1 or more: there is no directory to back up"));
    }
    // SAFETY: what the caller promised.
    let sources = unsafe { directories(sources, count, "source", "source_dirs") }?;
    // SAFETY: as above.
    let images = unsafe { directories(images, count, "destination", "dest_dirs") }?;
    for (source, image) in sources.iter().flat_map(|source| images.iter().map(move |image| (source, image))) {
        if source.id == image.id {
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
    let pairs = sources.into_iter().zip(&images);
    let sources = pairs
        .map(|(source, image)| Source { path: source.path, image: image.path.clone(), members: Members::All })
        .collect();
    let places = images.iter().map(|image| (image.id, image.path.clone())).collect();
    let folders = images.into_iter().map(|image| Folder::new(image.fd, image.path)).collect();
    Ok((sources, Images { places, folders: Mutex::new(folders), refused: AtomicBool::new(false) }))
}

/// The destinations of a backup that is about to begin.
#[derive(Debug)]
pub struct Images {
    places: Vec<(Id, PathBuf)>,
    /// Until the backup begins; from then on it holds them.
    folders: Mutex<Vec<Folder>>,
    refused: AtomicBool,
}

impl Images {
    /// Whether they were not fit to be written to: then nothing has begun.
    pub fn were_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }
}

impl Frame for Images {
    fn begin(&self) -> Result<Vec<Folder>> {
        let folders = std::mem::take(&mut *self.folders.lock().unwrap_or_else(PoisonError::into_inner));
        let result = folders.iter().try_for_each(empty).map(|()| folders);
        self.refused.store(result.is_err(), Ordering::SeqCst);
        result
    }

    /// A backup that is not where it was asked for is no success.
    fn complete(&self, _: &Report) -> Result<()> {
        for (id, image) in &self.places {
            if !id.is_found_by(image)? {
                let path = image.display();
                let text = format!("Backup directory {path} was removed or replaced while the backup ran");
                return Err(Error::new(libc::ENOENT, text));
            }
        }
        Ok(())
    }
}

/// # Safety
/// `array` is NULL or holds `count` pointers that are NULL or C strings.
unsafe fn directories(
    array: *const *const c_char,
    count: usize,
    which: &str,
    name: &str,
) -> Result<Vec<Place>> {
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

fn resolve(which: &str, given: &Path) -> Result<Place> {
    Place::open(given).map_err(|cause| {
        let message = if cause.errno == libc::ENOTDIR {
            format!("Backup {which} {} is not a directory", given.display())
        } else {
            format!(
                "Could not resolve {which} directory path. {:?}: {}; the directory must exist before the backup",
                given.display(),
                describe(cause.errno)
            )
        };
        let errno = if (cause.errno, which) == (libc::ENOTDIR, "destination") { libc::EINVAL } else { cause.errno };
        Error::new(errno, message)
    })
}

fn apart(what: &str, inner: &Place, container: &str, outer: &Place) -> Result<()> {
    if !inner.is_inside(outer) {
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
fn pairwise(which: &str, all: &[Place]) -> Result<()> {
    for (index, one) in all.iter().enumerate() {
        for other in all.iter().skip(index + 1) {
            if one.id == other.id {
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

fn empty(image: &Folder) -> Result<()> {
    match image.names()?.first() {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "Backup directory {} is not empty: it holds {:?}; empty it or give another one",
            image.path().display(),
            name.to_string_lossy()
        ))),
    }
}
