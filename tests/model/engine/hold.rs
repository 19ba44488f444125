//! The gate, as src/engine/hold.rs.

use std::collections::BTreeMap;
use std::ops::Range;

use shuttle::thread;
use tokudb_backup::tracker::{BLOCK, Closure, Entry, Key, Kind, Marks};

use super::{BOUND, Engine, random};
use crate::image::Piece;
use crate::sabotage::Sabotage;
use crate::world::{Inode, Name, Snapshot};

const WHOLE: Range<u64> = 0..u64::MAX;

/// What was read inside the gate.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) names: BTreeMap<usize, BTreeMap<Name, u64>>,
    pub(super) pieces: Vec<(u64, Piece)>,
    pub(super) new: BTreeMap<Key, u64>,
    all_names: bool,
    queue: Vec<&'static Entry>,
    taken: Vec<(&'static Entry, Range<u64>, Marks)>,
}

impl Engine {
    /// One attempt to end capture: what was read, and the source at T.
    pub(super) fn attempt(&self) -> Option<(Held, Snapshot)> {
        let gate = self.shared.tracker.gate();
        let closure = gate.close(BOUND)?;
        let mut held = Held::default();
        let read = self.read_rest(&mut held, closure);
        // T is the next thing to happen.
        self.shared.world.arm();
        if read.is_some() && (gate.turn_off(closure) || self.shared.sabotage == Sabotage::LostSwapIgnored) {
            let source = self.shared.world.at_t();
            gate.abandon();
            return Some((held, source));
        }
        self.shared.world.disarm();
        let _ = gate.reopen(closure);
        let tracker = self.shared.tracker;
        if self.shared.sabotage != Sabotage::KeepMarksOfAttempt {
            tracker.put_back_wide(held.all_names, false);
            for (entry, range, marks) in held.taken {
                tracker.put_back(entry, Some(range), marks);
            }
            for entry in held.queue {
                tracker.put_back(entry, None, Marks::empty());
            }
        }
        None
    }

    fn read_rest(&self, held: &mut Held, closure: Closure) -> Option<()> {
        let (tracker, sabotage) = (self.shared.tracker, self.shared.sabotage);
        let patience = random(1..30);
        let mut waited = 0;
        while sabotage != Sabotage::NoDrain && !tracker.gate().is_drained() {
            waited += 1;
            if waited > patience {
                return None;
            }
            thread::yield_now();
        }
        if sabotage == Sabotage::ReapAfterCollecting {
            tracker.take_queue(|entry| held.queue.push(entry));
        }
        while self.reap() != 0 && sabotage != Sabotage::InFlightIgnored {
            waited += 1;
            if waited > patience {
                return None;
            }
            thread::yield_now();
        }
        if tracker.has_everything() {
            return None;
        }
        if sabotage != Sabotage::ReapAfterCollecting {
            tracker.take_queue(|entry| held.queue.push(entry));
            self.check_queue(held, closure);
        }
        for index in 0..held.queue.len() {
            let entry = held.queue[index];
            if entry.kind == Kind::Directory {
                self.list_held(held, entry)?;
            }
        }
        if tracker.take_all_names() {
            held.all_names = true;
            for (index, directory) in self.directories.iter().enumerate() {
                if !held.names.contains_key(&index) {
                    self.list_held(held, directory.entry)?;
                }
            }
        }
        for index in 0..held.queue.len() {
            let entry = held.queue[index];
            if entry.kind == Kind::File {
                self.read_marked(held, entry)?;
            }
        }
        (tracker.gate().holds(closure) || sabotage == Sabotage::LostSwapIgnored).then_some(())
    }

    /// While nobody is inside, an entry with marks is in the queue.
    fn check_queue(&self, held: &Held, closure: Closure) {
        let directories = self.directories.iter().map(|directory| directory.entry);
        let marked: Vec<_> = directories
            .chain(self.files.values().map(|file| file.entry))
            .filter(|entry| entry.is_marked())
            .filter(|entry| !held.queue.iter().any(|queued| std::ptr::eq(*queued, *entry)))
            .map(|entry| entry.key)
            .collect();
        if self.shared.tracker.gate().holds(closure) {
            assert!(marked.is_empty(), "marked, but in no queue: {marked:?}");
        }
    }

    fn list_held(&self, held: &mut Held, entry: &'static Entry) -> Option<()> {
        held.taken.push((entry, 0..0, entry.take_marks()));
        let world = &self.shared.world;
        let index = entry.key.ino as usize - 1;
        let mut names = BTreeMap::new();
        let mut after = None;
        while let Some((name, number)) = world.next_name(index, after) {
            after = Some(name);
            names.insert(name, number);
            let key = Key { dev: 1, ino: number };
            if self.files.contains_key(&key) || held.new.contains_key(&key) {
                continue;
            }
            // Not known yet: read as a whole.
            let inode = world.open(index, name).filter(|inode| inode.number == number)?;
            let id = u64::MAX - held.new.len() as u64;
            held.new.insert(key, id);
            self.read_held(held, &inode, id, &[WHOLE]);
        }
        held.names.insert(index, names);
        Some(())
    }

    fn read_marked(&self, held: &mut Held, entry: &'static Entry) -> Option<()> {
        let Some(file) = self.files.get(&entry.key) else { return Some(()) };
        let marks = entry.take_marks();
        let tail = entry.take_tail();
        held.taken.push((entry, tail..u64::MAX, marks));
        let rest = tail..u64::MAX;
        let mut ranges = vec![rest];
        entry.take_ranges(0..u64::MAX, &mut |range| {
            held.taken.push((entry, range.clone(), Marks::empty()));
            ranges.push(range);
            true
        });
        let ways = self.ways(file.key, &held.names);
        if ways.is_empty() {
            return Some(());
        }
        let inode = self.shared.open(file.key, &ways)?;
        if marks.contains(Marks::BORN) || file.seen() != Some(inode.generation) {
            ranges = vec![WHOLE];
        }
        self.read_held(held, &inode, file.id, &ranges);
        Some(())
    }

    fn read_held(&self, held: &mut Held, inode: &Inode, id: u64, ranges: &[Range<u64>]) {
        let (size, attributes) = self.shared.world.stat(inode);
        held.pieces.push((id, Piece::Stat(size, attributes)));
        for range in ranges {
            let end = range.end.div_ceil(BLOCK).min(size);
            self.shared.read(inode, range.start / BLOCK, end, &mut |piece| held.pieces.push((id, piece)));
        }
        held.pieces.push((id, Piece::Stat(size, attributes)));
    }
}
