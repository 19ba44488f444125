//! A child process is none of ours (P17).

use std::sync::Once;

use crate::tracker::tracker;

/// In the child every hook passes its call on.
extern "C" fn in_child() {
    tracker().gate().abandon();
}

/// Makes children of fork(2) pass through all hooks. A child of vfork(2) shares our memory and is let be.
pub fn watch() {
    static ONCE: Once = Once::new();
    // SAFETY: the handler is a function of this library, which is never unmapped.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
}
