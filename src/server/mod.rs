//! What we ask of the server: privileges, state line, KILL, errors, log, paths, the lock at a backup's end.
//!
//! One trait with a MySQL and a MariaDB side. Everything is found by name in the running process when first
//! needed; a function that a server lacks makes the one thing that needs it unavailable, never the plugin.

pub mod binlog;
pub mod files;
mod hold;
mod host;
mod mariadb;
mod mariadb_replica;
mod mariadb_sql;
mod mysql;
mod mysql_5_6;
mod mysql_8;
mod mysql_command;
mod mysql_rights;
mod mysql_rows;
mod mysql_session;
pub mod replica;
mod symbols;

use std::ffi::{CStr, c_char};
use std::time::Duration;

use once_cell::sync::OnceCell;
use tokudb_backup_abi::common::Thd;

use crate::engine::error::Result;
pub use hold::{Hold, ServerLock, threads_are_gone};
pub use host::{Flavour, Host, Recognised};
pub use mysql::remember_plugin;
use replica::Replica;

/// How serious a line of the error log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A backup failed.
    Error,
    /// A backup began or ended.
    Note,
}

/// How far a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// This is the first that is told.
    pub first: bool,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do in all.
    pub total: u64,
}

/// The server around us. Every method that takes a session must be called on that session's thread.
pub trait Server: Sync {
    /// Which one it is.
    fn host(&self) -> &Host;

    /// Whether the session's user may take backups. Raises nothing.
    fn may_back_up(&self, thd: Thd) -> bool;

    /// The privileges of which one is needed, for messages.
    fn privilege(&self) -> &'static str;

    /// Why the session's statement must end: KILL, KILL QUERY, shutdown, or a client that is gone.
    fn interruption(&self, thd: Thd) -> Option<&'static str>;

    /// Number of the session, as the processlist shows it.
    fn session_id(&self, thd: Thd) -> u64;

    /// Number of the statement, on servers that set variables back by setting them once more (SET STATEMENT).
    fn statement_id(&self, thd: Thd) -> Option<u64>;

    /// Shows `state` in the processlist and returns the line shown before. The server keeps the pointer, and
    /// other threads read it at any time: both must stay readable for ever.
    ///
    /// # Safety
    /// `state` is null or a NUL-terminated string that is never freed.
    unsafe fn set_state(&self, thd: Thd, state: *const c_char) -> *const c_char;

    /// Shows how far the statement is, where the server has a place for that (MariaDB's PROGRESS column, and clients
    /// that show it): the first call begins. `None`: it is over.
    fn show_progress(&self, _thd: Thd, _part: Option<Part>) {}

    /// Makes the current statement fail with this error, unless it has failed already.
    fn raise(&self, code: u32, message: &CStr);

    /// Writes a line to the server's error log.
    fn log(&self, level: Level, message: &CStr);

    /// Why `what` can never be held off for this session, whoever else runs; told before anything is copied.
    fn can_hold(&self, thd: Thd, what: Hold) -> Result<()>;

    /// Holds it off, in several short attempts, so that nobody queues behind us for long; ETIMEDOUT after `limit`,
    /// naming who holds it. `poll` is called several times a second and ends the wait with its error.
    fn hold(
        &self,
        thd: Thd,
        what: Hold,
        limit: Duration,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<ServerLock>;

    /// What the server replicates from where. `stop_for`: with its SQL threads stopped, at a time when they have no
    /// temporary tables open, which is waited for as long as said (ETIMEDOUT then); a transaction that is being
    /// executed is waited for without a limit. They go on when the result is dropped. `poll` is called several times
    /// a second and ends the wait with its error.
    fn replica(
        &self,
        thd: Thd,
        stop_for: Option<Duration>,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Replica>;
}

/// The server around us; `None` in any other program.
pub fn current() -> Option<&'static dyn Server> {
    static CURRENT: OnceCell<Option<Box<dyn Server + Send>>> = OnceCell::new();
    CURRENT
        .get_or_init(|| {
            let Recognised::Server(host) = Host::recognise() else { return None };
            Some(match host.flavour {
                Flavour::MySql => Box::new(mysql::MySql::new(host)),
                Flavour::MariaDb => Box::new(mariadb::MariaDb::new(host)),
            })
        })
        .as_deref()
        .map(|server| server as &dyn Server)
}
