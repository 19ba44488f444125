//! SQL on MySQL 5.7 and later: in a session of our own, as the server's own account `mysql.session`, on a thread of
//! our own.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_longlong, c_uint, c_ulong, c_ulonglong, c_void};
use std::ptr::{null, null_mut};

use tokudb_backup_abi::common::Thd;
use tokudb_backup_abi::mysql_command::{COM_QUERY, CS_TEXT, CommandCallbacks, Notice, QueryData, SendField};

use super::mysql::plugin_handle;
use super::replica::{Channel, Dialect, Sql, Table, show};
use super::symbols::{address, function};
use crate::engine::error::{Error, Result};

/// `MYSQL_SESSION` (service_srv_session.h).
type Handle = *mut c_void;
type ErrorCallback = unsafe extern "C" fn(*mut c_void, c_uint, *const c_char);
type RunCommand = unsafe extern "C" fn(
    Handle,
    c_int,
    *const QueryData,
    *const c_void,
    *const CommandCallbacks,
    c_int,
    *mut c_void,
) -> c_int;

/// Why a statement failed.
pub(super) struct Refusal {
    /// The server's number for it; 0 when it ran none.
    pub code: u32,
    /// What it says.
    pub text: String,
}

/// The services, whose functions have C++ names from 8.0 on.
#[derive(Clone, Copy)]
pub(super) struct Services {
    init_thread: unsafe extern "C" fn(*const c_void) -> c_int,
    deinit_thread: unsafe extern "C" fn(),
    open: unsafe extern "C" fn(ErrorCallback, *mut c_void) -> Handle,
    close: unsafe extern "C" fn(Handle) -> c_int,
    pub attach: unsafe extern "C" fn(Handle, *mut Thd) -> c_int,
    pub detach: unsafe extern "C" fn(Handle) -> c_int,
    pub session: unsafe extern "C" fn(Handle) -> Thd,
    run: RunCommand,
    pub context: unsafe extern "C" fn(Thd, *mut *mut c_void) -> bool,
    pub set_context: unsafe extern "C" fn(Thd, *mut c_void) -> bool,
    look_up:
        unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, *const c_char, *const c_char) -> bool,
    charset: *const c_void,
}

impl Services {
    pub fn find() -> Option<Services> {
        // SAFETY: each type is that of the function of these names (service_srv_session.h, service_command.h,
        // service_security_context.h, service_srv_session_info.h of 5.7 and 8.0).
        unsafe {
            Some(Services {
                init_thread: function(&[c"_Z23srv_session_init_threadPKv", c"srv_session_init_thread"])?,
                deinit_thread: function(&[c"_Z25srv_session_deinit_threadv", c"srv_session_deinit_thread"])?,
                open: function(&[c"_Z16srv_session_openPFvPvjPKcES_", c"srv_session_open"])?,
                close: function(&[c"_Z17srv_session_closeP11Srv_session", c"srv_session_close"])?,
                attach: function(&[c"_Z18srv_session_attachP11Srv_sessionPP3THD", c"srv_session_attach"])?,
                detach: function(&[c"_Z18srv_session_detachP11Srv_session", c"srv_session_detach"])?,
                session: function(&[
                    c"_Z24srv_session_info_get_thdP11Srv_session",
                    c"srv_session_info_get_thd",
                ])?,
                run: function(&[
                    c"_Z27command_service_run_commandP11Srv_session19enum_server_commandPK8COM_DATAPK12CHARSET_INFOPK22st_command_service_cbs17cs_text_or_binaryPv",
                    c"command_service_run_command",
                ])?,
                context: function(&[
                    c"_Z24thd_get_security_contextP3THDPP16Security_context",
                    c"thd_get_security_context",
                ])?,
                set_context: function(&[
                    c"_Z24thd_set_security_contextP3THDP16Security_context",
                    c"thd_set_security_context",
                ])?,
                look_up: function(&[
                    c"_Z23security_context_lookupP16Security_contextPKcS2_S2_S2_",
                    c"security_context_lookup",
                ])?,
                charset: address(c"my_charset_utf8mb4_general_ci")?,
            })
        }
    }
}

