//! The course of a backup: first pass, converging passes, gate, the rest.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::control::{Control, Question};
use super::error::{Error, Result};
use super::finish;
use super::hold::{Arena, Held, Hold, Missed, UNSEEN_BYTES, Watcher};
use super::progress::{PROGRESS, Phase};
use super::reconcile::Reconciler;
use super::source::{self, Root};
use super::store::Store;
use super::throttle;
use super::tree::{File, Tree};
use super::workers::Workers;
use crate::backup::{Report, Request};
use crate::tracker::{Key, Marks, Tracker, Unseen};

/// The gate is tried when a pass has copied no more than this: a quarter of what is read inside at most (P19).
const SMALL: u64 = 8 << 20;
/// A pass that has copied no more than this need not be followed by another one.
const TINY: u64 = 256 << 10;
/// Somebody inside for longer than this: the gate is not closed (P20). At first; where calls take longer as a rule
/// (a slow disk), it grows with each try.
const LONG_CALL: Duration = Duration::from_millis(5);
/// Those inside get this long to leave, at first.
const DRAIN: Duration = Duration::from_millis(10);
/// The part of the gate's bound that those inside may take at most; the rest is for reading.
const DRAIN_PART: f32 = 0.6;
/// A moment with no asynchronous write in flight is waited for this long before the gate is closed.
const QUIET_DISK: Duration = Duration::from_millis(50);
/// Requests on libaio contexts from before capture count as in flight until so long after its start; the kernel does
/// not tell. A short backup waits for that before DDL is held off.
const OLDER: Duration = Duration::from_millis(1100);
/// The gate must be passed within this time once it is tried first.
const GATE_PATIENCE: Duration = Duration::from_secs(60);
/// So many files are looked at again right before each try of the gate, which takes some 20 ms; in larger trees only
/// before DDL is held off.
const FEW_FILES: usize = 20_000;
/// Passes that do not get smaller before the backup fails.
const PASSES: u32 = 1000;

/// One backup under way.
pub struct Engine<'a> {
    request: &'a Request,
    began: Instant,
    control: &'a Arc<Control>,
    tracker: &'static Tracker,
    workers: &'a Workers,
    state: Reconciler,
    outgrown: Vec<Arc<File>>,
    foreign: Vec<Key>,
    unseen: HashSet<PathBuf>,
    report: Report,
}

/// Opens the source directories.
pub fn open_roots(request: &Request) -> Result<Arc<Vec<Root>>> {
    let mut roots = Vec::new();
    for source in &request.sources {
        let failed =
            |errno: rustix::io::Errno| Error::io("open the source directory", &source.path, &errno.into());
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open(&source.path, flags, rustix::fs::Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        roots.push(Root { path: source.path.clone(), fd, key: source::key_of(&stat) });
    }
    Ok(Arc::new(roots))
}

/// Watches the devices of all directories of the sources, before capture begins: a call on a device that is not
/// watched leaves no trace.
pub fn watch_devices(roots: &[Root], tracker: &Tracker, control: &Control) -> Result<()> {
    let mut open: Vec<PathBuf> = roots.iter().map(|root| root.path.clone()).collect();
    for root in roots {
        tracker.watch(root.key.dev);
    }
    while let Some(directory) = open.pop() {
        control.check()?;
        // What cannot be read is reported when it is listed.
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Ok(metadata) = entry.metadata()
            {
                tracker.watch(std::os::unix::fs::MetadataExt::dev(&metadata));
                open.push(entry.path());
            }
        }
    }
    Ok(())
}

impl<'a> Engine<'a> {
    /// An engine for one request. The tracker has begun and, unless the control asks otherwise, capture is attached.
    pub fn new(
        request: &'a Request,
        control: &'a Arc<Control>,
        tracker: &'static Tracker,
        workers: &'a Workers,
    ) -> Self {
        let state = Reconciler::new(
            tracker,
            control.clone(),
            Tree::new(workers.shared().roots.clone()),
            request.exclude.clone(),
            request.leave_out.clone(),
            request.links,
        );
        Engine {
            request,
            began: Instant::now(),
            control,
            tracker,
            workers,
            state,
            outgrown: Vec::new(),
            foreign: Vec::new(),
            unseen: HashSet::new(),
            report: Report::default(),
        }
    }

