//! The plugin's system variables: their metadata, and access to their values.
//!
//! Session strings carry NOCMDOPT: MariaDB would read a THDVAR_STR as a SYSVAR_STR otherwise, and no server runs
//! the callbacks for what its command line says. Numbers of the session do not, or MySQL would never apply their
//! defaults.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_ulong, c_ulonglong};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokudb_backup_abi::common::{
    CheckFunction, SysVar, SysVarBool, SysVarFlags, SysVarHeader, SysVarStr, SysVarUlong, Thd, ThdVarEnum,
    ThdVarStr, ThdVarUlong, ThdVarUlongLong, TypeLib, UpdateFunction,
};

use super::callbacks;
use super::declare::Shared;
use super::values;
use crate::server::{Flavour, Hold, Host};

/// Version of the plugin, as packagers set it.
pub const PLUGIN_VERSION: &str = env!("TOKUDB_BACKUP_PLUGIN_VERSION");
/// Version of the library.
pub const LIBRARY_VERSION: &str = env!("TOKUDB_BACKUP_VERSION");

/// How long the gate may stay closed, in milliseconds, by default.
const GATE_TIMEOUT: u64 = 100;
/// How long DDL is waited for, in seconds, by default.
const LOCK_TIMEOUT: c_ulong = 60;
const YEAR: c_ulong = 365 * 24 * 3600;

const STR: SysVarFlags = SysVarFlags::STR;
const READONLY: SysVarFlags = SysVarFlags::READONLY;
const NOCMDOPT: SysVarFlags = SysVarFlags::NOCMDOPT;
const SESSION: SysVarFlags = SysVarFlags::THDLOCAL;
const UNSIGNED: SysVarFlags = SysVarFlags::UNSIGNED;
const OPCMDARG: SysVarFlags = SysVarFlags::OPCMDARG;

const fn header(
    name: &'static CStr,
    comment: &'static CStr,
    flags: SysVarFlags,
    callbacks: Option<(CheckFunction, UpdateFunction)>,
) -> SysVarHeader {
    let (check, update) = match callbacks {
        Some((check, update)) => (Some(check), Some(update)),
        None => (None, None),
    };
    SysVarHeader { flags: flags.bits(), name: name.as_ptr(), comment: comment.as_ptr(), check, update }
}

const fn fixed(text: &'static str) -> Shared<*const c_char> {
    Shared::new(text.as_ptr().cast())
}

static PLUGIN_VERSION_VALUE: Shared<*const c_char> =
    fixed(concat!(env!("TOKUDB_BACKUP_PLUGIN_VERSION"), "\0"));
static VERSION_VALUE: Shared<*const c_char> = fixed(concat!(env!("TOKUDB_BACKUP_VERSION"), "\0"));
static ALLOWED_PREFIX_VALUE: Shared<*const c_char> = Shared::new(null());
static GATE_TIMEOUT_VALUE: AtomicU64 = AtomicU64::new(GATE_TIMEOUT);
static SAFE_SLAVE_VALUE: AtomicU8 = AtomicU8::new(0);
static SAFE_SLAVE_TIMEOUT_VALUE: AtomicU64 = AtomicU64::new(0);

static PLUGIN_VERSION_VARIABLE: Shared<SysVarStr> = Shared::new(SysVarStr {
    header: header(
        c"plugin_version",
        c"version of the TokuBackup plugin",
        STR.union(READONLY).union(NOCMDOPT),
        None,
    ),
    value: PLUGIN_VERSION_VALUE.get(),
    def_val: concat!(env!("TOKUDB_BACKUP_PLUGIN_VERSION"), "\0").as_ptr().cast(),
});

static VERSION: Shared<SysVarStr> = Shared::new(SysVarStr {
    header: header(
        c"version",
        c"version of the TokuBackup library",
        STR.union(READONLY).union(NOCMDOPT),
        None,
    ),
    value: VERSION_VALUE.get(),
    def_val: concat!(env!("TOKUDB_BACKUP_VERSION"), "\0").as_ptr().cast(),
});

