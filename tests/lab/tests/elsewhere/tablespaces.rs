//! Tables of MariaDB with DATA DIRECTORY: its redo log names their files by full paths. A server over the image, beside the
//! original, must not so much as open one of them.

use std::collections::BTreeSet;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use lab::client::Conn;
use lab::image::files_in_use;
use lab::installation::copy_tree;
use lab::plugged::{INSTALL, backed_up_under_writes, backs_up, refused, set_dir};
use lab::rng::{Rng, fresh_seed};
use lab::scratch::Scratch;
use lab::server::{Options, Server};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

const MARIADB: [&str; 3] = ["mariadb-10.5", "mariadb-10.11", "mariadb-11.8"];
const COLUMNS: &str = "(id INT PRIMARY KEY, v VARCHAR(200))";
/// What a row of the writer goes to.
const WRITTEN: [&str; 4] = ["plain", "packed", "parts", "inside"];

/// A server with two directories for tables beside its data directory.
struct Machine {
    scratch: Scratch,
    server: Server,
}

impl Machine {
    fn new(name: &str, args: &[String]) -> Machine {
        let scratch = Scratch::new(&format!("tablespaces-{name}")).unwrap();
        for place in ["e", "another-place-for-tables"] {
            fs::create_dir(scratch.path().join(place)).unwrap();
        }
        let plugins = vec![lab::built::plugin().unwrap()];
        let options = Options { plugins, args: args.to_vec(), ..Options::default() };
        let mut server = Server::create(name, &scratch.path().join("server"), options).unwrap();
        server.start().unwrap();
        server.connect().unwrap().exec(INSTALL).unwrap();
        Machine { scratch, server }
    }

    fn places(&self) -> [String; 2] {
        ["e", "another-place-for-tables"].map(|name| self.scratch.path().join(name).display().to_string())
    }

    /// Statements that make all that was there before the backup.
    fn fill(&self, conn: &mut Conn) {
        let [e, another] = self.places();
        for sql in [
            "CREATE DATABASE d".to_owned(),
            format!("CREATE TABLE d.plain {COLUMNS} DATA DIRECTORY='{e}'"),
            format!(
                "CREATE TABLE d.packed {COLUMNS} ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=4 DATA DIRECTORY='{another}'"
            ),
            format!(
                "CREATE TABLE d.parts {COLUMNS} PARTITION BY HASH (id) (PARTITION p0 DATA DIRECTORY='{e}', \
                 PARTITION p1 DATA DIRECTORY='{another}', PARTITION p2)"
            ),
            format!("CREATE TABLE d.inside {COLUMNS}"),
            format!("CREATE TABLE d.quiet {COLUMNS} DATA DIRECTORY='{e}'"),
            "INSERT INTO d.quiet VALUES (1, 'before')".to_owned(),
            format!("CREATE TABLE d.before {COLUMNS} DATA DIRECTORY='{another}'"),
        ] {
            conn.exec(sql).unwrap();
        }
    }
}

/// A row for each table, in one transaction; its text looks like what is turned in the log.
fn write(conn: &mut Conn, id: u64, path: &str) {
    conn.exec("BEGIN").unwrap();
    for table in WRITTEN {
        conn.exec(format!("INSERT INTO d.{table} VALUES ({id}, '{path}')")).unwrap();
    }
    conn.exec("COMMIT").unwrap();
}

/// One statement more on one of a few tables that come and go; what fails has nothing to act on.
fn churn(conn: &mut Conn, rng: &mut Rng, places: &[String]) {
    let (name, other) = (rng.below(4), rng.below(4));
    let place = rng.pick(places);
    let format = rng.pick(&["", "ROW_FORMAT=COMPRESSED"]);
    let sql = match rng.below(12) {
        0..4 => format!("CREATE TABLE d.c{name} {COLUMNS} {format} DATA DIRECTORY='{place}'"),
        4 => format!("RENAME TABLE d.c{name} TO d.c{other}"),
        5 => format!("ALTER TABLE d.c{name} FORCE, ALGORITHM=COPY"),
        6 => format!("ALTER TABLE d.c{name} FORCE, ALGORITHM=INPLACE"),
        7 => format!("TRUNCATE TABLE d.c{name}"),
        8 => format!("DROP TABLE d.c{name}"),
        9 => format!("RENAME TABLE d.c{name} TO d.swap, d.c{other} TO d.c{name}, d.swap TO d.c{other}"),
        _ => format!(
            "INSERT INTO d.c{name} SELECT COALESCE(MAX(id), 0) + 1, '{place}/d/c{name}.ibd' FROM d.c{name}"
        ),
    };
    let _ = conn.exec(sql);
}

