//! Holding off on MySQL 8.0 and later: its backup lock for DDL; FLUSH TABLES WITH READ LOCK before it for everything.
//! Both on a session of our own, so that the user's transaction is not touched.
//!
//! A FLUSH TABLES that is given up makes every statement on a table in use wait until those end that used it. So none
//! is begun while a statement that is older than a second uses a table, or a LOCK TABLES stands: then nobody queues.

use std::ffi::{CStr, CString, c_int, c_ulong, c_void};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokudb_backup_abi::common::{Thd, er};
use tokudb_backup_abi::mysql_command::{BackupLock, Registry};

use super::hold::{Hold, PAUSE, ServerLock, by_thread, still_wanted};
use super::mysql_command::{Refusal, Session, open_session};
use super::mysql_rights::{Rights, attached};
use super::symbols::{function, sql};
use crate::engine::error::{Error, Result};

/// RELOAD_ACL (auth_acls.h: 1 << 6 in all versions).
const RELOAD_ACL: u64 = 1 << 6;
/// An acquisition that fails sooner than this took its wait for nanoseconds.
const NOT_A_SECOND: Duration = Duration::from_millis(200);

fn unavailable(what: Hold) -> Error {
    let text =
        format!("{}: this server does not offer what that needs; {}", what.failure(), what.otherwise());
    Error::new(libc::ENOTSUP, text)
}

fn open(what: Hold) -> Result<Session> {
    open_session().map_err(|error| {
        let text = format!("{}: {}; {}", what.failure(), error.message, what.otherwise());
        Error::new(error.errno, text)
    })
}

/// Whether the session's user may run FLUSH TABLES WITH READ LOCK.
pub fn may_flush(thd: Thd) -> Result<()> {
    type Grant = unsafe extern "C" fn(*mut c_void, *const std::ffi::c_char, usize) -> u16;
    type Check = unsafe extern "C" fn(Thd, u64) -> bool;
    let what = Hold::Everything;
    let rights = Rights::of(thd).ok_or_else(|| unavailable(what))?;
    // SAFETY: `Security_context::has_global_grant` and `check_global_access(THD *, Access_bitmask)`: the mask is an
    // unsigned int in 9.7 and was a ulong before; 64 bits are either.
    let (grant, check): (Option<Grant>, Option<Check>) = unsafe {
        (
            function(&[c"_ZN16Security_context16has_global_grantEPKcm"]),
            function(&[c"_Z19check_global_accessP3THDj", c"_Z19check_global_accessP3THDm"]),
        )
    };
    let (Some(grant), Some(check)) = (grant, check) else { return Err(unavailable(what)) };
    let name = c"FLUSH_TABLES";
    // SAFETY: the context is a copy of ours; the name is as long as said.
    if unsafe { grant(rights.context(), name.as_ptr(), name.count_bytes()) } & 0xff != 0 {
        return Ok(());
    }
    // On a session of our own, since the check raises its error in the session that it asks about.
    by_thread(&mut || Ok(()), move |_| {
        let session = open(what)?;
        // SAFETY: the session is this thread's while it is attached.
        let refused =
            rights.lend(&session, |session| attached(session, |own| unsafe { check(own, RELOAD_ACL) }));
        match refused.flatten() {
            Some(false) => Ok(()),
            Some(true) => Err(not_granted()),
            None => Err(unavailable(what)),
        }
    })
    .map(drop)
}

fn not_granted() -> Error {
    let text = "the server could not be brought to rest: tokudb_backup_lock=ALL runs FLUSH TABLES WITH READ LOCK, for \
                which you need (at least one of) the RELOAD or FLUSH_TABLES privilege(s): GRANT FLUSH_TABLES ON *.* \
                to this account, or SET tokudb_backup_lock=AUTO, with which tables without a log are as after a crash";
    Error::new(libc::EPERM, text)
}

