//! The caller's functions: when each is called, and with what.

use std::ffi::{CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::backup::{Caller, Source};
use crate::engine::error::{Error, Result};
use crate::engine::progress::{Phase, Snapshot};
use crate::engine::throttle::THROTTLE;

/// `int poll(float progress, const char *progress_string, void *extra)`: not 0 ends the backup.
pub type PollFn = Option<unsafe extern "C" fn(f32, *const c_char, *mut c_void) -> c_int>;
/// `void error(int error_number, const char *error_string, void *extra)`.
pub type ErrorFn = Option<unsafe extern "C" fn(c_int, *const c_char, *mut c_void)>;
/// `int exclude_copy(const char *source_file, void *extra)`: not 0 leaves the file out.
pub type ExcludeFn = Option<unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int>;
/// `void stop_capt(void *extra)`.
pub type StopFn = Option<unsafe extern "C" fn(*mut c_void)>;

/// One of the caller's functions and what it is to be given.
#[derive(Clone, Copy)]
pub struct Callback<F> {
    pub function: F,
    pub extra: *mut c_void,
}

/// The caller's side of one backup.
pub struct Callbacks {
    poll: Callback<PollFn>,
    exclude: Callback<ExcludeFn>,
    before_stop: Callback<StopFn>,
    after_stop: Callback<StopFn>,
    sources: Vec<Source>,
    /// The largest progress told so far: it never goes back, though more files come to be known.
    progress: f32,
    begun: bool,
    aborted: Option<c_int>,
    stopping: bool,
    stopped: bool,
}

impl Callbacks {
    pub fn new(
        poll: Callback<PollFn>,
        exclude: Callback<ExcludeFn>,
        before_stop: Callback<StopFn>,
        after_stop: Callback<StopFn>,
    ) -> Self {
        Callbacks {
            poll,
            exclude,
            before_stop,
            after_stop,
            sources: Vec::new(),
            progress: 0.0,
            begun: false,
            aborted: None,
            stopping: false,
            stopped: false,
        }
    }

    pub fn set_sources(&mut self, sources: &[Source]) {
        self.sources = sources.to_vec();
    }

    /// Whether the backup got as far as asking anything: it was not refused.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// What `poll` ended the backup with.
    pub fn aborted(&self) -> Option<c_int> {
        self.aborted
    }

    /// Calls `poll`, unless it has ended the backup already.
    fn tell(&mut self, snapshot: &Snapshot) {
        let (None, Some(poll)) = (self.aborted, self.poll.function) else { return };
        self.progress = self.progress.max(part_done(snapshot));
        let text = c_string(&describe(snapshot, &self.sources, THROTTLE.is_paused()));
        // SAFETY: the caller's function, with a string that lives as long as the call.
        let value = unsafe { poll(self.progress, text.as_ptr(), self.poll.extra) };
        if value != 0 {
            self.aborted = Some(value);
        }
    }

    /// The backup is over: both functions of the end of capture are called, once each and in this order.
    pub fn ended(&mut self) {
        self.before_stop_capture();
        self.after_stop_capture();
    }
}

impl Caller for Callbacks {
    fn poll(&mut self, snapshot: &Snapshot) -> Result<()> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first {
            // Preparing may be over before anybody looks; programs begin at 0 with this all the same.
            self.tell(&Snapshot { phase: Phase::Preparing, ..Snapshot::default() });
        }
        // Also while it is being prepared, which may hang: it must be possible to end it.
        if !first || snapshot.phase != Phase::Preparing {
            self.tell(snapshot);
        }
        match self.aborted {
            None => Ok(()),
            Some(value) => Err(Error::new(value, "User aborted backup")),
        }
    }

    fn excluded(&mut self, path: &Path) -> bool {
        self.begun = true;
        let Some(exclude) = self.exclude.function else { return false };
        let path = c_string(path.as_os_str().as_bytes());
        // SAFETY: the caller's function, with a string that lives as long as the call.
        unsafe { exclude(path.as_ptr(), self.exclude.extra) != 0 }
    }

    fn before_stop_capture(&mut self) {
        self.begun = true;
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        if let Some(function) = self.before_stop.function {
            // SAFETY: the caller's function.
            unsafe { function(self.before_stop.extra) }
        }
    }

    fn after_stop_capture(&mut self) {
        if !self.stopping || std::mem::replace(&mut self.stopped, true) {
            return;
        }
        if let Some(function) = self.after_stop.function {
            // SAFETY: the caller's function.
            unsafe { function(self.after_stop.extra) }
        }
    }
}

/// Tells the caller why the backup failed.
pub fn report(error_fun: Callback<ErrorFn>, value: c_int, error: &Error) {
    let Some(function) = error_fun.function else { return };
    let text = c_string(error.message.as_bytes());
    // SAFETY: the caller's function, with a string that lives as long as the call.
    unsafe { function(value, text.as_ptr(), error_fun.extra) }
}

/// A C string; a NUL inside, which no path has, ends it.
fn c_string(text: &[u8]) -> CString {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    CString::new(text).unwrap_or_default()
}

/// 0 to 1: bytes of the first copying done. What comes after it counts as nothing more.
fn part_done(snapshot: &Snapshot) -> f32 {
    // While it is not known yet what there is to copy, none of it is done.
    let unknown = snapshot.phase == Phase::Copying && snapshot.bytes_total == 0;
    if unknown || matches!(snapshot.phase, Phase::Idle | Phase::Preparing) {
        return 0.0;
    }
    let done = snapshot.bytes_done.saturating_add(1) as f64;
    let total = snapshot.bytes_total.saturating_add(1) as f64;
    (done / total).clamp(0.0, 1.0) as f32
}

