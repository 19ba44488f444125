//! Where the server keeps its files, from its exported globals and the variables of its built-in engines: no SQL,
//! usable from any thread.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokudb_backup_abi::common::{SysVar, SysVarFlags, SysVarStr};

use super::Host;
use super::symbols::address;

/// Where `system_vars` stands in a plugin's declaration, by the declaration's size.
const fn system_vars_offset(declaration_size: usize) -> usize {
    if declaration_size == 112 { 88 } else { 80 }
}

const _: () = {
    use std::mem::offset_of;
    use tokudb_backup_abi::{mariadb::MariaPlugin, mysql::MysqlPlugin104, mysql::MysqlPlugin112};
    assert!(offset_of!(MysqlPlugin104, system_vars) == system_vars_offset(size_of::<MysqlPlugin104>()));
    assert!(offset_of!(MysqlPlugin112, system_vars) == system_vars_offset(size_of::<MysqlPlugin112>()));
    assert!(offset_of!(MariaPlugin, system_vars) == system_vars_offset(size_of::<MariaPlugin>()));
};

/// The paths that the server runs with, made absolute against its data directory (its working directory).
#[derive(Clone, Debug, Default)]
pub struct ServerFiles {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Base name of the binary logs; `None` when there are none.
    pub log_bin: Option<PathBuf>,
    /// Index of the binary logs.
    pub log_bin_index: Option<PathBuf>,
    /// Base name of the relay logs.
    pub relay_log: Option<PathBuf>,
    /// Index of the relay logs.
    pub relay_log_index: Option<PathBuf>,
    /// The pid file.
    pub pid_file: Option<PathBuf>,
    /// The socket.
    pub socket: Option<PathBuf>,
    /// Directories of temporary files.
    pub temporary: Vec<PathBuf>,
}

impl ServerFiles {
    /// Reads them; `None` when the server does not say where its data is.
    pub fn of_this_server() -> Option<ServerFiles> {
        let data_dir = text_array(c"mysql_real_data_home").or_else(|| text(c"mysql_data_home"))?;
        let data_dir = std::path::absolute(path(&data_dir)).ok()?;
        let absolute = |value: Option<Vec<u8>>| value.map(|value| data_dir.join(path(&value)));
        let temporary = text(c"opt_mysql_tmpdir").unwrap_or_else(|| b"/tmp".to_vec());
        Some(ServerFiles {
            log_bin: absolute(text(c"log_bin_basename")),
            log_bin_index: absolute(text(c"log_bin_index")),
            relay_log: absolute(text(c"relay_log_basename")),
            relay_log_index: absolute(text(c"relay_log_index")),
            pid_file: absolute(text_array(c"pidfile_name")),
            socket: absolute(text(c"mysqld_unix_port")),
            temporary: temporary.split(|&b| b == b':').map(|dir| data_dir.join(path(dir))).collect(),
            data_dir,
        })
    }
}

/// Version of the server, as it says it itself.
pub fn server_version() -> Option<String> {
    text_array(c"server_version").map(|version| String::from_utf8_lossy(&version).into_owned())
}

/// The value of a string variable of a built-in engine by its full name; `None` when there is no such variable or
/// it is NULL or empty.
pub fn engine_variable(host: &Host, name: &str) -> Option<Vec<u8>> {
    [c"mysql_mandatory_plugins", c"mysql_optional_plugins"].iter().find_map(|list| {
        let list = address(list)?.cast::<*const c_void>();
        // SAFETY: both are arrays of pointers to declarations that end with a null (sql_builtin.cc), static.
        unsafe { each_until_null(list) }.find_map(|declarations| {
            // SAFETY: `declarations` comes from the server's own list.
            unsafe { variable_of(host, declarations, name) }
        })
    })
}

/// Looks through an array of declarations.
///
/// # Safety
/// `declarations` is an array of declarations of `host` that ends with an all-zero one.
unsafe fn variable_of(host: &Host, declarations: *const c_void, name: &str) -> Option<Vec<u8>> {
    let mut declaration = declarations.cast::<u8>();
    loop {
        // SAFETY: `info` and `system_vars` lie inside a declaration, by the caller's promise.
        let (info, variables) = unsafe {
            (
                declaration.cast::<*const c_void>().add(1).read(),
                declaration
                    .add(system_vars_offset(host.declaration_size))
                    .cast::<*const *const SysVar>()
                    .read(),
            )
        };
        if info.is_null() {
            return None;
        }
        if !variables.is_null() {
            // SAFETY: `system_vars` is an array of pointers that ends with a null.
            for variable in unsafe { each_until_null(variables) } {
                // SAFETY: descriptors are static in the server.
                let header = unsafe { &(*variable).header };
                let flags = SysVarFlags::from_bits_retain(header.flags) & SysVarFlags::TYPE_MASK;
                // SAFETY: a name is a NUL-terminated string or null.
                let same = !header.name.is_null()
                    && unsafe { CStr::from_ptr(header.name) }.to_bytes() == name.as_bytes();
                if same && flags == SysVarFlags::STR {
                    // SAFETY: a string variable that is no session's is a SYSVAR_STR.
                    return unsafe { read_text(*(*variable.cast::<SysVarStr>()).value) };
                }
            }
        }
        // SAFETY: the array goes on, for its end was not reached.
        declaration = unsafe { declaration.add(host.declaration_size) };
    }
}

/// The pointers of an array that ends with a null.
///
/// # Safety
/// `array` is one, and outlives the iterator.
unsafe fn each_until_null<T>(array: *const *const T) -> impl Iterator<Item = *const T> {
    let mut next = array;
    std::iter::from_fn(move || {
        // SAFETY: `next` has not passed the null, by the caller's promise.
        let (item, after) = unsafe { (*next, next.add(1)) };
        if item.is_null() {
            return None;
        }
        next = after;
        Some(item)
    })
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A `char[]` of the server.
fn text_array(name: &CStr) -> Option<Vec<u8>> {
    // SAFETY: these symbols are NUL-terminated arrays (mysqld.h).
    unsafe { read_text(address(name)?.cast()) }
}

/// A `char *` of the server.
fn text(name: &CStr) -> Option<Vec<u8>> {
    // SAFETY: these symbols are pointers to NUL-terminated strings, or null (mysqld.h).
    unsafe { read_text(*address(name)?.cast::<*const c_char>()) }
}

/// Bytes of a string; `None` for null and the empty one.
///
/// # Safety
/// `text` is null or NUL-terminated.
unsafe fn read_text(text: *const c_char) -> Option<Vec<u8>> {
    if text.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    (!bytes.is_empty()).then(|| bytes.to_vec())
}
