//! What the threads of a round have in common.

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use crate::sys::Outcome;
use crate::world::World;

/// How often each operation ran, and succeeded; by its index in the table.
#[derive(Debug)]
pub struct Stats {
    tried: Vec<AtomicU64>,
    done: Vec<AtomicU64>,
    full: AtomicU64,
}

impl Stats {
    /// For this many operations.
    pub fn new(operations: usize) -> Self {
        let zeros = || (0..operations).map(|_| AtomicU64::new(0)).collect();
        Stats { tried: zeros(), done: zeros(), full: AtomicU64::new(0) }
    }

    /// Counts one.
    pub fn count(&self, operation: usize, outcome: Outcome) {
        self.tried[operation].fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(()) => self.done[operation].fetch_add(1, Ordering::Relaxed),
            Err(libc::ENOSPC) => self.full.fetch_add(1, Ordering::Relaxed),
            Err(_) => 0,
        };
    }

    /// Operations for which the file system had no room.
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// Tries and successes.
    pub fn of(&self, operation: usize) -> (u64, u64) {
        (self.tried[operation].load(Ordering::Relaxed), self.done[operation].load(Ordering::Relaxed))
    }

    /// Operations tried in all.
    pub fn total(&self) -> u64 {
        self.tried.iter().map(|tried| tried.load(Ordering::Relaxed)).sum()
    }
}

/// Stops the threads between two operations, and lets them go on.
#[derive(Debug, Default)]
pub struct Pause {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
    wanted: AtomicBool,
}

impl Pause {
    /// Waits until all `threads` stand still.
    pub fn stop(&self, threads: usize) {
        let mut state = self.state.lock().expect("no panics while held");
        state.0 = true;
        self.wanted.store(true, Ordering::SeqCst);
        while state.1 < threads {
            state = self.changed.wait(state).expect("no panics while held");
        }
    }

    /// Lets them go on.
    pub fn go_on(&self) {
        self.state.lock().expect("no panics while held").0 = false;
        self.wanted.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Whether a thread is asked to stand still; it then ends what it has begun and calls [`Pause::stand`].
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Stands still as long as wanted.
    pub fn stand(&self) {
        let mut state = self.state.lock().expect("no panics while held");
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            state = self.changed.wait(state).expect("no panics while held");
        }
        state.1 -= 1;
    }
}

/// How far a thread's ledger is (see `ops::ledger`): what it has begun to write, and what it has written in both.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The last number that may be in the first file.
    pub begun: AtomicU64,
    /// The last number that is in both.
    pub done: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct Shared<'a> {
    /// The directories.
    pub world: World,
    /// By index in the table of operations.
    pub stats: &'a Stats,
    /// Files that all threads write through the same descriptors.
    pub descriptors: Vec<c_int>,
    /// Copies of the object that is loaded late.
    pub late: Vec<PathBuf>,
    /// One for each thread.
    pub ledgers: Vec<Ledger>,
    /// The operation each thread is in, for the watchdog.
    pub current: Vec<AtomicUsize>,
    /// See [`Pause`].
    pub pause: Pause,
    /// How long the threads rest, against how long they do at first: the longer a backup takes, the calmer they get,
    /// so that a slow machine is not taken for a fault.
    pub calm: AtomicU64,
    /// How many operations each thread may have run by now.
    pub allowed: AtomicU64,
    /// Whether operations run that nobody can see ([`crate::ops::Operation::unseen`]).
    pub unseen: AtomicBool,
    /// The round is over.
    pub over: AtomicBool,
    /// What went wrong with the program itself, such as a child that hung.
    pub failures: Mutex<Vec<String>>,
}

impl Shared<'_> {
    /// Notes a failure.
    pub fn fail(&self, what: String) {
        self.failures.lock().expect("no panics while held").push(what);
    }
}
