//! Which directories of the server are backed up, and which of its files would lie outside of them.
//!
//! An image that leads outside opens the *live* server's files when it is started on the same machine (P26). Until
//! such directories are sources themselves, a backup is refused with the name of the file or variable.

use std::ffi::OsStr;
use std::fs::FileType;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::server::Host;
use crate::server::files::{ServerFiles, engine_variable};

/// Name of the data directory's image below the destination.
pub const DATA_DIR_IMAGE: &str = "mysql_data_dir";
/// Name of the binary logs' image, where they lie outside the data directory.
pub const LOG_BIN_IMAGE: &str = "mysql_log_bin";

/// Variables of engines that name a directory of table or log files.
const DIRECTORIES: [&str; 5] = [
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "innodb_doublewrite_dir",
    "aria_log_dir_path",
];

/// Extensions of files that belong to tables.
const EXTENSIONS: [&str; 16] = [
    "ibd", "ibu", "frm", "par", "MYD", "MYI", "MAD", "MAI", "CSV", "CSM", "ARZ", "ARM", "MRG", "tokudb",
    "sst", "isl",
];
/// Beginnings of names of tablespaces and engine logs.
const BEGINNINGS: [&str; 6] = ["ibdata", "ib_logfile", "#ib_redo", "undo", "aria_log", "#ib_16384_"];