/// Chosen by LAB_SEED, else by nobody.
fn seed() -> u64 {
    std::env::var("LAB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(fresh_seed)
}

/// What happens in directories, as the kernel tells it.
struct Watch {
    events: OwnedFd,
}

impl Watch {
    fn on(directories: &[PathBuf]) -> Watch {
        let events = inotify::init(CreateFlags::NONBLOCK).unwrap();
        let mut open = directories.to_vec();
        while let Some(directory) = open.pop() {
            inotify::add_watch(&events, &directory, WatchFlags::ALL_EVENTS).unwrap();
            let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
            open.extend(entries.filter(|path| path.is_dir()));
        }
        // What listing them has caused.
        Watch { events }.emptied()
    }

    fn emptied(self) -> Watch {
        self.seen();
        self
    }

    /// Files that something was done to.
    fn seen(&self) -> BTreeSet<String> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        let mut seen = BTreeSet::new();
        while let Ok(event) = reader.next() {
            // Who lists directories, lists them.
            let listed = ReadFlags::ISDIR | ReadFlags::OPEN | ReadFlags::ACCESS | ReadFlags::CLOSE_NOWRITE;
            if event.events().contains(ReadFlags::ISDIR) && listed.contains(event.events()) {
                continue;
            }
            let name = event.file_name().map_or("", |name| name.to_str().unwrap());
            seen.insert(format!("{name}: {:?}", event.events()));
        }
        seen
    }
}

/// Stands still, its locks and files held.
struct Still(i32);

impl Still {
    fn of(server: &Server) -> Still {
        let pid = i32::try_from(server.pid().unwrap()).unwrap();
        // SAFETY: a signal to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
        Still(pid)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

fn sound(conn: &mut Conn) -> Vec<String> {
    let tables =
        conn.query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'd'").unwrap();
    let tables: Vec<String> = tables.texts().into_iter().map(|mut row| row.remove(0)).collect();
    for table in &tables {
        let checked = conn.query(format!("CHECK TABLE d.{table} EXTENDED")).unwrap().texts();
        assert!(checked.iter().all(|row| row[3] == "OK"), "{checked:?}");
        println!("{}", conn.query(format!("SHOW CREATE TABLE d.{table}")).unwrap().texts()[0][1]);
    }
    tables
}

fn count(conn: &mut Conn, table: &str) -> (u64, u64) {
    let row =
        conn.query(format!("SELECT COUNT(*), COALESCE(MAX(id) + 1, 0) FROM d.{table}")).unwrap().texts();
    (row[0][0].parse().unwrap(), row[0][1].parse().unwrap())
}

fn beside_the_original(name: &str, seed: u64) {
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut machine = Machine::new(name, &[]);
    let places = machine.places();
    let mut conn = machine.server.connect().unwrap();
    machine.fill(&mut conn);
    // With nothing in the log but what follows.
    machine.server.stop().unwrap();
    machine.server.start().unwrap();
    let server = &machine.server;
    let mut conn = server.connect().unwrap();
    let [e, another] = &places;
    for sql in [
        "INSERT INTO d.before VALUES (1, 'x')".to_owned(),
        "RENAME TABLE d.before TO d.renamed".to_owned(),
        "ALTER TABLE d.renamed ADD COLUMN w INT FIRST, FORCE".to_owned(),
        format!("CREATE TABLE d.gone {COLUMNS} DATA DIRECTORY='{e}'"),
        "DROP TABLE d.gone".to_owned(),
        format!("CREATE TABLE d.gone {COLUMNS}"),
        format!("CREATE TABLE d.emptied {COLUMNS} DATA DIRECTORY='{another}'"),
        "INSERT INTO d.emptied VALUES (1, 'x')".to_owned(),
        "TRUNCATE TABLE d.emptied".to_owned(),
        // Aria's log has paths, too.
        "CREATE DATABASE a".to_owned(),
        format!("CREATE TABLE a.aria {COLUMNS} ENGINE=Aria DATA DIRECTORY='{e}' INDEX DIRECTORY='{another}'"),
        "INSERT INTO a.aria VALUES (1, 'x')".to_owned(),
    ] {
        conn.exec(sql).unwrap();
    }
    for _ in 0..rng.below(60) {
        churn(&mut conn, &mut rng, &places);
    }
    let path = format!("{e}/d/plain.ibd");
    let backup = machine.scratch.path().join("backup");
    let stop = AtomicBool::new(false);
    let rows = std::thread::scope(|scope| {
        let mut rng = rng.fork(1);
        let (places, stop) = (&places, &stop);
        scope.spawn(move || {
            let mut conn = server.connect().unwrap();
            while !stop.load(Ordering::SeqCst) {
                churn(&mut conn, &mut rng, places);
            }
        });
        let prepare = |_: &mut Conn| {};
        let rows = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            backed_up_under_writes(server, &backup, prepare, |conn, id| write(conn, id, &path))
        }));
        stop.store(true, Ordering::SeqCst);
        rows.unwrap()
    });

    let copy = machine.scratch.path().join("copy");
    copy_tree(&backup, &copy).unwrap();
    // Nothing that moves in the original's files from now on is the original's doing.
    let still = Still::of(server);
    let mut watched: Vec<PathBuf> = places.iter().map(PathBuf::from).collect();
    watched.push(server.data().to_owned());
    let watch = Watch::on(&watched);
    let options = Options { defaults: Some(copy.join("backup_my.cnf")), ..server.options.clone() };
    let home = machine.scratch.path().join("restored");
    let mut restored = Server::over(name, &home, &copy.join("mysql_data_dir"), options).unwrap();
    restored.start().unwrap();
    let mut again = restored.connect().unwrap();
    let tables = sound(&mut again);
    for table in ["plain", "packed", "parts", "inside", "quiet", "renamed", "gone", "emptied"] {
        assert!(tables.iter().any(|found| found == table), "{table} is not among {tables:?}");
    }
    let (count_of_plain, next) = count(&mut again, "plain");
    assert!(
        count_of_plain == next && (rows.before..=rows.after).contains(&next),
        "{count_of_plain} {next} {rows:?}"
    );
    for table in WRITTEN {
        assert_eq!(count(&mut again, table), (next, next), "{table}");
        let other = again.value(format!("SELECT COUNT(*) FROM d.{table} WHERE v <> '{path}'")).unwrap();
        assert_eq!(other.as_deref(), Some("0"), "{table}");
    }
    assert_eq!(again.value("SELECT v FROM d.quiet").unwrap().as_deref(), Some("before"));
    assert_eq!(again.value("SELECT id FROM d.renamed").unwrap().as_deref(), Some("1"));
    assert_eq!(count(&mut again, "emptied"), (0, 0));
    again.query("SELECT COUNT(*) FROM a.aria").unwrap();
    assert_eq!(watch.seen(), BTreeSet::new(), "after recovery");

    // It goes on.
    write(&mut again, next, &path);
    for sql in [
        "UPDATE d.quiet SET v = 'after'",
        "ALTER TABLE d.plain ADD COLUMN w INT DEFAULT 7, FORCE",
        "RENAME TABLE d.plain TO d.plain2",
        "RENAME TABLE d.plain2 TO d.plain",
        "TRUNCATE TABLE d.packed",
        "ALTER TABLE d.renamed FORCE, ALGORITHM=COPY",
        "ALTER TABLE d.parts TRUNCATE PARTITION p1",
        "RENAME TABLE d.quiet TO d.quieter",
        "DROP TABLE d.emptied",
    ] {
        again.exec(sql).unwrap();
    }
    // Its partitions have relative paths; the server makes none there.
    let relative = again.exec("ALTER TABLE d.parts REBUILD PARTITION p0").unwrap_err();
    assert_eq!(relative.code, 1103, "{relative}");
    assert_eq!(watch.seen(), BTreeSet::new(), "after DDL");
    for ending in ["killed", "stopped"] {
        match ending {
            "killed" => restored.kill9(),
            _ => restored.stop().unwrap(),
        }
        restored.start().unwrap();
        let mut again = restored.connect().unwrap();
        sound(&mut again);
        assert_eq!(count(&mut again, "plain"), (next + 1, next + 1), "{ending}");
        assert_eq!(count(&mut again, "inside"), (next + 1, next + 1), "{ending}");
        assert_eq!(again.value("SELECT v FROM d.quieter").unwrap().as_deref(), Some("after"));
        assert_eq!(watch.seen(), BTreeSet::new(), "{ending}");
    }
    for place in &watched {
        let used = files_in_use(restored.pid().unwrap(), place).unwrap();
        assert!(used.is_empty(), "{used:?}");
    }
    restored.stop().unwrap();
    drop(still);
    sound(&mut conn);
}

