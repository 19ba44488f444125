//! The engine in small: the same steps in the same order as src/engine, over the real tracker and a modelled file
//! system and image.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use tokudb_backup::tracker::{BLOCK, Closure, Entry, Key, Kind, Marks, Tracker};

use crate::hooks::Place;
use crate::image::{Image, Piece};
use crate::ring::Ring;
use crate::sabotage::Sabotage;
use crate::world::{DIRECTORIES, Inode, Name, Snapshot, World, directory_key};

/// `tokudb_backup_gate_timeout`.
pub const BOUND: Duration = Duration::from_millis(100);

/// A file and its store file.
#[derive(Debug)]
struct File {
    key: Key,
    entry: &'static Entry,
    id: u64,
    /// Generation of what was copied.
    seen: Mutex<Option<u64>>,
}

impl File {
    fn seen(&self) -> Option<u64> {
        *lock(&self.seen)
    }
}

#[derive(Debug)]
struct Directory {
    entry: &'static Entry,
    names: BTreeMap<Name, u64>,
}

/// What is shared with the workers.
#[derive(Clone, Debug)]
struct Shared {
    world: Arc<World>,
    tracker: &'static Tracker,
    sabotage: Sabotage,
    image: Arc<Mutex<Image>>,
    outgrown: Arc<Mutex<Vec<Arc<File>>>>,
    /// One visit in so many breaks off half way.
    failures: Option<u32>,
}

/// One backup.
#[derive(Debug)]
pub struct Engine {
    shared: Shared,
    rings: Vec<Arc<Ring>>,
    places: Arc<Mutex<Vec<Place>>>,
    directories: Vec<Directory>,
    files: BTreeMap<Key, Arc<File>>,
    ids: u64,
}

/// A visit and the ways to its file.
type Visit = (Arc<File>, Vec<(usize, Name)>);

/// What was read inside the gate.
#[derive(Debug, Default)]
struct Held {
    names: BTreeMap<usize, BTreeMap<Name, u64>>,
    pieces: Vec<(u64, Piece)>,
    new: BTreeMap<Key, u64>,
    queue: Vec<&'static Entry>,
    taken: Vec<(&'static Entry, std::ops::Range<u64>, Marks)>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random(range: std::ops::Range<u32>) -> u32 {
    thread_rng().gen_range(range)
}

impl Engine {
    /// Begins: from now on marks are taken.
    pub fn begin(
        world: &Arc<World>,
        tracker: &'static Tracker,
        sabotage: Sabotage,
        rings: Vec<Arc<Ring>>,
        places: &Arc<Mutex<Vec<Place>>>,
    ) -> Engine {
        tracker.begin();
        let shared = Shared {
            world: world.clone(),
            tracker,
            sabotage,
            image: Arc::default(),
            outgrown: Arc::default(),
            failures: None,
        };
        Engine {
            shared,
            rings,
            places: places.clone(),
            directories: Vec::new(),
            files: BTreeMap::new(),
            ids: 0,
        }
    }

    /// Lets visits fail.
    pub fn failing(mut self) -> Engine {
        self.shared.failures = Some(4);
        self
    }

    /// From the grace to T, then the comparison.
    pub fn run(mut self) {
        let tracker = self.shared.tracker;
        self.grace();
        self.add_directory();
        self.pass();
        for _ in 0..random(0..3) {
            self.pass();
        }
        let (held, source) = loop {
            self.reap();
            self.pass();
            self.settle();
            if let Some(end) = self.attempt() {
                break end;
            }
            thread::yield_now();
        };
        self.compare(held, &source);
        assert_eq!(tracker.fault(), None);
        assert!(tracker.end(Duration::from_secs(1)), "somebody stays inside");
    }

    /// P15: every thread that was within an unseen call when capture began has been seen by a hook, or outside.
    fn grace(&self) {
        if self.shared.sabotage == Sabotage::NoGrace {
            return;
        }
        let mut within: Vec<_> = lock(&self.places)
            .iter()
            .map(|(thread, place)| (*thread, place.clone(), place.load(Ordering::SeqCst)))
            .filter(|(_, _, at)| at % 2 == 1)
            .collect();
        loop {
            let seen: BTreeSet<u32> = self.shared.tracker.gate().slots().seen().collect();
            within
                .retain(|(thread, place, at)| place.load(Ordering::SeqCst) == *at && !seen.contains(thread));
            if within.is_empty() {
                return;
            }
            thread::yield_now();
        }
    }

