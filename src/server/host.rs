//! Which server this library was loaded into, without asking its version string.
//!
//! Every server has its binlog pseudo-plugin built in, whose declaration is static data: readable already in a
//! constructor of a preloaded library. It tells flavour, MYSQL_VERSION_ID, size of declarations and interface.

use std::ffi::{c_int, c_void};

use super::symbols::address;

/// MySQL or MariaDB: they differ in the plugin interface and in most functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// MySQL and its builds.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// The server around us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Whose server.
    pub flavour: Flavour,
    /// MYSQL_VERSION_ID: 50624, 90704, 101119.
    pub version_id: u32,
    /// Version of its plugin interface, as our declaration must repeat it.
    pub interface_version: c_int,
    /// Size of one of its declarations.
    pub declaration_size: usize,
}

impl Host {
    /// Recognises the server; `None` in any other program. Reads static data only, so that a constructor may call it.
    pub fn recognise() -> Option<Host> {
        let (flavour, [plugin, interface, size]) = if let Some(plugin) =
            address(c"builtin_maria_binlog_plugin")
        {
            let interface = address(c"builtin_maria_binlog_plugin_interface_version")?;
            (Flavour::MariaDb, [plugin, interface, address(c"builtin_maria_binlog_sizeof_struct_st_plugin")?])
        } else {
            let plugin = address(c"builtin_binlog_plugin")?;
            let interface = address(c"builtin_binlog_plugin_interface_version")?;
            (Flavour::MySql, [plugin, interface, address(c"builtin_binlog_sizeof_struct_st_plugin")?])
        };
        // SAFETY: both symbols are `int`s of the server (MYSQL_DECLARE_PLUGIN, plugin.h).
        let (interface_version, declaration_size) =
            unsafe { (*interface.cast::<c_int>(), *size.cast::<c_int>()) };
        // SAFETY: a declaration begins with `int type; void *info` in every version.
        let info = unsafe { *plugin.cast::<*const c_void>().add(1) };
        if info.is_null() {
            return None;
        }
        // SAFETY: the first member of every type's descriptor is its interface version, an `int`.
        let version = unsafe { *info.cast::<c_int>() };
        Some(Host {
            flavour,
            version_id: u32::try_from(version >> 8).ok()?,
            interface_version,
            declaration_size: usize::try_from(declaration_size).ok()?,
        })
    }

    /// Whether the server holds a lock of the session while it runs an update callback, and no reference to the
    /// plugin (MySQL 5.7 and later): a backup must then run in the check callback.
    pub fn locks_session_in_update(&self) -> bool {
        self.flavour == Flavour::MySql && self.version_id >= 50700
    }

    /// Its redo log names tablespaces by the paths at which they are opened at recovery, whatever .isl files say: one
    /// with a full path is looked for there only. (MariaDB: FILE_MODIFY, fil_name_process in log0recv.cc; MySQL 5.7:
    /// MLOG_FILE_NAME. MySQL 8 and later look for the tablespace's number in the known directories.)
    pub fn recovers_by_path(&self) -> bool {
        match self.flavour {
            Flavour::MariaDb => true,
            Flavour::MySql => (50700..80000).contains(&self.version_id),
        }
    }

    /// Whether DDL is atomic, so that a crash may fall inside it (MySQL 8.0 and later, P27).
    pub fn has_atomic_ddl(&self) -> bool {
        self.flavour == Flavour::MySql && self.version_id >= 80000
    }

    /// "MySQL 5.6.24", "MariaDB 10.11.19".
    pub fn name(&self) -> String {
        let flavour = match self.flavour {
            Flavour::MySql => "MySQL",
            Flavour::MariaDb => "MariaDB",
        };
        let id = self.version_id;
        format!("{flavour} {}.{}.{}", id / 10000, id / 100 % 100, id % 100)
    }
}
