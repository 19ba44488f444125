//! How far the running backup is, for the processlist, the status variables and the C interface.
//!
//! Copiers count in atomics; who looks never waits for them, and they never wait for who looks.

mod rate;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::throttle::{Clock, Monotonic, THROTTLE};
use rate::Rate;
pub use text::state_line;

/// Where a backup stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No backup runs.
    #[default]
    Idle,
    /// Checking, attaching capture, listing.
    Preparing,
    /// First copying of every file.
    Copying,
    /// Copying again what changed meanwhile.
    Converging,
    /// Waiting for the moment to close the gate, or inside it.
    Gate,
    /// Writing the rest, names, fsync.
    Finishing,
    /// An abandoned backup whose worker has not come back from the destination yet.
    Draining,
}

const PHASES: [Phase; 7] = [
    Phase::Idle,
    Phase::Preparing,
    Phase::Copying,
    Phase::Converging,
    Phase::Gate,
    Phase::Finishing,
    Phase::Draining,
];

impl Phase {
    /// One word for a status variable.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Preparing => "preparing",
            Phase::Copying => "copying",
            Phase::Converging => "converging",
            Phase::Gate => "gate",
            Phase::Finishing => "finishing",
            Phase::Draining => "draining",
        }
    }
}

/// One look at a running backup, or at the last one when none runs.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Where it stands.
    pub phase: Phase,
    /// Bytes to copy in the first pass, as known now.
    pub bytes_total: u64,
    /// Bytes of them that were copied; never more.
    pub bytes_done: u64,
    /// Files known.
    pub files_total: u64,
    /// Files copied once; never more.
    pub files_done: u64,
    /// Passes begun.
    pub passes: u32,
    /// Bytes that were marked when the running pass began (not the first).
    pub pass_bytes_total: u64,
    /// Bytes that it has copied again.
    pub pass_bytes_done: u64,
    /// Bytes per second over the last two seconds, first copies and later ones.
    pub bytes_per_second: u64,
    /// The throttle is 0.
    pub paused: bool,
    /// The file being copied, with its sizes: bytes done and in all.
    pub file: Option<(PathBuf, u64, u64)>,
    /// Microseconds since the start.
    pub elapsed_micros: u64,
}

impl Snapshot {
    /// Percent of the first copying, rounded down; at most 99 as long as a backup runs, since then not all is done.
    pub fn percent(&self) -> u8 {
        let percent = (u128::from(self.bytes_done) * 100)
            .checked_div(u128::from(self.bytes_total))
            .unwrap_or(if self.phase == Phase::Preparing { 0 } else { 100 });
        u8::try_from(percent.min(99)).unwrap_or(99)
    }
}

/// How a backup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// When it began, since the epoch.
    pub started: Duration,
    /// When it ended, since the epoch.
    pub ended: Duration,
    /// How long it took, by a clock that nobody sets.
    pub duration: Duration,
    /// 0, or the errno value of its error.
    pub errno: i32,
    /// The error's text; empty after a success.
    pub message: String,
}

/// Of the whole process: one backup runs at a time.
pub static PROGRESS: Progress<Monotonic> = Progress::new(Monotonic);

