//! What the server sees of us: declarations, variables and their callbacks, status, one run of a backup.
//!
//! No panic leaves a callback, and no lock of ours is held across a call of the server.

mod callbacks;
mod caller;
mod declare;
mod frame;
pub(crate) mod indexes;
mod inventory;
mod layout;
mod lifecycle;
mod options;
mod position;
pub(crate) mod redo;
pub(crate) mod relocate;
mod replica;
mod restore;
mod run;
mod state;
mod status;
mod values;
mod variables;

use std::ffi::{CString, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokudb_backup_abi::common::er;

use crate::server;

/// Runs the body of a callback; a panic in it makes the statement fail and returns `refused`.
fn guarded(refused: c_int, body: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        report_panic();
        refused
    })
}

/// The same for a callback that returns nothing.
fn guarded_update(body: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(body)).is_err() {
        report_panic();
    }
}

fn report_panic() {
    if let Some(server) = server::current() {
        let text = c"tokudb_backup met a defect of its own; the backup is not usable: see the error log, and report it";
        server.raise(er::UNKNOWN_ERROR, text);
    }
}

/// Text in a file of lines: control characters are written out, so that no value looks like a line of its own.
fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

/// A message as the server takes it: without a NUL inside.
fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}
