//! `tokudb_backup_lock`: what DDL and ALL hold off at the end of a backup, on every server, that they let go whatever
//! happens, and what ALL makes of tables without a log.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::client::{Conn, SqlError};
use lab::features::Features;
use lab::load::Load;
use lab::plugged::{Plugged, set_dir, status, wait_for};
use lab::rng::{Rng, fresh_seed};
use lab::scratch::Scratch;
use lab::server::Server;
use lab::{image, nolog};

/// What KILL may take: a second (P28), and more on a machine that does other things beside.
const AT_ONCE: Duration = Duration::from_secs(5);

lab::on_every_server! { held at_rest }

/// A server with the plugin and database `d`, a folder for backups, and a volume for some of them.
struct Lab {
    plugged: Plugged,
    volume: Volume,
    scratch: Scratch,
}

impl Lab {
    fn new(name: &str) -> (Lab, Conn) {
        let scratch = Scratch::new(&format!("locks-{name}")).unwrap();
        // Mounted before the server starts, which has a mount namespace of its own.
        let volume = Volume::new(scratch.path());
        let (plugged, mut conn) = Plugged::installed(name);
        conn.exec("CREATE DATABASE d").unwrap();
        conn.exec("CREATE TABLE d.i (a INT PRIMARY KEY) ENGINE=InnoDB").unwrap();
        conn.exec("CREATE TABLE d.h (a INT) ENGINE=InnoDB").unwrap();
        conn.exec("CREATE TABLE d.big (id INT AUTO_INCREMENT PRIMARY KEY, pad LONGTEXT) ENGINE=InnoDB")
            .unwrap();
        conn.exec("CREATE TABLE d.m (a INT PRIMARY KEY, b INT, KEY (b)) ENGINE=MyISAM").unwrap();
        (Lab { plugged, volume, scratch }, conn)
    }

    /// A backup on a connection of its own: its number, and the statement's end.
    fn start(&self, lock: &str, dir: &Path) -> (u64, JoinHandle<Result<(), SqlError>>) {
        let mut conn = self.plugged.server.connect().unwrap();
        let id = conn.id();
        conn.exec(format!("SET tokudb_backup_lock = {lock}")).unwrap();
        let sql = set_dir(dir);
        (id, std::thread::spawn(move || conn.exec(sql).map(drop)))
    }
}

fn state_of(conn: &mut Conn, id: u64) -> String {
    let sql = format!("SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = {id}");
    conn.value(sql).unwrap().unwrap_or_default()
}

