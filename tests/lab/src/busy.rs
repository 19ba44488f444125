//! What a busy server does beside transfers and DDL: short transactions of many statements, transactions that change
//! everything at once, undo logs that are cut, binary logs that are purged.

use crate::client::{Conn, SqlError};
use crate::features::Features;
use crate::load::{Failure, Load, Outcome, Shared};
use crate::rng::Rng;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Rows of `busy.short`, a digest in each.
const SHORT_ROWS: u64 = 5000;
/// Threads that change them.
const SHORT_CLIENTS: u64 = 2;
/// Rows of `busy.bulk`: an UPDATE of all leaves more undo log than it takes to cut it.
const BULK_ROWS: u64 = 12_000;
/// Bytes of what such an UPDATE changes in each row.
const BULK_PAD: u64 = 900;
/// Undo tablespaces are cut beyond that, the least that servers take.
const UNDO_SIZE: u64 = 10 << 20;
/// Binary logs that a purge leaves.
const KEPT_LOGS: usize = 3;
/// They hold so many bytes at least: transactions, even where FLUSH has just made new ones.
const KEPT_BYTES: u64 = 100_000;

/// The undo tablespace of our own on MySQL 8 and later, cut by statements.
const UNDO: &str = "busy_undo";

/// Options of a server for which undo logs are cut while it runs.
pub fn options(server: &str) -> Vec<String> {
    if !server.starts_with("mariadb") {
        return Vec::new();
    }
    let mut options = vec![
        "--innodb-undo-log-truncate=ON".to_owned(),
        format!("--innodb-max-undo-log-size={UNDO_SIZE}"),
        "--innodb-purge-rseg-truncate-frequency=1".to_owned(),
    ];
    if server == "mariadb-11.8" {
        // The file that gathers a large transaction becomes the next binary log by its name.
        options.push(format!("--binlog-large-commit-threshold={UNDO_SIZE}"));
    }
    options
}

/// Options with which a data directory must be made for that.
pub fn initial_options(server: &str) -> &'static [&'static str] {
    // Later ones have them by default.
    if matches!(server, "mariadb-10.5" | "mariadb-10.11") { &["--innodb-undo-tablespaces=3"] } else { &[] }
}

/// Makes database `busy`.
///
/// # Errors
/// What the server answers.
pub fn prepare(conn: &mut Conn, features: &Features) -> Result<(), SqlError> {
    conn.exec("CREATE DATABASE busy")?;
    conn.exec(
        "CREATE TABLE busy.short (id INT PRIMARY KEY, k INT NOT NULL, c VARCHAR(120) NOT NULL, digest BIGINT NOT NULL, \
         KEY (k)) ENGINE=InnoDB",
    )?;
    let rows: Vec<String> = (0..SHORT_ROWS).map(|id| short_row(id, id % 500)).collect();
    conn.exec(format!("INSERT INTO busy.short VALUES {}", rows.join(", ")))?;
    conn.exec(format!(
        "CREATE TABLE busy.bulk (id INT AUTO_INCREMENT PRIMARY KEY, stamp INT NOT NULL, pad VARCHAR({BULK_PAD}) NOT \
         NULL) ENGINE=InnoDB"
    ))?;
    conn.exec(format!("INSERT INTO busy.bulk (stamp, pad) VALUES (0, REPEAT('a', {BULK_PAD}))"))?;
    let mut rows = 1;
    while rows < BULK_ROWS {
        let more = BULK_ROWS - rows;
        rows += conn.exec(format!(
            "INSERT INTO busy.bulk (stamp, pad) SELECT stamp, pad FROM busy.bulk LIMIT {more}"
        ))?;
    }
    if features.atomic_ddl() {
        conn.exec(format!("CREATE UNDO TABLESPACE {UNDO} ADD DATAFILE '{UNDO}.ibu'"))?;
    }
    Ok(())
}

fn short_row(id: u64, k: u64) -> String {
    format!("({id}, {k}, REPEAT('{}', {}), CRC32('{id}:{k}'))", (b'a' + (k % 26) as u8) as char, k % 120)
}

