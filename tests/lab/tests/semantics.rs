//! What SQL does to the plugin, on every server: each row of docs/sql.md, what outlives a restart, and what others do
//! while a backup runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::client::{Conn, ConnOptions};
use lab::plugged::{
    INSTALL, Plugged, SMALL, backs_up, code, is_complete, last, refused, set_dir, status, wait_for,
};
use lab::scratch::workspace;
use lab::server::Options;

lab::on_every_server! { statements running }

/// A row of docs/sql.md.
#[derive(Debug)]
struct Row {
    statements: Vec<String>,
    /// By the columns: MySQL 5.6, MySQL 9.7, MariaDB.
    outcomes: [Outcome; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    backups: usize,
    error: u32,
    /// The server knows no such statement.
    no_such: bool,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(workspace().join("docs/sql.md")).unwrap();
    let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
    let rows: Vec<Row> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: [String; 6] = cells(line).try_into().unwrap_or_else(|_| panic!("{line}"));
            let statements = cells[1].split("<br>").map(|statement| {
                let statement = statement.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
                named(statement.unwrap_or_else(|| panic!("{line}")))
            });
            let outcome = |text: &str| outcome(text).unwrap_or_else(|| panic!("'{text}' in {line}"));
            Row {
                statements: statements.collect(),
                outcomes: [outcome(&cells[2]), outcome(&cells[3]), outcome(&cells[4])],
            }
        })
        .collect();
    assert!(rows.len() > 60, "{}", rows.len());
    rows
}

/// The statement with the variable's name for the word `dir`.
fn named(statement: &str) -> String {
    let mut named = String::new();
    let mut rest = statement;
    while let Some(at) = rest.find("dir") {
        let part_of = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        let word = !part_of(rest[..at].chars().next_back()) && !part_of(rest[at + 3..].chars().next());
        named += &rest[..at];
        named += if word { "tokudb_backup_dir" } else { "dir" };
        rest = &rest[at + 3..];
    }
    named + rest
}

fn outcome(text: &str) -> Option<Outcome> {
    let (backups, error) = match text {
        "nothing" => (0, 0),
        "backup" => (1, 0),
        "2 backups" => (2, 0),
        "no such" => return Some(Outcome { backups: 0, error: 0, no_such: true }),
        _ => match text.strip_prefix("backup, ") {
            Some(error) => (1, error.parse().ok()?),
            None => (0, text.parse().ok()?),
        },
    };
    Some(Outcome { backups, error, no_such: false })
}

fn statements(name: &str) {
    // What takes time and does not matter here: a backup waits a second for what native asynchronous I/O may have in
    // flight from before.
    let quick = ["--innodb-use-native-aio=0", "--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"];
    let others = ["--event-scheduler=ON", "--loose-tokudb-backup-lock-timeout=1"];
    let args: Vec<String> = quick.iter().chain(&others).map(|&arg| arg.to_owned()).collect();
    let lab = Plugged::new(name, &args);
    let mut root = lab.server.connect().unwrap();
    root.exec(INSTALL).unwrap();
    root.exec(format!("SET GLOBAL tokudb_backup_exclude = '{SMALL}'")).unwrap();
    root.exec("CREATE USER joe@localhost").unwrap();
    let prepare = |root: &mut Conn| {
        for sql in ["CREATE DATABASE d", "CREATE TABLE d.t (a INT PRIMARY KEY) ENGINE=InnoDB"] {
            root.exec(sql).unwrap();
        }
    };
    prepare(&mut root);
    let column = if lab.is_mariadb() { 2 } else { usize::from(lab.is_mysql_8()) };
    let mut wrong = Vec::new();
    for (number, row) in rows().iter().enumerate() {
        let dir = lab.backup(&number.to_string());
        fs::create_dir(&dir).unwrap();
        let found = run(&lab, &mut root, row, &dir);
        let expected = row.outcomes[column];
        let same = if expected.no_such { matches!(found.error, 1064 | 1193) } else { found == expected };
        if !same {
            wrong.push(format!("{:?}: expected {expected:?}, found {found:?}", row.statements));
        }
        root.exec("SET GLOBAL read_only = 0").unwrap();
        if row
            .statements
            .iter()
            .any(|statement| statement.ends_with("ROLLBACK") || statement.starts_with("XA"))
        {
            assert_eq!(root.value("SELECT COUNT(*) FROM d.t").unwrap().as_deref(), Some("0"), "{row:?}");
        }
        if row.statements.iter().any(|statement| statement.starts_with("CREATE")) {
            root.exec("DROP DATABASE d").unwrap();
            prepare(&mut root);
        }
        assert_eq!(root.value("SELECT @@global.tokudb_backup_dir").unwrap(), None, "{row:?}");
        fs::remove_dir_all(dir).unwrap();
    }
    assert!(wrong.is_empty(), "{name}, docs/sql.md is not right:\n{}", wrong.join("\n"));
}

