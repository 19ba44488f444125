//! A file system of a few blocks. Every step of a change is a point where the checker may switch threads; what a
//! directory or a file is like at the instant of T is known exactly.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokudb_backup::tracker::Key;

/// Directories, all known to the engine from the start.
pub const DIRECTORIES: usize = 2;
/// A name in a directory.
pub type Name = u8;
/// A block's two halves: a write is torn between them.
pub type Block = [u32; 2];

/// What a file consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// In blocks.
    pub size: u64,
    /// Those that are no holes.
    pub blocks: BTreeMap<u64, Block>,
    /// Stands for mode, owner, times.
    pub attributes: u32,
}

impl Content {
    /// ftruncate(2).
    pub fn resize(&mut self, size: u64) {
        self.size = size;
        self.blocks.retain(|block, _| *block < size);
    }
}

/// An inode; open for as long as somebody holds it.
#[derive(Debug)]
pub struct Inode {
    /// `st_ino`: comes back when nobody holds the inode any more (P6).
    pub number: u64,
    /// What the file handle tells two inodes of one number apart by.
    pub generation: u64,
    content: Mutex<Content>,
}

impl Inode {
    /// Its identity for the tracker.
    pub fn key(&self) -> Key {
        Key { dev: 1, ino: self.number }
    }
}

/// Names and contents at one instant.
pub type Snapshot = Vec<BTreeMap<Name, (u64, Content)>>;

#[derive(Debug, Default)]
struct Names {
    directories: Vec<BTreeMap<Name, Arc<Inode>>>,
    numbers: BTreeMap<u64, Weak<Inode>>,
    generations: u64,
}

