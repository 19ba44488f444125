//! Holding off on MariaDB (P27): BACKUP STAGE, on a session of our own and a thread of our own.
//!
//! BLOCK_DDL waits for statements that write tables without a log, flushes these tables and holds DDL and such
//! writes off; BLOCK_COMMIT holds commits off, too.

use std::ffi::{CStr, c_void};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokudb_backup_abi::common::er;
use tokudb_backup_abi::mariadb::{Connection, SqlService};

use super::hold::{Hold, PAUSE, ServerLock, by_thread, still_wanted};
use super::symbols::{address, function};
use crate::engine::error::{Error, Result};

/// See [`super::Server::hold`].
pub fn hold(what: Hold, limit: Duration, poll: &mut dyn FnMut() -> Result<()>) -> Result<ServerLock> {
    by_thread(poll, move |stop| {
        reach(Session::open().map_err(|error| explain(what, &error))?, what, limit, stop)
    })
}

/// A failure with what to do about it.
fn explain(what: Hold, error: &Error) -> Error {
    Error::new(error.errno, format!("{}: {}. {}", what.failure(), error.message, what.otherwise()))
}

/// A stage that was reached; dropping it ends the stage, and its session.
struct Stage(Session);

impl Drop for Stage {
    fn drop(&mut self) {
        self.0.end_stage();
    }
}

fn reach(session: Session, what: Hold, limit: Duration, stop: &AtomicBool) -> Result<Stage> {
    const STAGES: [&CStr; 4] = [
        c"BACKUP STAGE START",
        c"BACKUP STAGE FLUSH",
        c"BACKUP STAGE BLOCK_DDL",
        c"BACKUP STAGE BLOCK_COMMIT",
    ];
    let stages = match what {
        Hold::Ddl => &STAGES[..3],
        Hold::Everything => &STAGES[..],
    };
    let end = Instant::now() + limit;
    session.execute(c"SET SESSION lock_wait_timeout = 1").map_err(|refusal| explain(what, &refusal))?;
    loop {
        still_wanted(stop)?;
        match stages.iter().try_for_each(|stage| session.execute(stage)) {
            Ok(()) => return Ok(Stage(session)),
            Err(refusal) if refusal.errno == libc::ETIMEDOUT => session.end_stage(),
            Err(refusal) => return Err(explain(what, &refusal)),
        }
        if Instant::now() >= end {
            return Err(what.timed_out(limit, &session.holders()));
        }
        std::thread::sleep(PAUSE);
    }
}

/// A session of our own, on the thread that opened it.
pub(super) struct Session {
    pub(super) service: &'static SqlService,
    pub(super) connection: Connection,
    end_thread: unsafe extern "C" fn(),
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: opened on this thread; the server's session ends with the connection, and with it the stage.
        unsafe {
            (self.service.close)(self.connection);
            (self.end_thread)();
        }
    }
}

impl Session {
    pub(super) fn open() -> Result<Session> {
        let missing = || Error::new(libc::ENOTSUP, "this server has no SQL service");
        let service = address(c"sql_service_handler").ok_or_else(missing)?;
        // SAFETY: `sql_service_handler` is a `sql_service_st` (service_sql.h of 10.5 to 11.8), static in the server.
        let service: &'static SqlService = unsafe { &*service.cast::<SqlService>() };
        type Begin = unsafe extern "C" fn() -> bool;
        // SAFETY: `my_bool my_thread_init(void)` and `void my_thread_end(void)` (my_pthread.h of 10.5 to 11.8).
        let (begin, end): (Begin, unsafe extern "C" fn()) = unsafe {
            (
                function(&[c"my_thread_init"]).ok_or_else(missing)?,
                function(&[c"my_thread_end"]).ok_or_else(missing)?,
            )
        };
        let failed = || Error::new(libc::ENOMEM, "the server gave no session of our own");
        // SAFETY: this thread is ours and is known to the server from here to `drop`.
        unsafe {
            if begin() {
                return Err(failed());
            }
            let connection = (service.init)(Connection(std::ptr::null_mut::<c_void>()));
            if connection.0.is_null() {
                end();
                return Err(failed());
            }
            let session = Session { service, connection, end_thread: end };
            if (service.real_connect_local)(connection).0.is_null() {
                return Err(failed());
            }
            Ok(session)
        }
    }

