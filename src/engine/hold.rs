//! The gate, from the engine's side: while it is closed, read what is still marked into memory (P19).
//!
//! Nothing in here allocates, writes, logs or calls back between [`Gate::close`](crate::tracker::Gate::close) and
//! its end: all memory is reserved by [`Arena::reserve`]. What does not fit, or is more than reading (a new
//! directory, a changed link), ends the attempt; the marks go back and another pass deals with it.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::Stat;
use rustix::io::Errno;

use super::listing;
use super::memory;
use super::reconcile::Reconciler;
use super::source::{self, Type};
use super::store::read_full;
use super::tree::{File, Leads, Seen, Symlink};
use super::visit::{Extent, extent};
use crate::tracker::{BLOCK, Closure, Entry, How, Key, Kind, Marks, Tracker};

/// Bytes read inside the gate at most.
const ARENA: usize = 32 << 20;
/// Entries of each list at most.
const LIST: usize = 16_384;
/// Unseen files may have this many bytes together (P24).
pub const UNSEEN_BYTES: u64 = 4 << 20;

/// Why an attempt did not end capture. All but `Failed` are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// Somebody did not leave in time.
    Busy,
    /// Asynchronous writes did not finish in time.
    InFlight,
    /// More was marked than is read inside the gate.
    TooMuch,
    /// Names changed in a way that needs another pass.
    Names,
    /// The deadline passed.
    Late,
    /// A hook was lost or an object loaded meanwhile.
    Hooks,
    /// Files that are written unseen are too large to be read inside the gate (P24).
    Unseen,
    /// A read failed.
    Failed(i32),
}

/// A stretch of one file.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes at an offset, to be found in the arena.
    Data {
        /// Offset in the file.
        at: u64,
        /// Where in the arena.
        bytes: Range<usize>,
    },
    /// A hole.
    Hole(Range<u64>),
}

/// A file as it was at T.
#[derive(Debug)]
pub struct HeldFile {
    /// Known before, or found inside the gate.
    pub known: Option<Arc<File>>,
    /// Its inode.
    pub key: Key,
    /// Its attributes at T.
    pub stat: Stat,
    /// It was made anew and has no extended attributes: those that its store file has are another one's.
    pub is_bare: bool,
    /// Its [`Arena::pieces`].
    pub pieces: Range<usize>,
}

/// A directory as listed at T.
#[derive(Debug)]
pub struct HeldDirectory {
    /// Its inode.
    pub key: Key,
    /// Its attributes.
    pub stat: Stat,
    /// Its records in the arena.
    pub records: Range<usize>,
}

/// A name that was not there, or led elsewhere, before.
#[derive(Debug)]
pub struct HeldName {
    /// The directory.
    pub directory: Key,
    /// The name, in the arena, with its NUL.
    pub name: Range<usize>,
    /// `d_ino` of the record.
    pub d_ino: u64,
    /// Who it is.
    pub stat: Stat,
}

/// Memory for everything that is read inside the gate.
#[derive(Debug)]
pub struct Arena {
    /// Bytes of files, records of directories.
    pub bytes: Vec<u8>,
    used: usize,
    /// Files.
    pub files: Vec<HeldFile>,
    /// Their stretches.
    pub pieces: Vec<Piece>,
    /// Directories.
    pub directories: Vec<HeldDirectory>,
    /// New names.
    pub names: Vec<HeldName>,
    queue: Vec<&'static Entry>,
    taken: Vec<(&'static Entry, Range<u64>, Marks)>,
    all_names: bool,
    path: Vec<u8>,
}

/// What a successful attempt tells.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// T, since the epoch.
    pub instant: Duration,
    /// How long the gate was closed.
    pub closed: Duration,
    /// Bytes read while it was.
    pub bytes: u64,
}

