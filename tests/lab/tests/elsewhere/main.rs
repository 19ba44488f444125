//! Every place where a server keeps files: with its files all over the machine, a backup of all of it, and a server
//! over a copy that opens nothing of the original's.

mod tablespaces;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lab::client::Conn;
use lab::image::{self, files_in_use};
use lab::installation::copy_tree;
use lab::plugged::{INSTALL, Plugged, backed_up_under_writes, backs_up, set_dir, status, wait_for};
use lab::scratch::Scratch;
use lab::server::{Options, Server};

lab::on_every_server! { all_over_the_machine a_directory_that_comes_too_late }

/// Directories outside of the data directory.
const PLACES: [&str; 12] = [
    "logs", "index", "relay", "home", "more", "redo", "undo", "dblwr", "aria", "tables", "indexes",
    "database",
];

struct Machine {
    scratch: Scratch,
    server: Server,
}

impl Machine {
    /// A server that was told a place of its own for everything.
    fn new(name: &str) -> Machine {
        let scratch = Scratch::new(&format!("elsewhere-{name}")).unwrap();
        let place = |name: &str| scratch.path().join(name).display().to_string();
        for name in PLACES {
            fs::create_dir(place(name)).unwrap();
        }
        let options = Options { plugins: vec![lab::built::plugin().unwrap()], ..Options::default() };
        let mut server = Server::create(name, &scratch.path().join("server"), options).unwrap();
        let data = server.data().to_owned();
        let is_mariadb = server.installation.is_mariadb();
        for entry in fs::read_dir(&data).unwrap() {
            let entry = entry.unwrap().file_name().into_string().unwrap();
            let to = match &*entry {
                "ibdata1" => "home",
                name if name.starts_with("ib_logfile") || name == "#innodb_redo" => "redo",
                name if name.starts_with("undo") => "undo",
                name if name.ends_with(".dblwr") => "dblwr",
                name if name.starts_with("aria_log") => "aria",
                _ => continue,
            };
            fs::rename(data.join(&entry), scratch.path().join(to).join(&entry)).unwrap();
        }
        let first = fs::metadata(scratch.path().join("home/ibdata1")).unwrap().len() >> 20;
        let mut args = vec![
            "--server-id=1".to_owned(),
            format!("--log-bin={}/bl", place("logs")),
            format!("--log-bin-index={}/names", place("index")),
            format!("--relay-log={}/rl", place("relay")),
            format!("--innodb-data-home-dir={}", place("home")),
            format!("--innodb-log-group-home-dir={}", place("redo")),
        ];
        if name == "mysql-5.6.24" {
            // With an empty home every file may have a path of its own.
            args[4] = "--innodb-data-home-dir=".into();
            args.push(format!(
                "--innodb-data-file-path={}/ibdata1:{first}M;{}/ibdata2:8M:autoextend",
                place("home"),
                place("more")
            ));
        } else {
            args.push(format!("--innodb-undo-directory={}", place("undo")));
        }
        if is_mariadb {
            args.push(format!("--aria-log-dir-path={}", place("aria")));
        }
        if name == "mysql-9.7" {
            args.push(format!("--innodb-doublewrite-dir={}", place("dblwr")));
            args.push(format!("--innodb-directories={};{}", place("tables"), place("indexes")));
        } else {
            symlink(place("database"), data.join("s")).unwrap();
            args.push(format!("--relay-log-info-file={}/where.info", place("relay")));
            args.push(format!("--master-info-file={}/source.info", place("index")));
        }
        server.options.args = args;
        server.start().unwrap();
        Machine { scratch, server }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Tables of the kinds that this server can have elsewhere.
    fn make_tables(&self, conn: &mut Conn) -> Vec<&'static str> {
        let (tables, indexes) = (self.place("tables"), self.place("indexes"));
        let (tables, indexes) = (tables.display(), indexes.display());
        let columns = "(id INT PRIMARY KEY, v VARCHAR(200))";
        conn.exec("CREATE DATABASE d").unwrap();
        let mut made = vec!["d.inside"];
        conn.exec(format!("CREATE TABLE d.inside {columns} ENGINE=InnoDB")).unwrap();
        conn.exec(format!("CREATE TABLE d.elsewhere {columns} ENGINE=InnoDB DATA DIRECTORY='{tables}'"))
            .unwrap();
        let parts = format!(
            "CREATE TABLE d.parts {columns} ENGINE=InnoDB PARTITION BY RANGE (id) \
             (PARTITION p0 VALUES LESS THAN (1000) DATA DIRECTORY='{tables}', \
             PARTITION p1 VALUES LESS THAN MAXVALUE DATA DIRECTORY='{indexes}')"
        );
        conn.exec(parts).unwrap();
        made.extend(["d.elsewhere", "d.parts"]);
        if self.server.installation.name == "mysql-9.7" {
            conn.exec(format!("CREATE TABLESPACE ts ADD DATAFILE '{indexes}/ts.ibd'")).unwrap();
            conn.exec(format!("CREATE TABLE d.general {columns} TABLESPACE ts")).unwrap();
            conn.exec("CREATE UNDO TABLESPACE more ADD DATAFILE 'more.ibu'").unwrap();
            made.push("d.general");
        } else {
            let dirs = format!("DATA DIRECTORY='{tables}' INDEX DIRECTORY='{indexes}'");
            conn.exec(format!("CREATE TABLE d.myisam {columns} ENGINE=MyISAM {dirs}")).unwrap();
            conn.exec(format!("CREATE TABLE s.linked {columns} ENGINE=InnoDB")).unwrap();
            made.extend(["d.myisam", "s.linked"]);
        }
        if self.server.installation.is_mariadb() {
            let dirs = format!("DATA DIRECTORY='{tables}' INDEX DIRECTORY='{indexes}'");
            conn.exec(format!("CREATE TABLE d.aria {columns} ENGINE=Aria {dirs}")).unwrap();
            made.push("d.aria");
        }
        made
    }
}

