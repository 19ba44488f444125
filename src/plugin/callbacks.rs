//! Check and update of the variables that are more than a value.
//!
//! Check refuses what is wrong before anything happens. The backup runs in update on MySQL 5.6 and MariaDB, in
//! check on MySQL 5.7 and later, which hold a lock of the session in update. `= DEFAULT` comes without a check and
//! runs nothing.

use std::ffi::{CStr, c_char, c_int, c_longlong, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null;

use tokudb_backup_abi::common::{MysqlValue, SysVar, Thd, ValueType, er};

use super::{guarded, guarded_update, restore, run, values, variables};
use crate::engine::destination;
use crate::engine::error::{Error, Result};
use crate::server::{self, Server};

/// A backup or its refusal, with the server's code for it.
struct Refusal {
    code: u32,
    error: Error,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let code = if error.errno == libc::EINTR { er::QUERY_INTERRUPTED } else { er::UNKNOWN_ERROR };
        Refusal { code, error }
    }
}

/// What a SET is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Session,
    Global,
    Unknown,
}

/// Reads the scope behind `save`: it is `set_var::save_result`, with the scope (`enum_var_type`) 8 bytes and the
/// expression 16 bytes before it (set_var.h, the same on every server that was run). The expression is known from
/// `value` too, which guards the reading.
///
/// # Safety
/// Both are what a check callback was called with.
unsafe fn scope(save: *mut c_void, value: *mut MysqlValue) -> Scope {
    // SAFETY: `save` lies inside a set_var, `value` at the beginning of a holder (see `MysqlValue::ITEM_OFFSET`).
    let (expected, found, scope) = unsafe {
        (
            value.cast::<u8>().add(MysqlValue::ITEM_OFFSET).cast::<usize>().read(),
            save.cast::<u8>().sub(16).cast::<usize>().read(),
            save.cast::<u8>().sub(8).cast::<c_int>().read(),
        )
    };
    match scope {
        _ if expected != found => Scope::Unknown,
        0 | 1 => Scope::Session,
        2.. => Scope::Global,
        _ => Scope::Unknown,
    }
}

/// The value of a SET as bytes; `None` for NULL.
///
/// # Safety
/// `value` is what a check callback was called with.
unsafe fn read(value: *mut MysqlValue) -> Option<Vec<u8>> {
    let mut buffer = [0u8; 4200];
    let mut length = buffer.len() as c_int;
    // SAFETY: the buffer is as long as said; a longer value is put into the statement's memory.
    let text = unsafe { ((*value).val_str)(value, buffer.as_mut_ptr().cast(), &mut length) };
    if text.is_null() {
        return None;
    }
    // SAFETY: the server has set `length` to that of the text.
    Some(
        unsafe { std::slice::from_raw_parts(text.cast::<u8>(), usize::try_from(length).unwrap_or(0)) }
            .to_vec(),
    )
}

/// Makes the statement fail and remembers why in the session.
fn fail(server: &dyn Server, thd: Thd, refusal: &Refusal) {
    let message = super::c_text(&refusal.error.message);
    let text = values::PRIVILEGED
        .intern(message.as_bytes())
        .unwrap_or(c"too many different messages to keep them all: see the error log of the server");
    variables::set_last_error(thd, refusal.error.errno, Some(text));
    server.raise(refusal.code, &message);
}

fn global_refused() -> Refusal {
    Refusal {
        code: er::LOCAL_VARIABLE,
        error: Error::invalid(
            "Variable 'tokudb_backup_dir' is a SESSION variable and can't be used with SET GLOBAL or SET PERSIST: \
             SET tokudb_backup_dir='...' runs a backup in this session",
        ),
    }
}

fn privilege_missing(server: &dyn Server) -> Refusal {
    Refusal {
        code: er::SPECIFIC_ACCESS_DENIED,
        error: Error::new(
            libc::EPERM,
            format!("Access denied; you need the {} privilege to take a backup", server.privilege()),
        ),
    }
}

/// What can be said of a destination by its name alone, before anything else happens.
fn named_destination(value: Option<&[u8]>) -> Result<&Path> {
    let what = "the destination of the backup (tokudb_backup_dir)";
    let Some(value) = value else {
        return Err(Error::invalid(format!("{what} is NULL: give the absolute path of an empty directory")));
    };
    if value.is_empty() {
        return Err(Error::invalid(format!("{what} is empty: give the absolute path of an empty directory")));
    }
    destination::check_text(value)
}

