//! Modes, owners, times and extended attributes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use twin::sys;

use crate::scene::{Scene, done, fd, open};

/// The predecessor made a private key readable for the world.
#[test]
fn kept() {
    let scene = Scene::new();
    fs::set_permissions(scene.file("key", b"secret"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(scene.file("program", b"#!"), Permissions::from_mode(0o4751)).unwrap();
    fs::create_dir(scene.at("private")).unwrap();
    fs::set_permissions(scene.at("private"), Permissions::from_mode(0o1700)).unwrap();
    fs::set_permissions(scene.source(), Permissions::from_mode(0o750)).unwrap();
    let old = libc::timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    for name in ["key", "private"] {
        done(sys::utimensat(libc::AT_FDCWD, &scene.c(name), &[old; 2], 0));
    }
    done(sys::setxattr(&scene.c("key"), c"user.colour", b"red".as_ptr().cast(), 3, 0));
    done(sys::setxattr(&scene.c("private"), c"user.empty", std::ptr::null(), 0, 0));
    own(&scene, "key", 12, 34);
    scene.backup().ok();
    scene.same();
    let copy = fs::metadata(scene.image().join("key")).unwrap();
    assert_eq!((copy.mode() & 0o7777, copy.mtime(), copy.mtime_nsec()), (0o600, 1_000_000_000, 123_456_789));
}

/// Gives a file away; who may not gives it to himself.
fn own(scene: &Scene, name: &str, user: u32, group: u32) {
    // SAFETY: no arguments.
    let (me, mine) = unsafe { (libc::geteuid(), libc::getegid()) };
    let (user, group) = if me == 0 { (user, group) } else { (me, mine) };
    done(sys::lchown(&scene.c(name), user, group));
}

#[test]
fn changed_meanwhile() {
    let scene = Scene::new();
    for name in ["chmod", "fchmod", "chown", "utime", "futimens", "set", "removed", "fset", "d/in"] {
        scene.file(name, name.as_bytes());
        done(sys::setxattr(&scene.c(name), c"user.was", b"there".as_ptr().cast(), 5, 0));
    }
    std::os::unix::fs::symlink("chmod", scene.at("link")).unwrap();
    scene.hot(|| {
        let then = libc::timespec { tv_sec: 1_111_111_111, tv_nsec: 987_654_321 };
        done(sys::chmod(&scene.c("chmod"), 0o2711));
        done(sys::chmod(&scene.c("d"), 0o700));
        done(sys::fchmod(fd(&open(&scene.at("fchmod"))), 0o400));
        own(&scene, "chown", 5, 6);
        own(&scene, "link", 7, 8);
        own(&scene, "d", 9, 10);
        done(sys::utime(&scene.c("utime"), &libc::utimbuf { actime: 1, modtime: 2 }));
        done(sys::futimens(fd(&open(&scene.at("futimens"))), &[then; 2]));
        done(sys::utimensat(libc::AT_FDCWD, &scene.c("d"), &[then; 2], 0));
        done(sys::setxattr(&scene.c("set"), c"user.is", b"new".as_ptr().cast(), 3, 0));
        done(sys::removexattr(&scene.c("removed"), c"user.was"));
        done(sys::fsetxattr(fd(&open(&scene.at("fset"))), c"user.was", b"other".as_ptr().cast(), 5, 0));
        done(sys::setxattr(&scene.c("d"), c"user.directory", b"too".as_ptr().cast(), 3, 0));
    });
}
