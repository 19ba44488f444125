//! Where the throttle has its time from, and how it waits.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// A clock that can be waited on.
pub trait Clock: Sync {
    /// Nanoseconds since some fixed moment; never goes back.
    fn now(&self) -> u64;
    /// Returns at `until` (nanoseconds of [`Clock::now`]), or when `word` is woken, or at once when `word` is not
    /// `expected`. May return early for no reason.
    fn wait(&self, word: &AtomicU32, expected: u32, until: u64);
    /// Ends every [`Clock::wait`] on `word`.
    fn wake(&self, word: &AtomicU32);
}

/// CLOCK_MONOTONIC, and a futex to wait on.
#[derive(Debug)]
pub struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a timespec of ours; the call cannot fail for CLOCK_MONOTONIC.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        // Neither is negative for this clock.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        u64::try_from(Duration::new(seconds, nanos).as_nanos()).unwrap_or(u64::MAX)
    }

    fn wait(&self, word: &AtomicU32, expected: u32, until: u64) {
        let time = Duration::from_nanos(until);
        let until = libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(time.subsec_nanos()),
        };
        // FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC, futex(2). Its failures (EINTR, EAGAIN,
        // ETIMEDOUT) all mean: look again.
        // SAFETY: `word` outlives the call and is a 32-bit word; `until` is a valid timespec; the rest is unused.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
                expected,
                &until,
                std::ptr::null::<u32>(),
                libc::FUTEX_BITSET_MATCH_ANY,
            );
        }
    }

    fn wake(&self, word: &AtomicU32) {
        // SAFETY: FUTEX_WAKE only uses the address of `word`, which is alive.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                libc::c_int::MAX,
            );
        }
    }
}
