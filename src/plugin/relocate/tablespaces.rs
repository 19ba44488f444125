//! InnoDB's tablespaces from elsewhere, and the .isl files that lead to them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;

use super::{image_of, relative, walk};
use crate::backup::Members;
use crate::engine::attributes;
use crate::engine::error::{Error, Result};
use crate::engine::manifest::{Moved, Name};
use crate::plugin::indexes::{rewrite, sync_directory_of};
use crate::plugin::layout::{DATA_DIR_IMAGE, ELSEWHERE_IMAGE, Layout, Part, leads_out};
use crate::plugin::redo::{self, Tablespace};

/// Where MariaDB's tablespaces from elsewhere go, or what of it is short enough.
const TABLESPACES: &str = "tablespaces";
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
    /// Into a directory beside it, for which there is room in the names of MariaDB's redo log, at this path. (In the data
    /// directory a table would have a DATA DIRECTORY that MariaDB takes for none: 10.11 crashes in the next ALTER TABLE,
    /// 10.5 refuses it.)
    Beside(String, PathBuf),
}

impl Place {
    /// Finds it.
    pub fn of(destination: &Path, layout: &Layout) -> Result<Place> {
        if layout.finds_tablespaces {
            return Ok(Place::Home);
        }
        let Some(log) =
            layout.redo_log.as_deref().filter(|_| layout.parts.iter().any(|part| is_elsewhere(part)))
        else {
            return Ok(Place::Stay);
        };
        let image = layout.image_of(log).map(|image| destination.join(image));
        let image = image.ok_or_else(|| leads_out(Path::new("innodb_log_group_home_dir"), log))?;
        match redo::is_known(&image) {
            // What was there at the beginning was refused then.
            Err(error) if error.errno == libc::ENOTSUP => return Ok(Place::Stay),
            other => other?,
        }
        let room = redo::shortest(&image)?.unwrap_or(usize::MAX).saturating_sub(UP.len());
        match TABLESPACES.get(..room.min(TABLESPACES.len())) {
            Some(name) if !name.is_empty() => Ok(Place::Beside(name.to_owned(), image)),
            _ => Err(Error::new(
                libc::ENOTSUP,
                format!(
                    "the redo log {} names a table whose DATA DIRECTORY is so short that no directory of the backup can \
                     stand in its place: bring the table into the data directory",
                    log.display()
                ),
            )),
        }
    }

    /// An .isl file holds the path of a tablespace, which servers take relative to the data directory.
    pub fn turn_isl(&self, destination: &Path, layout: &Layout, isl: &Path) -> Result<()> {
        let path = destination.join(isl);
        let content = std::fs::read(&path).map_err(|e| Error::io("read", &path, &e))?;
        let target = Path::new(OsStr::from_bytes(content.trim_ascii()));
        let led = layout.data_dir().join(target);
        let image = image_of(layout, &led).ok_or_else(|| leads_out(isl, &led))?;
        let wanted = match (self, led.parent().and_then(Path::file_name), led.file_name()) {
            (Place::Beside(directory, _), Some(schema), Some(file)) => {
                Path::new(UP).join(directory).join(schema).join(file)
            }
            _ => relative(&Path::new(DATA_DIR_IMAGE).join("x"), &image),
        };
        if wanted == target {
            return Ok(());
        }
        rewrite(&path, wanted.as_os_str().as_bytes())
    }

    /// Moves the tablespaces there, and makes MariaDB's log tell it.
    pub fn settle(&self, destination: &Path, layout: &Layout) -> Result<Vec<Moved>> {
        let mut moved = Vec::new();
        if *self == Place::Stay {
            return Ok(moved);
        }
        for part in layout.parts.iter().filter(|part| is_elsewhere(part)) {
            let image = Path::new(&part.image);
            let mut tablespaces = Vec::new();
            walk(destination, image, &mut |path, kind| {
                if kind.is_file() && path.extension().is_some_and(|e| e == "ibd" || e == "ibu") {
                    tablespaces.push(path.to_owned());
                }
                Ok(())
            })?;
            if tablespaces.is_empty() {
                continue;
            }
            let folder = self.folder(destination, part)?;
            for path in tablespaces {
                let below = path.strip_prefix(image).unwrap_or(&path);
                let to = folder.join(path.file_name().unwrap_or_default());
                move_file(&destination.join(&path), &destination.join(&to))?;
                moved.push(Moved { path: Name(to), from: Name(part.path.join(below)) });
            }
            sync_directory_of(&destination.join(image).join("x"))?;
        }
        if let Place::Beside(directory, log) = self {
            let directory = format!("{UP}{directory}");
            redo::turn_names(log, &directory, &numbered(destination, &moved)?)?;
        }
        Ok(moved)
    }

    /// The folder for a part's tablespaces, named after their schema.
    fn folder(&self, destination: &Path, part: &Part) -> Result<PathBuf> {
        let home = Path::new(DATA_DIR_IMAGE);
        let schema = part.path.file_name().unwrap_or_default();
        let Place::Beside(directory, _) = self else {
            // fil0fil.cc: is_valid_location.
            let schema = home.join(schema);
            return Ok(if destination.join(&schema).is_dir() { schema } else { home.to_owned() });
        };
        let folder = Path::new(directory).join(schema);
        make_like(&destination.join(directory), &destination.join(home))?;
        make_like(&destination.join(&folder), &destination.join(&part.image))?;
        Ok(folder)
    }
}

fn is_elsewhere(part: &Part) -> bool {
    part.members != Members::All && part.image.starts_with(ELSEWHERE_IMAGE)
}

/// The numbers of tablespaces that were moved, and their names as seen from the data directory.
fn numbered(destination: &Path, moved: &[Moved]) -> Result<Vec<Tablespace>> {
    let mut tablespaces = Vec::new();
    for Moved { path: Name(path), .. } in moved {
        if let Some(id) = number_of(&destination.join(path))? {
            tablespaces.push(Tablespace { id, name: [UP.as_bytes(), path.as_os_str().as_bytes()].concat() });
        }
    }
    Ok(tablespaces)
}

/// The number of a tablespace, from its first page. `None`: that was not written yet, so the log has it.
fn number_of(path: &Path) -> Result<Option<u32>> {
    /// FIL_PAGE_SPACE_ID.
    const PLACE: u64 = 34;
    let mut number = [0; 4];
    match File::open(path).and_then(|file| file.read_exact_at(&mut number, PLACE)) {
        Ok(()) => Ok(Some(u32::from_be_bytes(number)).filter(|&number| number != 0)),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(Error::io("read", path, &e)),
    }
}

/// A directory with the owner and mode of another one, if it does not exist.
fn make_like(path: &Path, model: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(|e| Error::io("make", path, &e))?,
    }
    let stat = rustix::fs::stat(model).map_err(|errno| Error::io("look at", model, &errno.into()))?;
    let made = File::open(path).map_err(|e| Error::io("open", path, &e))?;
    attributes::apply(made.as_fd(), &stat, path)?;
    sync_directory_of(path)
}

fn move_file(from: &Path, to: &Path) -> Result<()> {
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE).map_err(|errno| {
        Error::io(&format!("move a tablespace to {}, from", to.display()), from, &errno.into())
    })?;
    sync_directory_of(to)
}