static ALLOWED_PREFIX: Shared<SysVarStr> = Shared::new(SysVarStr {
    header: header(
        c"allowed_prefix",
        c"allowed prefix of the destination directory",
        STR.union(READONLY),
        None,
    ),
    value: ALLOWED_PREFIX_VALUE.get(),
    def_val: null(),
});

static THROTTLE: Shared<ThdVarUlongLong> = Shared::new(ThdVarUlongLong {
    header: header(
        c"throttle",
        c"backup throttle on write rate in bytes per second",
        SysVarFlags::LONGLONG.union(UNSIGNED).union(SESSION),
        Some((callbacks::check_throttle, callbacks::update_throttle)),
    ),
    offset: -1,
    def_val: c_ulonglong::MAX,
    min_val: 0,
    max_val: c_ulonglong::MAX,
    blk_sz: 1,
    resolve: None,
});

static DIR: Shared<ThdVarStr> = Shared::new(ThdVarStr {
    header: header(
        c"dir",
        c"name of the directory where the backup is stored",
        STR.union(SESSION).union(NOCMDOPT),
        Some((callbacks::check_dir, callbacks::update_dir)),
    ),
    offset: -1,
    def_val: null(),
    resolve: None,
});

static LAST_ERROR: Shared<ThdVarUlong> = Shared::new(ThdVarUlong {
    header: header(
        c"last_error",
        c"error from the last backup. 0 is success",
        SysVarFlags::LONG.union(UNSIGNED).union(SESSION).union(NOCMDOPT),
        None,
    ),
    offset: -1,
    def_val: 0,
    min_val: 0,
    max_val: c_ulong::MAX,
    blk_sz: 1,
    resolve: None,
});

static LAST_ERROR_STRING: Shared<ThdVarStr> = Shared::new(ThdVarStr {
    header: header(
        c"last_error_string",
        c"error string of the last backup",
        STR.union(SESSION).union(NOCMDOPT),
        Some((callbacks::check_text, callbacks::update_text)),
    ),
    offset: -1,
    def_val: null(),
    resolve: None,
});

static EXCLUDE: Shared<ThdVarStr> = Shared::new(ThdVarStr {
    header: header(
        c"exclude",
        c"exclude source file regular expression",
        STR.union(SESSION).union(NOCMDOPT),
        Some((callbacks::check_text, callbacks::update_text)),
    ),
    offset: -1,
    def_val: null(),
    resolve: None,
});

static SAFE_SLAVE: Shared<SysVarBool> = Shared::new(SysVarBool {
    header: header(
        c"safe_slave",
        c"Wait until there is no temporary slave tables.",
        SysVarFlags::BOOL.union(OPCMDARG),
        None,
    ),
    value: SAFE_SLAVE_VALUE.as_ptr(),
    def_val: 0,
});

static SAFE_SLAVE_TIMEOUT: Shared<SysVarUlong> = Shared::new(SysVarUlong {
    header: header(
        c"safe_slave_timeout",
        c"The maximum amount of seconds to wait for slave temp tables disappear 0 - don't wait",
        SysVarFlags::LONGLONG.union(UNSIGNED).union(OPCMDARG),
        None,
    ),
    value: SAFE_SLAVE_TIMEOUT_VALUE.as_ptr(),
    def_val: 0,
    min_val: 0,
    max_val: c_ulong::MAX,
    blk_sz: 1,
});

/// In the order of [`Lock`]; new ones behind the last, since servers keep the number.
static LOCK_NAMES: Shared<[*const c_char; 5]> =
    Shared::new([c"AUTO".as_ptr(), c"OFF".as_ptr(), c"DDL".as_ptr(), c"ALL".as_ptr(), null()]);
static LOCK_NAME_LENGTHS: Shared<[c_uint; 5]> = Shared::new([4, 3, 3, 3, 0]);
static LOCK_TYPES: Shared<TypeLib> = Shared::new(TypeLib {
    count: 4,
    name: c"tokudb_backup_lock".as_ptr(),
    type_names: LOCK_NAMES.get().cast_const().cast(),
    type_lengths: LOCK_NAME_LENGTHS.get().cast_const().cast(),
    hidden_values: null(),
});

