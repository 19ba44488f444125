//! Names that change while the backup runs.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};

use twin::sys;

use crate::scene::{Given, Scene, done, library, open, run};

/// The new file was in no backup of the predecessor any more, neither this one nor a later one.
#[test]
fn unlinked_and_made_again_while_open() {
    let scene = Scene::new();
    let old = open(&scene.file("file", b"the old one"));
    scene.hot(|| {
        fs::remove_file(scene.at("file")).unwrap();
        scene.file("file", b"the new one");
        old.write_all_at(b"THE OLD", 0).unwrap();
    });
    assert_eq!(scene.copy("file"), b"the new one");
    scene.clear_image();
    scene.hot(|| {
        old.write_all_at(b"AGAIN", 0).unwrap();
        open(&scene.at("file")).write_all_at(b"THE NEW", 0).unwrap();
    });
    assert_eq!(scene.copy("file"), b"THE NEW one");
}

#[test]
fn renames_of_files() {
    let scene = Scene::new();
    let outside = scene.base.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("comes"), b"comes").unwrap();
    for name in ["a", "b", "goes", "d/over", "x", "y", "z"] {
        scene.file(name, name.as_bytes());
    }
    let kept = open(&scene.at("b"));
    scene.hot(|| {
        fs::rename(scene.at("a"), scene.at("a2")).unwrap();
        fs::rename(scene.at("b"), scene.at("d/over")).unwrap();
        kept.write_all_at(b"B", 0).unwrap();
        fs::rename(scene.at("goes"), outside.join("went")).unwrap();
        fs::rename(outside.join("comes"), scene.at("d/came")).unwrap();
        // A ring.
        fs::rename(scene.at("x"), scene.at("spare")).unwrap();
        fs::rename(scene.at("y"), scene.at("x")).unwrap();
        fs::rename(scene.at("z"), scene.at("y")).unwrap();
        fs::rename(scene.at("spare"), scene.at("z")).unwrap();
        done(sys::renameat2(
            libc::AT_FDCWD,
            &scene.c("x"),
            libc::AT_FDCWD,
            &scene.c("a2"),
            libc::RENAME_EXCHANGE,
        ));
    });
    assert_eq!(scene.copy("d/over"), b"B");
    assert_eq!(scene.copy("d/came"), b"comes");
    assert_eq!(scene.copy("a2"), b"y");
    assert!(!scene.image().join("goes").exists());
}

/// A file that had not been copied yet was empty in the predecessor's image after a rename.
#[test]
fn renamed_before_it_was_copied() {
    let scene = Scene::new();
    for number in 0..20 {
        scene.file(&format!("d/file{number}"), format!("number {number}").repeat(1000).as_bytes());
    }
    library().throttle(0);
    let mut renamed = false;
    let mut poll = |_: f32, text: &str| {
        // Once it copies, which it cannot: everything is listed and nothing copied.
        if !renamed && text != "Preparing backup" {
            renamed = true;
            fs::create_dir(scene.at("e")).unwrap();
            for number in 0..20 {
                fs::rename(scene.at(&format!("d/file{number}")), scene.at(&format!("e/moved{number}")))
                    .unwrap();
            }
            fs::rename(scene.at("e"), scene.at("f")).unwrap();
            library().throttle(u64::MAX);
        }
        0
    };
    let outcome =
        run(&[(&scene.source(), &scene.image())], &mut Given { poll: Some(&mut poll), ..Given::default() });
    library().throttle(u64::MAX);
    outcome.ok();
    assert!(renamed);
    scene.same();
    assert!(scene.copy("f/moved7").starts_with(b"number 7"));
}

