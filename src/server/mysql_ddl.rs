//! Holding DDL off on MySQL 5.6 (P27): the global read lock, on an object of our own.
//!
//! Not FLUSH TABLES WITH READ LOCK, which closes tables, hangs point SELECTs behind a long one, and commits the
//! session's transaction. This one waits for running writes and DDL only, and reads go on.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use tokudb_backup_abi::common::Thd;
use tokudb_backup_abi::mysql_5_6::GlobalReadLock;

use super::mysql_session::{Silence, execute, is_known, lock_wait_timeout, user_variable};
use super::symbols::function;
use super::{DdlLock, Host, timed_out};
use crate::engine::error::{Error, Result};

/// Between two attempts, so that who queued behind us gets on.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a pause looks at KILL.
const LOOK: Duration = Duration::from_millis(50);

/// The functions of `Global_read_lock`.
pub struct GlobalReadLocks {
    host: Host,
    lock: unsafe extern "C" fn(*mut GlobalReadLock, Thd) -> bool,
    unlock: unsafe extern "C" fn(*mut GlobalReadLock, Thd),
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
        // SAFETY: methods of Global_read_lock (sql_class.h of 5.6.24).
        unsafe {
            Some(GlobalReadLocks {
                host: *host,
                lock: function(&[c"_ZN16Global_read_lock21lock_global_read_lockEP3THD"])?,
                unlock: function(&[c"_ZN16Global_read_lock23unlock_global_read_lockEP3THD"])?,
            })
        }
    }

    /// See [`super::Server::hold_ddl`].
    pub fn hold(&self, thd: Thd, limit: Duration, poll: &mut dyn FnMut() -> Result<()>) -> Result<DdlLock> {
        let end = Instant::now() + limit;
        loop {
            poll()?;
            if let Some(held) = self.attempt(thd)? {
                return Ok(DdlLock::new(Box::new(held)));
            }
            // A killed wait fails at once, and must not be taken for a holder.
            poll()?;
            if Instant::now() >= end {
                return Err(self.timed_out(thd, limit));
            }
            let next = Instant::now() + PAUSE;
            while Instant::now() < next {
                std::thread::sleep(LOOK);
                poll()?;
            }
        }
    }

    /// One attempt of a second.
    fn attempt(&self, thd: Thd) -> Result<Option<Held>> {
        let unknown = || Error::new(libc::ENOTSUP, "the server does not show its lock_wait_timeout");
        let timeout = lock_wait_timeout(thd).ok_or_else(unknown)?;
        let _silence = Silence::of(thd, &self.host).ok_or_else(unknown)?;
        let mut object = Box::new(GlobalReadLock::unlocked());
        // SAFETY: the session's own variable, read by nobody but this thread; put back at once. The object lives
        // until it is unlocked.
        let failed = unsafe {
            let before = timeout.replace(1);
            let failed = (self.lock)(&mut *object, thd);
            timeout.write(before);
            failed
        };
        Ok((!failed).then(|| Held { object, thd, unlock: self.unlock }))
    }

    /// The error that names who holds it.
    fn timed_out(&self, thd: Thd, limit: Duration) -> Error {
        const RUNNING: &CStr = c"SELECT GROUP_CONCAT(who SEPARATOR '; ') INTO @tokudb_backup_holders FROM (\
            SELECT CONCAT('connection ', ID, ' of ', USER, ' (', COMMAND, ' ', TIME, ' s', \
            IFNULL(CONCAT(': ', LEFT(INFO, 80)), ''), ')') AS who FROM information_schema.PROCESSLIST \
            WHERE ID <> CONNECTION_ID() AND COMMAND NOT IN ('Sleep', 'Daemon', 'Binlog Dump') \
            AND IFNULL(STATE, '') NOT LIKE 'Waiting for global read lock%' \
            ORDER BY TIME DESC LIMIT 3) AS candidates";
        const IDLE: &CStr = c"SELECT CONCAT('no statement, so LOCK TABLES of an idle connection: ', \
            GROUP_CONCAT(ID ORDER BY ID SEPARATOR ', ')) INTO @tokudb_backup_holders \
            FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND COMMAND = 'Sleep'";
        let ask =
            |sql| execute(thd, &self.host, sql).then(|| user_variable(c"tokudb_backup_holders")).flatten();
        let holders = ask(RUNNING)
            .or_else(|| ask(IDLE))
            .unwrap_or_else(|| "no connection that this user may see (PROCESS privilege)".to_owned());
        execute(thd, &self.host, c"SET @tokudb_backup_holders = NULL");
        timed_out(limit, &holders)
    }
}
