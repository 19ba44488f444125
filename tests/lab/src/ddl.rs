//! A storm of DDL: files and directories that come, go, change names and engines while a backup runs.

use crate::client::{Conn, SqlError};
use crate::features::Features;
use crate::load::{Failure, Load, Outcome, Shared};
use crate::rng::Rng;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Databases whose tables the storm makes and drops; it makes and drops the last one itself, too.
pub const STORM: [&str; 3] = ["storm0", "storm1", "storm2"];
/// Databases among which the ring's tables travel.
pub const RING: [&str; 2] = ["ring0", "ring1"];
/// Tables of the ring, each with its own number as its content.
const RING_TABLES: u64 = 4;
/// Names of tables in each database of the storm.
const NAMES: u64 = 5;
/// Threads that run statements at random.
const THREADS: u64 = 2;

/// Makes the databases of the storm and of the ring anew.
///
/// # Errors
/// What the server answers.
pub fn begin_round(conn: &mut Conn, features: &Features) -> Result<(), SqlError> {
    // Recovery of MySQL 5.6 renames InnoDB's files once more, as its log says since the last checkpoint, and gets
    // rings wrong even when no DDL ran at the time of the crash.
    let engine = if features.renames_recover() { "InnoDB" } else { "MyISAM" };
    for database in STORM.iter().chain(&RING) {
        conn.exec(format!("DROP DATABASE IF EXISTS {database}"))?;
        conn.exec(format!("CREATE DATABASE {database}"))?;
    }
    for n in 0..RING_TABLES {
        let table = ring_table(n);
        conn.exec(format!("CREATE TABLE {table} (id INT PRIMARY KEY, own INT NOT NULL) ENGINE={engine}"))?;
        conn.exec(format!("INSERT INTO {table} VALUES (1, {n}), (2, {n}), (3, {n})"))?;
    }
    if engine == "InnoDB" {
        // MariaDB's recovery does not find a tablespace that was renamed round the ring and whose first page has never
        // been written (11.8.6, 1 of 130 images; its file is there, under the name that the log says).
        let tables: Vec<String> = (0..RING_TABLES).map(ring_table).collect();
        conn.exec(format!("FLUSH TABLES {} FOR EXPORT", tables.join(", ")))?;
        conn.exec("UNLOCK TABLES")?;
    }
    conn.exec("FLUSH TABLES").map(drop)
}

fn ring_table(n: u64) -> String {
    format!("{}.r{n}", RING[(n % 2) as usize])
}

/// Whether the ring is whole: every table is there, and no content twice.
///
/// # Errors
/// What the server answers.
pub fn check_ring(conn: &mut Conn) -> Result<Option<String>, SqlError> {
    let mut found = Vec::new();
    for database in RING {
        for table in conn.query(format!("SHOW TABLES FROM {database}"))?.texts().into_iter().flatten() {
            let rows =
                conn.query(format!("SELECT MIN(own), MAX(own), COUNT(*) FROM {database}.{table}"))?.texts();
            if rows[0][0] != rows[0][1] || rows[0][2] != "3" {
                return Ok(Some(format!("{database}.{table} has the rows {rows:?}")));
            }
            found.push(rows[0][0].clone());
        }
    }
    found.sort();
    let wanted: Vec<String> = (0..RING_TABLES).map(|n| n.to_string()).collect();
    Ok((found != wanted).then(|| format!("the ring of renamed tables has {found:?} instead of {wanted:?}")))
}

/// Adds the threads of the storm to a load.
///
/// # Errors
/// When one cannot connect.
pub fn start(load: &mut Load, features: &Features, rng: &Rng) -> Result<(), SqlError> {
    for thread in 0..THREADS {
        let mut storm = Storm { thread, rng: rng.fork(300 + thread), features: features.clone() };
        load.spawn(move |conn, shared| storm.run(conn, shared))?;
    }
    let mut ring = rng.fork(310);
    load.spawn(move |conn, shared| turn_ring(conn, shared, &mut ring))?;
    let mut flush = rng.fork(311);
    let features = features.clone();
    load.spawn(move |conn, shared| flush_now_and_then(conn, shared, &mut flush, &features))
}