/// SET tokudb_backup_dir, first half.
pub unsafe extern "C" fn check_dir(
    thd: Thd,
    variable: *mut SysVar,
    save: *mut c_void,
    value: *mut MysqlValue,
) -> c_int {
    guarded(1, || {
        let Some(server) = server::current() else { return 1 };
        // SAFETY: called by the server with the descriptor of this variable, on the session's thread.
        let Some(current) = (unsafe { variables::string_address(variable, thd) }) else { return 1 };
        // SAFETY: `value` is what the server called us with.
        let wanted = unsafe { read(value) };
        let save_value = save.cast::<*const c_char>();
        let statement = server.statement_id(thd);
        if let Some(statement) = statement {
            // SAFETY: every value of this variable is interned.
            let same = |before| unsafe { values::text(before) }.map(CStr::to_bytes) == wanted.as_deref();
            if let Some(before) = restore::value_put_back(statement, same) {
                // SAFETY: `save` takes a string's pointer.
                unsafe { *save_value = before };
                return 0;
            }
            // SAFETY: the session's own value.
            restore::begin(statement, unsafe { *current });
        }
        // SAFETY: as above.
        match accept(server, thd, unsafe { scope(save, value) }, wanted.as_deref()) {
            Ok(kept) => {
                // SAFETY: `save` takes a string's pointer; ours is never freed.
                unsafe { *save_value = kept.as_ptr() };
                0
            }
            Err(refusal) => {
                if let Some(statement) = statement {
                    restore::over(statement);
                }
                fail(server, thd, &refusal);
                1
            }
        }
    })
}

/// Everything that check does once the value is known; the value to keep.
fn accept(
    server: &'static dyn Server,
    thd: Thd,
    scope: Scope,
    wanted: Option<&[u8]>,
) -> std::result::Result<&'static CStr, Refusal> {
    if scope == Scope::Global {
        return Err(global_refused());
    }
    if !server.may_back_up(thd) {
        return Err(privilege_missing(server));
    }
    let path = named_destination(wanted)?;
    let runs_here = server.host().locks_session_in_update();
    if runs_here && scope == Scope::Unknown {
        return Err(Error::new(
            libc::ENOTSUP,
            format!("this build of {} does not tell whether SET is for the session", server.host().name()),
        )
        .into());
    }
    let kept = values::PRIVILEGED.intern(path.as_os_str().as_bytes()).ok_or_else(|| {
        Error::new(
            libc::ENOMEM,
            "too many different values of tokudb_backup_dir since the server was started",
        )
    })?;
    if runs_here {
        run::back_up(server, thd, path)?;
        variables::set_last_error(thd, 0, None);
    }
    Ok(kept)
}

/// SET tokudb_backup_dir, second half.
pub unsafe extern "C" fn update_dir(
    thd: Thd,
    variable: *mut SysVar,
    target: *mut c_void,
    save: *const c_void,
) {
    guarded_update(|| {
        let Some(server) = server::current() else { return };
        // SAFETY: called by the server with the descriptor of this variable; null asks for the global value.
        let Some(global) = (unsafe { variables::string_address(variable, Thd::NONE) }) else { return };
        let target = target.cast::<*const c_char>();
        // SAFETY: `save` holds the value that check has put there, or is the default's own address.
        let wanted = unsafe { *save.cast::<*const c_char>() };
        if target == global {
            // The global value stays NULL; = DEFAULT asks for no more.
            if !wanted.is_null() {
                fail(server, thd, &global_refused());
            }
            return;
        }
        let statement = server.statement_id(thd);
        let is_default = std::ptr::eq(save.cast(), global);
        if is_default && let Some(statement) = statement {
            // SAFETY: the session's own value.
            restore::begin(statement, unsafe { *target });
        }
        let outcome = if is_default
            || server.host().locks_session_in_update()
            || statement.is_some_and(restore::take_restoring)
        {
            Ok(())
        } else {
            update_runs(server, thd, wanted)
        };
        if let Some(statement) = statement {
            restore::over(statement);
        }
        match outcome {
            // SAFETY: the session's own value; ours is never freed.
            Ok(()) => unsafe { *target = wanted },
            Err(refusal) => fail(server, thd, &refusal),
        }
    });
}

