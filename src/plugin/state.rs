//! The State column of the processlist.
//!
//! The server keeps the pointer that it is given and other threads read it whenever they like. So lines live in a
//! static ring, and since at most five are shown a second, none is written again for minutes.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokudb_backup_abi::common::Thd;

use crate::server::{Part, Server};

const LINES: usize = 1024;
const LENGTH: usize = 512;
/// Least time between two lines.
const INTERVAL: Duration = Duration::from_millis(200);

static RING: [[AtomicU8; LENGTH]; LINES] = [const { [const { AtomicU8::new(0) }; LENGTH] }; LINES];
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Shows lines in a session's State until it is dropped; then the line from before is back.
pub struct StateLine {
    server: &'static dyn Server,
    thd: Thd,
    before: *const c_char,
    shown: String,
    next: Instant,
    /// The server shows how far it is.
    has_part: bool,
}

impl StateLine {
    /// Begins with `text`.
    pub fn new(server: &'static dyn Server, thd: Thd, text: &str) -> Self {
        // SAFETY: a line of the ring is never freed.
        let before = unsafe { server.set_state(thd, store(text)) };
        StateLine {
            server,
            thd,
            before,
            shown: text.to_owned(),
            next: Instant::now() + INTERVAL,
            has_part: false,
        }
    }

    /// Shows `text` unless the last change is too recent.
    pub fn show(&mut self, text: &str) {
        let now = Instant::now();
        if now < self.next || text == self.shown {
            return;
        }
        self.next = now + INTERVAL;
        text.clone_into(&mut self.shown);
        // SAFETY: a line of the ring is never freed.
        unsafe { self.server.set_state(self.thd, store(text)) };
    }

    /// Shows how far the first copying is, in bytes.
    pub fn show_part(&mut self, done: u64, total: u64) {
        let first = !std::mem::replace(&mut self.has_part, true);
        self.server.show_progress(self.thd, Some(Part { first, done, total }));
    }
}

impl Drop for StateLine {
    fn drop(&mut self) {
        if self.has_part {
            self.server.show_progress(self.thd, None);
        }
        // SAFETY: `before` is the server's own line.
        unsafe { self.server.set_state(self.thd, self.before) };
    }
}

/// Writes the next line of the ring, cut to what fits.
fn store(text: &str) -> *const c_char {
    let line = &RING[NEXT.fetch_add(1, Ordering::Relaxed) % LINES];
    let text = &text[..text.floor_char_boundary(LENGTH - 1)];
    for (slot, byte) in line.iter().zip(text.bytes().chain(std::iter::repeat(0))) {
        slot.store(byte, Ordering::Relaxed);
    }
    line.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn lines_end_with_a_nul_at_a_character_boundary() {
        for text in [String::new(), "x".repeat(511), "é".repeat(300), "€".repeat(400)] {
            let line = store(&text);
            // SAFETY: a line of the ring.
            let line = unsafe { CStr::from_ptr(line) }.to_str().unwrap();
            assert!(text.starts_with(line));
            assert!(line.len() == text.len() || line.len() > 508);
        }
    }
}
