//! Servers that replicate from each other, over TCP on this machine: how one becomes a replica, and what its load is.

use crate::client::{Conn, SqlError};
use crate::load::{Failure, Load, Outcome, Shared};
use crate::rng::Rng;
use crate::server::Server;
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The account of replicas; it has no password.
const USER: &str = "repl";
/// How long a replica may take to catch up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port of this machine that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port())
}

/// Options of a server that takes part, with its number; they override what stands before them.
pub fn options(id: u32, port: u16) -> Vec<String> {
    let fixed = ["--log-bin=bl", "--relay-log=rl", "--log-slave-updates", "--skip-networking=0"];
    let fixed = fixed.into_iter().chain(["--bind-address=127.0.0.1", "--skip-name-resolve"]);
    // Only the first one's commits wait for the disk.
    let fast = ["--sync-binlog=0", "--innodb-flush-log-at-trx-commit=2"];
    let fixed = fixed.chain(fast.into_iter().filter(|_| id != 1));
    fixed.map(str::to_owned).chain([format!("--server-id={id}"), format!("--port={port}")]).collect()
}

/// The words of replication, which MySQL has changed.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    new: bool,
    mariadb: bool,
}

impl Words {
    /// Of this server.
    pub fn of(server: &Server) -> Words {
        Words { new: server.installation.name == "mysql-9.7", mariadb: server.installation.is_mariadb() }
    }

    /// "REPLICA" or "SLAVE".
    pub fn replica(self) -> &'static str {
        if self.new { "REPLICA" } else { "SLAVE" }
    }

    /// "SOURCE" or "MASTER".
    pub fn source(self) -> &'static str {
        if self.new { "SOURCE" } else { "MASTER" }
    }

    fn change(self) -> &'static str {
        if self.new { "CHANGE REPLICATION SOURCE TO" } else { "CHANGE MASTER TO" }
    }
}

/// Makes the account that replicas connect with.
///
/// # Errors
/// What the server answers.
pub fn admit_replicas(conn: &mut Conn) -> Result<(), SqlError> {
    conn.exec(format!("CREATE USER '{USER}'@'%'"))?;
    conn.exec(format!("GRANT REPLICATION SLAVE ON *.* TO '{USER}'@'%'")).map(drop)
}

/// Where a replica begins.
#[derive(Clone, Copy, Debug)]
pub enum Begin<'a> {
    /// Behind a position of the source's binary log.
    Position(&'a str, u64),
    /// By the GTIDs that the replica has.
    Gtid,
}

/// Makes a server that runs a replica of the one that listens on the port, and starts it. `channel` is empty for the
/// only one.
///
/// # Errors
/// What the server answers.
pub fn follow(replica: &Server, port: u16, channel: &str, begin: Begin) -> Result<(), SqlError> {
    let words = Words::of(replica);
    let source = words.source();
    let mut list = vec![
        format!("{source}_HOST = '127.0.0.1'"),
        format!("{source}_PORT = {port}"),
        format!("{source}_USER = '{USER}'"),
        format!("{source}_CONNECT_RETRY = 1"),
    ];
    match begin {
        Begin::Position(file, position) => {
            list.extend([format!("{source}_LOG_FILE = '{file}'"), format!("{source}_LOG_POS = {position}")]);
            if words.mariadb {
                list.push("MASTER_USE_GTID = no".to_owned());
            }
        }
        Begin::Gtid if words.mariadb => list.push("MASTER_USE_GTID = slave_pos".to_owned()),
        Begin::Gtid => list.push(format!("{source}_AUTO_POSITION = 1")),
    }
    if words.mariadb {
        // An account without a password proves no certificate.
        list.push("MASTER_SSL_VERIFY_SERVER_CERT = 0".to_owned());
    }
    let name = channel.replace('\'', "''");
    let (before, after) = match &*name {
        "" => (String::new(), String::new()),
        name if words.mariadb => (format!(" '{name}'"), String::new()),
        name => (String::new(), format!(" FOR CHANNEL '{name}'")),
    };
    let mut conn = replica.connect()?;
    let change = words.change();
    let change =
        if words.mariadb { change.replace(" TO", &format!("{before} TO")) } else { change.to_owned() };
    conn.exec(format!("{change} {}{after}", list.join(", ")))?;
    conn.exec(format!("START {}{before}{after}", words.replica())).map(drop)
}

