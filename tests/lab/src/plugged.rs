//! What tests of the plugin share: a server that can install it, and what one says of its statements. Everything here
//! panics when it does not find what it should.

use crate::client::{Conn, ConnOptions, SqlError};
use crate::scratch::Scratch;
use crate::server::{Options, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The statement.
pub const INSTALL: &str = "INSTALL PLUGIN tokudb_backup SONAME 'tokudb_backup.so'";
/// The statement.
pub const UNINSTALL: &str = "UNINSTALL PLUGIN tokudb_backup";
/// For `tokudb_backup_exclude`: most of a server's own files, where a backup need not be large.
pub const SMALL: &str =
    "/data/(mysql|sys|performance_schema|#innodb_redo)/|/(ib_logfile[0-9]+|ibdata1|undo_[0-9]+|mysql.ibd)$";
/// Longest wait for what should come at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tests of these names, of every function of that name, called with the name of each server.
#[macro_export]
macro_rules! on_every_server {
    ($($theme:ident)*) => {$(
        mod $theme {
            #[test]
            fn mysql_5_6() {
                super::$theme("mysql-5.6.24");
            }
            #[test]
            fn mysql_9_7() {
                super::$theme("mysql-9.7");
            }
            #[test]
            fn mariadb_10_5() {
                super::$theme("mariadb-10.5");
            }
            #[test]
            fn mariadb_10_11() {
                super::$theme("mariadb-10.11");
            }
            #[test]
            fn mariadb_11_8() {
                super::$theme("mariadb-11.8");
            }
        }
    )*};
}

/// A server that can install the plugin, and a folder for its backups.
pub struct Plugged {
    /// The server.
    pub server: Server,
    /// The folder.
    pub backups: PathBuf,
    _scratch: Scratch,
}

impl Plugged {
    /// A fresh server with these options, running.
    pub fn new(name: &str, args: &[String]) -> Plugged {
        let plugins = vec![crate::built::plugin().unwrap()];
        let mut plugged = Self::stopped(name, Options { args: args.to_vec(), plugins, ..Options::default() });
        plugged.server.start().unwrap();
        plugged
    }

    /// A fresh server that does not run yet.
    pub fn stopped(name: &str, options: Options) -> Plugged {
        let scratch = Scratch::new(&format!("plugin-{name}")).unwrap();
        let backups = scratch.path().join("backups");
        fs::create_dir(&backups).unwrap();
        let server = Server::create(name, scratch.path(), options).unwrap();
        Plugged { server, backups, _scratch: scratch }
    }

    /// A fresh server with the plugin, and a connection.
    pub fn installed(name: &str) -> (Plugged, Conn) {
        let plugged = Plugged::new(name, &[]);
        let mut conn = plugged.server.connect().unwrap();
        conn.exec(INSTALL).unwrap();
        (plugged, conn)
    }

    /// The path of a backup.
    pub fn backup(&self, name: &str) -> PathBuf {
        self.backups.join(name)
    }

    /// It is a MariaDB server.
    pub fn is_mariadb(&self) -> bool {
        self.server.installation.is_mariadb()
    }

    /// It is MySQL 8 or later.
    pub fn is_mysql_8(&self) -> bool {
        self.server.installation.name == "mysql-9.7"
    }

    /// Connects as an account without password.
    pub fn connect_as(&self, user: &str) -> Conn {
        Conn::connect(&ConnOptions { user: user.into(), ..self.server.conn_options() }).unwrap()
    }

    /// Starts a backup that stands still in its first copying, on a connection of its own.
    pub fn paused(&self, dir: &Path, options: &ConnOptions) -> (u64, JoinHandle<Result<(), SqlError>>) {
        let mut conn = Conn::connect(options).unwrap();
        let id = conn.id();
        conn.exec("SET tokudb_backup_throttle = 0").unwrap();
        let sql = set_dir(dir);
        let thread = std::thread::spawn(move || conn.exec(sql).map(drop));
        let mut looker = self.server.connect().unwrap();
        wait_for("a paused backup", || status(&mut looker, "state") == "copying");
        (id, thread)
    }
}

/// The statement that takes a backup.
pub fn set_dir(dir: &Path) -> String {
    format!("SET tokudb_backup_dir = '{}'", dir.display())
}

/// A status variable, by its name without the prefix.
#[track_caller]
pub fn status(conn: &mut Conn, name: &str) -> String {
    let rows = conn.query(format!("SHOW GLOBAL STATUS LIKE 'tokudb_backup_{name}'")).unwrap().texts();
    assert_eq!(rows.len(), 1, "{name}");
    rows[0][1].clone()
}

/// Errno and text of the session's last backup, and its directory.
#[track_caller]
pub fn last(conn: &mut Conn) -> [String; 3] {
    let sql = "SELECT @@tokudb_backup_last_error, @@tokudb_backup_last_error_string, @@tokudb_backup_dir";
    let mut rows = conn.query(sql).unwrap().texts();
    rows.remove(0).try_into().unwrap()
}

/// Waits for what should come at once.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number of the statement's error; 0 when it succeeds.
pub fn code(conn: &mut Conn, sql: impl AsRef<[u8]>) -> u32 {
    conn.query(sql).map_or_else(|error| error.code, |_| 0)
}

/// The statement fails with this code and errno; the session remembers errno and text, and nothing else changed.
#[track_caller]
pub fn refused(conn: &mut Conn, sql: impl AsRef<[u8]>, code: u32, errno: i32, text: &str) {
    let before = last(conn)[2].clone();
    let error = conn.query(&sql).expect_err(&String::from_utf8_lossy(sql.as_ref()));
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(text), "{error} does not tell '{text}'");
    let [last_errno, last_text, dir] = last(conn);
    assert_eq!(last_errno, errno.to_string(), "{error}");
    assert!(last_text.starts_with(&error.message), "{last_text}, not {}", error.message);
    assert_eq!(dir, before, "a failed SET leaves the old value");
}

