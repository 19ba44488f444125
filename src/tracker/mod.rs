//! The meeting point of capture and engine: dirty ranges by inode, dirty directories, writes in flight, the gate.
//!
//! Capture calls [`Tracker::enter`], the `mark_*` methods and [`Tracker::in_flight`]; they neither allocate nor
//! wait (but for the gate). The engine calls the rest. Everything that hooks reach lives until nobody can be inside
//! one any more.

pub mod entry;
pub mod gate;
pub mod inflight;
pub mod slots;
pub mod sync;
pub mod table;
pub mod trace;
pub mod unseen;

use std::ffi::CStr;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

pub use entry::{BLOCK, Entry, Key, Kind, Marks};
pub use gate::{Closure, Gate};
pub use inflight::{Completed, InFlight, StreamKind, Target};
pub use slots::{Inside, Pass, Slots};
use sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use table::Table;
pub use unseen::{How, Unseen};

/// Devices that sources may lie on.
const DEVICES: usize = 64;
/// Inodes that the first table has room for.
#[cfg(not(feature = "model"))]
const ENTRIES: usize = 16_384;
#[cfg(feature = "model")]
const ENTRIES: usize = 4;

/// Why the running backup cannot be exact, found by capture in a place where nothing can be reported. The first
/// one stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fault {
    /// More asynchronous requests at once than there is room for.
    TooManyRequests = 1,
    /// aio_write or lio_listio, which run in threads of libc that cannot be followed.
    PosixAio,
    /// An io_uring with kernel-side submission, registered files or opcodes that are not known.
    UnknownUring,
    /// More files written by unseen means than there is room for.
    TooManyUnseen,
    /// An object was loaded whose calls could not be intercepted.
    NotAttached,
    /// A slot of a loaded object no longer points to us.
    LostHook,
    /// A completion ring was overrun: a request's end was missed.
    LostCompletion,
    /// More devices than there is room for.
    TooManyDevices,
}

/// What only engine threads touch.
#[derive(Debug, Default)]
struct Registry {
    entries: Vec<*mut Entry>,
    live: usize,
    retired: Vec<*mut Table>,
}

// SAFETY: the pointers own what they point to; they are used under the registry's mutex.
unsafe impl Send for Registry {}

/// See the module.
#[derive(Debug)]
pub struct Tracker {
    gate: Gate,
    in_flight: InFlight,
    table: AtomicPtr<Table>,
    queue: AtomicPtr<Entry>,
    devices: [AtomicU64; DEVICES],
    device_count: AtomicUsize,
    unseen: Unseen,
    fault: AtomicU32,
    everything: AtomicBool,
    all_names: AtomicBool,
    registry: Mutex<Registry>,
}

#[cfg(not(feature = "model"))]
static TRACKER: Tracker = Tracker::new();

/// The process's tracker: one backup runs at a time.
#[cfg(not(feature = "model"))]
pub fn tracker() -> &'static Tracker {
    &TRACKER
}

#[cfg(feature = "model")]
shuttle::lazy_static! {
    static ref TRACKER: Box<Tracker> = Box::new(Tracker::new());
}

/// The tracker of one execution of the model.
#[cfg(feature = "model")]
pub fn tracker() -> &'static Tracker {
    &TRACKER
}

