//! Content that changes while the backup runs, by every kind of call.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use libc::iovec;
use twin::sys;

use crate::scene::{Given, Scene, done, fd, open, run};

fn part(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn two<'a>(first: &'a [u8], second: &'a [u8]) -> [iovec; 2] {
    [part(first), part(second)]
}

/// The predecessor wrote appended bytes to offset 0 of the copy.
#[test]
fn append() {
    let scene = Scene::new();
    let opened = File::options().append(true).open(scene.file("opened", b"0123456789")).unwrap();
    let set = open(&scene.file("set", b"0123456789"));
    // SAFETY: a descriptor and flags.
    done(unsafe { libc::fcntl(fd(&set), libc::F_SETFL, libc::O_APPEND) });
    let flagged = open(&scene.file("flagged", b"0123456789"));
    scene.hot(|| {
        (&opened).write_all(b"appended").unwrap();
        (&set).write_all(b"appended").unwrap();
        let parts = two(b"app", b"ended");
        assert_eq!(sys::pwritev2(fd(&flagged), &parts, 2, 0, libc::RWF_APPEND), 8);
    });
    for name in ["opened", "set", "flagged"] {
        assert_eq!(scene.copy(name), b"0123456789appended");
    }
}

/// A thread waits in the kernel, below every hook, before the backup begins; its write lands while it runs (P15).
#[test]
fn a_call_that_began_before_the_backup() {
    let scene = Scene::new();
    let file = open(&scene.file("file", &[1; 4096]));
    let (from, mut to) = std::io::pipe().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let mut waiting = Some(std::thread::spawn(move || {
        // SAFETY: gettid has no preconditions.
        tell.send(unsafe { libc::gettid() }).unwrap();
        while sys::splice(from.as_raw_fd(), None, fd(&file), None, 5, 0) != 5 {
            assert_eq!(sys::errno(), libc::EINTR);
        }
    }));
    let call = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
    let splice = format!("{} ", libc::SYS_splice);
    while !fs::read_to_string(&call).unwrap().starts_with(&splice) {
        std::thread::yield_now();
    }
    let mut land = move || {
        let Some(waiting) = waiting.take() else { return false };
        to.write_all(b"later").unwrap();
        waiting.join().unwrap();
        true
    };
    let land = std::cell::RefCell::new(&mut land);
    // The backup waits for that call before it copies anything; half a second, here.
    let (mut polls, mut begun_without) = (0, false);
    let mut poll = |_: f32, text: &str| {
        polls += 1;
        if polls > 5 && text == "Preparing backup" {
            land.borrow_mut()();
        }
        0
    };
    let mut before_stop = || begun_without = land.borrow_mut()();
    let mut given = Given { poll: Some(&mut poll), before_stop: Some(&mut before_stop), ..Given::default() };
    run(&[(&scene.source(), &scene.image())], &mut given).ok();
    assert!(!begun_without, "the backup has not waited for it");
    scene.same();
    assert_eq!(scene.copy("file")[..6], *b"later\x01");
}

#[test]
fn vectors() {
    let scene = Scene::new();
    let file = open(&scene.file("file", &[0; 100_000]));
    scene.hot(|| {
        (&file).seek(SeekFrom::Start(50_000)).unwrap();
        assert_eq!(sys::writev(fd(&file), &two(b"one", b"two"), 2), 6);
        assert_eq!(sys::pwritev(fd(&file), &two(b"three", b"four"), 2, 70_000), 9);
        assert_eq!(sys::pwritev64(fd(&file), &two(b"five", b"six"), 2, 99_998), 7);
        assert_eq!(sys::pwritev2(fd(&file), &two(b"seven", b"eight"), 2, -1, 0), 10);
    });
    assert_eq!(&scene.copy("file")[50_000..50_016], b"onetwoseveneight");
}

