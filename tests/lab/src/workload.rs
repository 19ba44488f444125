//! Clients whose work has invariants: money that moves between accounts, journals without gaps, tables at rest.

use crate::client::{Conn, SqlError};
use crate::features::Features;
use crate::ledger::{Commit, Stream, now};
use crate::load::{Failure, Load, Outcome, Shared};
use crate::rng::Rng;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Tables of accounts; the last is partitioned.
const ACCOUNT_TABLES: u64 = 4;
/// Accounts in each.
const ACCOUNTS: u64 = 200;
/// What each holds at the beginning.
const BALANCE: u64 = 1000;
/// Threads that move money.
const CLIENTS: u32 = 4;

/// The sum over all accounts, at any time.
pub const TOTAL: u64 = ACCOUNT_TABLES * ACCOUNTS * BALANCE;

/// The journal of the transactions.
pub const JOURNAL: &str = "bank.journal";
/// A journal in MyISAM.
pub const JOURNAL_MYISAM: &str = "bank.journal_myisam";
/// A journal in transactional Aria.
pub const JOURNAL_ARIA: &str = "bank.journal_aria";

/// The tables of the bank that are not safe from a crash while they are written: MyISAM.
pub const HOT_MYISAM: [&str; 2] = ["journal_myisam", "hot_myisam"];

/// A table that nobody writes, and its checksum.
pub type AtRest = (String, String);

/// Makes database `bank` (accounts, journals, what is written beside them) and database `rest` (a table of every
/// engine that nobody writes any more, and `filler` bytes of rows). Returns the latter's checksums.
///
/// # Errors
/// What the server answers.
pub fn prepare(
    conn: &mut Conn,
    features: &Features,
    rng: &mut Rng,
    filler: u64,
) -> Result<Vec<AtRest>, SqlError> {
    conn.exec("CREATE DATABASE bank")?;
    for table in 0..ACCOUNT_TABLES {
        let partitions = if table == ACCOUNT_TABLES - 1 { "PARTITION BY HASH (id) PARTITIONS 4" } else { "" };
        conn.exec(format!(
            "CREATE TABLE bank.accounts{table} (id INT PRIMARY KEY, balance BIGINT NOT NULL, pad CHAR(100) NOT \
             NULL DEFAULT 'x') ENGINE=InnoDB {partitions}"
        ))?;
        let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {BALANCE})")).collect();
        conn.exec(format!("INSERT INTO bank.accounts{table} (id, balance) VALUES {}", rows.join(", ")))?;
    }
    let mut journals = vec![(JOURNAL, "InnoDB"), (JOURNAL_MYISAM, "MyISAM")];
    if features.has("Aria") {
        journals.push((JOURNAL_ARIA, "Aria TRANSACTIONAL=1 PAGE_CHECKSUM=1"));
    }
    for (table, engine) in journals {
        conn.exec(format!(
            "CREATE TABLE {table} (round INT NOT NULL, client INT NOT NULL, seq INT NOT NULL, tag VARCHAR(40) NOT \
             NULL, pad VARCHAR(400) NOT NULL, PRIMARY KEY (round, client, seq)) ENGINE={engine}"
        ))?;
    }
    conn.exec(
        "CREATE TABLE bank.hot_myisam (id INT AUTO_INCREMENT PRIMARY KEY, k INT NOT NULL, pad VARCHAR(1000) NOT \
         NULL, KEY (k)) ENGINE=MyISAM",
    )?;
    conn.exec(
        "CREATE TABLE bank.big (id INT AUTO_INCREMENT PRIMARY KEY, data LONGBLOB NOT NULL, digest BIGINT NOT \
         NULL) ENGINE=InnoDB",
    )?;
    tables_at_rest(conn, features, rng)?;
    if filler > 0 {
        fill(conn, filler)?;
    }
    conn.exec("FLUSH TABLES")?;
    checksums(conn)
}

/// A table of so many bytes, in rows of 1000.
fn fill(conn: &mut Conn, bytes: u64) -> Result<(), SqlError> {
    conn.exec("CREATE TABLE rest.filler (id INT AUTO_INCREMENT PRIMARY KEY, pad VARCHAR(1000) NOT NULL) ENGINE=InnoDB")?;
    conn.exec("INSERT INTO rest.filler (pad) VALUES (REPEAT('f', 1000))")?;
    let mut rows = 1;
    let wanted = bytes / 1000;
    while rows < wanted {
        let missing = wanted - rows;
        rows +=
            conn.exec(format!("INSERT INTO rest.filler (pad) SELECT pad FROM rest.filler LIMIT {missing}"))?;
    }
    Ok(())
}