/// What the gate asks of capture.
pub trait Watcher {
    /// Turns finished asynchronous requests into marks; returns how many writes are in flight still.
    fn reap(&self) -> u32;
    /// Before an attempt: repairs and tells whether nothing was missing (P16). An error: what was missed is lost.
    fn verify(&self) -> super::error::Result<bool>;
    /// Takes out of the tracker's unseen files those whose streams and mappings are gone, and marks them (P24).
    fn review_unseen(&self) -> super::error::Result<()>;
    /// Whether every hook is in place and nothing was loaded since [`Watcher::verify`].
    fn is_intact(&self) -> bool;
}

type Attempt<T> = Result<T, Missed>;

fn failed(errno: Errno) -> Missed {
    if source::is_vanished(errno) { Missed::Names } else { Missed::Failed(errno.raw_os_error()) }
}

impl Arena {
    /// Reserves the memory and touches each page of it.
    pub fn reserve() -> super::error::Result<Arena> {
        // All zeroes may be pages that nobody has touched: those are not there yet.
        let mut bytes = memory::zeroes(ARENA)?;
        for page in bytes.chunks_mut(4096) {
            if let Some(first) = page.first_mut() {
                // SAFETY: a valid reference; volatile so that the page is really touched.
                unsafe { std::ptr::write_volatile(first, 0) };
            }
        }
        Ok(Arena {
            bytes,
            used: 0,
            files: memory::list(LIST)?,
            pieces: memory::list(LIST * 4)?,
            directories: memory::list(1024)?,
            names: memory::list(LIST)?,
            queue: memory::list(LIST)?,
            taken: memory::list(LIST * 4)?,
            all_names: false,
            path: memory::list(libc::PATH_MAX as usize * 2)?,
        })
    }

    fn clear(&mut self) {
        self.used = 0;
        self.files.clear();
        self.pieces.clear();
        self.directories.clear();
        self.names.clear();
        self.queue.clear();
        self.taken.clear();
        self.all_names = false;
    }
}

/// Pushes without ever growing the list.
fn push<T>(list: &mut Vec<T>, value: T) -> Attempt<()> {
    if list.len() == list.capacity() {
        return Err(Missed::TooMuch);
    }
    list.push(value);
    Ok(())
}

/// The rest is read and the gate still closed.
#[derive(Debug)]
#[must_use]
pub struct Reading {
    tracker: &'static Tracker,
    closure: Closure,
    started: Instant,
}

impl Reading {
    /// Ends capture: this is T. On a miss, as [`Hold::read`].
    pub fn end_capture(self, arena: &mut Arena) -> Attempt<Held> {
        let instant = std::time::SystemTime::now();
        if !self.tracker.gate().turn_off(self.closure) {
            return Err(self.give_up(arena, Missed::Late));
        }
        Ok(Held {
            instant: instant.duration_since(std::time::UNIX_EPOCH).unwrap_or_default(),
            closed: self.started.elapsed(),
            bytes: arena.used as u64,
        })
    }

    fn give_up(self, arena: &mut Arena, missed: Missed) -> Missed {
        let _ = self.tracker.gate().reopen(self.closure);
        self.tracker.put_back_wide(std::mem::take(&mut arena.all_names), false);
        for (entry, range, marks) in arena.taken.drain(..) {
            self.tracker.put_back(entry, Some(range), marks);
        }
        // Those whose marks were not taken yet are out of the queue all the same.
        for entry in arena.queue.drain(..) {
            self.tracker.put_back(entry, None, Marks::empty());
        }
        missed
    }
}

/// One attempt to end capture at one instant.
#[derive(Debug)]
pub struct Hold<'a> {
    /// Where marks are.
    pub tracker: &'static Tracker,
    /// The names as last listed.
    pub state: &'a Reconciler,
    /// Files that other processes change (P25).
    pub foreign: &'a [Key],
    /// How long the gate may stay closed.
    pub bound: Duration,
    /// How long those inside may take to leave.
    pub drain: Duration,
}

