//! The atomics that the protocol is built on; the model check swaps them for instrumented ones.

#[cfg(feature = "model")]
pub use shuttle::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(feature = "model"))]
pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use std::time::Duration;

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

/// In the model a sleeper is a thread that lets the others go first.
#[cfg(feature = "model")]
pub fn futex_wait(_word: &AtomicU32, _expected: u32, _timeout: Duration) {
    shuttle::thread::yield_now();
}

/// In the model nobody really sleeps.
#[cfg(feature = "model")]
pub fn futex_wake_all(_word: &AtomicU32) {}

/// Milliseconds of CLOCK_MONOTONIC; reads the vDSO, no system call.
#[cfg(not(feature = "model"))]
pub fn monotonic_millis() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

#[cfg(feature = "model")]
pub use model_clock::monotonic_millis;

/// The model's time: stands still unless a test moves it.
#[cfg(feature = "model")]
pub mod model_clock {
    use super::{AtomicU64, Ordering};
    use std::cell::RefCell;
    use std::sync::Arc;

    thread_local! {
        static NOW: RefCell<Option<Arc<AtomicU64>>> = const { RefCell::new(None) };
    }

    /// Milliseconds of the model's clock.
    pub fn monotonic_millis() -> u64 {
        NOW.with(|now| now.borrow().as_ref().map_or(0, |now| now.load(Ordering::SeqCst)))
    }

    /// Gives the calling thread a clock to read.
    pub fn use_clock(clock: Arc<AtomicU64>) {
        NOW.with(|now| *now.borrow_mut() = Some(clock));
    }
}
