//! What is refused, before anything is touched.

use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::ptr;

use libc::{EBUSY, EINVAL, ENOENT, ENOTDIR};

use crate::scene::{Given, Scene, done, library, run};

/// Calls the function itself; the number and text of its one error.
fn raw(sources: Option<&[Option<&str>]>, images: Option<&[Option<&str>]>, count: c_int) -> (c_int, String) {
    unsafe extern "C" fn error(number: c_int, text: *const c_char, extra: *mut libc::c_void) {
        // SAFETY: a C string, and the list that was given.
        let (text, list) =
            unsafe { (std::ffi::CStr::from_ptr(text), &mut *extra.cast::<Vec<(c_int, String)>>()) };
        list.push((number, text.to_string_lossy().into_owned()));
    }
    let strings = |list: Option<&[Option<&str>]>| {
        list.map(|list| {
            list.iter().map(|path| path.map(|path| CString::new(path).unwrap())).collect::<Vec<_>>()
        })
    };
    let (sources, images) = (strings(sources), strings(images));
    let pointers = |list: &Option<Vec<Option<CString>>>| {
        list.as_ref().map(|list| {
            list.iter()
                .map(|path| path.as_ref().map_or(ptr::null(), |path| path.as_ptr()))
                .collect::<Vec<_>>()
        })
    };
    let (source_pointers, image_pointers) = (pointers(&sources), pointers(&images));
    let array = |list: &Option<Vec<*const c_char>>| list.as_ref().map_or(ptr::null(), |list| list.as_ptr());
    let mut errors: Vec<(c_int, String)> = Vec::new();
    let none = ptr::null_mut();
    let call = |error: Option<unsafe extern "C" fn(c_int, *const c_char, *mut libc::c_void)>, extra| {
        // SAFETY: arrays and functions as the interface wants them, or wrong in ways that it must notice.
        unsafe {
            (library().create_backup)(
                array(&source_pointers),
                array(&image_pointers),
                count,
                None,
                none,
                error,
                extra,
                None,
                none,
                None,
                none,
                None,
                none,
            )
        }
    };
    let value = call(Some(error), ptr::from_mut(&mut errors).cast());
    // Without anyone to tell it to, the same, and no crash.
    assert_eq!(call(None, none), value);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].0, value);
    errors.remove(0)
}

#[test]
fn counts_and_null() {
    let scene = Scene::new();
    let (source, image) = (scene.source(), scene.image());
    let (source, image) = (source.to_str(), image.to_str());
    for count in [0, -1, c_int::MIN] {
        let (value, text) = raw(Some(&[source]), Some(&[image]), count);
        assert_eq!(value, EINVAL);
        assert!(text.contains("dir_count"), "{text}");
    }
    assert_eq!(raw(None, Some(&[image]), 1).0, EINVAL);
    assert_eq!(raw(Some(&[source]), None, 1).0, EINVAL);
    assert_eq!(raw(None, None, 1).0, EINVAL);
    assert!(raw(None, Some(&[image]), 1).1.contains("source_dirs"));
    assert!(raw(Some(&[source]), None, 1).1.contains("dest_dirs"));
    let (value, text) = raw(Some(&[source, None]), Some(&[image, image]), 2);
    assert_eq!((value, text.as_str()), (EINVAL, "One of the source directories is NULL"));
    let (value, text) = raw(Some(&[source]), Some(&[None]), 1);
    assert_eq!((value, text.as_str()), (EINVAL, "One of the destination directories is NULL"));
}

/// Refused, with one error, no other callback, and nothing written.
#[track_caller]
fn refused(scene: &Scene, pairs: &[(&Path, &Path)], value: i32, texts: &[&str]) {
    let before = tree(&scene.base);
    let outcome = run(pairs, &mut Given::default());
    outcome.refused(value, texts);
    assert_eq!(tree(&scene.base), before);
}

fn tree(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        names.push(path.display().to_string());
        if path.symlink_metadata().unwrap().is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    names.sort();
    names
}

