//! Writers that cannot be seen (P24): small files are read again at the end, large ones are refused before copying.

use std::ffi::CStr;
use std::fs::File;
use std::path::Path;

use libc::FILE;
use twin::library::c_string;
use twin::sys;

use crate::scene::{Scene, done, fd, open};

fn stream(path: &Path, mode: &CStr) -> *mut FILE {
    let stream = sys::fopen(&c_string(path), mode);
    assert!(!stream.is_null());
    stream
}

fn put(stream: *mut FILE, text: &[u8]) {
    assert_eq!(sys::fwrite(text.as_ptr().cast(), 1, text.len(), stream), text.len());
    assert_eq!(sys::fflush(stream), 0);
}

#[test]
fn streams() {
    let scene = Scene::new();
    let before = stream(&scene.file("before", b"opened before the backup\n"), c"a");
    scene.file("rewritten", &[b'x'; 5000]);
    scene.hot(|| {
        put(before, b"written during the backup\n");
        let during = stream(&scene.at("during"), c"w");
        put(during, b"a file made by a stream\n");
        assert_eq!(sys::fclose(during), 0);
        let rewritten = stream(&scene.at("rewritten"), c"r+");
        put(rewritten, b"y");
        assert_eq!(sys::fclose(rewritten), 0);
    });
    assert_eq!(sys::fclose(before), 0);
    assert_eq!(scene.copy("rewritten")[..3], *b"yxx");
}

struct Mapping(*mut libc::c_void, usize);

impl Mapping {
    fn new(file: &File, length: usize) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let address = sys::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd(file), 0);
        assert_ne!(address, libc::MAP_FAILED);
        Mapping(address, length)
    }

    fn store(&self, at: usize, byte: u8) {
        assert!(at < self.1);
        // SAFETY: inside the mapping.
        unsafe { self.0.cast::<u8>().add(at).write_volatile(byte) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        sys::munmap(self.0, self.1);
    }
}

#[test]
fn mappings() {
    let scene = Scene::new();
    let before = Mapping::new(&open(&scene.file("before", &[1; 20_000])), 20_000);
    let file = open(&scene.file("during", &[1; 20_000]));
    scene.hot(|| {
        before.store(10_000, 2);
        let during = Mapping::new(&file, 20_000);
        during.store(19_999, 3);
    });
    assert_eq!(scene.copy("before")[10_000], 2);
    assert_eq!(scene.copy("during")[19_999], 3);
}

#[test]
fn a_large_mapping_is_refused_by_name() {
    let scene = Scene::new();
    let file = open(&scene.file("mapped.log", &[0; 10]));
    file.set_len(16 << 20).unwrap();
    let mapping = Mapping::new(&file, 16 << 20);
    let outcome = scene.backup();
    assert_eq!(outcome.errors.len(), 1, "{outcome:?}");
    assert!(outcome.errors[0].1.contains("mapped.log"), "{outcome:?}");
    assert_ne!(outcome.value, 0);
    drop(mapping);
    scene.clear_image();
    scene.backup().ok();
    scene.same();
}

#[test]
fn what_is_written_unseen_no_longer_may_be_large() {
    let scene = Scene::new();
    let paths = [scene.file("streamed", b"some text\n"), scene.file("mapped", &[1; 4096])];
    let files = paths.each_ref().map(|path| open(path));
    scene.hot(|| {
        let stream = stream(&paths[0], c"a");
        put(stream, b"by a stream\n");
        assert_eq!(sys::fclose(stream), 0);
        let mapping = Mapping::new(&files[1], 4096);
        mapping.store(17, 2);
        drop(mapping);
        for file in &files {
            sys::check(sys::ftruncate(fd(file), 16 << 20)).unwrap();
        }
    });
    assert_eq!(scene.copy("mapped")[17], 2);
}

/// glibc's own asynchronous I/O writes from threads that nobody can follow.
#[test]
fn posix_aio_is_refused() {
    #[link(name = "rt")]
    unsafe extern "C" {}
    let scene = Scene::new();
    let file = open(&scene.file("file", &[0; 100]));
    let outcome = scene.backup_with(|| {
        // SAFETY: a control block of zeros is one without notification.
        let mut request: libc::aiocb = unsafe { std::mem::zeroed() };
        request.aio_fildes = fd(&file);
        request.aio_buf = b"x".as_ptr().cast_mut().cast();
        request.aio_nbytes = 1;
        // SAFETY: the block and its data live until aio_return.
        unsafe {
            done(libc::aio_write(&mut request));
            while libc::aio_error(&request) == libc::EINPROGRESS {
                std::thread::yield_now();
            }
            assert_eq!(libc::aio_return(&mut request), 1);
        }
    });
    assert_ne!(outcome.value, 0, "{outcome:?}");
    assert_eq!(outcome.errors.len(), 1, "{outcome:?}");
    assert!(outcome.errors[0].1.contains("aio_write"), "{outcome:?}");
    assert_eq!(outcome.stops, ["before", "after"]);
}
