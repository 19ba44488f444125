//! A server with volumes that fail, somebody who writes meanwhile, and what must be true after every failure.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::client::{Conn, SqlError};
use lab::scratch::Scratch;
use lab::server::{Options, Server};

use faulty::Faulty;

/// Longest wait for what should come at once.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A client's write may take this long, on a busy machine; the gate's bound is 100 ms.
const LONGEST: Duration = Duration::from_secs(20);
/// The user and the group that a server without privileges runs as.
pub const NOBODY: u32 = 65534;

/// Takes a mount out of the tree, whoever still uses it.
pub fn unmount(path: &Path) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string that outlives the call.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}

/// A file system made for one test.
pub struct Volume(PathBuf);

impl Volume {
    /// A small ext4 in a file.
    pub fn ext4(scratch: &Path, megabytes: u64) -> Volume {
        let (image, at) = (scratch.join("ext4.img"), scratch.join("ext4"));
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-O", "^has_journal"]).arg(&image));
        fs::create_dir(&at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Volume(at)
    }

    /// A tmpfs.
    pub fn tmpfs(scratch: &Path, name: &str, options: &str) -> Volume {
        let at = scratch.join(name);
        fs::create_dir(&at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at));
        Volume(at)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// A server with the plugin, a folder for backups, and a table that somebody writes all the time.
///
/// Volumes are mounted before the server starts, since it may have a mount namespace of its own.
pub struct Bench {
    // Dropped first: the server cannot die while a call of its hangs.
    pub faulty: Faulty,
    pub server: Server,
    writer: Option<Writer>,
    pub backups: PathBuf,
    next: u32,
    _volumes: Vec<Volume>,
    _scratch: Scratch,
}

impl Bench {
    pub fn new(name: &str) -> Bench {
        Bench::with(name, None, |_| Vec::new())
    }

    /// With volumes made in the scratch directory, and the server under another user's number.
    pub fn with(name: &str, user: Option<u32>, volumes: impl FnOnce(&Path) -> Vec<Volume>) -> Bench {
        let scratch = Scratch::new(&format!("faults-{name}")).unwrap();
        let [backups, behind, at] = ["backups", "behind", "faulty"].map(|dir| scratch.path().join(dir));
        [&backups, &behind, &at].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let faulty = Faulty::mount(&behind, &at).unwrap();
        let volumes = volumes(scratch.path());
        let plugins = vec![lab::built::plugin().unwrap()];
        let options = Options { plugins, user, ..Options::default() };
        let mut server = Server::create(name, scratch.path(), options).unwrap();
        if let Some(user) = user {
            give(server.home(), user);
            give(server.socket().parent().unwrap(), user);
        }
        server.start().unwrap();
        let mut conn = server.connect().unwrap();
        conn.exec("INSTALL PLUGIN tokudb_backup SONAME 'tokudb_backup.so'").unwrap();
        conn.exec("CREATE DATABASE d").unwrap();
        conn.exec("CREATE TABLE d.t (a INT PRIMARY KEY AUTO_INCREMENT, b INT) ENGINE=InnoDB").unwrap();
        let writer = Some(Writer::start(server.connect().unwrap()));
        Bench { faulty, server, writer, backups, next: 0, _volumes: volumes, _scratch: scratch }
    }

    pub fn connect(&self) -> Conn {
        self.server.connect().unwrap()
    }

    /// The server answers writes, now.
    pub fn writes_go_on(&self) {
        let writer = self.writer.as_ref().unwrap();
        let before = writer.acknowledged.load(Ordering::SeqCst);
        wait_for("acknowledged writes", || {
            assert!(!writer.thread.is_finished(), "a write has failed");
            writer.acknowledged.load(Ordering::SeqCst) >= before + 10
        });
    }

    /// Stops writing; every acknowledged write is there, and no other.
    pub fn nothing_lost(&mut self) {
        let writer = self.writer.take().unwrap();
        writer.end.store(true, Ordering::SeqCst);
        writer.thread.join().unwrap();
        let acknowledged = writer.acknowledged.load(Ordering::SeqCst).to_string();
        let mut conn = self.connect();
        assert_eq!(conn.value("SELECT COUNT(*) FROM d.t").unwrap(), Some(acknowledged));
        assert_eq!(conn.query("CHECK TABLE d.t EXTENDED").unwrap().texts()[0][3], "OK");
    }

    /// Ends the writer; its errors are of no interest any more.
    pub fn dismiss_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.end.store(true, Ordering::SeqCst);
            writer.thread.join().unwrap();
        }
    }

