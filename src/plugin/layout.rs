//! What is backed up: every directory in which the server keeps files, found from the server itself, and what of it
//! belongs to the server.
//!
//! The data directory is taken whole. Of another one only the files of a server are taken, since it may hold other
//! things, the destination itself among them. Each gets an image of its own, named after its variable.

mod elsewhere;
mod engines;

pub use elsewhere::leads_out;

use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::backup::{Choice, Members};
use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::server::files::{ServerFiles, engine_variable};
use crate::server::{Flavour, Host};

/// Name of the data directory's image below the destination.
pub const DATA_DIR_IMAGE: &str = "mysql_data_dir";
/// Name of the binary logs' image, where they lie outside the data directory.
const LOG_BIN_IMAGE: &str = "mysql_log_bin";
/// Where MariaDB and MySQL 5.6 keep where replication stands; named after their options.
const RELAY_LOG_INFO: &str = "relay_log_info_file";
const MASTER_INFO: &str = "master_info_file";

/// Name of the images of directories with tables elsewhere.
pub const ELSEWHERE_IMAGE: &str = "data_directory";

/// A directory that is backed up.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its real path.
    pub path: PathBuf,
    /// Name of its image below the destination.
    pub image: String,
    /// What of it is the server's.
    pub members: Members,
}

/// What is backed up.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The data directory first.
    pub parts: Vec<Part>,
    /// Files and directories that are left out: sockets, the pid file, temporary tablespaces.
    pub leave_out: Vec<PathBuf>,
    /// Base name of the binary logs; its directory is a real path.
    pub log_bin: Option<PathBuf>,
    /// Files that name binary and relay logs, a line each: their indexes, and where replication stands. Real paths; they
    /// need not exist.
    pub log_indexes: Vec<PathBuf>,
    /// Settings that a server over the images needs: name and value.
    pub options: Vec<(String, String)>,
    /// The server's own paths.
    pub files: ServerFiles,
    /// Directories elsewhere in which InnoDB looks for tablespaces, real paths.
    pub innodb_directories: Vec<PathBuf>,
    /// InnoDB opens tablespaces by full paths at recovery: none may lie elsewhere, unless its log can be turned.
    pub recovers_by_path: bool,
    /// The log in which those paths stand, where it can be turned to the images: MariaDB's; its real path.
    pub redo_log: Option<PathBuf>,
    /// InnoDB looks for tablespaces in the whole data directory (MySQL 8 and later), so those from elsewhere may lie
    /// there.
    pub finds_tablespaces: bool,
}