/// A session on the thread that opened it.
pub(super) struct Session {
    pub services: Services,
    pub handle: Handle,
}

/// A session on this thread, for the state of a replica.
pub fn open() -> Result<Box<dyn Sql>> {
    Ok(Box::new(open_session()?))
}

/// A session on this thread.
pub(super) fn open_session() -> Result<Session> {
    let failed =
        |what: &str| Error::new(libc::ENOTSUP, format!("the server gave no session of our own: {what}"));
    let services = Services::find().ok_or_else(|| failed("it lacks the services for it"))?;
    let plugin = plugin_handle();
    if plugin.is_null() {
        return Err(failed("the plugin is being uninstalled"));
    }
    // SAFETY: the handle is the one of `init`, this thread is ours and new to the server; it leaves in `drop`.
    if unsafe { (services.init_thread)(plugin) } != 0 {
        return Err(failed("it does not accept the thread"));
    }
    // SAFETY: the thread is known to the server; errors are told by the statements themselves.
    let handle = unsafe { (services.open)(ignore_error, null_mut()) };
    let session = Session { services, handle };
    if handle.is_null() {
        return Err(failed("it opens none"));
    }
    let mut context = null_mut();
    // SAFETY: the session is open; the names are NUL-terminated, no address and no database are given.
    let refused = unsafe {
        let thd = (services.session)(handle);
        (services.context)(thd, &mut context)
            || context.is_null()
            || (services.look_up)(context, c"mysql.session".as_ptr(), c"localhost".as_ptr(), null(), null())
    };
    if refused {
        return Err(failed("the account 'mysql.session'@'localhost' is missing"));
    }
    Ok(session)
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: opened on this thread; the thread is not used by the server afterwards.
        unsafe {
            if !self.handle.is_null() {
                (self.services.close)(self.handle);
            }
            (self.services.deinit_thread)();
        }
    }
}

unsafe extern "C" fn ignore_error(_context: *mut c_void, _code: c_uint, _message: *const c_char) {}

/// What callbacks gather.
#[derive(Default)]
struct Gathered {
    table: Table,
    failure: Option<(u32, String)>,
}

impl Sql for Session {
    fn channels(&self, dialect: Dialect) -> Result<Vec<Channel>> {
        show(self, dialect)
    }

    fn run(&self, sql: &CStr) -> Result<Table> {
        self.query(sql).map_err(|Refusal { code, text }| {
            Error::new(libc::EIO, format!("{}: {text} ({code})", sql.to_string_lossy()))
        })
    }
}

impl Session {
    /// Runs a statement.
    pub fn query(&self, sql: &CStr) -> std::result::Result<Table, Refusal> {
        let gathered = RefCell::new(Gathered::default());
        let data = QueryData { query: sql.as_ptr(), length: sql.count_bytes() as c_uint, rest: [0; 14] };
        let Services { run, detach, charset, .. } = self.services;
        // SAFETY: the session is this thread's; statement, callbacks and context outlive the call. It leaves the
        // session attached to the thread.
        let failed = unsafe {
            let context = (&raw const gathered).cast_mut().cast();
            let failed = run(self.handle, COM_QUERY, &data, charset, &CALLBACKS, CS_TEXT, context);
            detach(self.handle);
            failed
        };
        let gathered = gathered.into_inner();
        match gathered.failure {
            Some((code, text)) => Err(Refusal { code, text }),
            None if failed != 0 => Err(Refusal { code: 0, text: "it was not run by the server".to_owned() }),
            None => Ok(gathered.table),
        }
    }
}