    /// Starts a backup on a connection of its own.
    pub fn start(&self, dir: &Path, throttle: &str) -> Running {
        let mut conn = self.connect();
        let id = conn.id();
        conn.exec(format!("SET tokudb_backup_throttle = {throttle}")).unwrap();
        let sql = set_dir(dir);
        Running { id, thread: std::thread::spawn(move || (conn.exec(sql).map(drop), conn)) }
    }

    /// Starts a backup that stands still in its first copying.
    pub fn paused(&self, dir: &Path) -> Running {
        let running = self.start(dir, "0");
        self.wait_state("copying");
        running
    }

    pub fn wait_state(&self, state: &str) {
        let mut looker = self.connect();
        let mut last = String::new();
        wait_for(state, || {
            last = status(&mut looker, "state");
            last == state
        });
    }

    /// Lets a paused backup go on.
    pub fn resume(&self) {
        self.connect().exec("SET tokudb_backup_throttle = DEFAULT").unwrap();
    }

    /// After a failure: nothing of ours is left in the server, writes go on, and the next backup, of another session,
    /// is as free as the first one.
    pub fn recovers(&mut self) {
        self.nothing_left();
        self.writes_go_on();
        self.next += 1;
        let dir = self.backups.join(format!("next-{}", self.next));
        let mut conn = self.connect();
        backs_up(&mut conn, &dir);
        self.nothing_left();
        fs::remove_dir_all(&dir).unwrap();
    }

    /// The same, with a session that may have small backups, and how long clients have waited.
    pub fn recovers_with(&mut self, conn: &mut Conn) {
        self.nothing_left();
        self.writes_go_on();
        let dir = self.backups.join("next");
        backs_up(conn, &dir);
        self.nothing_left();
        fs::remove_dir_all(&dir).unwrap();
        let longest = self.writer.as_ref().unwrap().longest.swap(0, Ordering::SeqCst);
        assert!(longest < LONGEST.as_millis() as u64, "a client has waited for {longest} ms");
    }

    /// No thread of ours, and no descriptor into a destination or on a directory of the data.
    pub fn nothing_left(&self) {
        let pid = self.server.pid().unwrap();
        let mut left = Vec::new();
        let end = Instant::now() + PATIENCE;
        loop {
            left.clear();
            for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
                let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                if name.starts_with("hotbackup") || name.starts_with("backup_") {
                    left.push(name);
                }
            }
            for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
                let Ok(target) = fs::read_link(fd.path()) else { continue };
                let scratch = self.server.home();
                let of_data = target.starts_with(self.server.data());
                let outside = target.starts_with(scratch)
                    && !of_data
                    && !target.starts_with(scratch.join("tmp"))
                    && target != self.server.error_log();
                // The server itself opens directories only for a moment, to list or sync them.
                if outside || of_data && fs::metadata(fd.path()).is_ok_and(|data| data.is_dir()) {
                    left.push(target.display().to_string());
                }
            }
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left in the server: {left:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Gives a tree to another user, but for volumes that cannot be written.
pub fn give(path: &Path, user: u32) {
    match std::os::unix::fs::lchown(path, Some(user), Some(user)) {
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => return,
        given => given.unwrap(),
    }
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), user));
    }
}

