//! Descriptors of system variables (`SYSVAR` and `THDVAR` of plugin.h; the same from 5.5 to 9.7 and in MariaDB).

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_ulonglong, c_void};
use std::mem::offset_of;

use bitflags::bitflags;
use static_assertions::{assert_eq_size, const_assert_eq};

use super::{MysqlValue, Thd};

bitflags! {
    /// Type and flags of a variable (`PLUGIN_VAR_*`, plugin.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SysVarFlags: c_int {
        /// Type: one byte, 0 or 1.
        const BOOL = 0x0001;
        /// Type: `unsigned long` when `UNSIGNED`.
        const LONG = 0x0003;
        /// Type: `unsigned long long` when `UNSIGNED`.
        const LONGLONG = 0x0004;
        /// Type: string.
        const STR = 0x0005;
        /// Type: one name of a [`TypeLib`].
        const ENUM = 0x0006;
        /// The bits that hold the type, a session's variable's bit included.
        const TYPE_MASK = 0x010f;
        /// The number is unsigned.
        const UNSIGNED = 0x0080;
        /// A value for each session.
        const THDLOCAL = 0x0100;
        /// SET is refused.
        const READONLY = 0x0200;
        /// Cannot be given on the command line or in my.cnf.
        const NOCMDOPT = 0x0800;
        /// May be given on the command line without a value.
        const OPCMDARG = 0x2000;
        /// MySQL 8.0 and later only: no SET PERSIST_ONLY of a read-only variable.
        const NOPERSIST = 0x1_0000;
    }
}

/// `mysql_var_check_func` (plugin.h): 0 accepts what it has put into `save`.
pub type CheckFunction =
    unsafe extern "C" fn(Thd, var: *mut SysVar, save: *mut c_void, value: *mut MysqlValue) -> c_int;
/// `mysql_var_update_func` (plugin.h): moves `save` to `var_ptr`.
pub type UpdateFunction =
    unsafe extern "C" fn(Thd, var: *mut SysVar, var_ptr: *mut c_void, save: *const c_void);
/// A session variable's address for a session, or the global value's for [`Thd::NONE`]; filled by the server
/// before `init` (`construct_options`, sql_plugin.cc).
pub type Resolve<T> = Option<unsafe extern "C" fn(Thd, offset: c_int) -> *mut T>;

/// `st_mysql_sys_var`: what callbacks are handed; in truth one of the descriptors below.
#[repr(C)]
#[derive(Debug)]
pub struct SysVar {
    /// What every descriptor begins with (`MYSQL_PLUGIN_VAR_HEADER`).
    pub header: SysVarHeader,
}

/// `MYSQL_PLUGIN_VAR_HEADER`.
#[repr(C)]
#[derive(Debug)]
pub struct SysVarHeader {
    /// [`SysVarFlags`].
    pub flags: c_int,
    /// Name without the plugin's; the server replaces it by the full one while installed.
    pub name: *const c_char,
    /// What SHOW and --help tell.
    pub comment: *const c_char,
    /// Validates a SET; absent: the server's own by type.
    pub check: Option<CheckFunction>,
    /// Carries a SET out; absent: the server's own by type.
    pub update: Option<UpdateFunction>,
}

/// `MYSQL_SYSVAR_STR`.
#[repr(C)]
#[derive(Debug)]
pub struct SysVarStr {
    /// See [`SysVarHeader`].
    pub header: SysVarHeader,
    /// The variable.
    pub value: *mut *const c_char,
    /// Its default.
    pub def_val: *const c_char,
}

/// `MYSQL_SYSVAR_BOOL`.
#[repr(C)]
#[derive(Debug)]
pub struct SysVarBool {
    /// See [`SysVarHeader`].
    pub header: SysVarHeader,
    /// The variable.
    pub value: *mut u8,
    /// Its default.
    pub def_val: u8,
}

/// `MYSQL_SYSVAR_ULONG`; as large as `MYSQL_SYSVAR_ULONGLONG` here.
#[repr(C)]
#[derive(Debug)]
pub struct SysVarUlong {
    /// See [`SysVarHeader`].
    pub header: SysVarHeader,
    /// The variable.
    pub value: *mut c_ulong,
    /// Its default.
    pub def_val: c_ulong,
    /// Least value.
    pub min_val: c_ulong,
    /// Greatest value.
    pub max_val: c_ulong,
    /// Values are multiples of it; 0: any.
    pub blk_sz: c_ulong,
}

/// `MYSQL_THDVAR_STR`. Without NOCMDOPT MariaDB reads it as [`SysVarStr`] and crashes at INSTALL.
#[repr(C)]
#[derive(Debug)]
pub struct ThdVarStr {
    /// See [`SysVarHeader`].
    pub header: SysVarHeader,
    /// Where a session keeps it; filled by the server, -1 before.
    pub offset: c_int,
    /// Its default.
    pub def_val: *const c_char,
    /// See [`Resolve`].
    pub resolve: Resolve<*const c_char>,
}

/// `MYSQL_THDVAR_ULONG`.
#[repr(C)]
#[derive(Debug)]
pub struct ThdVarUlong {
    /// See [`SysVarHeader`].
    pub header: SysVarHeader,
    /// Where a session keeps it; filled by the server, -1 before.
    pub offset: c_int,
    /// Its default.
    pub def_val: c_ulong,
    /// Least value.
    pub min_val: c_ulong,
    /// Greatest value.
    pub max_val: c_ulong,
    /// Values are multiples of it; 0: any.
    pub blk_sz: c_ulong,
    /// See [`Resolve`].
    pub resolve: Resolve<c_ulong>,
}

