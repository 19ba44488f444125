//! The atomics, threads and clock that the protocol is built on. The model check swaps them for instrumented ones; so does
//! tests/orders, which brings a module of its own in place of this one.

#[cfg(feature = "model")]
pub use shuttle::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
#[cfg(not(feature = "model"))]
pub use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(feature = "model"))]
use std::time::Duration;

/// Threads with a slot of their own. More share a counter: right, only slower.
#[cfg(not(feature = "model"))]
pub const SLOTS: usize = 16_384;
/// Few, so that some threads find none.
#[cfg(feature = "model")]
pub const SLOTS: usize = 8;

/// Sleeps until `word` differs from `expected`, a wake-up, or `timeout`; may return early (futex(2)).
#[cfg(not(feature = "model"))]
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout =
        libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos().into() };
    // SAFETY: FUTEX_WAIT reads the aligned 32-bit word, which outlives the call, and a valid timespec.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            std::ptr::from_ref(word).cast::<u32>(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            &raw const timeout,
        )
    };
}

/// Wakes everyone who sleeps on `word`.
#[cfg(not(feature = "model"))]
pub fn futex_wake_all(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE only uses the address of the word as a key.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            std::ptr::from_ref(word).cast::<u32>(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            i32::MAX,
        )
    };
}

/// The calling thread.
#[cfg(not(feature = "model"))]
pub mod thread {
    pub use std::thread::sleep as pause_for;

    /// Its address.
    pub fn this_thread() -> usize {
        // SAFETY: pthread_self has no preconditions; on Linux it is the address of the thread's control block.
        unsafe { libc::pthread_self() as usize }
    }

    /// Its number in the kernel.
    pub fn kernel_id() -> u32 {
        // SAFETY: gettid has no preconditions.
        unsafe { libc::syscall(libc::SYS_gettid) as u32 }
    }
}

/// Milliseconds of CLOCK_MONOTONIC; reads the vDSO, no system call.
#[cfg(not(feature = "model"))]
pub fn monotonic_millis() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

#[cfg(feature = "model")]
pub use model::{futex_wait, futex_wake_all, monotonic_millis, thread};

/// Time and sleep of one execution of the model: a sleeper sleeps until it is woken or a test has moved the clock
/// past its timeout. A lost wake-up is a thread that sleeps for ever, which the checker reports.
#[cfg(feature = "model")]
pub mod model {
    use super::{AtomicU32, AtomicU64, Ordering};
    use shuttle::sync::{Condvar, Mutex};
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[derive(Default)]
    struct Sleepers {
        tickets: u64,
        /// Address of the word that each ticket sleeps on.
        asleep: BTreeMap<u64, usize>,
        deaf: bool,
    }

    shuttle::lazy_static! {
        static ref NOW: AtomicU64 = AtomicU64::new(0);
        static ref SLEEPERS: (Mutex<Sleepers>, Condvar) = (Mutex::new(Sleepers::default()), Condvar::new());
    }

    /// The calling thread.
    pub mod thread {
        /// Its number, and one.
        pub fn this_thread() -> usize {
            usize::from(shuttle::current::me()) + 1
        }

        /// The same.
        pub fn kernel_id() -> u32 {
            this_thread() as u32
        }

        /// Others go first; time stands still.
        pub fn pause_for(_time: std::time::Duration) {
            shuttle::thread::yield_now();
        }
    }

    fn address(word: &AtomicU32) -> usize {
        std::ptr::from_ref(word).addr()
    }

    /// futex(2), FUTEX_WAIT.
    pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
        let Ok(mut sleepers) = SLEEPERS.0.lock() else { return };
        if word.load(Ordering::SeqCst) != expected {
            drop(sleepers);
            // Whoever is about to change the word back gets to it.
            shuttle::thread::yield_now();
            return;
        }
        let until = monotonic_millis() + timeout.as_millis() as u64;
        sleepers.tickets += 1;
        let ticket = sleepers.tickets;
        sleepers.asleep.insert(ticket, address(word));
        while sleepers.asleep.contains_key(&ticket) && monotonic_millis() < until {
            sleepers = match SLEEPERS.1.wait(sleepers) {
                Ok(sleepers) => sleepers,
                Err(_) => return,
            };
        }
        sleepers.asleep.remove(&ticket);
    }

    /// futex(2), FUTEX_WAKE.
    pub fn futex_wake_all(word: &AtomicU32) {
        if let Ok(mut sleepers) = SLEEPERS.0.lock()
            && !sleepers.deaf
        {
            sleepers.asleep.retain(|_, on| *on != address(word));
        }
        SLEEPERS.1.notify_all();
    }

    /// From now on nobody is woken: a control of the checks themselves.
    pub fn deafen() {
        if let Ok(mut sleepers) = SLEEPERS.0.lock() {
            sleepers.deaf = true;
        }
    }

    /// Milliseconds of the model's clock.
    pub fn monotonic_millis() -> u64 {
        NOW.load(Ordering::SeqCst)
    }

    /// Moves the clock.
    pub fn advance(time: Duration) {
        {
            let _sleepers = SLEEPERS.0.lock();
            NOW.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
        }
        SLEEPERS.1.notify_all();
    }
}