/// Said before anything is made.
#[test]
fn an_encrypted_log_is_refused() {
    let keys = Scratch::new("keys").unwrap();
    let keys = keys.path().join("keys");
    fs::write(&keys, "1;770A8A65DA156D24EE2A093277530142\n").unwrap();
    let args = [
        "--plugin-load-add=file_key_management".to_owned(),
        format!("--file-key-management-filename={}", keys.display()),
        "--innodb-encrypt-log=ON".to_owned(),
    ];
    let machine = Machine::new("mariadb-10.11-engines", &args);
    let mut conn = machine.server.connect().unwrap();
    let [e, _] = machine.places();
    conn.exec("CREATE DATABASE d").unwrap();
    conn.exec(format!("CREATE TABLE d.m {COLUMNS} ENGINE=MyISAM DATA DIRECTORY='{e}'")).unwrap();
    // Only tablespaces are in that log.
    backs_up(&mut conn, &machine.scratch.path().join("without"));
    conn.exec(format!("CREATE TABLE d.t {COLUMNS} DATA DIRECTORY='{e}'")).unwrap();
    let never = machine.scratch.path().join("never");
    refused(&mut conn, set_dir(&never), 1105, libc::ENOTSUP, &format!("{e}/d/t.ibd"));
    refused(&mut conn, set_dir(&never), 1105, libc::ENOTSUP, "innodb_encrypt_log");
    assert!(!never.exists());
    conn.exec("SET tokudb_backup_exclude = '/d/t\\\\.(ibd|isl)$'").unwrap();
    backs_up(&mut conn, &machine.scratch.path().join("excluded"));
}

#[test]
fn beside_the_original_10_5() {
    beside_the_original(MARIADB[0], seed());
}

#[test]
fn beside_the_original_10_11() {
    beside_the_original(MARIADB[1], seed());
}

#[test]
fn beside_the_original_11_8() {
    beside_the_original(MARIADB[2], seed());
}
