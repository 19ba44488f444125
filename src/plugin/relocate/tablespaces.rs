//! InnoDB's tablespaces from elsewhere, and the .isl files that lead to them.

#[cfg(test)]
pub(crate) mod fuzz;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{image_of, normal, relative};
use crate::backup::Members;
use crate::engine::attributes;
use crate::engine::error::{Error, Result};
use crate::engine::folder::Folder;
use crate::engine::manifest::{Moved, Name};
use crate::plugin::indexes::rewrite;
use crate::plugin::layout::{DATA_DIR_IMAGE, ELSEWHERE_IMAGE, Layout, Part, leads_out};
use crate::plugin::redo::{self, Directories, Tablespace};

/// Seen from the data directory.
const UP: &str = "../";

/// Where the images of tablespaces from elsewhere go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// They stay. MySQL 5.6 follows the .isl file, and nobody else has any there.
    Stay,
    /// Into the data directory's image: InnoDB of MySQL 8 and later finds one anywhere in there by its number; by its
    /// old path it would find the live server's.
    Home,
    /// Into directories beside it, for which there is room in the names of MariaDB's redo log. (In the data directory a
    /// table would have a DATA DIRECTORY that MariaDB takes for none: 10.11 crashes in the next ALTER TABLE, 10.5 refuses it.)
    Beside(Beside),
}

/// What becomes of MariaDB's tablespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The image of the redo log.
    log: PathBuf,
    /// What the log calls directories, and what it will.
    names: Directories,
    /// The directory of the backup for each directory of the server. Two must not share one: a table that was dropped in one and
    /// made in the other would be one file to the recovery.
    directories: BTreeMap<PathBuf, String>,
}

impl Place {
    /// Finds it.
    pub fn of(destination: &Folder, layout: &Layout) -> Result<Place> {
        if layout.finds_tablespaces {
            return Ok(Place::Home);
        }
        let Some(log) = layout.redo_log.as_deref().filter(|_| layout.parts.iter().any(is_elsewhere)) else {
            return Ok(Place::Stay);
        };
        let image = layout.image_of(log);
        let image = image.ok_or_else(|| leads_out(Path::new("innodb_log_group_home_dir"), log))?;
        if destination.open_below(&image)?.is_none() {
            return Ok(Place::Stay);
        }
        Beside::of(destination, layout, image).map(Place::Beside).or_else(|error| {
            // Only tables without InnoDB lie elsewhere: the log is of no interest.
            let mut parts = layout.parts.iter().filter(|part| is_elsewhere(part));
            let has_none = |part| tablespaces_of(destination, part).map(|found| found.is_empty());
            let is_harmless = parts.try_fold(true, |all, part| has_none(part).map(|none| all && none))?;
            if is_harmless && error.errno == libc::ENOTSUP { Ok(Place::Stay) } else { Err(error) }
        })
    }

    /// An .isl file holds the path of a tablespace, which servers take relative to the data directory.
    pub fn turn_isl(&self, layout: &Layout, isl: &Path, folder: &Folder, name: &CStr) -> Result<()> {
        let gone = || Error::io("read", &folder.path_of(name), &Errno::NOENT.into());
        let content = folder.read(name)?.ok_or_else(gone)?;
        self.turned(layout, isl, &content)?.map_or(Ok(()), |wanted| rewrite(folder, name, &wanted))
    }

    /// The content that an .isl file must have; `None`: it has it.
    fn turned(&self, layout: &Layout, isl: &Path, content: &[u8]) -> Result<Option<Vec<u8>>> {
        let target = content.trim_ascii();
        let led = layout.data_dir().join(OsStr::from_bytes(target));
        let image = image_of(layout, &led).ok_or_else(|| leads_out(isl, &led))?;
        let beside = match self {
            Place::Beside(beside) => {
                let turned = |name: &[u8]| beside.turned(name, &real_directory(layout, name));
                // The name as the log has it; one that was spelled by hand, without its dots.
                turned(target).or_else(|| turned(normal(&led).as_os_str().as_bytes()))
            }
            _ => None,
        };
        let relative = || relative(&Path::new(DATA_DIR_IMAGE).join("x"), &image).into_os_string().into_vec();
        let wanted = beside.unwrap_or_else(relative);
        Ok((wanted != target).then_some(wanted))
    }

