//! What a backup holds off at its end, and the thread of our own that holds it (P27).
//!
//! The session that takes the backup cannot always do it itself: the lock would have to survive whatever it
//! executes, and waiting in it would need the server's own wait. The thread ends by itself: on release, when nobody
//! listens any more, and on panic its guard releases what it holds.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::error::{Error, Result};
use crate::engine::threads;

/// Between two attempts, so that who queued behind us gets on.
pub const PAUSE: Duration = Duration::from_millis(500);
/// How often a wait looks at KILL.
pub const LOOK: Duration = Duration::from_millis(50);

/// What is held off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Statements during which a crash would not be recovered from.
    Ddl,
    /// Every write: tables without a log are closed or flushed, and no statement on them is half done.
    Everything,
}

impl Hold {
    /// What failed, for messages.
    pub fn failure(self) -> &'static str {
        match self {
            Hold::Ddl => "DDL could not be held off",
            Hold::Everything => "the server could not be brought to rest",
        }
    }

    /// What to do without it, for messages.
    pub fn otherwise(self) -> &'static str {
        match self {
            Hold::Ddl => "SET tokudb_backup_lock=OFF if no DDL runs",
            Hold::Everything => {
                "SET tokudb_backup_lock=AUTO, with which tables without a log are as after a crash"
            }
        }
    }

    /// The error when time is up.
    pub fn timed_out(self, limit: Duration, holders: &str) -> Error {
        Error::new(
            libc::ETIMEDOUT,
            format!(
                "{} within the {} s of tokudb_backup_lock_timeout; who may hold it: {holders}. Wait for these \
                 statements or KILL them, allow more time, or {}",
                self.failure(),
                limit.as_secs(),
                self.otherwise()
            ),
        )
    }

    /// The error when the session's own LOCK TABLES would be waited for.
    pub fn own_tables(self) -> Error {
        let text = format!("this session holds LOCK TABLES: UNLOCK TABLES first, or {}", self.otherwise());
        Error::new(libc::EDEADLK, text)
    }
}

/// Held as long as this lives; dropping it lets everything go on.
pub struct ServerLock {
    taken: Instant,
    _holder: Box<dyn Any>,
}

impl ServerLock {
    /// A lock that `holder` releases when it is dropped.
    pub fn new(holder: impl Any) -> Self {
        ServerLock { taken: Instant::now(), _holder: Box::new(holder) }
    }

    /// Since when it is held.
    pub fn held_for(&self) -> Duration {
        self.taken.elapsed()
    }
}

/// The thread that holds it, from the session's side. Dropping it releases.
struct Holder {
    release: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    cancelled: Arc<AtomicBool>,
    held: bool,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Release);
        self.release = None;
        // What is held ends at once; an attempt that still waits ends within its second, by itself.
        if self.held
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// How many of the threads live.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread while it lives, also when it panics.
pub struct Counted;

impl Counted {
    /// From here on; taken before the thread starts.
    pub fn new() -> Self {
        THREADS.fetch_add(1, Ordering::Relaxed);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Release);
    }
}

/// Waits until no thread of ours uses the server any more, at most for `limit`.
pub fn threads_are_gone(limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while THREADS.load(Ordering::Acquire) != 0 {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Runs `reach` on a thread of our own; what it returns is dropped there, on release. It looks at the flag between
/// attempts: set, nobody waits any more.
pub fn by_thread<G>(
    poll: &mut dyn FnMut() -> Result<()>,
    reach: impl FnOnce(&AtomicBool) -> Result<G> + Send + 'static,
) -> Result<ServerLock> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let (release, released) = channel::<()>();
    let (answer, answers) = channel();
    let stop = Arc::clone(&cancelled);
    let counted = Counted::new();
    let thread = threads::spawn("backup_lock", move || {
        let _counted = counted;
        match reach(&stop) {
            Ok(_guard) => {
                if answer.send(Ok(())).is_ok() {
                    // Nothing is ever sent: the other end is dropped.
                    let _ = released.recv();
                }
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    })?;
    let mut holder = Holder { release: Some(release), thread: Some(thread), cancelled, held: false };
    loop {
        poll()?;
        match answers.recv_timeout(LOOK) {
            Ok(Ok(())) => {
                holder.held = true;
                return Ok(ServerLock::new(holder));
            }
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(libc::EIO, "the thread that holds the lock ended without an answer"));
            }
        }
    }
}

/// Whether an attempt may still be made; the error of a cancelled wait.
pub fn still_wanted(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Acquire) {
        return Err(Error::interrupted("nobody waits for the lock any more"));
    }
    Ok(())
}

/// Waits for `pause` on a session's own thread.
pub fn pause(pause: Duration, poll: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let next = Instant::now() + pause;
    while Instant::now() < next {
        std::thread::sleep(LOOK);
        poll()?;
    }
    Ok(())
}
