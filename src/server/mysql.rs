//! MySQL's side of [`Server`].

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use tokudb_backup_abi::common::Thd;
use tokudb_backup_abi::mysql::log_level;

use super::mysql_5_6::GlobalReadLocks;
use super::mysql_rows::OwnSession;
use super::mysql_session::Silence;
use super::replica::{self, Dialect, Replica};
use super::symbols::function;
use super::{Hold, Host, Level, Server, ServerLock, mysql_8, mysql_command};
use crate::engine::error::{Error, Result};

/// SUPER_ACL (auth_acls.h, sql_acl.h: 1 << 15 in all versions).
const SUPER_ACL: c_ulong = 1 << 15;
/// OPTION_TABLE_LOCK (sql_const.h, sql_priv.h: 1 << 21 in all versions).
const OPTION_TABLE_LOCK: i64 = 1 << 21;

/// The server's `st_plugin_int *` of us, as `init` received it: my_plugin_log_message wants it.
static PLUGIN: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Remembers the handle that `init` was called with; null forgets it.
pub fn remember_plugin(handle: *mut c_void) {
    PLUGIN.store(handle, Ordering::Release);
}

/// The handle; null when there is none.
pub(super) fn plugin_handle() -> *mut c_void {
    PLUGIN.load(Ordering::Acquire)
}

/// A running MySQL.
pub struct MySql {
    host: Host,
    killed: Option<unsafe extern "C" fn(Thd) -> c_int>,
    thread_id: Option<unsafe extern "C" fn(Thd) -> c_ulong>,
    test_options: Option<unsafe extern "C" fn(Thd, i64) -> c_int>,
    descriptor: Option<unsafe extern "C" fn(Thd) -> c_int>,
    has_connection: Option<unsafe extern "C" fn(Thd) -> u8>,
    is_classic: Option<unsafe extern "C" fn(Thd) -> u8>,
    set_state: Option<SetProcInfo>,
    message: Option<unsafe extern "C" fn(c_uint, *const c_char, u64)>,
    log: Option<unsafe extern "C" fn(*mut *mut c_void, c_int, *const c_char, ...) -> c_int>,
    check_access: Option<unsafe extern "C" fn(Thd, c_ulong) -> bool>,
    security_context: Option<unsafe extern "C" fn(Thd, *mut *mut c_void) -> bool>,
    security_option: Option<unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_void) -> bool>,
    global_grant: Option<GlobalGrant>,
}

/// `set_thd_proc_info(THD *, const char *info, const char *function, const char *file, unsigned line)`.
pub(super) type SetProcInfo =
    unsafe extern "C" fn(Thd, *const c_char, *const c_char, *const c_char, c_uint) -> *const c_char;

/// `Security_context::has_global_grant(const char *, size_t)` returns `std::pair<bool, bool>`: granted in the low
/// byte, with grant option in the next.
type GlobalGrant = unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> u16;

impl MySql {
    /// Finds the server's functions.
    pub fn new(host: Host) -> Self {
        // SAFETY: each type is that of the function of these names (plugin.h, sql_class.h, sql_acl.h, my_sys.h,
        // service_security_context.h, service_my_plugin_log.h of 5.6.24 and 9.7). The flags of my_message are an
        // int or a ulong by version: 64 zero bits are either.
        unsafe {
            MySql {
                host,
                killed: function(&[c"thd_killed"]),
                thread_id: function(&[c"thd_get_thread_id"]),
                test_options: function(&[c"thd_test_options"]),
                descriptor: function(&[c"_Z10thd_get_fdP3THD"]),
                has_connection: function(&[
                    c"_Z20thd_connection_aliveP3THD",
                    c"_Z23thd_is_connection_aliveP3THD",
                ]),
                is_classic: function(&[c"_ZNK3THD19is_classic_protocolEv"]),
                set_state: function(&[c"set_thd_proc_info"]),
                message: function(&[c"my_message", c"_Z10my_messagejPKci"]),
                log: function(&[
                    c"my_plugin_log_message",
                    c"_Z21my_plugin_log_messagePPv16plugin_log_levelPKcz",
                ]),
                check_access: function(&[c"_Z19check_global_accessP3THDm", c"_Z19check_global_accessP3THDj"]),
                security_context: function(&[
                    c"_Z24thd_get_security_contextP3THDPP16Security_context",
                    c"thd_get_security_context",
                ]),
                security_option: function(&[
                    c"_Z27security_context_get_optionP16Security_contextPKcPv",
                    c"security_context_get_option",
                ]),
                global_grant: function(&[c"_ZN16Security_context16has_global_grantEPKcm"]),
            }
        }
    }

    /// The session's socket, if it has one. An event has none, nor has `init_file`; a session of the X plugin has one
    /// that the server does not know. `thd_get_fd` looks into a connection of the classic protocol without asking
    /// whether there is one.
    fn socket(&self, thd: Thd) -> Option<c_int> {
        let (descriptor, has_connection) = (self.descriptor?, self.has_connection?);
        // Before 5.7 there is no other protocol.
        if self.host.version_id >= 50700 {
            // SAFETY: `thd` is the calling thread's session; a method without arguments that returns a bool.
            let classic = self.is_classic.is_some_and(|classic| unsafe { classic(thd) } != 0);
            if !classic {
                return None;
            }
        }
        // SAFETY: as above, of a session with the classic protocol; it looks at nothing but whether there is a
        // connection.
        let connected = unsafe { has_connection(thd) } != 0;
        // SAFETY: as above, with a connection.
        connected.then(|| unsafe { descriptor(thd) }).filter(|&descriptor| descriptor >= 0)
    }