    /// Moves the tablespaces there, and makes MariaDB's log tell it.
    pub fn settle(&self, destination: &Folder, layout: &Layout) -> Result<Vec<Moved>> {
        let mut moved = Vec::new();
        if *self == Place::Stay {
            return Ok(moved);
        }
        for part in layout.parts.iter().filter(|part| is_elsewhere(part)) {
            let image = Path::new(&part.image);
            let tablespaces = tablespaces_of(destination, part)?;
            if tablespaces.is_empty() {
                continue;
            }
            let folder = self.folder(destination, part)?;
            for path in tablespaces {
                let below = path.strip_prefix(image).unwrap_or(&path);
                let to = folder.join(path.file_name().unwrap_or_default());
                move_file(destination, &path, &to)?;
                moved.push(Moved { path: Name(to), from: Name(part.path.join(below)) });
            }
        }
        if let Place::Beside(beside) = self {
            let (log, path) = open_log(destination, &beside.log)?;
            let more = beside.numbered(destination, &moved)?;
            redo::turn_names(&log, &path, &beside.names, &more)?;
        }
        Ok(moved)
    }

    /// The folder for a part's tablespaces, named after their schema.
    fn folder(&self, destination: &Folder, part: &Part) -> Result<PathBuf> {
        let home = Path::new(DATA_DIR_IMAGE);
        let schema = part.path.file_name().unwrap_or_default();
        let known = |beside: &Beside| beside.directories.get(part.path.parent()?).cloned();
        let Place::Beside(beside) = self else {
            // fil0fil.cc: is_valid_location.
            let schema = home.join(schema);
            return Ok(if is_directory(destination, &schema) { schema } else { home.to_owned() });
        };
        let directory = known(beside).ok_or_else(|| leads_out(&part.path, &part.path))?;
        let folder = Path::new(&directory).join(schema);
        make_like(destination, Path::new(&directory), home)?;
        make_like(destination, &folder, Path::new(&part.image))?;
        Ok(folder)
    }
}

impl Beside {
    fn of(destination: &Folder, layout: &Layout, log: PathBuf) -> Result<Beside> {
        let gone = || Error::io("open", &log, &Errno::NOENT.into());
        let file = destination.open_below(&log)?.ok_or_else(gone)?;
        let named: Vec<(Vec<u8>, PathBuf)> = redo::directories(&file, &destination.path().join(&log))?
            .into_iter()
            .map(|name| (name.clone(), real_directory(layout, &[&name[..], b"/d/t.ibd"].concat())))
            .collect();
        let mut real: BTreeSet<PathBuf> = named.iter().map(|(_, real)| real.clone()).collect();
        for part in layout.parts.iter().filter(|part| is_elsewhere(part)) {
            if !tablespaces_of(destination, part)?.is_empty() {
                real.extend(part.path.parent().map(Path::to_owned));
            }
        }
        let mut directories = BTreeMap::new();
        for (directory, count) in real.into_iter().zip(1..) {
            let names = named.iter().filter(|(_, real)| *real == directory).map(|(name, _)| name.len());
            let room = names.min().unwrap_or(usize::MAX).saturating_sub(UP.len());
            let name = names_of(count).into_iter().find(|name| name.len() <= room).ok_or_else(|| {
                let text = format!(
                    "the DATA DIRECTORY {} has so short a path that none of the backup can stand in its place in the redo log: \
                     bring its tables into the data directory",
                    directory.display()
                );
                Error::new(libc::ENOTSUP, text)
            })?;
            directories.insert(directory, name);
        }
        let turned = |(name, real)| Some((name, format!("{UP}{}", directories.get::<PathBuf>(&real)?)));
        let names = named.into_iter().filter_map(turned).collect();
        Ok(Beside { log, names, directories })
    }

    /// What a tablespace's name becomes whose directory is `real`.
    fn turned(&self, name: &[u8], real: &Path) -> Option<Vec<u8>> {
        redo::turned(name, &format!("{UP}{}", self.directories.get(real)?))
    }

