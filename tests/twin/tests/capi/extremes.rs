//! More, larger, faster and stranger than servers usually are; and nothing left to work with.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use twin::allocator;
use twin::library::c_string;
use twin::sys;

use crate::scene::{Given, Outcome, Scene, done, library, open, run};

const TIB: u64 = 1 << 40;

/// A file that is hardly there costs what is there: its image is as sparse, and what keeps track of it is small.
#[test]
fn a_tebibyte_of_holes() {
    let scene = Scene::new();
    let [empty, tail] = ["empty", "data at its end"].map(|name| open(&scene.file(name, b"")));
    empty.set_len(TIB).unwrap();
    tail.write_all_at(b"the end", TIB - 7).unwrap();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    scene.hot(|| {
        empty.write_all_at(b"the middle", TIB / 2).unwrap();
        tail.write_all_at(b"beyond the end", TIB + (5 << 20)).unwrap();
    });
    // The memory of the gate, and two bitmaps of a bit for 16 KiB, with a quarter to spare.
    let most = (32 << 20) + 2 * (TIB / 16384 / 8 * 5 / 4) + (64 << 20);
    let taken = memory("VmHWM:").saturating_sub(before);
    assert!(taken < most, "{taken} bytes of memory");
    for name in ["empty", "data at its end"] {
        let allocated = fs::metadata(scene.image().join(name)).unwrap().blocks() * 512;
        assert!(allocated < 1 << 20, "{name}: {allocated} bytes in the image");
    }
}

/// A number of /proc/self/status, bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Files change places as fast as threads can do it, before, at and after the instant: each is in the image, once,
/// under one of the names that it ever has.
#[test]
fn renames_without_end() {
    const THREADS: usize = 4;
    const FILES: usize = 25;
    let scene = Scene::new();
    let name = |thread: usize, file: usize| format!("{thread}-{file}");
    for (thread, file) in (0..THREADS).flat_map(|thread| (0..FILES).map(move |file| (thread, file))) {
        scene.file(&format!("a/{}", name(thread, file)), name(thread, file).as_bytes());
    }
    fs::create_dir(scene.at("b")).unwrap();
    let (stop, renames) = (AtomicBool::new(false), AtomicU64::new(0));
    library().throttle(0);
    let outcome = std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (scene, stop, renames) = (&scene, &stop, &renames);
            scope.spawn(move || {
                let ways: Vec<_> = (0..FILES)
                    .map(|file| ["a", "b"].map(|at| scene.c(&format!("{at}/{}", name(thread, file)))))
                    .collect();
                let swapped =
                    [scene.c(&format!("a/{}", name(thread, 0))), scene.c(&format!("a/{}", name(thread, 1)))];
                while !stop.load(Ordering::Relaxed) {
                    for [from, to] in &ways {
                        done(sys::rename(from, to));
                    }
                    for [to, from] in &ways {
                        done(sys::rename(from, to));
                    }
                    let [one, other] = &swapped;
                    done(sys::renameat2(libc::AT_FDCWD, one, libc::AT_FDCWD, other, libc::RENAME_EXCHANGE));
                    renames.fetch_add(2 * FILES as u64 + 1, Ordering::Relaxed);
                }
            });
        }
        let mut poll = |_: f32, text: &str| {
            if text != "Preparing backup" && renames.load(Ordering::Relaxed) > 30_000 {
                library().throttle(u64::MAX);
            }
            0
        };
        let given = &mut Given { poll: Some(&mut poll), ..Given::default() };
        let begin = std::time::Instant::now();
        let outcome = run(&[(&scene.source(), &scene.image())], given);
        stop.store(true, Ordering::Relaxed);
        let all = renames.load(Ordering::Relaxed);
        println!("{all} renames in {:?}", begin.elapsed());
        outcome
    });
    outcome.ok();
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for at in ["a", "b"] {
        for entry in fs::read_dir(scene.image().join(at)).unwrap() {
            let path = entry.unwrap().path();
            let content = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let twice = found.insert(content, name);
            assert_eq!(twice, None, "{} is a second copy", path.display());
        }
    }
    assert_eq!(found.len(), THREADS * FILES, "{found:?}");
    for (content, name) in found {
        let swapped = |name: &str| name.ends_with("-0") || name.ends_with("-1");
        let thread = |name: &str| name.split('-').next().map(str::to_owned);
        let may = content == name || swapped(&content) && swapped(&name) && thread(&content) == thread(&name);
        assert!(may, "{content} is called {name}");
    }
}