/// Adds the threads to a load.
///
/// # Errors
/// When one cannot connect.
pub fn start(load: &mut Load, features: &Features, binlog: bool, rng: &Rng) -> Result<(), SqlError> {
    for client in 0..SHORT_CLIENTS {
        let rng = rng.fork(400 + client);
        load.spawn(move |conn, shared| outcome("short transactions", short(conn, shared, rng)))?;
    }
    let bulk_rng = rng.fork(410);
    load.spawn(move |conn, shared| outcome("transactions over all rows", bulk(conn, shared, bulk_rng)))?;
    if features.atomic_ddl() {
        load.spawn(|conn, shared| outcome("undo truncation", cut_undo(conn, shared)))?;
    }
    if binlog {
        let rng = rng.fork(411);
        load.spawn(move |conn, shared| outcome("purge", purge(conn, shared, rng)))?;
    }
    Ok(())
}

fn outcome(who: &str, result: Result<(), SqlError>) -> Outcome {
    Outcome::Failures(result.err().map(|error| Failure::new(who, &error)).into_iter().collect())
}

/// A deadlock, a lock not got in time, or a row that changed since it was read (MariaDB 11.6 and later) undoes the transaction.
fn unless_conflict(conn: &mut Conn, result: Result<(), SqlError>) -> Result<(), SqlError> {
    match result {
        Err(error) if matches!(error.code, 1020 | 1205 | 1213) => conn.exec("ROLLBACK").map(drop),
        result => result,
    }
}

/// Reads and writes by key, as sysbench's read-write transactions do.
fn short(conn: &mut Conn, shared: &Shared, mut rng: Rng) -> Result<(), SqlError> {
    while !shared.stopping() {
        let result = short_transaction(conn, &mut rng);
        unless_conflict(conn, result)?;
    }
    Ok(())
}

fn short_transaction(conn: &mut Conn, rng: &mut Rng) -> Result<(), SqlError> {
    conn.exec("BEGIN")?;
    for _ in 0..3 {
        conn.query(format!("SELECT c FROM busy.short WHERE id = {}", rng.below(SHORT_ROWS)))?;
    }
    let from = rng.below(SHORT_ROWS);
    conn.query(format!("SELECT SUM(k) FROM busy.short WHERE id BETWEEN {from} AND {}", from + 100))?;
    let (id, k) = (rng.below(SHORT_ROWS), rng.below(1000));
    conn.exec(format!("UPDATE busy.short SET k = {k}, digest = CRC32('{id}:{k}') WHERE id = {id}"))?;
    let (id, k) = (rng.below(SHORT_ROWS), rng.below(1000));
    conn.exec(format!("DELETE FROM busy.short WHERE id = {id}"))?;
    conn.exec(format!("INSERT INTO busy.short VALUES {}", short_row(id, k)))?;
    conn.exec(if rng.percent(5) { "ROLLBACK" } else { "COMMIT" }).map(drop)
}

/// Every row gets the same stamp, or none does.
fn bulk(conn: &mut Conn, shared: &Shared, mut rng: Rng) -> Result<(), SqlError> {
    while !shared.stopping() {
        let stamp = rng.below(1_000_000);
        let letter = char::from(b'a' + (stamp % 26) as u8);
        conn.exec("BEGIN")?;
        let changed = conn
            .exec(format!("UPDATE busy.bulk SET stamp = {stamp}, pad = REPEAT('{letter}', {BULK_PAD})"))
            .map(drop);
        let result =
            changed.and_then(|()| conn.exec(if rng.percent(30) { "ROLLBACK" } else { "COMMIT" }).map(drop));
        unless_conflict(conn, result)?;
        pause(shared, rng.within(200, 1200));
    }
    Ok(())
}