    /// The numbers of tablespaces that were moved, and their names as seen from the data directory.
    fn numbered(&self, destination: &Folder, moved: &[Moved]) -> Result<Vec<Tablespace>> {
        let mut tablespaces = Vec::new();
        for Moved { path: Name(path), from: Name(from) } in moved {
            let real = from.ancestors().nth(2).unwrap_or(Path::new("/"));
            let name = self.turned(from.as_os_str().as_bytes(), real);
            if let (Some(name), Some(id)) = (name, number_of(destination, path)?) {
                tablespaces.push(Tablespace { id, name });
            }
        }
        Ok(tablespaces)
    }
}

/// The image of a redo log for reading and writing, and its path.
pub fn open_log(destination: &Folder, image: &Path) -> Result<(File, PathBuf)> {
    let (folder, name) = destination.parent_of(image)?;
    let path = folder.path_of(&name);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let log = rustix::fs::openat(&folder, &name, flags, Mode::empty());
    log.map(|log| (File::from(log), path.clone())).map_err(|errno| Error::io("open", &path, &errno.into()))
}

/// Names for the directory of that number, the best first.
fn names_of(count: u32) -> Vec<String> {
    match count {
        1 => vec!["tablespaces".to_owned(), "t".to_owned()],
        _ => vec![format!("tablespaces.{count}"), format!("t{count}"), count.to_string()],
    }
}

/// The real path of what comes before the schema in a tablespace's name.
fn real_directory(layout: &Layout, name: &[u8]) -> PathBuf {
    let path = layout.data_dir().join(OsStr::from_bytes(name));
    let directory = path.ancestors().nth(2).unwrap_or(Path::new("/"));
    directory.canonicalize().unwrap_or_else(|_| normal(directory))
}

/// Those in the image of a part.
fn tablespaces_of(destination: &Folder, part: &Part) -> Result<Vec<PathBuf>> {
    let mut tablespaces = Vec::new();
    destination.walk(Path::new(&part.image), &mut |path, _, _, stat| {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && path.extension().is_some_and(|e| e == "ibd" || e == "ibu") {
            tablespaces.push(path.to_owned());
        }
        Ok(())
    })?;
    Ok(tablespaces)
}

fn is_elsewhere(part: &Part) -> bool {
    part.members != Members::All && part.image.starts_with(ELSEWHERE_IMAGE)
}

/// The number of a tablespace, from its first page. `None`: that was not written yet, so the log has it.
fn number_of(destination: &Folder, path: &Path) -> Result<Option<u32>> {
    /// FIL_PAGE_SPACE_ID.
    const PLACE: u64 = 34;
    let Some(file) = destination.open_below(path)? else { return Ok(None) };
    let mut number = [0; 4];
    match file.read_exact_at(&mut number, PLACE) {
        Ok(()) => Ok(Some(u32::from_be_bytes(number)).filter(|&number| number != 0)),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(Error::io("read", &destination.path().join(path), &e)),
    }
}

fn is_directory(destination: &Folder, path: &Path) -> bool {
    let stat = destination.parent_of(path).and_then(|(folder, name)| folder.stat(&name));
    stat.ok().flatten().is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// A directory with the owner and mode of another one, if it does not exist.
fn make_like(destination: &Folder, path: &Path, model: &Path) -> Result<()> {
    if is_directory(destination, path) {
        return Ok(());
    }
    let (folder, name) = destination.parent_of(path)?;
    let failed = |errno: Errno| Error::io("look at", &destination.path().join(model), &errno.into());
    let stat = rustix::fs::fstat(&destination.folder(model)?).map_err(failed)?;
    let made = folder.make_folder(&name, Mode::RWXU)?;
    attributes::apply(made.as_fd(), &stat, made.path())?;
    folder.sync()
}

fn move_file(destination: &Folder, from: &Path, to: &Path) -> Result<()> {
    let (old, old_name) = destination.parent_of(from)?;
    let (new, new_name) = destination.parent_of(to)?;
    rustix::fs::renameat_with(&old, &old_name, &new, &new_name, RenameFlags::NOREPLACE).map_err(|errno| {
        let what = format!("move a tablespace to {}, from", to.display());
        Error::io(&what, &old.path_of(&old_name), &errno.into())
    })?;
    new.sync()?;
    old.sync()
}