    /// Asks the session's security context (5.7 and later); `None` where there is none.
    fn context_allows(&self, thd: Thd) -> Option<bool> {
        let (context_of, option_of) = (self.security_context?, self.security_option?);
        let mut context = std::ptr::null_mut();
        // SAFETY: `thd` is the calling thread's session; the function fills `context`.
        if unsafe { context_of(thd, &mut context) } || context.is_null() {
            return None;
        }
        if let Some(has_global_grant) = self.global_grant {
            let name = c"BACKUP_ADMIN";
            // SAFETY: `context` is the session's; the name is as long as said.
            if unsafe { has_global_grant(context, name.as_ptr(), name.count_bytes()) } & 0xff != 0 {
                return Some(true);
            }
        }
        // The option is a bool behind a void pointer: eight bytes are room enough.
        let mut answer = [0u8; 8];
        // SAFETY: as above; "privilege_super" is a bool (service_security_context.h).
        let failed = unsafe { option_of(context, c"privilege_super".as_ptr(), answer.as_mut_ptr().cast()) };
        (!failed).then_some(answer[0] != 0)
    }
}

impl Server for MySql {
    fn host(&self) -> &Host {
        &self.host
    }

    fn may_back_up(&self, thd: Thd) -> bool {
        if let Some(allowed) = self.context_allows(thd) {
            return allowed;
        }
        // Before 5.7. It raises 1227 itself when the privilege is missing.
        let Some(check) = self.check_access else { return false };
        let Some(_silence) = Silence::of(thd, &self.host) else { return false };
        // SAFETY: `thd` is the calling thread's session.
        !unsafe { check(thd, SUPER_ACL) }
    }

    fn privilege(&self) -> &'static str {
        if self.global_grant.is_some() { "SUPER or BACKUP_ADMIN" } else { "SUPER" }
    }

    fn interruption(&self, thd: Thd) -> Option<&'static str> {
        // SAFETY: `thd` is the calling thread's session.
        if self.killed.is_some_and(|killed| unsafe { killed(thd) } != 0) {
            return Some("the statement was killed, or the server is shutting down");
        }
        self.socket(thd).is_some_and(hung_up).then_some("the client is gone")
    }

    fn session_id(&self, thd: Thd) -> u64 {
        // SAFETY: `thd` is the calling thread's session.
        self.thread_id.map_or(0, |id| unsafe { id(thd) })
    }

    fn statement_id(&self, _thd: Thd) -> Option<u64> {
        None
    }

    unsafe fn set_state(&self, thd: Thd, state: *const c_char) -> *const c_char {
        let Some(set) = self.set_state else { return std::ptr::null() };
        // SAFETY: `thd` is the calling thread's session; the caller vouches for `state`; the rest is static.
        unsafe { set(thd, state, c"backup".as_ptr(), c"tokudb_backup".as_ptr(), 0) }
    }

    fn raise(&self, code: u32, message: &CStr) {
        if let Some(raise) = self.message {
            // SAFETY: the message is copied.
            unsafe { raise(code, message.as_ptr(), 0) }
        }
    }

    fn log(&self, level: Level, message: &CStr) {
        let mut plugin = PLUGIN.load(Ordering::Acquire);
        let Some(log) = self.log else { return };
        if plugin.is_null() {
            return;
        }
        let level = match level {
            Level::Error => log_level::ERROR,
            // From 8.0 on log_error_verbosity leaves notes out by default, and a backup must be seen in the log.
            Level::Note if self.host.version_id >= 80000 => log_level::WARNING,
            Level::Note => log_level::INFORMATION,
        };
        // SAFETY: the handle is what `init` was given and is forgotten in `deinit`; the format takes one string.
        unsafe { log(&mut plugin, level, c"%s".as_ptr(), message.as_ptr()) };
    }

    fn can_hold(&self, thd: Thd, what: Hold) -> Result<()> {
        // SAFETY: `thd` is the calling thread's session.
        let locked = self.test_options.is_some_and(|test| unsafe { test(thd, OPTION_TABLE_LOCK) } != 0);
        if what == Hold::Everything && locked {
            return Err(what.own_tables());
        }
        if GlobalReadLocks::of(&self.host).is_some() {
            return Ok(());
        }
        if !self.host.has_atomic_ddl() {
            let text = format!("{} on {}: {}", what.failure(), self.host.name(), what.otherwise());
            return Err(Error::new(libc::ENOTSUP, text));
        }
        match what {
            Hold::Ddl => Ok(()),
            Hold::Everything => mysql_8::may_flush(thd),
        }
    }

    fn hold(
        &self,
        thd: Thd,
        what: Hold,
        limit: Duration,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<ServerLock> {
        match GlobalReadLocks::of(&self.host) {
            Some(locks) => locks.hold(thd, what, limit, poll),
            None => mysql_8::hold(thd, self.session_id(thd), what, limit, poll),
        }
    }

    fn replica(
        &self,
        thd: Thd,
        stop_for: Option<Duration>,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Replica> {
        let dialect = Dialect::of(&self.host);
        if self.host.version_id >= 50700 {
            return replica::on_a_thread(mysql_command::open, dialect, stop_for, poll);
        }
        let session = OwnSession { thd, host: self.host };
        if stop_for.is_some() {
            session.refuse_in_transaction()?;
        }
        replica::in_session(session, dialect, stop_for, poll)
    }
}

/// Whether the other end of a connection is closed.
fn hung_up(descriptor: c_int) -> bool {
    let mut watched = libc::pollfd { fd: descriptor, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd of ours, and no waiting.
    let ready = unsafe { libc::poll(&mut watched, 1, 0) };
    ready > 0 && watched.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}
