//! `libHotBackup.so` as any program uses it: by dlopen and its C interface.

use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::path::Path;

use anyhow::{Result, bail};

type Poll = extern "C" fn(f32, *const c_char, *mut c_void) -> c_int;
type OnError = extern "C" fn(c_int, *const c_char, *mut c_void);
type Create = unsafe extern "C" fn(
    *const *const c_char,
    *const *const c_char,
    c_int,
    Option<Poll>,
    *mut c_void,
    Option<OnError>,
    *mut c_void,
    *const c_void,
    *const c_void,
    *const c_void,
    *const c_void,
    *const c_void,
    *const c_void,
) -> c_int;
type Throttle = unsafe extern "C" fn(c_ulong);

/// The loaded library.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    create: Create,
    throttle: Throttle,
}

extern "C" fn report(errnum: c_int, message: *const c_char, _extra: *mut c_void) {
    // SAFETY: error_fun gets a NUL-terminated string (tokubackup.h).
    let message = unsafe { std::ffi::CStr::from_ptr(message) };
    eprintln!("backup failed: {errnum} {}", message.to_string_lossy());
}

impl Library {
    /// Loads the library at `path`.
    pub fn load(path: &Path) -> Result<Library> {
        let name = CString::new(path.as_os_str().as_encoded_bytes())?;
        // SAFETY: a NUL-terminated path; the library has no constructor that does anything outside of a server.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            bail!("cannot load {}", path.display());
        }
        let find = |symbol: &std::ffi::CStr| {
            // SAFETY: the handle is valid and never closed.
            let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
            if address.is_null() { bail!("{} has no {symbol:?}", path.display()) } else { Ok(address) }
        };
        // SAFETY: these symbols have these types (include/tokubackup.h).
        unsafe {
            Ok(Library {
                create: std::mem::transmute::<*mut c_void, Create>(find(c"tokubackup_create_backup")?),
                throttle: std::mem::transmute::<*mut c_void, Throttle>(find(c"tokubackup_throttle_backup")?),
            })
        }
    }

    /// Bounds the copying, bytes per second.
    pub fn throttle(&self, rate: u64) {
        // SAFETY: takes a number.
        unsafe { (self.throttle)(rate) };
    }

    /// Backs up one directory; `poll` with `extra` as in the C interface.
    pub fn back_up(
        &self,
        source: &Path,
        image: &Path,
        poll: Option<Poll>,
        extra: *mut c_void,
    ) -> Result<c_int> {
        let source = CString::new(source.as_os_str().as_encoded_bytes())?;
        let image = CString::new(image.as_os_str().as_encoded_bytes())?;
        let none = std::ptr::null();
        let on_error: Option<OnError> = if poll.is_none() { Some(report) } else { None };
        // SAFETY: arrays of one valid string each; all callbacks but two are NULL, which is allowed.
        Ok(unsafe {
            (self.create)(
                [source.as_ptr()].as_ptr(),
                [image.as_ptr()].as_ptr(),
                1,
                poll,
                extra,
                on_error,
                std::ptr::null_mut(),
                none,
                none,
                none,
                none,
                none,
                none,
            )
        })
    }
}