/// The text of the progress, in the forms that programs have learned to read.
fn describe(snapshot: &Snapshot, sources: &[Source], paused: bool) -> Vec<u8> {
    if matches!(snapshot.phase, Phase::Idle | Phase::Preparing) {
        return b"Preparing backup".to_vec();
    }
    let mut text = format!("Backup progress {} bytes, {} files.  ", snapshot.bytes_done, snapshot.files_done)
        .into_bytes();
    match &snapshot.file {
        Some((path, done, total)) if paused || *done > 0 => {
            let verb = if paused { "Throttled: copied " } else { "Copying file: " };
            let unit = if paused { "of" } else { "done of" };
            text.extend(format!("{verb}{done}/{total} bytes {unit} ").bytes());
            text.extend(path.as_os_str().as_bytes());
            text.extend(b" to ");
            text.extend(image_of(path, sources));
            text.extend(if paused { b". Sleeping 1.00s for throttling.".as_slice() } else { b"." });
        }
        file => {
            let more = snapshot.files_total.saturating_sub(snapshot.files_done);
            text.extend(format!("{more} more files known of. Copying file ").bytes());
            text.extend(file.as_ref().map_or(b".".to_vec(), |(path, ..)| name_in_source(path, sources)));
        }
    }
    text
}

fn relative<'a>(path: &'a Path, sources: &'a [Source]) -> Option<(&'a Path, &'a Source)> {
    sources.iter().find_map(|source| path.strip_prefix(&source.path).ok().map(|name| (name, source)))
}

/// "." for a source itself, "/sub/b" for what is below it.
fn name_in_source(path: &Path, sources: &[Source]) -> Vec<u8> {
    match relative(path, sources) {
        Some((name, _)) if name.as_os_str().is_empty() => b".".to_vec(),
        Some((name, _)) => [b"/", name.as_os_str().as_bytes()].concat(),
        None => path.as_os_str().as_bytes().to_vec(),
    }
}

fn image_of(path: &Path, sources: &[Source]) -> Vec<u8> {
    let image = relative(path, sources).map(|(name, source)| {
        let image = source.image.as_os_str();
        if name.as_os_str().is_empty() { image.to_owned() } else { source.image.join(name).into_os_string() }
    });
    image.as_deref().map(OsStr::as_bytes).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn sources() -> Vec<Source> {
        vec![
            Source { path: "/s".into(), image: "/i".into(), members: Default::default() },
            Source { path: "/s2".into(), image: "/i2".into(), members: Default::default() },
        ]
    }

    fn snapshot(phase: Phase, file: Option<(&str, u64, u64)>) -> Snapshot {
        Snapshot {
            phase,
            bytes_total: 1000,
            bytes_done: 10,
            files_total: 7,
            files_done: 3,
            file: file.map(|(path, done, total)| (PathBuf::from(path), done, total)),
            ..Snapshot::default()
        }
    }

    fn text(snapshot: &Snapshot, paused: bool) -> String {
        String::from_utf8(describe(snapshot, &sources(), paused)).unwrap()
    }

    #[test]
    fn texts_have_the_known_forms() {
        assert_eq!(text(&snapshot(Phase::Preparing, None), false), "Preparing backup");
        assert_eq!(
            text(&snapshot(Phase::Copying, None), false),
            "Backup progress 10 bytes, 3 files.  4 more files known of. Copying file ."
        );
        assert_eq!(
            text(&snapshot(Phase::Copying, Some(("/s2/sub/b", 0, 50))), false),
            "Backup progress 10 bytes, 3 files.  4 more files known of. Copying file /sub/b"
        );
        assert_eq!(
            text(&snapshot(Phase::Copying, Some(("/s2/sub/b", 20, 50))), false),
            "Backup progress 10 bytes, 3 files.  Copying file: 20/50 bytes done of /s2/sub/b to /i2/sub/b."
        );
        assert_eq!(
            text(&snapshot(Phase::Copying, Some(("/s/b", 20, 50))), true),
            "Backup progress 10 bytes, 3 files.  Throttled: copied 20/50 bytes of /s/b to /i/b. \
             Sleeping 1.00s for throttling."
        );
    }

    #[test]
    fn progress_stays_between_0_and_1() {
        assert_eq!(part_done(&snapshot(Phase::Preparing, None)), 0.0);
        assert_eq!(part_done(&Snapshot { phase: Phase::Copying, ..Snapshot::default() }), 0.0);
        let mut more = snapshot(Phase::Converging, None);
        assert!(part_done(&more) > 0.0 && part_done(&more) < 0.02);
        more.bytes_done = 5000;
        assert_eq!(part_done(&more), 1.0);
    }

    #[test]
    fn a_backup_that_failed_early_is_ended_once_and_in_order() {
        unsafe extern "C" fn note(extra: *mut c_void) {
            // SAFETY: the test passes its counter.
            unsafe { *extra.cast::<u32>() += 1 };
        }
        let mut counts = [0u32; 2];
        let [before, after] = counts.each_mut();
        let none = std::ptr::null_mut();
        let mut callbacks = Callbacks::new(
            Callback { function: None, extra: none },
            Callback { function: None, extra: none },
            Callback { function: Some(note), extra: std::ptr::from_mut(before).cast() },
            Callback { function: Some(note), extra: std::ptr::from_mut(after).cast() },
        );
        callbacks.after_stop_capture();
        callbacks.ended();
        callbacks.ended();
        assert_eq!(counts, [1, 1]);
    }
}
