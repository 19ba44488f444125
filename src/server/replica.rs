//! A server as a replica: what it replicates from where, and its SQL threads at rest for a while.
//!
//! SQL of ours never runs in the session that takes the backup where the server offers another one: on a thread of
//! our own, which also sees to it that SQL threads that were stopped run again, whatever becomes of the backup.

use std::any::Any;
use std::ffi::{CStr, CString, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::hold::Counted;
use super::symbols::address;
use super::{Flavour, Host, Level};
use crate::engine::error::{Error, Result};
use crate::engine::threads;

/// How often a wait looks at KILL.
const LOOK: Duration = Duration::from_millis(50);
/// How long SQL threads run between two attempts to stop them without temporary tables.
const RUN: Duration = Duration::from_secs(1);

/// Whether transactions get GTIDs, in the words of the server's gtid_mode; MariaDB's always do. `None` on a server
/// that does not show it.
pub fn gtid_mode(host: &Host) -> Option<&'static str> {
    if host.flavour == Flavour::MariaDb {
        return Some("ON");
    }
    let mode = address(c"gtid_mode").or_else(|| address(c"global_gtid_mode"))?.cast::<c_int>();
    // SAFETY: `gtid_mode` of 5.6 is an unsigned long, `global_gtid_mode` of 8.0 and later an object of one atomic
    // int (rpl_gtid.h); either has the number of the mode in its first four bytes.
    let mode = unsafe { mode.read_volatile() };
    let names = if host.version_id < 50700 {
        ["OFF", "UPGRADE_STEP_1", "UPGRADE_STEP_2", "ON"]
    } else {
        ["OFF", "OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"]
    };
    names.get(usize::try_from(mode).ok()?).copied()
}

/// Temporary tables that SQL threads have open. `None` on a server that does not show it.
fn open_temporary_tables() -> Option<u32> {
    let count = address(c"slave_open_temp_tables")
        .or_else(|| address(c"atomic_replica_open_temp_tables"))?
        .cast::<u32>();
    // SAFETY: a ulong (5.6), an atomic of 32 bits (MariaDB, 8.0 and later): the count is in its first four bytes.
    Some(unsafe { count.read_volatile() })
}

/// One connection to a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    /// Its name; empty for the only one.
    pub name: String,
    /// Host, user and port of the source.
    pub host: String,
    /// See `host`.
    pub user: String,
    /// See `host`.
    pub port: String,
    /// The source's log file up to which transactions were executed.
    pub source_log: String,
    /// The position in it.
    pub position: String,
    /// The replica's relay log that is being executed.
    pub relay_log: String,
    /// GTIDs that the replica has.
    pub gtid: String,
    /// It asks its source by GTIDs, not by a position.
    pub by_gtid: bool,
    /// Its SQL thread runs.
    pub runs: bool,
}

/// What a server replicates. Dropping it lets the SQL threads that were stopped go on.
#[derive(Default)]
pub struct Replica {
    /// All connections; none when it is no replica.
    pub channels: Vec<Channel>,
    /// The SQL threads stand still.
    pub at_rest: bool,
    _guard: Option<Box<dyn Any>>,
}

impl Replica {
    /// One whose SQL threads go on when `guard` is dropped.
    pub fn new(channels: Vec<Channel>, guard: Option<Box<dyn Any>>) -> Replica {
        Replica { channels, at_rest: guard.is_some(), _guard: guard }
    }
}

/// What a statement returned.
#[derive(Debug, Default)]
pub struct Table {
    /// Names of the columns; none on MariaDB, whose service does not tell.
    pub columns: Vec<String>,
    /// The rows; NULL is empty. They may have more columns than are known.
    pub rows: Vec<Vec<String>>,
}

/// A session in which SQL runs, on the thread that uses it.
pub trait Sql {
    /// Runs a statement; the error tells what the server said.
    fn run(&self, sql: &CStr) -> Result<Table>;

    /// Asks what the server replicates.
    fn channels(&self, dialect: Dialect) -> Result<Vec<Channel>>;
}

/// How a server is asked.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    mariadb: bool,
    version: u32,
}

impl Dialect {
    /// Of this server.
    pub fn of(host: &Host) -> Dialect {
        Dialect { mariadb: host.flavour == Flavour::MariaDb, version: host.version_id }
    }

    fn status(self) -> &'static CStr {
        match self {
            Dialect { mariadb: true, .. } => c"SHOW ALL SLAVES STATUS",
            Dialect { version: 80022.., .. } => c"SHOW REPLICA STATUS",
            _ => c"SHOW SLAVE STATUS",
        }
    }

    /// A statement on the SQL thread of a channel.
    fn command(self, verb: &str, channel: &str) -> CString {
        // A name may contain any character but these mean something in a string.
        let name = channel.replace('\\', "\\\\").replace('\'', "''");
        let text = match self {
            Dialect { mariadb: true, .. } => format!("{verb} SLAVE '{name}' SQL_THREAD"),
            Dialect { version: 80022.., .. } => format!("{verb} REPLICA SQL_THREAD FOR CHANNEL '{name}'"),
            Dialect { version: 50700.., .. } => format!("{verb} SLAVE SQL_THREAD FOR CHANNEL '{name}'"),
            _ => format!("{verb} SLAVE SQL_THREAD"),
        };
        CString::new(text.replace('\0', "")).unwrap_or_default()
    }
}