/// See [`super::Server::hold`]; `backup` is the number of the session.
pub fn hold(
    thd: Thd,
    backup: u64,
    what: Hold,
    limit: Duration,
    poll: &mut dyn FnMut() -> Result<()>,
) -> Result<ServerLock> {
    let rights = Rights::of(thd).ok_or_else(|| unavailable(what))?;
    by_thread(poll, move |stop| {
        let session = open(what)?;
        let lock = InstanceLock::find().ok_or_else(|| unavailable(what))?;
        Held { session, rights, lock, instance: false, tables: false }.reach(what, backup, limit, stop)
    })
}

type ReleaseRegistry = unsafe extern "C" fn(*const Registry) -> c_int;

/// The service of the backup lock.
struct InstanceLock {
    registry: &'static Registry,
    release_registry: ReleaseRegistry,
    service: &'static BackupLock,
    second: c_ulong,
}

impl InstanceLock {
    fn find() -> Option<InstanceLock> {
        type Acquire = unsafe extern "C" fn() -> *const Registry;
        // SAFETY: functions of service_plugin_registry.h.
        let (acquire, release_registry): (Acquire, ReleaseRegistry) = unsafe {
            (
                function(&[c"_Z29mysql_plugin_registry_acquirev", c"mysql_plugin_registry_acquire"])?,
                function(&[
                    c"_Z29mysql_plugin_registry_releasePK16s_mysql_registry",
                    c"mysql_plugin_registry_release",
                ])?,
            )
        };
        // SAFETY: the registry and the service live until they are released, in `drop`.
        unsafe {
            let registry = acquire().as_ref()?;
            let mut service: *mut c_void = std::ptr::null_mut();
            if (registry.acquire)(c"mysql_backup_lock".as_ptr(), &mut service) || service.is_null() {
                release_registry(registry);
                return None;
            }
            Some(InstanceLock { registry, release_registry, service: &*service.cast(), second: 1 })
        }
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // SAFETY: acquired in `find`.
        unsafe {
            (self.registry.release)(std::ptr::from_ref(self.service).cast_mut().cast());
            (self.release_registry)(self.registry);
        }
    }
}

