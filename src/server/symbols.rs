//! Functions and data of the server, found by name when first needed: nothing of a server is ever linked.

use std::ffi::{CStr, c_void};

/// Address of an exported symbol of the server, or of a library that it loaded; `None` where it has none.
pub fn address(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: dlsym only reads the NUL-terminated name.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// A function of the server by its first known name; C++ names differ from version to version.
///
/// # Safety
/// `F` is the type of an `extern "C"` function that every symbol of `names` has.
pub unsafe fn function<F: Copy>(names: &[&CStr]) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    let found = names.iter().find_map(|name| address(name))?;
    // SAFETY: a function pointer and a data pointer are alike here, and the caller vouches for the type.
    Some(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
}

/// A statement that was put together with a NUL at its end.
pub const fn sql(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(sql) => sql,
        Err(_) => panic!("a NUL at the end, and no other"),
    }
}
