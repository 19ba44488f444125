//! Tables of engines without a log, written by several clients, and what must be true of them at an instant at which
//! no statement on them was half done: what `tokudb_backup_lock=ALL` promises.

use crate::client::{Conn, SqlError};
use crate::features::Features;
use crate::load::{Failure, Load, Outcome, Shared};
use crate::rng::Rng;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Threads that write, each into every table in the same order.
const CLIENTS: u64 = 4;
/// Rows of one INSERT.
const ROWS: u64 = 5;

/// A table and what can be done to its rows.
struct Kind {
    name: &'static str,
    options: &'static str,
    /// It has keys, and rows can be changed.
    keys: bool,
}

const fn kind(name: &'static str, options: &'static str, keys: bool) -> Kind {
    Kind { name, options, keys }
}

/// The tables of a server, in the order in which each client writes them.
fn kinds(features: &Features) -> Vec<Kind> {
    let mut kinds = vec![
        kind("myisam", "ENGINE=MyISAM", true),
        kind("myisam_fixed", "ENGINE=MyISAM ROW_FORMAT=FIXED", true),
        kind("myisam_late", "ENGINE=MyISAM DELAY_KEY_WRITE=1", true),
        kind("csv", "ENGINE=CSV", false),
    ];
    if features.has("ARCHIVE") {
        kinds.push(kind("archive", "ENGINE=ARCHIVE", false));
    }
    if features.has("Aria") {
        kinds.push(kind("aria", "ENGINE=Aria TRANSACTIONAL=0 PAGE_CHECKSUM=0 ROW_FORMAT=DYNAMIC", true));
        kinds.push(kind("aria_page", "ENGINE=Aria TRANSACTIONAL=0 ROW_FORMAT=PAGE", true));
    }
    kinds
}

/// Makes database `nolog` and its tables, empty.
///
/// # Errors
/// What the server answers.
pub fn prepare(conn: &mut Conn, features: &Features) -> Result<(), SqlError> {
    conn.exec("DROP DATABASE IF EXISTS nolog")?;
    conn.exec("CREATE DATABASE nolog")?;
    for Kind { name, options, keys } in kinds(features) {
        let keys = if keys { ", KEY (client, seq), KEY (v), KEY (pad)" } else { "" };
        conn.exec(format!(
            "CREATE TABLE nolog.{name} (client INT NOT NULL, seq INT NOT NULL, v INT NOT NULL, pad CHAR(60) NOT \
             NULL{keys}) {options}"
        ))?;
    }
    conn.exec(
        "CREATE TABLE nolog.merged (client INT NOT NULL, seq INT NOT NULL, v INT NOT NULL, pad CHAR(60) NOT NULL, \
         KEY (client, seq), KEY (v), KEY (pad)) ENGINE=MERGE UNION=(nolog.myisam_fixed)",
    )
    .map(drop)
}

/// Adds the writers to a load. The tables must be empty.
///
/// # Errors
/// When one cannot connect.
pub fn start(load: &mut Load, features: &Features, rng: &Rng) -> Result<(), SqlError> {
    for client in 0..CLIENTS {
        let (mut rng, features) = (rng.fork(400 + client), features.clone());
        load.spawn(move |conn, shared| {
            let error = write(conn, shared, &features, client, &mut rng).err();
            let who = format!("tables without a log, client {client}");
            Outcome::Failures(error.map(|error| Failure::new(&who, &error)).into_iter().collect())
        })?;
    }
    Ok(())
}

/// Each round of the loop is one number: a statement that inserts into each table, and now and then one that changes
/// every row of the client in each.
fn write(
    conn: &mut Conn,
    shared: &Shared,
    features: &Features,
    client: u64,
    rng: &mut Rng,
) -> Result<(), SqlError> {
    let kinds = kinds(features);
    let mut v = 0;
    for seq in 1.. {
        if shared.stopping() {
            break;
        }
        let change = rng.percent(20);
        for Kind { name, keys, .. } in &kinds {
            let value = if *keys { v } else { 0 };
            let rows: Vec<String> = (0..ROWS)
                .map(|row| format!("({client}, {seq}, {value}, '{row}-{}')", rng.below(1_000_000)))
                .collect();
            conn.exec(format!("INSERT INTO nolog.{name} VALUES {}", rows.join(", ")))?;
            if change && *keys {
                conn.exec(format!("UPDATE nolog.{name} SET v = v + 1 WHERE client = {client}"))?;
            }
        }
        v += u64::from(change);
        shared.commits.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(rng.within(1, 4)));
    }
    Ok(())
}

