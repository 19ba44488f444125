//! Tables that were created with DATA DIRECTORY, tablespaces that were added elsewhere, databases that are symbolic
//! links: where links and .isl files lead, what lies in innodb_directories, what the server has open.

use std::ffi::{CString, OsStr};
use std::fs::FileType;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::{ELSEWHERE_IMAGE, Layout, from_bytes, split};
use crate::backup::{Choice, Members};
use crate::engine::destination::{INCOMPLETE, MANIFEST};
use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::engine::source;
use crate::plugin::redo;
use crate::server::Host;
use crate::server::files::{ServerFiles, engine_variable};

/// Endings of files that belong to tables.
const ENDINGS: [&str; 17] = [
    ".ibd", ".ibu", ".isl", ".cfg", ".frm", ".par", ".MYD", ".MYI", ".MAD", ".MAI", ".CSV", ".CSM", ".ARZ",
    ".ARM", ".MRG", ".tokudb", ".sst",
];
/// More than an .isl file holds, bytes.
const LONGEST_PATH: u64 = 64 << 10;
/// Those of InnoDB's tablespaces.
const TABLESPACES: [&str; 2] = [".ibd", ".ibu"];
/// Beginnings of names of tablespaces and engine logs.
const BEGINNINGS: [&str; 6] = ["ibdata", "ib_logfile", "#ib_redo", "undo", "aria_log", "#ib_16384_"];

impl Layout {
    pub(super) fn add_tables_elsewhere(
        &mut self,
        host: &Host,
        exclude: &Exclude,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        // A database elsewhere may hold links itself.
        let mut next = 0;
        while let Some(part) = self.parts.get(next).cloned() {
            next += 1;
            let mut found = Vec::new();
            let data_dir = self.data_dir().to_owned();
            walk(&part.path, &part.members, exclude, poll, &mut |path, kind| {
                found.extend(leads_to(path, kind, &data_dir)?);
                Ok(())
            })?;
            for target in found {
                self.add_table_file(&target)?;
            }
        }
        let directories = engine_variable(host, "innodb_directories").unwrap_or_default();
        for directory in directories.split(|&b| b == b';') {
            let path = self.data_dir().join(from_bytes(directory.trim_ascii()));
            self.innodb_directories.extend(path.canonicalize());
        }
        for target in self.tablespaces(exclude, poll)? {
            self.add_table_file(&target)?;
        }
        Ok(())
    }

    /// Table files that the server has open elsewhere, however it came to them.
    pub(super) fn add_open_files(&mut self, files: &ServerFiles, exclude: &Exclude) -> Result<()> {
        for path in open_table_files(files)? {
            if !exclude.matches(path.as_os_str().as_bytes()) {
                self.add_table_file(&path)?;
            }
        }
        Ok(())
    }

