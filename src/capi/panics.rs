//! Panics end at the C border, as errors and in silence.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::engine::error::{Error, Result};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; a panic in it becomes an error (ENOTRECOVERABLE) and is not printed.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let other = take_hook();
        set_hook(Box::new(move |panic| {
            // At the end of a thread its locals may be gone: then it is not in here either.
            if !INSIDE.try_with(Cell::get).unwrap_or(false) {
                other(panic);
            }
        }));
    });
    let outer = INSIDE.replace(true);
    // What a panic leaves behind is not used again: the backup is over.
    let result = catch_unwind(AssertUnwindSafe(f));
    INSIDE.set(outer);
    result.map_err(|panic| Error::new(libc::ENOTRECOVERABLE, message(panic.as_ref())))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    format!("internal error of the backup library, please report it: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let error = caught(|| panic!("number {}", 7)).unwrap_err();
        assert_eq!(error.errno, libc::ENOTRECOVERABLE);
        assert!(error.message.ends_with(": number 7"), "{error}");
        assert_eq!(caught(|| 5), Ok(5));
    }
}