#[test]
fn what_does_not_exist() {
    let scene = Scene::new();
    let (source, image) = (scene.source(), scene.image());
    let nowhere = scene.base.join("no where");
    refused(&scene, &[(&nowhere, &image)], ENOENT, &["source directory", "no where", "(2)"]);
    refused(&scene, &[(&source, &nowhere)], ENOENT, &["destination directory", "no where"]);
    refused(&scene, &[(Path::new(""), &image)], ENOENT, &["source directory"]);
    refused(&scene, &[(&source, Path::new(""))], ENOENT, &["destination directory"]);
    // Of several it is the bad one that is named; the predecessor said nothing about those after the first.
    let (source2, image2) = (scene.base.join("source2"), scene.base.join("image2"));
    fs::create_dir(&source2).unwrap();
    fs::create_dir(&image2).unwrap();
    refused(&scene, &[(&source, &image), (&nowhere, &image2)], ENOENT, &["source directory", "no where"]);
    refused(&scene, &[(&nowhere, &image), (&source2, &image2)], ENOENT, &["source directory", "no where"]);
    refused(
        &scene,
        &[(&source, &image), (&source2, &nowhere)],
        ENOENT,
        &["destination directory", "no where"],
    );
    let long = scene.base.join("x".repeat(5000));
    refused(&scene, &[(&source, &long)], libc::ENAMETOOLONG, &["destination directory"]);
}

#[test]
fn what_is_no_directory() {
    let scene = Scene::new();
    let file = scene.base.join("file");
    fs::write(&file, b"x").unwrap();
    refused(&scene, &[(&file, &scene.image())], ENOTDIR, &["source", "file is not a directory"]);
    refused(&scene, &[(&scene.source(), &file)], EINVAL, &["destination", "file is not a directory"]);
}

#[test]
fn a_destination_with_something_in_it() {
    let scene = Scene::new();
    fs::write(scene.image().join("left over"), b"precious").unwrap();
    scene.file("a", b"a");
    refused(&scene, &[(&scene.source(), &scene.image())], EINVAL, &["is not empty", "left over"]);
    assert_eq!(scene.copy("left over"), b"precious");
    let image2 = scene.base.join("image2");
    fs::create_dir(&image2).unwrap();
    let source2 = scene.base.join("source2");
    fs::create_dir(&source2).unwrap();
    refused(
        &scene,
        &[(&source2, &image2), (&scene.source(), &scene.image())],
        EINVAL,
        &["image is not empty"],
    );
}

#[test]
fn one_inside_the_other() {
    let scene = Scene::new();
    let (source, image) = (scene.source(), scene.image());
    let inside = scene.at("a/b");
    fs::create_dir_all(&inside).unwrap();
    refused(&scene, &[(&source, &source)], EINVAL, &["are the same"]);
    refused(&scene, &[(&source, &inside)], EINVAL, &["inside the source"]);
    refused(&scene, &[(&inside, &source)], EINVAL, &["inside the destination"]);
    // By other names of the same.
    let link = scene.base.join("link");
    symlink(&source, &link).unwrap();
    refused(&scene, &[(&source, &link)], EINVAL, &["are the same"]);
    refused(&scene, &[(&link, &inside)], EINVAL, &["inside the source"]);
    refused(&scene, &[(&source, &link.join("a/../a/b"))], EINVAL, &["inside the source"]);
    // Not only of the first pair.
    let (source2, image2) = (scene.base.join("source2"), scene.base.join("image2"));
    fs::create_dir(&source2).unwrap();
    fs::create_dir(&image2).unwrap();
    refused(&scene, &[(&source, &image), (&source2, &source2)], EINVAL, &["are the same"]);
    refused(&scene, &[(&source, &image), (&source2, &inside)], EINVAL, &["inside the source"]);
    refused(&scene, &[(&source2, &inside), (&source, &image)], EINVAL, &["inside the source"]);
    refused(&scene, &[(&source, &image), (&source, &image2)], EINVAL, &["given twice"]);
    refused(&scene, &[(&source, &image), (&source2, &image)], EINVAL, &["given twice"]);
    refused(&scene, &[(&source, &image), (&inside, &image2)], EINVAL, &["inside another"]);
}