/// Sleeps, but no longer than the load runs.
fn pause(shared: &Shared, millis: u64) {
    let until = Instant::now() + Duration::from_millis(millis);
    while Instant::now() < until && !shared.stopping() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An undo tablespace is put out of use, which empties it by cutting its file, and into use again.
fn cut_undo(conn: &mut Conn, shared: &Shared) -> Result<(), SqlError> {
    while !shared.stopping() {
        conn.exec(format!("ALTER UNDO TABLESPACE {UNDO} SET INACTIVE"))?;
        let state = format!("SELECT state FROM information_schema.innodb_tablespaces WHERE name = '{UNDO}'");
        while !shared.stopping() && conn.value(&state)?.as_deref() != Some("empty") {
            pause(shared, 20);
        }
        conn.exec(format!("ALTER UNDO TABLESPACE {UNDO} SET ACTIVE"))?;
        shared.ddl.fetch_add(2, Ordering::Relaxed);
        pause(shared, 300);
    }
    Ok(())
}

/// All but the newest binary logs go.
fn purge(conn: &mut Conn, shared: &Shared, mut rng: Rng) -> Result<(), SqlError> {
    while !shared.stopping() {
        pause(shared, rng.within(100, 800));
        let logs = conn.query("SHOW BINARY LOGS")?.texts();
        let Some(name) = oldest_kept(&logs) else { continue };
        conn.exec(format!("PURGE BINARY LOGS TO '{name}'"))?;
        shared.ddl.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The log that a purge goes up to, by the rows of SHOW BINARY LOGS.
fn oldest_kept(logs: &[Vec<String>]) -> Option<&str> {
    let mut bytes = 0;
    let enough = logs.iter().rev().enumerate().find(|(index, row)| {
        bytes += row.get(1).and_then(|size| size.parse().ok()).unwrap_or(0);
        index + 1 >= KEPT_LOGS && bytes >= KEPT_BYTES
    });
    enough.and_then(|(_, row)| row.first()).map(String::as_str)
}

/// How often undo tablespaces were cut, as far as the server counts it.
pub fn undo_cuts(conn: &mut Conn) -> Result<u64, SqlError> {
    let status = conn.query(
        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Innodb_undo_truncations', 'Innodb_undo_tablespaces_truncations')",
    )?;
    Ok(status.texts().iter().filter_map(|row| row[1].parse::<u64>().ok()).sum())
}

/// What is wrong with what the threads wrote: rows that are missing or torn, transactions that are there in part.
///
/// # Errors
/// What the server answers.
pub fn check(conn: &mut Conn) -> Result<Vec<String>, SqlError> {
    let mut problems = Vec::new();
    let mut expect = |conn: &mut Conn, sql: &str, wanted: String, what: &str| -> Result<(), SqlError> {
        let found = conn.value(sql)?.unwrap_or_default();
        if found != wanted {
            problems.push(format!("{what}: {found}, not {wanted}"));
        }
        Ok(())
    };
    expect(conn, "SELECT COUNT(*) FROM busy.short", SHORT_ROWS.to_string(), "rows of busy.short")?;
    expect(
        conn,
        "SELECT COUNT(*) FROM busy.short WHERE digest <> CRC32(CONCAT(id, ':', k))",
        "0".into(),
        "torn rows of busy.short",
    )?;
    expect(conn, "SELECT COUNT(*) FROM busy.bulk", BULK_ROWS.to_string(), "rows of busy.bulk")?;
    expect(
        conn,
        "SELECT COUNT(DISTINCT stamp) FROM busy.bulk",
        "1".into(),
        "transactions that busy.bulk shows",
    )?;
    let torn =
        format!("SELECT COUNT(*) FROM busy.bulk WHERE pad <> REPEAT(CHAR(97 + stamp % 26), {BULK_PAD})");
    expect(conn, &torn, "0".into(), "torn rows of busy.bulk")?;
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_leaves_logs_enough_and_bytes_enough() {
        let logs = |sizes: &[u64]| -> Vec<Vec<String>> {
            sizes.iter().enumerate().map(|(at, size)| vec![format!("bl.{at}"), size.to_string()]).collect()
        };
        assert_eq!(oldest_kept(&logs(&[KEPT_BYTES, 1, 1, KEPT_BYTES])), Some("bl.1"));
        assert_eq!(oldest_kept(&logs(&[1, KEPT_BYTES, 1, 1, 1])), Some("bl.1"), "three without transactions");
        assert_eq!(oldest_kept(&logs(&[KEPT_BYTES, KEPT_BYTES])), None, "fewer than are kept");
        assert_eq!(oldest_kept(&logs(&[1, 1, 1, 1])), None);
    }
}