impl Layout {
    /// Reads the server's paths. `poll` is called now and then, and ends it with its error.
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
            leave_out: left_out(host, &files),
            recovers_by_path: host.recovers_by_path(),
            finds_tablespaces: host.has_atomic_ddl(),
            ..Layout::default()
        };
        layout.add(DATA_DIR_IMAGE, data_dir, Members::All);
        layout.add_logs(&files)?;
        layout.add_engines(host)?;
        if layout.recovers_by_path && host.flavour == Flavour::MariaDb {
            let directory = engine_variable(host, "innodb_log_group_home_dir").unwrap_or_default();
            layout.redo_log = really(&layout.data_dir().join(from_bytes(&directory)).join("ib_logfile0"));
        }
        layout.add_tables_elsewhere(host, exclude, poll)?;
        layout.add_open_files(&files, exclude)?;
        layout.note_options(host, &files)?;
        layout.files = files;
        Ok(layout)
    }

    /// DDL will be held off at T, so no statement is in a state that only MariaDB's DDL log could bring to an end (10.6
    /// and later): an ALTER TABLE that waits has changed nothing yet, and its log would have the recovery finish it half
    /// where the table has partitions (ddl_log.cc: an engine's version of a partitioned table cannot be asked for).
    /// Measured: 1 of 50 images of 11.8 broken with it.
    pub fn leave_out_ddl_log(&mut self) {
        self.leave_out.extend(self.files.ddl_log.as_deref().and_then(really));
    }

    /// The data directory's real path.
    pub fn data_dir(&self) -> &Path {
        self.parts.first().map_or(Path::new("/"), |part| &part.path)
    }

    /// The part that a real path belongs to: the innermost.
    fn part_of(&self, path: &Path) -> Option<&Part> {
        self.parts
            .iter()
            .filter(|part| part.members.hold(&part.path, path))
            .max_by_key(|part| part.path.as_os_str().len())
    }

    /// Whether a real path is backed up.
    pub fn holds(&self, path: &Path) -> bool {
        self.part_of(path).is_some()
    }

    /// Where a real path of a source lies below the destination.
    pub fn image_of(&self, path: &Path) -> Option<PathBuf> {
        let part = self.part_of(path)?;
        let below = path.strip_prefix(&part.path).ok()?;
        let image = Path::new(&part.image);
        Some(if below.as_os_str().is_empty() { image.to_owned() } else { image.join(below) })
    }

    /// Adds what `members` says of a directory, as an image named `name`, unless it is backed up already.
    fn add(&mut self, name: &str, path: PathBuf, members: Members) {
        let whole = |part: &&mut Part| part.members == Members::All && path.starts_with(&part.path);
        if self.parts.iter_mut().any(|part| whole(&part)) {
            return;
        }
        if let Some(known) = self.parts.iter_mut().find(|part| part.path == path) {
            match (&mut known.members, members) {
                (Members::Chosen(choices), Members::Chosen(more)) => {
                    let new: Vec<_> = more.into_iter().filter(|choice| !choices.contains(choice)).collect();
                    choices.extend(new);
                }
                (known, members) => *known = members,
            }
            return;
        }
        let taken = |image: &str| self.parts.iter().any(|part| part.image == image);
        let image = (1..)
            .map(|n| if n == 1 { name.to_owned() } else { format!("{name}.{n}") })
            .find(|image| !taken(image));
        self.parts.push(Part { path, image: image.unwrap_or_default(), members });
    }

    /// Adds the names that `choices` fit of a directory that may not exist.
    fn add_chosen(&mut self, name: &str, directory: &Path, choices: Vec<Choice>) -> Result<()> {
        match directory.canonicalize() {
            Ok(path) => self.add(name, path, Members::Chosen(choices)),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("resolve", directory, &e)),
        }
        Ok(())
    }

    /// Binary logs, relay logs and their indexes.
    fn add_logs(&mut self, files: &ServerFiles) -> Result<()> {
        let logs = [
            (LOG_BIN_IMAGE, &files.log_bin, "log_bin_index", &files.log_bin_index),
            ("relay_log", &files.relay_log, "relay_log_index", &files.relay_log_index),
        ];
        for (image, base, index_image, index) in logs {
            if let Some((directory, name)) = base.as_deref().and_then(split) {
                let own = Choice::Beginning([name, b"."].concat());
                self.add_chosen(image, directory, vec![own, Choice::Logs(of_channels(name))])?;
            }
            if let Some((directory, name)) = index.as_deref().and_then(split) {
                let own = Choice::Beginning(name.to_vec());
                self.add_chosen(index_image, directory, vec![own, Choice::Logs(of_channels(name))])?;
            }
        }
        for (image, file) in [(RELAY_LOG_INFO, &files.relay_log_info), (MASTER_INFO, &files.master_info)] {
            if let Some((directory, name)) = file.as_deref().and_then(split) {
                let choices = vec![Choice::Name(name.to_vec()), Choice::Logs(of_channels(name))];
                self.add_chosen(image, directory, choices)?;
            }
        }
        self.log_bin = files.log_bin.as_deref().and_then(really);
        let indexes = [&files.log_bin_index, &files.relay_log_index, &files.relay_log_info];
        // Where all channels have names, there are only indexes beside it.
        let found = |index: &PathBuf| index.canonicalize().ok().or_else(|| really(index));
        self.log_indexes = indexes.into_iter().flatten().filter_map(found).collect();
        Ok(())
    }
}

