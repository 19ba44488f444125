//! Every call that a destination gets fails once, in each way that it can: a program that writes all the time, a backup
//! of it to a file system whose n-th call fails, for n = 1, 2, 3, ... until a backup was over before that.
//!
//! Each time: the backup reports that error, or its image is right; the program's own calls neither fail nor wait; the
//! next backup works; threads, descriptors and memory are what they were.
//!
//! `cargo xtask faults` does it for every n, or every `FAULTS_STRIDE`-th.

mod program;
mod volumes;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use faulty::{Fault, Faulty};
use program::{Holds, Outcome, PATIENCE, Program, be_the_program};
use twin::compare;

/// A call of the program's own may take this long, on a busy machine; the gate's bound is 100 ms.
const LONGEST: Duration = Duration::from_secs(10);
/// A backup that is ended returns within this time, on a busy machine; what is promised is a second.
const SOON: Duration = Duration::from_secs(20);
/// A sweep may leave this much more memory in use, KiB; a backup alone reserves 32 MiB.
const MORE: u64 = 24 << 10;

/// Whatever else is in an image, it is not what it should be when one of these has failed.
const MATTER: [&str; 11] = [
    "\"Create",
    "\"Write",
    "\"Fallocate",
    "\"Setattr",
    "\"Setxattr",
    "\"Sync",
    "\"Flush",
    "\"Rename",
    "\"Link",
    "\"Symlink",
    "\"Mkdir",
];

/// Memory and time are shared: one sweep at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A program, and where its backups go.
struct Bench {
    // Dropped first: it writes into the scratch directory.
    program: Program,
    scratch: Scratch,
    behind: PathBuf,
    at: PathBuf,
    before: Holds,
    _alone: MutexGuard<'static, ()>,
}

/// A directory that is removed in the end, unless the test has failed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