    fn pass(&mut self) {
        self.settle();
        let files = self.reconcile();
        let visits: VecDeque<Visit> = files
            .into_iter()
            .map(|file| {
                let ways = self.ways(file.key, &BTreeMap::new());
                (file, ways)
            })
            .collect();
        if visits.len() < 2 || random(0..4) == 0 {
            for (file, ways) in visits {
                self.shared.visit(&file, &ways);
            }
            return;
        }
        let visits = Arc::new(Mutex::new(visits));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (shared, visits) = (self.shared.clone(), visits.clone());
                thread::spawn(move || {
                    loop {
                        let Some((file, ways)) = lock(&visits).pop_front() else { return };
                        shared.visit(&file, &ways);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("a worker ends");
        }
    }

    /// The names that lead to an inode: as listed inside the gate, else as last listed.
    fn ways(&self, key: Key, held: &BTreeMap<usize, BTreeMap<Name, u64>>) -> Vec<(usize, Name)> {
        let mut ways = Vec::new();
        for (index, directory) in self.directories.iter().enumerate() {
            let names = held.get(&index).unwrap_or(&directory.names);
            ways.extend(names.iter().filter(|(_, ino)| **ino == key.ino).map(|(name, _)| (index, *name)));
        }
        ways
    }

    fn reconcile(&mut self) -> Vec<Arc<File>> {
        let tracker = self.shared.tracker;
        let mut files: Vec<Arc<File>> = Vec::new();
        if tracker.take_all_names() {
            for directory in &self.directories {
                tracker.put_back(directory.entry, None, Marks::NAMES | Marks::ATTRIBUTES);
            }
        }
        if tracker.take_everything() {
            for file in self.files.values() {
                tracker.put_back(file.entry, Some(0..u64::MAX), Marks::ATTRIBUTES | Marks::XATTRS);
            }
            for directory in &self.directories {
                tracker.put_back(directory.entry, None, Marks::NAMES | Marks::ATTRIBUTES);
            }
        }
        loop {
            let mut listed = Vec::new();
            tracker.take_queue(|entry| match entry.kind {
                Kind::Directory => listed.push(entry),
                Kind::File => files.extend(self.files.get(&entry.key).cloned()),
            });
            if listed.is_empty() {
                break;
            }
            for entry in listed {
                self.list(entry);
            }
        }
        self.sweep();
        let mut once = BTreeSet::new();
        files.retain(|file| {
            self.files.get(&file.key).is_some_and(|known| Arc::ptr_eq(known, file))
                && (once.insert(file.key) || self.shared.sabotage == Sabotage::VisitTwice)
        });
        files
    }

    fn list(&mut self, entry: &'static Entry) {
        let world = self.shared.world.clone();
        let _ = entry.take_marks();
        let index = entry.key.ino as usize - 1;
        let mut names = BTreeMap::new();
        let mut after = None;
        while let Some((name, number)) = world.next_name(index, after) {
            after = Some(name);
            names.insert(name, number);
        }
        if index + 1 == self.directories.len() && index + 1 < DIRECTORIES {
            self.add_directory();
        }
        let known = self.directories[index].names.clone();
        self.directories[index].names = BTreeMap::new();
        for (name, number) in names {
            if known.get(&name) != Some(&number) {
                // Gone again: its directory is marked, or will be.
                let Some(inode) = world.open(index, name) else { continue };
                self.add_file(&inode);
                self.directories[index].names.insert(name, inode.number);
            } else {
                self.directories[index].names.insert(name, number);
            }
        }
    }

    /// The first directory is the source; each is found in the one before.
    fn add_directory(&mut self) {
        let key = directory_key(self.directories.len());
        let entry = self.shared.tracker.register(key, Kind::Directory, 0).expect("registered");
        self.directories.push(Directory { entry, names: BTreeMap::new() });
    }

    fn add_file(&mut self, inode: &Arc<Inode>) {
        let shared = self.shared.clone();
        let key = inode.key();
        let (size, _) = shared.world.stat(inode);
        let early = shared.sabotage == Sabotage::RegisterAfterReading && !self.files.contains_key(&key);
        if early {
            shared.copy_all(inode, self.ids + 1);
        }
        let entry = shared.tracker.register(key, Kind::File, size * BLOCK).expect("registered");
        if self.files.get(&key).is_some_and(|known| std::ptr::eq(known.entry, entry)) {
            return;
        }
        self.ids += 1;
        let seen = Mutex::new(early.then_some(inode.generation));
        if early {
            clear(entry);
        }
        self.files.insert(key, Arc::new(File { key, entry, id: self.ids, seen }));
    }

    /// Forgets inodes that no listing has.
    fn sweep(&mut self) {
        let gone: Vec<_> =
            self.files.keys().copied().filter(|key| self.ways(*key, &BTreeMap::new()).is_empty()).collect();
        for key in gone {
            if let Some(file) = self.files.remove(&key) {
                self.shared.tracker.forget(file.entry);
            }
        }
    }

    fn settle(&mut self) {
        let outgrown = std::mem::take(&mut *lock(&self.shared.outgrown));
        if outgrown.is_empty() || self.shared.sabotage == Sabotage::NoSettle {
            return;
        }
        if self.shared.sabotage != Sabotage::SettleWithoutQuiesce {
            let slots = self.shared.tracker.gate().slots();
            while slots.quiesce(Duration::from_millis(100)).is_err() {}
        }
        for file in outgrown {
            self.shared.tracker.settle(file.entry);
        }
    }

    /// Turns what has completed into marks; how many writes are in flight still.
    fn reap(&self) -> u32 {
        let tracker = self.shared.tracker;
        let Some(pass) = tracker.pin(c"reap") else { return 0 };
        let mut in_flight = 0;
        tracker.in_flight().each(|id, stream| {
            if let Some(ring) = self.rings.iter().find(|ring| ring.id == id) {
                ring.drain(&self.shared.world, tracker, &pass, stream);
            }
            in_flight += stream.writes();
        });
        in_flight
    }

    // ---- the gate ----

    fn attempt(&self) -> Option<(Held, Snapshot)> {
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
        if tracker.has_wide_marks() {
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
            self.read_held(held, &inode, id, &[0..u64::MAX]);
        }
        held.names.insert(index, names);
        Some(())
    }

    fn read_marked(&self, held: &mut Held, entry: &'static Entry) -> Option<()> {
        let Some(file) = self.files.get(&entry.key) else { return Some(()) };
        let marks = entry.take_marks();
        let tail = entry.take_tail();
        held.taken.push((entry, tail..u64::MAX, marks));
        let mut ranges = vec![tail..u64::MAX];
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
            ranges = vec![0..u64::MAX];
        }
        self.read_held(held, &inode, file.id, &ranges);
        Some(())
    }

    fn read_held(&self, held: &mut Held, inode: &Inode, id: u64, ranges: &[std::ops::Range<u64>]) {
        let (size, attributes) = self.shared.world.stat(inode);
        held.pieces.push((id, Piece::Stat(size, attributes)));
        for range in ranges {
            let end = range.end.div_ceil(BLOCK).min(size);
            self.shared.read(inode, range.start / BLOCK, end, &mut |piece| held.pieces.push((id, piece)));
        }
        held.pieces.push((id, Piece::Stat(size, attributes)));
    }

    fn compare(self, held: Held, source: &Snapshot) {
        let mut image = lock(&self.shared.image);
        for (id, piece) in &held.pieces {
            image.write(*id, piece, true);
        }
        let names: Vec<_> = self
            .directories
            .iter()
            .enumerate()
            .map(|(index, directory)| held.names.get(&index).unwrap_or(&directory.names).clone())
            .collect();
        let stores = |ino: u64| {
            let key = Key { dev: 1, ino };
            self.files.get(&key).map(|file| file.id).or_else(|| held.new.get(&key).copied())
        };
        if let Err(difference) = image.compare(&names, &stores, source) {
            panic!("the image is not the source at T: {difference}");
        }
    }
}

/// Takes all marks without looking.
fn clear(entry: &Entry) {
    let _ = entry.take_marks();
    let _ = entry.take_tail();
    entry.take_ranges(0..u64::MAX, &mut |_| true);
}

impl Shared {
    fn open(&self, key: Key, ways: &[(usize, Name)]) -> Option<Arc<Inode>> {
        ways.iter()
            .filter_map(|(directory, name)| self.world.open(*directory, *name))
            .find(|inode| inode.key() == key)
    }

    /// Reads a stretch, holes as such.
    fn read(&self, inode: &Inode, from: u64, to: u64, write: &mut dyn FnMut(Piece)) {
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
    fn copy_all(&self, inode: &Inode, id: u64) {
        let (size, _) = self.world.stat(inode);
        if self.sabotage != Sabotage::SizeNotSet {
            lock(&self.image).cut(id, size);
        }
        self.copy(inode, id, 0, size);
        self.finish(inode, id);
    }

    /// As src/engine/visit.rs.
    fn visit(&self, file: &Arc<File>, ways: &[(usize, Name)]) {
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
        let put_back = |missing: &VecDeque<std::ops::Range<u64>>, tail: u64| {
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
