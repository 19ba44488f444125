//! One thread of a program: its descriptors, its buffer, its asynchronous contexts.

use std::ffi::c_int;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::asynchronous::{libaio::Context, uring::Ring};
use crate::memory::Memory;
use crate::ops::{Table, mapping::Mapping};
use crate::rng::Rng;
use crate::shared::Shared;
use crate::sys;
use crate::world::Kind;

/// Bytes of the buffer that is written from.
pub const BUFFER: usize = 64 * 1024;
/// Offsets are mostly below this: all files together are then little enough for a gate, even if each is changed.
pub const SMALL: u64 = 72 * 1024;
/// Blocks of direct I/O.
pub const BLOCK: u64 = 4096;

/// An open file.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its descriptor.
    pub fd: c_int,
    /// Opened with O_DIRECT: offsets, lengths and addresses are multiples of [`BLOCK`].
    pub direct: bool,
    /// Other threads write by it, too.
    pub shared: bool,
}

/// A place in a file and how much.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Where.
    pub offset: i64,
    /// How much, not 0.
    pub length: usize,
}

/// See the module.
pub struct Worker<'a> {
    /// What it shares with the others.
    pub shared: &'a Shared<'a>,
    /// Its number.
    pub id: usize,
    held: [Option<Held>; 8],
    /// What data is written from.
    pub buffer: Memory,
    stamp: u64,
    /// libaio.
    pub context: Option<Context>,
    /// io_uring.
    pub ring: Option<Ring>,
    /// A shared mapping that stays over operations.
    pub mapping: Option<Mapping>,
    /// Its two ledgers, once opened.
    pub ledger: Option<[c_int; 2]>,
    /// A pipe of its own: reading and writing end.
    pub pipe: [c_int; 2],
}