    fn enter(&self, phase: Phase) {
        PROGRESS.set_phase(phase);
        self.control.ring();
    }

    /// Everything up to a durable image.
    pub fn run(mut self, watcher: &dyn Watcher) -> Result<Report> {
        self.open_images()?;
        self.state.add_roots()?;
        self.enter(Phase::Copying);
        self.pass(true)?;
        self.refuse_unseen()?;
        if self.request.without_capture {
            return self.end_without_capture();
        }
        self.enter(Phase::Converging);
        self.converge()?;
        self.look_for_foreign_changes(watcher)?;
        let mut arena = Arena::reserve();
        if self.began.elapsed() < OLDER && watcher.reap() != 0 {
            self.wait_for_quiet_disk(watcher, self.began + OLDER);
            self.converge()?;
        }
        self.control.ask(Question::BeforeLastPass).and_then(done)?;
        let lock = Instant::now();
        let held = self.pass_gate(&mut arena, watcher);
        self.report.lock_micros = lock.elapsed().as_micros() as u64;
        let held = held?;
        self.enter(Phase::Finishing);
        self.control.ask(Question::AfterStop).and_then(done)?;
        self.report.gate_micros = held.closed.as_micros() as u64;
        self.report.gate_bytes = held.bytes;
        self.report.instant = held.instant;
        self.end(&mut arena)
    }

    fn end(mut self, arena: &mut Arena) -> Result<Report> {
        let built = if finish::compares() {
            // The test mode has built it inside the gate.
            finish::Built { files: self.report.files }
        } else {
            finish::complete(&mut self.state, arena, self.workers)?
        };
        self.complete(built)
    }

    /// The control of the demo: what a copy is worth that did not see the writes beside it.
    fn end_without_capture(mut self) -> Result<Report> {
        self.report.instant =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.enter(Phase::Finishing);
        // What went away before it could be copied is left out, as any tool that knows nothing of the server would.
        self.state.tree.files.retain(|_, file| super::visit::lock(&file.seen).is_some());
        let built = finish::build(&mut self.state, self.workers)?;
        self.complete(built)
    }

    /// Makes the images durable, then says that they are complete.
    fn complete(mut self, built: finish::Built) -> Result<Report> {
        self.report.files = built.files;
        self.report.bytes = self.workers.shared().copied.load(Ordering::Relaxed);
        self.report.unseen = self.unseen.into_iter().collect();
        let frame = self.request.frame.clone();
        let report = self.report.clone();
        let completed = self.workers.run(move |shared| {
            shared.stores.get().into_iter().flatten().try_for_each(Store::sync)?;
            frame.as_ref().map_or(Ok(()), |frame| frame.complete(&report))?;
            if shared.control.complete() {
                return Ok(());
            }
            frame.iter().for_each(|frame| frame.revoke());
            Err(shared.control.cause())
        });
        match completed {
            Err(error) if self.control.give_up() => Err(error),
            // Ended when it was complete already.
            _ => Ok(self.report),
        }
    }

    fn open_images(&self) -> Result<()> {
        let images: Vec<PathBuf> = self.request.sources.iter().map(|source| source.image.clone()).collect();
        let frame = self.request.frame.clone();
        self.workers.run(move |shared| {
            frame.map_or(Ok(()), |frame| frame.begin())?;
            let stores = images.iter().map(|image| Store::create(image)).collect::<Result<Vec<_>>>()?;
            let _ = shared.stores.set(stores);
            Ok(())
        })
    }

    /// One pass: names, then every file with marks. Returns the bytes that were copied.
    fn pass(&mut self, first: bool) -> Result<u64> {
        self.settle()?;
        self.check_fault()?;
        self.report.passes += 1;
        let before = self.workers.shared().copied.load(Ordering::Relaxed);
        let files = self.state.run()?;
        PROGRESS.begin_pass(if first { 0 } else { files.iter().map(|file| file.marked_bytes()).sum() });
        for file in files {
            let new = super::visit::lock(&file.seen).is_none();
            let ways = self.state.tree.paths_of(file.key);
            let ways: Vec<_> = ways
                .into_iter()
                .filter_map(|(root, path)| {
                    use std::os::unix::ffi::OsStrExt;
                    let full = self
                        .state
                        .tree
                        .roots
                        .get(root)?
                        .path
                        .join(std::ffi::OsStr::from_bytes(path.to_bytes()));
                    Some((root, path, full))
                })
                .collect();
            self.workers.visit(file, ways, first && new);
        }
        self.workers.wait()?;
        self.outgrown.extend(self.workers.take_outgrown());
        self.drop_unwanted()?;
        Ok(self.workers.shared().copied.load(Ordering::Relaxed) - before)
    }

