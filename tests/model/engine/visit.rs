//! One visit to one file, as src/engine/visit.rs.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tokudb_backup::tracker::{BLOCK, Entry, Key, Marks};

use super::{File, Shared, lock, random};
use crate::image::Piece;
use crate::sabotage::Sabotage;
use crate::world::{Inode, Name};

/// Takes all marks without looking.
pub(super) fn clear(entry: &Entry) {
    let _ = entry.take_marks();
    let _ = entry.take_tail();
    entry.take_ranges(0..u64::MAX, &mut |_| true);
}

impl Shared {
    /// The file, by the ways that are known.
    pub(super) fn open(&self, key: Key, ways: &[(usize, Name)]) -> Option<Arc<Inode>> {
        ways.iter()
            .filter_map(|(directory, name)| self.world.open(*directory, *name))
            .find(|inode| inode.key() == key)
    }

    /// Reads a stretch, holes as such.
    pub(super) fn read(&self, inode: &Inode, from: u64, to: u64, write: &mut dyn FnMut(Piece)) {
        let mut at = from;
        while at < to {
            match self.world.next_data(inode, at, to) {
                None => {
                    write(Piece::Hole(at, to));
                    return;
                }
                Some(block) => {
                    write(Piece::Hole(at, block));
                    write(Piece::Data(block, self.world.read(inode, block)));
                    at = block + 1;
                }
            }
        }
    }

    fn copy(&self, inode: &Inode, id: u64, from: u64, to: u64) {
        let mut pieces = Vec::new();
        self.read(inode, from, to, &mut |piece| pieces.push(piece));
        // The destination is slow: between reading and writing much can happen.
        for _ in 0..8 {
            self.world.step();
        }
        for piece in pieces {
            lock(&self.image).write(id, &piece, true);
        }
    }

    fn finish(&self, inode: &Inode, id: u64) -> u64 {
        let (size, attributes) = self.world.stat(inode);
        self.world.step();
        let set = self.sabotage != Sabotage::SizeNotSet;
        lock(&self.image).write(id, &Piece::Stat(size, attributes), set);
        size
    }

    /// The whole file, whatever is marked.
    pub(super) fn copy_all(&self, inode: &Inode, id: u64) {
        let (size, _) = self.world.stat(inode);
        if self.sabotage != Sabotage::SizeNotSet {
            lock(&self.image).cut(id, size);
        }
        self.copy(inode, id, 0, size);
        self.finish(inode, id);
    }

    /// Takes the marks, reads what they say, writes it.
    pub(super) fn visit(&self, file: &Arc<File>, ways: &[(usize, Name)]) {
        let (tracker, entry) = (self.tracker, file.entry);
        let Some(inode) = self.open(file.key, ways) else {
            match self.sabotage {
                Sabotage::KeepMarksOfVanished => clear(entry),
                _ => tracker.put_back(entry, None, Marks::DATA),
            }
            return;
        };
        let early = self.world.stat(&inode).0;
        if self.sabotage == Sabotage::ClearAfterReading {
            self.copy_all(&inode, file.id);
            *lock(&file.seen) = Some(inode.generation);
            return clear(entry);
        }
        let marks = entry.take_marks();
        let tail = entry.take_tail();
        let size = match self.sabotage {
            Sabotage::SizeBeforeMarks => early,
            _ => self.world.stat(&inode).0,
        };
        let all = marks.contains(Marks::BORN) || file.seen() != Some(inode.generation);
        let tail = if all { 0 } else { tail };
        let whole = tail / BLOCK;
        let mut missing = VecDeque::new();
        entry.take_ranges(0..(whole * BLOCK).min(size * BLOCK), &mut |range| {
            missing.push_back(range);
            true
        });
        if self.sabotage != Sabotage::SizeNotSet {
            lock(&self.image).cut(file.id, size);
        }
        let fails = self.failures.is_some_and(|one_in| random(0..one_in) == 0);
        let put_back = |missing: &VecDeque<Range<u64>>, tail: u64| {
            if self.sabotage == Sabotage::KeepMarksOfFailed {
                return;
            }
            for range in missing {
                tracker.put_back(entry, Some(range.clone()), marks);
            }
            tracker.put_back(entry, Some(tail..u64::MAX), marks);
        };
        while let Some(range) = missing.front().cloned() {
            if fails {
                return put_back(&missing, tail);
            }
            self.copy(&inode, file.id, range.start / BLOCK, range.end / BLOCK);
            missing.pop_front();
        }
        let mut at = whole;
        while at < size {
            if fails && at > whole {
                return put_back(&missing, at * BLOCK);
            }
            // Two blocks are this model's CHUNK.
            let next = at + 2;
            entry.take_ranges(at * BLOCK..next.min(size) * BLOCK, &mut |_| true);
            self.copy(&inode, file.id, at, next);
            at = next;
        }
        if fails {
            return put_back(&missing, u64::MAX);
        }
        let size = self.finish(&inode, file.id);
        *lock(&file.seen) = Some(inode.generation);
        if entry.is_outgrown_by(size * BLOCK) {
            entry.grow(size * BLOCK);
            lock(&self.outgrown).push(file.clone());
        }
    }
}