    /// Runs a statement without a result. ETIMEDOUT when it waited too long for a lock, or in a circle.
    fn execute(&self, sql: &CStr) -> Result<()> {
        // SAFETY: the connection is open; the statement is as long as said.
        if unsafe { (self.service.real_query)(self.connection, sql.as_ptr(), sql.count_bytes() as u64) } == 0
        {
            return Ok(());
        }
        // SAFETY: as above; the text is the connection's own until its next statement.
        let (code, text) = unsafe {
            ((self.service.errno)(self.connection), CStr::from_ptr((self.service.error)(self.connection)))
        };
        let again = matches!(code, er::LOCK_WAIT_TIMEOUT | er::LOCK_DEADLOCK);
        let errno = if again { libc::ETIMEDOUT } else { libc::EIO };
        let (sql, text) = (sql.to_string_lossy(), text.to_string_lossy());
        Err(Error::new(errno, format!("{sql}: {text} ({code})")))
    }

    /// Ends the stage, whichever was reached; none is no harm.
    fn end_stage(&self) {
        let _ = self.execute(c"BACKUP STAGE END");
    }

    /// The first column of the first rows of a query, joined.
    fn query(&self, sql: &CStr) -> Option<String> {
        self.execute(sql).ok()?;
        // SAFETY: a statement has just succeeded on the open connection.
        let result = unsafe { (self.service.store_result)(self.connection) };
        if result.0.is_null() {
            return None;
        }
        let mut rows = Vec::new();
        // SAFETY: the result is stored; each row has at least one column, a NUL-terminated string or null; it is
        // freed once, after the last use.
        unsafe {
            loop {
                let row = (self.service.fetch_row)(result);
                if row.is_null() {
                    break;
                }
                if !(*row).is_null() {
                    rows.push(CStr::from_ptr(*row).to_string_lossy().into_owned());
                }
            }
            (self.service.free_result)(result);
        }
        (!rows.is_empty()).then(|| rows.join("; "))
    }

    /// Who may keep it from being held off.
    fn holders(&self) -> String {
        let locks = self.query(
            c"SELECT CONCAT('connection ', l.THREAD_ID, ' holds ', l.LOCK_MODE, ' on ', \
            IF(l.TABLE_NAME = '', l.LOCK_TYPE, CONCAT(l.TABLE_SCHEMA, '.', l.TABLE_NAME)), \
            IFNULL(CONCAT(' (', p.COMMAND, ' ', p.TIME, ' s', IFNULL(CONCAT(': ', LEFT(p.INFO, 80)), ''), ')'), '')) \
            FROM information_schema.METADATA_LOCK_INFO l LEFT JOIN information_schema.PROCESSLIST p \
            ON p.ID = l.THREAD_ID WHERE l.THREAD_ID <> CONNECTION_ID() \
            AND (l.LOCK_TYPE LIKE 'Backup%' OR l.LOCK_MODE IN ('MDL_EXCLUSIVE', 'MDL_SHARED_NO_READ_WRITE', \
            'MDL_SHARED_UPGRADABLE', 'MDL_SHARED_WRITE')) ORDER BY l.LOCK_TYPE LIKE 'Backup%' DESC, p.TIME DESC LIMIT 3",
        );
        let running = || {
            self.query(
                c"SELECT CONCAT('connection ', ID, ' of ', USER, ' (', COMMAND, ' ', TIME, ' s', \
                IFNULL(CONCAT(': ', LEFT(INFO, 80)), ''), ')') FROM information_schema.PROCESSLIST \
                WHERE ID <> CONNECTION_ID() AND ID <> 0 AND COMMAND NOT IN ('Sleep', 'Daemon', 'Binlog Dump') \
                AND IFNULL(INFO, '') NOT LIKE '%tokudb_backup_dir%' ORDER BY TIME_MS DESC LIMIT 3",
            )
        };
        let idle = || {
            self.query(
                c"SELECT CONCAT('no statement, so LOCK TABLES or BACKUP LOCK of an idle connection: ', \
                GROUP_CONCAT(ID ORDER BY ID SEPARATOR ', '), \
                '; INSTALL SONAME ''metadata_lock_info'' shows which') FROM information_schema.PROCESSLIST \
                WHERE ID <> CONNECTION_ID() AND COMMAND = 'Sleep'",
            )
        };
        locks.or_else(running).or_else(idle).unwrap_or_else(|| "no session that could be seen".to_owned())
    }
}