#[test]
fn copies_inside_the_kernel() {
    let scene = Scene::new();
    let from = open(&scene.file("from", &[5; 50_000]));
    let files = ["sendfile", "splice", "copy", "position"].map(|name| open(&scene.file(name, &[0; 80_000])));
    let [sent, spliced, copied, at_position] = &files;
    scene.hot(|| {
        assert_eq!(sys::sendfile(fd(sent), fd(&from), Some(&mut 0), 50_000), 50_000);
        let mut pipe = [0; 2];
        // SAFETY: an array of two.
        done(unsafe { libc::pipe(pipe.as_mut_ptr()) });
        assert_eq!(sys::write(pipe[1], [6u8; 3000].as_ptr().cast(), 3000), 3000);
        assert_eq!(sys::splice(pipe[0], None, fd(spliced), Some(&mut 70_000), 3000, 0), 3000);
        assert_eq!(pipe.map(sys::close), [0, 0]);
        assert_eq!(
            sys::copy_file_range(fd(&from), Some(&mut 0), fd(copied), Some(&mut 60_000), 40_000, 0),
            40_000
        );
        let moved = sys::copy_file_range(fd(&from), Some(&mut 0), fd(at_position), None, 10_000, 0);
        assert_eq!(moved, 10_000);
    });
}

/// A write that fails must not reach the image; the predecessor mirrored what was asked for, not what was done.
#[test]
fn failed_writes() {
    let scene = Scene::new();
    let path = scene.file("file", b"what it was");
    let reader = File::open(&path).unwrap();
    let writer = open(&path);
    scene.hot(|| {
        assert_eq!(sys::write(fd(&reader), b"nonsense".as_ptr().cast(), 8), -1);
        assert_eq!(sys::errno(), libc::EBADF);
        assert_eq!(sys::pwrite64(fd(&reader), b"nonsense".as_ptr().cast(), 8, 0), -1);
        assert_eq!(sys::errno(), libc::EBADF);
        assert_eq!(sys::pwrite64(fd(&writer), 16 as *const _, 8, 0), -1);
        assert_eq!(sys::errno(), libc::EFAULT);
        assert_eq!(sys::pwrite64(fd(&writer), b"nonsense".as_ptr().cast(), 8, -1), -1);
        assert_eq!(sys::errno(), libc::EINVAL);
        assert_eq!(sys::lseek(fd(&writer), -1, libc::SEEK_SET), -1);
        assert_eq!(sys::write(fd(&writer), b"WHAT".as_ptr().cast(), 4), 4);
    });
    assert_eq!(scene.copy("file"), b"WHAT it was");
}

#[test]
fn a_write_that_is_cut_short() {
    let scene = Scene::new();
    let file = open(&scene.file("file", b"0123456789"));
    let data = [b'x'; 4096];
    scene.hot(|| {
        let bad = iovec { iov_base: 16 as *mut _, iov_len: 100_000 };
        let written = sys::pwritev(fd(&file), &[part(&data), bad], 2, 5);
        assert_eq!(written, 4096);
    });
    assert_eq!(scene.copy("file").len(), 5 + 4096);
}

#[test]
fn sizes() {
    let scene = Scene::new();
    let names = ["shrunk", "grown", "by path", "by path grown", "emptied", "created", "filled", "reserved"];
    for name in names {
        scene.file(name, &[9; 100_000]);
    }
    scene.hot(|| {
        done(sys::ftruncate(fd(&open(&scene.at("shrunk"))), 10));
        done(sys::ftruncate64(fd(&open(&scene.at("grown"))), 300_000));
        done(sys::truncate(&scene.c("by path"), 77));
        done(sys::truncate64(&scene.c("by path grown"), 200_000));
        // O_TRUNC left a stale tail in the predecessor's copy.
        let emptied = File::options().write(true).truncate(true).open(scene.at("emptied")).unwrap();
        (&emptied).write_all(b"short").unwrap();
        done(sys::close(done(sys::creat(&scene.c("created"), 0o600)) as i32));
        assert_eq!(sys::posix_fallocate(fd(&open(&scene.at("filled"))), 90_000, 50_000), 0);
        done(sys::fallocate(fd(&open(&scene.at("reserved"))), libc::FALLOC_FL_KEEP_SIZE, 90_000, 500_000));
    });
    assert_eq!(scene.copy("emptied"), b"short");
    assert_eq!(scene.copy("by path").len(), 77);
}

