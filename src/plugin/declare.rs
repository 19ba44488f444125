//! What the server looks up by dlsym: six exported symbols, filled for the server that loads us.
//!
//! One file serves every server, so the declaration is made at load time, by a constructor that looks at the
//! server's own static data. It starts no thread: it runs under the loader's lock, in a preloaded library before
//! main, and in programs that are no server at all, where it does nothing. On a server that we do not run on it says
//! so where the error log goes, and leaves the declarations empty: such a server refuses them cleanly, by their
//! interface version of 0.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use tokudb_backup_abi::common::{MYSQL_DAEMON_PLUGIN, MysqlDaemon, PLUGIN_LICENSE_GPL};
use tokudb_backup_abi::mariadb::{MATURITY_STABLE, MariaPlugin};
use tokudb_backup_abi::mysql::{MysqlPlugin104, MysqlPlugin112};

use super::{lifecycle, status, variables};
use crate::server::{Flavour, Host, Recognised};

/// A static that the server reads and writes through pointers.
#[repr(transparent)]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: written by the constructor, before anyone else looks, then by the server under its own locks; we read
// only what the server wrote before it called `init`.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A static value.
    pub const fn new(value: T) -> Self {
        Shared(UnsafeCell::new(value))
    }

    /// Where it is.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Room for two declarations of any form: ours and the all-zero one that ends the array.
type Declarations = Shared<[u64; 28]>;

/// Version of the plugin interface of MySQL; 0 is refused.
#[unsafe(no_mangle)]
pub static _mysql_plugin_interface_version_: Shared<c_int> = Shared::new(0);
/// Size of a declaration of MySQL.
#[unsafe(no_mangle)]
pub static _mysql_sizeof_struct_st_plugin_: Shared<c_int> = Shared::new(0);
/// Declarations of MySQL.
#[unsafe(no_mangle)]
pub static _mysql_plugin_declarations_: Declarations = Shared::new([0; 28]);
/// Version of the plugin interface of MariaDB; 0 is refused.
#[unsafe(no_mangle)]
pub static _maria_plugin_interface_version_: Shared<c_int> = Shared::new(0);
/// Size of a declaration of MariaDB.
#[unsafe(no_mangle)]
pub static _maria_sizeof_struct_st_plugin_: Shared<c_int> = Shared::new(0);
/// Declarations of MariaDB.
#[unsafe(no_mangle)]
pub static _maria_plugin_declarations_: Declarations = Shared::new([0; 28]);

static DAEMON: Shared<MysqlDaemon> = Shared::new(MysqlDaemon { interface_version: 0 });

const NAME: &CStr = c"tokudb_backup";
const AUTHOR: &CStr = c"The tokudb_backup authors";
const DESCRIPTION: &CStr = c"Hot physical backup of the running server";
/// 1.0, as the server wants it: major and minor in a byte each.
const VERSION: c_uint = 0x0100;
const VERSION_TEXT: *const c_char = concat!(env!("TOKUDB_BACKUP_PLUGIN_VERSION"), "\0").as_ptr().cast();

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = declare;

/// Fills the declarations for the server around us, if it is one whose interface we know.
extern "C" fn declare() {
    let host = match Host::recognise() {
        Recognised::Server(host) => host,
        Recognised::Refused(why) => return say(&why),
        Recognised::NoServer => return,
    };
    // SAFETY: nobody else looks before the constructors have run; variables are told the host's flags the same way.
    unsafe {
        (*DAEMON.get()).interface_version = (host.version_id << 8) as c_int;
        variables::prepare(&host);
        match (host.flavour, host.declaration_size) {
            (Flavour::MariaDb, 104) => {
                _maria_plugin_declarations_.get().cast::<MariaPlugin>().write(maria());
                publish(&_maria_plugin_interface_version_, &_maria_sizeof_struct_st_plugin_, &host);
            }
            (Flavour::MySql, 104) => {
                _mysql_plugin_declarations_.get().cast::<MysqlPlugin104>().write(mysql104());
                publish(&_mysql_plugin_interface_version_, &_mysql_sizeof_struct_st_plugin_, &host);
            }
            (Flavour::MySql, 112) => {
                _mysql_plugin_declarations_.get().cast::<MysqlPlugin112>().write(mysql112());
                publish(&_mysql_plugin_interface_version_, &_mysql_sizeof_struct_st_plugin_, &host);
            }
            _ => {}
        }
    }
}

/// Writes a line to the standard error, which is the error log of a server that runs; a log function of the server
/// would be called before the server is ready for it.
fn say(why: &str) {
    let line = format!("[ERROR] tokudb_backup is not loaded: {why}\n");
    // SAFETY: the bytes live during the call.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
}

/// # Safety
/// Called by the constructor.
unsafe fn publish(interface: &Shared<c_int>, size: &Shared<c_int>, host: &Host) {
    // SAFETY: by the caller's promise nobody else looks.
    unsafe {
        *interface.get() = host.interface_version;
        *size.get() = host.declaration_size as c_int;
    }
}

fn info() -> *const c_void {
    DAEMON.get().cast_const().cast()
}

fn mysql104() -> MysqlPlugin104 {
    MysqlPlugin104 {
        kind: MYSQL_DAEMON_PLUGIN,
        info: info(),
        name: NAME.as_ptr(),
        author: AUTHOR.as_ptr(),
        descr: DESCRIPTION.as_ptr(),
        license: PLUGIN_LICENSE_GPL,
        init: Some(lifecycle::init),
        deinit: Some(lifecycle::deinit),
        version: VERSION,
        status_vars: status::variables(),
        system_vars: variables::list(),
        reserved: ptr::null_mut(),
        flags: 0,
    }
}

fn mysql112() -> MysqlPlugin112 {
    MysqlPlugin112 {
        kind: MYSQL_DAEMON_PLUGIN,
        info: info(),
        name: NAME.as_ptr(),
        author: AUTHOR.as_ptr(),
        descr: DESCRIPTION.as_ptr(),
        license: PLUGIN_LICENSE_GPL,
        init: Some(lifecycle::init),
        check_uninstall: Some(lifecycle::check_uninstall),
        deinit: Some(lifecycle::deinit),
        version: VERSION,
        status_vars: status::variables(),
        system_vars: variables::list(),
        reserved: ptr::null_mut(),
        flags: 0,
    }
}

fn maria() -> MariaPlugin {
    MariaPlugin {
        kind: MYSQL_DAEMON_PLUGIN,
        info: info(),
        name: NAME.as_ptr(),
        author: AUTHOR.as_ptr(),
        descr: DESCRIPTION.as_ptr(),
        license: PLUGIN_LICENSE_GPL,
        init: Some(lifecycle::init),
        deinit: Some(lifecycle::deinit),
        version: VERSION,
        status_vars: status::variables(),
        system_vars: variables::list(),
        version_info: VERSION_TEXT,
        maturity: MATURITY_STABLE,
    }
}
