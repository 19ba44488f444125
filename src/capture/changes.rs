//! Counting changes of one kind, so that a hook can tell whether one came in between while it looked twice.

use std::sync::atomic::{AtomicU64, Ordering};

/// Low half: changes under way; high half: changes that are over.
#[derive(Debug)]
pub struct Changes(AtomicU64);

/// The count at some instant.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(u64);

/// A change is under way for as long as this lives.
#[derive(Debug)]
#[must_use]
pub struct Change<'a>(&'a Changes);

/// Files that became shorter: what was appended meanwhile may lie before the size that was seen.
pub static SHRINKS: Changes = Changes::new();
/// Directories and symbolic links that got a new place: the same path may lead elsewhere (P9).
pub static MOVES: Changes = Changes::new();
/// Names that were taken away or replaced, anywhere.
pub static NAMES: Changes = Changes::new();

const BINS: usize = 1024;
static NAME_BINS: [Changes; BINS] = [const { Changes::new() }; BINS];
static MOVE_BINS: [Changes; BINS] = [const { Changes::new() }; BINS];

/// Changes of one name in one directory (and of those that share its bin).
pub fn of_name(hash: u64) -> &'static Changes {
    NAME_BINS.get(hash as usize % BINS).unwrap_or(&NAMES)
}

/// Those of [`MOVES`] in which a name was given or taken, in whatever directory (and those that share its bin).
pub fn of_move(hash: u64) -> &'static Changes {
    MOVE_BINS.get(hash as usize % BINS).unwrap_or(&MOVES)
}

impl Changes {
    const fn new() -> Self {
        Changes(AtomicU64::new(0))
    }

    /// A change begins.
    pub fn begin(&'static self) -> Change<'static> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Change(self)
    }

    /// The count now.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.0.load(Ordering::SeqCst))
    }

    /// Whether nobody was or is changing anything since `stamp`, but for the caller's own `own` changes that are
    /// under way now and began after the stamp.
    pub fn quiet_since(&self, stamp: Stamp, own: u64) -> bool {
        stamp.0 & 0xffff_ffff == 0 && self.0.load(Ordering::SeqCst) == stamp.0.wrapping_add(own)
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add((1 << 32) - 1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_between_is_noticed_whenever_it_began() {
        static CHANGES: Changes = Changes::new();
        let stamp = CHANGES.stamp();
        assert!(CHANGES.quiet_since(stamp, 0));
        let change = CHANGES.begin();
        assert!(!CHANGES.quiet_since(stamp, 0));
        assert!(CHANGES.quiet_since(stamp, 1), "one's own change is no news");
        let during = CHANGES.stamp();
        assert!(!CHANGES.quiet_since(during, 0), "one that began before is still under way");
        drop(change);
        assert!(!CHANGES.quiet_since(stamp, 0));
        assert!(!CHANGES.quiet_since(during, 0));
        assert!(CHANGES.quiet_since(CHANGES.stamp(), 0));
    }
}
