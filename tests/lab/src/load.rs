//! Threads that put load on a server until they are told to stop.

use crate::client::{Conn, ConnOptions, SqlError};
use crate::ledger::{Ledger, Stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What the threads of a load share.
#[derive(Debug, Default)]
pub struct Shared {
    stop: AtomicBool,
    /// Commits acknowledged so far.
    pub commits: AtomicU64,
    /// DDL and FLUSH statements that succeeded so far.
    pub ddl: AtomicU64,
}

impl Shared {
    /// The load shall end.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a thread brings home.
pub enum Outcome {
    /// A client's commits, and why it ended early if it did.
    Stream(Stream, Option<SqlError>),
    /// The errors that a thread did not expect.
    Failures(Vec<Failure>),
}

/// An error at a client of the load.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Who and what.
    pub text: String,
    /// The server was gone.
    pub disconnect: bool,
}

impl Failure {
    /// The error of a client.
    pub fn new(who: &str, error: &SqlError) -> Failure {
        Failure { text: format!("{who}: {error}"), disconnect: error.is_disconnect() }
    }
}

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Outcome>>,
    options: ConnOptions,
    round: u64,
}

impl Load {
    /// A load without threads yet.
    pub fn new(options: ConnOptions, round: u64) -> Load {
        Load { shared: Arc::default(), threads: Vec::new(), options, round }
    }

    /// Counters that go on while the load runs.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Adds a thread with a connection of its own.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn spawn<F>(&mut self, work: F) -> Result<(), SqlError>
    where
        F: FnOnce(&mut Conn, &Shared) -> Outcome + Send + 'static,
    {
        let mut conn = Conn::connect(&self.options)?;
        let shared = self.shared.clone();
        self.threads.push(std::thread::spawn(move || work(&mut conn, &shared)));
        Ok(())
    }

    /// Stops every thread at the end of its statement and gathers what they know, and what went wrong.
    ///
    /// # Panics
    /// When a thread did.
    pub fn stop(mut self) -> (Ledger, Vec<Failure>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut ledger = Ledger { round: self.round, streams: Vec::new() };
        let mut failures = Vec::new();
        for thread in std::mem::take(&mut self.threads) {
            match thread.join().expect("a thread of the load panicked") {
                Outcome::Stream(stream, error) => {
                    let who = format!("{}, client {}", stream.table, stream.client);
                    failures.extend(error.map(|error| Failure::new(&who, &error)));
                    ledger.streams.push(stream);
                }
                Outcome::Failures(more) => failures.extend(more),
            }
        }
        (ledger, failures)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
