//! What a server does to its files beside the workload of the soak: logs, tablespaces, replication, plugins, exports.

use crate::client::SqlError;
use crate::features::Features;
use crate::server::Server;

/// On which servers a statement is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    All,
    MariaDb,
    /// MariaDB since 10.11.
    NewMariaDb,
    MySql,
    OldMySql,
    /// MySQL since 8.0.
    NewMySql,
}
use On::{All, MariaDb, MySql, NewMariaDb, NewMySql, OldMySql};

impl On {
    fn holds(self, features: &Features) -> bool {
        let new = features.atomic_ddl();
        match self {
            All => true,
            MariaDb => features.mariadb,
            NewMariaDb => features.mariadb && features.version >= (10, 11),
            MySql => !features.mariadb,
            OldMySql => !features.mariadb && !new,
            NewMySql => new,
        }
    }
}

/// `{data}` is the data directory.
const DEEDS: &[(On, &str)] = &[
    // Logs of the server.
    (All, "SET GLOBAL log_output = 'FILE,TABLE'"),
    (All, "SET GLOBAL slow_query_log = ON"),
    (All, "SET GLOBAL general_log = ON"),
    (All, "SET SESSION long_query_time = 0"),
    (All, "FLUSH LOGS"),
    (All, "FLUSH ERROR LOGS"),
    // Tables of all kinds.
    (All, "CREATE DATABASE deeds"),
    (All, "ALTER DATABASE deeds CHARACTER SET latin1"),
    (All, "USE deeds"),
    (All, "CREATE TABLE i (id INT AUTO_INCREMENT PRIMARY KEY, a INT, b VARCHAR(500), KEY (a)) ENGINE=InnoDB"),
    (All, "INSERT INTO i (a, b) VALUES (1, REPEAT('x', 500)), (2, REPEAT('y', 500))"),
    (All, "INSERT INTO i (a, b) SELECT a, b FROM i"),
    (All, "INSERT INTO i (a, b) SELECT x.a, x.b FROM i x, i y, i z"),
    (All, "INSERT INTO i (a, b) SELECT x.a, x.b FROM i x, i y WHERE y.id < 200"),
    (
        All,
        "CREATE TABLE m (id INT AUTO_INCREMENT PRIMARY KEY, a INT, b VARCHAR(500), KEY (a), FULLTEXT KEY (b)) ENGINE=MyISAM",
    ),
    (All, "ALTER TABLE m DISABLE KEYS"),
    (All, "INSERT INTO m (a, b) SELECT a, b FROM i LIMIT 3000"),
    (All, "ALTER TABLE m ENABLE KEYS"),
    (All, "REPAIR TABLE m"),
    (All, "REPAIR TABLE m QUICK"),
    (All, "REPAIR TABLE m USE_FRM"),
    (All, "OPTIMIZE TABLE m"),
    (All, "ANALYZE TABLE m, i"),
    (All, "CHECK TABLE m, i"),
    (All, "CREATE TABLE mm (id INT, a INT, b VARCHAR(500)) ENGINE=MRG_MyISAM UNION=(m) INSERT_METHOD=LAST"),
    (All, "CREATE TABLE c (id INT NOT NULL, b VARCHAR(500) NOT NULL) ENGINE=CSV"),
    (All, "INSERT INTO c SELECT id, b FROM i LIMIT 500"),
    (All, "UPDATE c SET b = 'z' WHERE id < 100"),
    (All, "DELETE FROM c WHERE id < 50"),
    (All, "CREATE TABLE ft (id INT AUTO_INCREMENT PRIMARY KEY, b TEXT, FULLTEXT KEY (b)) ENGINE=InnoDB"),
    (All, "INSERT INTO ft (b) VALUES ('some words'), ('other words')"),
    (All, "OPTIMIZE TABLE ft"),
    (All, "CREATE TABLE z (id INT PRIMARY KEY, b BLOB) ENGINE=InnoDB ROW_FORMAT=COMPRESSED"),
    (All, "INSERT INTO z SELECT id, b FROM i LIMIT 2000"),
    (All, "ALTER TABLE i ADD COLUMN d INT"),
    (All, "ALTER TABLE i ADD INDEX (b(20)), ALGORITHM=INPLACE"),
    (All, "ALTER TABLE i FORCE, ALGORITHM=COPY"),
    (All, "OPTIMIZE TABLE i"),
    (
        All,
        "CREATE TABLE p (id INT, v INT) ENGINE=InnoDB PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (20))",
    ),
    (All, "CREATE TABLE pe (id INT, v INT) ENGINE=InnoDB"),
    (All, "ALTER TABLE p EXCHANGE PARTITION p0 WITH TABLE pe"),
    (All, "ALTER TABLE p TRUNCATE PARTITION p1"),
    (All, "ALTER TABLE p DROP PARTITION p0"),
    (All, "FLUSH TABLES i FOR EXPORT"),
    (All, "UNLOCK TABLES"),
    (All, "FLUSH TABLES WITH READ LOCK"),
    (All, "UNLOCK TABLES"),
    (All, "CREATE TABLE gone LIKE i"),
    (All, "ALTER TABLE gone DISCARD TABLESPACE"),
    (All, "DROP TABLE gone"),
    (All, "TRUNCATE TABLE ft"),
    (All, "CREATE TEMPORARY TABLE t1 (id INT, b VARCHAR(500)) ENGINE=InnoDB"),
    (All, "INSERT INTO t1 SELECT id, b FROM i"),
    (All, "CREATE TEMPORARY TABLE t2 ENGINE=MyISAM AS SELECT * FROM m"),
    (
        All,
        "SELECT COUNT(*) FROM (SELECT x.b, y.id FROM i x JOIN i y ON x.id = y.id ORDER BY x.b DESC LIMIT 5000) s",
    ),
    (All, "DROP TEMPORARY TABLE t1, t2"),
    (MySql, "CREATE TABLE ar (id INT, b VARCHAR(500)) ENGINE=ARCHIVE"),
    (MySql, "INSERT INTO ar SELECT id, b FROM i LIMIT 2000"),
    (MySql, "OPTIMIZE TABLE ar"),
    (MariaDb, "CREATE TABLE ar (id INT, b VARCHAR(500), KEY (id)) ENGINE=Aria TRANSACTIONAL=1"),
    (MariaDb, "INSERT INTO ar SELECT id, b FROM i LIMIT 3000"),
    (MariaDb, "REPAIR TABLE ar"),
    (MariaDb, "OPTIMIZE TABLE ar"),
    (MariaDb, "CREATE SEQUENCE s"),
    (MariaDb, "SELECT NEXTVAL(s)"),
    (MariaDb, "CREATE TABLE pc (id INT PRIMARY KEY, b TEXT) ENGINE=InnoDB PAGE_COMPRESSED=1"),
    (MariaDb, "INSERT INTO pc SELECT id, b FROM i LIMIT 3000"),
    (MariaDb, "SET GLOBAL aria_log_file_size = 16777216"),
    (NewMariaDb, "SET GLOBAL innodb_log_file_size = 134217728"),
    (NewMariaDb, "CREATE TABLE sv (id INT PRIMARY KEY) ENGINE=InnoDB WITH SYSTEM VERSIONING"),
    (NewMySql, "CREATE TABLE pc (id INT PRIMARY KEY, b TEXT) ENGINE=InnoDB COMPRESSION='zlib'"),
    (NewMySql, "INSERT INTO pc SELECT id, b FROM i LIMIT 3000"),
    // Tablespaces.
    (NewMySql, "CREATE TABLESPACE ts ADD DATAFILE 'ts.ibd'"),
    (NewMySql, "CREATE TABLE it (id INT PRIMARY KEY) TABLESPACE ts"),
    (NewMySql, "INSERT INTO it SELECT id FROM i"),
    (NewMySql, "ALTER TABLESPACE ts RENAME TO ts2"),
    (NewMySql, "DROP TABLE it"),
    (NewMySql, "DROP TABLESPACE ts2"),
    (NewMySql, "CREATE UNDO TABLESPACE more ADD DATAFILE 'more.ibu'"),
    (NewMySql, "ALTER UNDO TABLESPACE more SET INACTIVE"),
    (NewMySql, "SET GLOBAL innodb_redo_log_capacity = 67108864"),
    (All, "BEGIN"),
    (All, "UPDATE i SET a = a + 1, b = LEFT(CONCAT('n', b), 500)"),
    (All, "DELETE FROM i WHERE id % 3 = 0"),
    (All, "ROLLBACK"),
    (All, "UPDATE i SET a = a + 1"),
    (All, "SET GLOBAL innodb_max_dirty_pages_pct = 0"),
    // What is written for clients.
    (All, "SELECT id, b INTO OUTFILE '{data}/out.txt' FROM i LIMIT 500"),
    (All, "SELECT REPEAT('d', 1000) INTO DUMPFILE '{data}/dump.txt'"),
    (All, "CREATE TABLE l (id INT, b VARCHAR(500)) ENGINE=MyISAM"),
    (All, "LOAD DATA INFILE '{data}/out.txt' INTO TABLE l"),
    // Names that lie in files: triggers, views, procedures, users, events.
    (All, "CREATE VIEW v AS SELECT id FROM i"),
    (All, "CREATE OR REPLACE VIEW v AS SELECT a FROM i"),
    (All, "CREATE TRIGGER tr BEFORE INSERT ON i FOR EACH ROW SET NEW.a = 7"),
    (All, "DROP TRIGGER tr"),
    (All, "CREATE PROCEDURE pr() SELECT 1"),
    (All, "CREATE EVENT ev ON SCHEDULE EVERY 1 DAY DO SELECT 1"),
    (All, "CREATE USER u@localhost"),
    (All, "GRANT SELECT ON *.* TO u@localhost"),
    (All, "FLUSH PRIVILEGES"),
    (All, "DROP USER u@localhost"),
    // What the server remembers of itself.
    (All, "SET GLOBAL innodb_buffer_pool_dump_now = ON"),
    (MariaDb, "SET GLOBAL innodb_buffer_pool_load_now = ON"),
    (NewMySql, "SET PERSIST max_connections = 200"),
    (NewMySql, "RESET PERSIST"),
    (NewMySql, "ALTER INSTANCE RELOAD TLS"),
    // Binary and relay logs.
    (All, "SET SESSION binlog_format = ROW"),
    (All, "UPDATE i SET b = LEFT(CONCAT('w', b), 500)"),
    (All, "FLUSH BINARY LOGS"),
    (All, "SET GLOBAL max_binlog_size = 4096"),
    (All, "UPDATE i SET a = 1 WHERE id < 500"),
    (All, "UPDATE i SET a = 2 WHERE id < 500"),
    (All, "SET GLOBAL max_binlog_size = 1073741824"),
    (All, "PURGE BINARY LOGS BEFORE NOW()"),
    (MariaDb, "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 1, MASTER_USER = 'x'"),
    (OldMySql, "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 1, MASTER_USER = 'x'"),
    (MariaDb, "START SLAVE"),
    (OldMySql, "START SLAVE"),
    (MariaDb, "FLUSH RELAY LOGS"),
    (OldMySql, "FLUSH RELAY LOGS"),
    (MariaDb, "STOP SLAVE"),
    (OldMySql, "STOP SLAVE"),
    (MariaDb, "RESET SLAVE ALL"),
    (OldMySql, "RESET SLAVE ALL"),
    (NewMySql, "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, SOURCE_USER = 'x'"),
    (NewMySql, "START REPLICA"),
    (NewMySql, "FLUSH RELAY LOGS"),
    (NewMySql, "STOP REPLICA"),
    (NewMySql, "RESET REPLICA ALL"),
    // Plugins that bring files or engines.
    (MariaDb, "INSTALL SONAME 'ha_archive'"),
    (MariaDb, "CREATE TABLE arc (id INT, b VARCHAR(500)) ENGINE=ARCHIVE"),
    (MariaDb, "INSERT INTO arc SELECT id, b FROM i LIMIT 2000"),
    (MariaDb, "OPTIMIZE TABLE arc"),
    (MariaDb, "DROP TABLE arc"),
    (MariaDb, "CREATE TABLE ro (id INT PRIMARY KEY, b VARCHAR(500)) ENGINE=ROCKSDB"),
    (MariaDb, "INSERT INTO ro SELECT id, b FROM i LIMIT 2000"),
    (MariaDb, "OPTIMIZE TABLE ro"),
    (MariaDb, "SET GLOBAL rocksdb_force_flush_memtable_now = 1"),
    (MariaDb, "INSTALL SONAME 'server_audit'"),
    (MariaDb, "SET GLOBAL server_audit_logging = ON"),
    (MariaDb, "SELECT 'audited'"),
    (MariaDb, "SET GLOBAL server_audit_file_rotate_now = ON"),
    (MariaDb, "SET GLOBAL server_audit_logging = OFF"),
    (MariaDb, "INSTALL SONAME 'sql_errlog'"),
    (MariaDb, "SELECT * FROM nowhere.no_table"),
    (NewMySql, "INSTALL COMPONENT 'file://component_validate_password'"),
    (NewMySql, "INSTALL COMPONENT 'file://component_log_sink_json'"),
    (NewMySql, "UNINSTALL COMPONENT 'file://component_validate_password'"),
    (NewMySql, "ALTER UNDO TABLESPACE more SET ACTIVE"),
    (All, "DROP DATABASE deeds"),
    (All, "SET GLOBAL general_log = OFF"),
    (All, "SET GLOBAL slow_query_log = OFF"),
];

/// Runs them all and returns those that the server refused: which modules a server has differs from one to another.
///
/// # Errors
/// The connection is lost.
pub fn all(server: &Server, features: &Features) -> Result<Vec<String>, SqlError> {
    let data = server.data().display().to_string();
    let mut conn = server.connect()?;
    conn.exec("SET SESSION lock_wait_timeout = 3")?;
    let mut refused = Vec::new();
    for (_, sql) in DEEDS.iter().filter(|(on, _)| on.holds(features)) {
        match conn.query(sql.replace("{data}", &data)) {
            Ok(_) => {}
            Err(error) if error.is_disconnect() => return Err(error),
            Err(error) => refused.push(format!("{sql}: {error}")),
        }
    }
    Ok(refused)
}