/// The same in a process of its own, in which source and image are compared while the gate is closed: renames that were
/// not seen may be found by the directories' times, but not all of those before the instant (P9).
#[test]
fn renames_without_end_are_all_seen() {
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "extremes::renames_without_end", "--nocapture"]);
    again.envs(["TOKUDB_BACKUP_TEST", "TOKUDB_BACKUP_TEST_IDENTITY"].map(|name| (name, "1")));
    let output = again.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

/// Names are bytes: as long as they may be, in no encoding, with newlines.
#[test]
fn names_of_any_bytes() {
    let scene = Scene::new();
    let longest = [b'l'; 255];
    let wild: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let names: [&[u8]; 5] = [&longest, &wild, b"two\nlines", b"\xff\xfe", b" "];
    let at = |name: &[u8]| scene.source().join(OsStr::from_bytes(name));
    for name in names {
        fs::write(at(name), name).unwrap();
    }
    let deep = at(&[b'd'; 255]).join(OsStr::from_bytes(&wild));
    fs::create_dir_all(&deep).unwrap();
    scene.hot(|| {
        for (number, name) in names.iter().enumerate() {
            open(&at(name)).write_all_at(b"changed", number as u64).unwrap();
            fs::rename(at(name), deep.join(OsStr::from_bytes(name))).unwrap();
            fs::write(at(name), b"another").unwrap();
        }
        std::os::unix::fs::symlink(OsStr::from_bytes(&longest), at(&[b's'; 255])).unwrap();
    });
    // An error tells of such a file as well as it can.
    let file = open(&at(b"two\nlines"));
    file.set_len(8 << 20).unwrap();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let number = crate::scene::fd(&file);
    let mapped = sys::mmap(std::ptr::null_mut(), 8 << 20, access, libc::MAP_SHARED, number, 0);
    scene.clear_image();
    let outcome = scene.backup();
    sys::munmap(mapped, 8 << 20);
    outcome.broken(libc::ENOTSUP, &["lines"]);
}

/// As a server with very many tables has them. In memory: it is the library that is looked at.
#[test]
fn a_hundred_thousand_files() {
    const DIRECTORIES: u32 = 4;
    const FILES: u32 = 25_000;
    let scene = Scene::in_directory(Path::new("/dev/shm"));
    for directory in 0..DIRECTORIES {
        fs::create_dir(scene.at(&format!("{directory}"))).unwrap();
        let directory = File::open(scene.at(&format!("{directory}"))).unwrap();
        for file in 0..FILES {
            let name = c_string(Path::new(&format!("table_{file}.frm")));
            let number =
                done(sys::openat(crate::scene::fd(&directory), &name, libc::O_CREAT | libc::O_RDWR, 0o600));
            if file % 1000 == 0 {
                assert_eq!(sys::write(number as i32, b"not empty".as_ptr().cast(), 9), 9);
            }
            sys::close(number as i32);
        }
    }
    let begin = std::time::Instant::now();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let outcome = scene.backup_with(|| {
        println!("copied after {:?}", begin.elapsed());
        open(&scene.at("1/table_24999.frm")).write_all_at(b"changed", 0).unwrap();
        fs::rename(scene.at("2/table_7.frm"), scene.at("3/new.frm")).unwrap();
        fs::remove_dir_all(scene.at("0")).unwrap();
    });
    println!("complete after {:?}", begin.elapsed());
    outcome.ok();
    let taken = memory("VmHWM:") - before;
    let files = u64::from(DIRECTORIES * FILES);
    println!("{taken} bytes of memory");
    // The memory of the gate, and so much for each file.
    assert!(taken < (48 << 20) + files * 1500, "{taken} bytes of memory");
    assert_eq!(scene.copy("1/table_24999.frm"), b"changed");
    assert!(scene.image().join("3/new.frm").exists());
    assert!(!scene.image().join("0").exists());
    for (directory, more) in [(1, 0), (2, -1), (3, 1)] {
        let count = fs::read_dir(scene.image().join(format!("{directory}"))).unwrap().count();
        assert_eq!(count as i64, i64::from(FILES) + more);
    }
}

/// What takes longer to list than it takes to change is not listed until it stands still.
#[test]
fn a_large_directory_that_never_stands_still() {
    let scene = Scene::in_directory(Path::new("/dev/shm"));
    for file in 0..20_000 {
        scene.file(&format!("large/table_{file:05}.ibd"), b"");
    }
    scene.file("large/one", b"renamed");
    let over = AtomicBool::new(false);
    let [one, other] = ["large/one", "large/other"].map(|name| scene.at(name));
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fs::rename(&one, &other).unwrap();
                fs::rename(&other, &one).unwrap();
                // Often enough: a listing takes some ten times as long.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let outcome = scene.backup();
        over.store(true, Ordering::Relaxed);
        outcome
    });
    outcome.ok();
    let names: Vec<_> = fs::read_dir(scene.image().join("large")).unwrap().flatten().collect();
    assert_eq!(names.len(), 20_001);
    let renamed = ["one", "other"].map(|name| fs::read(scene.image().join("large").join(name)));
    assert_eq!(renamed.into_iter().flatten().collect::<Vec<_>>(), [b"renamed"]);
}

