//! Who is inside an intercepted call: one slot a thread, found by the thread's own address.
//!
//! No thread-local variable is used: in a library that came by dlopen the first access to one may allocate. Slots
//! are never given back; a thread that gets a dead one's address gets its slot too, which is then empty.

use std::ffi::{CStr, c_char};
use std::time::Duration;

use super::sync::thread::{kernel_id, pause_for, this_thread};
use super::sync::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, SLOTS};

const BUCKETS: usize = SLOTS * 4;

/// One thread's place. Odd `sequence`: inside.
#[repr(align(64))]
#[derive(Debug)]
pub struct Slot {
    sequence: AtomicU64,
    call: AtomicPtr<c_char>,
    /// The backup (see [`Slots::new_epoch`]) in which this slot was last used.
    epoch: AtomicU32,
    /// Kernel thread id of the thread that used the slot first in that backup.
    tid: AtomicU32,
}

#[derive(Debug)]
struct Bucket {
    /// The thread's address ([`this_thread`]); 0: free.
    owner: AtomicUsize,
    /// Index of its slot plus one; 0: not known yet.
    slot: AtomicUsize,
}

/// All slots.
#[derive(Debug)]
pub struct Slots {
    buckets: [Bucket; BUCKETS],
    slots: [Slot; SLOTS],
    used: AtomicUsize,
    epoch: AtomicU32,
    /// Threads without a slot that are inside.
    overflow: AtomicUsize,
}

/// The calling thread's place, not entered yet.
#[derive(Debug)]
pub struct Place<'a> {
    slots: &'a Slots,
    slot: Option<&'a Slot>,
}

/// A thread is inside an intercepted call for as long as it holds this.
#[derive(Debug)]
#[must_use]
pub struct Pass<'a> {
    slots: &'a Slots,
    slot: Option<&'a Slot>,
}

/// A thread inside a call, as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    slot: usize,
    sequence: u64,
    /// Kernel thread id.
    pub tid: u32,
    /// The intercepted call.
    pub call: &'static CStr,
}

impl Slots {
    /// No thread has been here.
    #[allow(clippy::declare_interior_mutable_const)]
    pub const fn new() -> Self {
        const BUCKET: Bucket = Bucket { owner: AtomicUsize::new(0), slot: AtomicUsize::new(0) };
        const SLOT: Slot = Slot {
            sequence: AtomicU64::new(0),
            call: AtomicPtr::new(std::ptr::null_mut()),
            epoch: AtomicU32::new(0),
            tid: AtomicU32::new(0),
        };
        Slots {
            buckets: [BUCKET; BUCKETS],
            slots: [SLOT; SLOTS],
            used: AtomicUsize::new(0),
            epoch: AtomicU32::new(0),
            overflow: AtomicUsize::new(0),
        }
    }

