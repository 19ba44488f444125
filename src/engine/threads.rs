//! Threads of our own inside somebody else's process: with all signals blocked, so that none of ours ever takes a
//! SIGTERM that was meant for the server's signal thread.

use std::thread::{Builder, JoinHandle};

use super::error::{Error, Result};

/// Starts a thread that takes no signal.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    // SAFETY: sigset_t is plain data; sigfillset initialises it, pthread_sigmask writes the old mask.
    let before = unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    };
    let started = Builder::new().name(name.to_owned()).spawn(body);
    // SAFETY: `before` was written by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    started.map_err(|error| {
        Error::new(
            error.raw_os_error().unwrap_or(libc::EAGAIN),
            format!(
                "cannot start a thread for the backup: {error}; raise the limit of processes (ulimit -u)"
            ),
        )
    })
}
