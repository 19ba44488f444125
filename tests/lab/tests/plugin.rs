//! The plugin as SQL sees it, on every server: life, metadata, refusals, privileges, what others can do to a running
//! backup, the DDL lock. Ways to bring the library in are in `matrix.rs`, what each statement does is in
//! `semantics.rs`, what a backup contains is proved elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::client::ConnOptions;
use lab::plugged::{
    INSTALL, Plugged as Lab, UNINSTALL, backs_up, code, last, refused, set_dir, status, wait_for,
};
use lab::scratch::Scratch;

/// What KILL and a lost client may take: a second (P28), and more on a machine that does other things beside.
const AT_ONCE: Duration = Duration::from_secs(5);

lab::on_every_server! { life command_line metadata refusals privileges running ddl_lock log_directories }

fn life(name: &str) {
    let mut lab = Lab::new(name, &[]);
    let mut conn = lab.server.connect().unwrap();
    for round in 0..20 {
        conn.exec(INSTALL).unwrap();
        assert_eq!(conn.value("SELECT @@tokudb_backup_version").unwrap().as_deref(), Some("1.0.0"));
        if round % 10 == 0 {
            backs_up(&mut conn, &lab.backup(&format!("round-{round}")));
        }
        conn.exec(UNINSTALL).unwrap();
        assert_eq!(code(&mut conn, "SELECT @@tokudb_backup_version"), 1193, "no variable without the plugin");
    }
    conn.exec(INSTALL).unwrap();
    // From mysql.plugin.
    lab.server.stop().unwrap();
    lab.server.start().unwrap();
    let mut conn = lab.server.connect().unwrap();
    backs_up(&mut conn, &lab.backup("after-restart"));
    assert_eq!(status(&mut conn, "last_result"), "success");
    conn.exec(UNINSTALL).unwrap();
    lab.server.stop().unwrap();
}

fn command_line(name: &str) {
    let scratch = Scratch::new(&format!("prefix-{name}")).unwrap();
    let allowed = scratch.path().join("backup");
    for dir in ["backup", "backup2"] {
        fs::create_dir(scratch.path().join(dir)).unwrap();
    }
    symlink(scratch.path().join("backup2"), allowed.join("elsewhere")).unwrap();
    let lab = Lab::new(
        name,
        &[
            "--plugin-load-add=tokudb_backup.so".into(),
            format!("--tokudb-backup-allowed-prefix={}", allowed.display()),
            "--tokudb-backup-throttle=123456789".into(),
            "--tokudb-backup-lock=OFF".into(),
            "--tokudb-backup-lock-timeout=7".into(),
            "--tokudb-backup-gate-timeout=33".into(),
            "--tokudb-backup-safe-slave".into(),
            "--tokudb-backup-safe-slave-timeout=44".into(),
            // Runs nothing at the start.
            format!("--loose-tokudb-backup-dir={}/at-start", allowed.display()),
        ],
    );
    let mut conn = lab.server.connect().unwrap();
    let sql = "SELECT @@tokudb_backup_throttle, @@tokudb_backup_lock, @@tokudb_backup_lock_timeout, \
               @@tokudb_backup_gate_timeout, @@tokudb_backup_safe_slave, @@tokudb_backup_safe_slave_timeout, \
               @@tokudb_backup_allowed_prefix, @@tokudb_backup_dir";
    let expected = ["123456789", "OFF", "7", "33", "1", "44", &allowed.display().to_string(), "NULL"];
    assert_eq!(conn.query(sql).unwrap().texts(), [expected]);
    assert!(!allowed.join("at-start").exists());
    for outside in ["backup2/x", "backup/elsewhere/x", "backup/../backup2/x"] {
        let text = "is not below the allowed prefix";
        refused(&mut conn, set_dir(&scratch.path().join(outside)), 1105, libc::EPERM, text);
    }
    assert_eq!(fs::read_dir(scratch.path().join("backup2")).unwrap().count(), 0);
    conn.exec("SET tokudb_backup_throttle = DEFAULT").unwrap();
    backs_up(&mut conn, &allowed.join("x"));
}

/// Name, read-only, of the session, type, default, least, greatest, comment. None: not a number.
type Metadata = (
    &'static str,
    bool,
    bool,
    &'static str,
    Option<&'static str>,
    Option<(&'static str, &'static str)>,
    &'static str,
);