    /// A new backup begins: what threads did in earlier ones proves nothing (P15).
    pub fn new_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The calling thread's place; `None` when it is inside already (P10).
    pub fn mine(&self) -> Option<Place<'_>> {
        let slot = self.find(this_thread());
        if slot.is_some_and(|slot| slot.sequence.load(Ordering::Relaxed) & 1 == 1) {
            return None;
        }
        Some(Place { slots: self, slot })
    }

    fn find(&self, owner: usize) -> Option<&Slot> {
        let start = (owner as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        for step in 0..BUCKETS {
            let bucket = self.buckets.get((start as usize + step) % BUCKETS)?;
            let mut held = bucket.owner.load(Ordering::Acquire);
            if held == 0 {
                match bucket.owner.compare_exchange(0, owner, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        let index = self.used.fetch_add(1, Ordering::SeqCst);
                        bucket.slot.store(index + 1, Ordering::SeqCst);
                        return self.slots.get(index);
                    }
                    Err(other) => held = other,
                }
            }
            if held == owner {
                // Only the owner itself stores it, so it is there unless a signal handler came in between: then
                // the handler's call counts as overflow.
                let index = bucket.slot.load(Ordering::Acquire);
                return index.checked_sub(1).and_then(|index| self.slots.get(index));
            }
        }
        None
    }

    fn in_use(&self) -> &[Slot] {
        let used = self.used.load(Ordering::SeqCst).min(SLOTS);
        self.slots.get(..used).unwrap_or(&[])
    }

    /// Whether no thread is inside.
    pub fn nobody_inside(&self) -> bool {
        self.overflow.load(Ordering::SeqCst) == 0
            && self.in_use().iter().all(|slot| slot.sequence.load(Ordering::SeqCst) & 1 == 0)
    }

    /// Those inside now. Threads that share the overflow counter are not named.
    pub fn inside(&self) -> Vec<Inside> {
        self.in_use()
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| {
                let sequence = slot.sequence.load(Ordering::SeqCst);
                let call = slot.call.load(Ordering::Acquire);
                (sequence & 1 == 1 && !call.is_null()).then(|| Inside {
                    slot: index,
                    sequence,
                    tid: slot.tid.load(Ordering::Relaxed),
                    // SAFETY: `call` was stored from a `&'static CStr`.
                    call: unsafe { CStr::from_ptr(call) },
                })
            })
            .collect()
    }

    /// Whether the call seen by an earlier [`Slots::inside`] is still under way.
    pub fn is_still_inside(&self, seen: &Inside) -> bool {
        self.slots.get(seen.slot).is_some_and(|slot| slot.sequence.load(Ordering::SeqCst) == seen.sequence)
    }

    /// Kernel ids of the threads that have entered a hook since [`Slots::new_epoch`].
    pub fn seen(&self) -> impl Iterator<Item = u32> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        self.in_use()
            .iter()
            .filter(move |slot| slot.epoch.load(Ordering::SeqCst) == epoch)
            .map(|slot| slot.tid.load(Ordering::SeqCst))
    }

    /// Waits until every call that is inside now has ended. Afterwards nobody holds what it loaded from the
    /// tracker before. An error names who is still there after `patience`.
    pub fn quiesce(&self, patience: Duration) -> Result<(), Option<Inside>> {
        let mut waiting = self.inside();
        let mut shared = self.overflow.load(Ordering::SeqCst) != 0;
        let mut waited = Duration::ZERO;
        loop {
            waiting.retain(|seen| self.is_still_inside(seen));
            shared = shared && self.overflow.load(Ordering::SeqCst) != 0;
            if waiting.is_empty() && !shared {
                return Ok(());
            }
            if waited >= patience {
                return Err(waiting.first().copied());
            }
            let pause = Duration::from_micros(200);
            pause_for(pause);
            waited += pause;
        }
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Place<'a> {
    /// The thread is inside from now on.
    pub(super) fn enter(&self, call: &'static CStr) -> Pass<'a> {
        match self.slot {
            Some(slot) => {
                let epoch = self.slots.epoch.load(Ordering::Acquire);
                if slot.epoch.load(Ordering::Relaxed) != epoch {
                    slot.tid.store(kernel_id(), Ordering::Relaxed);
                    slot.epoch.store(epoch, Ordering::Release);
                }
                slot.call.store(call.as_ptr().cast_mut(), Ordering::Relaxed);
                let sequence = slot.sequence.load(Ordering::Relaxed);
                slot.sequence.store(sequence.wrapping_add(1), Ordering::SeqCst);
            }
            None => {
                self.slots.overflow.fetch_add(1, Ordering::SeqCst);
            }
        }
        Pass { slots: self.slots, slot: self.slot }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        match self.slot {
            Some(slot) => {
                let sequence = slot.sequence.load(Ordering::Relaxed);
                slot.sequence.store(sequence.wrapping_add(1), Ordering::SeqCst);
            }
            None => {
                self.slots.overflow.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}