/// A backup to `dir` succeeds, is complete, and says so.
#[track_caller]
pub fn backs_up(conn: &mut Conn, dir: &Path) {
    conn.exec(set_dir(dir)).unwrap();
    assert_eq!(last(conn), ["0".to_owned(), "NULL".to_owned(), dir.display().to_string()]);
    assert!(is_complete(dir), "{}", dir.display());
}

/// There is a backup, and it is complete: its images are what its manifest lists.
pub fn is_complete(dir: &Path) -> bool {
    let Ok(manifest) = crate::image::Manifest::read(dir) else { return false };
    let images = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let sizes = images.map(|image| crate::image::size(&image).unwrap());
    let (bytes, files) = sizes.fold((0, 0), |all, image| (all.0 + image.0, all.1 + image.1));
    manifest.files > 0 && (bytes, files) == (manifest.bytes, manifest.files)
}

/// How many rows of each table were acknowledged when a backup began, and when the writer had ended.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// At the beginning of the backup.
    pub before: u64,
    /// At the end.
    pub after: u64,
}

/// Takes a backup to `dir` while a session, made ready by `prepare`, writes rows 0, 1, 2 ... by `write`.
pub fn backed_up_under_writes(
    server: &Server,
    dir: &Path,
    prepare: impl Fn(&mut Conn) + Sync,
    write: impl Fn(&mut Conn, u64) + Sync,
) -> Acknowledged {
    /// Rows before the backup begins.
    const ROWS: u64 = 30;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writer = server.connect().unwrap();
            prepare(&mut writer);
            while !stop.load(Ordering::SeqCst) {
                let id = written.load(Ordering::SeqCst);
                write(&mut writer, id);
                written.store(id + 1, Ordering::SeqCst);
            }
        });
        while written.load(Ordering::SeqCst) < ROWS && !writer.is_finished() {
            std::thread::yield_now();
        }
        let before = written.load(Ordering::SeqCst);
        let taken = server.connect().and_then(|mut conn| conn.exec(set_dir(dir)));
        stop.store(true, Ordering::SeqCst);
        taken.unwrap();
        before
    });
    Acknowledged { before, after: written.load(Ordering::SeqCst) }
}