/// A client that repeats statements until it is dropped.
struct Busy {
    id: u64,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    fn new(server: &Server, statements: &'static [&'static str]) -> Busy {
        let mut conn = server.connect().unwrap();
        let (id, done, stop) = (conn.id(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, flag) = (Arc::clone(&done), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                for statement in statements {
                    conn.exec(statement).unwrap();
                }
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Busy { id, done, stop, thread: Some(thread) }
    }

    /// It gets on, so nothing holds it off any more.
    fn goes_on(&self) {
        let seen = self.done.load(Ordering::Relaxed);
        wait_for("a client to go on", || self.done.load(Ordering::Relaxed) > seen + 1);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

const DDL: &[&str] = &["CREATE TABLE d.x (a INT)", "DROP TABLE d.x"];
const WRITES: &[&str] = &["REPLACE INTO d.m VALUES (1, 1)", "REPLACE INTO d.i VALUES (1)"];

/// While the last pass writes to the destination the lock is held; it is let go at the end, by a failure and by KILL,
/// also when the destination hangs.
fn held(name: &str) {
    let (lab, mut conn) = Lab::new(name);
    let volume = &lab.volume;
    let foreign = lab.plugged.server.data().join("d").join("foreign");
    for (lock, statements) in [("DDL", DDL), ("ALL", WRITES)] {
        for how in ["succeeds", "killed", "full"] {
            println!("{lock} {how}");
            let busy = Busy::new(&lab.plugged.server, statements);
            let dir = volume.path.join(how);
            // Somebody keeps the lock from being got, so that what is written meanwhile is left for the last pass.
            let holder = Holder::new(&lab.plugged.server, lock);
            let (id, backup) = lab.start(lock, &dir);
            wait_for("the wait for the lock", || waits(&mut conn, id));
            conn.exec("INSERT INTO d.big (pad) VALUES (REPEAT('x', 8000000))").unwrap();
            let trouble = if how == "full" {
                // What the server has written of that row by now may be little, and find room in what is allocated.
                fs::write(&foreign, vec![7; 8 << 20]).unwrap();
                Trouble::fill(volume)
            } else {
                Trouble::freeze(volume)
            };
            holder.let_go();
            if how == "full" {
                let error = backup.join().unwrap().unwrap_err();
                assert!(error.message.contains("No space left") || error.message.contains("(28)"), "{error}");
            } else {
                // The server's own word for who waits for its lock.
                wait_for("who is held off", || {
                    status(&mut conn, "state") == "gate" && {
                        let state = state_of(&mut conn, busy.id);
                        state.starts_with("Waiting for") && state.ends_with("lock")
                    }
                });
                if how == "killed" {
                    let begin = Instant::now();
                    conn.exec(format!("KILL QUERY {id}")).unwrap();
                    assert_eq!(backup.join().unwrap().unwrap_err().code, 1317);
                    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
                    busy.goes_on();
                    drop(trouble);
                } else {
                    drop(trouble);
                    backup.join().unwrap().unwrap();
                    assert_ne!(status(&mut conn, "lock_microseconds"), "0");
                }
            }
            busy.goes_on();
            drop(busy);
            wait_for("the workers' end", || status(&mut conn, "state") == "idle");
            conn.exec("TRUNCATE TABLE d.big").unwrap();
            fs::remove_dir_all(&dir).unwrap();
            let _ = fs::remove_file(&foreign);
        }
    }
}

/// The backup waits for its lock; the server shows its own word while it waits inside.
fn waits(conn: &mut Conn, id: u64) -> bool {
    let state = state_of(conn, id);
    ["no DDL runs", "is at rest", "global read lock"].iter().any(|text| state.contains(text))
}

/// Who keeps a lock from being got.
struct Holder {
    conn: Conn,
    alter: Option<JoinHandle<()>>,
}

impl Holder {
    fn new(server: &Server, lock: &str) -> Holder {
        let mut conn = server.connect().unwrap();
        if lock != "DDL" || server.installation.name != "mysql-9.7" {
            conn.exec("LOCK TABLES d.h WRITE").unwrap();
            return Holder { conn, alter: None };
        }
        // LOCK TABLES is not DDL; ALTER is, also while it waits for a reader.
        conn.exec("BEGIN").unwrap();
        conn.query("SELECT * FROM d.h").unwrap();
        let mut ddl = server.connect().unwrap();
        let id = ddl.id();
        let alter = std::thread::spawn(move || {
            ddl.exec("ALTER TABLE d.h FORCE").unwrap();
        });
        let mut looker = server.connect().unwrap();
        wait_for("the ALTER", || state_of(&mut looker, id).contains("metadata lock"));
        Holder { conn, alter: Some(alter) }
    }

    fn let_go(mut self) {
        self.conn.exec("UNLOCK TABLES").unwrap();
        self.conn.exec("COMMIT").unwrap();
        self.alter.take().map(JoinHandle::join).transpose().unwrap();
    }
}

/// A small ext4 in a file, for the backups.
struct Volume {
    path: PathBuf,
}

impl Volume {
    fn new(scratch: &Path) -> Volume {
        let (image, path) = (scratch.join("ext4.img"), scratch.join("ext4"));
        fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        fs::create_dir(&path).unwrap();
        let made =
            Command::new("mkfs.ext4").args(["-q", "-m", "0", "-O", "^has_journal"]).arg(&image).status();
        assert!(made.unwrap().success());
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path).status();
        assert!(mounted.unwrap().success());
        Volume { path }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let path = CString::new(self.path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a C string that outlives the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

/// What is wrong with a volume until it is dropped.
enum Trouble {
    /// Writes hang.
    Frozen(fs::File),
    /// No space is left.
    Full(PathBuf),
}

impl Trouble {
    /// FIFREEZE and FITHAW (linux/fs.h).
    const FREEZE: libc::c_ulong = 0xc004_5877;
    const THAW: libc::c_ulong = 0xc004_5878;

    fn freeze(volume: &Volume) -> Trouble {
        let root = fs::File::open(&volume.path).unwrap();
        // SAFETY: an ioctl that takes no argument, on an open directory.
        assert_eq!(unsafe { libc::ioctl(root.as_raw_fd(), Trouble::FREEZE, 0) }, 0);
        Trouble::Frozen(root)
    }

    fn fill(volume: &Volume) -> Trouble {
        let path = volume.path.join("filler");
        let file = fs::File::create(&path).unwrap();
        let mut size = 0;
        for step in [1 << 26, 1 << 20, 1 << 12] {
            // SAFETY: an open file of ours.
            while unsafe { libc::fallocate(file.as_raw_fd(), 0, size, step) } == 0 {
                size += step;
            }
        }
        Trouble::Full(path)
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        match self {
            // SAFETY: an ioctl that takes no argument, on an open directory.
            Trouble::Frozen(root) => drop(unsafe { libc::ioctl(root.as_raw_fd(), Trouble::THAW, 0) }),
            Trouble::Full(path) => fs::remove_file(path).unwrap(),
        }
    }
}

/// With ALL tables without a log are closed properly and no statement on them is half done; it never touches what
/// the session itself has open.
fn at_rest(name: &str) {
    let (lab, mut conn) = Lab::new(name);
    let features = Features::of(&mut conn).unwrap();
    let seed = fresh_seed();
    println!("seed {seed}");
    for round in 0..2 {
        let wrong = under_load(&lab, &mut conn, &features, "ALL", seed + round);
        assert!(wrong.is_empty(), "seed {}: {wrong:#?}", seed + round);
    }
    let wrong = under_load(&lab, &mut conn, &features, "OFF", seed + 2);
    assert!(wrong.iter().any(|text| text.contains("CHECK says")), "the control finds nothing: {wrong:#?}");

    // A holder: waited for until the time is up, and named; KILL ends the wait; nothing stays held.
    conn.exec("SET tokudb_backup_lock = ALL, tokudb_backup_lock_timeout = 1").unwrap();
    let mut holder = lab.plugged.server.connect().unwrap();
    holder.exec("LOCK TABLES d.m WRITE").unwrap();
    let error = conn.exec(set_dir(&lab.plugged.backup("timed-out"))).unwrap_err();
    assert!(error.message.contains("tokudb_backup_lock_timeout"), "{error}");
    let digits = |c: char| !c.is_ascii_digit();
    assert!(error.message.split(digits).any(|number| number == holder.id().to_string()), "{error}");
    conn.exec("REPLACE INTO d.i VALUES (5)").unwrap();
    conn.exec("CREATE TABLE d.x (a INT)").unwrap();
    let (id, backup) = lab.start("ALL", &lab.plugged.backup("killed"));
    wait_for("the wait for the lock", || waits(&mut conn, id));
    let begin = Instant::now();
    conn.exec(format!("KILL QUERY {id}")).unwrap();
    assert_eq!(backup.join().unwrap().unwrap_err().code, 1317);
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    conn.exec("DROP TABLE d.x").unwrap();
    holder.exec("UNLOCK TABLES").unwrap();

    // The session's own locks would be waited for; its transaction is neither committed nor in the way.
    conn.exec("SET tokudb_backup_lock_timeout = DEFAULT").unwrap();
    conn.exec("LOCK TABLES d.m READ").unwrap();
    let error = conn.exec(set_dir(&lab.plugged.backup("own-lock"))).unwrap_err();
    assert!(error.message.contains("UNLOCK TABLES"), "{error}");
    assert!(!lab.plugged.backup("own-lock").exists());
    conn.exec("UNLOCK TABLES").unwrap();
    for (end, rows) in [("ROLLBACK", "0"), ("COMMIT", "1")] {
        let mut session = lab.plugged.server.connect().unwrap();
        let id = session.id();
        session.exec("SET tokudb_backup_lock = ALL").unwrap();
        session.exec("BEGIN").unwrap();
        session.exec("INSERT INTO d.i VALUES (77)").unwrap();
        if !features.atomic_ddl() {
            // With GTIDs no transaction may write both.
            session.exec("REPLACE INTO d.m VALUES (77, 1)").unwrap();
        }
        // Long enough for the statement itself to count as one that takes long.
        holder.exec("LOCK TABLES d.h WRITE").unwrap();
        let sql = set_dir(&lab.plugged.backup(end));
        let backup = std::thread::spawn(move || session.exec(sql).map(|_| session));
        let time = format!("SELECT TIME >= 3 FROM information_schema.PROCESSLIST WHERE ID = {id}");
        wait_for("a statement that takes long", || conn.value(&time).unwrap().as_deref() == Some("1"));
        holder.exec("UNLOCK TABLES").unwrap();
        backup.join().unwrap().unwrap().exec(end).unwrap();
        assert_eq!(conn.value("SELECT COUNT(*) FROM d.i WHERE a = 77").unwrap().as_deref(), Some(rows));
    }
    if features.atomic_ddl() {
        privileges(&lab, &mut conn);
    }
}

/// FLUSH TABLES is asked for before anything is copied, and wants a right of its own.
fn privileges(lab: &Lab, conn: &mut Conn) {
    conn.exec("CREATE USER joe@localhost").unwrap();
    conn.exec("GRANT BACKUP_ADMIN ON *.* TO joe@localhost").unwrap();
    let joe = || {
        let mut joe = lab.plugged.connect_as("joe");
        joe.exec("SET tokudb_backup_lock = ALL").unwrap();
        joe
    };
    let error = joe().exec(set_dir(&lab.plugged.backup("joe"))).unwrap_err();
    assert!(error.message.contains("GRANT FLUSH_TABLES"), "{error}");
    assert!(!lab.plugged.backup("joe").exists());
    for privilege in ["FLUSH_TABLES", "RELOAD"] {
        conn.exec(format!("GRANT {privilege} ON *.* TO joe@localhost")).unwrap();
        joe().exec(set_dir(&lab.plugged.backup(privilege))).unwrap();
        conn.exec(format!("REVOKE {privilege} ON *.* FROM joe@localhost")).unwrap();
    }
    let mut joe = joe();
    joe.exec("SET tokudb_backup_lock = DDL").unwrap();
    joe.exec(set_dir(&lab.plugged.backup("joe-ddl"))).unwrap();
}

/// A backup while tables without a log are written, and what a server over it finds wrong with them.
fn under_load(lab: &Lab, conn: &mut Conn, features: &Features, lock: &str, seed: u64) -> Vec<String> {
    nolog::prepare(conn, features).unwrap();
    let mut load = Load::new(lab.plugged.server.conn_options(), seed);
    nolog::start(&mut load, features, &Rng::new(seed)).unwrap();
    let shared = Arc::clone(load.shared());
    wait_for("the load", || shared.commits.load(Ordering::Relaxed) >= 20);
    let dir = lab.plugged.backup(&format!("{lock}-{seed}"));
    conn.exec(format!("SET tokudb_backup_lock = {lock}")).unwrap();
    conn.exec(set_dir(&dir)).unwrap();
    let (_, failures) = load.stop();
    assert!(failures.is_empty(), "{failures:?}");
    let original = nolog::inserts(conn, features).unwrap();
    let home = lab.scratch.path().join(format!("check-{lock}-{seed}"));
    let mut restored = image::boot(&lab.plugged.server, &dir, &home).unwrap();
    let wrong = nolog::check(&mut restored.connect().unwrap(), features, &original).unwrap();
    restored.stop().unwrap();
    fs::remove_dir_all(&home).unwrap();
    wrong
}
