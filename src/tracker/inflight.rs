//! Asynchronous writes between submission and completion (P11-P14).
//!
//! Each libaio context and each io_uring is a stream. A request is entered before it is submitted and leaves when
//! its completion is found in the stream's ring; a write then becomes a mark on its file, under the stream's lock,
//! so that "none in flight" implies "all marked". All memory is static: hooks do not allocate.

use std::cell::UnsafeCell;
use std::ops::Range;

use super::entry::Key;
use super::sync::{AtomicBool, AtomicUsize, Ordering};
use super::trace;

/// Streams at once: MySQL opens one for each of at most 130 I/O threads, MariaDB one or two.
#[cfg(not(feature = "model"))]
const STREAMS: usize = 512;
#[cfg(feature = "model")]
const STREAMS: usize = 2;
/// Requests in flight over all streams: fs.aio-max-nr's default.
#[cfg(not(feature = "model"))]
const REQUESTS: usize = 65_536;
#[cfg(feature = "model")]
const REQUESTS: usize = 16;
#[cfg(not(feature = "model"))]
const CHAINS: usize = 256;
#[cfg(feature = "model")]
const CHAINS: usize = 2;
/// Tries for a lock before the thread lets others go first.
#[cfg(not(feature = "model"))]
const SPINS: u32 = 64;
#[cfg(feature = "model")]
const SPINS: u32 = 1;

/// How a stream's completions are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A libaio context; its id is the address of `struct aio_ring`.
    Libaio,
    /// An io_uring; its id is the address of liburing's `struct io_uring`.
    IoUring,
    /// One that is being destroyed: its ring must not be read any more, its requests are still under way.
    Closing,
}

/// A write's target, from fstat at submission, and the bytes it may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The file.
    pub key: Key,
    /// From the offset to offset plus length.
    pub range: Range<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    tag: u64,
    dev: u64,
    ino: u64,
    from: u64,
    /// Equal to `from`: not a write.
    to: u64,
    /// Index of the next in chain or free list, plus one.
    next: u32,
    /// As many of its tag have ended as there are of these, but not all; which ones is not known.
    ended: bool,
}

const NO_REQUEST: Request = Request { tag: 0, dev: 0, ino: 0, from: 0, to: 0, next: 0, ended: false };

impl Request {
    fn is_write(&self) -> bool {
        self.to > self.from
    }

    fn is_same_file(&self, other: &Request) -> bool {
        self.is_write() && other.is_write() && self.dev == other.dev && self.ino == other.ino
    }
}

/// A lock of a few instructions; whoever holds it makes no call but sched_yield.
#[derive(Debug)]
struct Spin(AtomicBool);

impl Spin {
    const fn new() -> Self {
        Spin(AtomicBool::new(false))
    }

