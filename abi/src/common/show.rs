//! `st_mysql_show_var`: status variables.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

use static_assertions::{assert_eq_size, const_assert_eq};

use super::Thd;

/// `enum_mysql_show_type` (plugin.h of 5.6; status_var.h of 5.7 and later; the same numbers in MariaDB).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShowType(pub c_int);

impl ShowType {
    /// End of the array.
    pub const UNDEF: ShowType = ShowType(0);
    /// `value` points to a `long long` that is shown unsigned.
    pub const LONGLONG: ShowType = ShowType(4);
    /// `value` points to a NUL-terminated string.
    pub const CHAR: ShowType = ShowType(5);
    /// `value` is a [`ShowFunction`] that says type and value.
    pub const FUNC: ShowType = ShowType(8);
}

/// Scope of MySQL 5.7 and later (`SHOW_SCOPE_GLOBAL`, status_var.h); padding elsewhere.
pub const SHOW_SCOPE_GLOBAL: c_int = 1;
/// Bytes that a [`ShowFunction`] may use behind `buffer` (plugin.h, all versions).
pub const SHOW_VAR_FUNC_BUFF_SIZE: usize = 1024;

/// `mysql_show_var_func` (plugin.h): fills type and value at the time of reading. MariaDB passes two arguments
/// more, which the C calling convention lets us ignore.
pub type ShowFunction = unsafe extern "C" fn(Thd, *mut MysqlShowVar, buffer: *mut c_char) -> c_int;

/// `st_mysql_show_var` (plugin.h of 5.6 and MariaDB; status_var.h of 5.7 and later). An all-zero one ends an array.
#[repr(C)]
#[derive(Debug)]
pub struct MysqlShowVar {
    /// Full name.
    pub name: *const c_char,
    /// By `kind`: the value or the function.
    pub value: *const c_void,
    /// Type of `value`.
    pub kind: ShowType,
    /// [`SHOW_SCOPE_GLOBAL`] in MySQL 5.7 and later, padding elsewhere.
    pub scope: c_int,
}

assert_eq_size!(MysqlShowVar, [u8; 24]);
const_assert_eq!(offset_of!(MysqlShowVar, name), 0);
const_assert_eq!(offset_of!(MysqlShowVar, value), 8);
const_assert_eq!(offset_of!(MysqlShowVar, kind), 16);
const_assert_eq!(offset_of!(MysqlShowVar, scope), 20);
