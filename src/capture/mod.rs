//! How changes are seen: hooks, and attaching them to every loaded object.
//!
//! [`Capture::attach`] stores the addresses of our detours ([`table`]) into the slots of every loaded object but
//! ourselves, libc and ld.so ([`elf`]); [`Capture::detach`] puts the real ones back. A detour hands its call to the
//! function of its family, which runs it and tells the tracker what has changed.

mod asynchronous;
mod attributes;
mod changes;
mod data;
pub(crate) mod elf;
mod fork;
mod grace;
mod hook;
mod ioctl;
mod loader;
mod mapping;
mod names;
mod place;
pub(crate) mod process;
mod size;
mod stdio;
mod survey;
mod syscall;
mod table;
mod uring;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::engine::error::{Error, Result};
use elf::Objects;
use grace::Limit;
use process::UringState;
pub use table::intercepted;

/// Held while slots are stored: the pages that they lie on are made writable and read-only again. Nobody calls the
/// loader while holding it, because a constructor, which runs under the loader's lock, may wait for it.
static STORING: Mutex<()> = Mutex::new(());
/// Whether slots may be given our addresses.
static ATTACHED: AtomicBool = AtomicBool::new(false);

/// How many objects had ever been loaded when all of them were intercepted for the last time.
static COVERED: AtomicU64 = AtomicU64::new(0);

/// Our hooks are in place for as long as this lives.
#[derive(Debug)]
pub struct Capture {
    held: Mutex<Objects>,
    /// The rings that were there when the grace was over.
    rings: Mutex<Vec<UringState>>,
}

/// What a look at the slots found and repaired.
#[derive(Debug, Default)]
struct Look {
    /// Slots of objects that came since.
    new: usize,
    /// A slot that was ours and is so no longer.
    lost: Option<String>,
}

impl Look {
    fn is_quiet(&self) -> bool {
        self.new == 0 && self.lost.is_none()
    }
}

impl Capture {
    /// Intercepts the calls of every loaded object and waits until no call that began before is under way (P15).
    /// The tracker has begun and watches the devices of the sources.
    ///
    /// # Errors
    /// `deadline` has passed, naming the thread and its call; `should_stop` said so; the process changes files in
    /// a way that cannot be intercepted, saying what to change.
    pub fn attach(deadline: Duration, should_stop: &dyn Fn() -> bool) -> Result<Capture> {
        let limit = Limit { start: Instant::now(), deadline, should_stop };
        fork::watch();
        elf::choose_dropped();
        for hook in table::HOOKS {
            hook.resolve();
        }
        asynchronous::forget_all();
        mapping::forget_all();
        uring::set_settled(false);
        ATTACHED.store(true, Ordering::SeqCst);
        let capture = Capture { held: Mutex::new(Objects::default()), rings: Mutex::new(Vec::new()) };
        loop {
            capture.look()?;
            let callers = {
                let objects = capture.objects()?;
                survey::refuse(&objects)?;
                objects.callers.clone()
            };
            grace::wait_for_threads(&callers, &limit)?;
            survey::wait_for_rings(&limit)?;
            // A thread that was binding a slot lazily may have undone ours: then it may have gone by unseen, too.
            if capture.look()?.is_quiet() {
                break;
            }
        }
        survey::add_contexts()?;
        survey::add_mapped()?;
        survey::add_standard_streams();
        *capture.rings()? = process::urings()?;
        uring::set_settled(true);
        Ok(capture)
    }

    /// Looks at all slots again (P15) and at objects that came meanwhile (P16). False: something new was
    /// intercepted just now, so that a gate which is about to close does not count. Not inside the gate.
    ///
    /// # Errors
    /// A slot was lost, so that calls may have gone by unseen: the backup cannot be exact.
    pub fn verify(&self) -> Result<bool> {
        let look = self.look()?;
        if let Some(lost) = look.lost {
            return Err(Error::new(
                libc::EAGAIN,
                format!(
                    "calls of {lost} were not intercepted for a while; nothing is wrong with the server: \
                     take the backup again"
                ),
            ));
        }
        survey::add_mapped()?;
        survey::check_rings(&self.rings()?)?;
        Ok(look.new == 0)
    }

    /// Forgets streams that were closed and mappings that were undone, and marks their files. Not inside the gate.
    pub fn review_unseen(&self) -> Result<()> {
        survey::review_unseen()
    }

    /// Whether all slots are ours that [`Capture::verify`] saw, and those of objects that came since are too.
    /// Allocates nothing and may be called inside the gate.
    pub fn is_intact(&self) -> bool {
        let Ok(held) = self.held.lock() else { return false };
        elf::adds() == COVERED.load(Ordering::SeqCst) && held.slots().all(elf::Slot::is_ours)
    }

    /// Takes the hooks out again. Calls may still be inside them: see `Tracker::end`.
    pub fn detach(self) {}

    /// Turns what completion rings tell into marks and returns how many asynchronous writes are still under way
    /// (P14). Allocates nothing and may be called inside the gate.
    pub fn reap(&self) -> u32 {
        asynchronous::reap()
    }

    fn objects(&self) -> Result<MutexGuard<'_, Objects>> {
        self.held
            .lock()
            .map_err(|_| Error::new(libc::EIO, "a thread of the backup has failed: see the error log"))
    }

    fn rings(&self) -> Result<MutexGuard<'_, Vec<UringState>>> {
        self.rings
            .lock()
            .map_err(|_| Error::new(libc::EIO, "a thread of the backup has failed: see the error log"))
    }

    fn look(&self) -> Result<Look> {
        let fresh = Objects::hold()?;
        let mut held = self.objects()?;
        let mut look = Look::default();
        for object in &fresh.list {
            let known = held.list.iter().any(|known| known.is(object));
            for slot in object.slots.iter().filter(|slot| !slot.is_ours()) {
                if known {
                    look.lost = Some(format!("{} in {}", slot.hook.name.to_string_lossy(), object.shown()));
                } else {
                    look.new += 1;
                }
            }
        }
        intercept(&fresh)?;
        let old = std::mem::replace(&mut *held, fresh);
        drop(held);
        // Calls the loader: no lock of ours is held.
        drop(old);
        Ok(look)
    }
}

/// Intercepts the calls of objects that have just been loaded.
fn intercept_new() -> Result<()> {
    intercept(&Objects::hold()?)
}

/// Stores our addresses into all slots that do not have them.
fn intercept(objects: &Objects) -> Result<()> {
    let Ok(_storing) = STORING.lock() else { return Ok(()) };
    if !ATTACHED.load(Ordering::SeqCst) {
        return Ok(());
    }
    for object in &objects.list {
        object.store(|slot| (!slot.is_ours()).then(|| slot.hook.detour()))?;
    }
    COVERED.fetch_max(objects.adds, Ordering::SeqCst);
    Ok(())
}

impl Drop for Capture {
    fn drop(&mut self) {
        {
            let _storing = STORING.lock();
            ATTACHED.store(false, Ordering::SeqCst);
        }
        // Calls that this backup has seen begin may come back when the next one knows no stream yet.
        uring::set_settled(false);
        elf::forget_dropped();
        // All objects anew: an object that was unloaded took its slots along (P16).
        let Ok(objects) = Objects::hold() else { return };
        let storing = STORING.lock();
        for object in &objects.list {
            // It worked before; and with the gate off a hook only passes its call on.
            let _ = object.store(|slot| slot.is_ours().then(|| slot.hook.real()));
        }
        drop(storing);
    }
}