    fn lock(&self) {
        let mut spins = 0u32;
        while self.0.swap(true, Ordering::SeqCst) {
            spins += 1;
            if spins.is_multiple_of(SPINS) {
                yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn unlock(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[cfg(not(feature = "model"))]
fn yield_now() {
    // SAFETY: sched_yield has no preconditions.
    unsafe { libc::sched_yield() };
}

#[cfg(feature = "model")]
fn yield_now() {
    shuttle::thread::yield_now();
}

#[derive(Debug)]
struct State {
    kind: StreamKind,
    /// Next completion to look at, in the ring's own counting.
    cursor: u32,
    /// Requests that were in flight before capture began; known for io_uring only.
    older: u32,
    in_flight: u32,
    /// Writes in the chains: none means that no write of a file that we look at is under way.
    writes: u32,
    chains: [u32; CHAINS],
}

#[derive(Debug)]
struct Stream {
    /// 0: free.
    id: AtomicUsize,
    lock: Spin,
    state: UnsafeCell<State>,
}

#[derive(Debug)]
struct Pool {
    lock: Spin,
    nodes: UnsafeCell<[Request; REQUESTS]>,
    /// (free list's head plus one, nodes never used yet)
    heads: UnsafeCell<(u32, u32)>,
}

/// All asynchronous requests under way.
#[derive(Debug)]
pub struct InFlight {
    streams: [Stream; STREAMS],
    pool: Pool,
    registering: Spin,
}

// SAFETY: `state` is reached only under its stream's lock, `nodes` and `heads` only under the pool's lock or, for a
// node that is in a chain, under the lock of the stream whose chain it is in.
unsafe impl Sync for InFlight {}

/// A stream whose lock is held.
#[derive(Debug)]
pub struct Locked<'a> {
    all: &'a InFlight,
    stream: &'a Stream,
}

/// What a completion was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// A request that we saw being submitted.
    Known,
    /// Submitted before capture began.
    Unknown,
}

/// More requests or streams than there is room for; the backup cannot be exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl InFlight {
    /// Nothing in flight.
    #[allow(clippy::declare_interior_mutable_const, clippy::new_without_default)]
    pub const fn new() -> Self {
        const STREAM: Stream = Stream {
            id: AtomicUsize::new(0),
            lock: Spin::new(),
            state: UnsafeCell::new(State {
                kind: StreamKind::Libaio,
                cursor: 0,
                older: 0,
                in_flight: 0,
                writes: 0,
                chains: [0; CHAINS],
            }),
        };
        InFlight {
            streams: [STREAM; STREAMS],
            pool: Pool {
                lock: Spin::new(),
                nodes: UnsafeCell::new([NO_REQUEST; REQUESTS]),
                heads: UnsafeCell::new((0, 0)),
            },
            registering: Spin::new(),
        }
    }

    /// Forgets everything. Only while nobody can be inside a hook.
    pub fn reset(&self) {
        for stream in &self.streams {
            if stream.id.load(Ordering::SeqCst) != 0 {
                stream.lock.lock();
                Locked { all: self, stream }.forget();
            }
        }
    }

    /// Locks the stream `id`, if it is known.
    pub fn find(&self, id: usize) -> Option<Locked<'_>> {
        let stream = self.streams.iter().find(|stream| stream.id.load(Ordering::SeqCst) == id)?;
        stream.lock.lock();
        let locked = Locked { all: self, stream };
        // It may have been forgotten while we waited for the lock.
        (stream.id.load(Ordering::SeqCst) == id).then_some(locked)
    }

    /// Locks the stream `id`, making it known first when it is not; `begin` then tells its cursor and its older
    /// requests.
    pub fn find_or_add(
        &self,
        id: usize,
        kind: StreamKind,
        begin: impl FnOnce() -> (u32, u32),
    ) -> Result<Locked<'_>, Full> {
        if let Some(locked) = self.find(id) {
            return Ok(locked);
        }
        self.registering.lock();
        let known = self.streams.iter().any(|stream| stream.id.load(Ordering::SeqCst) == id);
        let added = if known {
            None
        } else {
            self.streams.iter().find(|stream| stream.id.load(Ordering::SeqCst) == 0)
        };
        let result = match added {
            Some(stream) => {
                stream.lock.lock();
                let (cursor, older) = begin();
                let mut locked = Locked { all: self, stream };
                *locked.state() = State { kind, cursor, older, in_flight: 0, writes: 0, chains: [0; CHAINS] };
                stream.id.store(id, Ordering::SeqCst);
                Ok(locked)
            }
            None => Err(Full),
        };
        self.registering.unlock();
        if known { self.find(id).ok_or(Full) } else { result }
    }

    /// The stream was destroyed (io_destroy, io_uring_queue_exit): the kernel has waited for its requests, the
    /// caller has taken what the ring told.
    pub fn remove(&self, id: usize) {
        if let Some(locked) = self.find(id) {
            locked.forget();
        }
    }

    /// Locks each known stream in turn.
    pub fn each(&self, mut visit: impl FnMut(usize, &mut Locked<'_>)) {
        for stream in &self.streams {
            let id = stream.id.load(Ordering::SeqCst);
            if id != 0
                && let Some(mut locked) = self.find(id)
            {
                visit(id, &mut locked);
            }
        }
    }
}

impl Locked<'_> {
    fn state(&mut self) -> &mut State {
        // SAFETY: the stream's lock is held for as long as `self` lives.
        unsafe { &mut *self.stream.state.get() }
    }