/// What may go wrong when threads make and drop the same things.
fn is_expected(error: &SqlError, statement: &str) -> bool {
    // A file cannot be made, renamed or found: its directory went away meanwhile.
    let files = matches!(error.code, 1..=100 | 1004 | 1005 | 1006 | 1010 | 1016 | 1017 | 1025 | 1030);
    if files && statement.contains(STORM[2]) {
        return true;
    }
    matches!(
        error.code,
        // There already, or not (any more): databases, tables, columns, keys, triggers, views, partitions.
        1007 | 1008 | 1049 | 1050 | 1051 | 1146 | 1060 | 1061 | 1091 | 1054 | 1359 | 1360 | 1347 | 1356
        | 4091 | 4092
        // Locks not got in time, deadlocks, definitions that changed meanwhile.
        | 1205 | 1213 | 1412 | 1615
        // A trigger's table cannot move to another database; not partitioned, or not like that; last partition.
        | 1435 | 1479
            ..=1530 | 1564 | 1571
        // LIKE itself; FOR EXPORT of what is not InnoDB's; partitions in another engine; RENAME of what is not there (5.6).
        | 1066 | 1031 | 1178 | 1017
        // A second trigger; a row again after TRUNCATE PARTITION, which begins to count at 1 (both 5.6).
        | 1235 | 1062
    )
}

struct Storm {
    thread: u64,
    rng: Rng,
    features: Features,
}

impl Storm {
    fn run(&mut self, conn: &mut Conn, shared: &Shared) -> Outcome {
        let mut failures = Vec::new();
        failures.extend(impatient(conn).err().map(|error| Failure::new("DDL", &error)));
        while !shared.stopping() && failures.is_empty() {
            for statement in self.next() {
                match conn.exec(&statement) {
                    Ok(_) => drop(shared.ddl.fetch_add(1, Ordering::Relaxed)),
                    Err(error) if is_expected(&error, &statement) => {}
                    Err(error) => failures.push(Failure::new("DDL", &error)),
                }
            }
        }
        Outcome::Failures(failures)
    }