fn update_runs(
    server: &'static dyn Server,
    thd: Thd,
    wanted: *const c_char,
) -> std::result::Result<(), Refusal> {
    // SAFETY: check has interned it.
    let wanted = unsafe { values::text(wanted) };
    let path = named_destination(wanted.map(CStr::to_bytes))?;
    run::back_up(server, thd, path)?;
    variables::set_last_error(thd, 0, None);
    Ok(())
}

/// SET of a string that is only kept.
pub unsafe extern "C" fn check_text(
    thd: Thd,
    _variable: *mut SysVar,
    save: *mut c_void,
    value: *mut MysqlValue,
) -> c_int {
    guarded(1, || {
        let Some(server) = server::current() else { return 1 };
        // SAFETY: `value` is what the server called us with.
        let wanted = unsafe { read(value) };
        let pool = if server.may_back_up(thd) { &values::PRIVILEGED } else { &values::ANYONE };
        let kept = match wanted.as_deref().map(|wanted| pool.intern(wanted)) {
            None => null(),
            Some(Some(kept)) => kept.as_ptr(),
            Some(None) => {
                let text = c"the value contains a NUL byte, or too many different values were set since the server was started";
                server.raise(er::UNKNOWN_ERROR, text);
                return 1;
            }
        };
        // SAFETY: `save` takes a string's pointer; ours is never freed.
        unsafe { *save.cast::<*const c_char>() = kept };
        0
    })
}

/// See [`check_text`].
pub unsafe extern "C" fn update_text(
    _thd: Thd,
    _variable: *mut SysVar,
    target: *mut c_void,
    save: *const c_void,
) {
    // SAFETY: both are a string's pointer (plugin.h).
    unsafe { *target.cast::<*const c_char>() = *save.cast::<*const c_char>() };
}

/// SET tokudb_backup_throttle, first half.
pub unsafe extern "C" fn check_throttle(
    thd: Thd,
    _variable: *mut SysVar,
    save: *mut c_void,
    value: *mut MysqlValue,
) -> c_int {
    guarded(1, || {
        let Some(server) = server::current() else { return 1 };
        if !may_throttle(server, thd) {
            return 1;
        }
        let mut rate: c_longlong = 0;
        // SAFETY: `value` is what the server called us with.
        let (is_null, unsigned, kind) = unsafe {
            let is_null = ((*value).val_int)(value, &mut rate);
            (is_null != 0, ((*value).is_unsigned)(value) != 0, ((*value).value_type)(value))
        };
        if is_null || kind != ValueType::INT || (rate < 0 && !unsigned) {
            let text =
                c"tokudb_backup_throttle takes bytes per second: 0 pauses the backup, DEFAULT sets no bound";
            server.raise(er::UNKNOWN_ERROR, text);
            return 1;
        }
        // SAFETY: `save` takes an unsigned long long.
        unsafe { *save.cast::<u64>() = rate.cast_unsigned() };
        0
    })
}

/// SET tokudb_backup_throttle, second half: at once for the backup that runs, whoever sets it.
pub unsafe extern "C" fn update_throttle(
    thd: Thd,
    _variable: *mut SysVar,
    target: *mut c_void,
    save: *const c_void,
) {
    guarded_update(|| {
        let Some(server) = server::current() else { return };
        // = DEFAULT has not been checked.
        let is_default =
            variables::throttle_address(Thd::NONE).is_some_and(|global| std::ptr::eq(save.cast(), global));
        if is_default && !may_throttle(server, thd) {
            return;
        }
        // SAFETY: both are unsigned long longs (plugin.h).
        let rate = unsafe { *save.cast::<u64>() };
        // SAFETY: as above.
        unsafe { *target.cast::<u64>() = rate };
        run::throttle(rate);
    });
}

fn may_throttle(server: &dyn Server, thd: Thd) -> bool {
    if server.may_back_up(thd) {
        return true;
    }
    let text = format!("Access denied; you need the {} privilege to throttle a backup", server.privilege());
    server.raise(er::SPECIFIC_ACCESS_DENIED, &super::c_text(&text));
    false
}