/// A limit of this process, while it lives.
struct Limit {
    what: libc::__rlimit_resource_t,
    before: libc::rlimit,
}

impl Limit {
    fn new(what: libc::__rlimit_resource_t, most: u64) -> Self {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a constant and a place for a limit, or a limit.
        unsafe {
            done(libc::getrlimit(what, &mut before));
            done(libc::setrlimit(what, &libc::rlimit { rlim_cur: most, ..before }));
        }
        Limit { what, before }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // SAFETY: the limit that was there before.
        unsafe { libc::setrlimit(self.what, &self.before) };
    }
}

/// Threads of the library, and descriptors of this process. (Threads of other tests come and go; they wait.)
fn footprint() -> (usize, usize) {
    let is_ours = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("hotbackup"))
    };
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten().filter(is_ours).count();
    (threads, fs::read_dir("/proc/self/fd").unwrap().count())
}

/// The backup has failed for want of this, with this number and text, or there was enough; and it left nothing behind.
/// `before` becomes less when something of an earlier test was still there.
fn wants(scene: &Scene, before: &mut (usize, usize), outcome: &Outcome, errno: i32, text: &str) -> bool {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let mut after = footprint();
    while after.0 > before.0 || after.1 > before.1 {
        assert!(std::time::Instant::now() < end, "left behind: {before:?} before, {after:?} after");
        std::thread::yield_now();
        after = footprint();
    }
    *before = after;
    if outcome.value == 0 {
        scene.same();
    } else {
        assert_eq!(outcome.errors.len(), 1, "{outcome:?}");
        assert_eq!((outcome.value, outcome.errors[0].0), (errno, errno), "{outcome:?}");
        assert!(outcome.errors[0].1.contains(text), "{outcome:?}");
    }
    scene.clear_image();
    outcome.value != 0
}

/// However few descriptors are left, from the beginning or all of a sudden at any of the backup's polls.
#[test]
fn no_descriptors_left() {
    const WANTED: u64 = 64;
    let scene = Scene::new();
    for number in 0..20 {
        scene.file(&format!("d{number}/e/file"), b"content");
    }
    let mut before = footprint();
    for room in [0, 1, WANTED / 2, WANTED - 1] {
        let limit = Limit::new(libc::RLIMIT_NOFILE, before.1 as u64 - 1 + room);
        let outcome = scene.backup();
        drop(limit);
        assert!(wants(&scene, &mut before, &outcome, libc::EMFILE, "(24)"), "{outcome:?}");
    }
    let mut failed = 0;
    let mut number = 0;
    loop {
        let (mut polls, mut limit) = (0, None);
        let mut poll = |_: f32, _: &str| {
            if polls == number {
                let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
                limit = Some(Limit::new(libc::RLIMIT_NOFILE, open + number % 3));
            }
            polls += 1;
            0
        };
        let outcome = run(
            &[(&scene.source(), &scene.image())],
            &mut Given { poll: Some(&mut poll), ..Given::default() },
        );
        let limited = limit.take().is_some();
        failed += u32::from(wants(&scene, &mut before, &outcome, libc::EMFILE, "(24)"));
        if !limited {
            break;
        }
        number += 1;
    }
    println!("{failed} of {number} failed");
    assert!(failed > 0, "{number} polls");
    scene.backup().ok();
    scene.same();
}

/// Whatever is large may be refused: the backup fails, the program lives, and the next one works.
#[test]
fn no_memory_left() {
    const LARGE: usize = 16 << 10;
    let scene = Scene::new();
    for number in 0..700 {
        scene.file(&format!("directory/file {number}"), b"");
    }
    scene.file("large", &vec![1; 3 << 20]);
    // What is made once and stays.
    scene.backup().ok();
    scene.clear_image();
    let mut before = footprint();
    let mut count = 0;
    loop {
        allocator::refuse_after(count, LARGE);
        let outcome = scene.backup();
        let refused = allocator::serve();
        let failed = wants(&scene, &mut before, &outcome, libc::ENOMEM, "memory");
        if !refused {
            assert!(!failed, "{outcome:?}");
            println!("{count} large allocations");
            assert!(count > 10, "only {count} large allocations");
            break;
        }
        count += 1 + count / 8;
    }
}
