//! What is run beside a backup.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};
use tokudb_backup::tracker::sync::model::advance;
use tokudb_backup::tracker::{Tracker, tracker};

use crate::engine::{BOUND, Engine};
use crate::hooks::Act::{self, *};
use crate::hooks::{Place, Program};
use crate::ring::{Ring, submitter};
use crate::sabotage::Sabotage;
use crate::world::{Name, World};

/// The beginning of every scenario: files that are there before the backup.
struct Stage {
    world: Arc<World>,
    tracker: &'static Tracker,
    sabotage: Sabotage,
    places: Arc<Mutex<Vec<Place>>>,
    threads: Vec<JoinHandle<()>>,
    names: Name,
}

impl Stage {
    /// `names` files of two blocks in the first directory.
    fn new(sabotage: Sabotage, names: Name) -> Stage {
        let world = World::new();
        for name in 0..names {
            let inode = world.create(false, 0, name);
            world.write(false, &inode, 0);
            world.write(false, &inode, 1);
        }
        Stage { world, tracker: tracker(), sabotage, places: Arc::default(), threads: Vec::new(), names }
    }

    fn program(&self) -> Program {
        Program {
            world: self.world.clone(),
            tracker: self.tracker,
            sabotage: self.sabotage,
            names: self.names,
            places: self.places.clone(),
        }
    }

    fn start(&mut self, menu: &'static [Act], acts: usize) {
        let program = self.program();
        self.threads.push(thread::spawn(move || program.run(menu, acts)));
    }

    fn begin(&self, rings: Vec<Arc<Ring>>) -> Engine {
        Engine::begin(&self.world, self.tracker, self.sabotage, rings, &self.places)
    }

    fn end(self) {
        for thread in self.threads {
            thread.join().expect("a program ends");
        }
    }

    /// One backup beside `threads` programs.
    fn beside(mut self, threads: usize, menu: &'static [Act], acts: usize) {
        let engine = self.begin(Vec::new());
        for _ in 0..threads {
            self.start(menu, acts);
        }
        engine.run();
        self.end();
    }
}

/// Writes to files that stay.
pub fn blocks(sabotage: Sabotage) {
    Stage::new(sabotage, 2).beside(2, &[Write], 3);
}

/// Sizes and attributes too.
pub fn sizes(sabotage: Sabotage) {
    Stage::new(sabotage, 2).beside(2, &[Write, Truncate, Truncate, Chmod], 3);
}

/// Files come and go; inode numbers come back.
pub fn names(sabotage: Sabotage) {
    Stage::new(sabotage, 2).beside(2, &[Create, Replace, Unlink, Rename, Link, Write, Truncate], 3);
}

/// Files change their directory while they are written.
pub fn moves(sabotage: Sabotage) {
    Stage::new(sabotage, 2).beside(2, &[Rename, Write], 4);
}

/// One block that is written again and again.
pub fn busy(sabotage: Sabotage) {
    Stage::new(sabotage, 1).beside(1, &[WriteTo(&[0])], 6);
}

/// Calls of which it is not known what they have changed.
pub fn blind(sabotage: Sabotage) {
    Stage::new(sabotage, 2).beside(2, &[RenameBlindly, WriteBlindly, Write, Create], 3);
}

/// Files grow beyond their bitmaps, which hold 64 blocks.
pub fn growth(sabotage: Sabotage) {
    Stage::new(sabotage, 1).beside(2, &[WriteTo(&[1, 63, 64, 66, 130])], 3);
}

/// Visits break off half way.
pub fn failures(sabotage: Sabotage) {
    let mut stage = Stage::new(sabotage, 2);
    let engine = stage.begin(Vec::new()).failing();
    stage.start(&[Write, Truncate], 3);
    stage.start(&[Write, Rename], 3);
    engine.run();
    stage.end();
}

/// More threads than slots, more inodes than the first table has room for.
pub fn crowd(sabotage: Sabotage) {
    Stage::new(sabotage, 6).beside(6, &[Write, Create, Replace], 1);
}

fn asynchronously(sabotage: Sabotage, tags: [&[u64]; 2]) {
    let mut stage = Stage::new(sabotage, 2);
    let rings: Vec<_> = (0..tags.len()).map(|index| Ring::new(0x1000 * (1 + index))).collect();
    let inodes: Vec<_> = (0..2).filter_map(|name| stage.world.open(0, name)).collect();
    let engine = stage.begin(rings.clone());
    for (ring, tags) in rings.into_iter().zip(tags) {
        let threads = submitter(stage.program(), ring, inodes.clone(), tags.to_vec(), 2);
        stage.threads.extend(threads);
    }
    stage.start(&[Write], 2);
    engine.run();
    stage.end();
}

/// Two programs that write asynchronously, each on a ring of its own.
pub fn asynchronous(sabotage: Sabotage) {
    asynchronously(sabotage, [&[1, 2, 3], &[1, 2]]);
}

/// All requests of a program under one tag.
pub fn shared_tags(sabotage: Sabotage) {
    asynchronously(sabotage, [&[7, 7, 7], &[7, 8, 7]]);
}

/// Somebody moves the clock past the bound now and then, so that those who wait open the gate.
fn time_passes(stage: &mut Stage) {
    let world = stage.world.clone();
    stage.threads.push(thread::spawn(move || {
        for _ in 0..3 {
            for _ in 0..thread_rng().gen_range(0..30) {
                world.step();
            }
            advance(BOUND + Duration::from_millis(1));
        }
    }));
}

/// Time passes.
pub fn deadline(sabotage: Sabotage) {
    let mut stage = Stage::new(sabotage, 2);
    let engine = stage.begin(Vec::new());
    time_passes(&mut stage);
    for _ in 0..2 {
        stage.start(&[Write, Create, Rename], 3);
    }
    engine.run();
    stage.end();
}

/// All of it at once.
pub fn together(sabotage: Sabotage) {
    let mut stage = Stage::new(sabotage, 2);
    let ring = Ring::new(0x1000);
    let inodes: Vec<_> = (0..2).filter_map(|name| stage.world.open(0, name)).collect();
    let engine = stage.begin(vec![ring.clone()]).failing();
    let threads = submitter(stage.program(), ring, inodes, vec![1, 2, 2], 3);
    stage.threads.extend(threads);
    time_passes(&mut stage);
    stage.start(&[WriteTo(&[0, 63, 64, 130]), Truncate, Chmod], 3);
    stage.start(&[Create, Replace, Rename, RenameBlindly, Link, Write], 3);
    engine.run();
    stage.end();
}

/// Capture begins, ends and begins again beside running threads.
pub fn grace(sabotage: Sabotage) {
    let mut stage = Stage::new(sabotage, 2);
    for _ in 0..2 {
        stage.start(&[Write, Write, Replace], 4);
    }
    for _ in 0..2 {
        stage.begin(Vec::new()).run();
    }
    stage.end();
}