/// Runs the row's statements until one fails; the backups that are complete then.
fn run(lab: &Plugged, root: &mut Conn, row: &Row, dir: &Path) -> Outcome {
    let has = |text: &str| row.statements.iter().any(|statement| statement.contains(text));
    let mut conn =
        if has("without the right") { lab.connect_as("joe") } else { lab.server.connect().unwrap() };
    let places = ["one", "two"].map(|place| dir.join(place));
    let mut error = 0;
    for statement in &row.statements {
        let [one, two] = places.each_ref().map(|place| format!("'{}'", place.display()));
        error = code(&mut conn, statement.replace("'/one'", &one).replace("'/two'", &two));
        if error != 0 {
            break;
        }
    }
    if has("CREATE EVENT") && error == 0 {
        wait_for("the event", || is_complete(&places[0]));
        wait_for("its end", || status(root, "last_result") == "success");
    }
    let complete = places.iter().filter(|place| is_complete(place)).count();
    for place in places.iter().filter(|place| place.exists() && !is_complete(place)) {
        assert!(place.join("backup_incomplete").is_file(), "{row:?} leaves {} behind", place.display());
    }
    if error == 0 && complete > 0 && !has("EVENT") {
        assert_eq!(last(&mut conn)[..2], ["0", "NULL"], "{row:?}");
    }
    Outcome { backups: complete, error, no_such: false }
}

#[test]
fn every_row_is_understood() {
    let by_count = |count| rows().iter().filter(|row| row.outcomes[0].backups == count).count();
    assert!(by_count(0) > 20 && by_count(1) > 20 && by_count(2) > 2);
    assert_eq!(
        named("SET @@dir = @d, dirs = 'dir'"),
        "SET @@tokudb_backup_dir = @d, dirs = 'tokudb_backup_dir'"
    );
}

/// SET PERSIST: what a start reads from mysqld-auto.cnf, which it does with an option file only.
#[test]
fn persisted() {
    let plugins = vec![lab::built::plugin().unwrap()];
    let mut lab = Plugged::stopped("mysql-9.7", Options { plugins, ..Options::default() });
    let defaults = lab.server.home().join("my.cnf");
    fs::write(&defaults, "[mysqld]\n").unwrap();
    lab.server.options.defaults = Some(defaults);
    lab.server.start().unwrap();
    let mut conn = lab.server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    let dir = lab.backup("never");
    for sql in [
        "SET PERSIST tokudb_backup_throttle = 123456789",
        "SET PERSIST tokudb_backup_gate_timeout = 33",
        "SET PERSIST_ONLY tokudb_backup_lock_timeout = 7",
        &set_dir(&dir).replace("SET", "SET PERSIST_ONLY"),
    ] {
        conn.exec(sql).unwrap();
    }
    // What a user may not loosen for the next start.
    for name in ["allowed_prefix", "version", "plugin_version"] {
        assert_eq!(code(&mut conn, format!("SET PERSIST_ONLY tokudb_backup_{name} = '/'")), 1238, "{name}");
    }
    drop(conn);
    lab.server.stop().unwrap();
    lab.server.start().unwrap();
    let mut conn = lab.server.connect().unwrap();
    let sql = "SELECT @@tokudb_backup_throttle, @@tokudb_backup_gate_timeout, @@tokudb_backup_lock_timeout, \
               @@tokudb_backup_dir, @@global.tokudb_backup_dir";
    assert_eq!(conn.query(sql).unwrap().texts(), [["123456789", "33", "7", "NULL", "NULL"]]);
    assert_eq!(status(&mut conn, "last_result"), "none");
    assert!(!dir.exists());
    backs_up(&mut conn, &lab.backup("afterwards"));
}