/// What is held. Dropping it releases.
struct Held {
    session: Session,
    rights: Rights,
    lock: InstanceLock,
    instance: bool,
    tables: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// Connections that keep a lock from being got, by a condition on `m` (metadata_locks) and `t` (threads).
macro_rules! holders {
    ($condition:literal) => {
        concat!(
            "SELECT /* tokudb_backup */ CONCAT('connection ', t.PROCESSLIST_ID, ' of ', IFNULL(t.PROCESSLIST_USER, '?'), \
             ' holds ', MIN(m.LOCK_TYPE), ' on ', MIN(IF(m.OBJECT_NAME IS NULL, m.OBJECT_TYPE, \
             CONCAT(m.OBJECT_SCHEMA, '.', m.OBJECT_NAME))), ' (', t.PROCESSLIST_COMMAND, ' ', t.PROCESSLIST_TIME, ' s', \
             IFNULL(CONCAT(': ', LEFT(t.PROCESSLIST_INFO, 80)), ''), ')') FROM performance_schema.metadata_locks m \
             JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID WHERE m.LOCK_STATUS = 'GRANTED' AND \
             t.PROCESSLIST_ID <> @backup AND (",
            $condition,
            ") GROUP BY t.THREAD_ID, t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_COMMAND, t.PROCESSLIST_TIME, \
             t.PROCESSLIST_INFO ORDER BY t.PROCESSLIST_TIME DESC LIMIT 3\0"
        )
    };
}

/// Who holds DDL's side of the backup lock.
const IN_DDL: &CStr = sql(holders!("m.OBJECT_TYPE = 'BACKUP LOCK'"));
/// Who would keep FLUSH TABLES WITH READ LOCK waiting for longer than a second; a replica's time is its lag.
const IN_THE_WAY: &CStr = sql(holders!(
    "m.OBJECT_TYPE = 'TABLE' AND (m.LOCK_TYPE IN ('SHARED_READ_ONLY', 'SHARED_NO_READ_WRITE') OR \
     t.PROCESSLIST_COMMAND <> 'Sleep' AND t.PROCESSLIST_TIME >= 2 AND t.NAME NOT LIKE '%replica%' AND t.NAME NOT LIKE \
     '%slave%')"
));
/// Who may keep it waiting at all.
const POSSIBLY: &CStr = sql(holders!(
    "m.OBJECT_TYPE IN ('BACKUP LOCK', 'GLOBAL', 'COMMIT') OR m.OBJECT_TYPE = 'TABLE' AND t.PROCESSLIST_COMMAND <> 'Sleep'"
));

impl Held {
    fn reach(mut self, what: Hold, backup: u64, limit: Duration, stop: &AtomicBool) -> Result<Held> {
        let end = Instant::now() + limit;
        // The session that takes the backup may be in a transaction and have locks of tables, but none open.
        let prepare = format!("SET SESSION lock_wait_timeout = 1, @backup = {backup}");
        self.session.query(&CString::new(prepare).unwrap_or_default()).map_err(|refusal| {
            Error::new(libc::EIO, format!("{}: {} ({})", what.failure(), refusal.text, refusal.code))
        })?;
        loop {
            still_wanted(stop)?;
            if self.attempt(what)? {
                return Ok(self);
            }
            self.release();
            if Instant::now() >= end {
                return Err(what.timed_out(limit, &self.holders(what)));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// One attempt of a second for each lock, in the order in which statements take them: DDL that has the global lock
    /// already would meet us in a circle otherwise, and fail.
    fn attempt(&mut self, what: Hold) -> Result<bool> {
        Ok((what == Hold::Ddl || self.flush()?) && self.lock_instance())
    }

    fn flush(&mut self) -> Result<bool> {
        if self.who(IN_THE_WAY).is_some() {
            return Ok(false);
        }
        // One that could not close all tables in time fails and keeps the global lock all the same.
        self.tables = true;
        let flush = |session: &Session| session.query(c"FLUSH TABLES WITH READ LOCK");
        let lost = || Err(Refusal { code: 0, text: "the session got no rights".to_owned() });
        match self.rights.lend(&self.session, flush).unwrap_or_else(lost) {
            Ok(_) => Ok(true),
            Err(refusal) if matches!(refusal.code, er::LOCK_WAIT_TIMEOUT | er::LOCK_DEADLOCK) => Ok(false),
            Err(refusal) if refusal.code == er::SPECIFIC_ACCESS_DENIED => Err(not_granted()),
            Err(refusal) => {
                let (text, code) = (refusal.text, refusal.code);
                let (failure, otherwise) = (Hold::Everything.failure(), Hold::Everything.otherwise());
                let text = format!("{failure}: FLUSH TABLES WITH READ LOCK: {text} ({code}). {otherwise}");
                Err(Error::new(libc::EIO, text))
            }
        }
    }

    fn lock_instance(&mut self) -> bool {
        let begin = Instant::now();
        let (service, second) = (self.lock.service, self.lock.second);
        // SAFETY: the session is this thread's while it is attached.
        let refused = attached(&self.session, |own| unsafe { (service.acquire)(own, 0, second) });
        self.instance = refused == Some(false);
        if !self.instance && second == 1 && begin.elapsed() < NOT_A_SECOND {
            self.lock.second = 1_000_000_000;
        }
        self.instance
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.tables) {
            // What it may refuse: the end of the session, in which the locks end, too.
            let _ = self.session.query(c"UNLOCK TABLES");
        }
        if std::mem::take(&mut self.instance) {
            let service = self.lock.service;
            // SAFETY: the session is this thread's while it is attached, and holds the lock.
            attached(&self.session, |own| unsafe { (service.release)(own) });
        }
    }

    fn who(&self, sql: &CStr) -> Option<String> {
        let rows = self.session.query(sql).ok()?.rows;
        (!rows.is_empty()).then(|| rows.concat().join("; "))
    }

    fn holders(&self, what: Hold) -> String {
        let known = match what {
            Hold::Ddl => self.who(IN_DDL),
            Hold::Everything => self.who(IN_THE_WAY).or_else(|| self.who(POSSIBLY)),
        };
        known.unwrap_or_else(|| {
            "nobody that this server shows any more (see performance_schema.metadata_locks and SHOW PROCESSLIST)"
                .to_owned()
        })
    }
}
