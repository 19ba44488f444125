//! Finding an inode's entry from a hook: open addressing over atomic pointers, read without a lock.
//!
//! Only the engine adds, removes and enlarges. A reader that misses an entry which was added meanwhile has landed
//! its write before the entry was there, hence before the file's first byte is read (P3).

use super::entry::{Entry, Key};
use super::sync::{AtomicPtr, Ordering};

/// Half of the places of the smallest table.
#[cfg(not(feature = "model"))]
const LEAST: usize = 64;
#[cfg(feature = "model")]
const LEAST: usize = 4;

/// The table itself: a power of two of places.
#[derive(Debug)]
pub struct Table {
    places: Box<[AtomicPtr<Entry>]>,
}

/// Stands where an entry was, so that those behind it are still found.
fn removed() -> *mut Entry {
    std::ptr::without_provenance_mut(1)
}

fn hash(key: Key) -> usize {
    let mixed = (key.ino ^ key.dev.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29) as usize
}

impl Table {
    /// An empty table with room for `entries` at half load. `None`: there is no memory for it.
    pub fn new(entries: usize) -> Option<Self> {
        let count = (entries.max(LEAST) * 2).next_power_of_two();
        let mut places = Vec::new();
        places.try_reserve_exact(count).ok()?;
        places.extend((0..count).map(|_| AtomicPtr::default()));
        Some(Table { places: places.into() })
    }

    /// How many entries it takes before it should be enlarged.
    pub fn room(&self) -> usize {
        self.places.len() / 2
    }

    fn probe(&self, key: Key) -> impl Iterator<Item = &AtomicPtr<Entry>> {
        let mask = self.places.len() - 1;
        let start = hash(key);
        (0..self.places.len()).filter_map(move |step| self.places.get((start.wrapping_add(step)) & mask))
    }

    /// The entry of `key`.
    pub fn find(&self, key: Key) -> Option<&Entry> {
        for place in self.probe(key) {
            let entry = place.load(Ordering::SeqCst);
            if entry.is_null() {
                return None;
            }
            if entry == removed() {
                continue;
            }
            // SAFETY: entries live until nobody can be inside a hook any more (`Tracker::end`).
            let entry = unsafe { &*entry };
            if entry.key == key {
                return Some(entry);
            }
        }
        None
    }

    /// Adds an entry whose key is not in the table. False: no place is left.
    #[must_use]
    pub fn insert(&self, entry: *mut Entry, key: Key) -> bool {
        for place in self.probe(key) {
            let held = place.load(Ordering::SeqCst);
            if held.is_null() || held == removed() {
                place.store(entry, Ordering::SeqCst);
                return true;
            }
        }
        false
    }

    /// Takes an entry out.
    pub fn remove(&self, entry: &Entry) {
        for place in self.probe(entry.key) {
            let held = place.load(Ordering::SeqCst);
            if held.is_null() {
                return;
            }
            if std::ptr::eq(held, entry) {
                place.store(removed(), Ordering::SeqCst);
                return;
            }
        }
    }
}