/// Where the columns of a status stand.
#[derive(Clone, Copy, Debug)]
struct Columns {
    name: Option<usize>,
    host: usize,
    user: usize,
    port: usize,
    relay_log: usize,
    source_log: usize,
    runs: usize,
    position: usize,
    gtid: Option<usize>,
    by_gtid: Option<usize>,
}

impl Columns {
    /// By their names: MySQL's of all versions.
    fn named(columns: &[String]) -> Option<Columns> {
        let at = |names: &[&str]| columns.iter().position(|column| names.contains(&column.as_str()));
        Some(Columns {
            name: at(&["Channel_Name"]),
            host: at(&["Source_Host", "Master_Host"])?,
            user: at(&["Source_User", "Master_User"])?,
            port: at(&["Source_Port", "Master_Port"])?,
            relay_log: at(&["Relay_Log_File"])?,
            source_log: at(&["Relay_Source_Log_File", "Relay_Master_Log_File"])?,
            runs: at(&["Replica_SQL_Running", "Slave_SQL_Running"])?,
            position: at(&["Exec_Source_Log_Pos", "Exec_Master_Log_Pos"])?,
            gtid: at(&["Executed_Gtid_Set"]),
            by_gtid: at(&["Auto_Position"]),
        })
    }

    /// SHOW ALL SLAVES STATUS of MariaDB 10.5 to 11.8.
    const MARIADB: Columns = Columns {
        name: Some(0),
        host: 3,
        user: 4,
        port: 5,
        relay_log: 9,
        source_log: 11,
        runs: 13,
        position: 23,
        gtid: None,
        by_gtid: None,
    };

    fn read(&self, row: &[String]) -> Option<Channel> {
        let text = |at: usize| row.get(at).cloned();
        let gtid = self.gtid.and_then(text).unwrap_or_default();
        let channel = Channel {
            name: self.name.and_then(text).unwrap_or_default(),
            host: text(self.host)?,
            user: text(self.user)?,
            port: text(self.port)?,
            source_log: text(self.source_log)?,
            position: text(self.position)?,
            relay_log: text(self.relay_log)?,
            gtid: gtid.replace(['\n', ' '], ""),
            by_gtid: self.by_gtid.and_then(text).is_some_and(|value| value == "1"),
            runs: text(self.runs)? == "Yes",
        };
        // A column that is somewhere else.
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        (number(&channel.port) && number(&channel.position)).then_some(channel)
    }
}

/// Asks what the server replicates by the statement that shows it.
pub fn show(sql: &dyn Sql, dialect: Dialect) -> Result<Vec<Channel>> {
    let table = sql.run(dialect.status())?;
    let unknown = || {
        Error::new(
            libc::ENOTSUP,
            format!("the answer of {} is not understood", dialect.status().to_string_lossy()),
        )
    };
    let mut channels = Vec::new();
    for row in &table.rows {
        let columns = match dialect {
            Dialect { mariadb: true, .. } => Columns::MARIADB,
            _ => Columns::named(&table.columns).ok_or_else(unknown)?,
        };
        channels.push(columns.read(row).ok_or_else(unknown)?);
    }
    if dialect.mariadb && !channels.is_empty() {
        let gtid = sql.run(c"SELECT @@GLOBAL.gtid_slave_pos")?;
        let gtid = gtid.rows.first().and_then(|row| row.first()).cloned().unwrap_or_default();
        channels.iter_mut().for_each(|channel| channel.gtid.clone_from(&gtid));
    }
    Ok(channels)
}

/// SQL threads that were stopped. Dropping it starts them again.
struct Stopped<'a> {
    sql: &'a dyn Sql,
    dialect: Dialect,
    channels: Vec<String>,
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        for channel in &self.channels {
            if let Err(error) = self.sql.run(&self.dialect.command("START", channel)) {
                let text = format!(
                    "the SQL thread of channel '{channel}', which a backup had stopped, could not be started again: \
                     {error}. START it by hand"
                );
                if let Some(server) = super::current() {
                    server.log(Level::Error, &CString::new(text.replace('\0', " ")).unwrap_or_default());
                }
            }
        }
    }
}

