//! The threads that touch the destination. They read the source and write the image; everyone else only waits for
//! them, and can stop waiting (P28).

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::control::Control;
use super::error::Result;
use super::memory;
use super::progress::PROGRESS;
use super::source::Root;
use super::store::Store;
use super::threads;
use super::tree::File;
use super::visit::{CHUNK, Outcome, Visit, lock};
use crate::tracker::Tracker;

/// A piece of work on the destination.
type Task = Box<dyn FnOnce(&Shared) -> Result<()> + Send>;

enum Job {
    Visit { file: Arc<File>, ways: Vec<(usize, CString, PathBuf)>, first: bool },
    Task(Task),
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    active: usize,
    closed: bool,
}

/// What the workers share.
pub struct Shared {
    /// Where marks are.
    pub tracker: &'static Tracker,
    /// Whether to go on.
    pub control: Arc<Control>,
    /// The sources.
    pub roots: Arc<Vec<Root>>,
    /// Their images, in the same order; set by the first task.
    pub stores: std::sync::OnceLock<Vec<Store>>,
    queue: Mutex<Queue>,
    bell: Condvar,
    outgrown: Mutex<Vec<Arc<File>>>,
    /// Bytes written to store files by visits.
    pub copied: AtomicU64,
}

/// The pool.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(
        count: usize,
        tracker: &'static Tracker,
        control: Arc<Control>,
        roots: Arc<Vec<Root>>,
    ) -> Result<Workers> {
        let shared = Arc::new(Shared {
            tracker,
            control,
            roots,
            stores: std::sync::OnceLock::new(),
            queue: Mutex::default(),
            bell: Condvar::new(),
            outgrown: Mutex::default(),
            copied: AtomicU64::new(0),
        });
        let mut workers = Workers { shared, threads: Vec::new() };
        for number in 0..count.max(1) {
            let shared = workers.shared.clone();
            let started = memory::zeroes(CHUNK).and_then(|buffer| {
                threads::spawn(&format!("hotbackup-{number}"), move || shared.work(buffer))
            });
            match started {
                Ok(thread) => workers.threads.push(thread),
                // One is enough.
                Err(error) if workers.threads.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(workers)
    }

    /// What they share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn push(&self, job: Job) -> Result<()> {
        let mut queue = lock(&self.shared.queue);
        queue.jobs.try_reserve(1).map_err(|_| memory::refused())?;
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.bell.notify_all();
        Ok(())
    }

    /// Lets one of them visit a file.
    pub fn visit(&self, file: Arc<File>, ways: Vec<(usize, CString, PathBuf)>, first: bool) -> Result<()> {
        self.push(Job::Visit { file, ways, first })
    }

    /// Lets one of them do `task`.
    pub fn run(&self, task: impl FnOnce(&Shared) -> Result<()> + Send + 'static) -> Result<()> {
        self.push(Job::Task(Box::new(task)))?;
        self.wait()
    }

    /// Waits until all is done. An error when the backup was stopped; work may then still be under way.
    pub fn wait(&self) -> Result<()> {
        let mut queue = lock(&self.shared.queue);
        while !(queue.jobs.is_empty() && queue.active == 0) {
            self.shared.control.check()?;
            queue = self
                .shared
                .bell
                .wait_timeout(queue, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(queue);
        self.shared.control.check()
    }

    /// Files whose bitmaps were exchanged since the last call.
    pub fn take_outgrown(&self) -> Vec<Arc<File>> {
        std::mem::take(&mut *lock(&self.shared.outgrown))
    }

    /// Lets the threads end after what they are at now; whether all have within `time`.
    pub fn leave_within(&self, time: Duration) -> bool {
        self.close();
        let until = Instant::now() + time;
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn close(&self) {
        let mut queue = lock(&self.shared.queue);
        queue.jobs.clear();
        queue.closed = true;
        drop(queue);
        self.shared.bell.notify_all();
    }

    /// Lets the threads end after what they are at now, and waits for them: as long as the destination takes.
    pub fn join(self) {
        self.close();
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The image of a source.
    pub fn store(&self, root: usize) -> Result<&Store> {
        self.stores
            .get()
            .and_then(|stores| stores.get(root))
            .ok_or_else(|| super::error::Error::new(libc::EIO, "the backup directories are not open"))
    }

    fn work(&self, mut buffer: Vec<u8>) {
        loop {
            let job = {
                let mut queue = lock(&self.queue);
                loop {
                    if let Some(job) = queue.jobs.pop_front() {
                        queue.active += 1;
                        break job;
                    }
                    if queue.closed {
                        return;
                    }
                    queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.perform(job, &mut buffer)));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.control.stop(error),
                Err(_) => self.control.stop(super::error::Error::new(
                    libc::EIO,
                    "the backup failed by a fault of its own (a worker panicked); please report it",
                )),
            }
            lock(&self.queue).active -= 1;
            self.bell.notify_all();
        }
    }

    fn perform(&self, job: Job, buffer: &mut [u8]) -> Result<()> {
        self.control.check()?;
        match job {
            Job::Task(task) => task(self),
            Job::Visit { file, ways, first } => {
                let ways: Vec<_> = ways
                    .into_iter()
                    .filter_map(|(root, path, full)| Some((self.roots.get(root)?.fd.as_fd(), path, full)))
                    .collect();
                let new = lock(&file.seen).is_none();
                let counted = match ways.first() {
                    Some((_, _, full)) if new => Some(PROGRESS.file(full, file.listed)),
                    _ => None,
                };
                let copied = |bytes: u64| {
                    self.copied.fetch_add(bytes, Ordering::Relaxed);
                    match &counted {
                        Some(counted) => counted.copied(bytes),
                        None => PROGRESS.copied_again(bytes),
                    }
                };
                let mut visit =
                    Visit { tracker: self.tracker, control: &self.control, first, buffer, copied: &copied };
                let outcome = visit.run(&file, &ways, self.store(file.root)?)?;
                if outcome != Outcome::Vanished
                    && let Some(counted) = counted
                {
                    counted.finish();
                }
                if outcome == Outcome::Outgrown {
                    lock(&self.outgrown).push(file);
                }
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