impl Hold<'_> {
    /// Closes the gate and reads the rest. On a miss every mark is back where it was and the gate is open.
    pub fn read(&self, arena: &mut Arena, watcher: &dyn Watcher) -> Attempt<Reading> {
        arena.clear();
        let started = Instant::now();
        let Some(closure) = self.tracker.gate().close(self.bound) else { return Err(Missed::Busy) };
        let reading = Reading { tracker: self.tracker, closure, started };
        match self.read_rest(arena, watcher, closure, started) {
            Ok(()) if watcher.is_intact() => Ok(reading),
            Ok(()) => Err(reading.give_up(arena, Missed::Hooks)),
            Err(missed) => Err(reading.give_up(arena, missed)),
        }
    }

    fn read_rest(
        &self,
        arena: &mut Arena,
        watcher: &dyn Watcher,
        closure: Closure,
        started: Instant,
    ) -> Attempt<()> {
        let gate = self.tracker.gate();
        while !gate.is_drained() {
            if started.elapsed() >= self.drain {
                return Err(Missed::Busy);
            }
            std::thread::yield_now();
        }
        // Those inside have left, so nothing is submitted any more (P12): what is in flight only gets less (P14).
        while watcher.reap() != 0 {
            if started.elapsed() >= self.bound.mul_f32(0.7) {
                return Err(Missed::InFlight);
            }
            std::thread::yield_now();
        }
        if self.tracker.has_everything() {
            return Err(Missed::TooMuch);
        }
        let mut overflow = false;
        self.tracker.take_queue(|entry| {
            if push(&mut arena.queue, entry).is_err() {
                self.tracker.put_back(entry, None, Marks::empty());
                overflow = true;
            }
        });
        if overflow {
            return Err(Missed::TooMuch);
        }
        for index in 0..arena.queue.len() {
            if let Some(entry) = arena.queue.get(index).copied().filter(|entry| entry.kind == Kind::Directory)
            {
                self.check_time(closure)?;
                self.list(arena, entry)?;
            }
        }
        if self.tracker.take_all_names() {
            arena.all_names = true;
            for (key, directory) in &self.state.tree.directories {
                if !arena.directories.iter().any(|held| held.key == *key) {
                    self.check_time(closure)?;
                    self.list(arena, directory.entry)?;
                }
            }
        }
        for index in 0..arena.queue.len() {
            if let Some(entry) = arena.queue.get(index).copied().filter(|entry| entry.kind == Kind::File) {
                self.check_time(closure)?;
                self.read_marked(arena, entry)?;
            }
        }
        self.read_unseen(arena)?;
        self.check_time(closure)
    }

    fn check_time(&self, closure: Closure) -> Attempt<()> {
        if self.tracker.gate().holds(closure) { Ok(()) } else { Err(Missed::Late) }
    }

    fn list(&self, arena: &mut Arena, entry: &'static Entry) -> Attempt<()> {
        let marks = entry.take_marks();
        push(&mut arena.taken, (entry, 0..0, marks)).inspect_err(|_| {
            self.tracker.put_back(entry, None, marks);
        })?;
        let Some(known) = self.state.tree.directories.get(&entry.key) else { return Ok(()) };
        if marks.contains(Marks::XATTRS) {
            return Err(Missed::Names);
        }
        let tree = &self.state.tree;
        let Some((root, below)) = tree.path_of_directory(entry.key, &mut arena.path) else {
            return Err(Missed::Names);
        };
        let root = tree.roots.get(root).ok_or(Missed::Names)?;
        let directory = match source::open_directory(root.fd.as_fd(), below) {
            Ok(directory) => directory,
            // Removed, and its parent is marked; or moved, which another pass must follow.
            Err(Errno::NOENT) if self.parent_is_marked(arena, entry.key) => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = rustix::fs::fstat(&directory).map_err(failed)?;
        if source::key_of(&stat) != entry.key {
            return Err(Missed::Names);
        }
        let first = arena.used;
        loop {
            let space = arena.bytes.get_mut(arena.used..).unwrap_or(&mut []);
            match listing::read(directory.as_fd(), space) {
                Ok(0) | Err(Errno::NOENT) => break,
                Ok(length) => arena.used += length,
                Err(Errno::INVAL) => return Err(Missed::TooMuch),
                Err(errno) => return Err(failed(errno)),
            }
        }
        let records = first..arena.used;
        push(&mut arena.directories, HeldDirectory { key: entry.key, stat, records: records.clone() })?;
        self.find_new(arena, directory.as_fd(), entry.key, known, records)
    }

    fn parent_is_marked(&self, arena: &Arena, key: Key) -> bool {
        let ways = self.state.tree.ways(key);
        !ways.is_empty()
            && ways.iter().all(|(parent, _)| {
                self.tracker.entry(*parent).is_none_or(Entry::is_marked)
                    || arena.directories.iter().any(|held| held.key == *parent)
            })
    }

    fn find_new(
        &self,
        arena: &mut Arena,
        fd: BorrowedFd<'_>,
        directory: Key,
        known: &super::tree::Directory,
        records: Range<usize>,
    ) -> Attempt<()> {
        let Arena { bytes, names, .. } = arena;
        let base = bytes.as_ptr().addr();
        for record in listing::records(bytes.get(records).unwrap_or(&[])) {
            let name = record.name;
            let old = known.names.get(name.to_bytes());
            if old.is_some_and(|old| old.is_same(&record)) {
                continue;
            }
            let stat = source::stat_name(fd, name).map_err(failed)?;
            let kind = source::type_of(&stat);
            if let Some(old) = old.filter(|old| old.d_ino == record.d_ino && old.kind == kind) {
                match &old.leads {
                    Leads::Symlink(link) if !is_still(link, &stat, fd, name)? => return Err(Missed::Names),
                    // A file system that tells no types.
                    _ => continue,
                }
            }
            let start = name.as_ptr().addr() - base;
            let name = start..start + name.to_bytes_with_nul().len();
            match kind {
                Type::Directory | Type::Symlink => return Err(Missed::Names),
                // Whether it is excluded is asked after the gate.
                Type::File | Type::Other => {
                    push(names, HeldName { directory, name, d_ino: record.d_ino, stat })?;
                }
            }
        }
        self.read_new(arena)
    }

    /// Reads the files that were found under new names and are not known.
    fn read_new(&self, arena: &mut Arena) -> Attempt<()> {
        for index in 0..arena.names.len() {
            let Some(new) = arena.names.get(index) else { break };
            let key = source::key_of(&new.stat);
            let unknown = source::type_of(&new.stat) == Type::File
                && !self.state.tree.files.contains_key(&key)
                && !arena.files.iter().any(|held| held.key == key);
            if !unknown {
                continue;
            }
            let (directory, name) = (new.directory, new.name.clone());
            let opened = self.open_new(arena, directory, name)?;
            let stat = rustix::fs::fstat(&opened).map_err(failed)?;
            if source::key_of(&stat) != key || has_xattrs(opened.as_fd()) {
                return Err(Missed::Names);
            }
            let first = arena.pieces.len();
            read_range(arena, opened.as_fd(), 0..stat.st_size as u64)?;
            let pieces = first..arena.pieces.len();
            push(&mut arena.files, HeldFile { known: None, key, stat, is_bare: true, pieces })?;
        }
        Ok(())
    }

    fn open_new(
        &self,
        arena: &mut Arena,
        directory: Key,
        name: Range<usize>,
    ) -> Attempt<std::os::fd::OwnedFd> {
        let Arena { bytes, path, .. } = arena;
        let name = CStr::from_bytes_with_nul(bytes.get(name).unwrap_or(&[])).map_err(|_| Missed::Names)?;
        let (root, below) =
            self.state.tree.path_of_name(directory, name.to_bytes(), path).ok_or(Missed::Names)?;
        let root = self.state.tree.roots.get(root).ok_or(Missed::Names)?;
        source::open_file(root.fd.as_fd(), below).map_err(failed)
    }

    /// Opens a known file by any name that it has now. `None`: it has none.
    fn open_known(&self, arena: &mut Arena, file: &File) -> Attempt<Option<(std::os::fd::OwnedFd, Stat)>> {
        let tree = &self.state.tree;
        let mut marked_ways = true;
        for (directory, name) in tree.ways(file.key) {
            let Some((root, below)) = tree.path_of_name(*directory, name, &mut arena.path) else {
                return Err(Missed::Names);
            };
            let root = tree.roots.get(root).ok_or(Missed::Names)?;
            match source::open_file(root.fd.as_fd(), below) {
                Ok(fd) => {
                    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
                    if source::key_of(&stat) == file.key && source::type_of(&stat) == Type::File {
                        return Ok(Some((fd, stat)));
                    }
                }
                Err(errno) if source::is_vanished(errno) => {}
                Err(errno) => return Err(failed(errno)),
            }
            // The name is gone: true only if its directory was listed inside this gate.
            marked_ways &= arena.directories.iter().any(|held| held.key == *directory)
                || !tree.directories.contains_key(directory)
                || self.removed_inside(arena, *directory);
        }
        for index in 0..arena.names.len() {
            let Some(new) = arena.names.get(index).filter(|new| source::key_of(&new.stat) == file.key) else {
                continue;
            };
            let (directory, name) = (new.directory, new.name.clone());
            let fd = self.open_new(arena, directory, name)?;
            let stat = rustix::fs::fstat(&fd).map_err(failed)?;
            if source::key_of(&stat) == file.key {
                return Ok(Some((fd, stat)));
            }
        }
        if marked_ways { Ok(None) } else { Err(Missed::Names) }
    }

    /// Whether a directory has lost its name in a directory that was listed inside this gate.
    fn removed_inside(&self, arena: &Arena, directory: Key) -> bool {
        self.state
            .tree
            .ways(directory)
            .iter()
            .all(|(parent, _)| arena.directories.iter().any(|held| held.key == *parent))
    }

    fn read_marked(&self, arena: &mut Arena, entry: &'static Entry) -> Attempt<()> {
        let Some(file) = self.state.tree.files.get(&entry.key) else { return Ok(()) };
        let marks = entry.take_marks();
        let tail = entry.take_tail();
        let first_taken = arena.taken.len();
        push(&mut arena.taken, (entry, tail..u64::MAX, marks)).inspect_err(|_| {
            self.tracker.put_back(entry, Some(tail..u64::MAX), marks);
        })?;
        let mut full = false;
        entry.take_ranges(0..u64::MAX, &mut |range| {
            if full || push(&mut arena.taken, (entry, range.clone(), Marks::empty())).is_err() {
                full = true;
                self.tracker.put_back(entry, Some(range), Marks::empty());
            }
            true
        });
        if full {
            return Err(Missed::TooMuch);
        }
        let Some((fd, stat)) = self.open_known(arena, file)? else { return Ok(()) };
        let known = *super::visit::lock(&file.seen);
        let all = marks.contains(Marks::BORN)
            || known.is_none_or(|seen| seen.generation != source::generation(fd.as_fd()));
        if marks.contains(Marks::XATTRS)
            && (known.is_some() && !marks.contains(Marks::BORN) || has_xattrs(fd.as_fd()))
        {
            return Err(Missed::Names);
        }
        let size = stat.st_size as u64;
        let tail = if all { 0 } else { tail / BLOCK * BLOCK };
        let first = arena.pieces.len();
        for index in first_taken + 1..arena.taken.len() {
            let Some((_, range, _)) = arena.taken.get(index) else { break };
            let range = range.start..range.end.min(tail).min(size);
            read_range(arena, fd.as_fd(), range)?;
        }
        read_range(arena, fd.as_fd(), tail..size)?;
        let pieces = first..arena.pieces.len();
        push(
            &mut arena.files,
            HeldFile {
                known: Some(file.clone()),
                key: entry.key,
                stat,
                is_bare: marks.contains(Marks::BORN),
                pieces,
            },
        )
    }

    /// Files whose writers cannot be seen are read again (P24, P25).
    fn read_unseen(&self, arena: &mut Arena) -> Attempt<()> {
        let mut missed = None;
        self.tracker.unseen().each(|key, how| {
            if missed.is_none() {
                missed = match self.read_again(arena, key, how == How::Log) {
                    Ok(true) => None,
                    Ok(false) => Some(Missed::Unseen),
                    Err(missed) => Some(missed),
                };
            }
        });
        for key in self.foreign {
            if missed.is_none() {
                missed = self.read_again(arena, *key, false).err();
            }
        }
        missed.map_or(Ok(()), Err)
    }

    /// False: it is too large for that. One that other processes change is then as of the last pass, and reported.
    fn read_again(&self, arena: &mut Arena, key: Key, grows: bool) -> Attempt<bool> {
        let Some(file) = self.state.tree.files.get(&key) else { return Ok(true) };
        let Some((fd, stat)) = self.open_known(arena, file)? else { return Ok(true) };
        let size = stat.st_size as u64;
        let from = match *super::visit::lock(&file.seen) {
            Some(Seen { size: seen, .. }) if grows && seen <= size => seen / BLOCK * BLOCK,
            _ => 0,
        };
        if size - from > UNSEEN_BYTES {
            return Ok(false);
        }
        let first = arena.pieces.len();
        read_range(arena, fd.as_fd(), from..size)?;
        let pieces = first..arena.pieces.len();
        push(&mut arena.files, HeldFile { known: Some(file.clone()), key, stat, is_bare: false, pieces })?;
        Ok(true)
    }
}

