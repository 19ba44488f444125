//! MariaDB's side of [`Server`].

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong};
use std::time::Duration;

use tokudb_backup_abi::common::Thd;

use super::mysql::SetProcInfo;
use super::replica::{self, Dialect, Replica};
use super::symbols::function;
use super::{Hold, Host, Level, Part, Server, ServerLock, mariadb_replica, mariadb_sql};
use crate::engine::error::Result;

/// `privilege_t::SUPER_ACL` (privilege.h: 1 << 15 from 10.5 to 11.8).
const SUPER_ACL: u64 = 1 << 15;
/// OPTION_TABLE_LOCK (sql_priv.h: 1 << 21 from 10.5 to 11.8).
const OPTION_TABLE_LOCK: i64 = 1 << 21;

/// A running MariaDB.
pub struct MariaDb {
    host: Host,
    kill_level: Option<unsafe extern "C" fn(Thd) -> c_int>,
    is_connected: Option<unsafe extern "C" fn(Thd) -> c_int>,
    thread_id: Option<unsafe extern "C" fn(Thd) -> c_ulong>,
    query_id: Option<unsafe extern "C" fn(Thd) -> u64>,
    test_options: Option<unsafe extern "C" fn(Thd, i64) -> c_int>,
    set_state: Option<SetProcInfo>,
    progress: Option<Progress>,
    message: Option<unsafe extern "C" fn(c_uint, *const c_char, u64)>,
    log_error: Option<unsafe extern "C" fn(*const c_char, ...)>,
    log_note: Option<unsafe extern "C" fn(*const c_char, ...)>,
    check_access: Option<unsafe extern "C" fn(Thd, u64, bool) -> bool>,
}

/// service_progress_report.h of 10.5 to 11.8.
struct Progress {
    init: unsafe extern "C" fn(Thd, c_uint),
    report: unsafe extern "C" fn(Thd, u64, u64),
    end: unsafe extern "C" fn(Thd),
}

impl MariaDb {
    /// Finds the server's functions.
    pub fn new(host: Host) -> Self {
        // SAFETY: each type is that of the function of these names (plugin.h, service_thd_wait.h, sql_acl.h, log.h,
        // service_progress_report.h of 10.5 to 11.8); thd_is_connected returns a my_bool or int: its low byte counts.
        unsafe {
            MariaDb {
                host,
                kill_level: function(&[c"thd_kill_level"]),
                is_connected: function(&[c"thd_is_connected"]),
                thread_id: function(&[c"thd_get_thread_id"]),
                query_id: function(&[c"thd_query_id"]),
                test_options: function(&[c"thd_test_options"]),
                set_state: function(&[c"set_thd_proc_info"]),
                progress: (|| {
                    Some(Progress {
                        init: function(&[c"thd_progress_init"])?,
                        report: function(&[c"thd_progress_report"])?,
                        end: function(&[c"thd_progress_end"])?,
                    })
                })(),
                message: function(&[c"my_message"]),
                log_error: function(&[c"_Z15sql_print_errorPKcz"]),
                log_note: function(&[c"_Z21sql_print_informationPKcz"]),
                check_access: function(&[c"_Z19check_global_accessP3THD11privilege_tb"]),
            }
        }
    }
}

impl Server for MariaDb {
    fn host(&self) -> &Host {
        &self.host
    }

    fn may_back_up(&self, thd: Thd) -> bool {
        // SAFETY: `thd` is the calling thread's session; `true` asks not to raise the error.
        self.check_access.is_some_and(|check| !unsafe { check(thd, SUPER_ACL, true) })
    }

    fn privilege(&self) -> &'static str {
        "SUPER"
    }

    fn interruption(&self, thd: Thd) -> Option<&'static str> {
        // SAFETY: `thd` is the calling thread's session.
        if self.kill_level.is_some_and(|level| unsafe { level(thd) } != 0) {
            return Some("the statement was killed, or the server is shutting down");
        }
        // SAFETY: as above.
        let gone = self.is_connected.is_some_and(|connected| unsafe { connected(thd) } & 0xff == 0);
        gone.then_some("the client is gone")
    }

    fn session_id(&self, thd: Thd) -> u64 {
        // SAFETY: `thd` is the calling thread's session.
        self.thread_id.map_or(0, |id| unsafe { id(thd) })
    }

    fn statement_id(&self, thd: Thd) -> Option<u64> {
        // SAFETY: `thd` is the calling thread's session.
        self.query_id.map(|id| unsafe { id(thd) })
    }

    unsafe fn set_state(&self, thd: Thd, state: *const c_char) -> *const c_char {
        let Some(set) = self.set_state else { return std::ptr::null() };
        // SAFETY: `thd` is the calling thread's session; the caller vouches for `state`; the rest is static.
        unsafe { set(thd, state, c"backup".as_ptr(), c"tokudb_backup".as_ptr(), 0) }
    }

    fn show_progress(&self, thd: Thd, part: Option<Part>) {
        let Some(progress) = &self.progress else { return };
        // SAFETY: `thd` is the calling thread's session.
        unsafe {
            match part {
                Some(Part { first, done, total }) => {
                    if first {
                        (progress.init)(thd, 1);
                    }
                    (progress.report)(thd, done.min(total), total.max(1));
                }
                None => (progress.end)(thd),
            }
        }
    }

    fn raise(&self, code: u32, message: &CStr) {
        if let Some(raise) = self.message {
            // SAFETY: the message is copied.
            unsafe { raise(code, message.as_ptr(), 0) }
        }
    }

    fn log(&self, level: Level, message: &CStr) {
        let print = match level {
            Level::Error => self.log_error,
            Level::Note => self.log_note,
        };
        if let Some(print) = print {
            // SAFETY: the format takes two strings.
            unsafe { print(c"%s: %s".as_ptr(), c"tokudb_backup".as_ptr(), message.as_ptr()) }
        }
    }

    fn can_hold(&self, thd: Thd, what: Hold) -> Result<()> {
        // SAFETY: `thd` is the calling thread's session.
        if self.test_options.is_some_and(|test| unsafe { test(thd, OPTION_TABLE_LOCK) } != 0) {
            // It would wait for itself.
            return Err(what.own_tables());
        }
        Ok(())
    }

    fn hold(
        &self,
        _thd: Thd,
        what: Hold,
        limit: Duration,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<ServerLock> {
        mariadb_sql::hold(what, limit, poll)
    }

    fn replica(
        &self,
        _thd: Thd,
        stop_for: Option<Duration>,
        poll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Replica> {
        replica::on_a_thread(mariadb_replica::open, Dialect::of(&self.host), stop_for, poll)
    }
}