/// Makes a directory that belongs to `user`.
pub fn directory_of(path: &Path, user: u32) {
    fs::create_dir(path).unwrap();
    chown(path, Some(user), Some(user)).unwrap();
}

/// A backup under way.
pub struct Running {
    pub id: u64,
    pub thread: JoinHandle<(Result<(), SqlError>, Conn)>,
}

impl Running {
    /// The statement's error, and its session.
    pub fn error(self) -> (SqlError, Conn) {
        let (result, conn) = self.thread.join().unwrap();
        (result.expect_err("this backup cannot succeed"), conn)
    }

    /// It fails with this errno, and a message that has these texts in it.
    pub fn fails(self, errno: i32, texts: &[&str]) {
        let (error, mut conn) = self.error();
        failed(&mut conn, &error, errno, texts);
    }
}

/// Writes a row after the other.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    /// The longest that one has taken, milliseconds.
    longest: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(mut conn: Conn) -> Writer {
        let (acknowledged, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let longest = Arc::new(AtomicU64::new(0));
        let (count, ended, waited) = (acknowledged.clone(), end.clone(), longest.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                let begun = Instant::now();
                conn.exec("INSERT INTO d.t (b) VALUES (1)").unwrap();
                waited.fetch_max(begun.elapsed().as_millis() as u64, Ordering::SeqCst);
                count.fetch_add(1, Ordering::SeqCst);
                // Leaves the machine to others; nothing is measured.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Writer { acknowledged, longest, end, thread }
    }
}

pub fn set_dir(dir: &Path) -> String {
    format!("SET tokudb_backup_dir = '{}'", dir.display())
}

pub fn status(conn: &mut Conn, name: &str) -> String {
    let rows = conn.query(format!("SHOW GLOBAL STATUS LIKE 'tokudb_backup_{name}'")).unwrap().texts();
    assert_eq!(rows.len(), 1, "{name}");
    rows[0][1].clone()
}

/// Errno and text of the session's last backup, and its directory.
fn last(conn: &mut Conn) -> [String; 3] {
    let sql = "SELECT @@tokudb_backup_last_error, @@tokudb_backup_last_error_string, @@tokudb_backup_dir";
    let mut rows = conn.query(sql).unwrap().texts();
    rows.remove(0).try_into().unwrap()
}

#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The error of a backup says all that it must, the session remembers it, and its variable is as it was.
#[track_caller]
pub fn failed(conn: &mut Conn, error: &SqlError, errno: i32, texts: &[&str]) {
    let [last_errno, last_text, dir] = last(conn);
    assert_eq!(last_errno, errno.to_string(), "{error}");
    for text in texts {
        assert!(last_text.contains(text), "'{last_text}' does not tell '{text}'");
    }
    if errno != libc::EINTR {
        assert_eq!(error.code, 1105, "{error}");
        assert!(last_text.starts_with(&error.message), "{last_text}, not {}", error.message);
    }
    assert_eq!(dir, "NULL", "a failed SET leaves the old value");
}

/// A backup fails at once, or later, but fails.
#[track_caller]
pub fn refused(conn: &mut Conn, dir: &Path, errno: i32, texts: &[&str]) {
    let error = conn.query(set_dir(dir)).expect_err("this backup cannot succeed");
    failed(conn, &error, errno, texts);
}

#[track_caller]
pub fn backs_up(conn: &mut Conn, dir: &Path) {
    conn.exec(set_dir(dir)).unwrap();
    assert_eq!(last(conn), ["0".to_owned(), "NULL".to_owned(), dir.display().to_string()]);
    assert!(dir.join("backup_manifest").is_file() && dir.join("mysql_data_dir").is_dir());
    assert!(!dir.join("backup_incomplete").exists());
}

/// The directory says that it holds no backup.
#[track_caller]
pub fn incomplete(dir: &Path) {
    assert!(dir.join("backup_incomplete").is_file(), "{} is not marked incomplete", dir.display());
}
