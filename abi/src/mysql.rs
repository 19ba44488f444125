//! MySQL: `st_mysql_plugin` in its two sizes.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use std::mem::offset_of;

use static_assertions::{assert_eq_size, const_assert_eq};

use crate::common::{MysqlShowVar, SysVar};

/// init, deinit, check_uninstall: handed the server's `st_plugin_int *`; non-zero is failure.
pub type PluginFunction = unsafe extern "C" fn(*mut c_void) -> c_int;

/// `st_mysql_plugin` of MySQL 5.5 to 5.7 (plugin.h of 5.6.24), 104 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct MysqlPlugin104 {
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
    /// Null.
    pub reserved: *mut c_void,
    /// `PLUGIN_OPT_*`.
    pub flags: c_ulong,
}

/// `st_mysql_plugin` of MySQL 8.0 and later (plugin.h of 8.0.36 and 9.7), 112 bytes: `check_uninstall` was put
/// before `deinit`.
#[repr(C)]
#[derive(Debug)]
pub struct MysqlPlugin112 {
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
    /// Non-zero refuses UNINSTALL PLUGIN.
    pub check_uninstall: Option<PluginFunction>,
    /// Called by UNINSTALL PLUGIN and at shutdown.
    pub deinit: Option<PluginFunction>,
    /// Two bytes: major, minor.
    pub version: c_uint,
    /// Array that ends with an all-zero element.
    pub status_vars: *mut MysqlShowVar,
    /// Array of pointers that ends with a null.
    pub system_vars: *mut *mut SysVar,
    /// Null.
    pub reserved: *mut c_void,
    /// `PLUGIN_OPT_*`.
    pub flags: c_ulong,
}

assert_eq_size!(MysqlPlugin104, [u8; 104]);
const_assert_eq!(offset_of!(MysqlPlugin104, kind), 0);
const_assert_eq!(offset_of!(MysqlPlugin104, info), 8);
const_assert_eq!(offset_of!(MysqlPlugin104, name), 16);
const_assert_eq!(offset_of!(MysqlPlugin104, author), 24);
const_assert_eq!(offset_of!(MysqlPlugin104, descr), 32);
const_assert_eq!(offset_of!(MysqlPlugin104, license), 40);
const_assert_eq!(offset_of!(MysqlPlugin104, init), 48);
const_assert_eq!(offset_of!(MysqlPlugin104, deinit), 56);
const_assert_eq!(offset_of!(MysqlPlugin104, version), 64);
const_assert_eq!(offset_of!(MysqlPlugin104, status_vars), 72);
const_assert_eq!(offset_of!(MysqlPlugin104, system_vars), 80);
const_assert_eq!(offset_of!(MysqlPlugin104, reserved), 88);
const_assert_eq!(offset_of!(MysqlPlugin104, flags), 96);

assert_eq_size!(MysqlPlugin112, [u8; 112]);
const_assert_eq!(offset_of!(MysqlPlugin112, kind), 0);
const_assert_eq!(offset_of!(MysqlPlugin112, info), 8);
const_assert_eq!(offset_of!(MysqlPlugin112, name), 16);
const_assert_eq!(offset_of!(MysqlPlugin112, author), 24);
const_assert_eq!(offset_of!(MysqlPlugin112, descr), 32);
const_assert_eq!(offset_of!(MysqlPlugin112, license), 40);
const_assert_eq!(offset_of!(MysqlPlugin112, init), 48);
const_assert_eq!(offset_of!(MysqlPlugin112, check_uninstall), 56);
const_assert_eq!(offset_of!(MysqlPlugin112, deinit), 64);
const_assert_eq!(offset_of!(MysqlPlugin112, version), 72);
const_assert_eq!(offset_of!(MysqlPlugin112, status_vars), 80);
const_assert_eq!(offset_of!(MysqlPlugin112, system_vars), 88);
const_assert_eq!(offset_of!(MysqlPlugin112, reserved), 96);
const_assert_eq!(offset_of!(MysqlPlugin112, flags), 104);

/// `plugin_log_level` of my_plugin_log_message (service_my_plugin_log.h, 5.6 and later).
pub mod log_level {
    use std::ffi::c_int;
    /// MY_ERROR_LEVEL.
    pub const ERROR: c_int = 0;
    /// MY_WARNING_LEVEL.
    pub const WARNING: c_int = 1;
    /// MY_INFORMATION_LEVEL.
    pub const INFORMATION: c_int = 2;
}