const GREATEST: &str = "18446744073709551615";
const VARIABLES: [Metadata; 9] = [
    ("plugin_version", true, false, "str", Some("1.0.0"), None, "version of the TokuBackup plugin"),
    ("version", true, false, "str", Some("1.0.0"), None, "version of the TokuBackup library"),
    ("allowed_prefix", true, false, "str", None, None, "allowed prefix of the destination directory"),
    (
        "throttle",
        false,
        true,
        "ulonglong",
        Some(GREATEST),
        Some(("0", GREATEST)),
        "backup throttle on write rate in bytes per second",
    ),
    ("dir", false, true, "str", None, None, "name of the directory where the backup is stored"),
    (
        "last_error",
        false,
        true,
        "ulong",
        Some("0"),
        Some(("0", GREATEST)),
        "error from the last backup. 0 is success",
    ),
    ("last_error_string", false, true, "str", None, None, "error string of the last backup"),
    ("exclude", false, true, "str", None, None, "exclude source file regular expression"),
    (
        "safe_slave_timeout",
        false,
        false,
        "ulonglong",
        Some("0"),
        Some(("0", GREATEST)),
        "The maximum amount of seconds to wait for slave temp tables disappear 0 - don't wait",
    ),
];

fn metadata(name: &str) {
    let (lab, mut conn) = Lab::installed(name);
    let ours = ["gate_timeout", "lock", "lock_timeout", "safe_slave"];
    let mut expected: Vec<String> =
        VARIABLES.iter().map(|v| v.0).chain(ours).map(|name| format!("tokudb_backup_{name}")).collect();
    expected.sort();
    let shown = conn.query("SHOW VARIABLES LIKE 'tokudb_backup%'").unwrap().texts();
    assert_eq!(shown.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), expected);
    for (short, read_only, session, kind, default, range, comment) in VARIABLES {
        let variable = format!("tokudb_backup_{short}");
        let value = conn.query(format!("SELECT @@{variable}")).unwrap().texts();
        assert_eq!(value, [[default.unwrap_or("NULL")]], "{variable}");
        let plain = if kind == "str" { "'x'" } else { "1" };
        if read_only {
            assert_eq!(
                code(&mut conn, format!("SET GLOBAL {variable} = {plain}")),
                1238,
                "{variable} is read-only"
            );
        }
        // 1238: Variable is a GLOBAL variable.
        assert_eq!(code(&mut conn, format!("SELECT @@session.{variable}")) == 0, session, "{variable}");
        assert_eq!(code(&mut conn, format!("SELECT @@global.{variable}")), 0, "{variable}");
        if lab.is_mariadb() {
            let sql = format!(
                "SELECT VARIABLE_SCOPE, VARIABLE_TYPE, DEFAULT_VALUE, NUMERIC_MIN_VALUE, NUMERIC_MAX_VALUE, \
                 VARIABLE_COMMENT, READ_ONLY FROM information_schema.SYSTEM_VARIABLES WHERE VARIABLE_NAME = '{variable}'"
            );
            let rows = conn.query(sql).unwrap().texts();
            let scope = if session { "SESSION" } else { "GLOBAL" };
            let kind = match kind {
                "str" => "VARCHAR",
                "ulong" | "ulonglong" => "BIGINT UNSIGNED",
                other => other,
            };
            let (least, greatest) = range.unwrap_or(("NULL", "NULL"));
            assert_eq!(rows.len(), 1, "{variable}");
            let row = &rows[0];
            assert_eq!((&*row[0], &*row[1]), (scope, kind), "{variable}");
            // No string has a default; MariaDB shows that as NULL or as the empty string.
            let expected = if kind == "VARCHAR" { "" } else { default.unwrap_or("") };
            assert_eq!(row[2].replace("NULL", ""), expected, "{variable}");
            assert_eq!((&*row[3], &*row[4]), (least, greatest), "{variable}");
            assert_eq!(row[5], comment);
            assert_eq!(row[6], if read_only { "YES" } else { "NO" }, "{variable}");
        }
        if lab.is_mysql_8() {
            let sql = format!(
                "SELECT VARIABLE_SCOPE, DATA_TYPE, MIN_VALUE, MAX_VALUE, DOCUMENTATION \
                 FROM performance_schema.variables_metadata WHERE VARIABLE_NAME = '{variable}'"
            );
            let rows = conn.query(sql).unwrap().texts();
            let scope = if session { "SESSION" } else { "GLOBAL" };
            let kind = if kind == "str" { "String" } else { "Integer" };
            assert_eq!(rows.len(), 1, "{variable}");
            let row = &rows[0];
            assert_eq!((&*row[0], &*row[1], &*row[4]), (scope, kind, comment), "{variable}");
            if let Some((least, greatest)) = range {
                assert_eq!((&*row[2], &*row[3]), (least, greatest), "{variable}");
            }
        }
    }
    // Ours.
    for (sql, variable, value) in [
        ("SET tokudb_backup_lock = 'off'", "lock", "OFF"),
        ("SET tokudb_backup_lock = ddl", "lock", "DDL"),
        ("SET tokudb_backup_lock = 'All'", "lock", "ALL"),
        // The numbers, by which servers keep the values, stay.
        ("SET tokudb_backup_lock = 0", "lock", "AUTO"),
        ("SET tokudb_backup_lock = 1", "lock", "OFF"),
        ("SET tokudb_backup_lock = 2", "lock", "DDL"),
        ("SET tokudb_backup_lock = 3", "lock", "ALL"),
        ("SET tokudb_backup_lock = DEFAULT", "lock", "AUTO"),
        ("SET tokudb_backup_lock_timeout = 5", "lock_timeout", "5"),
        ("SET tokudb_backup_lock_timeout = DEFAULT", "lock_timeout", "60"),
        ("SET GLOBAL tokudb_backup_gate_timeout = 50", "gate_timeout", "50"),
        ("SET GLOBAL tokudb_backup_gate_timeout = DEFAULT", "gate_timeout", "100"),
        ("SET GLOBAL tokudb_backup_safe_slave = ON", "safe_slave", "1"),
        ("SET GLOBAL tokudb_backup_safe_slave = DEFAULT", "safe_slave", "0"),
    ] {
        conn.exec(sql).unwrap();
        let found = conn.value(format!("SELECT @@tokudb_backup_{variable}")).unwrap();
        assert_eq!(found.as_deref(), Some(value), "{sql}");
    }
    for (sql, expected) in [
        ("SET tokudb_backup_lock = 'nonsense'", 1231),
        ("SET tokudb_backup_lock = 4", 1231),
        ("SET tokudb_backup_lock = NULL", 1231),
        ("SET tokudb_backup_gate_timeout = 50", 1229),
        ("SET tokudb_backup_throttle = -1", 1105),
        ("SET tokudb_backup_throttle = 'fast'", 1232),
    ] {
        assert_eq!(code(&mut conn, sql), expected, "{sql}");
    }
}