/// Waits until a replica has done all that its source has logged until now.
///
/// # Errors
/// When it stops or takes too long: with what it says of itself.
pub fn catch_up(source: &Server, replica: &Server, channel: &str) -> Result<()> {
    let words = Words::of(replica);
    let status = if words.new { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    let rows = source.connect()?.query(status)?.texts();
    let [file, position, ..] = &rows.first().context("the source has no binary log")?[..] else {
        bail!("{status} has no position")
    };
    let channel =
        if channel.is_empty() { String::new() } else { format!(", '{}'", channel.replace('\'', "''")) };
    let mut conn = replica.connect()?;
    let wait =
        format!("SELECT {}_POS_WAIT('{file}', {position}, {}{channel})", words.source(), PATIENCE.as_secs());
    match conn.value(&wait)?.as_deref() {
        Some("-1") | None => {}
        Some(_) => return Ok(()),
    }
    let show = if words.mariadb {
        "SHOW ALL SLAVES STATUS".to_owned()
    } else {
        format!("SHOW {} STATUS", words.replica())
    };
    let said = conn.query(show)?;
    let said = said
        .texts()
        .iter()
        .map(|row| {
            let pairs = said.columns.iter().zip(row).filter(|(_, value)| !value.is_empty());
            pairs.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
        })
        .collect::<Vec<_>>();
    bail!("{wait} gave up; the replica says\n{}\n{}", said.join("\n\n"), replica.log_tail())
}

/// Removes the identity that a copy of a server shares with the original (MySQL).
///
/// # Errors
/// When it cannot be removed.
pub fn forget_identity(data: &Path) -> Result<()> {
    match fs::remove_file(data.join("auto.cnf")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Tables of the load, all with transactions.
const TABLES: [&str; 3] = ["r.accounts", "r.journal", "r.blobs"];
/// Accounts that money moves between.
const ACCOUNTS: u64 = 100;

/// Makes the load's tables.
///
/// # Errors
/// What the server answers.
pub fn prepare(conn: &mut Conn) -> Result<(), SqlError> {
    conn.exec("CREATE DATABASE r")?;
    conn.exec("CREATE TABLE r.accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL) ENGINE=InnoDB")?;
    let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, 1000)")).collect();
    conn.exec(format!("INSERT INTO r.accounts VALUES {}", rows.join(", ")))?;
    conn.exec("CREATE TABLE r.journal (client INT, seq INT, note VARCHAR(100), PRIMARY KEY (client, seq)) ENGINE=InnoDB")?;
    conn.exec(
        "CREATE TABLE r.blobs (client INT, seq INT, data LONGBLOB, PRIMARY KEY (client, seq)) ENGINE=InnoDB",
    )
    .map(drop)
}

/// Adds clients to a load: transfers, transactions that fill many blocks of the binary log, DDL and new binary logs.
/// `first` is the first client's number, of four.
///
/// # Errors
/// When one cannot connect.
pub fn start(load: &mut Load, first: u32, rng: &Rng) -> Result<(), SqlError> {
    for client in first..first + 3 {
        let rng = rng.fork(u64::from(client));
        load.spawn(move |conn, shared| {
            outcome(&format!("client {client}"), transfers(conn, shared, client, rng))
        })?;
    }
    load.spawn(move |conn, shared| outcome("DDL", tables_come_and_go(conn, shared, first)))
}

fn outcome(who: &str, result: Result<(), SqlError>) -> Outcome {
    Outcome::Failures(result.err().map(|error| Failure::new(who, &error)).into_iter().collect())
}

fn transfers(conn: &mut Conn, shared: &Shared, client: u32, mut rng: Rng) -> Result<(), SqlError> {
    let mut seq = 0;
    while !shared.stopping() {
        seq += 1;
        match transfer(conn, client, seq, &mut rng) {
            // A deadlock, or a lock not got in time.
            Err(error) if matches!(error.code, 1205 | 1213) => conn.exec("ROLLBACK").map(drop)?,
            result => result?,
        }
        shared.commits.fetch_add(1, Ordering::Relaxed);
        // Replicas must be able to follow.
        std::thread::sleep(Duration::from_millis(rng.below(4)));
    }
    Ok(())
}

fn transfer(conn: &mut Conn, client: u32, seq: u32, rng: &mut Rng) -> Result<(), SqlError> {
    let (from, to, amount) = (rng.below(ACCOUNTS), rng.below(ACCOUNTS), rng.within(1, 50));
    conn.exec("BEGIN")?;
    conn.exec(format!("INSERT INTO r.journal VALUES ({client}, {seq}, 'moved {amount}')"))?;
    conn.exec(format!("UPDATE r.accounts SET balance = balance - {amount} WHERE id = {from}"))?;
    conn.exec(format!("UPDATE r.accounts SET balance = balance + {amount} WHERE id = {to}"))?;
    if rng.percent(10) {
        // Longer than what the server writes to its log at once.
        let data = "b".repeat(rng.within(20_000, 400_000) as usize);
        conn.exec(format!("INSERT INTO r.blobs VALUES ({client}, {seq}, '{data}')"))?;
    }
    conn.exec(if rng.percent(5) { "ROLLBACK" } else { "COMMIT" }).map(drop)
}

fn tables_come_and_go(conn: &mut Conn, shared: &Shared, first: u32) -> Result<(), SqlError> {
    for round in 0.. {
        if shared.stopping() {
            break;
        }
        let table = format!("r.t{first}_{round}");
        conn.exec(format!(
            "CREATE TABLE {table} (a INT AUTO_INCREMENT PRIMARY KEY, b VARCHAR(50)) ENGINE=InnoDB"
        ))?;
        conn.exec(format!("INSERT INTO {table} (b) VALUES ('one'), ('two')"))?;
        conn.exec(format!("ALTER TABLE {table} ADD c INT NOT NULL DEFAULT 7"))?;
        if round % 3 != 0 {
            conn.exec(format!("DROP TABLE {table}"))?;
        }
        if round % 8 == 7 {
            conn.exec("FLUSH BINARY LOGS")?;
        }
        shared.ddl.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The checksum of every table of the load.
///
/// # Errors
/// What the server answers.
pub fn checksums(conn: &mut Conn) -> Result<Vec<(String, String)>, SqlError> {
    let tables = conn.query("SHOW TABLES FROM r")?.texts();
    let tables: Vec<String> = tables.into_iter().flatten().map(|name| format!("r.{name}")).collect();
    assert!(TABLES.iter().all(|table| tables.iter().any(|other| other == table)), "{tables:?}");
    tables
        .into_iter()
        .map(|table| {
            let sum = conn.query(format!("CHECKSUM TABLE {table} EXTENDED"))?.texts();
            Ok((table, sum.first().map(|row| row[1].clone()).unwrap_or_default()))
        })
        .collect()
}

/// Fields of a line `name: value, name: value` of an info file.
pub fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = format!("{name}: ");
    let at = if line.starts_with(&start) { 0 } else { line.find(&format!(", {start}"))? + 2 };
    let rest = &line[at + start.len()..];
    // The last field may hold commas.
    Some(match name {
        "GTID of last change" => rest.trim_end(),
        _ => rest.split(", ").next().unwrap_or_default().trim_end(),
    })
}
