//! MySQL 5.6: the C++ objects by which DDL is held off, read in the debug information of mysqld 5.6.24.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::offset_of;

use static_assertions::{assert_eq_size, const_assert, const_assert_eq};

use crate::common::Thd;

/// `Global_read_lock` (sql_class.h of 5.6.24): 24 bytes, all zero when nothing is held. Room to spare is kept for
/// a version that adds to it.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct GlobalReadLock {
    /// `enum_grl_state`: 0 none, 1 acquired.
    pub state: c_int,
    tickets: [*mut c_void; 2],
    spare: [u64; 5],
}

impl GlobalReadLock {
    /// One that holds nothing.
    pub const fn unlocked() -> Self {
        GlobalReadLock { state: 0, tickets: [std::ptr::null_mut(); 2], spare: [0; 5] }
    }
}

const_assert_eq!(offset_of!(GlobalReadLock, state), 0);
const_assert_eq!(offset_of!(GlobalReadLock, tickets), 8);
const_assert!(size_of::<GlobalReadLock>() >= 64);

/// `Internal_error_handler::handle_condition` (sql_class.h of 5.6.24): true swallows the condition.
pub type HandleCondition = unsafe extern "C" fn(
    this: *mut InternalErrorHandler,
    Thd,
    code: c_uint,
    sqlstate: *const c_char,
    level: c_int,
    message: *const c_char,
    condition: *mut *mut c_void,
) -> bool;

/// Virtual functions of `Internal_error_handler` in the order of the Itanium C++ ABI: two destructors, which the
/// server never calls on a handler that it does not own, and `handle_condition`.
#[repr(C)]
#[derive(Debug)]
pub struct InternalErrorHandlerTable {
    /// Complete and deleting destructor.
    pub destructors: [unsafe extern "C" fn(*mut InternalErrorHandler); 2],
    /// Asked for every condition that the session raises.
    pub handle_condition: HandleCondition,
}

/// `Internal_error_handler` (sql_class.h of 5.6.24), 16 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct InternalErrorHandler {
    /// Virtual functions.
    pub table: *const InternalErrorHandlerTable,
    /// Kept by `THD::push_internal_handler`.
    pub previous: *mut InternalErrorHandler,
}

assert_eq_size!(InternalErrorHandler, [u8; 16]);
const_assert_eq!(offset_of!(InternalErrorHandler, table), 0);
const_assert_eq!(offset_of!(InternalErrorHandler, previous), 8);
assert_eq_size!(InternalErrorHandlerTable, [u8; 24]);
const_assert_eq!(offset_of!(InternalErrorHandlerTable, handle_condition), 16);

/// `st_mysql_lex_string` (m_string.h): passed by value in two registers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LexString {
    /// The text; need not end with a NUL.
    pub str: *const c_char,
    /// Its bytes.
    pub length: usize,
}

assert_eq_size!(LexString, [u8; 16]);
const_assert_eq!(offset_of!(LexString, str), 0);
const_assert_eq!(offset_of!(LexString, length), 8);

/// Room for an `Ed_connection` (sql_prepare.h of 5.6.24; 768 bytes there), which runs SQL in the session itself.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct EdConnection {
    /// Constructed by the server.
    pub object: [u8; 16 * 1024],
}

/// `Ed_result_set` (sql_prepare.h of 5.6.24), 80 bytes; the `Ed_connection` points to the first of a statement behind
/// its `THD *`.
#[repr(C)]
#[derive(Debug)]
pub struct EdResultSet {
    root: [u64; 7],
    /// Columns of each row.
    pub columns: usize,
    /// The rows.
    pub rows: *const EdRows,
    next: *const EdResultSet,
}

assert_eq_size!(EdResultSet, [u8; 80]);
const_assert_eq!(offset_of!(EdResultSet, columns), 56);
const_assert_eq!(offset_of!(EdResultSet, rows), 64);

/// `List<Ed_row>` (sql_list.h of 5.6.24), 24 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct EdRows {
    /// The first.
    pub first: *const EdRowNode,
    last: *const *const EdRowNode,
    /// How many there are.
    pub elements: c_uint,
}

assert_eq_size!(EdRows, [u8; 24]);
const_assert_eq!(offset_of!(EdRows, first), 0);
const_assert_eq!(offset_of!(EdRows, elements), 16);

/// `list_node` (sql_list.h of 5.6.24), 16 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct EdRowNode {
    /// The next.
    pub next: *const EdRowNode,
    /// The row.
    pub row: *const EdRow,
}

const_assert_eq!(offset_of!(EdRowNode, next), 0);
const_assert_eq!(offset_of!(EdRowNode, row), 8);

/// `Ed_row` (sql_prepare.h of 5.6.24), 16 bytes.
#[repr(C)]
#[derive(Debug)]
pub struct EdRow {
    /// Its columns: a null string for NULL; numbers as their bytes.
    pub columns: *const LexString,
    /// How many there are.
    pub count: usize,
}

assert_eq_size!(EdRow, [u8; 16]);
const_assert_eq!(offset_of!(EdRow, columns), 0);
const_assert_eq!(offset_of!(EdRow, count), 8);

/// `enum_var_type::OPT_SESSION` (set_var.h of 5.6.24).
pub const OPT_SESSION: c_int = 1;
