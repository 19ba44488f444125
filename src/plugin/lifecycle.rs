//! INSTALL and UNINSTALL.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokudb_backup_abi::common::er;

use super::{guarded, run};
use crate::server::{self, Level};

/// Between `init` and `deinit`.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Whether the plugin is installed; a backup ends when it no longer is.
pub fn installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

/// INSTALL PLUGIN and start-up.
pub unsafe extern "C" fn init(plugin: *mut c_void) -> c_int {
    guarded(1, || {
        let Some(server) = server::current() else { return 1 };
        server::remember_plugin(plugin);
        if let Some(warning) = server.host().is_new() {
            server.log(Level::Note, &super::c_text(&warning));
        }
        INSTALLED.store(true, Ordering::Release);
        0
    })
}

/// MySQL 8.0 and later: non-zero refuses UNINSTALL, which there does not wait for a running statement.
pub unsafe extern "C" fn check_uninstall(_plugin: *mut c_void) -> c_int {
    guarded(1, || {
        let Some(session) = run::running() else { return 0 };
        if let Some(server) = server::current() {
            let text = format!("a backup is running in connection {session}: wait for it, or KILL it, first");
            server.raise(er::UNKNOWN_ERROR, &super::c_text(&text));
        }
        1
    })
}

/// UNINSTALL PLUGIN and shutdown.
pub unsafe extern "C" fn deinit(_plugin: *mut c_void) -> c_int {
    guarded(0, || {
        INSTALLED.store(false, Ordering::Release);
        server::threads_are_gone(Duration::from_secs(3));
        server::remember_plugin(std::ptr::null_mut());
        0
    })
}
