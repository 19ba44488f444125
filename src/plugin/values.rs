//! Values of string variables: interned, and never freed.
//!
//! A session may end, the plugin be uninstalled and installed again, a new session copy a global value: the server
//! keeps pointers all the while. So a value, once shown to it, lives as long as the process. What may be kept is
//! bounded, apart for those who may take backups and for everyone else.

use std::collections::HashSet;
use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, PoisonError};

/// A pool of values with a bound of its own.
pub struct Pool {
    limit: usize,
    kept: Mutex<Option<Kept>>,
}

#[derive(Default)]
struct Kept {
    values: HashSet<&'static CStr>,
    bytes: usize,
}

/// Destinations and messages: only who may take backups makes new ones.
pub static PRIVILEGED: Pool = Pool::new(64 << 20);
/// What any session may set.
pub static ANYONE: Pool = Pool::new(8 << 20);

impl Pool {
    const fn new(limit: usize) -> Self {
        Pool { limit, kept: Mutex::new(None) }
    }

    /// The value as a string that is never freed; `None` when it holds a NUL or the pool is full.
    pub fn intern(&self, value: &[u8]) -> Option<&'static CStr> {
        let value = CString::new(value).ok()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get_or_insert_default();
        if let Some(known) = kept.values.get(value.as_c_str()) {
            return Some(known);
        }
        // What a set's entry and an allocation cost beside the bytes.
        let cost = value.count_bytes() + 64;
        if kept.bytes + cost > self.limit {
            return None;
        }
        kept.bytes += cost;
        let value: &'static CStr = Box::leak(value.into_boxed_c_str());
        kept.values.insert(value);
        Some(value)
    }
}

/// The string behind a variable's pointer; `None` for NULL.
///
/// # Safety
/// `value` is null or one that [`Pool::intern`] returned, or a static string.
pub unsafe fn text(value: *const c_char) -> Option<&'static CStr> {
    // SAFETY: by the caller's promise it is never freed.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once_and_the_bound_holds() {
        let pool = Pool::new(3 * 64 + 30);
        let first = pool.intern(b"0123456789").unwrap();
        assert!(std::ptr::eq(first, pool.intern(b"0123456789").unwrap()));
        assert_eq!(pool.intern(b"a\0b"), None);
        assert!(pool.intern(b"1123456789").is_some());
        assert!(pool.intern(b"2123456789").is_some());
        assert_eq!(pool.intern(b"3123456789"), None);
        assert!(std::ptr::eq(first, pool.intern(b"0123456789").unwrap()));
    }
}
