//! Programs under capture: each call as its hook does it, enter, real call, mark, leave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shuttle::rand::{Rng, thread_rng};
use tokudb_backup::tracker::{BLOCK, Marks, Pass, Tracker};

use crate::sabotage::Sabotage;
use crate::world::{DIRECTORIES, Inode, Name, World, directory_key};

/// What a program does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// pwrite.
    Write,
    /// pwrite somewhere in these blocks.
    WriteTo(&'static [u64]),
    /// ftruncate.
    Truncate,
    /// fchmod.
    Chmod,
    /// open with O_CREAT and O_TRUNC.
    Create,
    /// unlink, then open with O_CREAT of the same name: often the same inode number.
    Replace,
    /// unlink.
    Unlink,
    /// rename.
    Rename,
    /// rename by a call whose directories cannot be told.
    RenameBlindly,
    /// link.
    Link,
    /// pwrite by a call of which nothing is known.
    WriteBlindly,
}

/// A thread's place in its calls, as /proc would tell: even outside, odd within.
pub type Place = (u32, Arc<AtomicUsize>);

/// One thread of a program.
#[derive(Clone, Debug)]
pub struct Program {
    /// The files.
    pub world: Arc<World>,
    /// The tracker.
    pub tracker: &'static Tracker,
    /// Broken rule.
    pub sabotage: Sabotage,
    /// Names that it uses.
    pub names: Name,
    /// Where each thread is.
    pub places: Arc<Mutex<Vec<Place>>>,
}

fn pick<T: Copy>(from: &[T]) -> T {
    from[thread_rng().gen_range(0..from.len())]
}

impl Program {
    /// A thread enters hook code, or a call that is not intercepted yet.
    pub fn begin_call(&self) {
        self.place().fetch_add(1, Ordering::SeqCst);
    }

    /// And leaves it.
    pub fn end_call(&self) {
        self.place().fetch_add(1, Ordering::SeqCst);
    }

    fn place(&self) -> Arc<AtomicUsize> {
        let me = usize::from(shuttle::current::me()) as u32 + 1;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, place)) = places.iter().find(|(thread, _)| *thread == me) {
            return place.clone();
        }
        let place = Arc::new(AtomicUsize::new(0));
        places.push((me, place.clone()));
        place
    }

    fn call<R>(&self, real: impl FnOnce(bool) -> R, mark: impl FnOnce(&Pass<'_>, &R)) -> R {
        self.begin_call();
        let pass = self.tracker.enter(c"call");
        let result = real(pass.is_some());
        match pass {
            Some(pass) if self.sabotage == Sabotage::MarkAfterLeaving => {
                drop(pass);
                if let Some(pass) = self.tracker.pin(c"late") {
                    mark(&pass, &result);
                }
            }
            Some(pass) => mark(&pass, &result),
            None => {}
        }
        self.end_call();
        result
    }

    fn write(&self, inode: &Inode, block: u64) {
        let range = block * BLOCK..(block + 1) * BLOCK;
        if self.sabotage == Sabotage::MarkBeforeLanding {
            self.begin_call();
            let pass = self.tracker.enter(c"pwrite");
            if let Some(pass) = &pass {
                self.tracker.mark_range(pass, inode.key(), range);
            }
            self.world.write(pass.is_some(), inode, block);
            drop(pass);
            return self.end_call();
        }
        self.call(
            |seen| self.world.write(seen, inode, block),
            |pass, ()| self.tracker.mark_range(pass, inode.key(), range),
        );
    }

    fn create(&self, (directory, name): (usize, Name)) {
        self.call(
            |seen| self.world.create(seen, directory, name),
            |pass, inode| {
                if self.sabotage != Sabotage::BirthUnmarked {
                    self.tracker.mark_born(pass, inode.key());
                }
                self.tracker.mark_names(pass, directory_key(directory));
            },
        );
    }

    fn unlink(&self, (directory, name): (usize, Name)) {
        self.call(
            |seen| self.world.unlink(seen, directory, name),
            |pass, ()| self.tracker.mark_names(pass, directory_key(directory)),
        );
    }

    fn rename(&self, from: (usize, Name), to: (usize, Name), blindly: bool) {
        self.call(
            |seen| self.world.rename(seen, from, to),
            |pass, ()| {
                if blindly {
                    return self.tracker.mark_all_names(pass);
                }
                if self.sabotage != Sabotage::OldDirectoryUnmarked {
                    self.tracker.mark_names(pass, directory_key(from.0));
                }
                self.tracker.mark_names(pass, directory_key(to.0));
            },
        );
    }

    fn link(&self, from: (usize, Name), to: (usize, Name)) {
        self.call(
            |seen| self.world.link(seen, from, to),
            |pass, ()| {
                if self.sabotage != Sabotage::LinkUnmarked {
                    self.tracker.mark_names(pass, directory_key(to.0));
                }
            },
        );
    }

    fn truncate(&self, inode: &Inode, size: u64) {
        self.call(
            |seen| self.world.truncate(seen, inode, size),
            |pass, ()| {
                if self.sabotage != Sabotage::TruncationUnmarked {
                    self.tracker.mark_range(pass, inode.key(), size * BLOCK..u64::MAX);
                }
            },
        );
    }

    fn chmod(&self, inode: &Inode) {
        self.call(
            |seen| self.world.chmod(seen, inode),
            |pass, ()| self.tracker.mark(pass, inode.key(), Marks::ATTRIBUTES),
        );
    }

    /// Does `count` acts of the menu.
    pub fn run(&self, menu: &[Act], count: usize) {
        for _ in 0..count {
            self.act(pick(menu));
            if thread_rng().gen_bool(0.5) {
                // It has something else to do.
                shuttle::thread::yield_now();
            }
        }
    }

    fn act(&self, act: Act) {
        let name = || (thread_rng().gen_range(0..DIRECTORIES), thread_rng().gen_range(0..self.names));
        let at = name();
        match act {
            Act::Create => return self.create(at),
            Act::Replace => {
                self.unlink(at);
                return self.create(at);
            }
            Act::Unlink => return self.unlink(at),
            Act::Rename => return self.rename(at, name(), false),
            Act::RenameBlindly => return self.rename(at, name(), true),
            Act::Link => return self.link(at, name()),
            _ => {}
        }
        let Some(inode) = self.world.open(at.0, at.1) else { return };
        match act {
            Act::WriteTo(blocks) => self.write(&inode, pick(blocks)),
            Act::Truncate => self.truncate(&inode, thread_rng().gen_range(0..3)),
            Act::Chmod => self.chmod(&inode),
            Act::WriteBlindly => {
                let block = thread_rng().gen_range(0..3);
                self.call(
                    |seen| self.world.write(seen, &inode, block),
                    |pass, ()| self.tracker.mark_everything(pass),
                );
            }
            _ => self.write(&inode, thread_rng().gen_range(0..3)),
        }
    }
}
