//! Holding off on MySQL 5.6 (P27): the global read lock, on an object of our own.
//!
//! Not FLUSH TABLES WITH READ LOCK, which commits the session's transaction. The lock alone waits for running writes
//! and DDL only, and reads go on. To hold everything off, all tables are closed under it, which waits for reads, too:
//! a closing that is given up makes every statement on a table in use wait until those end that used it. So none is
//! begun while a statement runs that is older than a second.

use std::ffi::{CStr, c_ulong, c_void};
use std::time::{Duration, Instant};

use tokudb_backup_abi::common::Thd;
use tokudb_backup_abi::mysql_5_6::GlobalReadLock;

use super::Host;
use super::hold::{Hold, PAUSE, ServerLock, pause};
use super::mysql_session::{Silence, execute, is_known, lock_wait_timeout, user_variable};
use super::symbols::{function, sql};
use crate::engine::error::{Error, Result};

/// After tables could not be closed: what waits for their users is not disturbed further.
const AFTER_CLOSING: Duration = Duration::from_secs(5);

/// The functions of `Global_read_lock`, and the one that closes all tables.
pub struct GlobalReadLocks {
    host: Host,
    lock: unsafe extern "C" fn(*mut GlobalReadLock, Thd) -> bool,
    block_commit: unsafe extern "C" fn(*mut GlobalReadLock, Thd) -> bool,
    unlock: unsafe extern "C" fn(*mut GlobalReadLock, Thd),
    close_tables: unsafe extern "C" fn(Thd, tables: *mut c_void, wait: bool, seconds: c_ulong) -> bool,
}

/// What an attempt came to.
enum Attempt {
    Held(Held),
    NotGot,
    NotClosed,
}

/// The lock while it is held.
struct Held {
    object: Box<GlobalReadLock>,
    thd: Thd,
    unlock: unsafe extern "C" fn(*mut GlobalReadLock, Thd),
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the object was locked for this session, whose statement still runs.
        unsafe { (self.unlock)(&mut *self.object, self.thd) };
    }
}

impl GlobalReadLocks {
    /// The functions, on a server whose objects we know.
    pub fn of(host: &Host) -> Option<Self> {
        if !is_known(host) {
            return None;
        }
        // SAFETY: methods of Global_read_lock (sql_class.h of 5.6.24), and close_cached_tables (sql_base.h).
        unsafe {
            Some(GlobalReadLocks {
                host: *host,
                lock: function(&[c"_ZN16Global_read_lock21lock_global_read_lockEP3THD"])?,
                block_commit: function(&[
                    c"_ZN16Global_read_lock34make_global_read_lock_block_commitEP3THD",
                ])?,
                unlock: function(&[c"_ZN16Global_read_lock23unlock_global_read_lockEP3THD"])?,
                close_tables: function(&[c"_Z19close_cached_tablesP3THDP10TABLE_LISTbm"])?,
            })
        }
    }

    /// See [`super::Server::hold`].
    pub fn hold(
        &self,
        thd: Thd,
        what: Hold,
        limit: Duration,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<ServerLock> {
        let end = Instant::now() + limit;
        loop {
            poll()?;
            let next = match self.attempt(thd, what)? {
                Attempt::Held(held) => return Ok(ServerLock::new(held)),
                Attempt::NotGot => PAUSE,
                Attempt::NotClosed => AFTER_CLOSING,
            };
            // A killed wait fails at once, and must not be taken for a holder.
            poll()?;
            if Instant::now() + next.saturating_sub(PAUSE) >= end {
                return Err(self.timed_out(thd, what, limit));
            }
            pause(next, poll)?;
        }
    }

    /// One attempt of a second for each lock.
    fn attempt(&self, thd: Thd, what: Hold) -> Result<Attempt> {
        let unknown = || Error::new(libc::ENOTSUP, "the server does not show its lock_wait_timeout");
        let timeout = lock_wait_timeout(thd).ok_or_else(unknown)?;
        let _silence = Silence::of(thd, &self.host).ok_or_else(unknown)?;
        let mut object = Box::new(GlobalReadLock::unlocked());
        let waiting_a_second = |work: &mut dyn FnMut() -> bool| {
            // SAFETY: the session's own variable, read by nobody but this thread; put back at once.
            unsafe {
                let before = timeout.replace(1);
                let failed = work();
                timeout.write(before);
                failed
            }
        };
        // SAFETY: the object lives until it is unlocked.
        if waiting_a_second(&mut || unsafe { (self.lock)(&mut *object, thd) }) {
            return Ok(Attempt::NotGot);
        }
        let mut held = Held { object, thd, unlock: self.unlock };
        if what == Hold::Everything {
            // Writes are waited for already; who runs still, reads.
            if self.ask(thd, OLD).is_some() {
                return Ok(Attempt::NotGot);
            }
            // SAFETY: the session holds no tables (see `can_hold`); no list means all of them.
            if unsafe { (self.close_tables)(thd, std::ptr::null_mut(), true, 1) } {
                return Ok(Attempt::NotClosed);
            }
            // SAFETY: the object is locked.
            if waiting_a_second(&mut || unsafe { (self.block_commit)(&mut *held.object, thd) }) {
                return Ok(Attempt::NotGot);
            }
        }
        Ok(Attempt::Held(held))
    }

    /// What a query puts into @tokudb_backup_holders, inside the session.
    fn ask(&self, thd: Thd, sql: &CStr) -> Option<String> {
        let answer = execute(thd, &self.host, sql).then(|| user_variable(c"tokudb_backup_holders")).flatten();
        execute(thd, &self.host, c"SET @tokudb_backup_holders = NULL");
        answer
    }

    /// The error that names who holds it.
    fn timed_out(&self, thd: Thd, what: Hold, limit: Duration) -> Error {
        let holders = self
            .ask(thd, RUNNING)
            .or_else(|| self.ask(thd, IDLE))
            .unwrap_or_else(|| "no connection that this user may see (PROCESS privilege)".to_owned());
        what.timed_out(limit, &holders)
    }
}

/// Statements by a condition.
macro_rules! running {
    ($condition:literal) => {
        concat!(
            "SELECT GROUP_CONCAT(who SEPARATOR '; ') INTO @tokudb_backup_holders FROM (\
             SELECT CONCAT('connection ', ID, ' of ', USER, ' (', COMMAND, ' ', TIME, ' s', \
             IFNULL(CONCAT(': ', LEFT(INFO, 80)), ''), ')') AS who FROM information_schema.PROCESSLIST \
             WHERE ID <> CONNECTION_ID() AND IFNULL(STATE, '') NOT LIKE 'Waiting for global read lock%' AND ",
            $condition,
            " ORDER BY TIME DESC LIMIT 3) AS candidates\0"
        )
    };
}

const RUNNING: &CStr = sql(running!("COMMAND NOT IN ('Sleep', 'Daemon', 'Binlog Dump')"));
/// Older than a second, whatever they do; a replica's time is its lag.
const OLD: &CStr = sql(running!("COMMAND IN ('Query', 'Execute') AND TIME >= 2 AND USER <> 'system user'"));
const IDLE: &CStr = c"SELECT CONCAT('no statement, so LOCK TABLES of an idle connection: ', \
    GROUP_CONCAT(ID ORDER BY ID SEPARATOR ', ')) INTO @tokudb_backup_holders \
    FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND COMMAND = 'Sleep'";
