//! An upper bound on the bytes per second of first copying, for all copiers of the process together.
//!
//! A generic cell rate algorithm: one number says up to when the rate is used up, in time. Who wants bytes waits
//! until that moment is reached, then moves it on by what the bytes cost. Bytes are taken in slices of 10 ms of the
//! rate, so a copier owes no more than that, and a new rate or the end of a backup is seen at once. A copier that
//! woke late may catch up with 20 ms, which is what keeps the rate exact; more is never saved up.

mod clock;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use clock::{Clock, Monotonic};

/// The rate that means no bound.
pub const UNBOUNDED: u64 = u64::MAX;

/// Of the whole process: every copier takes from it, any thread may set its rate.
pub static THROTTLE: Throttle<Monotonic> = Throttle::new(Monotonic);

/// Takes from [`THROTTLE`]: see [`Throttle::take`].
pub fn take(bytes: u64, should_stop: &dyn Fn() -> bool) -> bool {
    THROTTLE.take(bytes, should_stop)
}

/// Time is counted in sixteenths of a nanosecond, so that a byte at 1 GB/s costs something exact; 36 years of uptime.
const TICKS_PER_NANO: u64 = 16;
const TICKS_PER_SECOND: u64 = 1_000_000_000 * TICKS_PER_NANO;
/// One slice is the bytes of this part of a second, at least one byte.
const SLICES_PER_SECOND: u64 = 100;
/// What may be caught up with.
const LATE: u64 = TICKS_PER_SECOND / 50;
/// `should_stop` is asked at least this often.
const LOOK_AROUND_NANOS: u64 = 20_000_000;

/// A bound on bytes per second, shared by any number of threads.
#[derive(Debug)]
pub struct Throttle<C> {
    clock: C,
    rate: AtomicU64,
    /// Up to when the rate is used up, in ticks of `clock`.
    used_until: AtomicU64,
    /// Changes with the rate; who waits for bytes waits on it.
    changes: AtomicU32,
}

impl<C: Clock> Throttle<C> {
    /// No bound yet.
    pub const fn new(clock: C) -> Self {
        Throttle {
            clock,
            rate: AtomicU64::new(UNBOUNDED),
            used_until: AtomicU64::new(0),
            changes: AtomicU32::new(0),
        }
    }

    /// The bound: bytes per second; 0 is paused, [`UNBOUNDED`] none.
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Acquire)
    }

    /// Sets the bound, at once for every copier.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Release);
        self.changes.fetch_add(1, Ordering::Release);
        self.clock.wake(&self.changes);
    }

    /// Whether copying stands still, and with it the gate.
    pub fn is_paused(&self) -> bool {
        self.rate() == 0
    }

    /// Waits until `bytes` more may be copied. False: `should_stop` said so first (asked every 20 ms).
    pub fn take(&self, bytes: u64, should_stop: &dyn Fn() -> bool) -> bool {
        let mut left = bytes;
        while left > 0 {
            if should_stop() {
                return false;
            }
            // The change counter is read before the rate: a rate set in between ends the wait below at once.
            let changes = self.changes.load(Ordering::Acquire);
            let rate = self.rate();
            if rate == UNBOUNDED {
                return true;
            }
            let look_around = self.clock.now().saturating_add(LOOK_AROUND_NANOS);
            if rate == 0 {
                self.clock.wait(&self.changes, changes, look_around);
                continue;
            }
            let slice = left.min((rate / SLICES_PER_SECOND).max(1));
            match self.try_take(slice, rate) {
                Ok(()) => left -= slice,
                Err(until) => {
                    let until = until.div_ceil(TICKS_PER_NANO);
                    self.clock.wait(&self.changes, changes, until.min(look_around));
                }
            }
        }
        true
    }

    /// Takes one slice, or says until when (ticks) the rate is used up.
    fn try_take(&self, slice: u64, rate: u64) -> Result<(), u64> {
        let now = self.clock.now().saturating_mul(TICKS_PER_NANO);
        let mut used = self.used_until.load(Ordering::Relaxed);
        loop {
            // Nobody owes more than a slice: what lies beyond was taken at a lower rate, long ago in bytes.
            let whole_slice = cost((rate / SLICES_PER_SECOND).max(1), rate);
            let owed_until = used.min(now.saturating_add(whole_slice));
            let (next, result) = if owed_until > now {
                (owed_until, Err(owed_until))
            } else {
                let from = owed_until.max(now.saturating_sub(LATE));
                (from.saturating_add(cost(slice, rate)), Ok(()))
            };
            match self.used_until.compare_exchange_weak(used, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return result,
                Err(other) => used = other,
            }
        }
    }
}

/// Ticks that `bytes` take at `rate` (not 0), rounded up.
fn cost(bytes: u64, rate: u64) -> u64 {
    let ticks = (u128::from(bytes) * u128::from(TICKS_PER_SECOND)).div_ceil(u128::from(rate));
    u64::try_from(ticks).unwrap_or(u64::MAX)
}
