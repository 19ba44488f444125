//! Where the server keeps its files, from its exported globals and the variables of its built-in engines: no SQL,
//! usable from any thread.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokudb_backup_abi::common::{SysVar, SysVarFlags, SysVarStr, SysVarUlong};

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
    /// Where the replication threads of MariaDB and MySQL 5.6 keep which relay log they are in.
    pub relay_log_info: Option<PathBuf>,
    /// Where they keep how to connect and how far they have read.
    pub master_info: Option<PathBuf>,
    /// MariaDB's log of unfinished DDL (10.6 and later).
    pub ddl_log: Option<PathBuf>,
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
            relay_log_info: absolute(text(c"relay_log_info_file")),
            master_info: absolute(text(c"master_info_file")),
            // ddl_log.cc: fn_format adds the extension.
            ddl_log: absolute(text(c"opt_ddl_recovery_file")).map(|path| match path.extension() {
                Some(_) => path,
                None => path.with_extension("log"),
            }),
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

/// The value of a string variable of an engine by its full name; `None` when there is no such variable or it is NULL
/// or empty.
pub fn engine_variable(host: &Host, name: &str) -> Option<Vec<u8>> {
    let variable = find_variable(host, name)?;
    // SAFETY: descriptors are static in the server or in a plugin that stays loaded; a string variable that is no
    // session's is a SYSVAR_STR.
    unsafe {
        (kind_of(variable) == SysVarFlags::STR)
            .then(|| read_text(*(*variable.cast::<SysVarStr>()).value))
            .flatten()
    }
}

/// The value of an unsigned long variable of an engine by its full name.
pub fn engine_number(host: &Host, name: &str) -> Option<u64> {
    let variable = find_variable(host, name)?;
    // SAFETY: as in `engine_variable`; a long or long long that is no session's is a SYSVAR_ULONG in size and layout
    // of what is read here (8 bytes each, x86-64 and aarch64).
    unsafe {
        let kind = kind_of(variable);
        (kind == SysVarFlags::LONG || kind == SysVarFlags::LONGLONG)
            .then(|| *(*variable.cast::<SysVarUlong>()).value)
    }
}

/// An `unsigned int` of the server.
pub fn server_number(name: &CStr) -> Option<u32> {
    // SAFETY: the symbols that are asked for are `uint`s (mysqld.h).
    address(name).map(|address| unsafe { *address.cast::<u32>() })
}

fn find_variable(host: &Host, name: &str) -> Option<*const SysVar> {
    let built_in = [c"mysql_mandatory_plugins", c"mysql_optional_plugins"].iter().find_map(|list| {
        let list = address(list)?.cast::<*const c_void>();
        // SAFETY: both are arrays of pointers to declarations that end with a null (sql_builtin.cc), static.
        unsafe { each_until_null(list) }.find_map(|declarations| {
            // SAFETY: `declarations` comes from the server's own list.
            unsafe { variable_of(host.declaration_size, declarations, name) }
        })
    });
    built_in.or_else(|| {
        loaded_plugins().into_iter().find_map(|(size, declarations)| {
            // SAFETY: what a loaded plugin exports under these names.
            unsafe { variable_of(size, declarations, name) }
        })
    })
}

/// The declarations of the engines that were loaded as plugins, with the size of one.
fn loaded_plugins() -> Vec<(usize, *const c_void)> {
    let directory = text_array(c"opt_plugin_dir").unwrap_or_default();
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return Vec::new() };
    let mut objects: Vec<&str> = maps
        .lines()
        .filter_map(|line| line.find('/').and_then(|at| line.get(at..)))
        .filter(|path| path.contains("/ha_") && path.ends_with(".so"))
        .filter(|path| Path::new(path).parent().is_some_and(|dir| is_same(dir, self::path(&directory))))
        .collect();
    objects.dedup();
    objects.into_iter().filter_map(declarations_of).collect()
}

fn is_same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

fn declarations_of(object: &str) -> Option<(usize, *const c_void)> {
    let path = std::ffi::CString::new(object).ok()?;
    // SAFETY: a NUL-terminated path; RTLD_NOLOAD loads nothing. The handle is given back: the server holds its own.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    let find = |name: &CStr| {
        // SAFETY: the handle is valid here.
        let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    };
    let names = [
        (c"_maria_plugin_declarations_", c"_maria_sizeof_struct_st_plugin_"),
        (c"_mysql_plugin_declarations_", c"_mysql_sizeof_struct_st_plugin_"),
    ];
    let found = names.into_iter().find_map(|(declarations, size)| {
        // SAFETY: the size is an `int` (MYSQL_DECLARE_PLUGIN, plugin.h).
        let size = usize::try_from(unsafe { *find(size)?.cast::<std::ffi::c_int>() }).ok()?;
        Some((size, find(declarations)?.cast_const()))
    });
    // SAFETY: given back once.
    unsafe { libc::dlclose(handle) };
    found
}

/// The type of a variable.
///
/// # Safety
/// `variable` is a descriptor.
unsafe fn kind_of(variable: *const SysVar) -> SysVarFlags {
    // SAFETY: by the caller's promise.
    SysVarFlags::from_bits_retain(unsafe { (*variable).header.flags }) & SysVarFlags::TYPE_MASK
}

/// Looks through an array of declarations of `size` bytes.
///
/// # Safety
/// `declarations` is such an array that ends with an all-zero one.
unsafe fn variable_of(size: usize, declarations: *const c_void, name: &str) -> Option<*const SysVar> {
    let mut declaration = declarations.cast::<u8>();
    loop {
        // SAFETY: `info` and `system_vars` lie inside a declaration, by the caller's promise.
        let (info, variables) = unsafe {
            (
                declaration.cast::<*const c_void>().add(1).read(),
                declaration.add(system_vars_offset(size)).cast::<*const *const SysVar>().read(),
            )
        };
        if info.is_null() {
            return None;
        }
        if !variables.is_null() {
            // SAFETY: `system_vars` is an array of pointers that ends with a null.
            for variable in unsafe { each_until_null(variables) } {
                // SAFETY: a name is a NUL-terminated string or null.
                let same = unsafe {
                    let name_of = (*variable).header.name;
                    !name_of.is_null() && CStr::from_ptr(name_of).to_bytes() == name.as_bytes()
                };
                if same {
                    return Some(variable);
                }
            }
        }
        // SAFETY: the array goes on, for its end was not reached.
        declaration = unsafe { declaration.add(size) };
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
pub(super) fn text(name: &CStr) -> Option<Vec<u8>> {
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