fn refusals(name: &str) {
    let (lab, mut conn) = Lab::installed(name);
    let conn = &mut conn;
    let first = lab.backup("first");
    backs_up(conn, &first);

    // Of the text alone.
    refused(conn, "SET tokudb_backup_dir = NULL", 1105, libc::EINVAL, "is NULL");
    refused(conn, "SET tokudb_backup_dir = ''", 1105, libc::EINVAL, "is empty");
    refused(conn, "SET tokudb_backup_dir = 'relative/path'", 1105, libc::EINVAL, "relative");
    let long = format!("SET tokudb_backup_dir = '/{}'", "a".repeat(4096));
    refused(conn, long, 1105, libc::ENAMETOOLONG, "4097 bytes");
    refused(conn, "SET tokudb_backup_dir = X'2f746d702fff'", 1105, libc::EINVAL, "UTF-8");
    refused(conn, "SET tokudb_backup_dir = X'2f746d702f0078'", 1105, libc::EINVAL, "");

    // Of the place.
    let data = lab.server.data().to_owned();
    let file = lab.backup("file");
    fs::write(&file, "kept").unwrap();
    let full = lab.backup("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("kept"), "").unwrap();
    let into_data = lab.backup("into-data");
    symlink(&data, &into_data).unwrap();
    let places = [
        (lab.backup("no/parent"), libc::ENOENT),
        (file.clone(), libc::ENOTDIR),
        (file.join("below"), libc::ENOTDIR),
        (full.clone(), libc::ENOTEMPTY),
        (first.clone(), libc::ENOTEMPTY),
        (data.join("inside"), libc::EINVAL),
        (data.clone(), libc::EINVAL),
        (data.parent().unwrap().to_owned(), libc::EINVAL),
        (into_data.join("inside"), libc::EINVAL),
        (lab.backups.join("../data/inside"), libc::EINVAL),
        (PathBuf::from("/"), libc::EINVAL),
    ];
    for (place, errno) in places {
        refused(conn, set_dir(&place), 1105, errno, "");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    assert!(!data.join("inside").exists());

    // Of what is left out: said before anything is made.
    conn.exec("SET tokudb_backup_exclude = '('").unwrap();
    refused(conn, set_dir(&lab.backup("never")), 1105, libc::EINVAL, "'('");
    assert!(!lab.backup("never").exists());
    conn.exec("SET tokudb_backup_exclude = DEFAULT").unwrap();

    conn.exec("CREATE DATABASE d").unwrap();
    // = DEFAULT is no backup that succeeded.
    let [failed, ..] = last(conn);
    conn.exec("SET tokudb_backup_dir = DEFAULT").unwrap();
    let [errno, _, dir] = last(conn);
    assert_eq!((&*errno, &*dir), (&*failed, "NULL"));
    assert_ne!(failed, "0");
    // What a handler sees.
    let handler = "CREATE PROCEDURE d.p() BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION \
                   SELECT @@tokudb_backup_last_error; SET tokudb_backup_dir = 'relative'; END";
    conn.exec(handler).unwrap();
    assert_eq!(conn.value("CALL d.p()").unwrap().as_deref(), Some("22"));
    if lab.is_mariadb() {
        // SET STATEMENT puts the old value back.
        let old = lab.backup("old");
        backs_up(conn, &old);
        conn.exec(format!(
            "SET STATEMENT tokudb_backup_dir = '{}' FOR SELECT 1",
            lab.backup("new").display()
        ))
        .unwrap();
        assert_eq!(last(conn), ["0".to_owned(), "NULL".to_owned(), old.display().to_string()]);
        conn.exec("SET STATEMENT tokudb_backup_dir = DEFAULT FOR SELECT 1").unwrap();
        assert_eq!(last(conn)[2], old.display().to_string());
    }
}

fn privileges(name: &str) {
    let (lab, mut root) = Lab::installed(name);
    root.exec("CREATE USER joe@localhost").unwrap();
    let mut joe = lab.connect_as("joe");
    let never = lab.backup("never");
    for sql in [set_dir(&never), "SET tokudb_backup_dir = NULL".into(), "SET tokudb_backup_dir = '/'".into()]
    {
        refused(&mut joe, sql, 1227, libc::EPERM, "privilege");
    }
    assert_eq!(code(&mut joe, "SET tokudb_backup_throttle = DEFAULT"), 1227);
    assert_eq!(joe.value("SELECT @@tokudb_backup_throttle").unwrap().as_deref(), Some(GREATEST));
    assert!(!never.exists());
    let grants: &[&str] = if lab.is_mysql_8() { &["BACKUP_ADMIN", "SUPER"] } else { &["SUPER"] };
    for privilege in grants {
        root.exec(format!("GRANT {privilege} ON *.* TO joe@localhost")).unwrap();
        let mut joe = lab.connect_as("joe");
        backs_up(&mut joe, &lab.backup(privilege));
        joe.exec("SET tokudb_backup_throttle = 1000000000").unwrap();
        root.exec(format!("REVOKE {privilege} ON *.* FROM joe@localhost")).unwrap();
    }
}

fn running(name: &str) {
    let (lab, mut conn) = Lab::installed(name);
    let root = lab.server.conn_options();

    // Others see it, are refused one of their own, and may let it go on.
    let dir = lab.backup("first");
    let (id, backup) = lab.paused(&dir, &root);
    let sql = format!("SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = {id}");
    wait_for("the state line", || {
        conn.value(&sql).unwrap().is_some_and(|state| state.starts_with("backup: paused"))
    });
    assert_eq!(status(&mut conn, "last_result"), "running");
    refused(&mut conn, set_dir(&lab.backup("second")), 1105, libc::EBUSY, &format!("connection {id}"));
    assert!(!lab.backup("second").exists());
    if lab.is_mysql_8() {
        assert_eq!(code(&mut conn, UNINSTALL), 1105);
        // No lock is held that monitoring would wait for.
        conn.query("SELECT COUNT(*) FROM performance_schema.variables_by_thread").unwrap();
    }
    if lab.is_mariadb() {
        let sql = format!("SELECT PROGRESS FROM information_schema.PROCESSLIST WHERE ID = {id}");
        conn.exec("SET tokudb_backup_throttle = 20000000").unwrap();
        wait_for("the progress column", || {
            let part: f64 = conn.value(&sql).unwrap().unwrap().parse().unwrap();
            part > 0.0 && part < 100.0
        });
    }
    conn.exec("SET tokudb_backup_throttle = DEFAULT").unwrap();
    backup.join().unwrap().unwrap();
    assert!(dir.join("backup_manifest").is_file());
    assert_eq!(status(&mut conn, "last_errno"), "0");
    wait_for("the end of its connection", || conn.value(&sql).unwrap().is_none());

    // Ended, it ends within a second, and its directory says so.
    for (i, how) in ["KILL QUERY", "KILL"].into_iter().enumerate() {
        let dir = lab.backup(&format!("killed-{i}"));
        let (id, backup) = lab.paused(&dir, &root);
        let begin = Instant::now();
        conn.exec(format!("{how} {id}")).unwrap();
        let error = backup.join().unwrap().unwrap_err();
        assert!(begin.elapsed() < AT_ONCE, "{how} took {:?}", begin.elapsed());
        assert!(error.is_disconnect() || error.code == 1317, "{error}");
        wait_for("the end", || status(&mut conn, "last_errno") == libc::EINTR.to_string());
        assert!(dir.join("backup_incomplete").is_file() && !dir.join("backup_manifest").exists());
        refused(&mut conn, set_dir(&dir), 1105, libc::ENOTEMPTY, "incomplete");
    }
    let dir = lab.backup("client-gone");
    let impatient = ConnOptions { read_timeout: Some(Duration::from_secs(2)), ..root.clone() };
    let (_, backup) = lab.paused(&dir, &impatient);
    assert!(backup.join().unwrap().unwrap_err().is_disconnect());
    let begin = Instant::now();
    wait_for("the end of a backup without a client", || status(&mut conn, "last_result") == "failure");
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert_eq!(status(&mut conn, "last_errno"), libc::EINTR.to_string());

    // On servers where UNINSTALL does not wait it was refused; on the others it waits.
    if !lab.is_mysql_8() {
        let (_, backup) = lab.paused(&lab.backup("uninstalled"), &root);
        conn.exec(UNINSTALL).unwrap();
        assert_eq!(code(&mut conn, "SELECT @@tokudb_backup_version"), 1193);
        let mut other = lab.server.connect().unwrap();
        let sql = "SELECT ID FROM information_schema.PROCESSLIST WHERE STATE LIKE 'backup:%'";
        let id = other.value(sql).unwrap().unwrap();
        other.exec(format!("KILL QUERY {id}")).unwrap();
        assert_eq!(backup.join().unwrap().unwrap_err().code, 1317);
        wait_for("the end of the old plugin", || code(&mut other, INSTALL) == 0);
    }
    conn.exec("SET tokudb_backup_throttle = DEFAULT").unwrap();
    backs_up(&mut conn, &lab.backup("last"));
}

fn ddl_lock(name: &str) {
    let (lab, mut conn) = Lab::installed(name);
    conn.exec("CREATE DATABASE d").unwrap();
    conn.exec("CREATE TABLE d.t (a INT PRIMARY KEY)").unwrap();
    let before = conn.value("SELECT @@lock_wait_timeout").unwrap();
    let mut holder = lab.server.connect().unwrap();
    holder.exec("LOCK TABLES d.t WRITE").unwrap();
    if lab.is_mysql_8() {
        // It recovers from a crash inside DDL: nothing is held off, so nobody is waited for.
        backs_up(&mut conn, &lab.backup("nothing-held"));
        assert_eq!(status(&mut conn, "lock_microseconds"), "0");
        return;
    }

    // Not got in time: the error names who may hold it, and nothing stays locked.
    conn.exec("SET tokudb_backup_lock_timeout = 1").unwrap();
    refused(&mut conn, set_dir(&lab.backup("held")), 1105, libc::ETIMEDOUT, "tokudb_backup_lock_timeout");
    let [_, named, _] = last(&mut conn);
    let digits = |c: char| !c.is_ascii_digit();
    assert!(named.split(digits).any(|number| number == holder.id().to_string()), "{named}");
    assert_eq!(conn.value("SELECT @@lock_wait_timeout").unwrap(), before);
    conn.exec("CREATE TABLE d.u (a INT)").unwrap();

    // The session's own LOCK TABLES is no reason to wait.
    if lab.is_mariadb() {
        conn.exec("LOCK TABLES d.u WRITE").unwrap();
        refused(&mut conn, set_dir(&lab.backup("own")), 1105, libc::EDEADLK, "UNLOCK TABLES");
        conn.exec("UNLOCK TABLES").unwrap();
    }

    // OFF waits for nobody.
    conn.exec("SET tokudb_backup_lock = OFF").unwrap();
    backs_up(&mut conn, &lab.backup("off"));
    // With DDL held off there is nothing for MariaDB's DDL log to bring to an end.
    let log = |name: &str| lab.backup(name).join("mysql_data_dir/ddl_recovery.log").exists();
    let has_log = ["mariadb-10.11", "mariadb-11.8"].contains(&name);
    assert_eq!(log("off"), has_log);
    conn.exec("SET tokudb_backup_lock = DEFAULT, tokudb_backup_lock_timeout = DEFAULT").unwrap();

    // A waiting backup is ended by KILL as any other, and has held nothing.
    let waiting = |dir: PathBuf| {
        let mut session = lab.server.connect().unwrap();
        let id = session.id();
        let thread = std::thread::spawn(move || session.exec(set_dir(&dir)).map(drop));
        let sql = format!("SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = {id}");
        let mut looker = lab.server.connect().unwrap();
        // The server shows its own word while it waits inside.
        wait_for("the wait for the lock", || {
            looker
                .value(&sql)
                .unwrap()
                .is_some_and(|s| s.contains("no DDL runs") || s.contains("global read lock"))
        });
        (id, thread)
    };
    let (id, backup) = waiting(lab.backup("killed"));
    let begin = Instant::now();
    conn.exec(format!("KILL QUERY {id}")).unwrap();
    assert_eq!(backup.join().unwrap().unwrap_err().code, 1317);
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    conn.exec("DROP TABLE d.u").unwrap();

    // Reads go on meanwhile; it goes on itself when the holder lets go.
    let (_, backup) = waiting(lab.backup("waited"));
    conn.query("SELECT * FROM mysql.user").unwrap();
    holder.exec("UNLOCK TABLES").unwrap();
    backup.join().unwrap().unwrap();
    assert_ne!(status(&mut conn, "lock_microseconds"), "0");
    assert!(!log("waited"));
}

fn log_directories(name: &str) {
    let logs = Scratch::new(&format!("logs-{name}")).unwrap();
    let outside = |file: &str| logs.path().join(file).display().to_string();
    let lab = Lab::new(name, &["--server-id=1".into(), format!("--log-bin={}", outside("bl"))]);
    let mut conn = lab.server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    conn.exec("FLUSH LOGS").unwrap();
    let dir = lab.backup("two-sources");
    backs_up(&mut conn, &dir);
    for file in ["bl.000001", "bl.000002", "bl.index"] {
        assert!(dir.join("mysql_log_bin").join(file).is_file(), "{file}");
    }
    // A server over a copy of the image finds the copies of its logs, and nothing of the original's.
    let index = fs::read_to_string(dir.join("mysql_log_bin/bl.index")).unwrap();
    assert_eq!(index, "./bl.000001\n./bl.000002\n");
    let home = Scratch::new(&format!("restored-{name}")).unwrap();
    let restored = lab::image::boot(&lab.server, &dir, home.path()).unwrap();
    let shown = restored.connect().unwrap().query("SHOW BINARY LOGS").unwrap().texts();
    let names: Vec<_> = shown.iter().map(|row| &*row[0]).collect();
    assert_eq!(names, ["bl.000001", "bl.000002", "bl.000003"]);
    assert!(home.path().join("binlog/bl.000003").is_file());
    for original in [logs.path(), lab.server.data()] {
        let used = lab::image::files_in_use(restored.pid().unwrap(), original).unwrap();
        assert!(used.is_empty(), "{used:?}");
    }
    drop(restored);
    let size = fs::metadata(logs.path().join("bl.000002")).unwrap().len();
    let manifest = fs::read_to_string(dir.join("backup_manifest")).unwrap();
    let binlog = format!("\"binlog\": {{\"file\": \"bl.000002\", \"size\": {size}, \"position\": {size}, ");
    assert!(manifest.contains(&binlog), "{binlog} is not in {manifest}");
}
