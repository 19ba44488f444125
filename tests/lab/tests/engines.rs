//! Every engine that the servers here have, written to while a backup is taken, and read on a server over the image.

use std::fs;

use lab::client::Conn;
use lab::plugged::{Acknowledged, INSTALL, backed_up_under_writes};
use lab::scratch::Scratch;
use lab::server::{Options, Server};

const MYSQL_5_6: &str = "mysql-5.6.24";
const MYSQL_9_7: &str = "mysql-9.7";
const ENGINES: &str = "mariadb-10.11-engines";

/// What becomes of rows that were acknowledged before the backup began.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    /// They are there.
    All,
    /// They are there after REPAIR TABLE, as after kill -9.
    AfterRepair,
    /// The engine keeps rows in memory for a while: those that it had written are there.
    Some,
}

struct Table {
    name: &'static str,
    /// What follows the columns.
    options: &'static str,
    columns: &'static str,
    kept: Kept,
    /// On these servers; none: all.
    only: &'static [&'static str],
}

const COLUMNS: &str = "id INT NOT NULL PRIMARY KEY, v TEXT";
const INDEXED: &str = "id INT NOT NULL PRIMARY KEY, v VARCHAR(300), KEY (v(100))";
const PLAIN: &str = "id INT NOT NULL, v VARCHAR(300) NOT NULL";
const MARIADB: &[&str] = &["mariadb-10.5", ENGINES, "mariadb-11.8"];

const fn table(
    name: &'static str,
    columns: &'static str,
    options: &'static str,
    kept: Kept,
    only: &'static [&'static str],
) -> Table {
    Table { name, options, columns, kept, only }
}

const TABLES: &[Table] = &[
    table("plain", COLUMNS, "ENGINE=InnoDB", Kept::All, &[]),
    table("zipped", COLUMNS, "ENGINE=InnoDB ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8", Kept::All, &[]),
    table("punched", COLUMNS, "ENGINE=InnoDB COMPRESSION='zlib'", Kept::All, &[MYSQL_9_7]),
    table("pages", COLUMNS, "ENGINE=InnoDB PAGE_COMPRESSED=1", Kept::All, MARIADB),
    table("secret", COLUMNS, "ENGINE=InnoDB ENCRYPTED=YES ENCRYPTION_KEY_ID=1", Kept::All, &[ENGINES]),
    table("secret", COLUMNS, "ENGINE=InnoDB ENCRYPTION='Y'", Kept::All, &[MYSQL_9_7]),
    table("secret_aria", COLUMNS, "ENGINE=Aria", Kept::AfterRepair, &[ENGINES]),
    table("parts", COLUMNS, "ENGINE=InnoDB PARTITION BY HASH (id) PARTITIONS 5", Kept::All, &[]),
    table("words", "id INT NOT NULL PRIMARY KEY, v TEXT, FULLTEXT KEY (v)", "ENGINE=InnoDB", Kept::All, &[]),
    table("isam", INDEXED, "ENGINE=MyISAM", Kept::AfterRepair, &[]),
    table(
        "isam_words",
        "id INT NOT NULL PRIMARY KEY, v TEXT, FULLTEXT KEY (v)",
        "ENGINE=MyISAM",
        Kept::AfterRepair,
        &[],
    ),
    table("aria", INDEXED, "ENGINE=Aria TRANSACTIONAL=1", Kept::All, MARIADB),
    table("aria_plain", INDEXED, "ENGINE=Aria TRANSACTIONAL=0", Kept::AfterRepair, MARIADB),
    table("csv", PLAIN, "ENGINE=CSV", Kept::AfterRepair, &[]),
    table("archive", PLAIN, "ENGINE=ARCHIVE", Kept::Some, &[MYSQL_5_6, MYSQL_9_7, ENGINES]),
    table("rocks", COLUMNS, "ENGINE=ROCKSDB", Kept::All, &[ENGINES]),
];

#[test]
fn mysql_5_6() {
    all_engines(MYSQL_5_6);
}
#[test]
fn mysql_9_7() {
    all_engines(MYSQL_9_7);
}
#[test]
fn mariadb_10_5() {
    all_engines("mariadb-10.5");
}
#[test]
fn mariadb_10_11_with_all_that_debian_has() {
    all_engines(ENGINES);
}
#[test]
fn mariadb_11_8() {
    all_engines("mariadb-11.8");
}