/// `source2` is not inside `source`; the predecessor compared letters.
#[test]
fn a_common_beginning_of_names_is_no_parent() {
    let scene = Scene::new();
    scene.file("a", b"of source");
    let (source2, image2) = (scene.base.join("source2"), scene.base.join("source-image"));
    fs::create_dir(&source2).unwrap();
    fs::create_dir(&image2).unwrap();
    fs::write(source2.join("b"), b"of source2").unwrap();
    let before_stop = &mut || fs::write(source2.join("b"), b"changed").unwrap();
    let mut given = Given { before_stop: Some(before_stop), ..Given::default() };
    run(&[(&scene.source(), &scene.image())], &mut given).ok();
    scene.same();
    run(&[(&source2, &image2)], &mut Given::default()).ok();
    assert_eq!(fs::read(image2.join("b")).unwrap(), b"changed");
    assert!(!image2.join("a").exists());
}

#[test]
fn other_ways_to_say_a_directory() {
    let scene = Scene::new();
    scene.file("a/b", b"b");
    let link = scene.base.join("link");
    symlink(scene.source(), &link).unwrap();
    let with_slash = format!("{}/", scene.image().display());
    run(&[(&link, Path::new(&with_slash))], &mut Given::default()).ok();
    scene.same();
    // Relative to the working directory, which this test makes its own and gives back.
    let home = std::env::current_dir().unwrap();
    std::env::set_current_dir(&scene.base).unwrap();
    scene.clear_image();
    let outcome = run(&[(Path::new("./source"), Path::new("image"))], &mut Given::default());
    std::env::set_current_dir(home).unwrap();
    outcome.ok();
    scene.same();
}

#[test]
fn a_second_backup_is_refused_and_harms_nothing() {
    let scene = Scene::new();
    scene.file("a", &[1; 100_000]);
    let (source2, image2) = (scene.base.join("source2"), scene.base.join("image2"));
    fs::create_dir(&source2).unwrap();
    fs::create_dir(&image2).unwrap();
    let second = || run(&[(&source2, &image2)], &mut Given::default());
    let same = || run(&[(&scene.source(), &scene.image())], &mut Given::default());
    scene
        .backup_with(|| {
            second().refused(EBUSY, &["another backup"]);
            // To the same destination: busy is the truth, that it is not empty is only its consequence.
            same().refused(EBUSY, &["another backup"]);
            std::thread::scope(|scope| {
                scope.spawn(second).join().unwrap().refused(EBUSY, &["another backup"]);
            });
        })
        .ok();
    scene.same();
    second().ok();
}

/// By other mounts of the same, or of a part of it.
#[test]
fn mounts_of_the_source() {
    let scene = Scene::new();
    fs::create_dir_all(scene.at("a/b")).unwrap();
    for name in ["whole", "part", "above"] {
        fs::create_dir(scene.base.join(name)).unwrap();
    }
    // On a thread with file systems of its own.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                own_mounts();
                bind(&scene.source(), &scene.base.join("whole"));
                bind(&scene.at("a"), &scene.base.join("part"));
                bind(&scene.base, &scene.base.join("above"));
                let source = scene.source();
                let refused = |image: &str, text: &str| {
                    let image = scene.base.join(image);
                    // Whatever is left out: a backup would write into its own source.
                    let mut leave_out = |_: &Path| true;
                    let mut given = Given { exclude: Some(&mut leave_out), ..Given::default() };
                    run(&[(&source, &image)], &mut given).refused(EINVAL, &[text]);
                };
                refused("whole", "are the same");
                refused("whole/a/b", "inside the source");
                refused("part", "inside the source");
                refused("part/b", "inside the source");
                refused("above/source/a/b", "inside the source");
                refused("above", "inside the destination");
                // And an image that only has its parent in common.
                run(&[(&source, &scene.base.join("above/image"))], &mut Given::default()).ok();
            })
            .join()
            .unwrap();
    });
}

fn own_mounts() {
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: flags and C strings; only this thread's mounts change.
    unsafe {
        done(libc::unshare(libc::CLONE_NEWNS));
        done(libc::mount(c"none".as_ptr(), c"/".as_ptr(), ptr::null(), private, ptr::null()));
    }
}

fn bind(from: &Path, to: &Path) {
    let [from, to] = [from, to].map(twin::library::c_string);
    // SAFETY: C strings.
    unsafe { done(libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null())) };
}