/// Stops the SQL threads that run, at a time when they have no temporary tables open: these would be lost in a copy.
fn stop<'a>(
    sql: &'a dyn Sql,
    dialect: Dialect,
    limit: Duration,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Stopped<'a>> {
    let begun = Instant::now();
    loop {
        go_on()?;
        let mut stopped = Stopped { sql, dialect, channels: Vec::new() };
        for channel in sql.channels(dialect)? {
            // Group replication has a will of its own.
            if channel.runs && !channel.name.starts_with("group_replication_") {
                let command = dialect.command("STOP", &channel.name);
                stopped.channels.push(channel.name);
                sql.run(&command)?;
            }
        }
        let open = open_temporary_tables().ok_or_else(|| {
            let text = "this server does not show how many temporary tables the replica's SQL threads have open: SET \
                        GLOBAL tokudb_backup_safe_slave=OFF";
            Error::new(libc::ENOTSUP, text)
        })?;
        if open == 0 {
            return Ok(stopped);
        }
        drop(stopped);
        if begun.elapsed() >= limit {
            let text = format!(
                "the replica's SQL threads have {open} temporary tables open, and had some throughout the {} s of \
                 tokudb_backup_safe_slave_timeout: allow more time, or SET GLOBAL tokudb_backup_safe_slave=OFF",
                limit.as_secs()
            );
            return Err(Error::new(libc::ETIMEDOUT, text));
        }
        let again = Instant::now() + RUN.min(limit.saturating_sub(begun.elapsed()));
        while Instant::now() < again {
            go_on()?;
            std::thread::sleep(LOOK);
        }
    }
}

/// Looks at the replica in this session. `stop_for`: stop the SQL threads, within this time; the guard that `keep`
/// makes of the session starts them again.
pub fn in_session<S: Sql + 'static>(
    sql: S,
    dialect: Dialect,
    stop_for: Option<Duration>,
    poll: &mut dyn FnMut() -> Result<()>,
) -> Result<Replica> {
    let Some(limit) = stop_for else { return Ok(Replica::new(sql.channels(dialect)?, None)) };
    let stopped = stop(&sql, dialect, limit, poll)?;
    let channels_now = sql.channels(dialect)?;
    let names = std::mem::take(&mut { stopped }.channels);
    if names.is_empty() {
        return Ok(Replica { at_rest: true, ..Replica::new(channels_now, None) });
    }
    Ok(Replica::new(channels_now, Some(Box::new(Kept { sql, dialect, channels: names }))))
}

/// [`Stopped`], with its session.
struct Kept<S: Sql> {
    sql: S,
    dialect: Dialect,
    channels: Vec<String>,
}

impl<S: Sql> Drop for Kept<S> {
    fn drop(&mut self) {
        drop(Stopped { sql: &self.sql, dialect: self.dialect, channels: std::mem::take(&mut self.channels) });
    }
}

/// The thread that sees to the SQL threads, from the session's side. Dropping it lets them go on.
struct Holder {
    release: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    cancelled: Arc<AtomicBool>,
    held: bool,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Release);
        self.release = None;
        // A STOP that still waits for a transaction ends with that, and START follows it, by themselves.
        if self.held
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// What the thread answers.
type Answer = Result<(Vec<Channel>, bool)>;

/// Looks at the replica on a thread of our own, in a session that `open` makes there. `stop_for`: stop the SQL
/// threads, within this time. `poll` is called several times a second and ends the wait with its error.
pub fn on_a_thread(
    open: fn() -> Result<Box<dyn Sql>>,
    dialect: Dialect,
    stop_for: Option<Duration>,
    poll: &mut dyn FnMut() -> Result<()>,
) -> Result<Replica> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let (release, released) = channel();
    let (answer, answers) = channel();
    let stop = Arc::clone(&cancelled);
    let counted = Counted::new();
    let thread = threads::spawn("backup_replica", move || {
        let _counted = counted;
        if let Err(error) = attend(open, dialect, stop_for, &stop, &answer, &released) {
            let _ = answer.send(Err(error));
        }
    })?;
    let mut holder = Holder { release: Some(release), thread: Some(thread), cancelled, held: false };
    loop {
        poll()?;
        match answers.recv_timeout(LOOK) {
            Ok(Ok((channels, stopped))) => {
                // Either way the thread ends at once when it is told to.
                holder.held = true;
                let guard = stopped.then(|| Box::new(holder) as Box<dyn Any>);
                return Ok(Replica { at_rest: stop_for.is_some(), ..Replica::new(channels, guard) });
            }
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(
                    libc::EIO,
                    "the thread that looks after the replica ended without an answer",
                ));
            }
        }
    }
}

/// Body of the thread.
fn attend(
    open: fn() -> Result<Box<dyn Sql>>,
    dialect: Dialect,
    stop_for: Option<Duration>,
    cancelled: &AtomicBool,
    answer: &Sender<Answer>,
    released: &Receiver<()>,
) -> Result<()> {
    let sql = open()?;
    let Some(limit) = stop_for else {
        let _ = answer.send(Ok((sql.channels(dialect)?, false)));
        return Ok(());
    };
    let mut go_on = || match cancelled.load(Ordering::Acquire) {
        true => Err(Error::interrupted("nobody waits for the replica's SQL threads any more")),
        false => Ok(()),
    };
    let stopped = stop(&*sql, dialect, limit, &mut go_on)?;
    let channels = sql.channels(dialect)?;
    if answer.send(Ok((channels, !stopped.channels.is_empty()))).is_ok() && !stopped.channels.is_empty() {
        // Nothing is ever sent: the other end is dropped.
        let _ = released.recv();
    }
    drop(stopped);
    Ok(())
}