static LOCK: Shared<ThdVarEnum> = Shared::new(ThdVarEnum {
    header: header(
        c"lock",
        c"what is held off at the end of a backup: AUTO (DDL where the server cannot recover from a crash in it), OFF \
          (nothing), DDL, ALL (every write)",
        SysVarFlags::ENUM.union(SESSION),
        None,
    ),
    offset: -1,
    def_val: 0,
    resolve: None,
    typelib: LOCK_TYPES.get(),
});

static LOCK_TIMEOUT_VARIABLE: Shared<ThdVarUlong> = Shared::new(ThdVarUlong {
    header: header(
        c"lock_timeout",
        c"seconds in all to try to hold it off, in attempts of a second, before the backup fails",
        SysVarFlags::LONG.union(UNSIGNED).union(SESSION),
        None,
    ),
    offset: -1,
    def_val: LOCK_TIMEOUT,
    min_val: 1,
    max_val: YEAR,
    blk_sz: 1,
    resolve: None,
});

static GATE_TIMEOUT_VARIABLE: Shared<SysVarUlong> = Shared::new(SysVarUlong {
    header: header(
        c"gate_timeout",
        c"milliseconds that writes of the server may wait at the end of a backup",
        SysVarFlags::LONG.union(UNSIGNED),
        None,
    ),
    value: GATE_TIMEOUT_VALUE.as_ptr(),
    def_val: GATE_TIMEOUT,
    min_val: 1,
    max_val: 60_000,
    blk_sz: 1,
});

static LIST: Shared<[*mut SysVar; 14]> = Shared::new([
    PLUGIN_VERSION_VARIABLE.get().cast(),
    VERSION.get().cast(),
    ALLOWED_PREFIX.get().cast(),
    THROTTLE.get().cast(),
    DIR.get().cast(),
    LAST_ERROR.get().cast(),
    LAST_ERROR_STRING.get().cast(),
    EXCLUDE.get().cast(),
    LOCK.get().cast(),
    LOCK_TIMEOUT_VARIABLE.get().cast(),
    GATE_TIMEOUT_VARIABLE.get().cast(),
    SAFE_SLAVE.get().cast(),
    SAFE_SLAVE_TIMEOUT.get().cast(),
    null_mut(),
]);

/// The descriptors, a null behind the last.
pub fn list() -> *mut *mut SysVar {
    LIST.get().cast()
}

/// Adapts the descriptors to the host.
///
/// # Safety
/// Called by the constructor, before any server reads them.
pub unsafe fn prepare(host: &Host) {
    if host.flavour == Flavour::MySql && host.version_id >= 80000 {
        // Who may PERSIST_ONLY must not loosen the prefix of the next start. Older servers have no such flag.
        for variable in [PLUGIN_VERSION_VARIABLE.get(), VERSION.get(), ALLOWED_PREFIX.get()] {
            // SAFETY: by the caller's promise nobody else looks.
            unsafe { (*variable).header.flags |= SysVarFlags::NOPERSIST.bits() };
        }
    }
}

/// Address of a session's value, or of the global one for [`Thd::NONE`].
macro_rules! resolve {
    ($variable:expr, $thd:expr) => {{
        // SAFETY: the server has filled offset and resolver before it calls anything of ours, and changes them no
        // more while the plugin is installed; the session is the calling thread's.
        unsafe {
            let variable = &*$variable.get();
            variable.resolve.map(|resolve| resolve($thd, variable.offset)).filter(|address| !address.is_null())
        }
    }};
}

/// Where a session string variable, given by its descriptor, keeps its value.
///
/// # Safety
/// `variable` is the descriptor of a session string variable of ours, and `thd` the calling thread's session or
/// [`Thd::NONE`].
pub unsafe fn string_address(variable: *mut SysVar, thd: Thd) -> Option<*mut *const c_char> {
    // SAFETY: by the caller's promise.
    let variable = unsafe { &*variable.cast::<ThdVarStr>() };
    // SAFETY: filled by the server, see `resolve!`.
    variable
        .resolve
        .map(|resolve| unsafe { resolve(thd, variable.offset) })
        .filter(|address| !address.is_null())
}