/// What is backed up.
#[derive(Debug)]
pub struct Layout {
    /// Real paths, with the names of their images.
    pub sources: Vec<(PathBuf, &'static str)>,
    /// Files in them that are left out.
    pub leave_out: Vec<PathBuf>,
    /// Base name of the binary logs; its directory is a real path in a source.
    pub log_bin: Option<PathBuf>,
    /// Indexes of binary and relay logs: real paths in sources.
    pub log_indexes: Vec<PathBuf>,
}

impl Layout {
    /// Reads the server's paths and refuses what leads outside, excluded files excepted. `poll` is called now and
    /// then, and ends it with its error.
    pub fn of_this_server(
        host: &Host,
        exclude: &Exclude,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Layout> {
        let files = ServerFiles::of_this_server().ok_or_else(|| {
            Error::new(libc::ENOTSUP, "the server does not say where its data directory is")
        })?;
        let data_dir = real(&files.data_dir)?;
        let mut layout = Layout {
            sources: vec![(data_dir.clone(), DATA_DIR_IMAGE)],
            leave_out: Vec::new(),
            log_bin: None,
            log_indexes: Vec::new(),
        };
        if let Some((log_dir, name)) =
            files.log_bin.as_deref().and_then(|log| log.parent().zip(log.file_name()))
        {
            let log_dir = real(log_dir)?;
            layout.log_bin = Some(log_dir.join(name));
            if data_dir.starts_with(&log_dir) && data_dir != log_dir {
                return Err(Error::invalid(format!(
                    "the directory of the binary logs (log_bin), {}, contains the data directory {}: move one of them \
                     and restart the server",
                    log_dir.display(),
                    data_dir.display()
                )));
            }
            if !layout.contains(&log_dir) {
                layout.sources.push((log_dir, LOG_BIN_IMAGE));
            }
        }
        layout.leave_out = left_out(host, &files);
        layout.refuse_logs_outside(&files)?;
        let indexes = [&files.log_bin_index, &files.relay_log_index];
        layout.log_indexes =
            indexes.into_iter().flatten().filter_map(|index| index.canonicalize().ok()).collect();
        layout.refuse_directories_outside(host, &data_dir)?;
        layout.refuse_tables_outside(host, exclude, &data_dir, poll)?;
        layout.refuse_open_files_outside(&files)?;
        Ok(layout)
    }

    /// Whether a real path lies in a source.
    fn contains(&self, path: &Path) -> bool {
        self.sources.iter().any(|(source, _)| path.starts_with(source))
    }

    /// The real form of a path that leads outside; `None` when it stays inside or does not exist.
    fn outside(&self, path: &Path) -> Result<Option<PathBuf>> {
        match path.canonicalize() {
            Ok(path) => Ok((!self.contains(&path)).then_some(path)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("resolve", path, &e)),
        }
    }

    fn refuse(&self, what: &str, path: &Path, remedy: &str) -> Error {
        let sources: Vec<_> = self.sources.iter().map(|(source, _)| source.display().to_string()).collect();
        Error::invalid(format!(
            "{what} leads to {}, outside of what is backed up ({}): a restored copy would use the live server's \
             files. {remedy}",
            path.display(),
            sources.join(", ")
        ))
    }

    /// Indexes of binary logs, relay logs and their index.
    fn refuse_logs_outside(&self, files: &ServerFiles) -> Result<()> {
        let logs = [
            ("log_bin_index", files.log_bin_index.as_deref()),
            ("relay_log", files.relay_log.as_deref().and_then(Path::parent)),
            ("relay_log_index", files.relay_log_index.as_deref()),
        ];
        for (variable, path) in logs {
            let Some(path) = path else { continue };
            if let Some(path) = self.outside(path)? {
                let remedy = format!("Set {variable} to a path in the data directory and restart the server");
                return Err(self.refuse(variable, &path, &remedy));
            }
        }
        Ok(())
    }

    fn refuse_directories_outside(&self, host: &Host, data_dir: &Path) -> Result<()> {
        for variable in DIRECTORIES {
            let Some(value) = engine_variable(host, variable) else { continue };
            if let Some(path) = self.outside(&data_dir.join(from_bytes(&value)))? {
                let remedy =
                    format!("Move it into the data directory, unset {variable} and restart the server");
                return Err(self.refuse(variable, &path, &remedy));
            }
        }
        let home = engine_variable(host, "innodb_data_home_dir").unwrap_or_default();
        let home = data_dir.join(from_bytes(&home));
        let tablespaces = engine_variable(host, "innodb_data_file_path").unwrap_or_default();
        for entry in tablespaces.split(|&b| b == b';') {
            let Some(name) = entry.split(|&b| b == b':').next().filter(|name| !name.is_empty()) else {
                continue;
            };
            if let Some(path) = self.outside(&home.join(from_bytes(name)))? {
                let remedy =
                    "Move it into the data directory, name it without a directory and restart the server";
                return Err(self.refuse("innodb_data_file_path", &path, remedy));
            }
        }
        Ok(())
    }

    /// Tables that were created with DATA DIRECTORY: where symbolic links and .isl files lead, and what lies in
    /// innodb_directories.
    fn refuse_tables_outside(
        &self,
        host: &Host,
        exclude: &Exclude,
        data_dir: &Path,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        for (source, _) in &self.sources {
            walk(source, exclude, poll, &mut |path, kind| {
                let target = if kind.is_symlink() {
                    self.outside(path)?
                } else if path.extension() == Some(OsStr::new("isl")) {
                    match std::fs::read(path) {
                        Ok(target) => self.outside(&data_dir.join(from_bytes(target.trim_ascii())))?,
                        Err(e) if e.kind() == ErrorKind::NotFound => None,
                        Err(e) => return Err(Error::io("read", path, &e)),
                    }
                } else {
                    None
                };
                target.map_or(Ok(()), |target| Err(self.refuse_table(&path.display().to_string(), &target)))
            })?;
        }
        let directories = engine_variable(host, "innodb_directories").unwrap_or_default();
        for directory in directories.split(|&b| b == b';') {
            let Some(directory) = self.outside(&data_dir.join(from_bytes(directory.trim_ascii())))? else {
                continue;
            };
            walk(&directory, &Exclude::Nothing, poll, &mut |path, _| {
                let tablespace = path.extension().is_some_and(|e| e == "ibd" || e == "ibu");
                if tablespace && !self.contains(path) {
                    return Err(self.refuse_table("innodb_directories", path));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn refuse_table(&self, what: &str, path: &Path) -> Error {
        self.refuse(
            what,
            path,
            "Move the table or database into the data directory, or exclude it (tokudb_backup_exclude)",
        )
    }

    /// Table files that the server has open elsewhere, however it came to them.
    fn refuse_open_files_outside(&self, files: &ServerFiles) -> Result<()> {
        let list = Path::new("/proc/self/fd");
        let temporary: Vec<_> = files.temporary.iter().filter_map(|dir| dir.canonicalize().ok()).collect();
        for entry in std::fs::read_dir(list).map_err(|e| Error::io("list", list, &e))? {
            let Ok(target) = entry.and_then(|entry| std::fs::read_link(entry.path())) else { continue };
            let is_temporary = target.parent().is_some_and(|dir| temporary.iter().any(|t| dir == t))
                && target.file_name().is_some_and(|name| name.as_bytes().starts_with(b"#sql"));
            if !target.is_absolute() || self.contains(&target) || is_temporary || !is_of_a_table(&target) {
                continue;
            }
            if std::fs::metadata(&target).is_ok_and(|meta| meta.is_file()) {
                return Err(self.refuse_table("a file that the server has open", &target));
            }
        }
        Ok(())
    }
}

/// Whether a file's name is that of a table's file or of an engine's log.
fn is_of_a_table(path: &Path) -> bool {
    path.extension().is_some_and(|e| EXTENSIONS.iter().any(|&known| e == known))
        || path
            .file_name()
            .is_some_and(|name| BEGINNINGS.iter().any(|b| name.as_bytes().starts_with(b.as_bytes())))
}

/// The pid file and what stands beside sockets.
fn left_out(host: &Host, files: &ServerFiles) -> Vec<PathBuf> {
    let mysqlx = engine_variable(host, "mysqlx_socket").map(|path| files.data_dir.join(from_bytes(&path)));
    let sockets = [files.socket.clone(), mysqlx];
    let locks = sockets.into_iter().flatten().flat_map(|socket| {
        let mut lock = socket.clone().into_os_string();
        lock.push(".lock");
        [socket, PathBuf::from(lock)]
    });
    let all = files.pid_file.clone().into_iter().chain(locks);
    all.filter_map(|path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))).collect()
}

fn real(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| Error::io("resolve", path, &e))
}

fn from_bytes(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// Calls `visit` for every file below a directory, links not followed; what vanishes meanwhile is no error.
fn walk(
    directory: &Path,
    exclude: &Exclude,
    poll: &mut dyn FnMut() -> Result<()>,
    visit: &mut dyn FnMut(&Path, FileType) -> Result<()>,
) -> Result<()> {
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        poll()?;
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("list", &directory, &e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &directory, &e))?;
            let path = entry.path();
            if exclude.matches(path.as_os_str().as_bytes()) {
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