    fn node(&mut self, index: u32) -> Option<&mut Request> {
        let index = index.checked_sub(1)? as usize;
        // SAFETY: the node is in a chain of this locked stream, or was just taken from the free list; no other
        // thread touches it. The array itself is never replaced.
        (index < REQUESTS).then(|| unsafe { &mut *self.all.pool.nodes.get().cast::<Request>().add(index) })
    }

    fn allocate(&mut self) -> Option<u32> {
        let pool = &self.all.pool;
        pool.lock.lock();
        // SAFETY: the pool's lock is held.
        let heads = unsafe { &mut *pool.heads.get() };
        let index = if heads.0 != 0 {
            let index = heads.0;
            heads.0 = self.node(index).map_or(0, |node| node.next);
            Some(index)
        } else if (heads.1 as usize) < REQUESTS {
            heads.1 += 1;
            Some(heads.1)
        } else {
            None
        };
        pool.lock.unlock();
        index
    }

    fn release(&mut self, index: u32) {
        let pool = &self.all.pool;
        pool.lock.lock();
        // SAFETY: the pool's lock is held.
        let heads = unsafe { &mut *pool.heads.get() };
        if let Some(node) = self.node(index) {
            node.next = heads.0;
            heads.0 = index;
        }
        pool.lock.unlock();
    }