/// Every kind of table that the server can make, filled and left alone.
fn tables_at_rest(conn: &mut Conn, features: &Features, rng: &mut Rng) -> Result<(), SqlError> {
    let mut kinds = vec![
        ("innodb", "ENGINE=InnoDB", true),
        ("innodb_compressed", "ENGINE=InnoDB ROW_FORMAT=COMPRESSED", true),
        ("innodb_parts", "ENGINE=InnoDB PARTITION BY HASH (id) PARTITIONS 3", true),
        ("myisam", "ENGINE=MyISAM", true),
        ("myisam_fixed", "ENGINE=MyISAM ROW_FORMAT=FIXED", true),
        ("csv", "ENGINE=CSV", false),
    ];
    if features.partitions_all() {
        kinds.push(("myisam_parts", "ENGINE=MyISAM PARTITION BY HASH (id) PARTITIONS 3", true));
    }
    if features.has("ARCHIVE") {
        kinds.push(("archive", "ENGINE=ARCHIVE", false));
    }
    if features.has("Aria") {
        kinds.push(("aria", "ENGINE=Aria TRANSACTIONAL=1 PAGE_CHECKSUM=1", true));
        kinds.push(("aria_plain", "ENGINE=Aria TRANSACTIONAL=0 PAGE_CHECKSUM=0", true));
    }
    conn.exec("CREATE DATABASE rest")?;
    for (name, options, keys) in &kinds {
        let keys = if *keys { ", PRIMARY KEY (id), KEY (k)" } else { "" };
        let text = if options.contains("FIXED") { "CHAR(200)" } else { "VARCHAR(400)" };
        conn.exec(format!(
            "CREATE TABLE rest.{name} (id INT NOT NULL, k INT NOT NULL, pad {text} NOT NULL{keys}) {options}"
        ))?;
        let rows: Vec<String> = (0..500)
            .map(|id| {
                let k = rng.below(100);
                format!("({id}, {k}, REPEAT('{}', {}))", letter(rng), rng.within(1, 200))
            })
            .collect();
        conn.exec(format!("INSERT INTO rest.{name} VALUES {}", rows.join(", ")))?;
    }
    Ok(())
}

/// The checksum of each table at rest.
///
/// # Errors
/// What the server answers.
pub fn checksums(conn: &mut Conn) -> Result<Vec<AtRest>, SqlError> {
    let tables = conn.query(
        "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables WHERE table_schema = 'rest' \
         ORDER BY table_name",
    )?;
    let mut sums = Vec::new();
    for table in tables.texts().into_iter().flatten() {
        let sum = conn.query(format!("CHECKSUM TABLE {table} EXTENDED"))?.texts();
        sums.push((table, sum.first().map(|row| row[1].clone()).unwrap_or_default()));
    }
    Ok(sums)
}

/// Empties what grows from round to round.
///
/// # Errors
/// What the server answers.
pub fn begin_round(conn: &mut Conn, features: &Features) -> Result<(), SqlError> {
    for table in [JOURNAL, JOURNAL_MYISAM, "bank.hot_myisam", "bank.big"] {
        conn.exec(format!("TRUNCATE TABLE {table}"))?;
    }
    if features.has("Aria") {
        conn.exec(format!("TRUNCATE TABLE {JOURNAL_ARIA}"))?;
    }
    Ok(())
}

/// Adds the clients to a load.
///
/// # Errors
/// When one cannot connect.
pub fn start(load: &mut Load, features: &Features, round: u64, rng: &Rng) -> Result<(), SqlError> {
    for client in 0..CLIENTS {
        let rng = rng.fork(u64::from(client));
        load.spawn(move |conn, shared| {
            move_money(conn, shared, Journal { table: JOURNAL, round, client, rng })
        })?;
    }
    let mut journals = vec![JOURNAL_MYISAM];
    if features.has("Aria") {
        journals.push(JOURNAL_ARIA);
    }
    for (table, client) in journals.into_iter().zip(100..) {
        let rng = rng.fork(u64::from(client));
        load.spawn(move |conn, shared| write_journal(conn, shared, Journal { table, round, client, rng }))?;
    }
    let big = rng.fork(200);
    load.spawn(move |conn, shared| Outcome::Failures(failures("big rows", big_rows(conn, shared, big))))?;
    let hot = rng.fork(201);
    load.spawn(move |conn, shared| Outcome::Failures(failures("hot MyISAM", hot_myisam(conn, shared, hot))))
}

fn failures(who: &str, result: Result<(), SqlError>) -> Vec<Failure> {
    result.err().map(|error| Failure::new(who, &error)).into_iter().collect()
}

/// A client that keeps a journal.
struct Journal {
    table: &'static str,
    round: u64,
    client: u32,
    rng: Rng,
}

impl Journal {
    fn insert(&mut self, seq: usize) -> String {
        let (table, round, client) = (self.table, self.round, self.client);
        let pad = self.rng.below(200);
        let tag = if table == JOURNAL { tag(round, client, seq as u64) } else { String::new() };
        format!("INSERT INTO {table} VALUES ({round}, {client}, {seq}, '{tag}', REPEAT('p', {pad}))")
    }

