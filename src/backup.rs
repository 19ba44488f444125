//! One backup from end to end: attach capture, run the engine, detach. What plugin and C interface both call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::capture::Capture;
use crate::engine;
use crate::engine::control::{Answer, Control, Event, Question};
use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::engine::folder::Folder;
use crate::engine::hold::Watcher;
use crate::engine::progress::{PROGRESS, Phase, Snapshot};
use crate::engine::threads;
use crate::engine::workers::Workers;
use crate::tracker::{Tracker, trace, tracker};

/// A directory to back up and the directory that becomes its image.
#[derive(Clone, Debug)]
pub struct Source {
    /// Real path (no symbolic link in it) of an existing directory.
    pub path: PathBuf,
    /// The path of the directory that receives the image, for messages: [`Frame::begin`] opens it.
    pub image: PathBuf,
    /// What of it is backed up.
    pub members: Members,
}

/// Which names directly in a source directory are backed up; what is below a directory that is, is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Members {
    /// All.
    #[default]
    All,
    /// Those that one of these fits: the directory holds other things, too.
    Chosen(Vec<Choice>),
}

/// Names that belong to a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Just this one.
    Name(Vec<u8>),
    /// Those that begin so.
    Beginning(Vec<u8>),
    /// Those that end so.
    Ending(Vec<u8>),
    /// Logs and what names them: those that begin so and end in a point and either a number, `index` or `info`.
    Logs(Vec<u8>),
}

impl Members {
    /// Whether a name in the source directory is backed up.
    pub fn take(&self, name: &[u8]) -> bool {
        let fits = |choice: &Choice| match choice {
            Choice::Name(exact) => name == &**exact,
            Choice::Beginning(beginning) => name.starts_with(beginning),
            Choice::Ending(ending) => name.ends_with(ending),
            Choice::Logs(beginning) => name.strip_prefix(&**beginning).is_some_and(is_log),
        };
        match self {
            Members::All => true,
            Members::Chosen(choices) => choices.iter().any(fits),
        }
    }

    /// Whether a path is the source directory `source` or something in it that is backed up.
    pub fn hold(&self, source: &Path, path: &Path) -> bool {
        match path.strip_prefix(source).map(|below| below.components().next()) {
            Err(_) => false,
            Ok(None) => true,
            Ok(Some(first)) => self.take(first.as_os_str().as_encoded_bytes()),
        }
    }
}

/// What follows the beginning of a log's name.
fn is_log(rest: &[u8]) -> bool {
    let end = rest.rsplit(|&byte| byte == b'.').next().filter(|end| end.len() < rest.len());
    end.is_some_and(|end| {
        matches!(end, b"index" | b"info") || end.len() >= 6 && end.iter().all(u8::is_ascii_digit)
    })
}

/// What to do with symbolic links found in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Copy each as a link with the same target.
    Copy,
    /// Copy those that stay inside the sources; refuse the backup, naming it, for one that leads out (P26).
    RefuseOutside,
}

/// What is done in the destination before and after the images are made. Both run on a worker thread, since the
/// destination may hang.
pub trait Frame: Send + Sync + std::fmt::Debug {
    /// The image directories, which are empty, in the order of the sources.
    fn begin(&self) -> Result<Vec<Folder>>;
    /// The images are complete and durable: records that, durably.
    fn complete(&self, report: &Report) -> Result<()>;
    /// The backup was given up while [`Frame::complete`] hung: takes back what that recorded, if anything.
    fn revoke(&self) {}
}

/// Everything that a backup needs to know before it starts.
#[derive(Debug)]
pub struct Request {
    /// At least one; none inside another's image.
    pub sources: Vec<Source>,
    /// The images and what surrounds them.
    pub frame: Arc<dyn Frame>,
    /// What is neither copied nor mirrored.
    pub exclude: Exclude,
    /// Links that lead out of the sources.
    pub links: Links,
    /// Files of the sources that are left out by their full path: the pid file, sockets' lock files.
    pub leave_out: Vec<PathBuf>,
    /// How long the gate may stay closed at most.
    pub gate_timeout: Duration,
    /// Copy without capture and without gate. Only the demo's control asks for it.
    pub without_capture: bool,
}

