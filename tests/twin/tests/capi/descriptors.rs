//! Descriptors: however they were made, shared, closed and used again.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;

use twin::sys;

use crate::scene::{Scene, done, fd, open};

fn duplicate(file: &File, how: i32) -> File {
    // SAFETY: a descriptor; the new one is ours alone.
    unsafe { File::from_raw_fd(done(libc::fcntl(fd(file), how, 500)) as i32) }
}

/// Two descriptors with one position; the predecessor kept a position for each that it knew, and knew no copies.
#[test]
fn duplicates_share_their_position() {
    let scene = Scene::new();
    let file = open(&scene.file("file", &[b'.'; 100]));
    let (copy, copy2) = (file.try_clone().unwrap(), duplicate(&file, libc::F_DUPFD));
    scene.hot(|| {
        (&file).write_all(b"one").unwrap();
        (&copy).write_all(b"two").unwrap();
        (&copy2).seek(SeekFrom::Current(4)).unwrap();
        (&file).write_all(b"three").unwrap();
        // SAFETY: descriptors of files of this test.
        done(unsafe { libc::dup2(fd(&file), fd(&copy2)) });
        (&copy2).write_all(b"four").unwrap();
    });
    assert!(scene.copy("file").starts_with(b"onetwo....threefour."));
}

/// Reads by calls that the predecessor did not see moved the position under it.
#[test]
fn positions_moved_by_reads() {
    let scene = Scene::new();
    let file = open(&scene.file("file", b"0123456789"));
    scene.hot(|| {
        let mut buffers = [[0u8; 2]; 2];
        let [first, second] = &mut buffers;
        let mut parts = [std::io::IoSliceMut::new(first), std::io::IoSliceMut::new(second)];
        assert_eq!((&file).read_vectored(&mut parts).unwrap(), 4);
        (&file).write_all(b"xx").unwrap();
        file.read_exact_at(&mut [0; 3], 0).unwrap();
        (&file).write_all(b"yy").unwrap();
    });
    assert_eq!(scene.copy("file"), b"0123xxyy89");
}

/// A number that was a file's is a pipe's now: what is written to the pipe is not the file's.
#[test]
fn numbers_used_again() {
    let scene = Scene::new();
    for number in 0..4 {
        scene.file(&format!("file{number}"), b"what it was");
    }
    let path = |number: u32| scene.at(&format!("file{number}"));
    scene.hot(|| {
        let numbers: Vec<i32> = (0..4).map(|number| open(&path(number)).into_raw_fd()).collect();
        let mut pipe = [0; 2];
        // SAFETY: an array of two.
        done(unsafe { libc::pipe(pipe.as_mut_ptr()) });
        // Closed in one go, and over it by dup2: neither goes through close().
        // SAFETY: descriptors of this test.
        unsafe {
            done(libc::dup2(pipe[1], numbers[0]));
            done(libc::syscall(libc::SYS_close_range, numbers[1], numbers[1], 0));
            done(libc::dup2(pipe[1], numbers[1]));
        }
        for number in &numbers[..2] {
            assert_eq!(sys::write(*number, b"to the pipe".as_ptr().cast(), 11), 11);
        }
        for number in numbers.into_iter().chain(pipe) {
            sys::close(number);
        }
    });
    for number in 0..4 {
        assert_eq!(scene.copy(&format!("file{number}")), b"what it was");
    }
}

#[test]
fn every_way_to_open() {
    let scene = Scene::new();
    let directory = File::open(scene.source()).unwrap();
    let (flags, write) = (libc::O_RDWR | libc::O_CREAT, |fd: i64, text: &[u8]| {
        assert_eq!(sys::write(fd as i32, text.as_ptr().cast(), text.len()), text.len() as isize);
        sys::close(fd as i32);
    });
    scene.hot(|| {
        write(done(sys::open(&scene.c("open"), flags, 0o600)), b"open");
        write(done(sys::open64(&scene.c("open64"), flags, 0o600)), b"open64");
        write(done(sys::openat(fd(&directory), c"openat", flags, 0o600)), b"openat");
        write(done(sys::openat64(fd(&directory), c"openat64", flags, 0o600)), b"openat64");
        write(done(sys::creat(&scene.c("creat"), 0o600)), b"creat");
        write(done(sys::__open_2(&scene.c("open"), libc::O_RDWR | libc::O_TRUNC)), b"o2");
        let mut template = scene.c("tempXXXXXX").into_bytes_with_nul();
        write(done(sys::mkstemp(&mut template)), b"mkstemp");
        let unnamed = done(sys::open(&scene.c("."), libc::O_TMPFILE | libc::O_RDWR, 0o600));
        assert_eq!(sys::write(unnamed as i32, b"tmpfile".as_ptr().cast(), 7), 7);
        done(sys::linkat(unnamed as i32, c"", fd(&directory), c"tmpfile", libc::AT_EMPTY_PATH));
        sys::close(unnamed as i32);
    });
    for (name, text) in [("open64", "open64"), ("openat", "openat"), ("open", "o2"), ("tmpfile", "tmpfile")] {
        assert_eq!(scene.copy(name), text.as_bytes());
    }
}

/// Any open in the process whose path could not be resolved ended the predecessor's backup.
#[test]
fn files_without_a_path_elsewhere() {
    let scene = Scene::new();
    scene.file("a", b"a");
    scene.hot(|| {
        // SAFETY: a name and no flags.
        let memory = unsafe { File::from_raw_fd(done(libc::memfd_create(c"x".as_ptr(), 0)) as i32) };
        let again = open(format!("/proc/self/fd/{}", fd(&memory)).as_ref());
        (&again).write_all(b"x").unwrap();
        let elsewhere = scene.base.join("elsewhere");
        let file = File::create(&elsewhere).unwrap();
        fs::remove_file(&elsewhere).unwrap();
        (&file).write_all(b"x").unwrap();
        let _ = File::open(format!("/proc/self/fd/{}", fd(&file)));
    });
}