    /// Store files of what was dropped take room in the destination: away with them.
    fn drop_unwanted(&mut self) -> Result<()> {
        let unwanted = std::mem::take(&mut self.state.unwanted);
        if unwanted.is_empty() {
            return Ok(());
        }
        self.workers
            .run(move |shared| unwanted.iter().try_for_each(|(root, id)| shared.store(*root)?.remove(*id)))
    }

    /// Marks may have gone to bitmaps that were outgrown in the last pass, as long as somebody was inside then.
    fn settle(&mut self) -> Result<()> {
        if self.outgrown.is_empty() {
            return Ok(());
        }
        let patience = Instant::now() + GATE_PATIENCE;
        loop {
            self.control.check()?;
            match self.tracker.gate().slots().quiesce(Duration::from_millis(100)) {
                Ok(()) => break,
                Err(inside) if Instant::now() > patience => return Err(stuck(inside)),
                Err(_) => {}
            }
        }
        for file in self.outgrown.drain(..) {
            self.tracker.settle(file.entry);
        }
        Ok(())
    }

    fn check_fault(&self) -> Result<()> {
        self.tracker.fault().map_or(Ok(()), |fault| Err(super::faults::describe(fault)))
    }

    /// Passes until one copies little, and no longer much less than the one before: what comes after it may hold DDL
    /// off, so it should be short.
    fn converge(&mut self) -> Result<()> {
        let mut before = u64::MAX;
        for _ in 0..PASSES {
            self.control.check()?;
            while throttle::THROTTLE.is_paused() {
                // Paused: no gate either.
                self.control.check()?;
                std::thread::sleep(Duration::from_millis(20));
            }
            let copied = self.pass(false)?;
            if copied <= SMALL && copied >= before / 4 * 3 || copied <= TINY {
                return Ok(());
            }
            before = copied;
        }
        Err(Error::new(
            libc::EAGAIN,
            format!(
                "the server changes its files faster than they can be copied: {PASSES} passes did not get smaller; \
                 use a faster destination or a quieter time"
            ),
        ))
    }

