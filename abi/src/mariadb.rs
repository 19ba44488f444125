//! MariaDB: `st_maria_plugin` and the SQL service.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_ulonglong, c_void};
use std::mem::offset_of;

use static_assertions::{assert_eq_size, const_assert_eq};

use crate::common::{MysqlShowVar, SysVar};
use crate::mysql::PluginFunction;

/// `MariaDB_PLUGIN_MATURITY_STABLE` (plugin.h of 10.11): a server refuses less mature ones than itself.
pub const MATURITY_STABLE: c_uint = 5;

/// `st_maria_plugin` (plugin.h of 10.5, 10.11 and 11.8), 104 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct MariaPlugin {
    /// `MYSQL_*_PLUGIN`.
    pub kind: c_int,
    /// Type's own descriptor, which begins with its interface version.
    pub info: *const c_void,
    /// Name of the plugin.
    pub name: *const c_char,
    /// Its author.
    pub author: *const c_char,
    /// What it is.
    pub descr: *const c_char,
    /// `PLUGIN_LICENSE_*`.
    pub license: c_int,
    /// Called by INSTALL PLUGIN and at start-up.
    pub init: Option<PluginFunction>,
    /// Called by UNINSTALL PLUGIN and at shutdown.
    pub deinit: Option<PluginFunction>,
    /// Two bytes: major, minor.
    pub version: c_uint,
    /// Array that ends with an all-zero element.
    pub status_vars: *mut MysqlShowVar,
    /// Array of pointers that ends with a null.
    pub system_vars: *mut *mut SysVar,
    /// Version for people.
    pub version_info: *const c_char,
    /// `MariaDB_PLUGIN_MATURITY_*`.
    pub maturity: c_uint,
}

assert_eq_size!(MariaPlugin, [u8; 104]);
const_assert_eq!(offset_of!(MariaPlugin, kind), 0);
const_assert_eq!(offset_of!(MariaPlugin, info), 8);
const_assert_eq!(offset_of!(MariaPlugin, name), 16);
const_assert_eq!(offset_of!(MariaPlugin, author), 24);
const_assert_eq!(offset_of!(MariaPlugin, descr), 32);
const_assert_eq!(offset_of!(MariaPlugin, license), 40);
const_assert_eq!(offset_of!(MariaPlugin, init), 48);
const_assert_eq!(offset_of!(MariaPlugin, deinit), 56);
const_assert_eq!(offset_of!(MariaPlugin, version), 64);
const_assert_eq!(offset_of!(MariaPlugin, status_vars), 72);
const_assert_eq!(offset_of!(MariaPlugin, system_vars), 80);
const_assert_eq!(offset_of!(MariaPlugin, version_info), 88);
const_assert_eq!(offset_of!(MariaPlugin, maturity), 96);

/// `MYSQL` (mysql.h): a connection, only ever passed back to the server.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection(pub *mut c_void);

/// `MYSQL_RES` (mysql.h): a stored result.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredResult(pub *mut c_void);

/// `sql_service_st` (service_sql.h of 10.5 to 11.8), which the server exports as `sql_service_handler`.
#[repr(C)]
#[derive(Debug)]
pub struct SqlService {
    /// mysql_init: with null, a new object.
    pub init: unsafe extern "C" fn(Connection) -> Connection,
    /// A connection into this server, with all privileges; on a thread without a session it makes one.
    pub real_connect_local: unsafe extern "C" fn(Connection) -> Connection,
    /// A connection to any server.
    pub real_connect: *const c_void,
    /// Number of the last error.
    pub errno: unsafe extern "C" fn(Connection) -> c_uint,
    /// Its text.
    pub error: unsafe extern "C" fn(Connection) -> *const c_char,
    /// Runs a statement; non-zero is failure.
    pub real_query: unsafe extern "C" fn(Connection, query: *const c_char, length: c_ulong) -> c_int,
    /// Rows changed.
    pub affected_rows: unsafe extern "C" fn(Connection) -> c_ulonglong,
    /// Rows of a result.
    pub num_rows: unsafe extern "C" fn(StoredResult) -> c_ulonglong,
    /// The result of the statement; null without one.
    pub store_result: unsafe extern "C" fn(Connection) -> StoredResult,
    /// Frees it.
    pub free_result: unsafe extern "C" fn(StoredResult),
    /// Next row: its columns as NUL-terminated strings, null for NULL; null after the last.
    pub fetch_row: unsafe extern "C" fn(StoredResult) -> *const *const c_char,
    /// Ends the connection and the session that it made.
    pub close: unsafe extern "C" fn(Connection),
}

assert_eq_size!(SqlService, [u8; 96]);
const_assert_eq!(offset_of!(SqlService, init), 0);
const_assert_eq!(offset_of!(SqlService, real_connect_local), 8);
const_assert_eq!(offset_of!(SqlService, real_connect), 16);
const_assert_eq!(offset_of!(SqlService, errno), 24);
const_assert_eq!(offset_of!(SqlService, error), 32);
const_assert_eq!(offset_of!(SqlService, real_query), 40);
const_assert_eq!(offset_of!(SqlService, affected_rows), 48);
const_assert_eq!(offset_of!(SqlService, num_rows), 56);
const_assert_eq!(offset_of!(SqlService, store_result), 64);
const_assert_eq!(offset_of!(SqlService, free_result), 72);
const_assert_eq!(offset_of!(SqlService, fetch_row), 80);
const_assert_eq!(offset_of!(SqlService, close), 88);