/// While a backup stands still, everything else goes on; then the server shuts down as fast as ever.
fn running(name: &str) {
    let built = lab::built::plugin().unwrap();
    let mut lab = Plugged::stopped(
        name,
        Options { args: vec!["--performance-schema=ON".into()], ..Options::default() },
    );
    lab.server.options.plugins = vec![built.clone(), second_plugin(&built, lab.server.home())];
    lab.server.start().unwrap();
    let mut conn = lab.server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    conn.exec("CREATE DATABASE d").unwrap();
    conn.exec("CREATE USER joe@localhost").unwrap();
    let mut idle = lab.server.connect().unwrap();
    let options = ConnOptions { read_timeout: Some(Duration::from_secs(20)), ..lab.server.conn_options() };
    let dir = lab.backup("paused");
    let (id, backup) = lab.paused(&dir, &options_without_limit(&options));

    // Each of these would end with the client's own error if it had to wait for the backup.
    let mut conn = Conn::connect(&options).unwrap();
    lab.connect_as("joe").exec("SELECT 1").unwrap();
    for show in [
        "SHOW FULL PROCESSLIST",
        "SHOW GLOBAL STATUS",
        "SHOW GLOBAL VARIABLES",
        "SHOW VARIABLES",
        "SHOW ENGINE INNODB STATUS",
        "SHOW OPEN TABLES",
        "SHOW PLUGINS",
        "SHOW TABLE STATUS FROM mysql",
    ] {
        assert!(!conn.query(show).unwrap().rows.is_empty(), "{show}");
    }
    let sql = "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES \
               WHERE TABLE_SCHEMA IN ('performance_schema', 'information_schema')";
    let views = conn.query(sql).unwrap().texts();
    assert!(views.len() > 80, "{}", views.len());
    for [schema, table] in views.into_iter().map(|row| <[String; 2]>::try_from(row).unwrap()) {
        // Some want a WHERE, or an engine that is not there.
        if let Err(error) = conn.query(format!("SELECT COUNT(*) FROM {schema}.`{table}`")) {
            assert!(!error.is_disconnect(), "{error}");
        }
    }
    if lab.is_mysql_8() {
        let sql = format!(
            "SELECT COUNT(*) FROM performance_schema.variables_by_thread v \
             JOIN performance_schema.threads t USING (THREAD_ID) WHERE t.PROCESSLIST_ID = {id} \
             AND v.VARIABLE_NAME = 'tokudb_backup_throttle' AND v.VARIABLE_VALUE = '0'"
        );
        assert_eq!(conn.value(sql).unwrap().as_deref(), Some("1"), "the session's own variables are read");
        conn.exec("SET PERSIST max_connections = 160").unwrap();
        conn.exec("RESET PERSIST").unwrap();
    }
    for change in [
        "CREATE TABLE d.t (a INT PRIMARY KEY, b INT) ENGINE=InnoDB",
        "CREATE TABLE d.m (a INT PRIMARY KEY) ENGINE=MyISAM",
        "INSERT INTO d.t VALUES (1, 1)",
        "INSERT INTO d.m VALUES (1)",
        "ALTER TABLE d.t ADD COLUMN c INT",
        "ALTER TABLE d.t ADD INDEX (b)",
        "ALTER TABLE d.t ENGINE=InnoDB",
        "RENAME TABLE d.t TO d.u, d.m TO d.n",
        "TRUNCATE TABLE d.u",
        "OPTIMIZE TABLE d.u, d.n",
        "ANALYZE TABLE d.u, d.n",
        "CREATE VIEW d.v AS SELECT * FROM d.u",
        "CREATE PROCEDURE d.p() SET @a = 1",
        "CALL d.p()",
        "FLUSH TABLES",
        "FLUSH LOGS",
        "FLUSH TABLES WITH READ LOCK",
        "UNLOCK TABLES",
        "LOCK TABLES d.u WRITE",
        "UNLOCK TABLES",
        "CREATE USER ann@localhost",
        "GRANT SELECT ON d.* TO ann@localhost",
        "DROP USER ann@localhost",
        "DROP DATABASE d",
        "SET GLOBAL max_connections = 150",
        "SET GLOBAL tokudb_backup_gate_timeout = 50",
        "SET GLOBAL tokudb_backup_lock_timeout = 5",
        "SET GLOBAL innodb_buffer_pool_dump_now = ON",
        "SET SESSION sort_buffer_size = 300000, tokudb_backup_exclude = 'x', tokudb_backup_lock = OFF",
        "SET tokudb_backup_dir = DEFAULT",
        "INSTALL PLUGIN second_plugin SONAME 'second_plugin.so'",
        "SET second_plugin_throttle = 5",
        "UNINSTALL PLUGIN second_plugin",
    ] {
        conn.query(change).unwrap_or_else(|error| panic!("{error}"));
    }
    conn.exec(format!("KILL {}", idle.id())).unwrap();
    assert!(idle.query("SELECT 1").unwrap_err().is_disconnect());
    refused(&mut conn, set_dir(&lab.backup("second")), 1105, libc::EBUSY, &format!("connection {id}"));
    assert!(!lab.backup("second").exists());
    assert_eq!(status(&mut conn, "state"), "copying", "all that went on beside it");

    // A shutdown takes up to 3.5 s here while clients are connected.
    let begin = Instant::now();
    lab.server.stop().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(backup.join().unwrap().is_err());
    assert!(dir.join("backup_incomplete").is_file() && !dir.join("backup_manifest").exists());
}

/// The backup's own client waits as long as it takes.
fn options_without_limit(options: &ConnOptions) -> ConnOptions {
    ConnOptions { read_timeout: None, ..options.clone() }
}

/// Our own library under another name: a plugin of another file, with variables and status of its own.
fn second_plugin(built: &Path, folder: &Path) -> std::path::PathBuf {
    let (ours, its) = (b"tokudb_backup", b"second_plugin");
    let mut library = fs::read(built).unwrap();
    let mut at = 0;
    while let Some(found) = library[at..].windows(ours.len()).position(|window| window == ours) {
        at += found;
        library[at..at + its.len()].copy_from_slice(its);
    }
    let file = folder.join("second_plugin.so");
    fs::write(&file, library).unwrap();
    file
}