static CALLBACKS: CommandCallbacks = CommandCallbacks {
    start_result_metadata,
    field_metadata,
    end_result_metadata,
    start_row,
    end_row: accept,
    abort_row,
    get_client_capabilities,
    get_null,
    get_integer,
    get_longlong,
    get_others: [get_null as Notice; 5],
    get_string,
    handle_ok,
    handle_error,
    shutdown,
    connection_alive,
};

/// Works on what is gathered; no panic leaves a callback.
fn with(context: *mut c_void, change: impl FnOnce(&mut Gathered)) -> c_int {
    let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: the context is what `run` has passed, alive and used by this thread only.
        let gathered = unsafe { &*context.cast::<RefCell<Gathered>>() };
        change(&mut gathered.borrow_mut());
    }));
    c_int::from(changed.is_err())
}

unsafe extern "C" fn start_result_metadata(
    context: *mut c_void,
    _columns: c_uint,
    _flags: c_uint,
    _charset: *const c_void,
) -> c_int {
    with(context, |gathered| gathered.table = Table::default())
}

unsafe extern "C" fn field_metadata(
    context: *mut c_void,
    field: *const SendField,
    _charset: *const c_void,
) -> c_int {
    // SAFETY: the server describes a column; its name is NUL-terminated.
    let name = unsafe { CStr::from_ptr((*field).column) }.to_string_lossy().into_owned();
    with(context, |gathered| gathered.table.columns.push(name))
}

unsafe extern "C" fn end_result_metadata(_context: *mut c_void, _status: c_uint, _warnings: c_uint) -> c_int {
    0
}

unsafe extern "C" fn start_row(context: *mut c_void) -> c_int {
    with(context, |gathered| gathered.table.rows.push(Vec::new()))
}

unsafe extern "C" fn accept(_context: *mut c_void) -> c_int {
    0
}

unsafe extern "C" fn abort_row(context: *mut c_void) {
    with(context, |gathered| drop(gathered.table.rows.pop()));
}

unsafe extern "C" fn get_client_capabilities(_context: *mut c_void) -> c_ulong {
    0
}

fn add(context: *mut c_void, value: String) -> c_int {
    with(context, |gathered| {
        if let Some(row) = gathered.table.rows.last_mut() {
            row.push(value);
        }
    })
}

unsafe extern "C" fn get_null(context: *mut c_void) -> c_int {
    add(context, String::new())
}

unsafe extern "C" fn get_integer(context: *mut c_void, value: c_longlong) -> c_int {
    add(context, value.to_string())
}

unsafe extern "C" fn get_longlong(context: *mut c_void, value: c_longlong, unsigned: c_uint) -> c_int {
    add(context, if unsigned == 0 { value.to_string() } else { value.cast_unsigned().to_string() })
}

unsafe extern "C" fn get_string(
    context: *mut c_void,
    value: *const c_char,
    length: usize,
    _charset: *const c_void,
) -> c_int {
    let bytes = match value.is_null() {
        true => &[][..],
        // SAFETY: the server passes as many bytes as it says.
        false => unsafe { std::slice::from_raw_parts(value.cast::<u8>(), length) },
    };
    add(context, String::from_utf8_lossy(bytes).into_owned())
}

unsafe extern "C" fn handle_ok(
    _context: *mut c_void,
    _status: c_uint,
    _warnings: c_uint,
    _affected: c_ulonglong,
    _last: c_ulonglong,
    _message: *const c_char,
) {
}

unsafe extern "C" fn handle_error(
    context: *mut c_void,
    code: c_uint,
    message: *const c_char,
    _state: *const c_char,
) {
    let text = match message.is_null() {
        true => String::new(),
        // SAFETY: the server's message is NUL-terminated.
        false => unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned(),
    };
    with(context, |gathered| gathered.failure = Some((code, text)));
}

unsafe extern "C" fn shutdown(_context: *mut c_void, _server: c_int) {}

unsafe extern "C" fn connection_alive(_context: *mut c_void) -> bool {
    true
}