/// The INSERTs that a table has, by client and number.
pub type Inserts = BTreeSet<(u64, u64)>;

/// What each table has: of the original, after the load.
///
/// # Errors
/// What the server answers.
pub fn inserts(conn: &mut Conn, features: &Features) -> Result<Vec<Inserts>, SqlError> {
    kinds(features).iter().map(|kind| inserts_of(conn, kind.name)).collect()
}

fn inserts_of(conn: &mut Conn, name: &str) -> Result<Inserts, SqlError> {
    let rows = conn.query(format!("SELECT DISTINCT client, seq FROM nolog.{name}"))?.texts();
    Ok(rows.iter().filter_map(|row| Some((row[0].parse().ok()?, row[1].parse().ok()?))).collect())
}

fn last_of(inserts: &Inserts, client: u64) -> u64 {
    inserts.range((client, 0)..=(client, u64::MAX)).next_back().map_or(0, |(_, seq)| *seq)
}

/// What is wrong with the tables: not closed properly, a statement half done, or one there whose predecessor is not.
/// What the original itself lost is not asked for: MySQL 9.7 loses rows of ARCHIVE when FLUSH TABLES meets writers.
///
/// # Errors
/// What the server answers, but to CHECK TABLE.
pub fn check(conn: &mut Conn, features: &Features, original: &[Inserts]) -> Result<Vec<String>, SqlError> {
    let mut wrong = Vec::new();
    let mut whole = Vec::new();
    for (Kind { name, keys, .. }, original) in kinds(features).into_iter().zip(original) {
        let table = format!("nolog.{name}");
        if unclean(conn, &table, &mut wrong)? {
            // It may not even be read.
            return Ok(wrong);
        }
        let torn = format!(
            "SELECT client, seq, COUNT(*) FROM {table} GROUP BY client, seq HAVING COUNT(*) <> {ROWS}"
        );
        wrong.extend(conn.query(torn)?.texts().iter().map(|row| format!("{table}: half an INSERT: {row:?}")));
        if keys {
            let torn =
                format!("SELECT client, MIN(v), MAX(v) FROM {table} GROUP BY client HAVING MIN(v) <> MAX(v)");
            wrong.extend(
                conn.query(torn)?.texts().iter().map(|row| format!("{table}: half an UPDATE: {row:?}")),
            );
        }
        let found = inserts_of(conn, name)?;
        let expected: Inserts =
            original.iter().filter(|(client, seq)| *seq <= last_of(&found, *client)).copied().collect();
        if found != expected {
            let differ: Vec<_> = found.symmetric_difference(&expected).take(5).collect();
            wrong.push(format!("{table}: differs from the original in (client, number) {differ:?}"));
        }
        let gaps = (0..CLIENTS).map(|client| last_of(original, client)).sum::<u64>() > original.len() as u64;
        if !gaps {
            whole.push(found);
        }
    }
    for client in 0..CLIENTS {
        let seqs: Vec<u64> = whole.iter().map(|found| last_of(found, client)).collect();
        let apart = seqs.iter().max().zip(seqs.iter().min()).map_or(0, |(most, least)| most - least);
        if apart > 1 || !seqs.is_sorted_by(|one, next| one >= next) {
            wrong.push(format!("client {client} wrote its tables in turn, and they end at {seqs:?}"));
        }
    }
    if unclean(conn, "nolog.merged", &mut wrong)? {
        return Ok(wrong);
    }
    let counts = "SELECT (SELECT COUNT(*) FROM nolog.merged), (SELECT COUNT(*) FROM nolog.myisam_fixed)";
    let counts = conn.query(counts)?.texts();
    if counts[0][0] != counts[0][1] {
        wrong.push(format!("nolog.merged and its table differ: {counts:?}"));
    }
    Ok(wrong)
}

/// Whether CHECK TABLE (MEDIUM) says anything but OK.
fn unclean(conn: &mut Conn, table: &str, wrong: &mut Vec<String>) -> Result<bool, SqlError> {
    let said = conn.query(format!("CHECK TABLE {table} MEDIUM"))?.texts();
    let unclean = said.len() != 1 || said[0][3] != "OK";
    if unclean {
        let said: Vec<String> = said.iter().map(|row| format!("{} {}", row[2], row[3])).collect();
        wrong.push(format!("{table}: CHECK says {}", said.join("; ")));
    }
    Ok(unclean)
}
