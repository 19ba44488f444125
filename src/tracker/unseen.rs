//! Files that are written without our seeing it (P24): through streams of libc, or mappings.
//!
//! Hooks add files; the engine reviews them, since nobody sees a stream being closed or a mapping being undone.

use super::entry::Key;
use super::sync::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(feature = "model"))]
const PLACES: usize = 1024;
#[cfg(feature = "model")]
const PLACES: usize = 4;

/// How a file is written without our seeing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum How {
    /// Through a `FILE*`.
    Stdio = 1,
    /// Through a shared writable mapping.
    Mapped = 2,
    /// By a `FILE*` on descriptor 1 or 2: it only grows.
    Log = 3,
}

/// A place's `how` when it is free, and while it is being filled.
const FREE: u64 = 0;
const FILLING: u64 = 4;
/// Added to `how` while a review looks whether it still holds: who adds the file meanwhile takes another place.
const DOUBTED: u64 = 8;

fn how_of(value: u64) -> Option<How> {
    [How::Stdio, How::Mapped, How::Log].into_iter().find(|how| *how as u64 == value & !DOUBTED)
}

#[derive(Debug)]
struct Place {
    how: AtomicU64,
    dev: AtomicU64,
    ino: AtomicU64,
    fd: AtomicI32,
}

impl Place {
    fn key(&self) -> Key {
        Key { dev: self.dev.load(Ordering::SeqCst), ino: self.ino.load(Ordering::SeqCst) }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Unseen {
    places: [Place; PLACES],
    /// Places beyond this one have never been used.
    used: AtomicUsize,
}

impl Unseen {
    /// None.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        #[allow(clippy::declare_interior_mutable_const)]
        const PLACE: Place = Place {
            how: AtomicU64::new(FREE),
            dev: AtomicU64::new(0),
            ino: AtomicU64::new(0),
            fd: AtomicI32::new(-1),
        };
        Unseen { places: [PLACE; PLACES], used: AtomicUsize::new(0) }
    }

    fn used(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().take(self.used.load(Ordering::SeqCst))
    }

    /// False: there is no room.
    pub(super) fn add(&self, key: Key, how: How, fd: i32) -> bool {
        let is_it = |place: &Place| {
            place.how.load(Ordering::SeqCst) == how as u64
                && place.key() == key
                && place.fd.load(Ordering::SeqCst) == fd
        };
        if self.used().any(is_it) {
            return true;
        }
        for (index, place) in self.places.iter().enumerate() {
            if place.how.compare_exchange(FREE, FILLING, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                place.dev.store(key.dev, Ordering::SeqCst);
                place.ino.store(key.ino, Ordering::SeqCst);
                place.fd.store(fd, Ordering::SeqCst);
                place.how.store(how as u64, Ordering::SeqCst);
                self.used.fetch_max(index + 1, Ordering::SeqCst);
                return true;
            }
        }
        false
    }

    /// No file is written unseen: a backup begins, and nobody is inside a hook.
    pub(super) fn clear(&self) {
        for place in self.used() {
            place.how.store(FREE, Ordering::SeqCst);
        }
        self.used.store(0, Ordering::SeqCst);
    }

    /// How `key` is written without our seeing it, if it is.
    pub fn how(&self, key: Key) -> Option<How> {
        let mut found = None;
        for place in self.used() {
            let how = how_of(place.how.load(Ordering::SeqCst));
            // A log only grows, other files are read from their beginning: the stricter one counts.
            if how.is_some() && place.key() == key && (found.is_none() || how != Some(How::Log)) {
                found = how;
            }
        }
        found
    }

    /// Every file, once.
    pub fn each(&self, mut visit: impl FnMut(Key, How)) {
        for (index, place) in self.used().enumerate() {
            let Some(_) = how_of(place.how.load(Ordering::SeqCst)) else { continue };
            let key = place.key();
            let before =
                |place: &Place| how_of(place.how.load(Ordering::SeqCst)).is_some() && place.key() == key;
            if !self.used().take(index).any(before)
                && let Some(how) = self.how(key)
            {
                visit(key, how);
            }
        }
    }

    /// Whether any file is written this way.
    pub fn has(&self, how: How) -> bool {
        self.used().any(|place| how_of(place.how.load(Ordering::SeqCst)) == Some(how))
    }

    /// Begins a review: whoever adds a file from now on adds it anew. Only one at a time, by the engine.
    pub fn doubt(&self) {
        for place in self.used() {
            let how = place.how.load(Ordering::SeqCst);
            if how_of(how).is_some() {
                place.how.store(how | DOUBTED, Ordering::SeqCst);
            }
        }
    }

    /// Ends a review: takes out what is not `still` written that way, as found out since [`Unseen::doubt`]. What
    /// was written until then has landed, and `gone` must mark it (P1).
    pub fn settle(&self, mut still: impl FnMut(Key, How, i32) -> bool, mut gone: impl FnMut(Key)) {
        for place in self.used() {
            let how = place.how.load(Ordering::SeqCst);
            if how & DOUBTED == 0 {
                continue;
            }
            let key = place.key();
            match how_of(how) {
                Some(how) if still(key, how, place.fd.load(Ordering::SeqCst)) => {
                    place.how.store(how as u64, Ordering::SeqCst);
                }
                _ => {
                    gone(key);
                    place.how.store(FREE, Ordering::SeqCst);
                }
            }
        }
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    fn key(ino: u64) -> Key {
        Key { dev: 1, ino }
    }

    fn all(unseen: &Unseen) -> Vec<(u64, How)> {
        let mut found = Vec::new();
        unseen.each(|key, how| found.push((key.ino, how)));
        found
    }

    #[test]
    fn a_file_is_told_once_and_the_stricter_way_counts() {
        let unseen = Unseen::new();
        assert!(unseen.add(key(1), How::Log, 1) && unseen.add(key(1), How::Log, 2));
        assert_eq!(all(&unseen), [(1, How::Log)]);
        assert!(unseen.add(key(1), How::Stdio, 7) && unseen.add(key(2), How::Mapped, -1));
        assert_eq!(all(&unseen), [(1, How::Stdio), (2, How::Mapped)]);
        assert_eq!(unseen.how(key(3)), None);
    }

    #[test]
    fn a_review_takes_out_what_is_closed_and_leaves_what_is_added_meanwhile() {
        let unseen = Unseen::new();
        assert!(unseen.add(key(1), How::Stdio, 7) && unseen.add(key(2), How::Stdio, 8));
        unseen.doubt();
        // Closed, and opened again on the same descriptor after the look at it.
        assert!(unseen.add(key(1), How::Stdio, 7));
        let mut gone = Vec::new();
        unseen.settle(|_, _, fd| fd == 8, |key| gone.push(key.ino));
        assert_eq!(gone, [1]);
        assert_eq!(all(&unseen), [(2, How::Stdio), (1, How::Stdio)]);
    }

    #[test]
    fn places_are_used_again_and_their_number_is_bounded() {
        let unseen = Unseen::new();
        for round in 0..3 {
            for ino in 0..PLACES as u64 {
                assert!(unseen.add(key(ino), How::Stdio, 3), "round {round}");
            }
            assert!(!unseen.add(key(u64::MAX), How::Stdio, 3));
            unseen.doubt();
            unseen.settle(|_, _, _| false, |_| {});
            assert_eq!(all(&unseen), []);
        }
        assert!(unseen.add(key(1), How::Stdio, 3));
        unseen.clear();
        assert!(!unseen.has(How::Stdio));
    }
}
