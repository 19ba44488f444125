//! `st_mysql_value`: the value of a SET, as the server hands it to a check callback.

use std::ffi::{c_char, c_double, c_int, c_longlong};
use std::mem::offset_of;

use static_assertions::{assert_eq_size, const_assert_eq};

/// What `MysqlValue::value_type` returns (plugin.h, `MYSQL_VALUE_TYPE_*`, all versions).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueType(pub c_int);

impl ValueType {
    /// A string.
    pub const STRING: ValueType = ValueType(0);
    /// A floating point or decimal number.
    pub const REAL: ValueType = ValueType(1);
    /// An integer.
    pub const INT: ValueType = ValueType(2);
}

/// `st_mysql_value` (plugin.h, the same from 5.5 to 9.7 and in MariaDB). The server's own holder
/// (`st_item_value_holder`, sql_plugin.cc) keeps the expression right behind it: [`MysqlValue::ITEM_OFFSET`].
#[repr(C)]
#[derive(Debug)]
pub struct MysqlValue {
    /// Type of the value.
    pub value_type: unsafe extern "C" fn(*mut MysqlValue) -> ValueType,
    /// The value as a string; null for NULL. `length` holds the buffer's size before and the string's after.
    pub val_str:
        unsafe extern "C" fn(*mut MysqlValue, buffer: *mut c_char, length: *mut c_int) -> *const c_char,
    /// The value as a number; non-zero for NULL.
    pub val_real: unsafe extern "C" fn(*mut MysqlValue, *mut c_double) -> c_int,
    /// The value as an integer; non-zero for NULL.
    pub val_int: unsafe extern "C" fn(*mut MysqlValue, *mut c_longlong) -> c_int,
    /// Whether an integer value is unsigned.
    pub is_unsigned: unsafe extern "C" fn(*mut MysqlValue) -> c_int,
}

impl MysqlValue {
    /// Where the server's holder keeps `Item *item`, behind the five functions.
    pub const ITEM_OFFSET: usize = 40;
}

assert_eq_size!(MysqlValue, [u8; 40]);
const_assert_eq!(offset_of!(MysqlValue, value_type), 0);
const_assert_eq!(offset_of!(MysqlValue, val_str), 8);
const_assert_eq!(offset_of!(MysqlValue, val_real), 16);
const_assert_eq!(offset_of!(MysqlValue, val_int), 24);
const_assert_eq!(offset_of!(MysqlValue, is_unsigned), 32);