/// What all copiers of a backup count in.
#[derive(Debug)]
pub struct Progress<C> {
    clock: C,
    /// Index in [`PHASES`].
    phase: AtomicU8,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    files_total: AtomicU64,
    files_done: AtomicU64,
    passes: AtomicU32,
    pass_bytes_total: AtomicU64,
    pass_bytes_done: AtomicU64,
    rate: Rate,
    /// Nanoseconds of `clock`: the start, and the end when `running` is not set.
    started: AtomicU64,
    stopped: AtomicU64,
    running: AtomicBool,
    next_file: AtomicU64,
    /// Held by engine threads for a moment; who looks only tries.
    shown: Mutex<Option<Shown>>,
    /// Written when a backup begins and ends; held for the time of a copy.
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Shown {
    id: u64,
    path: PathBuf,
    done: u64,
    size: u64,
}

#[derive(Debug)]
struct Last {
    started: Duration,
    run: Option<LastRun>,
}

impl<C: Clock> Progress<C> {
    /// No backup has run yet.
    pub const fn new(clock: C) -> Self {
        Progress {
            clock,
            phase: AtomicU8::new(0),
            bytes_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            files_total: AtomicU64::new(0),
            files_done: AtomicU64::new(0),
            passes: AtomicU32::new(0),
            pass_bytes_total: AtomicU64::new(0),
            pass_bytes_done: AtomicU64::new(0),
            rate: Rate::new(),
            started: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
            running: AtomicBool::new(false),
            next_file: AtomicU64::new(1),
            shown: Mutex::new(None),
            last: Mutex::new(Last { started: Duration::ZERO, run: None }),
        }
    }

