//! Holding DDL off on MariaDB (P27): BACKUP STAGE BLOCK_DDL, on a session of our own and a thread of our own.
//!
//! The session that takes the backup cannot do it itself: the stage would have to survive whatever it executes,
//! and a server waits for it nowhere. The thread ends by itself: on release, when nobody listens any more, and on
//! panic the session's end releases the stage.

use std::ffi::{CStr, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokudb_backup_abi::common::er;
use tokudb_backup_abi::mariadb::{Connection, SqlService};

use super::symbols::{address, function};
use super::{DdlLock, timed_out};
use crate::engine::error::{Error, Result};
use crate::engine::threads;

/// Between two attempts, so that who queued behind us gets on.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the waiting session looks at KILL.
const LOOK: Duration = Duration::from_millis(50);

/// The thread that holds the stage, from the session's side. Dropping it ends the stage.
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
        // A stage that is held ends at once; an attempt that still waits ends within its second, by itself.
        if self.held
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// How many of the threads live.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread while it lives, also when it panics.
pub(super) struct Counted;

impl Counted {
    pub(super) fn new() -> Self {
        THREADS.fetch_add(1, Ordering::Relaxed);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Release);
    }
}

/// Waits until no thread of ours uses the server any more, at most for `limit`.
pub fn threads_are_gone(limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while THREADS.load(Ordering::Acquire) != 0 {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// See [`super::Server::hold_ddl`].
pub fn hold(limit: Duration, poll: &mut dyn FnMut() -> Result<()>) -> Result<DdlLock> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let (release, released) = channel();
    let (answer, answers) = channel();
    let stop = Arc::clone(&cancelled);
    let counted = Counted::new();
    let thread = threads::spawn("backup_ddl_lock", move || {
        let _counted = counted;
        run(limit, &stop, &answer, &released);
    })?;
    let mut holder = Holder { release: Some(release), thread: Some(thread), cancelled, held: false };
    loop {
        poll()?;
        match answers.recv_timeout(LOOK) {
            Ok(Ok(())) => {
                holder.held = true;
                return Ok(DdlLock::new(Box::new(holder)));
            }
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(libc::EIO, "the thread that holds DDL off ended without an answer"));
            }
        }
    }
}

/// Body of the thread: attempts until the stage is reached, then waits for the release.
fn run(limit: Duration, stop: &AtomicBool, answer: &Sender<Result<()>>, released: &Receiver<()>) {
    match Session::open().and_then(|session| reach(session, limit, stop)) {
        Ok(session) => {
            if answer.send(Ok(())).is_ok() {
                // Nothing is ever sent: the other end is dropped.
                let _ = released.recv();
            }
            session.end_stage();
        }
        Err(error) => {
            let _ = answer.send(Err(error));
        }
    }
}

fn reach(session: Session, limit: Duration, stop: &AtomicBool) -> Result<Session> {
    const STAGES: [&CStr; 3] = [c"BACKUP STAGE START", c"BACKUP STAGE FLUSH", c"BACKUP STAGE BLOCK_DDL"];
    let end = Instant::now() + limit;
    session.execute(c"SET SESSION lock_wait_timeout = 1")?;
    loop {
        if stop.load(Ordering::Acquire) {
            return Err(Error::interrupted("nobody waits for DDL to be held off any more"));
        }
        match STAGES.iter().try_for_each(|stage| session.execute(stage)) {
            Ok(()) => return Ok(session),
            Err(refusal) if refusal.errno == libc::ETIMEDOUT => session.end_stage(),
            Err(refusal) => return Err(refusal),
        }
        if Instant::now() >= end {
            return Err(timed_out(limit, &session.holders()));
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
        let missing =
            || Error::new(libc::ENOTSUP, "this server has no SQL service: SET tokudb_backup_lock=OFF");
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
        let failed = || Error::new(libc::ENOMEM, "the server gave no session to hold DDL off with");
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

    /// Runs a statement without a result. ETIMEDOUT when it waited too long for a lock.
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
        let errno = if code == er::LOCK_WAIT_TIMEOUT { libc::ETIMEDOUT } else { libc::EIO };
        let (sql, text) = (sql.to_string_lossy(), text.to_string_lossy());
        Err(Error::new(
            errno,
            format!(
                "DDL could not be held off: {sql}: {text} ({code}). SET tokudb_backup_lock=OFF if no DDL runs"
            ),
        ))
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

    /// Who may keep DDL from being held off.
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
