//! The oracle sees every kind of difference.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

/// Two equal trees in a directory of their own, removed at the end.
struct Twins(PathBuf);

impl Twins {
    fn new(name: &str) -> Self {
        let base = std::env::temp_dir().join(format!("twin-compare-{name}-{}", std::process::id()));
        let twins = Twins(base);
        for tree in [twins.source(), twins.image()] {
            fs::create_dir_all(tree.join("sub")).unwrap();
            fs::write(tree.join("sub/file"), [7; 300_000]).unwrap();
            fs::write(tree.join("other"), b"other").unwrap();
            fs::hard_link(tree.join("other"), tree.join("linked")).unwrap();
            symlink("sub/file", tree.join("soft")).unwrap();
            File::create(tree.join("sparse")).unwrap().set_len(1 << 20).unwrap();
        }
        twins.settle();
        twins
    }

    fn source(&self) -> PathBuf {
        self.0.join("source")
    }

    fn image(&self) -> PathBuf {
        self.0.join("image")
    }

    /// Gives everything the same times, so that only what a test is about differs.
    fn settle(&self) {
        for tree in [self.source(), self.image()] {
            for name in list(&tree).unwrap().into_keys() {
                let zero = [libc::timespec { tv_sec: 0, tv_nsec: 0 }; 2];
                let path = c_string(&tree.join(name));
                assert_eq!(crate::sys::utimensat(libc::AT_FDCWD, &path, &zero, libc::AT_SYMLINK_NOFOLLOW), 0);
            }
        }
    }

    fn differences(&self) -> Vec<String> {
        differences(&self.source(), &self.image(), &|name| name.ends_with("left-out"), 100)
    }

    /// The one difference that `change` makes.
    fn after(name: &str, change: impl FnOnce(&Path)) -> String {
        let twins = Twins::new(name);
        assert_eq!(twins.differences(), Vec::<String>::new());
        change(&twins.image());
        twins.settle();
        let mut found = twins.differences();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

impl Drop for Twins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn one_byte() {
    let found = Twins::after("byte", |image| {
        let file = File::options().write(true).open(image.join("sub/file")).unwrap();
        file.write_all_at(b"x", 299_999).unwrap();
    });
    assert_eq!(found, "/sub/file differs in bytes 299999 to 299999 of 300000");
}

#[test]
fn data_in_a_hole() {
    let found = Twins::after("data", |image| {
        let file = File::options().write(true).open(image.join("sparse")).unwrap();
        file.write_all_at(b"x", 500_000).unwrap();
    });
    assert!(found.starts_with("/sparse differs in bytes 500000 to 500000"), "{found}");
}

#[test]
fn a_filled_hole() {
    let found = Twins::after("hole", |image| fs::write(image.join("sparse"), vec![0; 1 << 20]).unwrap());
    assert!(found.starts_with("/sparse has a hole from 0 to 1048576"), "{found}");
}

#[test]
fn size() {
    let found = Twins::after("size", |image| {
        File::options().write(true).open(image.join("sub/file")).unwrap().set_len(299_999).unwrap()
    });
    assert_eq!(found, "/sub/file has 300000 bytes, in the image 299999");
}

#[test]
fn names() {
    assert!(
        Twins::after("missing", |image| fs::remove_file(image.join("soft")).unwrap()).contains("missing")
    );
    assert!(Twins::after("extra", |image| fs::create_dir(image.join("new")).unwrap()).contains("only"));
}

#[test]
fn mode() {
    let found = Twins::after("mode", |image| {
        fs::set_permissions(image.join("sub/file"), fs::Permissions::from_mode(0o751)).unwrap()
    });
    assert!(found.contains("in the image 100751"), "{found}");
}

#[test]
fn broken_and_wrong_links() {
    let found = Twins::after("broken", |image| {
        fs::remove_file(image.join("linked")).unwrap();
        fs::write(image.join("linked"), b"other").unwrap();
    });
    assert_eq!(found, "/ in the source only, these are one file: linked, other");
    let found = Twins::after("target", |image| {
        fs::remove_file(image.join("soft")).unwrap();
        symlink("other", image.join("soft")).unwrap();
    });
    assert_eq!(found, "/soft points to sub/file, in the image to other");
}

#[test]
fn times() {
    let twins = Twins::new("times");
    let file = File::open(twins.image().join("other")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1)).unwrap();
    let found = twins.differences();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("in the image 0.000000001"), "{found:?}");
}

#[test]
fn what_is_left_out() {
    let twins = Twins::new("exclude");
    fs::create_dir(twins.source().join("left-out")).unwrap();
    fs::write(twins.source().join("left-out/x"), b"").unwrap();
    twins.settle();
    assert_eq!(twins.differences(), Vec::<String>::new());
    fs::create_dir(twins.image().join("left-out")).unwrap();
    twins.settle();
    assert_eq!(twins.differences(), ["/left-out is in the image only"]);
}
