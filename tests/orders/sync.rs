//! What src/tracker/sync.rs gives to the gate, made of loom's.

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::Duration;

pub use loom::sync::atomic::Ordering;
use loom::sync::atomic::fence;
use loom::sync::{Condvar, Mutex};

/// Fewer than there are threads.
pub const SLOTS: usize = 1;

/// What becomes of the orders that the sources ask for, and of other things that they rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// loom takes sequentially consistent accesses as acquire and release, but knows fences: so a fence stands before
    /// each, as compilers have it for POWER.
    AsWritten,
    /// Without these fences.
    AcquireRelease,
    /// Stores are relaxed.
    RelaxedStores,
    /// Everything is relaxed.
    Relaxed,
    /// As written; but a successful compare-and-swap is a load, and then a store.
    TornSwap,
    /// As written; but nobody is woken.
    Deaf,
}

thread_local! {
    // All threads of an execution run on one of the system's.
    static ORDERS: Cell<Orders> = const { Cell::new(Orders::AsWritten) };
}

/// From now on.
pub fn set(orders: Orders) {
    ORDERS.set(orders);
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Load,
    Store,
    Both,
}

fn order(asked: Ordering, does: Does) -> Ordering {
    match (ORDERS.get(), asked) {
        (Orders::Relaxed, _) => return Ordering::Relaxed,
        (Orders::RelaxedStores, _) if does == Does::Store => return Ordering::Relaxed,
        (Orders::AsWritten | Orders::TornSwap | Orders::Deaf, Ordering::SeqCst) => fence(Ordering::SeqCst),
        _ => {}
    }
    match (asked, does) {
        (Ordering::SeqCst, Does::Load) => Ordering::Acquire,
        (Ordering::SeqCst, Does::Store) => Ordering::Release,
        (Ordering::SeqCst, Does::Both) => Ordering::AcqRel,
        _ => asked,
    }
}

/// loom's atomics cannot be made at compile time, and must all be made before other threads come: looking at them makes
/// them.
pub fn make(all: &impl Debug) {
    let _ = format!("{all:?}");
}

macro_rules! atomics {
    ($($name:ident$(<$parameter:ident>)? of $value:ty;)*) => { $(
        /// loom's of this name.
        pub struct $name$(<$parameter>)? {
            initial: $value,
            real: OnceLock<loom::sync::atomic::$name$(<$parameter>)?>,
        }

        #[allow(dead_code)]
        impl$(<$parameter>)? $name$(<$parameter>)? {
            pub const fn new(initial: $value) -> Self {
                $name { initial, real: OnceLock::new() }
            }

            fn real(&self) -> &loom::sync::atomic::$name$(<$parameter>)? {
                self.real.get_or_init(|| loom::sync::atomic::$name::new(self.initial))
            }

            pub fn load(&self, asked: Ordering) -> $value {
                self.real().load(order(asked, Does::Load))
            }

            pub fn store(&self, value: $value, asked: Ordering) {
                self.real().store(value, order(asked, Does::Store));
            }

            pub fn compare_exchange(
                &self,
                from: $value,
                to: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                if ORDERS.get() == Orders::TornSwap {
                    let held = self.load(failure);
                    if held != from {
                        return Err(held);
                    }
                    self.store(to, success);
                    return Ok(held);
                }
                let (success, failure) = (order(success, Does::Both), order(failure, Does::Load));
                self.real().compare_exchange(from, to, success, failure)
            }
        }

        impl$(<$parameter>)? Debug for $name$(<$parameter>)? {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.real();
                formatter.write_str(stringify!($name))
            }
        }
    )* };
}

macro_rules! counters {
    ($($name:ident of $value:ty;)*) => { $(
        #[allow(dead_code)]
        impl $name {
            pub fn fetch_add(&self, value: $value, asked: Ordering) -> $value {
                self.real().fetch_add(value, order(asked, Does::Both))
            }

            pub fn fetch_sub(&self, value: $value, asked: Ordering) -> $value {
                self.real().fetch_sub(value, order(asked, Does::Both))
            }
        }
    )* };
}

atomics! {
    AtomicU32 of u32;
    AtomicU64 of u64;
    AtomicUsize of usize;
    AtomicPtr<T> of *mut T;
}
counters! {
    AtomicU32 of u32;
    AtomicUsize of usize;
}

// SAFETY: a pointer that is never followed but by the slots, who know what it leads to.
unsafe impl<T> Send for AtomicPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for AtomicPtr<T> {}

loom::lazy_static! {
    static ref BED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
}

/// futex(2), FUTEX_WAIT, without a timeout: the clock stands still.
pub fn futex_wait(word: &AtomicU32, expected: u32, _timeout: Duration) {
    let awake = BED.0.lock().expect("nobody panics in bed");
    if word.load(Ordering::SeqCst) == expected {
        drop(BED.1.wait(awake));
    } else {
        drop(awake);
        // Whoever is about to ring gets to it.
        loom::thread::yield_now();
    }
}

/// futex(2), FUTEX_WAKE.
pub fn futex_wake_all(_word: &AtomicU32) {
    if ORDERS.get() != Orders::Deaf {
        let _awake = BED.0.lock();
        BED.1.notify_all();
    }
}

/// It stands still.
pub fn monotonic_millis() -> u64 {
    0
}

/// The calling thread.
pub mod thread {
    use std::cell::Cell;
    use std::time::Duration;

    loom::thread_local! {
        static ME: Cell<usize> = Cell::new(0);
    }

    /// Names the calling thread.
    pub fn call_me(number: usize) {
        ME.with(|me| me.set(number));
    }

    /// Its name.
    pub fn this_thread() -> usize {
        ME.with(Cell::get)
    }

    /// The same.
    pub fn kernel_id() -> u32 {
        this_thread() as u32
    }

    /// Others go first.
    pub fn pause_for(_time: Duration) {
        loom::thread::yield_now();
    }
}