/// The file system.
#[derive(Debug)]
pub struct World {
    names: Mutex<Names>,
    stamps: AtomicU32,
    /// `Some(None)`: the next change that nobody sees comes after T.
    at_t: Mutex<Option<Option<Snapshot>>>,
    point: shuttle::sync::atomic::AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The key of a directory.
pub fn directory_key(directory: usize) -> Key {
    Key { dev: 1, ino: 1 + directory as u64 }
}

impl World {
    /// Empty directories.
    pub fn new() -> Arc<World> {
        let names = Names {
            directories: vec![BTreeMap::new(); DIRECTORIES],
            generations: 0,
            numbers: BTreeMap::new(),
        };
        Arc::new(World {
            names: Mutex::new(names),
            stamps: AtomicU32::new(0),
            at_t: Mutex::new(None),
            point: shuttle::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Others may run here.
    pub fn step(&self) {
        self.point.load(Ordering::SeqCst);
    }

    fn stamp(&self) -> u32 {
        self.stamps.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// One indivisible change. `seen`: by a call that was let in, so it comes before T.
    fn change<R>(&self, seen: bool, change: impl FnOnce(&mut Names) -> R) -> R {
        self.step();
        let mut names = lock(&self.names);
        if !seen && let Some(at_t @ None) = &mut *lock(&self.at_t) {
            *at_t = Some(snapshot(&names));
        }
        change(&mut names)
    }

    /// T is the next thing to happen, or the gate is lost.
    pub fn arm(&self) {
        *lock(&self.at_t) = Some(None);
    }

    /// The gate was lost.
    pub fn disarm(&self) {
        *lock(&self.at_t) = None;
    }

    /// The state at T, which has just been.
    pub fn at_t(&self) -> Snapshot {
        let names = lock(&self.names);
        lock(&self.at_t).take().flatten().unwrap_or_else(|| snapshot(&names))
    }

    // ---- what programs do ----

    /// open(2).
    pub fn open(&self, directory: usize, name: Name) -> Option<Arc<Inode>> {
        self.step();
        lock(&self.names).directories.get(directory)?.get(&name).cloned()
    }

    /// open(2) with O_CREAT and O_TRUNC. Whether the inode is new or was emptied: always.
    pub fn create(&self, seen: bool, directory: usize, name: Name) -> Arc<Inode> {
        self.change(seen, |names| {
            if let Some(inode) = names.directories[directory].get(&name) {
                lock(&inode.content).resize(0);
                return inode.clone();
            }
            names.numbers.retain(|_, inode| inode.strong_count() > 0);
            let number =
                (1 + DIRECTORIES as u64..).find(|number| !names.numbers.contains_key(number)).unwrap();
            names.generations += 1;
            let inode = Arc::new(Inode { number, generation: names.generations, content: Mutex::default() });
            names.numbers.insert(number, Arc::downgrade(&inode));
            names.directories[directory].insert(name, inode.clone());
            inode
        })
    }

    /// pwrite(2) of one block.
    pub fn write(&self, seen: bool, inode: &Inode, block: u64) {
        let stamp = self.stamp();
        for half in 0..2 {
            self.change(seen, |_| lock(&inode.content).blocks.entry(block).or_default()[half] = stamp);
        }
        self.change(seen, |_| {
            let content = &mut *lock(&inode.content);
            content.size = content.size.max(block + 1);
            // Emptied while it was being written: what lies beyond is there again, as with the page cache.
            content.blocks.entry(block).or_insert([stamp; 2]);
        });
    }

    /// ftruncate(2).
    pub fn truncate(&self, seen: bool, inode: &Inode, size: u64) {
        self.change(seen, |_| lock(&inode.content).resize(size));
    }

    /// fchmod(2).
    pub fn chmod(&self, seen: bool, inode: &Inode) {
        let stamp = self.stamp();
        self.change(seen, |_| lock(&inode.content).attributes = stamp);
    }

    /// unlink(2).
    pub fn unlink(&self, seen: bool, directory: usize, name: Name) {
        self.change(seen, |names| names.directories[directory].remove(&name));
    }

    /// rename(2).
    pub fn rename(&self, seen: bool, from: (usize, Name), to: (usize, Name)) {
        self.change(seen, |names| {
            if let Some(inode) = names.directories[from.0].remove(&from.1) {
                names.directories[to.0].insert(to.1, inode);
            }
        });
    }

    /// link(2).
    pub fn link(&self, seen: bool, from: (usize, Name), to: (usize, Name)) {
        self.change(seen, |names| {
            if let Some(inode) = names.directories[from.0].get(&from.1).cloned() {
                names.directories[to.0].entry(to.1).or_insert(inode);
            }
        });
    }

    // ---- what the engine reads ----

    /// getdents64(2), a record at a time: what is renamed meanwhile may be seen twice or not at all.
    pub fn next_name(&self, directory: usize, after: Option<Name>) -> Option<(Name, u64)> {
        self.step();
        let from = after.map_or(0, |name| name + 1);
        let names = lock(&self.names);
        names.directories[directory].range(from..).next().map(|(name, inode)| (*name, inode.number))
    }

    /// fstat(2): size and attributes.
    pub fn stat(&self, inode: &Inode) -> (u64, u32) {
        self.step();
        let content = lock(&inode.content);
        (content.size, content.attributes)
    }

    /// SEEK_DATA: the first block of a range that is no hole.
    pub fn next_data(&self, inode: &Inode, from: u64, to: u64) -> Option<u64> {
        self.step();
        let content = lock(&inode.content);
        let end = to.min(content.size);
        (from < end).then(|| content.blocks.range(from..end).next().map(|(block, _)| *block)).flatten()
    }

    /// pread(2) of one block, torn where a write is.
    pub fn read(&self, inode: &Inode, block: u64) -> Block {
        let mut read = Block::default();
        for (half, value) in read.iter_mut().enumerate() {
            self.step();
            *value = lock(&inode.content).blocks.get(&block).map_or(0, |block| block[half]);
        }
        read
    }
}

fn snapshot(names: &Names) -> Snapshot {
    let copy = |inode: &Arc<Inode>| {
        let mut content = lock(&inode.content).clone();
        let size = content.size;
        // Halves of a write that has not moved the size yet cannot be read.
        content.resize(size);
        (inode.number, content)
    };
    names
        .directories
        .iter()
        .map(|directory| directory.iter().map(|(name, inode)| (*name, copy(inode))).collect())
        .collect()
}
