//! What others put in the way: in the destination, while an image is written, and in the source.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use twin::library::c_string;
use twin::sys;

use crate::scene::{Given, Outcome, Scene, done, run};

/// What nobody may touch: the content of every file below, and what the kernel says of each.
fn everything(root: &Path) -> BTreeMap<PathBuf, (u64, u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (meta.ino(), meta.mode(), meta.ctime(), meta.ctime_nsec(), content));
    }
    found
}

/// Another process that does something to the destination over and over.
struct Attacker(libc::pid_t);

impl Attacker {
    /// `act` runs between fork and the end of the process: system calls only.
    fn new(act: impl Fn()) -> Attacker {
        // SAFETY: the child makes system calls on memory that was made ready before, and nothing else.
        let child = done(unsafe { libc::fork() }) as libc::pid_t;
        if child == 0 {
            // SAFETY: constants; it ends with its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            loop {
                act();
            }
        }
        Attacker(child)
    }

    /// Exchanges two names in a tight loop.
    fn swapping(one: &Path, other: &Path) -> Attacker {
        let (one, other) = (c_string(one), c_string(other));
        Attacker::new(move || exchange(&one, &other))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // SAFETY: a child of ours, which nobody else waits for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn exchange(one: &CString, other: &CString) {
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: C strings; that one of them is not there yet is no harm.
    unsafe { libc::syscall(libc::SYS_renameat2, here, one.as_ptr(), here, other.as_ptr(), flags) };
}

fn outside(scene: &Scene) -> PathBuf {
    let outside = scene.base.join("outside");
    fs::create_dir_all(outside.join("d/e")).unwrap();
    for name in ["1", "d/f0", "d/e/f0", "d/e/precious"] {
        fs::write(outside.join(name), b"precious").unwrap();
    }
    outside
}

/// Fails the test when the backup ended in another way than it may among attackers.
#[track_caller]
fn well_ended(outcome: &Outcome) {
    let known = [0, libc::ELOOP, libc::ENOENT, libc::ENOTDIR, libc::EEXIST, libc::ENOTEMPTY];
    assert!(known.contains(&outcome.value), "{outcome:?}");
}

/// Every file of the source is in the image; the directories' times are the attacker's.
#[track_caller]
fn same_content(scene: &Scene) {
    for (path, (.., content)) in everything(&scene.source()) {
        let name = path.strip_prefix(scene.source()).unwrap().to_str().unwrap();
        if path.is_file() && !path.is_symlink() {
            assert!(scene.copy(name) == content, "{name}");
        }
    }
}

/// Who waits longer than this waits for ever.
const PATIENCE: Duration = Duration::from_secs(80);

/// Rounds of each attack.
const ROUNDS: usize = 12;

#[test]
fn directories_of_the_image_are_swapped_for_links() {
    let scene = Scene::new();
    for number in 0..20 {
        scene.file(&format!("d/f{number}"), &vec![7; 5000]);
        scene.file(&format!("d/e/f{number}"), &vec![7; 5000]);
        // The first name is in d/e, which a second one is made from.
        fs::hard_link(scene.at(&format!("d/e/f{number}")), scene.at(&format!("z{number}"))).unwrap();
    }
    symlink("f0", scene.at("d/link")).unwrap();
    let outside = outside(&scene);
    let before = everything(&outside);
    let mut met = 0;
    for (target, led) in
        [("", ""), (".tokudb_backup.store", ""), ("d", "d"), ("d/e", "d/e"), ("d/f0", "1"), ("d/link", "1")]
    {
        for round in 0..ROUNDS {
            let target = if target.is_empty() { scene.image() } else { scene.image().join(target) };
            let link = scene.base.join("link");
            let _ = fs::remove_file(&link);
            symlink(outside.join(led), &link).unwrap();
            // The image itself is what its path leads to when the backup begins; from then on it is held.
            let begun = target == scene.image();
            let mut attacker = (!begun).then(|| Attacker::swapping(&target, &link));
            let outcome = run(
                &[(&scene.source(), &scene.image())],
                &mut Given {
                    exclude: Some(&mut |_| {
                        attacker.get_or_insert_with(|| Attacker::swapping(&target, &link));
                        false
                    }),
                    ..Given::default()
                },
            );
            drop(attacker);
            let swapped = target.is_symlink();
            if swapped {
                exchange(&c_string(&target), &c_string(&link));
            }
            assert_eq!(everything(&outside), before, "{target:?}, round {round}: {outcome:?}");
            well_ended(&outcome);
            met += u32::from(swapped || outcome.value != 0);
            if outcome.value == 0 {
                same_content(&scene);
            }
            scene.clear_image();
            for left in [&target, &link] {
                let _ = fs::remove_dir_all(left);
            }
            fs::create_dir_all(scene.image()).unwrap();
        }
    }
    assert!(met > 0, "no attack met a backup");
}

