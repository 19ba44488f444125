//! The engine in small: the same steps in the same order as src/engine, over the real tracker and a modelled file
//! system and image.

mod hold;
mod visit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use tokudb_backup::tracker::{BLOCK, Entry, Key, Kind, Marks, Tracker};

use self::hold::Held;
use self::visit::clear;
use crate::hooks::Place;
use crate::image::Image;
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