    /// The last pass and the gate, until it is passed or patience ends.
    fn pass_gate(&mut self, arena: &mut Arena, watcher: &dyn Watcher) -> Result<Held> {
        self.enter(Phase::Gate);
        let give_up = Instant::now() + GATE_PATIENCE;
        let mut pause = Duration::from_millis(50);
        let (mut long_call, mut drain) = (LONG_CALL, DRAIN);
        let mut names = 0;
        loop {
            self.control.check()?;
            let missed = if self.somebody_stays_inside(long_call) {
                long_call = (long_call * 5 / 4).min(self.longest_drain());
                None
            } else {
                match self.attempt(arena, watcher, drain)? {
                    Ok(held) => return Ok(held),
                    Err(missed) => Some(missed),
                }
            };
            if Instant::now() > give_up {
                return Err(self.never_passed(missed.unwrap_or(Missed::Busy)));
            }
            if missed == Some(Missed::Names) {
                names += 1;
                // Perhaps another process took a name away, which left no mark.
                self.tracker.put_back_wide(names % 4 == 0, false);
            }
            // The server has waited for nothing: not again at once.
            if matches!(missed, Some(Missed::Busy | Missed::InFlight | Missed::Late)) {
                drain = (drain * 3 / 2).min(self.longest_drain());
                self.sleep(pause)?;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }

    fn longest_drain(&self) -> Duration {
        self.request.gate_timeout.mul_f32(DRAIN_PART)
    }

    fn sleep(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.control.check()?;
            std::thread::sleep(Duration::from_millis(10).min(time));
        }
        Ok(())
    }

    fn never_passed(&self, missed: Missed) -> Error {
        let inside = self.tracker.gate().slots().inside();
        let why = match missed {
            Missed::Failed(errno) => {
                return Error::new(
                    errno,
                    format!("reading the source inside the gate failed: {}", super::error::describe(errno)),
                );
            }
            Missed::Busy => {
                let who = inside.first().map_or(String::new(), |inside| {
                    format!(" (now thread {} in {}())", inside.tid, inside.call.to_string_lossy())
                });
                return Error::new(
                    libc::ETIMEDOUT,
                    format!(
                        "no instant was found to end the backup within {} s: there was always a call under way that \
                         took long{who}; set tokudb_backup_gate_timeout higher or try again at a quieter time",
                        GATE_PATIENCE.as_secs()
                    ),
                );
            }
            Missed::InFlight => "asynchronous writes were always in flight",
            Missed::TooMuch => "too much changed between the last pass and the gate",
            Missed::Names => "directories changed between the last pass and the gate",
            Missed::Late => "the time allowed by tokudb_backup_gate_timeout was too short",
            Missed::Hooks => "libraries kept being loaded",
        };
        Error::new(
            libc::ETIMEDOUT,
            format!(
                "no instant was found to end the backup within {} s: {why}; try again at a quieter time",
                GATE_PATIENCE.as_secs()
            ),
        )
    }

    /// One pass and one try of the gate.
    fn attempt(
        &mut self,
        arena: &mut Arena,
        watcher: &dyn Watcher,
        drain: Duration,
    ) -> Result<std::result::Result<Held, Missed>> {
        if !watcher.verify()? {
            return Ok(Err(Missed::Hooks));
        }
        watcher.reap();
        self.refuse_unseen()?;
        self.mark_unseen();
        self.pass(false)?;
        if self.state.tree.files.len() <= FEW_FILES {
            self.look_for_foreign_changes(watcher)?;
        }
        if self.pass(false)? > SMALL {
            return Ok(Err(Missed::TooMuch));
        }
        self.settle()?;
        self.check_fault()?;
        // Names once more: inside the gate only those of an instant are left. The files are read in there.
        for file in self.state.run()? {
            self.tracker.put_back(file.entry, None, Marks::empty());
        }
        self.wait_for_quiet_disk(watcher, Instant::now() + QUIET_DISK);
        let hold = Hold {
            tracker: self.tracker,
            state: &self.state,
            foreign: &self.foreign,
            bound: finish::gate_bound(self.request.gate_timeout),
            drain: drain.min(self.longest_drain()),
        };
        let reading = match hold.read(arena, watcher) {
            Ok(reading) => reading,
            Err(missed) => return Ok(Err(missed)),
        };
        if finish::compares() {
            self.report.files = finish::compare_in_gate(&mut self.state, arena, self.workers)?.files;
        }
        let held = reading.end_capture(arena);
        self.check_fault()?;
        Ok(held)
    }

    /// Files that are written without our seeing it are copied again before the gate, so that little is left to
    /// read inside it: all of small ones, what has been added to logs.
    fn mark_unseen(&self) {
        self.tracker.each_unseen(|key, how| {
            let Some(file) = self.state.tree.files.get(&key) else { return };
            let from = match *super::visit::lock(&file.seen) {
                Some(seen) if how == Unseen::Log => seen.size,
                _ => 0,
            };
            self.tracker.put_back(file.entry, Some(from..u64::MAX), Marks::empty());
        });
    }

    /// What is in flight is waited for inside the gate; less, when it is closed at a moment with nothing in flight. A
    /// busy server has no such moment.
    fn wait_for_quiet_disk(&self, watcher: &dyn Watcher, until: Instant) {
        while watcher.reap() != 0 && Instant::now() < until && !self.control.is_stopped() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Whether a call has been under way for longer than the gate would wait for it.
    fn somebody_stays_inside(&self, long: Duration) -> bool {
        let slots = self.tracker.gate().slots();
        let inside = slots.inside();
        if inside.is_empty() {
            return false;
        }
        std::thread::sleep(long);
        inside.iter().any(|seen| slots.is_still_inside(seen))
    }

    /// Files whose size or mtime moved without a mark are changed by others, or by means that we do not see (P25).
    fn look_for_foreign_changes(&mut self, watcher: &dyn Watcher) -> Result<()> {
        let mut moved = Vec::new();
        let mut path = Vec::with_capacity(libc::PATH_MAX as usize * 2);
        for (key, directory) in &self.state.tree.directories {
            let Some((root, below)) = self.state.tree.path_of_directory(*key, &mut path) else { continue };
            let Some(root) = self.state.tree.roots.get(root).filter(|root| root.key != *key) else {
                continue;
            };
            let known = (directory.stat.st_mtime, directory.stat.st_mtime_nsec);
            if let Ok(stat) = source::stat_name(root.fd.as_fd(), below)
                && source::key_of(&stat) == *key
                && (stat.st_mtime, stat.st_mtime_nsec) != known
            {
                self.tracker.put_back(directory.entry, None, Marks::NAMES | Marks::ATTRIBUTES);
            }
        }
        for directory in
            self.state.tree.roots.iter().filter_map(|root| self.state.tree.directories.get(&root.key))
        {
            self.tracker.put_back(directory.entry, None, Marks::NAMES | Marks::ATTRIBUTES);
        }
        for file in self.state.tree.files.values() {
            let Some(seen) = *super::visit::lock(&file.seen) else { continue };
            if file.entry.is_marked() || self.tracker.unseen_as(file.key).is_some() {
                continue;
            }
            let Some((directory, name)) = self.state.tree.ways(file.key).first() else { continue };
            let Some((root, below)) = self.state.tree.path_of_name(*directory, name, &mut path) else {
                continue;
            };
            let Some(root) = self.state.tree.roots.get(root) else { continue };
            if let Ok(stat) = source::stat_name(root.fd.as_fd(), below)
                && source::key_of(&stat) == file.key
                && !seen.is_like(&stat)
            {
                moved.push(file.clone());
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        // Whoever changed it may not have marked it yet: it is inside, or its write is in flight.
        if self.tracker.gate().slots().quiesce(Duration::from_secs(1)).is_err() {
            return Ok(());
        }
        watcher.reap();
        let mut in_flight = HashSet::new();
        if let Some(_pass) = self.tracker.pin(c"look for foreign changes") {
            self.tracker.in_flight().each(|_, stream| {
                stream.each_write(|write| {
                    in_flight.insert(write.key);
                })
            });
        }
        for file in moved {
            if !file.entry.is_marked() && !in_flight.contains(&file.key) {
                self.unseen.insert(self.state.tree.full_path_of(file.key));
                if !self.foreign.contains(&file.key) {
                    self.foreign.push(file.key);
                }
                self.tracker.put_back(file.entry, Some(0..u64::MAX), Marks::ATTRIBUTES | Marks::XATTRS);
            }
        }
        Ok(())
    }

    /// Files written through streams or mappings must be small enough to be read inside the gate (P24).
    fn refuse_unseen(&self) -> Result<()> {
        let mut mapped = Vec::new();
        self.tracker.each_unseen(|key, how| {
            if how != Unseen::Log
                && let Some(file) = self.state.tree.files.get(&key)
            {
                let size = super::visit::lock(&file.seen).map_or(0, |seen| seen.size);
                mapped.push((key, how, size));
            }
        });
        let total: u64 = mapped.iter().map(|(_, _, size)| size).sum();
        if total <= UNSEEN_BYTES {
            return Ok(());
        }
        let Some((key, how, size)) = mapped.into_iter().max_by_key(|(_, _, size)| *size) else {
            return Ok(());
        };
        let how = if how == Unseen::Mapped { "a writable memory mapping" } else { "a stdio stream" };
        Err(Error::new(
            libc::ENOTSUP,
            format!(
                "{} ({size} bytes) is written through {how}, which cannot be observed; have the server write it by \
                 ordinary calls (MariaDB: no redo log on /dev/shm or persistent memory), move it out of the data \
                 directory, or exclude it",
                self.state.tree.full_path_of(key).display()
            ),
        ))
    }
}

fn done(answer: super::control::Answer) -> Result<()> {
    match answer {
        super::control::Answer::Done(result) => result,
        super::control::Answer::Excluded(_) => Ok(()),
    }
}

/// Somebody does not come out of a call.
fn stuck(inside: Option<crate::tracker::Inside>) -> Error {
    let who = inside.map_or("a thread of the server".to_owned(), |inside| {
        format!("thread {} of the server has been in {}()", inside.tid, inside.call.to_string_lossy())
    });
    Error::new(
        libc::ETIMEDOUT,
        format!(
            "the backup could not end: {who} for {} s; see what it waits for and try again",
            GATE_PATIENCE.as_secs()
        ),
    )
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("report", &self.report).finish_non_exhaustive()
    }
}
