//! What MySQL 5.6 lets us do inside the session that takes the backup: keep errors of attempts from the client,
//! change its lock_wait_timeout, run SQL.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};

use tokudb_backup_abi::common::Thd;
use tokudb_backup_abi::mysql_5_6::{
    EdConnection, InternalErrorHandler, InternalErrorHandlerTable, LexString, OPT_SESSION,
};

use super::symbols::function;
use super::{Flavour, Host};

/// Whether the host is one whose C++ objects are laid out as `abi::mysql_5_6` says.
pub fn is_known(host: &Host) -> bool {
    host.flavour == Flavour::MySql && (50600..50700).contains(&host.version_id)
}

/// While it lives, what the session raises is swallowed: failed attempts are not the statement's failure.
pub struct Silence {
    handler: Box<InternalErrorHandler>,
    thd: Thd,
    pop: unsafe extern "C" fn(Thd) -> *mut InternalErrorHandler,
}

static TABLE: InternalErrorHandlerTable =
    InternalErrorHandlerTable { destructors: [leave_alone, leave_alone], handle_condition: swallow };

unsafe extern "C" fn leave_alone(_this: *mut InternalErrorHandler) {}

unsafe extern "C" fn swallow(
    _this: *mut InternalErrorHandler,
    _thd: Thd,
    _code: c_uint,
    _sqlstate: *const c_char,
    _level: c_int,
    _message: *const c_char,
    _condition: *mut *mut c_void,
) -> bool {
    true
}

impl Silence {
    /// Begins the silence; handlers nest, so it must end before any that was begun earlier.
    pub fn of(thd: Thd, host: &Host) -> Option<Silence> {
        if !is_known(host) {
            return None;
        }
        type Push = unsafe extern "C" fn(Thd, *mut InternalErrorHandler);
        // SAFETY: both are methods of THD with these parameters in sql_class.h of 5.6.24.
        let (push, pop): (Push, _) = unsafe {
            (
                function(&[c"_ZN3THD21push_internal_handlerEP22Internal_error_handler"])?,
                function(&[c"_ZN3THD20pop_internal_handlerEv"])?,
            )
        };
        let mut handler = Box::new(InternalErrorHandler { table: &TABLE, previous: std::ptr::null_mut() });
        // SAFETY: the session is the calling thread's; the handler stays where it is until it is popped in `drop`.
        unsafe { push(thd, &mut *handler) };
        Some(Silence { handler, thd, pop })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // SAFETY: ours is the innermost handler, by the rule of `of`.
        let popped = unsafe { (self.pop)(self.thd) };
        debug_assert!(std::ptr::eq(popped, &*self.handler));
    }
}

/// Address of the session's own lock_wait_timeout, in seconds.
pub fn lock_wait_timeout(thd: Thd) -> Option<*mut c_ulong> {
    type Find = unsafe extern "C" fn(*const c_char, c_uint) -> *mut c_void;
    type ValuePointer = unsafe extern "C" fn(*mut c_void, Thd, c_int, *const LexString) -> *mut c_ulong;
    // SAFETY: `intern_find_sys_var(const char *, uint)` and `sys_var::value_ptr(THD *, enum_var_type, LEX_STRING *)`
    // of set_var.h of 5.6.24.
    let (find, value): (Find, ValuePointer) = unsafe {
        (
            function(&[c"_Z19intern_find_sys_varPKcj"])?,
            function(&[c"_ZN7sys_var9value_ptrEP3THD13enum_var_typeP19st_mysql_lex_string"])?,
        )
    };
    let name = c"lock_wait_timeout";
    // SAFETY: built-in variables are never removed from the server's table.
    let variable = unsafe { find(name.as_ptr(), name.count_bytes() as c_uint) };
    if variable.is_null() {
        return None;
    }
    let no_base = LexString { str: std::ptr::null(), length: 0 };
    // SAFETY: `variable` is a Sys_var_ulong, whose session value lives in the THD of the calling thread.
    let address = unsafe { value(variable, thd, OPT_SESSION, &no_base) };
    (!address.is_null()).then_some(address)
}

/// Runs a statement inside the session, as its user, and forgets its result; what it raises is swallowed. False
/// when it failed.
pub fn execute(thd: Thd, host: &Host, sql: &CStr) -> bool {
    execute_then(thd, host, sql, |_| {})
}

/// The same, and lets `look` read the result of a statement that succeeded.
pub fn execute_then(thd: Thd, host: &Host, sql: &CStr, look: impl FnOnce(&EdConnection)) -> bool {
    type Construct = unsafe extern "C" fn(*mut EdConnection, Thd);
    type Execute = unsafe extern "C" fn(*mut EdConnection, LexString) -> bool;
    type Free = unsafe extern "C" fn(*mut EdConnection);
    // SAFETY: constructor and methods of Ed_connection (sql_prepare.h of 5.6.24).
    let found: Option<(Construct, Execute, Free)> = unsafe {
        (|| {
            Some((
                function(&[c"_ZN13Ed_connectionC1EP3THD"])?,
                function(&[c"_ZN13Ed_connection14execute_directE19st_mysql_lex_string"])?,
                function(&[c"_ZN13Ed_connection15free_old_resultEv"])?,
            ))
        })()
    };
    let Some((construct, execute, free)) = found else { return false };
    let Some(_silence) = Silence::of(thd, host) else { return false };
    // SAFETY: bytes may be zero.
    let mut connection: Box<EdConnection> = unsafe { Box::new(std::mem::zeroed()) };
    let sql = LexString { str: sql.as_ptr(), length: sql.count_bytes() };
    // SAFETY: the room is larger than an Ed_connection and stays where it is; the session is the calling thread's;
    // the statement is copied before it is parsed.
    unsafe {
        construct(&mut *connection, thd);
        let failed = execute(&mut *connection, sql);
        if !failed {
            look(&connection);
        }
        free(&mut *connection);
        !failed
    }
}

/// A user variable of the calling thread's session; `None` where it is not set or NULL.
pub fn user_variable(name: &CStr) -> Option<String> {
    type Get = unsafe extern "C" fn(*const c_char, *mut c_char, usize, c_uint, *mut c_int) -> c_int;
    // SAFETY: `get_user_var_str` of replication.h (5.5 to 9.7).
    let get: Get = unsafe { function(&[c"get_user_var_str"])? };
    let (mut text, mut is_null) = ([0 as c_char; 2048], 0);
    // SAFETY: the function writes at most the length that it is given, NUL included.
    let failed = unsafe { get(name.as_ptr(), text.as_mut_ptr(), text.len(), 0, &mut is_null) } != 0;
    if failed || is_null != 0 {
        return None;
    }
    // SAFETY: NUL-terminated within the array, whose last byte the function may not pass.
    Some(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}
