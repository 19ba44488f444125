//! Asynchronous writes: a thread that submits and reaps as a program under capture does, and the kernel's thread.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::thread::{self, JoinHandle};
use tokudb_backup::tracker::inflight::Locked;
use tokudb_backup::tracker::{BLOCK, Pass, StreamKind, Target, Tracker};

use crate::hooks::Program;
use crate::sabotage::Sabotage;
use crate::world::{Inode, World};

/// A completion ring in the program's memory: events stay readable.
#[derive(Debug)]
pub struct Ring {
    /// What the tracker knows it by.
    pub id: usize,
    events: Mutex<Vec<u64>>,
}

struct Request {
    tag: u64,
    seen: bool,
    inode: Arc<Inode>,
    block: u64,
}

impl Ring {
    /// An empty one.
    pub fn new(id: usize) -> Arc<Ring> {
        Arc::new(Ring { id, events: Mutex::default() })
    }

    fn event(&self, index: usize) -> Option<u64> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).get(index).copied()
    }

    fn tail(&self) -> u32 {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len() as u32
    }

    /// Turns what has completed into marks.
    pub fn drain(&self, world: &World, tracker: &Tracker, pass: &Pass<'_>, stream: &mut Locked<'_>) {
        world.step();
        let tail = self.tail();
        for index in stream.cursor()..tail {
            world.step();
            if let Some(tag) = self.event(index as usize) {
                stream
                    .complete(tag, &mut |target| tracker.mark_range(pass, target.key, target.range.clone()));
            }
        }
        stream.set_cursor(tail);
    }
}

/// The kernel: completes requests, not in order, and posts their ends.
fn kernel(world: Arc<World>, ring: Arc<Ring>, requests: Receiver<Request>, done: Sender<u64>) {
    let mut waiting: Vec<Request> = Vec::new();
    loop {
        let next = if waiting.is_empty() { requests.recv().ok() } else { requests.try_recv().ok() };
        let none = next.is_none();
        waiting.extend(next);
        if waiting.is_empty() {
            return;
        }
        if none || thread_rng().gen_bool(0.5) {
            let request = waiting.swap_remove(thread_rng().gen_range(0..waiting.len()));
            world.write(request.seen, &request.inode, request.block);
            world.step();
            ring.events.lock().unwrap_or_else(PoisonError::into_inner).push(request.tag);
            // Nobody waits for the last ones.
            let _ = done.send(request.tag);
        }
    }
}

fn blocks(block: u64) -> Range<u64> {
    block * BLOCK..(block + 1) * BLOCK
}

/// A program that writes asynchronously to `inode`, in batches of one or two, as long as it has tags, reaping in
/// between. `tags`: what it names its requests; equal ones may be in flight at once.
pub fn submitter(
    program: Program,
    ring: Arc<Ring>,
    inodes: Vec<Arc<Inode>>,
    tags: Vec<u64>,
    batches: usize,
) -> Vec<JoinHandle<()>> {
    let (submit, requests) = channel();
    let (done, reaped) = channel();
    let kernel = {
        let (world, ring) = (program.world.clone(), ring.clone());
        thread::spawn(move || kernel(world, ring, requests, done))
    };
    let thread = thread::spawn(move || {
        let mut free = tags;
        for _ in 0..batches {
            while free.is_empty() || thread_rng().gen_bool(0.3) {
                let Ok(tag) = reaped
                    .try_recv()
                    .or_else(|_| if free.is_empty() { reaped.recv().map_err(drop) } else { Err(()) })
                else {
                    break;
                };
                free.push(tag);
                program.reaped(&ring);
            }
            let count = thread_rng().gen_range(1..=free.len().min(2));
            let batch: Vec<_> = free
                .drain(..count)
                .map(|tag| {
                    let inode = &inodes[thread_rng().gen_range(0..inodes.len())];
                    (tag, inode.clone(), thread_rng().gen_range(0..3))
                })
                .collect();
            free.extend(program.submit(&ring, &submit, batch));
        }
    });
    vec![kernel, thread]
}

impl Program {
    /// io_submit(2) as its hook does it. Returns the tags that were not taken.
    fn submit(&self, ring: &Ring, kernel: &Sender<Request>, batch: Vec<(u64, Arc<Inode>, u64)>) -> Vec<u64> {
        let tracker = self.tracker;
        self.begin_call();
        let pass = tracker.enter(c"io_submit");
        if let Some(pass) = &pass {
            let mut stream = tracker
                .in_flight()
                .find_or_add(ring.id, StreamKind::Libaio, || (ring.tail(), 0))
                .expect("there is room");
            ring.drain(&self.world, tracker, pass, &mut stream);
            drop(stream);
            for (tag, inode, block) in &batch {
                if self.sabotage == Sabotage::MarkAtSubmission {
                    tracker.mark_range(pass, inode.key(), blocks(*block));
                    continue;
                }
                let target = Target { key: inode.key(), range: blocks(*block) };
                let mut stream = tracker.in_flight().find(ring.id).expect("it is known");
                stream.enter(*tag, Some(&target)).expect("there is room");
            }
        }
        let taken = if thread_rng().gen_bool(0.2) { batch.len() - 1 } else { batch.len() };
        let mut rest = Vec::new();
        for (index, (tag, inode, block)) in batch.into_iter().enumerate() {
            if index < taken {
                self.world.step();
                kernel.send(Request { tag, seen: pass.is_some(), inode, block }).expect("it takes all");
            } else {
                rest.push((tag, Target { key: inode.key(), range: blocks(block) }));
            }
        }
        if let (Some(_), false) = (&pass, self.sabotage == Sabotage::MarkAtSubmission) {
            for (tag, target) in &rest {
                let mut stream = tracker.in_flight().find(ring.id).expect("it is known");
                stream.retract(*tag, Some(target));
            }
        }
        drop(pass);
        self.end_call();
        rest.into_iter().map(|(tag, _)| tag).collect()
    }

    /// io_getevents(2) has returned: its hook reads the ring, but never waits for the gate (P12).
    fn reaped(&self, ring: &Ring) {
        if let Some(pass) = self.tracker.pin(c"io_getevents")
            && let Some(mut stream) = self.tracker.in_flight().find(ring.id)
        {
            ring.drain(&self.world, self.tracker, &pass, &mut stream);
        }
    }
}