/// What a backup did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Files in the image (hard links counted once).
    pub files: u64,
    /// Bytes of data written to the image's first copy.
    pub bytes: u64,
    /// Passes over the files, the first included, the gate not.
    pub passes: u32,
    /// How long the successful gate was closed, microseconds.
    pub gate_micros: u64,
    /// Bytes that were read inside it.
    pub gate_bytes: u64,
    /// How long the lock at the end was held, microseconds; 0: not at all.
    pub lock_micros: u64,
    /// The instant T: seconds and nanoseconds since the epoch.
    pub instant: Duration,
    /// Files that changed without a mark and are exact to within the last pass only (P25).
    pub unseen: Vec<PathBuf>,
}

/// The calling thread's side of a backup. Every method runs on the thread that called [`run`], with no lock of
/// ours held and the gate open.
pub trait Caller {
    /// Called about ten times a second, and at once when a phase changes. An error ends the backup with it.
    fn poll(&mut self, progress: &Snapshot) -> Result<()>;
    /// Whether a source file is left out; asked once a name, only when [`Exclude::AskCaller`] is set.
    fn excluded(&mut self, _path: &Path) -> bool {
        false
    }
    /// Before the last pass and the gate: hold DDL off where the server needs it (P27).
    fn before_last_pass(&mut self) -> Result<()> {
        Ok(())
    }
    /// Capture is about to end: what is written in here is still in the image.
    fn before_stop_capture(&mut self) {}
    /// Capture has ended (also when the backup failed after [`Caller::before_last_pass`]).
    fn after_stop_capture(&mut self) {}
}

/// One backup at a time; set until the last worker has come back.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Whether a backup runs, or an abandoned one still hangs on its destination.
pub fn is_running() -> bool {
    BUSY.load(Ordering::SeqCst)
}

/// How long workers are waited for after the backup was told to stop.
const LEAVE: Duration = Duration::from_millis(400);
/// How long the calling thread waits for the engine after that.
const PATIENCE: Duration = Duration::from_millis(800);

/// Takes a backup and returns when the images are complete and durable.
///
/// The calling thread only waits, reports and answers; threads of our own do the work. When the backup fails or is
/// stopped, the call returns within a second, whatever the destination does; a worker that hangs there keeps the
/// library busy (EBUSY) until it comes back.
pub fn run(request: Request, caller: &mut dyn Caller) -> Result<Report> {
    if BUSY.swap(true, Ordering::SeqCst) {
        let text = match PROGRESS.snapshot().phase {
            Phase::Draining => {
                "an earlier backup that was ended still hangs on its destination; bring that volume back or wait"
            }
            _ => "another backup is running; wait until it has ended",
        };
        return Err(Error::new(libc::EBUSY, text));
    }
    PROGRESS.begin();
    let control = Arc::new(Control::default());
    let engine = control.clone();
    if let Err(error) = threads::spawn("hotbackup", move || drive(&request, &engine)) {
        PROGRESS.end(error.errno, &error.message);
        BUSY.store(false, Ordering::SeqCst);
        return Err(error);
    }
    let (result, stopping) = attend(&control, caller);
    if stopping {
        caller.after_stop_capture();
    }
    result
}

/// The calling thread's part. Also tells whether [`Caller::after_stop_capture`] is still owed.
fn attend(control: &Control, caller: &mut dyn Caller) -> (Result<Report>, bool) {
    let mut owed = false;
    // Before the first event, which may be the end already: every backup that was begun is told of.
    let mut deadline = look(control, caller);
    loop {
        match control.next_event(Duration::from_millis(if deadline.is_some() { 20 } else { 100 })) {
            Event::Over(result) => return (result, owed),
            Event::Asked(Question::Excluded(paths)) => {
                control.answer(Answer::Excluded(paths.iter().map(|path| caller.excluded(path)).collect()));
            }
            Event::Asked(Question::BeforeLastPass) => {
                owed = true;
                let held = caller.before_last_pass();
                if held.is_ok() {
                    caller.before_stop_capture();
                }
                control.answer(Answer::Done(held));
            }
            Event::Asked(Question::AfterStop) => {
                owed = false;
                caller.after_stop_capture();
                control.answer(Answer::Done(Ok(())));
            }
            Event::Tick => {}
        }
        match deadline {
            Some(deadline) if Instant::now() >= deadline && control.give_up() => {
                return (Err(control.cause()), owed);
            }
            Some(_) => {}
            None => deadline = look(control, caller),
        }
    }
}

