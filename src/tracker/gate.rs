//! The gate: for an instant every call that changes files waits, so that the last bytes are read while nothing
//! moves (P18-P20).
//!
//! One 64-bit word holds state, generation and deadline, so that each of the two ways of ending a closure is one
//! compare-and-swap: the engine's `CLOSED(g) -> OFF`, and `CLOSED(g) -> OPEN` by whoever finds the deadline
//! past. One of them wins; hence nothing that happens to the closer can hold the server up for longer than the
//! bound.

use std::time::Duration;

use super::slots::{Pass, Slots};
use super::sync::{AtomicU32, AtomicU64, Ordering, futex_wait, futex_wake_all, monotonic_millis};

const OFF: u64 = 0;
const OPEN: u64 = 1;
const CLOSED: u64 = 2;
const STATE: u64 = 3;
/// Generation: bits 2 to 31. It is in the half that waiters sleep on, so a later closure never looks the same.
const GENERATION_STEP: u64 = 4;
const LOW: u64 = 0xffff_ffff;

/// The gate and the slots of those who pass it.
#[derive(Debug)]
pub struct Gate {
    /// Low half: state and generation. High half: deadline, milliseconds since `base`.
    word: AtomicU64,
    /// What waiters sleep on: the low half of `word`, stored after it.
    bell: AtomicU32,
    /// CLOCK_MONOTONIC milliseconds at the start of the backup.
    base: AtomicU64,
    slots: Slots,
}

/// One closing of the gate; ends by [`Gate::turn_off`] or [`Gate::reopen`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Closure {
    word: u64,
}

impl Gate {
    /// A gate that is off: no backup runs.
    pub const fn new(slots: Slots) -> Self {
        Gate { word: AtomicU64::new(OFF), bell: AtomicU32::new(0), base: AtomicU64::new(0), slots }
    }

    /// The slots of the threads that passed here.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// From now on calls are let in and seen. Only the engine calls it, while the gate is off.
    pub fn turn_on(&self) {
        self.base.store(monotonic_millis(), Ordering::SeqCst);
        let word = self.word.load(Ordering::SeqCst);
        self.set(word, ((word & LOW & !STATE) + GENERATION_STEP) & LOW | OPEN);
        // Last: whoever notes the new epoch in its slot finds the gate on, so its call is seen (P15).
        self.slots.new_epoch();
    }

    /// Whether capture is on (open or closed).
    pub fn is_on(&self) -> bool {
        self.word.load(Ordering::SeqCst) & STATE != OFF
    }

    /// Lets the calling thread in for one call, waiting while the gate is closed. `None`: nothing is to be seen
    /// (capture is off, or the thread is inside a hook already, P10).
    pub fn enter(&self, call: &'static std::ffi::CStr) -> Option<Pass<'_>> {
        let slot = self.slots.mine()?;
        loop {
            let pass = slot.enter(call);
            // The closer stores the word, then reads the slots; we stored the slot and now read the word. All four are
            // SeqCst, so one of us sees the other.
            let word = self.word.load(Ordering::SeqCst);
            match word & STATE {
                OPEN => return Some(pass),
                CLOSED => {
                    drop(pass);
                    self.wait(word);
                }
                _ => return None,
            }
        }
    }

    /// Lets the calling thread in although the gate may be closed: for reapers of asynchronous I/O, who change no
    /// file but touch the tracker (P12). Must be held for a moment only: the closer waits for it.
    pub fn pin(&self, call: &'static std::ffi::CStr) -> Option<Pass<'_>> {
        let pass = self.slots.mine()?.enter(call);
        (self.word.load(Ordering::SeqCst) & STATE != OFF).then_some(pass)
    }

    /// Closes the gate until `bound` has passed at the latest. `None`: it is not open.
    pub fn close(&self, bound: Duration) -> Option<Closure> {
        let word = self.word.load(Ordering::SeqCst);
        if word & STATE != OPEN {
            return None;
        }
        let deadline =
            monotonic_millis().wrapping_sub(self.base.load(Ordering::SeqCst)) + bound.as_millis() as u64;
        let low = ((word & LOW & !STATE) + GENERATION_STEP) & LOW | CLOSED;
        let closed = deadline.min(LOW) << 32 | low;
        self.swap(word, closed).then_some(Closure { word: closed })
    }

    /// Whether nobody is inside any more. Meaningful while the gate is closed.
    pub fn is_drained(&self) -> bool {
        self.slots.nobody_inside()
    }

    /// Whether this closure still stands.
    pub fn holds(&self, closure: Closure) -> bool {
        self.word.load(Ordering::SeqCst) == closure.word
    }

    /// Ends the closure and capture with it: this is T. False: a waiter opened the gate first, so what was read
    /// inside is no image of one instant.
    #[must_use]
    pub fn turn_off(&self, closure: Closure) -> bool {
        self.swap(closure.word, closure.word & LOW & !STATE | OFF)
    }

    /// Ends the closure without success. False: a waiter was faster, which is as good.
    pub fn reopen(&self, closure: Closure) -> bool {
        self.swap(closure.word, closure.word & LOW & !STATE | OPEN)
    }

    /// Ends capture in whatever state the gate is (a failed backup).
    pub fn abandon(&self) {
        loop {
            let word = self.word.load(Ordering::SeqCst);
            if word & STATE == OFF || self.swap(word, word & LOW & !STATE | OFF) {
                return;
            }
        }
    }

    fn wait(&self, closed: u64) {
        let base = self.base.load(Ordering::SeqCst);
        loop {
            if self.word.load(Ordering::SeqCst) != closed {
                return;
            }
            let now = monotonic_millis().wrapping_sub(base);
            let deadline = closed >> 32;
            if now >= deadline {
                self.swap(closed, closed & LOW & !STATE | OPEN);
                return;
            }
            // One millisecond more, so that a wake-up finds the deadline past.
            futex_wait(&self.bell, (closed & LOW) as u32, Duration::from_millis(deadline - now + 1));
        }
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        let swapped = self.word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if swapped {
            self.ring((to & LOW) as u32);
        }
        swapped
    }

    fn set(&self, from: u64, to: u64) {
        let swapped = self.swap(from, to);
        debug_assert!(swapped, "only the engine turns the gate on");
    }

    /// The bell may lag behind the word when two changes race; waiters look at the word, and sleep at most until
    /// their deadline, so a missed ring costs a bounded wait and no correctness.
    fn ring(&self, low: u32) {
        self.bell.store(low, Ordering::SeqCst);
        if u64::from(low) & STATE != CLOSED {
            futex_wake_all(&self.bell);
        }
    }
}
