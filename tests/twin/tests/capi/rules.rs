//! Rules of the protocol that no other test would miss. What changes a file here puts its time back: size and mtime tell
//! nothing then (P25), so only a mark can bring the change into the image.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;
use std::sync::mpsc;

use twin::asynchronous::libaio::{Context, POLL, WRITE, Wanted};
use twin::library::{Library, c_string};
use twin::sys;

use crate::scene::{Given, Scene, done, fd, library, open, run};

/// Writes over a file and makes it look as before.
fn write_unnoticeably(file: &File, content: &[u8]) {
    let before = file.metadata().unwrap();
    assert_eq!(before.len(), content.len() as u64, "the size tells");
    file.write_all_at(content, 0).unwrap();
    put_time_back(file, &before);
}

fn put_time_back(file: &File, before: &fs::Metadata) {
    file.set_times(fs::FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
    assert_eq!(file.metadata().unwrap().modified().unwrap(), before.modified().unwrap());
}

/// P9: its directory looks as before; another process has put its time back, so that only the rename has marked it.
#[test]
fn a_rename_is_seen_by_its_mark() {
    let scene = Scene::new();
    scene.file("d/old name", b"content");
    let like = scene.base.join("like");
    fs::write(&like, b"").unwrap();
    scene.hot(|| {
        let before = fs::metadata(scene.at("d")).unwrap();
        put_time_back(&open(&like), &before);
        fs::rename(scene.at("d/old name"), scene.at("d/new name")).unwrap();
        let mut touch = std::process::Command::new("touch");
        assert!(touch.arg("-r").args([&like, &scene.at("d")]).status().unwrap().success());
        assert_eq!(fs::metadata(scene.at("d")).unwrap().modified().unwrap(), before.modified().unwrap());
    });
}

/// P7: threads that write at the position of one open file move it under each other.
#[test]
fn writes_at_a_position_that_others_move() {
    const THREADS: usize = 4;
    const WRITES: usize = 500;
    // As much as one mark stands for.
    const LENGTH: usize = 16 << 10;
    let scene = Scene::new();
    let file = open(&scene.file("file", &vec![1; THREADS * WRITES * LENGTH]));
    scene.hot(|| {
        let before = file.metadata().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..WRITES).for_each(|_| (&file).write_all(&[2; LENGTH]).unwrap()));
            }
        });
        put_time_back(&file, &before);
    });
    assert!(scene.copy("file").iter().all(|&byte| byte == 2));
}

/// P21: on a server, FLUSH and BACKUP STAGE write on the thread that takes the backup.
#[test]
fn what_the_calling_thread_writes_is_seen() {
    let scene = Scene::new();
    let file = open(&scene.file("file", b"what it was"));
    scene.hot(|| write_unnoticeably(&file, b"WHAT IT IS!"));
    assert_eq!(scene.copy("file"), b"WHAT IT IS!");
}

/// P21: a SIGTERM that is meant for the server's thread must not find one of ours.
#[test]
fn threads_of_the_library_take_no_signal() {
    let scene = Scene::new();
    scene.file("file", b"content");
    let mut looked = 0;
    scene
        .backup_with(|| {
            for task in fs::read_dir("/proc/self/task").unwrap() {
                let at = task.unwrap().path();
                let Ok(status) = fs::read_to_string(at.join("status")) else { continue };
                let line = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
                if !line("Name:").starts_with("hotbackup") {
                    continue;
                }
                let blocked = u64::from_str_radix(line("SigBlk:"), 16).unwrap();
                // Signal n is bit n - 1; the kernel lets nobody block SIGKILL and SIGSTOP, and libc has two of its own.
                let open = [libc::SIGKILL, libc::SIGSTOP, 32, 33].map(|signal| 1 << (signal - 1));
                assert_eq!(blocked | open.iter().sum::<u64>(), u64::MAX, "{status}");
                looked += 1;
            }
        })
        .ok();
    assert!(looked > 1, "{looked} threads");
}

/// P10: hooks look at files beside the call; the caller sees nothing of that.
#[test]
fn errno_is_the_calls_own() {
    let scene = Scene::new();
    scene.file("file", b"content");
    let elsewhere = c_string(Path::new("/proc/self/not there"));
    let number = |name: &str| {
        let path = scene.c(name);
        // SAFETY: the calling thread's errno.
        unsafe { *libc::__errno_location() = 0 };
        // Not there before, there after: looked for in vain, then made.
        let file = sys::open(&path, libc::O_CREAT | libc::O_WRONLY, 0o600);
        let made = sys::errno();
        sys::close(done(file) as i32);
        assert_eq!(sys::unlink(&path), 0);
        // Not there before, nor after.
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_DIRECTORY;
        assert_eq!(sys::open(&path, flags, 0o600), -1);
        let refused = sys::errno();
        assert_eq!(sys::rename(&scene.c("file"), &elsewhere), -1);
        (made, refused, sys::errno())
    };
    let before = number("before");
    assert_eq!((before.0, before.2), (0, libc::EXDEV));
    scene.hot(|| assert_eq!(number("during"), before));
}

fn write_of(file: &File, stamp: u64) -> Wanted {
    Wanted { opcode: WRITE, fd: fd(file), offset: 0, length: 4096, stamp, flags: 0 }
}

/// IOCB_CMD_POLL: until it can be read, or its other end is closed.
fn poll_of(pipe: i32) -> Wanted {
    Wanted { opcode: POLL, fd: pipe, offset: 0, length: 0, stamp: 0, flags: 0 }
}