impl<'a> Worker<'a> {
    /// A thread that has done nothing yet.
    pub fn new(shared: &'a Shared<'a>, id: usize, round: u64) -> Self {
        let mut pipe = [-1; 2];
        // SAFETY: an array of two.
        assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) }, 0);
        let stamp = Rng::of(&[round, id as u64]).next();
        let buffer = Memory::new(BUFFER);
        Worker {
            shared,
            id,
            held: [None; 8],
            buffer,
            stamp,
            context: None,
            ring: None,
            mapping: None,
            ledger: None,
            pipe,
        }
    }

    /// Runs operations until the round is over. The n-th is a function of seed, round, thread and n.
    pub fn run(&mut self, table: &Table, seed: u64, round: u64) {
        let mut count = 0;
        while !self.shared.over.load(Ordering::Relaxed) {
            if self.shared.pause.wanted() {
                self.settle();
                self.shared.pause.stand();
            }
            if count >= self.shared.allowed.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let mut rng = Rng::of(&[seed, round, self.id as u64, count]);
            count += 1;
            self.step(table, &mut rng);
            // Without any rest the threads write more in the time of a pass than a gate may read.
            if rng.one_in(4) {
                let longest = 1000 * self.shared.calm.load(Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(rng.below(longest)));
            }
        }
        self.settle();
    }

    /// Runs one operation.
    pub fn step(&mut self, table: &Table, rng: &mut Rng) {
        let index = table.choose(rng);
        if table.operations[index].unseen && !self.shared.unseen.load(Ordering::Relaxed) {
            return;
        }
        self.shared.current[self.id].store(index, Ordering::Relaxed);
        let outcome = (table.operations[index].run)(self, rng);
        self.shared.stats.count(index, outcome);
        self.shared.current[self.id].store(usize::MAX, Ordering::Relaxed);
    }

    /// Ends what runs without this thread.
    pub fn settle(&mut self) {
        if let Some(context) = &mut self.context {
            context.settle();
        }
        if let Some(ring) = &mut self.ring {
            ring.settle();
        }
    }

    /// Moves a file's position. Not under the feet of other threads: where they write then, nobody can tell, not even
    /// they (P7).
    pub fn seek(&self, held: Held, offset: i64) {
        if !held.shared {
            sys::lseek(held.fd, offset, libc::SEEK_SET);
        }
    }

    /// Keeps a new descriptor in place of an older one.
    pub fn hold(&mut self, rng: &mut Rng, held: Held) {
        let slot = rng.pick(&[0, 1, 2, 3, 4, 5, 6, 7]);
        if let Some(old) = self.held[*slot].replace(held) {
            self.close(old);
        }
    }

    /// Closes a file. A request that names its number must be submitted first, or even have ended: the number may be
    /// anybody's afterwards, an image's of the backup, too.
    pub fn close(&mut self, held: Held) -> c_int {
        while let Some(ring) = self.ring.as_mut().filter(|ring| ring.has_queued()) {
            let _ = ring.submit();
        }
        if let Some(ring) = self.ring.as_mut().filter(|ring| ring.has_late()) {
            ring.settle();
        }
        sys::close(held.fd)
    }

    /// One of the open files; opens one if it must.
    pub fn file(&mut self, rng: &mut Rng) -> Result<Held, c_int> {
        if rng.one_in(10) && !self.shared.descriptors.is_empty() {
            return Ok(Held { fd: *rng.pick(&self.shared.descriptors), direct: false, shared: true });
        }
        let slot = *rng.pick(&[0, 1, 2, 3, 4, 5, 6, 7]);
        match self.held[slot] {
            Some(held) => Ok(held),
            None => self.open_into(rng, slot),
        }
    }

    /// One of the open files that only this thread has.
    pub fn private(&mut self, rng: &mut Rng) -> Result<Held, c_int> {
        let slot = *rng.pick(&[0, 1, 2, 3, 4, 5, 6, 7]);
        match self.held[slot] {
            Some(held) if !held.shared => Ok(held),
            _ => self.open_into(rng, slot),
        }
    }

    fn open_into(&mut self, rng: &mut Rng, slot: usize) -> Result<Held, c_int> {
        let path = self.shared.world.path(rng, Kind::File);
        let direct = if rng.one_in(4) { libc::O_DIRECT } else { 0 };
        let fd =
            sys::check(sys::open64(&path, libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC | direct, 0o644))?;
        let held = Held { fd, direct: direct != 0, shared: false };
        if let Some(old) = self.held[slot].replace(held) {
            self.close(old);
        }
        Ok(held)
    }

    /// Takes one of the open files out, if there is one.
    pub fn take(&mut self, rng: &mut Rng) -> Option<Held> {
        self.held[*rng.pick(&[0, 1, 2, 3, 4, 5, 6, 7])].take()
    }

    /// Where to work in a file.
    pub fn extent(&mut self, rng: &mut Rng, held: Held) -> Extent {
        let mut offset = if rng.one_in(60) { rng.below(3 << 20) } else { rng.below(SMALL) };
        let mut length = match rng.below(8) {
            0..4 => 1 + rng.below(700),
            4..7 => 1 + rng.below(17_000),
            _ => 1 + rng.below(BUFFER as u64 / 2),
        };
        if held.direct || rng.one_in(3) {
            offset = offset / BLOCK * BLOCK;
            length = length.div_ceil(BLOCK) * BLOCK;
        }
        Extent { offset: offset as i64, length: length as usize }
    }

    /// Fills the first `length` bytes of the buffer with what was never written before.
    pub fn fill(&mut self, length: usize) -> sys::Address {
        self.stamp = self.stamp.wrapping_add(1);
        fill(self.buffer.bytes(), length, self.stamp);
        self.buffer.address()
    }

    /// A stamp of its own for another buffer.
    pub fn next_stamp(&mut self) -> u64 {
        self.stamp = self.stamp.wrapping_add(1);
        self.stamp
    }
}

/// Fills the first `length` bytes.
pub fn fill(bytes: &mut [u8], length: usize, stamp: u64) {
    for (index, word) in bytes[..length.next_multiple_of(8)].chunks_exact_mut(8).enumerate() {
        let value = (stamp ^ (index as u64) << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.settle();
        let held = self.held.iter().flatten().map(|held| held.fd);
        for fd in held.chain(self.pipe).chain(self.ledger.into_iter().flatten()) {
            sys::close(fd);
        }
    }
}