/// A copy of MySQL's program that loads a keyring, which the file beside it says; and the keyring's own settings, to be
/// found in the plugin folder. Keys are none of the backup's: a restored server is given the same.
fn with_keyring(options: &mut Options, scratch: &Scratch) {
    let dir = scratch.path().join("program");
    fs::create_dir(&dir).unwrap();
    let program = dir.join("mysqld");
    fs::copy(lab::installation::Installation::find(MYSQL_9_7).unwrap().program(), &program).unwrap();
    fs::write(dir.join("mysqld.my"), r#"{"components": "file://component_keyring_file"}"#).unwrap();
    let settings = dir.join("component_keyring_file.cnf");
    let keys = scratch.path().join("keyring");
    fs::write(&settings, format!(r#"{{"path": "{}", "read_only": false}}"#, keys.display())).unwrap();
    options.plugins.push(settings);
    options.program = Some(program);
    options.args = ["--basedir=/usr", "--innodb-redo-log-encrypt=ON", "--innodb-undo-log-encrypt=ON"]
        .map(str::to_owned)
        .to_vec();
}

fn start(name: &str, scratch: &Scratch) -> Server {
    let mut options = Options { plugins: vec![lab::built::plugin().unwrap()], ..Options::default() };
    if name == MYSQL_9_7 {
        with_keyring(&mut options, scratch);
    }
    if name == ENGINES {
        let keys = scratch.path().join("keys");
        fs::write(&keys, "1;770A8A65DA156D24EE2A093277530142\n").unwrap();
        options.args = vec![
            "--plugin-load-add=file_key_management".into(),
            format!("--file-key-management-filename={}", keys.display()),
            "--innodb-encrypt-log=ON".into(),
            "--aria-encrypt-tables=ON".into(),
            "--plugin-load-add=ha_archive".into(),
            "--plugin-load-add=ha_rocksdb".into(),
        ];
    }
    let mut server = Server::create(name, &scratch.path().join("server"), options).unwrap();
    server.start().unwrap();
    server
}

fn count(conn: &mut Conn, table: &str) -> u64 {
    conn.value(format!("SELECT COUNT(*) FROM d.{table}")).unwrap().unwrap().parse().unwrap()
}

fn all_engines(name: &str) {
    let scratch = Scratch::new(&format!("engines-{name}")).unwrap();
    let server = start(name, &scratch);
    let mut conn = server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    conn.exec("CREATE DATABASE d").unwrap();
    let tables: Vec<&Table> =
        TABLES.iter().filter(|table| table.only.is_empty() || table.only.contains(&name)).collect();
    for table in &tables {
        conn.exec(format!("CREATE TABLE d.{} ({}) {}", table.name, table.columns, table.options)).unwrap();
    }
    // A merge of two tables of which the second is written.
    for name in ["first", "second"] {
        conn.exec(format!("CREATE TABLE d.{name} ({INDEXED}) ENGINE=MyISAM")).unwrap();
    }
    conn.exec("INSERT INTO d.first VALUES (-1, 'x')").unwrap();
    conn.exec(format!(
        "CREATE TABLE d.merged ({INDEXED}) ENGINE=MERGE UNION=(d.first, d.second) INSERT_METHOD=LAST"
    ))
    .unwrap();

    let backup = scratch.path().join("backup");
    let Acknowledged { before, after } = backed_up_under_writes(
        &server,
        &backup,
        |writer| {
            writer.exec("USE d").unwrap();
            writer.exec("CREATE TEMPORARY TABLE d.temporary (id INT, v TEXT) ENGINE=InnoDB").unwrap();
        },
        |writer, id| {
            for name in tables.iter().map(|table| table.name).chain(["merged", "temporary"]) {
                let value = format!("({id}, CONCAT('row {id} ', REPEAT(SHA2({id}, 256), 4)))");
                writer.exec(format!("INSERT INTO d.{name} VALUES {value}")).unwrap();
            }
        },
    );

    let mut restored = lab::image::place(&server, &backup, &scratch.path().join("restored")).unwrap();
    restored.options.program = server.options.program.clone();
    restored.start().unwrap();
    let mut conn = restored.connect().unwrap();
    for table in &tables {
        let name = table.name;
        if table.kept != Kept::All {
            // As after kill -9; it must come back as REPAIR says.
            let repaired = conn.query(format!("REPAIR TABLE d.{name}")).unwrap().texts();
            assert_eq!(repaired.last().unwrap()[3], "OK", "{repaired:?}");
        }
        let rows = count(&mut conn, name);
        let least = if table.kept == Kept::Some { 0 } else { before };
        assert!(
            (least..=after).contains(&rows),
            "{name}: {rows} rows, {before} were there before, {after} after"
        );
        let checked = conn.query(format!("CHECK TABLE d.{name} EXTENDED")).unwrap().texts();
        let checks = !checked.iter().any(|row| row[3].contains("doesn't support"));
        assert!(!checks || checked.iter().all(|row| row[3] == "OK"), "{checked:?}");
        // Every row is what was written.
        let wrong = format!(
            "SELECT COUNT(*) FROM d.{name} \
             WHERE CAST(v AS BINARY) <> CAST(CONCAT('row ', id, ' ', REPEAT(SHA2(id, 256), 4)) AS BINARY)"
        );
        assert_eq!(conn.value(wrong).unwrap().as_deref(), Some("0"), "{name}");
        conn.exec(format!("INSERT INTO d.{name} VALUES (1000000, 'new')")).unwrap();
    }
    conn.query("REPAIR TABLE d.second").unwrap();
    assert!((before + 1..=after + 1).contains(&count(&mut conn, "merged")));
    // Of the temporary table nothing came along.
    assert!(conn.query("SELECT * FROM d.temporary").is_err());
}

/// Mroonga writes through memory mappings, which nobody sees: refused by the name of the file, or left out.
#[test]
fn memory_mapped_files_of_mroonga() {
    let scratch = Scratch::new("mroonga").unwrap();
    let server = start(ENGINES, &scratch);
    let mut conn = server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    conn.exec("INSTALL SONAME 'ha_mroonga'").unwrap();
    conn.exec("CREATE DATABASE d").unwrap();
    conn.exec("CREATE TABLE d.t (id INT PRIMARY KEY, v TEXT, FULLTEXT KEY (v)) ENGINE=Mroonga").unwrap();
    conn.exec("INSERT INTO d.t VALUES (1, 'some words')").unwrap();
    let backup = scratch.path().join("backup");
    let error = conn.exec(format!("SET tokudb_backup_dir = '{}'", backup.display())).unwrap_err();
    assert!(error.message.contains(".mrn") && error.message.contains("memory mapping"), "{error}");
    assert_eq!(conn.value("SELECT @@tokudb_backup_last_error").unwrap().as_deref(), Some("95"));

    let _ = fs::remove_dir_all(&backup);
    conn.exec(r"SET tokudb_backup_exclude = '\\.mrn'").unwrap();
    conn.exec(format!("SET tokudb_backup_dir = '{}'", backup.display())).unwrap();
    assert!(backup.join("backup_manifest").is_file());
}

/// With MariaDB's metadata_lock_info, who keeps DDL from being held off is named with certainty.
#[test]
fn metadata_lock_info_names_the_holder() {
    let scratch = Scratch::new("holder").unwrap();
    let server = start(ENGINES, &scratch);
    let mut conn = server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    conn.exec("INSTALL SONAME 'metadata_lock_info'").unwrap();
    conn.exec("CREATE DATABASE d").unwrap();
    conn.exec("CREATE TABLE d.t (a INT)").unwrap();
    let mut bystander = server.connect().unwrap();
    bystander.query("SELECT 1").unwrap();
    let mut holder = server.connect().unwrap();
    holder.exec("LOCK TABLES d.t WRITE").unwrap();
    conn.exec("SET tokudb_backup_lock_timeout = 1").unwrap();
    let sql = format!("SET tokudb_backup_dir = '{}'", scratch.path().join("backup").display());
    let error = conn.exec(sql).unwrap_err();
    let named = format!("connection {} holds ", holder.id());
    assert!(error.message.contains(&named), "{error}");
    assert!(!error.message.contains(&format!("connection {} ", bystander.id())), "{error}");
}