#[test]
fn directories() {
    let scene = Scene::new();
    let outside = scene.base.join("outside");
    fs::create_dir_all(outside.join("comes/deep")).unwrap();
    fs::write(outside.join("comes/deep/file"), b"from outside").unwrap();
    for name in ["a/file", "b/c/file", "goes/file", "gone/file", "up/down/file"] {
        scene.file(name, name.as_bytes());
    }
    scene.hot(|| {
        fs::create_dir(scene.at("empty")).unwrap();
        fs::create_dir_all(scene.at("new/newer/newest")).unwrap();
        fs::rename(scene.at("a"), scene.at("b/a")).unwrap();
        fs::rename(scene.at("b"), scene.at("renamed")).unwrap();
        open(&scene.at("renamed/a/file")).write_all_at(b"A", 0).unwrap();
        fs::rename(scene.at("goes"), outside.join("went")).unwrap();
        fs::rename(outside.join("comes"), scene.at("came")).unwrap();
        fs::remove_dir_all(scene.at("gone")).unwrap();
        // Below becomes above.
        fs::rename(scene.at("up/down"), scene.at("down")).unwrap();
        fs::rename(scene.at("up"), scene.at("down/up")).unwrap();
    });
    assert_eq!(scene.copy("renamed/a/file"), b"A/file");
    assert_eq!(scene.copy("came/deep/file"), b"from outside");
    assert!(scene.image().join("empty").is_dir() && !scene.image().join("gone").exists());
}

/// The predecessor followed them: a link to a parent had no end.
#[test]
fn symbolic_links() {
    let scene = Scene::new();
    let outside = scene.base.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), b"outside").unwrap();
    scene.file("d/file", b"inside");
    let links = [
        ("to file", "d/file"),
        ("to directory", "d"),
        ("d/to parent", ".."),
        ("dangling", "/nowhere/at all"),
        ("to itself", "to itself"),
        ("out", outside.to_str().unwrap()),
    ];
    for (name, target) in &links[..3] {
        symlink(target, scene.at(name)).unwrap();
    }
    scene.hot(|| {
        for (name, target) in &links[3..] {
            symlink(target, scene.at(name)).unwrap();
        }
        fs::remove_file(scene.at("to file")).unwrap();
        symlink("elsewhere", scene.at("to file")).unwrap();
        // Written through a link: it is the file that changes.
        open(&scene.at("to directory/file")).write_all_at(b"I", 0).unwrap();
        open(&scene.at("out/file")).write_all_at(b"O", 0).unwrap();
    });
    for (name, target) in &links[1..] {
        assert_eq!(fs::read_link(scene.image().join(name)).unwrap().to_str().unwrap(), *target);
    }
    assert_eq!(scene.copy("d/file"), b"Inside");
}

/// They became separate files, and a write reached the copy of one name only.
#[test]
fn hard_links() {
    let scene = Scene::new();
    let file = open(&scene.file("one", b"shared"));
    fs::hard_link(scene.at("one"), scene.at("two")).unwrap();
    scene.file("single", b"single");
    scene.hot(|| {
        file.write_all_at(b"S", 0).unwrap();
        fs::hard_link(scene.at("one"), scene.at("three")).unwrap();
        fs::hard_link(scene.at("single"), scene.at("double")).unwrap();
        fs::remove_file(scene.at("one")).unwrap();
        open(&scene.at("three")).write_all_at(b"H", 1).unwrap();
    });
    assert_eq!(scene.copy("two"), b"SHared");
}

#[test]
fn fifos_and_sockets_are_left_out() {
    let scene = Scene::new();
    done(sys::mkfifo(&scene.c("fifo"), 0o600));
    let _socket = std::os::unix::net::UnixListener::bind(scene.at("socket")).unwrap();
    scene.hot(|| {
        done(sys::mkfifo(&scene.c("fifo2"), 0o600));
        // What is named as one was is a file now.
        fs::remove_file(scene.at("fifo")).unwrap();
        scene.file("fifo", b"a file");
        done(sys::mknod(&scene.c("node"), libc::S_IFREG | 0o600, 0));
    });
    assert!(!scene.image().join("socket").exists() && !scene.image().join("fifo2").exists());
}

#[test]
fn inode_numbers_that_come_back() {
    let scene = Scene::new();
    scene.file("a", &[1; 50_000]);
    scene.hot(|| {
        for number in 0..200 {
            fs::remove_file(scene.at("a")).unwrap();
            File::create(scene.at("a"))
                .unwrap()
                .write_all_at(format!("number {number}").as_bytes(), 7000)
                .unwrap();
        }
    });
    assert!(scene.copy("a").ends_with(b"number 199"));
}
