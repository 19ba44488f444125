//! MySQL 5.7 and later: the command service, by which a plugin runs SQL in a session of its own; and the backup lock.

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_ulong, c_ulonglong, c_void};
use std::mem::offset_of;

use static_assertions::{assert_eq_size, const_assert_eq};

use crate::common::Thd;

/// `COM_QUERY` of `enum_server_command` (my_command.h).
pub const COM_QUERY: c_int = 3;
/// `CS_TEXT_REPRESENTATION` of `cs_text_or_binary` (service_command.h): every value comes as a string.
pub const CS_TEXT: c_int = 1;

/// `COM_DATA` (com_data.h) with a `COM_QUERY_DATA` in it, and room for the longest member.
#[repr(C)]
#[derive(Debug)]
pub struct QueryData {
    /// The statement; need not end with a NUL.
    pub query: *const c_char,
    /// Its bytes.
    pub length: c_uint,
    /// Parameters, of which there are none: zero.
    pub rest: [u64; 14],
}

assert_eq_size!(QueryData, [u8; 128]);
const_assert_eq!(offset_of!(QueryData, query), 0);
const_assert_eq!(offset_of!(QueryData, length), 8);

/// The beginning of `st_send_field` (service_command.h): names of a column.
#[repr(C)]
#[derive(Debug)]
pub struct SendField {
    /// Database, table, and table behind an alias.
    pub places: [*const c_char; 3],
    /// The column's name in the result.
    pub column: *const c_char,
}

const_assert_eq!(offset_of!(SendField, column), 24);

/// A callback that only says that it was called.
pub type Notice = unsafe extern "C" fn(*mut c_void) -> c_int;

/// `st_command_service_cbs` (service_command.h of 5.7; 8.0.2x added the last). Each gets the context first; non-zero
/// ends the statement.
#[repr(C)]
#[derive(Debug)]
pub struct CommandCallbacks {
    /// Before the columns: their number, flags, character set.
    pub start_result_metadata: unsafe extern "C" fn(*mut c_void, c_uint, c_uint, *const c_void) -> c_int,
    /// A column.
    pub field_metadata: unsafe extern "C" fn(*mut c_void, *const SendField, *const c_void) -> c_int,
    /// After the columns: status of the server, number of warnings.
    pub end_result_metadata: unsafe extern "C" fn(*mut c_void, c_uint, c_uint) -> c_int,
    /// Before a row.
    pub start_row: Notice,
    /// After a row.
    pub end_row: Notice,
    /// The row is to be forgotten.
    pub abort_row: unsafe extern "C" fn(*mut c_void),
    /// `CLIENT_*` of the client.
    pub get_client_capabilities: unsafe extern "C" fn(*mut c_void) -> c_ulong,
    /// A NULL.
    pub get_null: Notice,
    /// A small integer, which some statements send so even with [`CS_TEXT`].
    pub get_integer: unsafe extern "C" fn(*mut c_void, c_longlong) -> c_int,
    /// An integer, and whether it is unsigned.
    pub get_longlong: unsafe extern "C" fn(*mut c_void, c_longlong, c_uint) -> c_int,
    /// get_decimal, get_double, get_date, get_time, get_datetime: further arguments come behind the context.
    pub get_others: [Notice; 5],
    /// A value: its bytes, their number, their character set.
    pub get_string: unsafe extern "C" fn(*mut c_void, *const c_char, usize, *const c_void) -> c_int,
    /// The statement has succeeded: status, warnings, rows changed, last number, message.
    pub handle_ok: unsafe extern "C" fn(*mut c_void, c_uint, c_uint, c_ulonglong, c_ulonglong, *const c_char),
    /// It has failed: number, message, SQL state.
    pub handle_error: unsafe extern "C" fn(*mut c_void, c_uint, *const c_char, *const c_char),
    /// The server shuts down.
    pub shutdown: unsafe extern "C" fn(*mut c_void, c_int),
    /// Whether the client is still there.
    pub connection_alive: unsafe extern "C" fn(*mut c_void) -> bool,
}

assert_eq_size!(CommandCallbacks, [u8; 160]);
const_assert_eq!(offset_of!(CommandCallbacks, get_client_capabilities), 48);
const_assert_eq!(offset_of!(CommandCallbacks, get_null), 56);
const_assert_eq!(offset_of!(CommandCallbacks, get_string), 120);
const_assert_eq!(offset_of!(CommandCallbacks, handle_ok), 128);
const_assert_eq!(offset_of!(CommandCallbacks, connection_alive), 152);

/// `s_mysql_registry` (components/services/registry.h): services by their names.
#[repr(C)]
#[derive(Debug)]
pub struct Registry {
    /// Finds a service and holds it; true is failure.
    pub acquire: unsafe extern "C" fn(name: *const c_char, service: *mut *mut c_void) -> bool,
    /// Finds another implementation.
    pub acquire_related: *const c_void,
    /// Lets a service go.
    pub release: unsafe extern "C" fn(service: *mut c_void) -> bool,
}

assert_eq_size!(Registry, [u8; 24]);
const_assert_eq!(offset_of!(Registry, acquire), 0);
const_assert_eq!(offset_of!(Registry, release), 16);

/// `mysql_backup_lock` (components/services/mysql_backup_lock.h), what LOCK INSTANCE FOR BACKUP takes.
#[repr(C)]
#[derive(Debug)]
pub struct BackupLock {
    /// Session, kind of lock (0), time to wait: in seconds or, from some version on, nanoseconds. True is failure.
    pub acquire: unsafe extern "C" fn(Thd, c_int, wait: c_ulong) -> bool,
    /// Lets go.
    pub release: unsafe extern "C" fn(Thd) -> bool,
}

assert_eq_size!(BackupLock, [u8; 16]);
const_assert_eq!(offset_of!(BackupLock, acquire), 0);
const_assert_eq!(offset_of!(BackupLock, release), 8);