/// The pid file, what stands beside sockets, and temporary tablespaces, which a server makes anew when it starts.
fn left_out(host: &Host, files: &ServerFiles) -> Vec<PathBuf> {
    let setting = |name: &str| engine_variable(host, name).map(|value| from_bytes(&value));
    let mysqlx = setting("mysqlx_socket").map(|path| files.data_dir.join(path));
    let sockets = [files.socket.clone(), mysqlx];
    let locks = sockets.into_iter().flatten().flat_map(|socket| {
        let mut lock = socket.clone().into_os_string();
        lock.push(".lock");
        [socket, PathBuf::from(lock)]
    });
    let home = files.data_dir.join(setting("innodb_data_home_dir").unwrap_or_default());
    let tablespaces = engine_variable(host, "innodb_temp_data_file_path").unwrap_or_default();
    let tablespaces = names_in(&tablespaces).map(|name| home.join(from_bytes(name)));
    let sessions = setting("innodb_temp_tablespaces_dir").map(|path| files.data_dir.join(path));
    let all = files.pid_file.clone().into_iter().chain(locks).chain(tablespaces).chain(sessions);
    all.filter_map(|path| really(&path)).collect()
}

/// How the names of relay logs and of indexes and the like of named channels (connections, on MariaDB) begin:
/// "rl-NAME.000001", "rl-NAME.index", "relay-log-NAME.info" (`add_channel_to_relay_log_name`, rpl_rli.cc;
/// `create_logfile_name_with_suffix`, rpl_mi.cc).
pub fn of_channels(base: &[u8]) -> Vec<u8> {
    let stem = [&b".index"[..], b".info"].iter().find_map(|ending| base.strip_suffix(*ending));
    [stem.unwrap_or(base), b"-"].concat()
}

/// The file names of `innodb_data_file_path` and its like: "ibdata1:12M;/elsewhere/ibdata2:12M:autoextend".
fn names_in(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let entries = value.split(|&b| b == b';');
    entries.filter_map(|entry| entry.split(|&b| b == b':').next()).filter(|name| !name.is_empty())
}

/// Directory and name.
fn split(path: &Path) -> Option<(&Path, &[u8])> {
    Some((path.parent()?, path.file_name()?.as_bytes()))
}

/// With the real path of its directory; it need not exist itself.
fn really(path: &Path) -> Option<PathBuf> {
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

fn real(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| Error::io("resolve", path, &e))
}

fn from_bytes(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(ending: &str) -> Members {
        Members::Chosen(vec![Choice::Ending(ending.into())])
    }

    #[test]
    fn parts_inside_each_other() {
        let mut layout = Layout::default();
        layout.add(DATA_DIR_IMAGE, "/lib/mysql".into(), Members::All);
        layout.add("inside", "/lib/mysql/logs".into(), Members::All);
        layout.add("above", "/lib".into(), chosen(".x"));
        layout.add("above", "/lib".into(), chosen(".y"));
        layout.add("above", "/other".into(), Members::All);
        let images: Vec<_> = layout.parts.iter().map(|part| &*part.image).collect();
        assert_eq!(images, [DATA_DIR_IMAGE, "above", "above.2"]);
        let image = |path: &str| layout.image_of(Path::new(path)).map(|image| image.display().to_string());
        assert_eq!(image("/lib/mysql/t/a.x").as_deref(), Some("mysql_data_dir/t/a.x"));
        assert_eq!(image("/lib/mysql").as_deref(), Some("mysql_data_dir"));
        assert_eq!(image("/lib/a.x").as_deref(), Some("above/a.x"));
        assert_eq!(image("/lib/a.y").as_deref(), Some("above/a.y"));
        assert_eq!(image("/lib/a.z"), None);
        assert_eq!(image("/libmysql/a.x"), None);
        assert_eq!(image("/other/z").as_deref(), Some("above.2/z"));
    }

    #[test]
    fn logs_of_channels() {
        let members = Members::Chosen(vec![Choice::Logs(of_channels(b"rl.index"))]);
        for log in ["rl-a.000001", "rl-a.b.1000000", "rl-a.index", "rl-.000001"] {
            assert!(members.take(log.as_bytes()), "{log}");
        }
        for other in ["rl-backup", "rl-notes.txt", "rl-a.1", "rl.000001", "rl-index", "xrl-a.index"] {
            assert!(!members.take(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn tablespaces_are_named_with_their_sizes() {
        let names: Vec<_> = names_in(b"ibdata1:12M;/x/ibdata2:5M:autoextend;").collect();
        assert_eq!(names, [&b"ibdata1"[..], b"/x/ibdata2"]);
    }
}