/// It crashed the predecessor in every case, with a backup or without.
#[test]
fn truncate_by_path_outside_of_a_backup_and_of_a_source() {
    let scene = Scene::new();
    let elsewhere = scene.base.join("elsewhere");
    fs::write(&elsewhere, b"12345").unwrap();
    let path = twin::library::c_string(&elsewhere);
    scene.file("a", b"12345");
    done(sys::truncate64(&scene.c("a"), 4));
    scene.hot(|| {
        done(sys::truncate64(&path, 3));
        assert_eq!(sys::truncate64(&scene.c("not there"), 3), -1);
        done(sys::truncate64(&scene.c("a"), 3));
    });
    done(sys::truncate64(&scene.c("a"), 2));
    assert_eq!(fs::metadata(elsewhere).unwrap().len(), 3);
}

#[test]
fn holes_stay_holes() {
    let scene = Scene::new();
    let sparse = File::create(scene.at("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(b"in the middle", 500 << 20).unwrap();
    let dense = open(&scene.file("dense", &vec![1; 1 << 20]));
    scene.hot(|| {
        sparse.write_all_at(b"at the end", (1 << 30) - 10).unwrap();
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        done(sys::fallocate64(fd(&dense), mode, 128 << 10, 512 << 10));
        File::create(scene.at("new")).unwrap().set_len(100 << 20).unwrap();
    });
    for name in ["sparse", "dense", "new"] {
        let (there, copy) =
            (fs::metadata(scene.at(name)).unwrap(), scene.image().join(name).metadata().unwrap());
        assert!(copy.blocks() <= there.blocks() + 256, "{name}: {} and {}", there.blocks(), copy.blocks());
    }
}

/// The predecessor closed the program's own descriptors and copied wrong bytes, when a file was open for direct I/O.
#[test]
fn direct_io() {
    let scene = Scene::new();
    let path = scene.file("file", &vec![3; 4 << 20]);
    let direct = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let others: Vec<File> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
    let mut memory = twin::memory::Memory::new(8192);
    memory.bytes().fill(4);
    scene.hot(|| {
        assert_eq!(sys::pwrite64(fd(&direct), memory.address(), 8192, 1 << 20), 8192);
        assert_eq!(sys::pwrite64(fd(&direct), memory.address(), 8192, 4 << 20), 8192);
    });
    for other in &others {
        assert!(other.metadata().unwrap().rdev() != 0);
    }
    assert_eq!(scene.copy("file").len(), (4 << 20) + 8192);
}

/// Where a file lies in several extents, ext4 tells of a direct write that goes on at what it cannot write only that it
/// failed; the first extents have been written.
#[test]
fn direct_writes_that_fail_and_land_in_part() {
    let scene = Scene::new();
    let names = ["pwritev", "writev", "pwritev2", "syscall"];
    let mut memory = twin::memory::Memory::new(16384);
    memory.bytes().fill(7);
    let files = names.map(|name| {
        let file = File::create(scene.at(name)).unwrap();
        for block in (0..64).step_by(2) {
            file.write_all_at(&[1; 4096], block * 4096).unwrap();
        }
        file.sync_all().unwrap();
        File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(scene.at(name)).unwrap()
    });
    let first = iovec { iov_base: memory.address().cast_mut(), iov_len: 8192 };
    let odd = iovec { iov_base: memory.address().wrapping_byte_add(8192).cast_mut(), iov_len: 5000 };
    let nowhere = iovec { iov_base: 16 as *mut _, iov_len: 5000 };
    scene.hot(|| {
        let [positioned, at_position, flagged, by_number] = &files;
        sys::pwritev(fd(positioned), &[first, odd], 2, 16384);
        sys::pwritev(fd(positioned), &[first, nowhere], 2, 65536);
        sys::lseek(fd(at_position), 32768, libc::SEEK_SET);
        sys::writev(fd(at_position), &[first, odd], 2);
        sys::pwritev2(fd(flagged), &[first, odd], 2, 16384, libc::RWF_DSYNC);
        let vector = [first, odd];
        let arguments = [fd(by_number) as usize, vector.as_ptr().expose_provenance(), 2, 16384, 0, 0];
        sys::syscall(libc::SYS_pwritev, arguments);
    });
}

#[test]
fn a_file_written_before_and_after_a_backup() {
    let scene = Scene::new();
    let file = open(&scene.file("file", b"first"));
    scene.hot(|| file.write_all_at(b"FIRST", 0).unwrap());
    file.write_all_at(b"between the backups", 0).unwrap();
    scene.clear_image();
    scene.hot(|| file.write_all_at(b"B", 0).unwrap());
    assert_eq!(scene.copy("file"), b"Between the backups");
}
