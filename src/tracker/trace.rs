//! Test mode: what the tracker is told, said aloud. With `TOKUDB_BACKUP_TEST=1` and `TOKUDB_BACKUP_TEST_TRACE=1` in the
//! environment each mark is also written to /dev/null, in the thread that made it: whoever traces the system calls of
//! the process (`cargo xtask oracle`) then has each change and what capture saw of it side by side. Otherwise it is one
//! load for each mark.

use std::io::Write;
use std::sync::atomic::{AtomicI32, Ordering};

use super::entry::Key;

/// What every line begins with.
const PREFIX: &str = "tokudb_backup";

/// Where lines are written; -1: nowhere.
static TO: AtomicI32 = AtomicI32::new(-1);

/// Reads from the environment whether lines are wanted.
pub fn choose() {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
    let wanted = is_set("TOKUDB_BACKUP_TEST") && is_set("TOKUDB_BACKUP_TEST_TRACE");
    if wanted && TO.load(Ordering::Relaxed) < 0 {
        // SAFETY: a valid path and flags. The descriptor stays open: hooks may be using it at any time.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
        TO.store(fd, Ordering::Relaxed);
    }
}

/// Something happened to a file.
#[inline]
pub fn say(what: &str, key: Key, from: u64, to: u64) {
    let fd = TO.load(Ordering::Relaxed);
    if fd >= 0 {
        write(fd, what, key, from, to);
    }
}

/// Something happened that is of no file in particular.
#[inline]
pub fn note(what: &str) {
    say(what, Key { dev: 0, ino: 0 }, 0, 0);
}

#[cold]
fn write(fd: i32, what: &str, key: Key, from: u64, to: u64) {
    let mut line = [0; 128];
    let room = line.len();
    let mut rest = &mut line[..];
    let _ = write!(rest, "{PREFIX} {what} {:x}:{} {from} {to}", key.dev, key.ino);
    let length = room - rest.len();
    // SAFETY: that many bytes of the line are there. /dev/null takes them, and errno stays.
    unsafe { libc::write(fd, line.as_ptr().cast(), length) };
}

/// Between its making and its end every change of a file that any thread begins is to be seen by capture.
#[derive(Debug)]
pub struct Window(());

impl Window {
    /// Capture is attached.
    pub fn open() -> Window {
        note("attached");
        Window(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        note("ending");
    }
}
