//! What every supported server lays out alike: system variables, their values, status variables, the session handle.

mod show;
mod sysvar;
mod value;

pub use show::{MysqlShowVar, SHOW_SCOPE_GLOBAL, SHOW_VAR_FUNC_BUFF_SIZE, ShowFunction, ShowType};
pub use sysvar::{
    CheckFunction, Resolve, SysVar, SysVarBool, SysVarFlags, SysVarHeader, SysVarStr, SysVarUlong,
    ThdVarEnum, ThdVarStr, ThdVarUlong, ThdVarUlongLong, TypeLib, UpdateFunction,
};
pub use value::{MysqlValue, ValueType};

use std::ffi::{c_int, c_void};

/// `MYSQL_THD`: a session of the server (`THD *`, plugin.h). Only ever passed back to the server.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thd(pub *mut c_void);

impl Thd {
    /// No session: global values.
    pub const NONE: Thd = Thd(std::ptr::null_mut());
}

/// `MYSQL_DAEMON_PLUGIN` (plugin.h, all versions).
pub const MYSQL_DAEMON_PLUGIN: c_int = 3;
/// `PLUGIN_LICENSE_GPL` (plugin.h, all versions).
pub const PLUGIN_LICENSE_GPL: c_int = 1;
/// `SQLCOM_SET_OPTION` (sql_cmd.h; the same number in 5.6.24, 9.7, MariaDB 10.5, 10.11 and 11.8).
pub const SQLCOM_SET_OPTION: c_int = 31;

/// `st_mysql_daemon` (plugin.h, all versions): its number is MYSQL_VERSION_ID << 8 of the server it is meant for.
#[repr(C)]
#[derive(Debug)]
pub struct MysqlDaemon {
    /// MYSQL_VERSION_ID << 8, exactly the host's.
    pub interface_version: c_int,
}

static_assertions::assert_eq_size!(MysqlDaemon, [u8; 4]);
static_assertions::assert_eq_size!(Thd, usize);

/// Errors of the server that the plugin raises (errmsg-utf8.txt, mysqld_error.h; the same numbers everywhere).
pub mod er {
    /// ER_UNKNOWN_ERROR: any message.
    pub const UNKNOWN_ERROR: u32 = 1105;
    /// ER_SPECIFIC_ACCESS_DENIED_ERROR.
    pub const SPECIFIC_ACCESS_DENIED: u32 = 1227;
    /// ER_LOCAL_VARIABLE: "Variable '%s' is a SESSION variable and can't be used with SET GLOBAL".
    pub const LOCAL_VARIABLE: u32 = 1228;
    /// ER_QUERY_INTERRUPTED.
    pub const QUERY_INTERRUPTED: u32 = 1317;
    /// ER_LOCK_WAIT_TIMEOUT.
    pub const LOCK_WAIT_TIMEOUT: u32 = 1205;
    /// ER_LOCK_DEADLOCK.
    pub const LOCK_DEADLOCK: u32 = 1213;
}
