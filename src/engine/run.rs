//! The course of a backup: first pass, converging passes, gate, the rest.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::control::{Control, Question};
use super::error::{Error, Result};
use super::finish;
use super::hold::{Arena, Watcher};
use super::progress::{PROGRESS, Phase};
use super::reconcile::Reconciler;
use super::source::{self, Root};
use super::store::Store;
use super::throttle;
use super::tree::{File, Tree};
use super::workers::Workers;
use crate::backup::{Report, Request};
use crate::tracker::{Key, Tracker};

/// The gate is tried when a pass has copied no more than this: a quarter of what is read inside at most (P19).
pub(super) const SMALL: u64 = 8 << 20;
/// A pass that has copied no more than this need not be followed by another one.
const TINY: u64 = 256 << 10;
/// Requests on libaio contexts from before capture count as in flight until so long after its start; the kernel does
/// not tell. A short backup waits for that before DDL is held off.
const OLDER: Duration = Duration::from_millis(1100);
/// The gate must be passed within this time once it is tried first.
pub(super) const GATE_PATIENCE: Duration = Duration::from_secs(60);
/// Passes that do not get smaller before the backup fails.
const PASSES: u32 = 1000;

/// One backup under way.
pub struct Engine<'a> {
    pub(super) request: &'a Request,
    began: Instant,
    pub(super) control: &'a Arc<Control>,
    pub(super) tracker: &'static Tracker,
    pub(super) workers: &'a Workers,
    pub(super) state: Reconciler,
    outgrown: Vec<Arc<File>>,
    pub(super) foreign: Vec<Key>,
    pub(super) unseen: HashSet<PathBuf>,
    pub(super) report: Report,
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
        roots.push(Root {
            path: source.path.clone(),
            fd,
            key: source::key_of(&stat),
            members: source.members.clone(),
        });
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
    let is_ours = |path: &Path| roots.iter().any(|root| root.members.hold(&root.path, path));
    while let Some(directory) = open.pop() {
        control.check()?;
        // What cannot be read is reported when it is listed.
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && is_ours(&entry.path())
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

    pub(super) fn enter(&self, phase: Phase) {
        PROGRESS.set_phase(phase);
        self.control.ring();
    }

    /// Everything up to a durable image.
    pub fn run(mut self, watcher: &dyn Watcher) -> Result<Report> {
        // What is refused by the sources alone leaves nothing in the destination.
        self.state.add_roots()?;
        self.open_images()?;
        self.enter(Phase::Copying);
        watcher.review_unseen()?;
        self.pass(true)?;
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
        self.wait_for_streams(watcher)?;
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
            frame.complete(&report)?;
            if shared.control.complete() {
                return Ok(());
            }
            frame.revoke();
            Err(shared.control.cause())
        });
        match completed {
            Err(error) if self.control.give_up() => Err(error),
            // Ended when it was complete already.
            _ => Ok(self.report),
        }
    }

    fn open_images(&self) -> Result<()> {
        let frame = self.request.frame.clone();
        self.workers.run(move |shared| {
            let stores = frame.begin()?.into_iter().map(Store::create).collect::<Result<Vec<_>>>()?;
            let _ = shared.stores.set(stores);
            Ok(())
        })
    }

    /// One pass: names, then every file with marks. Returns the bytes that were copied.
    pub(super) fn pass(&mut self, first: bool) -> Result<u64> {
        self.settle()?;
        self.check_fault()?;
        self.report.passes += 1;
        let before = self.workers.shared().copied.load(Ordering::Relaxed);
        let files = self.state.run()?;
        if first {
            self.refuse_mapped()?;
        }
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
    pub(super) fn settle(&mut self) -> Result<()> {
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

    pub(super) fn check_fault(&self) -> Result<()> {
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