    fn chain(tag: u64) -> usize {
        (tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % CHAINS
    }

    /// How this stream's completions are found.
    pub fn kind(&mut self) -> StreamKind {
        self.state().kind
    }

    /// The stream is about to be destroyed: its ring must not be read any more, and another one may come to its
    /// address before its requests have ended. From now on it is found by `id`.
    pub fn close(&mut self, id: usize) {
        self.state().kind = StreamKind::Closing;
        self.stream.id.store(id, Ordering::SeqCst);
    }

    /// Next completion to look at.
    pub fn cursor(&mut self) -> u32 {
        self.state().cursor
    }

    /// Moves the cursor.
    pub fn set_cursor(&mut self, cursor: u32) {
        self.state().cursor = cursor;
    }

    /// Requests that we saw being submitted and not completing yet.
    pub fn in_flight(&mut self) -> u32 {
        self.state().in_flight
    }

    /// Writes with a target that may be under way still.
    pub fn writes(&mut self) -> u32 {
        self.state().writes
    }

    /// Requests from before capture that have not completed yet (io_uring; 0 for libaio, where it is not known).
    pub fn older(&mut self) -> u32 {
        self.state().older
    }

    /// A request is about to be submitted under `tag` (the iocb's address, the SQE's user_data). Equal tags may be
    /// in flight at once: see [`Locked::complete`].
    pub fn enter(&mut self, tag: u64, write: Option<&Target>) -> Result<(), Full> {
        match write {
            Some(write) => trace::say("flight", write.key, write.range.start, write.range.end),
            None => trace::note("flight"),
        }
        let index = self.allocate().ok_or(Full)?;
        let chain = Self::chain(tag);
        let next = self.state().chains.get(chain).copied().unwrap_or(0);
        if let Some(node) = self.node(index) {
            *node = match write {
                Some(write) => Request {
                    tag,
                    dev: write.key.dev,
                    ino: write.key.ino,
                    from: write.range.start,
                    to: write.range.end,
                    next,
                    ended: false,
                },
                None => Request { tag, next, ..NO_REQUEST },
            };
        }
        let state = self.state();
        if let Some(head) = state.chains.get_mut(chain) {
            *head = index;
        }
        state.in_flight += 1;
        state.writes += u32::from(write.is_some_and(|write| !write.range.is_empty()));
        Ok(())
    }

    /// A request under `tag` has completed: `mark` gets its target, and it is taken out. Where several share the tag
    /// they complete in any order: `mark` gets the targets of all, and all are kept until the last one has completed.
    pub fn complete(&mut self, tag: u64, mark: &mut dyn FnMut(&Target)) -> Completed {
        let mut open = 0;
        self.retain(tag, |node| {
            if node.is_write() {
                mark(&target(node));
            }
            open += u32::from(!node.ended);
            true
        });
        if open == 0 {
            let state = self.state();
            state.older = state.older.saturating_sub(1);
            return Completed::Unknown;
        }
        self.end_one(tag, open);
        Completed::Known
    }

    /// The request that was entered under `tag` with this target was not submitted after all.
    pub fn retract(&mut self, tag: u64, write: Option<&Target>) {
        let (mut open, mut found) = (0, false);
        self.retain(tag, |node| {
            if node.ended {
                return true;
            }
            open += 1;
            let same = if node.is_write() { write == Some(&target(node)) } else { write.is_none() };
            let taken = same && !found;
            found |= taken;
            !taken
        });
        match (found, open) {
            (false, 0) => {}
            // A completion of another one took it for its own.
            (false, _) => self.end_one(tag, open),
            (true, 1) => self.end_last(tag),
            (true, _) => self.count_end(),
        }
    }

    fn count_end(&mut self) {
        let state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
    }

    fn end_last(&mut self, tag: u64) {
        self.retain(tag, |_| false);
        self.count_end();
    }

    /// One of the `open` requests under `tag` has ended.
    fn end_one(&mut self, tag: u64, open: u32) {
        if open == 1 {
            return self.end_last(tag);
        }
        self.count_end();
        // Only writes need to be kept, and of each file one range that covers all.
        let (mut reads, mut oldest) = (0, NO_REQUEST);
        self.retain(tag, |node| {
            if !node.ended {
                reads += u32::from(!node.is_write());
                oldest = *node;
            }
            true
        });
        if reads > 0 {
            let mut left = reads;
            self.retain(tag, |node| {
                left -= u32::from(!node.ended && !node.is_write() && left > 0);
                node.ended || node.is_write() || left > 0
            });
            return;
        }
        let mut merged = false;
        self.retain(tag, |node| {
            if node.ended && node.is_same_file(&oldest) {
                (node.from, node.to) = (node.from.min(oldest.from), node.to.max(oldest.to));
                merged = true;
            }
            true
        });
        let mut left = open;
        self.retain(tag, |node| {
            if node.ended {
                return true;
            }
            left -= 1;
            node.ended = left == 0;
            !(node.ended && merged)
        });
    }

    /// Walks the requests under `tag`, the newest first, and takes out those for which `keep` is false.
    fn retain(&mut self, tag: u64, mut keep: impl FnMut(&mut Request) -> bool) {
        let chain = Self::chain(tag);
        let mut index = self.state().chains.get(chain).copied().unwrap_or(0);
        let mut before = 0u32;
        while index != 0 {
            let Some(node) = self.node(index) else { break };
            let next = node.next;
            if node.tag != tag || keep(node) {
                before = index;
                index = next;
                continue;
            }
            let write = node.is_write();
            if before == 0 {
                if let Some(head) = self.state().chains.get_mut(chain) {
                    *head = next;
                }
            } else if let Some(before) = self.node(before) {
                before.next = next;
            }
            self.release(index);
            let state = self.state();
            state.writes = state.writes.saturating_sub(u32::from(write));
            index = next;
        }
    }

    /// Every write that may be in flight.
    pub fn each_write(&mut self, mut visit: impl FnMut(&Target)) {
        for chain in 0..CHAINS {
            let mut index = self.state().chains.get(chain).copied().unwrap_or(0);
            while index != 0 {
                let Some(node) = self.node(index) else { break };
                let node = *node;
                if node.is_write() {
                    visit(&target(&node));
                }
                index = node.next;
            }
        }
    }

    /// Empties the stream's place for another one.
    fn forget(mut self) {
        for chain in 0..CHAINS {
            let mut index = self.state().chains.get(chain).copied().unwrap_or(0);
            while index != 0 {
                let next = self.node(index).map_or(0, |node| node.next);
                self.release(index);
                index = next;
            }
        }
        let state = self.state();
        state.chains = [0; CHAINS];
        state.in_flight = 0;
        state.writes = 0;
        self.stream.id.store(0, Ordering::SeqCst);
    }
}

fn target(node: &Request) -> Target {
    Target { key: Key { dev: node.dev, ino: node.ino }, range: node.from..node.to }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.stream.lock.unlock();
    }
}