    fn database(&mut self) -> &'static str {
        STORM[self.rng.below(3) as usize]
    }

    fn table(&mut self) -> String {
        format!("{}.t{}", self.database(), self.rng.below(NAMES))
    }

    fn engine(&mut self) -> &'static str {
        let engines: &[&str] = if self.features.has("Aria") {
            &["InnoDB", "InnoDB", "MyISAM", "Aria TRANSACTIONAL=1", "Aria TRANSACTIONAL=0"]
        } else {
            &["InnoDB", "InnoDB", "MyISAM"]
        };
        engines[self.rng.below(engines.len() as u64) as usize]
    }

    /// The statements of the next deed.
    fn next(&mut self) -> Vec<String> {
        let table = self.table();
        match self.rng.below(100) {
            0..=17 => self.create(&table),
            18..=25 => self.fill(&table),
            26..=31 => vec![format!("DROP TABLE {table}")],
            32..=39 => vec![format!("RENAME TABLE {table} TO {}", self.table())],
            40..=45 => {
                let other = self.table();
                let tmp = format!("{}.x{}", self.database(), self.rng.below(4));
                vec![format!("RENAME TABLE {table} TO {tmp}, {other} TO {table}, {tmp} TO {other}")]
            }
            46..=52 => vec![format!("TRUNCATE TABLE {table}")],
            53..=60 => vec![format!("ALTER TABLE {table} ENGINE={}", self.engine())],
            61..=70 => self.alter(&table),
            71..=74 => vec![format!("OPTIMIZE TABLE {table}")],
            75..=82 => self.partitions(&table),
            83..=84 => vec![format!("CREATE DATABASE {}", STORM[2])],
            85 => vec![format!("DROP DATABASE {}", STORM[2])],
            86..=88 => self.view(&table),
            89..=91 => self.trigger(&table),
            92..=94 => self.temporary(),
            95..=96 => vec![format!("FLUSH TABLES {table} FOR EXPORT"), "UNLOCK TABLES".into()],
            97 => vec![format!("ANALYZE TABLE {table}")],
            98 => vec![format!("REPAIR TABLE {table}")],
            _ => self.server_own(),
        }
    }

    fn create(&mut self, table: &str) -> Vec<String> {
        if self.rng.percent(15) {
            return vec![format!("CREATE TABLE {table} LIKE {}", self.table())];
        }
        let mut engine = self.engine();
        let partitions = match self.rng.below(10) {
            0 | 1 => "PARTITION BY HASH (id) PARTITIONS 3",
            2 => {
                "PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (50), PARTITION p1 VALUES LESS THAN (100), \
                 PARTITION p2 VALUES LESS THAN MAXVALUE)"
            }
            _ => "",
        };
        if !partitions.is_empty() && !self.features.partitions_all() {
            engine = "InnoDB";
        }
        let mut statements = vec![format!(
            "CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY, k INT NOT NULL DEFAULT 0, pad VARCHAR(200) NOT \
             NULL DEFAULT 'p', KEY (k)) ENGINE={engine} {partitions}"
        )];
        statements.extend(self.fill(table));
        statements
    }

    fn fill(&mut self, table: &str) -> Vec<String> {
        let rows: Vec<String> =
            (0..self.rng.within(1, 40)).map(|_| format!("({})", self.rng.below(1000))).collect();
        vec![format!("INSERT INTO {table} (k) VALUES {}", rows.join(", "))]
    }

    fn alter(&mut self, table: &str) -> Vec<String> {
        let n = self.rng.below(3);
        let change = match self.rng.below(6) {
            0 => format!("ADD COLUMN c{n} VARCHAR(50) DEFAULT 'new'"),
            1 => format!("DROP COLUMN c{n}"),
            2 => format!("ADD INDEX i{n} (k, pad(10))"),
            3 => format!("DROP INDEX i{n}"),
            4 => "FORCE".into(),
            _ => format!("MODIFY pad VARCHAR({}) NOT NULL DEFAULT 'p'", 200 + n * 100),
        };
        vec![format!("ALTER TABLE {table} {change}")]
    }

    fn partitions(&mut self, table: &str) -> Vec<String> {
        let change = match self.rng.below(8) {
            0 => "ADD PARTITION PARTITIONS 1",
            1 => "COALESCE PARTITION 1",
            2 => "PARTITION BY HASH (id) PARTITIONS 4",
            3 => "REMOVE PARTITIONING",
            4 => "DROP PARTITION p0",
            5 => "TRUNCATE PARTITION p1",
            6 => {
                "REORGANIZE PARTITION p2 INTO (PARTITION p2 VALUES LESS THAN (200), PARTITION p3 VALUES LESS THAN \
                 MAXVALUE)"
            }
            _ => "REBUILD PARTITION ALL",
        };
        vec![format!("ALTER TABLE {table} {change}")]
    }

    fn view(&mut self, table: &str) -> Vec<String> {
        let view = format!("{}.v{}", self.database(), self.rng.below(2));
        if self.rng.percent(65) {
            vec![format!("CREATE OR REPLACE VIEW {view} AS SELECT id, k FROM {table}")]
        } else {
            vec![format!("DROP VIEW {view}")]
        }
    }

    fn trigger(&mut self, table: &str) -> Vec<String> {
        let database = table.split('.').next().unwrap_or_default();
        // MySQL 5.6 does not lock the name: two that make it at once take each other's file.
        let trigger = format!("{database}.g{}_{}", self.thread, self.rng.below(2));
        if self.rng.percent(60) {
            vec![format!(
                "CREATE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH ROW SET NEW.k = NEW.k + 1"
            )]
        } else {
            vec![format!("DROP TRIGGER {trigger}")]
        }
    }

    fn temporary(&mut self) -> Vec<String> {
        let engine = self.engine();
        vec![
            format!("CREATE TEMPORARY TABLE {}.tmp (a INT, b VARCHAR(1000)) ENGINE={engine}", STORM[0]),
            format!("INSERT INTO {}.tmp VALUES (1, REPEAT('t', 1000)), (2, REPEAT('u', 1000))", STORM[0]),
            format!("DROP TEMPORARY TABLE {}.tmp", STORM[0]),
        ]
    }

    /// What only some servers have.
    fn server_own(&mut self) -> Vec<String> {
        if self.features.atomic_ddl() {
            return vec![format!("SET PERSIST max_connect_errors = {}", self.rng.within(100, 1000))];
        }
        if self.features.mariadb {
            let sequence = format!("{}.s0", self.database());
            return vec![format!("CREATE SEQUENCE {sequence}"), format!("DROP SEQUENCE {sequence}")];
        }
        vec![format!("ALTER DATABASE {} CHARACTER SET utf8", STORM[0])]
    }
}