/// Lets the caller look at the progress. If it ends the backup: until when the engine is waited for.
fn look(control: &Control, caller: &mut dyn Caller) -> Option<Instant> {
    let error = caller.poll(&PROGRESS.snapshot()).err()?;
    control.stop(error);
    Some(Instant::now() + PATIENCE)
}

/// The engine's thread: never touches the destination itself, so it always gets to the end.
fn drive(request: &Request, control: &Arc<Control>) {
    let tracker = tracker();
    let mut workers = None;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        engine(request, control, tracker, &mut workers)
    }));
    let result = outcome.unwrap_or_else(|_| {
        Err(Error::new(libc::EIO, "the backup failed by a fault of its own (it panicked); please report it"))
    });
    if let Err(error) = &result {
        control.stop(error.clone());
    }
    tracker.gate().abandon();
    // The first cause, not what followed from it.
    let result = result.map_err(|_| control.cause());
    match &result {
        Ok(_) => PROGRESS.end(0, ""),
        Err(error) => PROGRESS.end(error.errno, &error.message),
    }
    // Workers are waited for, but by the caller no longer than it likes: one may hang on the destination.
    let failed = result.is_err();
    let quiet = !failed
        || workers.as_ref().is_none_or(|workers| workers.leave_within(LEAVE))
            && tracker.gate().slots().quiesce(Duration::from_millis(100)).is_ok();
    if !quiet {
        PROGRESS.set_phase(Phase::Draining);
        control.finish(result.clone());
    }
    if let Some(workers) = workers {
        workers.join();
    }
    tracker.end(Duration::from_secs(5));
    PROGRESS.set_phase(Phase::Idle);
    BUSY.store(false, Ordering::SeqCst);
    if quiet {
        control.finish(result);
    }
}

fn engine(
    request: &Request,
    control: &Arc<Control>,
    tracker: &'static Tracker,
    workers: &mut Option<Workers>,
) -> Result<Report> {
    check_descriptors()?;
    let roots = engine::run::open_roots(request)?;
    tracker.begin();
    engine::run::watch_devices(&roots, tracker, control)?;
    // Dropped, and thereby detached, at the end of this function.
    let capture =
        if request.without_capture { None } else { Some(Capture::attach(GRACE, &|| control.is_stopped())?) };
    let count = std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 4));
    let workers = workers.insert(Workers::start(count, tracker, control.clone(), roots)?);
    let watcher = Attached(capture);
    // Dropped before capture is.
    let _window = trace::Window::open();
    engine::run::Engine::new(request, control, tracker, workers).run(&watcher)
}

/// So many descriptors a backup takes at most, but for deep directories.
const DESCRIPTORS: u64 = 32;

/// So many stay the server's own: MySQL 9.7 aborts when it has none left to sync a directory.
const SPARE_DESCRIPTORS: u64 = 32;

/// The process has descriptors to spare.
fn check_descriptors() -> Result<()> {
    let directory = Path::new("/proc/self/fd");
    let open = std::fs::read_dir(directory).map_err(|error| Error::io("list", directory, &error))?.count();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a place for a limit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(Error::last_os("ask for the limit of", directory));
    }
    let left = limit.rlim_cur.saturating_sub(open as u64);
    if left < DESCRIPTORS + SPARE_DESCRIPTORS {
        let errno = libc::EMFILE;
        let text = format!(
            "the server has {left} file descriptors left; a backup takes up to {DESCRIPTORS}, and leaves \
             {SPARE_DESCRIPTORS} to the server: {}; raise open_files_limit",
            engine::error::describe(errno)
        );
        return Err(Error::new(errno, text));
    }
    Ok(())
}

/// Every call that was under way when hooks were put in place must end within this time (P15).
const GRACE: Duration = Duration::from_secs(10);

/// What the engine asks of capture.
struct Attached(Option<Capture>);

impl Watcher for Attached {
    fn reap(&self) -> u32 {
        self.0.as_ref().map_or(0, Capture::reap)
    }

    fn verify(&self) -> Result<bool> {
        self.0.as_ref().map_or(Ok(true), Capture::verify)
    }

    fn review_unseen(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), Capture::review_unseen)
    }

    fn is_intact(&self) -> bool {
        self.0.as_ref().is_none_or(Capture::is_intact)
    }
}
