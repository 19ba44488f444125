//! Bytes per second over the last two seconds, counted by any number of threads without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds of one bucket.
const BUCKET: u64 = 125_000_000;
/// Buckets of the last two seconds.
const WINDOW: u64 = 16;
const BUCKETS: usize = 32;
/// A bucket holds its number's low 24 bits above the bytes that were counted in its time (at most a TiB).
const BYTES_BITS: u32 = 40;
const MOST_BYTES: u64 = (1 << BYTES_BITS) - 1;

/// A ring of buckets of an eighth of a second.
#[derive(Debug)]
pub struct Rate([AtomicU64; BUCKETS]);

fn tag(number: u64) -> u64 {
    number << BYTES_BITS
}

impl Rate {
    pub const fn new() -> Self {
        Rate([const { AtomicU64::new(0) }; BUCKETS])
    }

    pub fn clear(&self) {
        for bucket in &self.0 {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    fn bucket(&self, number: u64) -> Option<&AtomicU64> {
        self.0.get(usize::try_from(number % BUCKETS as u64).ok()?)
    }

    /// `bytes` were copied at `now` (nanoseconds).
    pub fn add(&self, now: u64, bytes: u64) {
        let number = now / BUCKET;
        let Some(bucket) = self.bucket(number) else { return };
        let added = |old: u64| {
            let before = if old & !MOST_BYTES == tag(number) { old & MOST_BYTES } else { 0 };
            Some(tag(number) | before.saturating_add(bytes).min(MOST_BYTES))
        };
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
    }

    /// Bytes per second at `now`, in a backup that has run for `elapsed` nanoseconds.
    pub fn per_second(&self, now: u64, elapsed: u64) -> u64 {
        let current = now / BUCKET;
        let first = current.saturating_sub(WINDOW);
        let bytes: u64 = (first..=current)
            .filter_map(|number| {
                let value = self.bucket(number)?.load(Ordering::Relaxed);
                (value & !MOST_BYTES == tag(number)).then_some(value & MOST_BYTES)
            })
            .sum();
        let nanos = (now - first * BUCKET).min(elapsed).max(1);
        let rate = u128::from(bytes) * 1_000_000_000 / u128::from(nanos);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}