/// A statement that waits for another thread's lock gives up soon.
fn impatient(conn: &mut Conn) -> Result<(), SqlError> {
    conn.exec("SET SESSION lock_wait_timeout = 5, innodb_lock_wait_timeout = 5").map(drop)
}

/// Changes names in a ring, all in one statement, within and between databases; and pairs. The content stays.
fn turn_ring(conn: &mut Conn, shared: &Shared, rng: &mut Rng) -> Outcome {
    let names: Vec<String> = (0..RING_TABLES).map(ring_table).collect();
    while !shared.stopping() {
        let spare = format!("{}.spare", rng.pick(&RING));
        let first = rng.below(RING_TABLES);
        let length = rng.within(2, RING_TABLES + 1);
        let ring: Vec<&String> = (0..length).map(|n| &names[((first + n) % RING_TABLES) as usize]).collect();
        let mut steps = vec![format!("{} TO {spare}", ring[0])];
        steps.extend(ring.windows(2).map(|pair| format!("{} TO {}", pair[1], pair[0])));
        steps.push(format!("{spare} TO {}", ring[ring.len() - 1]));
        match conn.exec(format!("RENAME TABLE {}", steps.join(", "))) {
            Ok(_) => drop(shared.ddl.fetch_add(1, Ordering::Relaxed)),
            Err(error) => return Outcome::Failures(vec![Failure::new("the ring", &error)]),
        }
        std::thread::sleep(Duration::from_millis(rng.within(1, 30)));
    }
    Outcome::Failures(Vec::new())
}

/// FLUSH of what there is.
fn flush_now_and_then(conn: &mut Conn, shared: &Shared, rng: &mut Rng, features: &Features) -> Outcome {
    let failed = |error: SqlError| Outcome::Failures(vec![Failure::new("FLUSH", &error)]);
    if let Err(error) = impatient(conn) {
        return failed(error);
    }
    let mut choices = vec!["FLUSH LOGS", "FLUSH LOGS", "FLUSH TABLES", "FLUSH STATUS", "FLUSH PRIVILEGES"];
    if !features.atomic_ddl() {
        choices.push("FLUSH QUERY CACHE");
    }
    while !shared.stopping() {
        let statement = *rng.pick(&choices);
        match conn.exec(statement) {
            Ok(_) => drop(shared.ddl.fetch_add(1, Ordering::Relaxed)),
            Err(error) if is_expected(&error, statement) => {}
            Err(error) => return failed(error),
        }
        std::thread::sleep(Duration::from_millis(rng.within(50, 400)));
    }
    Outcome::Failures(Vec::new())
}
