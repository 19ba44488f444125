//! One round: a tree, a program of several threads on it, backups one after the other.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::allocator;
use crate::arguments::Shape;
use crate::bystanders::Bystanders;
use crate::compare;
use crate::library::{Callbacks, Library};
use crate::ops::{Table, ledger};
use crate::rng::Rng;
use crate::shared::{Ledger, Pause, Shared, Stats};
use crate::sys;
use crate::worker::Worker;
use crate::world::World;

/// Differences that are told.
const TOLD: usize = 12;

/// Operations of each thread between two backups.
const ALONE: u64 = 200;

/// What does not change from round to round.
pub struct Program<'a> {
    /// The library under test.
    pub library: Library,
    /// The operations to choose from.
    pub table: &'a Table,
    /// What they did.
    pub stats: &'a Stats,
    /// Where sources are made: the working directory.
    pub base: PathBuf,
    /// Where images are made.
    pub images: PathBuf,
    /// Copies of the object that is loaded late.
    pub late: Vec<PathBuf>,
    /// See [`crate::arguments::Arguments`].
    pub seed: u64,
    /// See [`crate::arguments::Arguments`].
    pub shape: Shape,
    /// Where the program is, for whoever watches it: rounds begun and ended.
    pub pulse: AtomicU64,
    /// Backups that ended well.
    pub backups: AtomicU64,
}

/// How a backup of a round goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The threads go on throughout.
    Storm,
    /// The threads stand still from `before_stop_capt_fun` on, and the trees are compared.
    Still,
    /// `poll_fun` ends it at its n-th call, with this value.
    Aborted(u64, i32),
}