    /// The tablespaces in the directories where InnoDB looks for them.
    fn tablespaces(&self, exclude: &Exclude, poll: &mut dyn FnMut() -> Result<()>) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for directory in &self.innodb_directories {
            walk(directory, &Members::All, exclude, poll, &mut |path, _| {
                if is_tablespace(path) && !is_in_a_backup(path, directory) {
                    found.push(path.to_owned());
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Whether the server has made table files since the layout was taken, up to the instant T, in directories that
    /// are not backed up. (MySQL 8 and later keep no link to them.)
    pub fn refuse_new_directories(&self, exclude: &Exclude, instant: Duration) -> Result<()> {
        let mut found = open_table_files(&self.files)?;
        found.extend(self.tablespaces(exclude, &mut || Ok(()))?);
        let excluded = |path: &Path| exclude.matches(path.as_os_str().as_bytes());
        for path in found.iter().filter(|path| !self.holds(path) && !excluded(path)) {
            let born = std::fs::metadata(path).and_then(|meta| meta.created()).ok();
            if born.is_none_or(|born| born <= UNIX_EPOCH + instant) {
                return Err(leads_out(Path::new("a table that was made while the backup ran"), path));
            }
        }
        Ok(())
    }

    /// Whether the redo log can be told where the image of a tablespace lies, and if not, why.
    fn can_be_turned(&self, path: &Path) -> std::result::Result<(), String> {
        let log = self.redo_log.as_deref().ok_or("")?;
        redo::is_known(log).map_err(|error| format!("; {error}"))?;
        // Room for `../t`: the log may name it by a link that is shorter or longer, which is looked at in the end.
        let length = path.ancestors().nth(2).map_or(0, |directory| directory.as_os_str().len());
        if length >= 4 { Ok(()) } else { Err("; no path of the backup is as short".to_owned()) }
    }

    /// Adds the directory of a table's file, a real path, or the whole of a directory.
    fn add_table_file(&mut self, path: &Path) -> Result<()> {
        if self.holds(path) {
            return Ok(());
        }
        if self.recovers_by_path && is_tablespace(path) {
            self.can_be_turned(path).map_err(|why| by_path(path, &why))?;
        }
        if path.is_dir() {
            self.add(ELSEWHERE_IMAGE, path.to_owned(), Members::All);
            return Ok(());
        }
        let Some((directory, name)) = split(path) else { return Ok(()) };
        let takes_tablespaces = !self.recovers_by_path || self.redo_log.is_some();
        let endings = ENDINGS.iter().filter(|ending| takes_tablespaces || !TABLESPACES.contains(ending));
        let mut choices: Vec<_> = endings.map(|ending| Choice::Ending(ending.as_bytes().to_vec())).collect();
        if !Members::Chosen(choices.clone()).take(name) {
            choices.push(Choice::Name(name.to_vec()));
        }
        self.add_chosen(ELSEWHERE_IMAGE, directory, choices)
    }
}

/// A tablespace that the image of the redo log would lead to.
fn by_path(path: &Path, why: &str) -> Error {
    Error::new(
        libc::ENOTSUP,
        format!(
            "the InnoDB tablespace {} lies outside of the data directory. This server's redo log names it by that path, \
             so that a server started on the backup would open the live server's file{why}. Bring its table into the \
             data directory (CREATE TABLE ... LIKE without DATA DIRECTORY, INSERT ... SELECT, RENAME), or exclude it \
             (tokudb_backup_exclude)",
            path.display()
        ),
    )
}

/// A backup that met a directory too late.
pub fn leads_out(what: &Path, target: &Path) -> Error {
    Error::new(
        libc::EXDEV,
        format!(
            "{} leads to {}, a directory that was not known when the backup began: take the backup again",
            what.display(),
            target.display()
        ),
    )
}

/// Where a link or an .isl file leads, if that exists.
fn leads_to(path: &Path, kind: FileType, data_dir: &Path) -> Result<Option<PathBuf>> {
    let target = if kind.is_symlink() {
        path.to_owned()
    } else if kind.is_file() && path.extension() == Some(OsStr::new("isl")) {
        match read_path(path) {
            Ok(target) => data_dir.join(from_bytes(target.trim_ascii())),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path, &e)),
        }
    } else {
        return Ok(None);
    };
    match target.canonicalize() {
        Ok(target) => Ok(Some(target)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("resolve", &target, &e)),
    }
}

/// What a small file holds. A FIFO in its place is not waited for, a device not read.
fn read_path(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = source::open_file(rustix::fs::CWD, &CString::new(path.as_os_str().as_bytes())?)?;
    let mut content = Vec::new();
    if source::type_of(&rustix::fs::fstat(&file)?) == source::Type::File {
        std::fs::File::from(file).take(LONGEST_PATH).read_to_end(&mut content)?;
    }
    Ok(content)
}

/// Real paths of the table files that the server has open, its temporary tables excepted.
fn open_table_files(files: &ServerFiles) -> Result<Vec<PathBuf>> {
    let list = Path::new("/proc/self/fd");
    let temporary: Vec<_> = files.temporary.iter().filter_map(|dir| dir.canonicalize().ok()).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(list).map_err(|e| Error::io("list", list, &e))? {
        let Ok(target) = entry.and_then(|entry| std::fs::read_link(entry.path())) else { continue };
        let is_temporary = target.parent().is_some_and(|dir| temporary.iter().any(|t| dir == t))
            && target.file_name().is_some_and(|name| name.as_bytes().starts_with(b"#sql"));
        if target.is_absolute()
            && !is_temporary
            && is_of_a_table(&target)
            && std::fs::metadata(&target).is_ok_and(|meta| meta.is_file())
        {
            found.push(target);
        }
    }
    Ok(found)
}

/// Whether a file below `directory` belongs to a backup, this one or an earlier one.
fn is_in_a_backup(path: &Path, directory: &Path) -> bool {
    let marked = |parent: &Path| {
        [MANIFEST, INCOMPLETE].iter().any(|name| parent.join(from_bytes(name.to_bytes())).exists())
    };
    path.ancestors().skip(1).take_while(|parent| parent.starts_with(directory)).any(marked)
}

fn is_tablespace(path: &Path) -> bool {
    let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
    TABLESPACES.iter().any(|ending| name.ends_with(ending.as_bytes()))
}

/// Whether a file's name is that of a table's file or of an engine's log.
fn is_of_a_table(path: &Path) -> bool {
    let Some(name) = path.file_name().map(OsStrExt::as_bytes) else { return false };
    ENDINGS.iter().any(|ending| name.ends_with(ending.as_bytes()))
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
}

/// Calls `visit` for every file of a part, links not followed; what vanishes meanwhile is no error.
fn walk(
    directory: &Path,
    members: &Members,
    exclude: &Exclude,
    poll: &mut dyn FnMut() -> Result<()>,
    visit: &mut dyn FnMut(&Path, FileType) -> Result<()>,
) -> Result<()> {
    let top = directory;
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        poll()?;
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("list", &directory, &e)),
        };
        for entry in entries {
            // A large expression takes its time for each.
            poll()?;
            let entry = entry.map_err(|e| Error::io("list", &directory, &e))?;
            let path = entry.path();
            if !members.hold(top, &path) || exclude.matches(path.as_os_str().as_bytes()) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(path),
                Ok(kind) => visit(&path, kind)?,
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("look at", &path, &e)),
            }
        }
    }
    Ok(())
}
