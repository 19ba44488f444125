//! Between the thread that asked for the backup and the threads that do it: stop, questions, the result.
//!
//! The calling thread only ever waits here; it never touches a file (P28).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use crate::backup::Report;

/// What the engine asks of the calling thread.
#[derive(Debug)]
pub enum Question {
    /// Which of these source paths are left out.
    Excluded(Vec<PathBuf>),
    /// Hold DDL off; run what must run before capture ends.
    BeforeLastPass,
    /// Capture has ended, or will not end well.
    AfterStop,
}

/// The calling thread's answer.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Excluded`].
    Excluded(Vec<bool>),
    /// To the others.
    Done(Result<()>),
}

#[derive(Debug, Default)]
struct Mailbox {
    question: Option<Question>,
    answer: Option<Answer>,
    result: Option<Result<Report>>,
    changed: bool,
}

/// Shared by all threads of one backup.
#[derive(Debug, Default)]
pub struct Control {
    stopped: AtomicBool,
    verdict: AtomicU8,
    cause: Mutex<Option<Error>>,
    mailbox: Mutex<Mailbox>,
    bell: Condvar,
}

/// The backup is complete, and stays so.
const COMPLETE: u8 = 1;
/// The backup has failed, and stays so.
const GIVEN_UP: u8 = 2;

/// What the calling thread woke up for.
#[derive(Debug)]
pub enum Event {
    /// Nothing but time, or a change of phase: poll.
    Tick,
    /// Answer it with [`Control::answer`].
    Asked(Question),
    /// The backup is over.
    Over(Result<Report>),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Ends the backup with `cause`, unless another cause came first.
    pub fn stop(&self, cause: Error) {
        locked(&self.cause).get_or_insert(cause);
        self.stopped.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the backup is to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The error to end with, once stopped.
    pub fn check(&self) -> Result<()> {
        if !self.is_stopped() {
            return Ok(());
        }
        Err(self.cause())
    }

    /// Why it was stopped.
    pub fn cause(&self) -> Error {
        locked(&self.cause).clone().unwrap_or_else(|| Error::interrupted("it was stopped"))
    }

    /// The images are complete and say so. False when the backup has been given up before: then they must not.
    pub fn complete(&self) -> bool {
        self.decide(COMPLETE)
    }

    /// The backup is to have failed. False when it has become complete before: then it is no failure any more.
    pub fn give_up(&self) -> bool {
        self.decide(GIVEN_UP)
    }

    /// Whoever comes first decides.
    fn decide(&self, verdict: u8) -> bool {
        match self.verdict.compare_exchange(0, verdict, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(before) => before == verdict,
        }
    }

    /// Wakes the calling thread for a poll: the phase has changed.
    pub fn ring(&self) {
        locked(&self.mailbox).changed = true;
        self.bell.notify_all();
    }

    /// Asks the calling thread and waits for its answer, or for the end.
    pub fn ask(&self, question: Question) -> Result<Answer> {
        let mut mailbox = locked(&self.mailbox);
        mailbox.answer = None;
        mailbox.question = Some(question);
        self.bell.notify_all();
        loop {
            if let Some(answer) = mailbox.answer.take() {
                return Ok(answer);
            }
            if self.is_stopped() {
                mailbox.question = None;
                drop(mailbox);
                return Err(self.cause());
            }
            mailbox = self
                .bell
                .wait_timeout(mailbox, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The calling thread answers.
    pub fn answer(&self, answer: Answer) {
        locked(&self.mailbox).answer = Some(answer);
        self.bell.notify_all();
    }

    /// The engine has its result.
    pub fn finish(&self, result: Result<Report>) {
        locked(&self.mailbox).result = Some(result);
        self.bell.notify_all();
    }

    /// Waits for the next event, at most `timeout`.
    pub fn next_event(&self, timeout: Duration) -> Event {
        let until = Instant::now() + timeout;
        let mut mailbox = locked(&self.mailbox);
        loop {
            if let Some(question) = mailbox.question.take() {
                return Event::Asked(question);
            }
            if let Some(result) = mailbox.result.take() {
                return Event::Over(result);
            }
            let left = until.saturating_duration_since(Instant::now());
            if std::mem::take(&mut mailbox.changed) || left.is_zero() {
                return Event::Tick;
            }
            mailbox = self.bell.wait_timeout(mailbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
