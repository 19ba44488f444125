//! What goes wrong on the way: the backup fails, the program does not notice.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::scene::{Given, Scene, done, open, run};

/// A limit of this process on the size of files, while it lives.
struct FileSizeLimit(libc::rlimit);

impl FileSizeLimit {
    fn new(bytes: u64) -> Self {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a signal and a constant; a place for a limit, and a limit.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            done(libc::getrlimit(libc::RLIMIT_FSIZE, &mut before));
            done(libc::setrlimit(libc::RLIMIT_FSIZE, &libc::rlimit { rlim_cur: bytes, ..before }));
        }
        FileSizeLimit(before)
    }
}

impl Drop for FileSizeLimit {
    fn drop(&mut self) {
        // SAFETY: the limit that was there before.
        unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &self.0) };
    }
}

/// The image cannot be written: that is told once, with the path, and the program's own writes go on.
#[test]
fn the_image_cannot_be_written() {
    let scene = Scene::new();
    let file = open(&scene.file("large", &vec![1; 3 << 20]));
    scene.file("small", b"small");
    let limit = FileSizeLimit::new(1 << 20);
    let outcome = run(
        &[(&scene.source(), &scene.image())],
        &mut Given {
            before_stop: Some(&mut || file.write_all_at(b"goes on", 0).unwrap()),
            ..Given::default()
        },
    );
    drop(limit);
    outcome.broken(libc::EFBIG, &["image", "(27)"]);
    // And the library is not dead for good, as its predecessor was.
    scene.clear_image();
    scene.backup().ok();
    scene.same();
}

#[test]
fn the_image_is_removed_on_the_way() {
    let scene = Scene::new();
    scene.file("a/b", &[1; 100_000]);
    let outcome = scene.backup_with(|| {
        fs::remove_dir_all(scene.image()).unwrap();
        fs::create_dir(scene.image()).unwrap();
    });
    assert_ne!(outcome.value, 0);
    assert_eq!(outcome.errors.len(), 1, "{outcome:?}");
    assert_eq!(outcome.stops, ["before", "after"]);
    fs::remove_dir_all(scene.image()).unwrap();
    fs::create_dir(scene.image()).unwrap();
    scene.backup().ok();
    scene.same();
}

#[test]
fn a_full_disk() {
    let scene = Scene::new();
    let file = open(&scene.file("large", &vec![1; 4 << 20]));
    // In a thread with file systems of its own, which its children see.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                mount_small(&scene.image());
                let outcome = run(
                    &[(&scene.source(), &scene.image())],
                    &mut Given {
                        before_stop: Some(&mut || file.write_all_at(b"goes on", 0).unwrap()),
                        ..Given::default()
                    },
                );
                outcome.broken(libc::ENOSPC, &["image", "No space left on device (28)"]);
            })
            .join()
            .unwrap();
    });
    scene.backup().ok();
    scene.same();
}

/// A file system of 1 MiB, in a namespace of the calling thread alone.
fn mount_small(at: &Path) {
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let flags = libc::CLONE_NEWNS | if root { 0 } else { libc::CLONE_NEWUSER };
    let at = twin::library::c_string(at);
    // SAFETY: flags, C strings and no data where none is wanted.
    unsafe {
        done(libc::unshare(flags));
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let nothing = std::ptr::null();
        done(libc::mount(c"none".as_ptr(), c"/".as_ptr(), nothing, private, nothing.cast()));
        done(libc::mount(c"tmpfs".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=1m".as_ptr().cast()));
    }
}

/// Too many descriptors in use: the predecessor needed one for each file of the program.
#[test]
fn few_descriptors_left() {
    let scene = Scene::new();
    let files: Vec<File> =
        (0..300).map(|number| open(&scene.file(&format!("f{number}"), b"content"))).collect();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a place for a limit.
    done(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) });
    let open_now = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let tight = libc::rlimit { rlim_cur: open_now + 80, ..limit };
    // SAFETY: a limit.
    done(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &tight) });
    let outcome = scene.backup_with(|| files.iter().for_each(|file| file.write_all_at(b"CON", 0).unwrap()));
    // SAFETY: the limit that was there before.
    done(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) });
    outcome.ok();
    scene.same();
}
