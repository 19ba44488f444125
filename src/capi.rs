//! The C interface of `libHotBackup.so`, for programs that back up directories they write themselves.
//! `include/tokubackup.h` is its header and its documentation; names, types and return values are those of the
//! interface that such programs were written for.
//!
//! What must hold here: no panic gets out, nothing is printed, each failure leads to one call of `error_fun` (with
//! the first cause) and to a value that is not 0, and no callback runs while anything is held.
//!
//! The image directories become the images themselves: nothing of ours stays in them, neither a manifest nor a
//! mark that a backup is incomplete, because a program that restores by copying the directory back would restore
//! that too. A backup is complete when the call has returned 0, and only then.

mod arguments;
mod callbacks;
mod panics;

use std::ffi::{c_char, c_int, c_ulong, c_void};
use std::sync::Arc;
use std::time::Duration;

use crate::backup::{self, Links, Request};
use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::engine::throttle::THROTTLE;
use callbacks::{Callback, Callbacks};
pub use callbacks::{ErrorFn, ExcludeFn, PollFn, StopFn};

/// How long the gate may stay closed at most: what a server's variable is by default.
const GATE_TIMEOUT: Duration = Duration::from_millis(100);

/// A C string constant that is exported as data.
#[repr(transparent)]
#[derive(Debug)]
pub struct ConstantString(*const c_char);

// SAFETY: it points to a string literal, which nobody can write.
unsafe impl Sync for ConstantString {}

/// `extern const char *tokubackup_version_string`: the library's version, as in Cargo.toml.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static tokubackup_version_string: ConstantString =
    ConstantString(concat!(env!("TOKUDB_BACKUP_VERSION"), "\0").as_ptr().cast());

/// Sets the bound on the bytes per second of first copying, at once for a running backup too, from any thread.
/// `ULONG_MAX` (the default) is no bound, 0 pauses copying and with it the end of the backup.
#[unsafe(no_mangle)]
pub extern "C" fn tokubackup_throttle_backup(bytes_per_second: c_ulong) {
    let _ = panics::caught(|| THROTTLE.set_rate(bytes_per_second));
}

/// Backs up `dir_count` directories. 0, the value by which `poll_fun` ended the backup, or an errno value; see
/// the header.
///
/// # Safety
/// `source_dirs` and `dest_dirs` are NULL or point to `dir_count` pointers, each NULL or a C string. The callbacks
/// are NULL or functions of these types that return (no exception, no longjmp).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tokubackup_create_backup(
    source_dirs: *const *const c_char,
    dest_dirs: *const *const c_char,
    dir_count: c_int,
    poll_fun: PollFn,
    poll_extra: *mut c_void,
    error_fun: ErrorFn,
    error_extra: *mut c_void,
    exclude_copy_fun: ExcludeFn,
    exclude_copy_extra: *mut c_void,
    before_stop_capt_fun: StopFn,
    before_stop_capt_extra: *mut c_void,
    after_stop_capt_fun: StopFn,
    after_stop_capt_extra: *mut c_void,
) -> c_int {
    let mut callbacks = Callbacks::new(
        Callback { function: poll_fun, extra: poll_extra },
        Callback { function: exclude_copy_fun, extra: exclude_copy_extra },
        Callback { function: before_stop_capt_fun, extra: before_stop_capt_extra },
        Callback { function: after_stop_capt_fun, extra: after_stop_capt_extra },
    );
    // SAFETY: what the caller promised.
    let checked = panics::caught(|| unsafe { arguments::check(source_dirs, dest_dirs, dir_count) });
    let outcome = checked.and_then(|checked| checked).and_then(|(sources, images)| {
        callbacks.set_sources(&sources);
        let images = Arc::new(images);
        let exclude = if exclude_copy_fun.is_some() { Exclude::AskCaller } else { Exclude::Nothing };
        let request = Request {
            sources,
            frame: images.clone(),
            exclude,
            links: Links::Copy,
            leave_out: Vec::new(),
            gate_timeout: GATE_TIMEOUT,
            without_capture: false,
        };
        back_up(request, &images, &mut callbacks)
    });
    let (value, error) = match (callbacks.aborted(), outcome) {
        (None, Ok(())) => return 0,
        (None, Err(error)) => (error.errno, error),
        // Whatever came of it after that, the caller's own wish is the first cause.
        (Some(value), _) => (value, Error::new(value, "User aborted backup")),
    };
    callbacks::report(Callback { function: error_fun, extra: error_extra }, value, &error);
    value
}

/// Runs the backup. Once one has begun, both callbacks of its end are called, whatever comes of it.
fn back_up(request: Request, images: &arguments::Images, callbacks: &mut Callbacks) -> Result<()> {
    let outcome = panics::caught(|| backup::run(request, callbacks)).and_then(|outcome| outcome);
    if callbacks.has_begun() && !images.were_refused() {
        callbacks.ended();
    }
    outcome.map(|_| ())
}