impl Program<'_> {
    /// Runs a round; what went wrong is told in one text.
    pub fn round(&self, number: u64) -> Result<(), String> {
        let mut rng = Rng::of(&[self.seed, number, u64::MAX]);
        let sources = *rng.pick(&[1, 1, 2, 3]);
        let world = World::create(&self.base, self.shape.sources.unwrap_or(sources), self.shape.flat)
            .map_err(|error| cannot("make", error))?;
        ledger::prepare(&world.sources, self.shape.threads + 1).map_err(|error| cannot("make", error))?;
        let descriptors = self.open_common_files(&world)?;
        let shared = Shared {
            world,
            stats: self.stats,
            descriptors,
            late: self.late.clone(),
            ledgers: (0..self.shape.threads + 1).map(|_| Ledger::default()).collect(),
            current: (0..self.shape.threads + 1).map(|_| AtomicUsize::new(usize::MAX)).collect(),
            pause: Pause::default(),
            calm: AtomicU64::new(1),
            allowed: AtomicU64::new(self.shape.operations.map_or(u64::MAX, |_| 0)),
            unseen: AtomicBool::new(true),
            over: AtomicBool::new(false),
            failures: Mutex::default(),
        };
        // The thread that takes the backups has a stream of its own.
        let mut worker = Worker::new(&shared, self.shape.threads, number);
        for count in 0..self.shape.operations.unwrap_or(400).min(400) {
            worker.step(self.table, &mut Rng::of(&[self.seed, number, u64::MAX - 1, count]));
        }
        let bystanders = Bystanders::start(rng.one_in(4));
        let outcome = std::thread::scope(|scope| {
            for id in 0..self.shape.threads {
                let shared = &shared;
                scope.spawn(move || {
                    let mut worker = Worker::new(shared, id, number);
                    allocator::watch();
                    worker.run(self.table, self.seed, number);
                });
            }
            let outcome = self.backups(&shared, &mut rng, &mut worker);
            shared.over.store(true, Ordering::SeqCst);
            outcome
        });
        drop(bystanders);
        drop(worker);
        for fd in &shared.descriptors {
            sys::close(*fd);
        }
        outcome?;
        let allocated = allocator::noticed();
        if allocated != 0 {
            return Err(format!("hooks have allocated {allocated} bytes"));
        }
        let failures = shared.failures.lock().expect("no panics while held").join("; ");
        if !failures.is_empty() {
            return Err(failures);
        }
        self.remove_images()?;
        shared.world.remove().map_err(|error| cannot("remove", error))
    }

    /// Files that all threads write through the same descriptors (P7).
    fn open_common_files(&self, world: &World) -> Result<Vec<i32>, String> {
        let flags = [libc::O_RDWR, libc::O_RDWR, libc::O_WRONLY | libc::O_APPEND];
        let open = |(index, flags): (usize, i32)| {
            let path = crate::library::c_string(&world.sources[0].join(format!("f{index}")));
            sys::check(sys::open(&path, flags | libc::O_CREAT | libc::O_CLOEXEC, 0o644))
        };
        let opened: Result<Vec<i32>, i32> = flags.into_iter().enumerate().map(open).collect();
        opened.map_err(|errno| cannot("open", io::Error::from_raw_os_error(errno)))
    }

    fn backups(&self, shared: &Shared<'_>, rng: &mut Rng, worker: &mut Worker<'_>) -> Result<(), String> {
        for count in 0..2 + rng.below(2) {
            let kind = match rng.below(8) {
                _ if self.shape.storm => Kind::Storm,
                0 => Kind::Aborted(rng.below(4), 1 + rng.below(200) as i32),
                1..4 => Kind::Storm,
                _ => Kind::Still,
            };
            let excluding = rng.one_in(4);
            let result = self.backup(shared, kind, excluding, worker, rng);
            self.pulse.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = result {
                let excluding = if excluding { ", x0 excluded" } else { "" };
                return Err(format!("backup {count} ({kind:?}{excluding}): {error}"));
            }
        }
        Ok(())
    }

    fn images(&self, shared: &Shared<'_>) -> Vec<PathBuf> {
        (0..shared.world.sources.len()).map(|index| self.images.join(format!("image{index}"))).collect()
    }

    fn remove_images(&self) -> Result<(), String> {
        for index in 0..4 {
            match fs::remove_dir_all(self.images.join(format!("image{index}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot("remove", error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn backup(
        &self,
        shared: &Shared<'_>,
        kind: Kind,
        excluding: bool,
        worker: &mut Worker<'_>,
        rng: &mut Rng,
    ) -> Result<(), String> {
        self.remove_images()?;
        let images = self.images(shared);
        for image in &images {
            fs::create_dir(image).map_err(|error| cannot("make", error))?;
        }
        let pairs: Vec<(&Path, &Path)> = shared
            .world
            .sources
            .iter()
            .map(PathBuf::as_path)
            .zip(images.iter().map(PathBuf::as_path))
            .collect();
        let errors = RefCell::new(Vec::new());
        let wrong = RefCell::new(Vec::new());
        let (polls, progress) = (Cell::new(0), Cell::new(0.0));
        let (before, after) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let standing = Cell::new(false);
        let callbacks = Callbacks {
            poll: Some(Box::new(|part, text| {
                if !(progress.get()..=1.0).contains(&part) {
                    wrong.borrow_mut().push(format!("progress went from {} to {part}", progress.get()));
                }
                let text = text.to_string_lossy();
                if text != "Preparing backup" && !text.starts_with("Backup progress ") {
                    wrong.borrow_mut().push(format!("an unknown text of progress: {text}"));
                }
                progress.set(part);
                // Ten times a second.
                shared.calm.store(1 + polls.get() / 10, Ordering::Relaxed);
                polls.set(polls.get() + 1);
                match kind {
                    Kind::Aborted(at, value) if polls.get() > at => value,
                    _ => 0,
                }
            })),
            error: Some(Box::new(|number, text| {
                errors.borrow_mut().push(format!("{number} {}", text.to_string_lossy()))
            })),
            exclude: excluding.then(|| {
                let exclude: Box<dyn FnMut(&Path) -> bool> = Box::new(|path| {
                    if !shared.world.sources.iter().any(|source| path.starts_with(source)) {
                        wrong.borrow_mut().push(format!("exclude was asked for {}", path.display()));
                    }
                    path.file_name().is_some_and(|name| name == "x0")
                });
                exclude
            }),
            before_stop: Some(Box::new(|| {
                if kind == Kind::Still {
                    shared.pause.stop(self.shape.threads);
                    standing.set(true);
                    // What is written in here is in the image.
                    for _ in 0..rng.below(200) {
                        worker.step(self.table, &mut rng.clone());
                        rng.next();
                    }
                    worker.settle();
                }
                let done = shared.ledgers.iter().map(|ledger| ledger.done.load(Ordering::SeqCst));
                before.borrow_mut().push(done.collect::<Vec<u64>>());
            })),
            after_stop: Some(Box::new(|| {
                let begun = shared.ledgers.iter().map(|ledger| ledger.begun.load(Ordering::SeqCst));
                after.borrow_mut().push(begun.collect::<Vec<u64>>());
            })),
        };
        self.let_run(shared);
        if kind != Kind::Still {
            shared.pause.stop(self.shape.threads);
            shared.unseen.store(false, Ordering::SeqCst);
            shared.pause.go_on();
        }
        if let Some(operations) = self.shape.operations {
            shared.allowed.fetch_add(operations, Ordering::Relaxed);
        }
        let value = self.library.backup(&pairs, callbacks);
        shared.unseen.store(true, Ordering::SeqCst);
        shared.calm.store(1, Ordering::Relaxed);
        let compared =
            if standing.get() && value == 0 { self.compare(&pairs, excluding) } else { Vec::new() };
        if standing.get() {
            shared.pause.go_on();
        }
        let (errors, wrong) = (errors.into_inner(), wrong.into_inner());
        let (before, after) = (before.into_inner(), after.into_inner());
        let errors_text = errors.join(" / ");
        if let Kind::Aborted(_, wanted) = kind
            && value == wanted
            && errors == [format!("{wanted} User aborted backup")]
            && before.len() == after.len()
        {
            return if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) };
        }
        if value != 0 || !errors.is_empty() {
            return Err(format!("returned {value}, {} error call(s): {errors_text}", errors.len()));
        }
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        if before.len() != 1 || after.len() != 1 {
            return Err(format!("stop callbacks were called {} and {} times", before.len(), after.len()));
        }
        if !compared.is_empty() {
            return Err(format!("source and image differ: {}", compared.join("; ")));
        }
        self.check_ledgers(&images, &before[0], &after[0])?;
        self.backups.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Between two backups the program runs on its own for a while.
    fn let_run(&self, shared: &Shared<'_>) {
        let patience = Instant::now() + Duration::from_secs(2);
        let enough = shared.stats.total() + ALONE * self.shape.threads as u64;
        let unbounded = self.shape.operations.is_none();
        while unbounded && shared.stats.total() < enough && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn compare(&self, pairs: &[(&Path, &Path)], excluding: bool) -> Vec<String> {
        let excluded = |name: &Path| excluding && name.file_name().is_some_and(|name| name == "x0");
        pairs
            .iter()
            .flat_map(|(source, image)| {
                let tell =
                    |what: String| format!("{}{what}", source.file_name().unwrap_or_default().display());
                compare::differences(source, image, &excluded, TOLD).into_iter().map(tell).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Each thread's two numbers belong to one instant, and that lies where it should.
    fn check_ledgers(&self, images: &[PathBuf], before: &[u64], after: &[u64]) -> Result<(), String> {
        for thread in 0..=self.shape.threads {
            let [first, second] = ledger::read(images, thread);
            if first != second && first != second + 1 {
                return Err(format!("the image is torn: ledger {thread} is {first} and then {second}"));
            }
            if second < before[thread] || first > after[thread] {
                return Err(format!(
                    "the image is of another time: ledger {thread} is {first} and {second}, not within {} (written \
                     before the end) and {} (begun after it)",
                    before[thread], after[thread]
                ));
            }
        }
        Ok(())
    }
}

fn cannot(what: &str, error: io::Error) -> String {
    format!("the test itself cannot {what} its files: {error}")
}

/// How long a round may take before the program is thought to hang.
pub const PATIENCE: Duration = Duration::from_secs(180);
