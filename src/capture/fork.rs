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

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    #[test]
    fn a_child_sees_nothing() {
        watch();
        tracker().begin();
        assert!(tracker().gate().is_on());
        // SAFETY: the child reads an atomic and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = i32::from(tracker().gate().is_on());
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        let mut status = -1;
        // SAFETY: a child of ours and a place for its status.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        let parent = tracker().gate().is_on();
        assert!(tracker().end(std::time::Duration::from_secs(5)));
        assert_eq!((ended, status, parent), (child, 0, true));
    }
}