/// Where the session's throttle is kept, in bytes per second.
pub fn throttle_address(thd: Thd) -> Option<*mut c_ulonglong> {
    resolve!(THROTTLE, thd)
}

/// Sets what the session's last backup came to.
pub fn set_last_error(thd: Thd, errno: c_int, text: Option<&'static CStr>) {
    if let Some(address) = resolve!(LAST_ERROR, thd) {
        // SAFETY: the session's own value; readers in other threads read an aligned word.
        unsafe { *address = errno.unsigned_abs().into() };
    }
    if let Some(address) = resolve!(LAST_ERROR_STRING, thd) {
        // SAFETY: as above; the text is never freed.
        unsafe { *address = text.map_or(null(), CStr::as_ptr) };
    }
}

/// The values of tokudb_backup_lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// What the server needs.
    Auto,
    /// Nothing.
    Off,
    /// DDL.
    Ddl,
    /// Every write.
    All,
}

impl Lock {
    fn of(value: c_ulong) -> Lock {
        match value {
            1 => Lock::Off,
            2 => Lock::Ddl,
            3 => Lock::All,
            _ => Lock::Auto,
        }
    }

    /// What is held off on a server.
    pub fn on(self, host: &Host) -> Option<Hold> {
        match self {
            Lock::Auto if host.has_atomic_ddl() => None,
            Lock::Off => None,
            Lock::Auto | Lock::Ddl => Some(Hold::Ddl),
            Lock::All => Some(Hold::Everything),
        }
    }
}

/// What a session has set for its backup.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes per second of the first copying; the greatest number: no bound, 0: pause.
    pub throttle: u64,
    /// Regular expression of the files to leave out.
    pub exclude: Option<&'static CStr>,
    /// What is held off at the end.
    pub lock: Lock,
    /// How long to try.
    pub lock_timeout: Duration,
    /// How long the gate may stay closed.
    pub gate_timeout: Duration,
    /// Stop a replica's SQL threads for the end, and for how long to wait for temporary tables to go.
    pub safe_slave: Option<Duration>,
    /// Directory below which every destination must lie.
    pub allowed_prefix: Option<PathBuf>,
}

impl Settings {
    /// Reads them.
    pub fn of(thd: Thd) -> Settings {
        let (throttle, exclude) = (throttle_address(thd), resolve!(EXCLUDE, thd));
        let (lock, lock_timeout) = (resolve!(LOCK, thd), resolve!(LOCK_TIMEOUT_VARIABLE, thd));
        // SAFETY: the session's own values, read on its thread; strings are interned, the prefix is the server's own
        // and not changed while the plugin is installed.
        unsafe {
            let prefix = values::text(ALLOWED_PREFIX_VALUE.get().read());
            Settings {
                throttle: throttle.map_or(u64::MAX, |value| *value),
                exclude: exclude.and_then(|value| values::text(*value)).filter(|text| !text.is_empty()),
                lock: lock.map_or(Lock::Auto, |value| Lock::of(*value)),
                lock_timeout: Duration::from_secs(lock_timeout.map_or(LOCK_TIMEOUT, |value| *value)),
                gate_timeout: Duration::from_millis(GATE_TIMEOUT_VALUE.load(Ordering::Relaxed)),
                safe_slave: (SAFE_SLAVE_VALUE.load(Ordering::Relaxed) != 0)
                    .then(|| Duration::from_secs(SAFE_SLAVE_TIMEOUT_VALUE.load(Ordering::Relaxed))),
                allowed_prefix: prefix
                    .filter(|prefix| !prefix.is_empty())
                    .map(|prefix| PathBuf::from(OsStr::from_bytes(prefix.to_bytes()))),
            }
        }
    }
}
