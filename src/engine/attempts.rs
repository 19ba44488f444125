//! The end of the course: tries at the gate until one of them is T (P19, P20).

use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::finish;
use super::hold::{Arena, Held, Hold, Missed, Watcher};
use super::progress::Phase;
use super::run::{Engine, GATE_PATIENCE, SMALL};
use crate::tracker::Marks;

/// Somebody inside for longer than this: the gate is not closed (P20). At first; where calls take longer as a rule
/// (a slow disk), it grows with each try.
const LONG_CALL: Duration = Duration::from_millis(5);
/// Those inside get this long to leave, at first.
const DRAIN: Duration = Duration::from_millis(10);
/// The part of the gate's bound that those inside may take at most; the rest is for reading.
const DRAIN_PART: f32 = 0.6;
/// A moment with no asynchronous write in flight is waited for this long before the gate is closed.
const QUIET_DISK: Duration = Duration::from_millis(50);
/// So many files are looked at again right before each try of the gate, which takes some 20 ms; in larger trees only
/// before DDL is held off.
const FEW_FILES: usize = 20_000;

impl Engine<'_> {
    /// The last pass and the gate, until it is passed or patience ends.
    pub(super) fn pass_gate(&mut self, arena: &mut Arena, watcher: &dyn Watcher) -> Result<Held> {
        self.enter(Phase::Gate);
        let give_up = Instant::now() + GATE_PATIENCE;
        let mut pause = Duration::from_millis(50);
        let (mut long_call, mut drain) = (LONG_CALL, DRAIN);
        let mut names = 0;
        loop {
            self.control.check()?;
            let missed = if self.somebody_stays_inside(long_call) {
                long_call = (long_call * 5 / 4).min(self.longest_drain());
                None
            } else {
                match self.attempt(arena, watcher, drain)? {
                    Ok(held) => return Ok(held),
                    Err(missed) => Some(missed),
                }
            };
            if Instant::now() > give_up {
                return Err(self.never_passed(missed.unwrap_or(Missed::Busy)));
            }
            if missed == Some(Missed::Names) {
                names += 1;
                // Perhaps another process took a name away, which left no mark.
                self.tracker.put_back_wide(names % 4 == 0, false);
            }
            // The server has waited for nothing: not again at once.
            if matches!(missed, Some(Missed::Busy | Missed::InFlight | Missed::Late | Missed::Unseen)) {
                drain = (drain * 3 / 2).min(self.longest_drain());
                self.sleep(pause)?;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }

    fn longest_drain(&self) -> Duration {
        self.request.gate_timeout.mul_f32(DRAIN_PART)
    }

    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.control.check()?;
            std::thread::sleep(Duration::from_millis(10).min(time));
        }
        Ok(())
    }

    fn never_passed(&self, missed: Missed) -> Error {
        let inside = self.tracker.gate().slots().inside();
        let why = match missed {
            Missed::Failed(errno) => {
                return Error::new(
                    errno,
                    format!("reading the source inside the gate failed: {}", super::error::describe(errno)),
                );
            }
            Missed::Busy => {
                let who = inside.first().map_or(String::new(), |inside| {
                    format!(" (now thread {} in {}())", inside.tid, inside.call.to_string_lossy())
                });
                return Error::new(
                    libc::ETIMEDOUT,
                    format!(
                        "no instant was found to end the backup within {} s: there was always a call under way that \
                         took long{who}; set tokudb_backup_gate_timeout higher or try again at a quieter time",
                        GATE_PATIENCE.as_secs()
                    ),
                );
            }
            Missed::Unseen => match self.too_large() {
                Some(refused) => return refused,
                None => "streams that cannot be observed were written at all times",
            },
            Missed::InFlight => "asynchronous writes were always in flight",
            Missed::TooMuch => "too much changed between the last pass and the gate",
            Missed::Names => "directories changed between the last pass and the gate",
            Missed::Late => "the time allowed by tokudb_backup_gate_timeout was too short",
            Missed::Hooks => "libraries kept being loaded",
        };
        Error::new(
            libc::ETIMEDOUT,
            format!(
                "no instant was found to end the backup within {} s: {why}; try again at a quieter time",
                GATE_PATIENCE.as_secs()
            ),
        )
    }

    /// One pass and one try of the gate.
    fn attempt(
        &mut self,
        arena: &mut Arena,
        watcher: &dyn Watcher,
        drain: Duration,
    ) -> Result<std::result::Result<Held, Missed>> {
        if !watcher.verify()? {
            return Ok(Err(Missed::Hooks));
        }
        watcher.reap();
        watcher.review_unseen()?;
        if self.too_large().is_some() {
            return Ok(Err(Missed::Unseen));
        }
        self.mark_unseen();
        self.pass(false)?;
        if self.state.tree.files.len() <= FEW_FILES {
            self.look_for_foreign_changes(watcher)?;
        }
        if self.pass(false)? > SMALL {
            return Ok(Err(Missed::TooMuch));
        }
        self.settle()?;
        self.check_fault()?;
        // Names once more: inside the gate only those of an instant are left. The files are read in there.
        for file in self.state.run()? {
            self.tracker.put_back(file.entry, None, Marks::empty());
        }
        self.wait_for_quiet_disk(watcher, Instant::now() + QUIET_DISK);
        let hold = Hold {
            tracker: self.tracker,
            state: &self.state,
            foreign: &self.foreign,
            bound: finish::gate_bound(self.request.gate_timeout),
            drain: drain.min(self.longest_drain()),
        };
        let reading = match hold.read(arena, watcher) {
            Ok(reading) => reading,
            Err(missed) => return Ok(Err(missed)),
        };
        if finish::compares() {
            self.report.files = finish::compare_in_gate(&mut self.state, arena, self.workers)?.files;
        }
        let held = reading.end_capture(arena);
        self.check_fault()?;
        Ok(held)
    }

    /// What is in flight is waited for inside the gate; less, when it is closed at a moment with nothing in flight. A
    /// busy server has no such moment.
    pub(super) fn wait_for_quiet_disk(&self, watcher: &dyn Watcher, until: Instant) {
        while watcher.reap() != 0 && Instant::now() < until && !self.control.is_stopped() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Whether a call has been under way for longer than the gate would wait for it.
    fn somebody_stays_inside(&self, long: Duration) -> bool {
        let slots = self.tracker.gate().slots();
        let inside = slots.inside();
        if inside.is_empty() {
            return false;
        }
        std::thread::sleep(long);
        inside.iter().any(|seen| slots.is_still_inside(seen))
    }
}