/// P12: who waits for completions is not waited for; else the gate never finds nobody inside.
#[test]
fn a_reaper_that_waits_holds_nobody_up() {
    let scene = Scene::new();
    let file = open(&scene.file("file", &[1; 4096]));
    let (from, to) = std::io::pipe().unwrap();
    let (tell, told) = mpsc::channel();
    let mut reaper = None;
    let mut begin = || {
        let (pipe, tell) = (from.try_clone().unwrap(), tell.clone());
        reaper = Some(std::thread::spawn(move || {
            let mut reader = Context::new().unwrap();
            assert_eq!(reader.submit(&[poll_of(pipe.as_raw_fd())]), Ok(()));
            // SAFETY: gettid has no preconditions.
            tell.send(unsafe { libc::gettid() }).unwrap();
            reader.settle();
        }));
        let call = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
        let waits = format!("{} ", libc::SYS_io_getevents);
        while !fs::read_to_string(&call).unwrap().starts_with(&waits) {
            std::thread::yield_now();
        }
        write_unnoticeably(&file, &[2; 4096]);
    };
    scene.hot(&mut begin);
    drop(to);
    reaper.unwrap().join().unwrap();
}

/// P13: what the program has reaped before anybody looked is in the image, and not taken to be in flight.
#[test]
fn what_was_reaped_is_in_the_image() {
    let scene = Scene::new();
    let file = open(&scene.file("file", &[1; 4096]));
    let mut context = Context::new().unwrap();
    scene.hot(|| {
        let before = file.metadata().unwrap();
        for stamp in 0..40 {
            assert_eq!(context.submit(&[write_of(&file, stamp)]), Ok(()));
            context.settle();
        }
        put_time_back(&file, &before);
    });
}

/// P12: what the kernel has not taken will never complete.
#[test]
fn what_was_not_submitted_is_not_waited_for() {
    let scene = Scene::new();
    let file = open(&scene.file("file", &[1; 4096]));
    let mut context = Context::new().unwrap();
    scene.hot(|| {
        let bad = Wanted { fd: -1, ..write_of(&file, 1) };
        assert_eq!(context.submit(&[bad, write_of(&file, 2)]), Err(libc::EBADF));
    });
}

/// P16: of the addresses that were put in place of libc's none is left when nobody looks at them any more.
#[test]
fn all_slots_are_given_back() {
    let scene = Scene::new();
    scene.file("file", b"content");
    // Loaded, so that the addresses of its interface are counted before.
    library();
    let ours = || slots_of(Path::new(&Library::find().unwrap()));
    let before = ours();
    let mut during = 0;
    scene.backup_with(|| during = ours()).ok();
    assert!(during > before + 20, "{during} addresses of the library in this program, {before} before");
    assert_eq!(ours(), before);
}

/// Addresses of the library's code in this program's own data.
fn slots_of(library: &Path) -> usize {
    let library = library.canonicalize().unwrap().display().to_string();
    let program = std::env::current_exe().unwrap().canonicalize().unwrap().display().to_string();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let range = |line: &str| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        [from, to].map(|end| u64::from_str_radix(end, 16).unwrap())
    };
    let code: Vec<_> =
        maps.lines().filter(|line| line.ends_with(&library) && line.contains(" r-xp ")).map(range).collect();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut count = 0;
    for [from, to] in maps
        .lines()
        .filter(|line| {
            line.ends_with(&program) && [" r--p ", " rw-p "].iter().any(|access| line.contains(access))
        })
        .map(range)
    {
        let mut bytes = vec![0; (to - from) as usize];
        memory.read_exact_at(&mut bytes, from).unwrap();
        count += bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .filter(|word| code.iter().any(|[from, to]| (from..to).contains(&word)))
            .count();
    }
    count
}

/// P23: it is not even opened for writing.
#[test]
fn a_source_that_cannot_be_written() {
    let scene = Scene::new();
    scene.file("directory/file", b"content");
    let at = scene.base.join("read only");
    fs::create_dir(&at).unwrap();
    // On a thread with file systems of its own.
    std::thread::scope(|scope| {
        let mounted = scope.spawn(|| {
            let again = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
            let none: &CStr = c"none";
            let [from, to] = [scene.source(), at.clone()].map(|path| c_string(&path));
            // SAFETY: flags and C strings; only this thread's mounts change.
            unsafe {
                done(libc::unshare(libc::CLONE_NEWNS));
                let private = libc::MS_REC | libc::MS_PRIVATE;
                done(libc::mount(none.as_ptr(), c"/".as_ptr(), ptr::null(), private, ptr::null()));
                done(libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()));
                done(libc::mount(none.as_ptr(), to.as_ptr(), ptr::null(), again, ptr::null()));
            }
            assert!(fs::write(at.join("directory/file"), b"x").is_err());
            run(&[(&at, &scene.image())], &mut Given::default()).ok();
        });
        mounted.join().unwrap();
    });
    scene.same();
}

/// P25: nobody here sees it write.
#[test]
fn what_another_process_writes_is_copied_again() {
    let scene = Scene::new();
    scene.file("file", b"what it was");
    scene.file("moved", b"content");
    scene.hot(|| {
        let script =
            "printf 'what another wrote' > file && mkdir d && mv moved d/moved && printf new > d/new";
        let mut shell = std::process::Command::new("/bin/sh");
        assert!(shell.args(["-c", script]).current_dir(scene.source()).status().unwrap().success());
    });
    assert_eq!(scene.copy("file"), b"what another wrote");
}