    fn stream(&self) -> Stream {
        Stream { table: self.table, client: self.client, commits: Vec::new(), pending: None }
    }
}

/// What marks a transaction in the binary log, in whatever format it logs.
pub fn tag(round: u64, client: u32, seq: u64) -> String {
    format!("<j:{round}:{client}:{seq}>")
}

/// A deadlock, or a lock not got in time: the transaction is to be tried again.
fn is_conflict(error: &SqlError) -> bool {
    matches!(error.code, 1205 | 1213)
}

/// Transfers, each with its row in the journal, each in one transaction.
fn move_money(conn: &mut Conn, shared: &Shared, mut journal: Journal) -> Outcome {
    let mut stream = journal.stream();
    while !shared.stopping() {
        let result = transfer(conn, &mut journal, &mut stream);
        stream.pending = match result {
            Ok(true) => {
                shared.commits.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(false) => None,
            Err(error) if is_conflict(&error) => match conn.exec("ROLLBACK") {
                Ok(_) => None,
                Err(error) => return Outcome::Stream(stream, Some(error)),
            },
            Err(error) => return Outcome::Stream(stream, Some(error)),
        };
    }
    Outcome::Stream(stream, None)
}

/// One transfer; false when it was rolled back, as some are.
fn transfer(conn: &mut Conn, journal: &mut Journal, stream: &mut Stream) -> Result<bool, SqlError> {
    let rng = &mut journal.rng;
    let mut side = |sign: char, amount: u64| {
        let (table, id) = (rng.below(ACCOUNT_TABLES), rng.below(ACCOUNTS));
        format!("UPDATE bank.accounts{table} SET balance = balance {sign} {amount} WHERE id = {id}")
    };
    let amount = 1 + stream.commits.len() as u64 % 50;
    let (from, to) = (side('-', amount), side('+', amount));
    conn.exec("BEGIN")?;
    conn.exec(from)?;
    conn.exec(to)?;
    conn.exec(journal.insert(stream.commits.len() + 1))?;
    if journal.rng.percent(3) {
        conn.exec("ROLLBACK")?;
        return Ok(false);
    }
    let begun = now();
    stream.pending = Some(begun);
    conn.exec("COMMIT")?;
    stream.commits.push(Commit { begun, acknowledged: now() });
    Ok(true)
}

/// Rows one by one into a journal of an engine without transactions of several statements.
fn write_journal(conn: &mut Conn, shared: &Shared, mut journal: Journal) -> Outcome {
    let mut stream = journal.stream();
    while !shared.stopping() {
        let insert = journal.insert(stream.commits.len() + 1);
        let begun = now();
        stream.pending = Some(begun);
        if let Err(error) = conn.exec(insert) {
            return Outcome::Stream(stream, Some(error));
        }
        stream.commits.push(Commit { begun, acknowledged: now() });
        stream.pending = None;
        // Beside the transfers, not instead of them.
        pause(journal.rng.within(1, 4));
    }
    Outcome::Stream(stream, None)
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Rows of up to a megabyte, each with its digest; old ones go.
fn big_rows(conn: &mut Conn, shared: &Shared, mut rng: Rng) -> Result<(), SqlError> {
    while !shared.stopping() {
        let (size, byte) = (rng.within(10_000, 1_000_000), letter(&mut rng));
        conn.exec(format!(
            "INSERT INTO bank.big (data, digest) VALUES (REPEAT('{byte}', {size}), CRC32(data))"
        ))?;
        if rng.percent(60) {
            conn.exec("DELETE FROM bank.big ORDER BY id LIMIT 1")?;
        }
        pause(rng.within(5, 100));
    }
    Ok(())
}

fn letter(rng: &mut Rng) -> char {
    char::from(b'a' + rng.below(26) as u8)
}

/// INSERT, UPDATE and DELETE in a MyISAM table.
fn hot_myisam(conn: &mut Conn, shared: &Shared, mut rng: Rng) -> Result<(), SqlError> {
    while !shared.stopping() {
        let (k, pad) = (rng.below(50), rng.within(1, 900));
        match rng.below(10) {
            0..=5 => conn.exec(format!(
                "INSERT INTO bank.hot_myisam (k, pad) VALUES ({k}, REPEAT('{}', {pad})), ({k}, '')",
                letter(&mut rng)
            )),
            6 | 7 => conn.exec(format!("UPDATE bank.hot_myisam SET pad = REPEAT('u', {pad}) WHERE k = {k}")),
            8 => conn.exec(format!("DELETE FROM bank.hot_myisam WHERE k = {k}")),
            _ => conn.exec("FLUSH TABLES bank.hot_myisam, bank.journal_myisam"),
        }?;
        pause(rng.within(1, 5));
    }
    Ok(())
}