    /// A backup begins: everything counts from 0, the phase is [`Phase::Preparing`].
    pub fn begin(&self) {
        for counter in [
            &self.bytes_total,
            &self.bytes_done,
            &self.files_total,
            &self.files_done,
            &self.pass_bytes_total,
            &self.pass_bytes_done,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        self.passes.store(0, Ordering::Relaxed);
        self.rate.clear();
        *locked(&self.shown) = None;
        locked(&self.last).started = since_epoch();
        self.started.store(self.clock.now(), Ordering::Relaxed);
        self.running.store(true, Ordering::Release);
        self.set_phase(Phase::Preparing);
    }

    /// The backup has ended, `errno` 0: with success. The phase is [`Phase::Idle`]; the counters stay for who looks
    /// at what the last backup did.
    pub fn end(&self, errno: i32, message: &str) {
        let now = self.clock.now();
        let duration = Duration::from_nanos(now.saturating_sub(self.started.load(Ordering::Relaxed)));
        self.stopped.store(now, Ordering::Relaxed);
        self.running.store(false, Ordering::Release);
        *locked(&self.shown) = None;
        let mut last = locked(&self.last);
        let started = last.started;
        last.run =
            Some(LastRun { started, ended: since_epoch(), duration, errno, message: message.to_owned() });
        drop(last);
        self.set_phase(Phase::Idle);
    }

    /// The backup goes into another phase.
    pub fn set_phase(&self, phase: Phase) {
        let index = PHASES.iter().position(|other| *other == phase).unwrap_or(0);
        self.phase.store(u8::try_from(index).unwrap_or(0), Ordering::Release);
    }

    /// So many more files and bytes are to be copied.
    pub fn listed(&self, files: u64, bytes: u64) {
        self.files_total.fetch_add(files, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A pass begins with so many bytes marked; 0 for the first, whose bytes are what was listed.
    pub fn begin_pass(&self, marked_bytes: u64) {
        self.pass_bytes_done.store(0, Ordering::Relaxed);
        self.pass_bytes_total.store(marked_bytes, Ordering::Relaxed);
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    /// So many bytes were copied again, in a pass after the first.
    pub fn copied_again(&self, bytes: u64) {
        self.pass_bytes_done.fetch_add(bytes, Ordering::Relaxed);
        self.rate.add(self.clock.now(), bytes);
    }

    /// The first copying of a file begins; it was listed with `size` bytes.
    pub fn file(&self, path: &Path, size: u64) -> FileProgress<'_, C> {
        let id = self.next_file.fetch_add(1, Ordering::Relaxed);
        *locked(&self.shown) = Some(Shown { id, path: path.to_owned(), done: 0, size });
        FileProgress {
            progress: self,
            id,
            path: path.to_owned(),
            size,
            done: AtomicU64::new(0),
            whole: false,
        }
    }

    /// How far it is now. Never waits.
    pub fn snapshot(&self) -> Snapshot {
        let index = usize::from(self.phase.load(Ordering::Acquire));
        let phase = PHASES.get(index).copied().unwrap_or_default();
        let now = self.clock.now();
        let started = self.started.load(Ordering::Relaxed);
        let running = self.running.load(Ordering::Acquire);
        let until = if running { now } else { self.stopped.load(Ordering::Relaxed) };
        let elapsed = until.saturating_sub(started);
        // What is done is read before the totals: these never fall below it but for a moment.
        let bytes_done = self.bytes_done.load(Ordering::Acquire);
        let files_done = self.files_done.load(Ordering::Acquire);
        let file = (0..16).find_map(|_| self.shown.try_lock().ok()).and_then(|shown| {
            let shown = shown.as_ref()?;
            Some((shown.path.clone(), shown.done, shown.size))
        });
        Snapshot {
            phase,
            bytes_total: self.bytes_total.load(Ordering::Relaxed).max(bytes_done),
            bytes_done,
            files_total: self.files_total.load(Ordering::Relaxed).max(files_done),
            files_done,
            passes: self.passes.load(Ordering::Relaxed),
            pass_bytes_total: self.pass_bytes_total.load(Ordering::Relaxed),
            pass_bytes_done: self.pass_bytes_done.load(Ordering::Relaxed),
            bytes_per_second: if running { self.rate.per_second(now, elapsed) } else { 0 },
            paused: THROTTLE.is_paused(),
            file,
            elapsed_micros: elapsed / 1000,
        }
    }

    /// How the last backup ended; None: none has ended yet.
    pub fn last_run(&self) -> Option<LastRun> {
        locked(&self.last).run.clone()
    }

    /// When the running backup began (or the last one), since the epoch.
    pub fn started(&self) -> Duration {
        locked(&self.last).started
    }
}

/// The first copying of one file. Dropped without [`FileProgress::finish`], the file does not count: it vanished.
#[derive(Debug)]
pub struct FileProgress<'a, C: Clock> {
    progress: &'a Progress<C>,
    id: u64,
    path: PathBuf,
    /// As it was listed.
    size: u64,
    done: AtomicU64,
    whole: bool,
}

impl<C: Clock> FileProgress<'_, C> {
    /// So many more bytes of it were copied.
    pub fn copied(&self, bytes: u64) {
        let progress = self.progress;
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let done = before.saturating_add(bytes);
        // What it has grown by since it was listed is more to do, and done. The total first: see `snapshot`.
        let grown = done.saturating_sub(self.size.max(before));
        progress.bytes_total.fetch_add(grown, Ordering::Relaxed);
        progress.bytes_done.fetch_add(bytes, Ordering::Release);
        progress.rate.add(progress.clock.now(), bytes);
        let mut shown = locked(&progress.shown);
        let file = shown.get_or_insert_with(|| Shown {
            id: self.id,
            path: self.path.clone(),
            done: 0,
            size: self.size,
        });
        if file.id == self.id {
            file.done = done;
            file.size = file.size.max(done);
        }
    }

    /// It is copied.
    pub fn finish(mut self) {
        self.whole = true;
    }
}

impl<C: Clock> Drop for FileProgress<'_, C> {
    fn drop(&mut self) {
        let progress = self.progress;
        // Holes, and what it has shrunk by, were listed and are not copied.
        let less = self.size.saturating_sub(self.done.load(Ordering::Relaxed));
        subtract(&progress.bytes_total, less);
        if self.whole {
            progress.files_done.fetch_add(1, Ordering::Release);
        } else {
            subtract(&progress.files_total, 1);
        }
        let mut shown = locked(&progress.shown);
        if shown.as_ref().is_some_and(|shown| shown.id == self.id) {
            *shown = None;
        }
    }
}

fn subtract(counter: &AtomicU64, less: u64) {
    let subtracted = |value: u64| Some(value.saturating_sub(less));
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtracted);
}

/// A lock whose poisoning does not matter: what it guards is valid at any time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