/// As after kill -9: rows may be missing, and CHECK TABLE may say so.
fn has_no_log(table: &str) -> bool {
    matches!(&*table.to_lowercase(), "d.myisam" | "d.aria")
}

fn all_over_the_machine(name: &str) {
    let machine = Machine::new(name);
    let server = &machine.server;
    let mut conn = server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    let tables = machine.make_tables(&mut conn);
    // Relay logs of a channel have names of their own. Nobody listens at that port.
    let channel = match name {
        "mysql-5.6.24" => "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='x'",
        "mysql-9.7" => {
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=1, SOURCE_USER='x' FOR CHANNEL 'ch'"
        }
        _ => "CHANGE MASTER 'ch' TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='x'",
    };
    conn.exec(channel).unwrap();
    // Not the server's.
    fs::write(machine.place("logs").join("stranger"), "x").unwrap();
    fs::create_dir(machine.place("tables").join("backups")).unwrap();

    // Where the destination lies in a directory with tables, and writes go on.
    let backup = machine.place("tables").join("backups/monday");
    let rows = backed_up_under_writes(
        server,
        &backup,
        |_| {},
        |writer, id| {
            for table in &tables {
                writer.exec(format!("INSERT INTO {table} VALUES ({id}, REPEAT('v', 150))")).unwrap();
            }
        },
    );
    assert!(!backup.join("mysql_log_bin/stranger").exists());
    let names = |dir: &Path| -> BTreeSet<_> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let relay = names(&machine.place("relay"));
    assert!(relay.iter().any(|name| name.ends_with(".000001")), "{relay:?}");
    assert_eq!(relay.iter().any(|log| log.starts_with("rl-")), name != "mysql-5.6.24", "{relay:?}");
    assert_eq!(names(&backup.join("relay_log")), relay);
    for index in relay.iter().filter(|name| name.ends_with(".index") || name.ends_with(".info")) {
        let text = fs::read_to_string(backup.join("relay_log").join(index)).unwrap();
        assert!(text.contains("./rl") && text.lines().all(|line| !line.starts_with('/')), "{index}: {text}");
    }
    if name != "mysql-9.7" {
        assert!(names(&backup.join("log_bin_index")).iter().any(|file| file.starts_with("source")), "{name}");
    }
    assert!(
        backup.join("mysql_log_bin/bl.000001").is_file()
            && backup.join("log_bin_index/names.index").is_file()
    );

    // A server over a copy, told what the backup says, while the original runs.
    let copy = machine.place("copy");
    copy_tree(&backup, &copy).unwrap();
    let defaults = Some(copy.join("backup_my.cnf"));
    let options = Options {
        args: vec!["--server-id=1".into(), "--skip-slave-start".into()],
        defaults,
        ..server.options.clone()
    };
    let mut restored =
        Server::over(name, &machine.place("restored"), &copy.join("mysql_data_dir"), options).unwrap();
    restored.start().unwrap();
    let mut again = restored.connect().unwrap();
    for table in &tables {
        let count: u64 =
            again.value(format!("SELECT COUNT(*) FROM {table}")).unwrap().unwrap().parse().unwrap();
        let whole = (rows.before..=rows.after).contains(&count);
        assert!(whole || has_no_log(table), "{table} has {count} rows of {rows:?}");
        let checked = again.query(format!("CHECK TABLE {table} EXTENDED")).unwrap().texts();
        let sound = checked.iter().all(|row| row[3] == "OK");
        assert!(sound || has_no_log(table), "{checked:?}");
        again.exec(format!("REPLACE INTO {table} VALUES (5000, 'new')")).unwrap();
    }
    let pid = restored.pid().unwrap();
    for place in PLACES.iter().map(|name| machine.place(name)).chain([server.data().to_owned()]) {
        let used = files_in_use(pid, &place).unwrap();
        assert!(used.is_empty(), "{used:?}");
    }
    let shown = again.query("SHOW BINARY LOGS").unwrap().texts();
    assert_eq!(shown[0][0], "bl.000001");
    assert!(copy.join("mysql_log_bin").join(&shown.last().unwrap()[0]).is_file());
    // What was written there is not seen here.
    for table in &tables {
        let new = conn.value(format!("SELECT COUNT(*) FROM {table} WHERE id = 5000")).unwrap();
        assert_eq!(new.as_deref(), Some("0"), "{table}");
    }
    restored.stop().unwrap();
}

