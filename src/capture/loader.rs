//! Objects that come while a backup runs (P16).

use std::ffi::{CStr, CString, c_char, c_long, c_void};

use super::elf;
use super::hook::{self, keep_errno};
use crate::tracker::{Fault, tracker};

/// dlopen(3): what it brings is intercepted before the caller gets it.
///
/// # Safety
/// `path` is null or a NUL-terminated string.
pub unsafe fn opened(
    call: &'static CStr,
    path: *const c_char,
    real: impl Fn(*const c_char) -> *mut c_void,
) -> *mut c_void {
    let before = elf::adds();
    let mut handle = real(path);
    if handle.is_null() && !path.is_null() {
        // SAFETY: by the caller's promise.
        handle = unsafe { CStr::from_ptr(path) }.to_str().map_or(handle, |name| search(name, &real));
    }
    if hook::is_on() && elf::adds() != before {
        keep_errno(|| {
            if super::intercept_new().is_err() {
                tracker().set_fault(Fault::NotAttached);
            }
            // Its constructors ran before: what files they made is found by name.
            if let Some(pass) = tracker().pin(call) {
                tracker().mark_all_names(&pass);
            }
        });
    }
    handle
}

/// The loader looks for a plain name in the directories that its caller was linked with. Its caller is us now, so
/// those of all objects are tried.
fn search(name: &str, real: &impl Fn(*const c_char) -> *mut c_void) -> *mut c_void {
    let none = std::ptr::null_mut();
    if name.contains('/') {
        return none;
    }
    let candidates = elf::library_directories().into_iter().map(|directory| directory.join(name));
    for candidate in candidates.filter(|candidate| candidate.exists()) {
        let Ok(path) = CString::new(candidate.into_os_string().into_encoded_bytes()) else { continue };
        let handle = real(path.as_ptr());
        if !handle.is_null() {
            // What the first try left is no news to the caller.
            // SAFETY: dlerror has no preconditions.
            unsafe { libc::dlerror() };
            return handle;
        }
    }
    none
}

/// dlmopen(3): objects of another namespace have a libc of their own, whose calls cannot be followed.
///
/// # Safety
/// As for [`opened`].
pub unsafe fn opened_in(
    call: &'static CStr,
    namespace: c_long,
    path: *const c_char,
    real: impl Fn(*const c_char) -> *mut c_void,
) -> *mut c_void {
    /// dlfcn.h: LM_ID_BASE.
    const BASE: c_long = 0;
    if namespace == BASE {
        // SAFETY: by the caller's promise.
        return unsafe { opened(call, path, real) };
    }
    let handle = real(path);
    if hook::is_on() && !handle.is_null() {
        tracker().set_fault(Fault::NotAttached);
    }
    handle
}
