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

/// What there is to know of the program around us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// No server: a shell that a preloaded library came into, a program that links to it.
    NoServer,
    /// A server that we run on.
    Server(Host),
    /// A server that we do not run on, and why.
    Refused(String),
}

/// The oldest and the newest version, by its first two numbers, that the declarations are known for.
struct Known {
    oldest: u32,
    newest: u32,
    /// Sizes of a declaration that we can make.
    sizes: &'static [usize],
}

const fn known(flavour: Flavour) -> Known {
    match flavour {
        Flavour::MySql => Known { oldest: 50600, newest: 90700, sizes: &[104, 112] },
        Flavour::MariaDb => Known { oldest: 100500, newest: 110800, sizes: &[104] },
    }
}

/// "5.6" of 50600.
fn release(version_id: u32) -> String {
    format!("{}.{}", version_id / 10000, version_id / 100 % 100)
}

impl Host {
    /// Looks at the program around us. Reads static data only, so that a constructor may call it.
    pub fn recognise() -> Recognised {
        let found = if let Some(plugin) = address(c"builtin_maria_binlog_plugin") {
            let interface = address(c"builtin_maria_binlog_plugin_interface_version");
            let size = address(c"builtin_maria_binlog_sizeof_struct_st_plugin");
            (Flavour::MariaDb, plugin, interface, size)
        } else if let Some(plugin) = address(c"builtin_binlog_plugin") {
            let interface = address(c"builtin_binlog_plugin_interface_version");
            let size = address(c"builtin_binlog_sizeof_struct_st_plugin");
            (Flavour::MySql, plugin, interface, size)
        } else {
            return Recognised::NoServer;
        };
        let (flavour, plugin, Some(interface), Some(size)) = found else {
            return Recognised::Refused(
                "this server does not tell the version of its plugin interface".into(),
            );
        };
        // SAFETY: both symbols are `int`s of the server (MYSQL_DECLARE_PLUGIN, plugin.h).
        let (interface, size) = unsafe { (*interface.cast::<c_int>(), *size.cast::<c_int>()) };
        // SAFETY: a declaration begins with `int type; void *info` in every version.
        let info = unsafe { *plugin.cast::<*const c_void>().add(1) };
        if info.is_null() {
            return Recognised::Refused("this server does not tell its version".into());
        }
        // SAFETY: the first member of every type's descriptor is its interface version, an `int`.
        let version = unsafe { *info.cast::<c_int>() };
        Self::judge(flavour, version, interface, size)
    }

    /// Whether we run there; a server that is newer than all known ones is taken when it declares plugins as they do.
    fn judge(flavour: Flavour, version: c_int, interface_version: c_int, size: c_int) -> Recognised {
        let host = Host {
            flavour,
            version_id: u32::try_from(version >> 8).unwrap_or(0),
            interface_version,
            declaration_size: usize::try_from(size).unwrap_or(0),
        };
        let known = known(flavour);
        if host.version_id < known.oldest {
            let oldest = release(known.oldest);
            return Recognised::Refused(format!("{} is too old: {oldest} is the oldest", host.name()));
        }
        if !known.sizes.contains(&host.declaration_size) || interface_version >> 8 != 1 {
            return Recognised::Refused(format!(
                "{} declares plugins in an unknown way (interface {interface_version:#x}, {size} bytes); \
                 {} is the newest server that is known",
                host.name(),
                release(known.newest)
            ));
        }
        Recognised::Server(host)
    }

    /// What to tell on a server that is newer than all that are known.
    pub fn is_new(&self) -> Option<String> {
        let newest = known(self.flavour).newest;
        (self.version_id >= newest + 100).then(|| {
            format!(
                "{} is newer than {}, the newest server that this plugin was tested on",
                self.name(),
                release(newest)
            )
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

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(flavour: Flavour, version_id: c_int, interface: c_int, size: c_int) -> Recognised {
        Host::judge(flavour, version_id << 8, interface, size)
    }

    #[test]
    fn known_servers_are_taken_as_they_are() {
        use Flavour::{MariaDb, MySql};
        for (flavour, version, interface, size) in [
            (MySql, 50600, 0x104, 104),
            (MySql, 50624, 0x104, 104),
            (MySql, 50744, 0x107, 104),
            (MySql, 80036, 0x10a, 112),
            (MySql, 80400, 0x10b, 112),
            (MySql, 90704, 0x10b, 112),
            (MariaDb, 100529, 0x10e, 104),
            (MariaDb, 101119, 0x10f, 104),
            (MariaDb, 110806, 0x10f, 104),
        ] {
            let Recognised::Server(host) = judged(flavour, version, interface, size) else {
                panic!("{flavour:?} {version}");
            };
            assert_eq!(host.is_new(), None);
            assert_eq!((host.flavour, host.version_id), (flavour, version as u32));
            assert_eq!((host.interface_version, host.declaration_size), (interface, size as usize));
        }
    }

    #[test]
    fn newer_servers_are_taken_when_they_declare_as_known_ones_do() {
        for (flavour, version, size, name) in [
            (Flavour::MySql, 90800, 112, "MySQL 9.8.0"),
            (Flavour::MySql, 100001, 112, "MySQL 10.0.1"),
            (Flavour::MariaDb, 110900, 104, "MariaDB 11.9.0"),
            (Flavour::MariaDb, 120302, 104, "MariaDB 12.3.2"),
        ] {
            let Recognised::Server(host) = judged(flavour, version, 0x110, size) else { panic!("{name}") };
            assert!(host.is_new().is_some_and(|text| text.starts_with(name)), "{name}");
        }
    }

    #[test]
    fn others_are_refused_by_name() {
        for (flavour, version, interface, size, text) in [
            (Flavour::MySql, 50562, 0x103, 104, "MySQL 5.5.62 is too old: 5.6 is the oldest"),
            (Flavour::MySql, 50173, 0x101, 96, "MySQL 5.1.73 is too old"),
            (Flavour::MySql, 0, 0, 0, "MySQL 0.0.0 is too old"),
            (Flavour::MySql, -1, 0x104, 104, "too old"),
            (Flavour::MariaDb, 100434, 0x10e, 104, "MariaDB 10.4.34 is too old: 10.5 is the oldest"),
            (Flavour::MySql, 100001, 0x10c, 120, "interface 0x10c, 120 bytes"),
            (Flavour::MySql, 100001, 0x200, 112, "interface 0x200, 112 bytes"),
            (Flavour::MariaDb, 120000, 0x110, 112, "MariaDB 12.0.0 declares plugins in an unknown way"),
            (Flavour::MySql, 50600, 0x104, -1, "unknown way"),
        ] {
            let Recognised::Refused(why) = judged(flavour, version, interface, size) else {
                panic!("{text}")
            };
            assert!(why.contains(text), "{why}");
        }
        assert_eq!(Host::recognise(), Recognised::NoServer, "of this program");
    }
}