/// Names that the backup is about to make are there already: links, second names of files, FIFOs.
#[test]
fn what_is_planted_in_the_store_is_not_written_to() {
    let scene = Scene::new();
    let file = scene.file("a", &vec![7; 5000]);
    let outside = outside(&scene);
    let victim = outside.join("1");
    let store = scene.image().join(".tokudb_backup.store");
    let plants: [&dyn Fn(&Path); 4] = [
        &|at| symlink(&victim, at).unwrap(),
        &|at| fs::hard_link(&victim, at).unwrap(),
        &|at| assert_eq!(done(sys::mkfifo(&c_string(at), 0o666)), 0),
        &|at| fs::create_dir(at).unwrap(),
    ];
    for plant in plants {
        // In the place of the file that was made already, and of one that is still to be made.
        for new in [false, true] {
            let before = fs::read(&victim).unwrap();
            let outcome = scene.backup_with(|| {
                let numbers = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name());
                let last = numbers.map(|name| name.to_str().unwrap().parse::<u64>().unwrap()).max().unwrap();
                if new {
                    plant(&store.join((last + 1).to_string()));
                    scene.file("new", b"new");
                } else {
                    fs::remove_file(store.join(last.to_string())).unwrap();
                    plant(&store.join(last.to_string()));
                    fs::OpenOptions::new().append(true).open(&file).unwrap().set_len(6000).unwrap();
                }
            });
            assert_eq!(fs::read(&victim).unwrap(), before);
            assert!([libc::ELOOP, libc::EISDIR].contains(&outcome.value), "{outcome:?}");
            let _ = fs::remove_file(scene.at("new"));
            fs::write(&file, vec![7; 5000]).unwrap();
            scene.clear_image();
        }
    }
}

/// A copy is never more open than what it is a copy of, whatever the umask, not even for a moment.
#[test]
fn copies_are_closed_from_the_beginning() {
    // SAFETY: the process's own umask; tests of this binary that need one run alone.
    let umask = unsafe { libc::umask(0) };
    let scene = Scene::new();
    for number in 0..50 {
        let path = scene.file(&format!("d{}/f{number}", number % 5), &vec![7; 20_000]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
        if number % 10 == 0 {
            fs::hard_link(&path, scene.at(&format!("d0/z{number}"))).unwrap();
        }
    }
    let over = AtomicBool::new(false);
    let (seen, open) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut seen, mut open) = (0, Vec::new());
            while !over.load(Ordering::SeqCst) {
                let mut left = vec![scene.image()];
                while let Some(directory) = left.pop() {
                    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                        let Ok(meta) = entry.path().symlink_metadata() else { continue };
                        seen += 1;
                        if meta.mode() & 0o077 != 0 {
                            open.push(format!("{} {:o}", entry.path().display(), meta.mode()));
                        }
                        if meta.is_dir() {
                            left.push(entry.path());
                        }
                    }
                }
            }
            (seen, open)
        });
        for _ in 0..5 {
            scene.clear_image();
            scene.backup().ok();
        }
        over.store(true, Ordering::SeqCst);
        watcher.join().unwrap()
    });
    // SAFETY: as above.
    unsafe { libc::umask(umask) };
    assert!(seen > 100, "{seen}");
    assert!(open.is_empty(), "{open:?}");
    scene.same();
}

/// FIFOs, sockets and devices of the source are left out, and nobody waits for them.
#[test]
fn special_files_in_the_source() {
    let scene = Scene::new();
    scene.file("a", b"a");
    let make = |name: &str| {
        let mknod = |suffix: &str, kind, device| {
            // Devices are root's to make.
            // SAFETY: a C string and numbers.
            unsafe { libc::mknod(scene.c(&format!("{name}.{suffix}")).as_ptr(), kind | 0o666, device) }
        };
        assert_eq!(mknod("fifo", libc::S_IFIFO, 0), 0);
        let devices = [
            mknod("null", libc::S_IFCHR, libc::makedev(1, 3)),
            mknod("zero", libc::S_IFCHR, libc::makedev(1, 5)),
        ];
        let block = mknod("loop", libc::S_IFBLK, libc::makedev(7, 63));
        println!("devices made: {devices:?} {block}");
        std::os::unix::net::UnixListener::bind(scene.at(&format!("{name}.socket"))).unwrap()
    };
    let _before = make("before");
    let mut during = None;
    scene.backup_with(|| during = Some(make("during"))).ok();
    let names: Vec<_> =
        fs::read_dir(scene.image()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
}

/// A file is a FIFO at the moment when it is opened: nobody waits for who writes to it.
#[test]
fn a_file_is_swapped_for_a_fifo() {
    let scene = Scene::new();
    scene.file("f", b"a file");
    scene.file("g", b"another");
    let fifo = scene.base.join("fifo");
    done(sys::mkfifo(&c_string(&fifo), 0o600));
    let attacker = Attacker::swapping(&scene.at("f"), &fifo);
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        let mut poll = |_: f32, _: &str| i32::from(begin.elapsed() > PATIENCE);
        let outcome = run(
            &[(&scene.source(), &scene.image())],
            &mut Given { poll: Some(&mut poll), ..Given::default() },
        );
        // Another process's renames leave no mark: the gate may meet a name that was another when it was listed, or
        // a file that was never met.
        assert!([0, libc::ETIMEDOUT, libc::ENOENT].contains(&outcome.value), "{outcome:?}");
        let copy = scene.image().join("f");
        assert!(copy.symlink_metadata().map_or(true, |meta| meta.is_file()), "{outcome:?}");
        scene.clear_image();
        if outcome.value != 0 || begin.elapsed() > PATIENCE / 4 {
            break;
        }
    }
    drop(attacker);
}