/// A table that is made while the backup runs, where nobody knew of tables: no image without it passes for whole.
fn a_directory_that_comes_too_late(name: &str) {
    let scratch = Scratch::new(&format!("late-{name}")).unwrap();
    let [known, new] = ["known", "new"].map(|place| scratch.path().join(place));
    for place in [&known, &new] {
        fs::create_dir(place).unwrap();
    }
    let mut options = Options { plugins: vec![lab::built::plugin().unwrap()], ..Options::default() };
    if name == "mysql-9.7" {
        options.args.push(format!("--innodb-directories={};{}", known.display(), new.display()));
    }
    let mut server = Server::create(name, &scratch.path().join("server"), options).unwrap();
    server.start().unwrap();
    let mut conn = server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    conn.exec("CREATE DATABASE d").unwrap();
    let engine = if server.installation.is_mariadb() { "MyISAM" } else { "InnoDB" };
    let table = |name: &str, place: &Path| {
        format!("CREATE TABLE d.{name} (a INT) ENGINE={engine} DATA DIRECTORY='{}'", place.display())
    };
    conn.exec(table("t", &known)).unwrap();

    let backup = scratch.path().join("backup");
    let mut taker = server.connect().unwrap();
    taker.exec("SET tokudb_backup_throttle = 0").unwrap();
    let sql = set_dir(&backup);
    let taken = std::thread::spawn(move || taker.exec(sql).map(drop));
    wait_for("a paused backup", || status(&mut conn, "state") == "copying");
    conn.exec(table("u", &known)).unwrap();
    conn.exec(table("v", &new)).unwrap();
    conn.exec("SET tokudb_backup_throttle = DEFAULT").unwrap();
    let error = taken.join().unwrap().unwrap_err();
    assert!(error.message.contains(&new.display().to_string()), "{error}");
    assert!(backup.join("backup_incomplete").is_file());

    // The next one knows it.
    fs::remove_dir_all(&backup).unwrap();
    conn.exec(format!("SET tokudb_backup_dir = '{}'", backup.display())).unwrap();
    assert!(backup.join("backup_manifest").is_file());
}

/// In a directory of which only undo tablespaces are taken, under a name that the user chose.
#[test]
fn an_undo_tablespace_that_is_made_meanwhile() {
    let scratch = Scratch::new("undo").unwrap();
    let undo = scratch.path().join("undo");
    fs::create_dir(&undo).unwrap();
    let options = Options { plugins: vec![lab::built::plugin().unwrap()], ..Options::default() };
    let mut server = Server::create("mysql-9.7", &scratch.path().join("server"), options).unwrap();
    for name in ["undo_001", "undo_002"] {
        fs::rename(server.data().join(name), undo.join(name)).unwrap();
    }
    server.options.args = vec![format!("--innodb-undo-directory={}", undo.display())];
    server.start().unwrap();
    let mut conn = server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    let backup = scratch.path().join("backup");
    let mut taker = server.connect().unwrap();
    taker.exec("SET tokudb_backup_throttle = 0").unwrap();
    let sql = set_dir(&backup);
    let taken = std::thread::spawn(move || taker.exec(sql).map(drop));
    wait_for("a paused backup", || status(&mut conn, "state") == "copying");
    conn.exec("CREATE UNDO TABLESPACE late ADD DATAFILE 'late.ibu'").unwrap();
    conn.exec("SET tokudb_backup_throttle = DEFAULT").unwrap();
    taken.join().unwrap().unwrap();
    assert!(backup.join("innodb_undo_directory/late.ibu").is_file());
}

/// MySQL makes the log of a truncation before it writes it, and does not start over an empty one: an image of that moment
/// must start all the same.
#[test]
fn an_undo_truncation_that_has_just_begun() {
    let (plugged, mut conn) = Plugged::installed("mysql-9.7");
    let log = plugged.server.data().join("undo_1_trunc.log");
    fs::write(&log, "").unwrap();
    let backup = plugged.backup("truncation");
    backs_up(&mut conn, &backup);
    fs::remove_file(&log).unwrap();
    let scratch = Scratch::new("truncation").unwrap();
    let mut restored = image::place(&plugged.server, &backup, &scratch.path().join("restored")).unwrap();
    restored.start().unwrap();
    let mut conn = restored.connect().unwrap();
    assert_eq!(conn.value("SELECT COUNT(*) > 0 FROM mysql.user").unwrap().as_deref(), Some("1"));
    drop(conn);
    restored.stop().unwrap();
}