impl Tracker {
    /// Off.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        #[allow(clippy::declare_interior_mutable_const)]
        const ZERO: AtomicU64 = AtomicU64::new(0);
        Tracker {
            gate: Gate::new(Slots::new()),
            in_flight: InFlight::new(),
            table: AtomicPtr::new(std::ptr::null_mut()),
            queue: AtomicPtr::new(std::ptr::null_mut()),
            devices: [ZERO; DEVICES],
            device_count: AtomicUsize::new(0),
            unseen: Unseen::new(),
            fault: AtomicU32::new(0),
            everything: AtomicBool::new(false),
            all_names: AtomicBool::new(false),
            registry: Mutex::new(Registry { entries: Vec::new(), live: 0, retired: Vec::new() }),
        }
    }

    // ---- capture's side ----

    /// Whether a file on this device may belong to a source: others need no look and never enter the gate (P5).
    pub fn watches(&self, dev: u64) -> bool {
        let count = self.device_count.load(Ordering::SeqCst);
        self.devices.iter().take(count).any(|device| device.load(Ordering::Relaxed) == dev)
    }

    /// See [`Gate::enter`].
    pub fn enter(&self, call: &'static CStr) -> Option<Pass<'_>> {
        self.gate.enter(call)
    }

    /// See [`Gate::pin`].
    pub fn pin(&self, call: &'static CStr) -> Option<Pass<'_>> {
        self.gate.pin(call)
    }

    /// Asynchronous requests; use it while holding a pass.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    fn find(&self, key: Key) -> Option<&Entry> {
        // SAFETY: tables live until nobody can be inside a hook any more (`end`).
        unsafe { self.table.load(Ordering::SeqCst).as_ref() }?.find(key)
    }

    /// Bytes `range` of the file have changed, or may have. `u64::MAX` as the end: to the file's end and beyond.
    pub fn mark_range(&self, _inside: &Pass<'_>, key: Key, range: Range<u64>) {
        trace::say("range", key, range.start, range.end);
        if let Some(entry) = self.find(key) {
            entry.mark_range(range);
            self.enqueue(entry);
        }
    }

    /// The inode was made anew or replaced as a whole (P6); also a directory's.
    pub fn mark_born(&self, _inside: &Pass<'_>, key: Key) {
        trace::say("born", key, 0, u64::MAX);
        if let Some(entry) = self.find(key) {
            match entry.kind {
                Kind::File => entry.mark_range(0..u64::MAX),
                Kind::Directory => entry.mark(Marks::NAMES),
            }
            entry.mark(Marks::BORN | Marks::ATTRIBUTES | Marks::XATTRS);
            self.enqueue(entry);
        }
    }

    /// Mode, owner, times or extended attributes have changed.
    pub fn mark(&self, _inside: &Pass<'_>, key: Key, marks: Marks) {
        trace::say("marks", key, marks.bits().into(), 0);
        if let Some(entry) = self.find(key) {
            entry.mark(marks);
            self.enqueue(entry);
        }
    }

    /// Names in this directory have changed (P9).
    pub fn mark_names(&self, inside: &Pass<'_>, directory: Key) {
        self.mark(inside, directory, Marks::NAMES | Marks::ATTRIBUTES);
    }

    /// Names have changed in a directory that cannot be told with certainty: all of them are listed again (P9).
    pub fn mark_all_names(&self, _inside: &Pass<'_>) {
        trace::note("all-names");
        self.all_names.store(true, Ordering::SeqCst);
    }

    /// Something has changed that cannot be told: everything is copied again (P8).
    pub fn mark_everything(&self, _inside: &Pass<'_>) {
        trace::note("everything");
        self.everything.store(true, Ordering::SeqCst);
    }

    /// From now on this file may be written without our seeing it (P24): by a stream on `fd`, or a mapping.
    pub fn add_unseen(&self, key: Key, how: How, fd: i32) {
        trace::say("unseen", key, how as u64, 0);
        if !self.unseen.add(key, how, fd) {
            self.set_fault(Fault::TooManyUnseen);
        }
    }

    /// Makes the running backup fail.
    pub fn set_fault(&self, fault: Fault) {
        trace::say("fault", Key { dev: 0, ino: 0 }, fault as u64, 0);
        let _ = self.fault.compare_exchange(0, fault as u32, Ordering::SeqCst, Ordering::SeqCst);
    }

    // ---- the engine's side ----

    /// The gate and the slots.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The first fault, if any.
    pub fn fault(&self) -> Option<Fault> {
        use Fault::*;
        let fault = self.fault.load(Ordering::SeqCst);
        [
            TooManyRequests,
            PosixAio,
            UnknownUring,
            TooManyUnseen,
            NotAttached,
            LostHook,
            LostCompletion,
            TooManyDevices,
        ]
        .into_iter()
        .find(|known| *known as u32 == fault)
    }

    /// Begins a backup: everything is empty, the gate is open, marks are taken from now on.
    pub fn begin(&self) {
        trace::choose();
        self.fault.store(0, Ordering::SeqCst);
        self.everything.store(false, Ordering::SeqCst);
        self.all_names.store(false, Ordering::SeqCst);
        self.device_count.store(0, Ordering::SeqCst);
        self.unseen.clear();
        self.in_flight.reset();
        // Without memory for it nothing can be registered, and the backup ends with that.
        let table = Table::new(ENTRIES).map_or(std::ptr::null_mut(), |table| Box::into_raw(Box::new(table)));
        self.table.store(table, Ordering::SeqCst);
        self.gate.turn_on();
    }

    /// Ends capture, if the gate has not, and frees the memory of a backup once nobody can be inside a hook any
    /// more. False: somebody still was after `patience`; the memory is then given up, not freed.
    pub fn end(&self, patience: Duration) -> bool {
        self.gate.abandon();
        let quiet = self.gate.slots().quiesce(patience).is_ok();
        let table = self.table.swap(std::ptr::null_mut(), Ordering::SeqCst);
        self.queue.store(std::ptr::null_mut(), Ordering::SeqCst);
        let Ok(mut registry) = self.registry.lock() else { return false };
        let registry = std::mem::take(&mut *registry);
        if quiet {
            for table in registry.retired.into_iter().chain([table]).filter(|table| !table.is_null()) {
                // SAFETY: tables come from Box::into_raw; capture is off and nobody is inside, so this is the only
                // reference.
                drop(unsafe { Box::from_raw(table) });
            }
            for entry in registry.entries {
                // SAFETY: as for the tables.
                drop(unsafe { Box::from_raw(entry) });
            }
        }
        quiet
    }

    /// Files on this device may be in a source.
    pub fn watch(&self, dev: u64) {
        if self.watches(dev) {
            return;
        }
        let count = self.device_count.load(Ordering::SeqCst);
        match self.devices.get(count) {
            Some(device) => {
                device.store(dev, Ordering::SeqCst);
                self.device_count.store(count + 1, Ordering::SeqCst);
            }
            None => self.set_fault(Fault::TooManyDevices),
        }
    }

    /// Files that are written without our seeing it.
    pub fn unseen(&self) -> &Unseen {
        &self.unseen
    }

    /// Adds an inode, wholly marked and queued, before its first byte or name is read (P3). Known already: the
    /// entry it has.
    pub fn register(&self, key: Key, kind: Kind, size: u64) -> Option<&Entry> {
        let mut registry = self.registry.lock().ok()?;
        if let Some(entry) = self.find(key) {
            if entry.kind == kind {
                return Some(entry);
            }
            self.take_out(entry);
            registry.live = registry.live.saturating_sub(1);
        }
        registry.entries.try_reserve(1).ok()?;
        let entry = Box::into_raw(Box::new(Entry::new(key, kind, size)?));
        registry.entries.push(entry);
        registry.live += 1;
        // SAFETY: the table is freed by `end` only, which the engine calls when it registers nothing any more.
        let mut table = unsafe { self.table.load(Ordering::SeqCst).as_ref() }?;
        if registry.entries.len() > table.room() {
            let larger = Box::new(Table::new(registry.entries.len() * 2)?);
            for &known in &registry.entries {
                // SAFETY: entries live until `end`.
                let known_entry = unsafe { &*known };
                if !known_entry.gone.load(Ordering::SeqCst) && !std::ptr::eq(known, entry) {
                    let _room = larger.insert(known, known_entry.key);
                }
            }
            let larger = Box::into_raw(larger);
            registry.retired.push(self.table.swap(larger, Ordering::SeqCst));
            // SAFETY: just made; freed by `end` only.
            table = unsafe { &*larger };
        }
        if !table.insert(entry, key) {
            return None;
        }
        // SAFETY: entries live until `end`.
        let entry = unsafe { &*entry };
        self.enqueue(entry);
        Some(entry)
    }

    /// Forgets an inode that has no name any more. Should it come back, it is registered anew and copied whole.
    pub fn forget(&self, entry: &Entry) {
        if let Ok(mut registry) = self.registry.lock() {
            self.take_out(entry);
            registry.live = registry.live.saturating_sub(1);
        }
    }

    fn take_out(&self, entry: &Entry) {
        entry.gone.store(true, Ordering::SeqCst);
        // SAFETY: the table is freed by `end` only.
        if let Some(table) = unsafe { self.table.load(Ordering::SeqCst).as_ref() } {
            table.remove(entry);
        }
    }

    /// The entry of `key`.
    pub fn entry(&self, key: Key) -> Option<&Entry> {
        self.find(key)
    }

    /// Puts an entry into the queue of those with marks, unless it is there.
    fn enqueue(&self, entry: &Entry) {
        if entry.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut head = self.queue.load(Ordering::SeqCst);
        loop {
            entry.next.store(head, Ordering::SeqCst);
            let this = std::ptr::from_ref(entry).cast_mut();
            match self.queue.compare_exchange(head, this, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(other) => head = other,
            }
        }
    }

    /// Takes the queue: calls `visit` with every entry that was marked. An entry that is marked again from now on
    /// is queued again, so its marks must be taken after this (P2). `visit` must not register or forget.
    pub fn take_queue<'a>(&'a self, mut visit: impl FnMut(&'a Entry)) {
        let mut next = self.queue.swap(std::ptr::null_mut(), Ordering::SeqCst);
        // SAFETY: entries live until `end`, which the engine calls last.
        while let Some(entry) = unsafe { next.as_ref() } {
            // Read before the entry may be queued again.
            next = entry.next.load(Ordering::SeqCst);
            entry.queued.store(false, Ordering::SeqCst);
            if !entry.gone.load(Ordering::SeqCst) {
                visit(entry);
            }
        }
    }

    /// Whether the queue is empty.
    pub fn queue_is_empty(&self) -> bool {
        self.queue.load(Ordering::SeqCst).is_null()
    }

    /// Puts a mark back that was taken and not served (P4).
    pub fn put_back(&self, entry: &Entry, range: Option<Range<u64>>, marks: Marks) {
        if let Some(range) = range {
            entry.mark_range(range);
        }
        entry.mark(marks);
        self.enqueue(entry);
    }

    /// Moves the marks of outgrown bitmaps over, see [`Entry::settle`].
    pub fn settle(&self, entry: &Entry) {
        if entry.settle() {
            self.enqueue(entry);
        }
    }

    /// Takes the mark that all directories must be listed again.
    pub fn take_all_names(&self) -> bool {
        self.all_names.swap(false, Ordering::SeqCst)
    }

    /// Takes the mark that everything must be copied again.
    pub fn take_everything(&self) -> bool {
        self.everything.swap(false, Ordering::SeqCst)
    }

    /// Whether everything must be copied again.
    pub fn has_everything(&self) -> bool {
        self.everything.load(Ordering::SeqCst)
    }

    /// Sets them again (P4).
    pub fn put_back_wide(&self, all_names: bool, everything: bool) {
        if all_names {
            self.all_names.store(true, Ordering::SeqCst);
        }
        if everything {
            self.everything.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    /// P10: a signal handler's calls, and those of a hooked function that calls another one.
    #[test]
    fn whoever_is_inside_passes_straight_through() {
        static GATE: Gate = Gate::new(Slots::new());
        GATE.turn_on();
        let outer = GATE.enter(c"io_submit").expect("it is open");
        let closure = GATE.close(Duration::from_millis(200)).expect("it is open");
        assert!(GATE.enter(c"syscall").is_none() && GATE.pin(c"io_getevents").is_none());
        assert!(GATE.holds(closure), "it has waited for the gate that waits for it");
        assert!(!GATE.is_drained());
        drop(outer);
        assert!(GATE.is_drained() && GATE.turn_off(closure));
    }
}