impl Bench {
    /// None where nothing can be mounted, because we are not root.
    fn new() -> Option<Bench> {
        be_the_program();
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let test = std::thread::current().name().unwrap().to_owned();
        let scratch =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}-{test}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let scratch = Scratch(scratch.canonicalize().unwrap());
        let [behind, at] = ["behind", "at"].map(|name| scratch.0.join(name));
        [&behind, &at].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let program = Program::start(&scratch.0, &test);
        let before = Holds { threads: usize::MAX, descriptors: usize::MAX };
        let mut bench = Bench { program, scratch, behind, at, before, _alone: alone };
        for _ in 0..3 {
            bench.recovers("before anything failed");
        }
        bench.before = bench.program.holds();
        Some(bench)
    }

    /// A fresh file system, with an empty directory for the image in it.
    fn mount(&self) -> Faulty {
        let image = self.behind.join("image");
        if image.exists() {
            fs::remove_dir_all(&image).unwrap();
        }
        fs::create_dir(&image).unwrap();
        Faulty::mount(&self.behind, &self.at).unwrap()
    }

    /// What stood still is in the image as it is in the source.
    #[track_caller]
    fn same(&self, image: &Path, what: &str) {
        let source = self.program.source.join("still");
        let found = compare::differences(&source, &image.join("still"), &|_| false, 20);
        assert!(found.is_empty(), "{what}: {}", found.join("\n"));
    }

    /// The next backup works, nothing is left of the last one, and the program was never held up.
    fn recovers(&mut self, what: &str) {
        let image = self.scratch.0.join("well");
        fs::create_dir(&image).unwrap();
        let outcome = self.program.back_up(&image);
        assert_eq!(outcome.value, 0, "the next backup fails: {outcome:?} after {what}");
        self.same(&image, what);
        fs::remove_dir_all(&image).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.program.holds();
            if now.threads <= self.before.threads && now.descriptors <= self.before.descriptors {
                break;
            }
            assert!(Instant::now() < until, "left behind: {now:?}, not {:?} after {what}", self.before);
            std::thread::sleep(Duration::from_millis(1));
        }
        let count = self.program.count();
        assert!(count.longest < LONGEST, "a call took {:?} during {what}", count.longest);
    }

    /// Its own calls go on, now.
    fn goes_on(&mut self) {
        let before = self.program.count().writes;
        let until = Instant::now() + PATIENCE;
        while self.program.count().writes < before + 20 {
            assert!(Instant::now() < until, "the program hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A backup of which the n-th call fails. Tells what that was.
    fn fails(&mut self, n: u64, fault: Fault) -> Option<String> {
        let faulty = self.mount();
        faulty.arm_nth(n, fault);
        let image = self.at.join("image");
        let outcome = self.program.back_up(&image);
        let struck = faulty.struck();
        drop(faulty);
        let what = format!("{fault:?} at call {n}, {struck:?}: {outcome:?}");
        match (&struck, outcome.value, fault) {
            (_, 0, _) => {
                let matters = matches!(fault, Fault::Fails(_)) && MATTER.iter().any(|op| what.contains(op));
                assert!(!matters, "an error was swallowed: {what}");
                self.same(&self.behind.join("image"), &what);
            }
            (Some(_), _, Fault::Fails(errno)) => {
                failed(&outcome, errno, &image, &what);
            }
            // What was under way when it went away ends with ECONNABORTED.
            (Some(_), value, Fault::Dies) => {
                assert!([libc::ENOTCONN, libc::ECONNABORTED, libc::ENOENT].contains(&value), "{what}");
                assert!(outcome.message.contains(image.to_str().unwrap()), "{what}");
            }
            _ => panic!("{what}"),
        }
        self.recovers(&what);
        struck
    }

    /// A backup of which the n-th call hangs until the backup was ended. Tells what that was, and whether the library
    /// was busy until it came back.
    fn hangs(&mut self, n: u64) -> Option<(String, bool)> {
        let faulty = self.mount();
        faulty.arm_nth(n, Fault::Hangs);
        let image = self.at.join("image");
        self.program.begin(&image);
        let mut outcome: Option<Outcome> = None;
        let held = faulty.wait_held(PATIENCE, || {
            outcome = self.program.outcome_within(Duration::ZERO);
            outcome.is_some()
        });
        if !held {
            assert_eq!(outcome.as_ref().map(|outcome| outcome.value), Some(0), "{outcome:?}");
            return None;
        }
        let what = format!("call {n} hangs, {:?}", faulty.struck());
        self.goes_on();
        let mut busy = false;
        // Arguments are looked at by the thread that calls, which nothing can end.
        if self.program.count().polled {
            self.program.kill();
            let outcome = outcome.or_else(|| self.program.outcome_within(SOON));
            let outcome = outcome.unwrap_or_else(|| panic!("it cannot be ended: {what}"));
            assert!(faulty.held() > 0, "it was not the one that hung: {what}");
            // Nobody waits for some calls: it may have been over.
            assert!([0, libc::EINTR].contains(&outcome.value), "{outcome:?}, {what}");
            self.goes_on();
            let next = self.scratch.0.join("next");
            fs::create_dir(&next).unwrap();
            let outcome = self.program.back_up(&next);
            assert!([0, libc::EBUSY].contains(&outcome.value), "{outcome:?}, {what}");
            busy = outcome.value == libc::EBUSY;
            fs::remove_dir_all(&next).unwrap();
            faulty.release();
        } else {
            faulty.release();
            let outcome = outcome.or_else(|| self.program.outcome_within(PATIENCE)).unwrap();
            assert_eq!(outcome.value, 0, "{outcome:?}, {what}");
        }
        // Until it has come back.
        let until = Instant::now() + PATIENCE;
        while self.program.holds().threads > self.before.threads {
            assert!(Instant::now() < until, "threads are left: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.recovers(&what);
        faulty.struck().map(|struck| (struck, busy))
    }
}

/// It says what has failed and where.
#[track_caller]
fn failed(outcome: &Outcome, errno: i32, image: &Path, what: &str) {
    assert_eq!(outcome.value, errno, "{what}");
    let cause = std::io::Error::from_raw_os_error(errno).to_string();
    assert!(outcome.message.contains(cause.split(" (").next().unwrap()), "{what}");
    assert!(outcome.message.contains(image.to_str().unwrap()), "{what}");
}

/// Every how manieth call fails.
fn stride(usual: u64) -> u64 {
    std::env::var("FAULTS_STRIDE").map_or(usual, |stride| stride.parse().unwrap())
}

/// `fails` for each n, until it tells that nothing did.
fn sweep(name: &str, stride: u64, fails: impl FnMut(&mut Bench, u64) -> bool) {
    sweep_from(1, name, stride, fails);
}

/// The same, but each of the first calls.
fn sweep_from(each: u64, name: &str, stride: u64, mut fails: impl FnMut(&mut Bench, u64) -> bool) {
    let Some(mut bench) = Bench::new() else { return };
    let begun = Instant::now();
    let (mut swept, mut n, mut memory) = (0, 1, u64::MAX);
    while fails(&mut bench, n) {
        swept += 1;
        n += if n < each { 1 } else { stride };
        // By then, allocators have what they keep.
        if swept == 5 {
            memory = bench.program.memory();
        }
    }
    let (more, time) = (bench.program.memory().saturating_sub(memory), begun.elapsed().as_secs_f64());
    assert!(swept > 0, "no call has failed");
    println!("{name}: {swept} of {} calls, {time:.1} s, {more} KiB more", n - 1);
    assert!(more < MORE, "{more} KiB were left in memory by {swept} backups");
}

fn errors(name: &str, fault: Fault, usual: u64) {
    sweep(name, stride(usual), |bench, n| bench.fails(n, fault).is_some());
}

#[test]
fn eio() {
    errors("EIO", Fault::Fails(libc::EIO), 9);
}

#[test]
fn enospc() {
    errors("ENOSPC", Fault::Fails(libc::ENOSPC), 19);
}

#[test]
fn edquot() {
    errors("EDQUOT", Fault::Fails(libc::EDQUOT), 29);
}

#[test]
fn erofs() {
    errors("EROFS", Fault::Fails(libc::EROFS), 29);
}

#[test]
fn eacces() {
    errors("EACCES", Fault::Fails(libc::EACCES), 29);
}

/// A part of a write is written; the rest must follow.
#[test]
fn short_writes() {
    sweep("short", 1, |bench, n| bench.fails(n, Fault::Short).is_some());
}

#[test]
fn gone() {
    errors("gone", Fault::Dies, 19);
}

#[test]
fn hanging() {
    let (mut hung, mut busy) = (0, 0);
    // Of the first ones each: then the caller's own thread may be the one that waits.
    sweep_from(12, "hanging", stride(29), |bench, n| {
        let told = bench.hangs(n);
        hung += u32::from(told.is_some());
        busy += u32::from(told.as_ref().is_some_and(|(_, busy)| *busy));
        told.is_some()
    });
    assert!(busy > 3, "of {hung} hanging calls only {busy} kept the library busy");
}