/// `MYSQL_THDVAR_ULONGLONG`.
#[repr(C)]
#[derive(Debug)]
pub struct ThdVarUlongLong {
    /// See [`SysVarHeader`].
    pub header: SysVarHeader,
    /// Where a session keeps it; filled by the server, -1 before.
    pub offset: c_int,
    /// Its default.
    pub def_val: c_ulonglong,
    /// Least value.
    pub min_val: c_ulonglong,
    /// Greatest value.
    pub max_val: c_ulonglong,
    /// Values are multiples of it; 0: any.
    pub blk_sz: c_ulonglong,
    /// See [`Resolve`].
    pub resolve: Resolve<c_ulonglong>,
}

/// `MYSQL_THDVAR_ENUM`.
#[repr(C)]
#[derive(Debug)]
pub struct ThdVarEnum {
    /// See [`SysVarHeader`].
    pub header: SysVarHeader,
    /// Where a session keeps it; filled by the server, -1 before.
    pub offset: c_int,
    /// Its default: an index into the names.
    pub def_val: c_ulong,
    /// See [`Resolve`].
    pub resolve: Resolve<c_ulong>,
    /// The names.
    pub typelib: *const TypeLib,
}

/// `st_typelib` (typelib.h); `hidden_values` is read by newer MariaDB only and stays null.
#[repr(C)]
#[derive(Debug)]
pub struct TypeLib {
    /// How many names.
    pub count: c_uint,
    /// Name of the list.
    pub name: *const c_char,
    /// The names, a null behind the last.
    pub type_names: *const *const c_char,
    /// Their lengths.
    pub type_lengths: *const c_uint,
    /// Which of them are not shown.
    pub hidden_values: *const c_ulonglong,
}

assert_eq_size!(SysVarHeader, [u8; 40]);
const_assert_eq!(offset_of!(SysVarHeader, flags), 0);
const_assert_eq!(offset_of!(SysVarHeader, name), 8);
const_assert_eq!(offset_of!(SysVarHeader, comment), 16);
const_assert_eq!(offset_of!(SysVarHeader, check), 24);
const_assert_eq!(offset_of!(SysVarHeader, update), 32);

assert_eq_size!(SysVarStr, [u8; 56]);
const_assert_eq!(offset_of!(SysVarStr, value), 40);
const_assert_eq!(offset_of!(SysVarStr, def_val), 48);

assert_eq_size!(SysVarBool, [u8; 56]);
const_assert_eq!(offset_of!(SysVarBool, value), 40);
const_assert_eq!(offset_of!(SysVarBool, def_val), 48);

assert_eq_size!(SysVarUlong, [u8; 80]);
const_assert_eq!(offset_of!(SysVarUlong, value), 40);
const_assert_eq!(offset_of!(SysVarUlong, def_val), 48);
const_assert_eq!(offset_of!(SysVarUlong, min_val), 56);
const_assert_eq!(offset_of!(SysVarUlong, max_val), 64);
const_assert_eq!(offset_of!(SysVarUlong, blk_sz), 72);

assert_eq_size!(ThdVarStr, [u8; 64]);
const_assert_eq!(offset_of!(ThdVarStr, offset), 40);
const_assert_eq!(offset_of!(ThdVarStr, def_val), 48);
const_assert_eq!(offset_of!(ThdVarStr, resolve), 56);

assert_eq_size!(ThdVarUlong, [u8; 88]);
const_assert_eq!(offset_of!(ThdVarUlong, offset), 40);
const_assert_eq!(offset_of!(ThdVarUlong, def_val), 48);
const_assert_eq!(offset_of!(ThdVarUlong, min_val), 56);
const_assert_eq!(offset_of!(ThdVarUlong, max_val), 64);
const_assert_eq!(offset_of!(ThdVarUlong, blk_sz), 72);
const_assert_eq!(offset_of!(ThdVarUlong, resolve), 80);

assert_eq_size!(ThdVarUlongLong, [u8; 88]);
const_assert_eq!(offset_of!(ThdVarUlongLong, offset), 40);
const_assert_eq!(offset_of!(ThdVarUlongLong, def_val), 48);
const_assert_eq!(offset_of!(ThdVarUlongLong, min_val), 56);
const_assert_eq!(offset_of!(ThdVarUlongLong, max_val), 64);
const_assert_eq!(offset_of!(ThdVarUlongLong, blk_sz), 72);
const_assert_eq!(offset_of!(ThdVarUlongLong, resolve), 80);

assert_eq_size!(ThdVarEnum, [u8; 72]);
const_assert_eq!(offset_of!(ThdVarEnum, offset), 40);
const_assert_eq!(offset_of!(ThdVarEnum, def_val), 48);
const_assert_eq!(offset_of!(ThdVarEnum, resolve), 56);
const_assert_eq!(offset_of!(ThdVarEnum, typelib), 64);

assert_eq_size!(TypeLib, [u8; 40]);
const_assert_eq!(offset_of!(TypeLib, count), 0);
const_assert_eq!(offset_of!(TypeLib, name), 8);
const_assert_eq!(offset_of!(TypeLib, type_names), 16);
const_assert_eq!(offset_of!(TypeLib, type_lengths), 24);
const_assert_eq!(offset_of!(TypeLib, hidden_values), 32);