/// Whether a link is as it was when it was listed.
fn is_still(link: &Symlink, now: &Stat, directory: BorrowedFd<'_>, name: &CStr) -> Attempt<bool> {
    let kept = |stat: &Stat| (stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec);
    if kept(now) != kept(&link.stat) {
        return Ok(false);
    }
    let mut space = [std::mem::MaybeUninit::<u8>::uninit(); libc::PATH_MAX as usize];
    let (now, _) = rustix::fs::readlinkat_raw(directory, name, &mut space).map_err(failed)?;
    Ok(*now == *link.target.as_bytes())
}

fn has_xattrs(file: BorrowedFd<'_>) -> bool {
    let mut space = [0u8; 512];
    !matches!(rustix::fs::flistxattr(file, &mut space[..]), Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Reads a stretch of a file into the arena, holes as such.
fn read_range(arena: &mut Arena, file: BorrowedFd<'_>, range: Range<u64>) -> Attempt<()> {
    let mut at = range.start;
    while at < range.end {
        match extent(file, &(at..range.end)).map_err(failed)? {
            Extent::Hole(from, to) => {
                push(&mut arena.pieces, Piece::Hole(from..to))?;
                at = to;
            }
            Extent::Data(from, to) => {
                let length = usize::try_from(to - from).map_err(|_| Missed::TooMuch)?;
                let end = arena.used.checked_add(length).ok_or(Missed::TooMuch)?;
                let space = arena.bytes.get_mut(arena.used..end).ok_or(Missed::TooMuch)?;
                let got = read_full(file, space, from).map_err(failed)?;
                push(&mut arena.pieces, Piece::Data { at: from, bytes: arena.used..arena.used + got })?;
                arena.used = end;
                if got < length {
                    return Ok(());
                }
                at = to;
            }
        }
    }
    Ok(())
}
