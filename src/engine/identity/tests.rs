//! Two equal trees, and every single change that makes them differ.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};

use rustix::fs::{FallocateFlags, XattrFlags};
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

/// A source or an image, made the same way each time.
fn build(root: &Path) {
    for directory in ["db", "db/empty", "mysql"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let bytes: Vec<u8> = (0..5 * MIB + 123).map(|at| (at / 7 + at * at) as u8).collect();
    fs::write(root.join("db/large"), &bytes).unwrap();
    fs::write(root.join("db/small"), b"small").unwrap();
    fs::write(root.join("db/none"), b"").unwrap();
    // On the disk: while data is on its way there, ext4 says of it that it was never written.
    let zeroes = File::create(root.join("mysql/zeroes")).unwrap();
    zeroes.write_all_at(&vec![0; MIB as usize], 0).unwrap();
    zeroes.sync_all().unwrap();
    // Data, a hole of 1 MiB, data, a hole up to the end.
    let sparse = File::create(root.join("db/sparse")).unwrap();
    sparse.write_all_at(&bytes[..MIB as usize], 0).unwrap();
    sparse.write_all_at(&bytes[..MIB as usize], 2 * MIB).unwrap();
    sparse.set_len(4 * MIB).unwrap();
    sparse.sync_all().unwrap();
    fs::write(root.join("db/linked"), b"linked").unwrap();
    fs::hard_link(root.join("db/linked"), root.join("mysql/linked")).unwrap();
    fs::hard_link(root.join("db/linked"), root.join("mysql/linked_too")).unwrap();
    symlink("db/small", root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    for (path, mode) in [("", 0o755), ("db/empty", 0o755), ("db/small", 0o640)] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    rustix::fs::setxattr(root.join("db/small"), "user.key", b"value", XattrFlags::empty()).unwrap();
}

struct Trees {
    root: TempDir,
}

impl Trees {
    fn new() -> Trees {
        let root = TempDir::new().unwrap();
        for name in ["source", "image"] {
            build(&root.path().join(name));
        }
        Trees { root }
    }
    fn source(&self) -> PathBuf {
        self.root.path().join("source")
    }
    fn image(&self) -> PathBuf {
        self.root.path().join("image")
    }
    fn differences(&self) -> Vec<String> {
        texts(compare(&self.source(), &self.image(), &|_| false))
    }
}

fn texts(differences: Vec<Difference>) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

fn write_at(path: PathBuf, bytes: &[u8], offset: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

fn punch(path: PathBuf, offset: u64, length: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, offset, length).unwrap();
}

/// A change to a tree, how the difference is told, and how when it is the source that was changed.
type Mutation = (fn(&Path), &'static str, &'static str);

const MUTATIONS: &[Mutation] = &[
    (
        |root| fs::write(root.join("db/extra"), b"").unwrap(),
        "db/extra: in the image, and should not be",
        "db/extra: missing in the image",
    ),
    (
        |root| fs::create_dir(root.join("extra")).unwrap(),
        "extra: in the image, and should not be",
        "extra: missing in the image",
    ),
    (
        |root| fs::remove_file(root.join("db/none")).unwrap(),
        "db/none: missing in the image",
        "db/none: in the image, and should not be",
    ),
    (
        |root| fs::remove_dir(root.join("db/empty")).unwrap(),
        "db/empty: missing in the image",
        "db/empty: in the image, and should not be",
    ),
    (
        |root| {
            fs::remove_dir(root.join("db/empty")).unwrap();
            fs::write(root.join("db/empty"), b"").unwrap();
        },
        "db/empty: of another type in the image",
        "db/empty: of another type in the image",
    ),
    (
        |root| write_at(root.join("db/small"), b"S", 0),
        "db/small: byte 0 is 0x73 in the source, 0x53 in the image",
        "db/small: byte 0 is 0x53 in the source, 0x73 in the image",
    ),
    (
        |root| write_at(root.join("db/large"), &[0xEE], MIB),
        "db/large: byte 1048576 is 0x24 in the source, 0xee in the image",
        "db/large: byte 1048576 is 0xee in the source, 0x24 in the image",
    ),
    (
        |root| write_at(root.join("db/large"), &[0xEE], 5 * MIB + 122),
        "db/large: byte 5243002 is 0xec in the source, 0xee in the image",
        "db/large: byte 5243002 is 0xee in the source, 0xec in the image",
    ),
    (
        |root| write_at(root.join("db/sparse"), &[1], 4 * MIB - 1),
        "db/sparse: byte 4194303 is 0x00 in the source, 0x01 in the image",
        "db/sparse: byte 4194303 is 0x01 in the source, 0x00 in the image",
    ),
    (
        |root| File::options().write(true).open(root.join("db/none")).unwrap().set_len(1).unwrap(),
        "db/none: 0 bytes in the source, 1 in the image",
        "db/none: 1 bytes in the source, 0 in the image",
    ),
    (
        |root| File::options().write(true).open(root.join("db/large")).unwrap().set_len(MIB).unwrap(),
        "db/large: 5243003 bytes in the source, 1048576 in the image",
        "db/large: 1048576 bytes in the source, 5243003 in the image",
    ),
    (
        |root| write_at(root.join("db/sparse"), &vec![0; MIB as usize], MIB),
        "db/sparse: hole of 1048576 bytes at 1048576 in the source is data in the image",
        "db/sparse: hole of 1048576 bytes at 1048576 in the image is data in the source",
    ),
    (
        |root| write_at(root.join("db/sparse"), &[0; 70_000], 4 * MIB - 80_000),
        "db/sparse: hole of 1048576 bytes at 3145728 in the source is data in the image",
        "db/sparse: hole of 1048576 bytes at 3145728 in the image is data in the source",
    ),
    (
        |root| punch(root.join("mysql/zeroes"), 128 << 10, 64 << 10),
        "mysql/zeroes: hole of 65536 bytes at 131072 in the image is data in the source",
        "mysql/zeroes: hole of 65536 bytes at 131072 in the source is data in the image",
    ),
    (
        |root| fs::set_permissions(root.join("db/small"), fs::Permissions::from_mode(0o644)).unwrap(),
        "db/small: mode 0640 in the source, 0644 in the image",
        "db/small: mode 0644 in the source, 0640 in the image",
    ),
    (
        |root| fs::set_permissions(root.join("db/empty"), fs::Permissions::from_mode(0o3755)).unwrap(),
        "db/empty: mode 0755 in the source, 3755 in the image",
        "db/empty: mode 3755 in the source, 0755 in the image",
    ),
    (
        |root| fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap(),
        ".: mode 0755 in the source, 0711 in the image",
        ".: mode 0711 in the source, 0755 in the image",
    ),
    (
        |root| {
            fs::remove_file(root.join("mysql/linked")).unwrap();
            fs::write(root.join("mysql/linked"), b"linked").unwrap();
        },
        "mysql/linked: the same file as db/linked in the source, another in the image",
        "mysql/linked: the same file as db/linked in the image, another in the source",
    ),
    (
        |root| {
            fs::remove_file(root.join("link")).unwrap();
            fs::hard_link(root.join("dangling"), root.join("link")).unwrap();
        },
        "link: the same file as dangling in the image, another in the source",
        "link: the same file as dangling in the source, another in the image",
    ),
    (
        |root| {
            fs::remove_file(root.join("link")).unwrap();
            symlink("db/smaller", root.join("link")).unwrap();
        },
        "link: leads to db/small in the source, db/smaller in the image",
        "link: leads to db/smaller in the source, db/small in the image",
    ),
    (
        |root| {
            let path = root.join("db/small");
            rustix::fs::setxattr(path, "user.key", b"other", XattrFlags::empty()).unwrap();
        },
        "db/small: extended attribute user.key differs",
        "db/small: extended attribute user.key differs",
    ),
    (
        |root| rustix::fs::removexattr(root.join("db/small"), "user.key").unwrap(),
        "db/small: extended attribute user.key differs",
        "db/small: extended attribute user.key differs",
    ),
    (
        |root| {
            rustix::fs::setxattr(root.join("mysql"), "user.new", b"", XattrFlags::empty()).unwrap();
        },
        "mysql: extended attribute user.new differs",
        "mysql: extended attribute user.new differs",
    ),
];

#[test]
fn equal_trees_are_equal() {
    let trees = Trees::new();
    assert_eq!(trees.differences(), [""; 0]);
    let texts = texts(compare(&trees.source(), &trees.source(), &|_| false));
    assert_eq!(texts, [""; 0]);
}

#[test]
fn every_change_is_noticed() {
    for (mutate, of_image, of_source) in MUTATIONS {
        let trees = Trees::new();
        mutate(&trees.image());
        let found = trees.differences();
        assert!(found.iter().any(|text| text == of_image), "not '{of_image}' but {found:?}");
        let reverse = texts(compare(&trees.image(), &trees.source(), &|_| false));
        assert!(reverse.iter().any(|text| text == of_source), "not '{of_source}' but {reverse:?}");
        // One change is one difference, but for a link's target, and bytes, that changed with it.
        assert!(found.len() <= 2, "{found:?}");
    }
}

#[test]
fn owners_are_compared_when_they_can_be_kept() {
    let trees = Trees::new();
    let path = trees.image().join("db/small");
    let before = fs::metadata(&path).unwrap();
    let (uid, gid) =
        (std::os::unix::fs::MetadataExt::uid(&before), std::os::unix::fs::MetadataExt::gid(&before));
    if let Err(error) = chown(&path, Some(uid + 1), Some(gid + 2)) {
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        println!("not checked: only root gives files away");
        return;
    }
    let text = format!("db/small: owner {uid}:{gid} in the source, {}:{} in the image", uid + 1, gid + 2);
    assert_eq!(trees.differences(), [text]);
    let checks = Checks { owners: false, mtimes: false };
    assert!(compare_with(&trees.source(), &trees.image(), &|_| false, checks).is_empty());
}

#[test]
fn mtimes_are_compared_on_request() {
    let trees = Trees::new();
    let checks = Checks { mtimes: true, ..Checks::default() };
    let set = |path: &Path, nanoseconds| {
        let time = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: nanoseconds };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    for root in [trees.source(), trees.image()] {
        tree::walk(&root, &|_, _| true, &mut Vec::new()).keys().for_each(|path| set(&root.join(path), 5));
    }
    assert!(compare_with(&trees.source(), &trees.image(), &|_| false, checks).is_empty());
    for path in ["db/small", "mysql", "link"] {
        set(&trees.image().join(path), 6);
        let found = texts(compare_with(&trees.source(), &trees.image(), &|_| false, checks));
        let text = "mtime 1700000000.000000005 in the source, 1700000000.000000006 in the image";
        assert_eq!(found, [format!("{path}: {text}")]);
        set(&trees.image().join(path), 5);
    }
    set(&trees.image().join("db"), 6);
    assert_eq!(trees.differences(), [""; 0]);
}

#[test]
fn what_is_left_out_must_be_left_out() {
    let trees = Trees::new();
    let socket = std::os::unix::net::UnixListener::bind(trees.source().join("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        trees.source().join("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(trees.differences(), [""; 0]);
    let prefix = trees.source().join("db");
    let excluded = |path: &Path| path == prefix;
    let found = texts(compare(&trees.source(), &trees.image(), &excluded));
    // The links to what was left out stay as they are.
    assert!(found.iter().all(|text| text.starts_with("db") && text.ends_with("should not be")), "{found:?}");
    assert!(found.len() > 5);
    fs::remove_dir_all(trees.image().join("db")).unwrap();
    assert_eq!(texts(compare(&trees.source(), &trees.image(), &excluded)), [""; 0]);
    // In the image nothing of the kind is right.
    drop(socket);
    let _socket = std::os::unix::net::UnixListener::bind(trees.image().join("socket")).unwrap();
    let found = texts(compare(&trees.source(), &trees.image(), &excluded));
    assert_eq!(found, ["socket: in the image, and should not be"]);
}

#[test]
fn what_is_allocated_and_not_written_counts_as_neither() {
    let trees = Trees::new();
    for (root, allocate) in [(trees.source(), true), (trees.image(), false)] {
        let file = File::create(root.join("db/allocated")).unwrap();
        if allocate {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 4 * MIB).unwrap();
        }
        file.set_len(4 * MIB).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        file.sync_all().unwrap();
    }
    assert_eq!(trees.differences(), [""; 0]);
    // Read into the page cache, it turns into data on most file systems; nothing has changed all the same.
    fs::read(trees.source().join("db/allocated")).unwrap();
    assert_eq!(trees.differences(), [""; 0]);
}

#[test]
fn short_holes_may_differ() {
    let trees = Trees::new();
    punch(trees.image().join("mysql/zeroes"), 4096, 60 << 10);
    assert_eq!(trees.differences(), [""; 0]);
    punch(trees.image().join("mysql/zeroes"), 64 << 10, 4096);
    assert_eq!(
        trees.differences(),
        ["mysql/zeroes: hole of 65536 bytes at 4096 in the image is data in the source"]
    );
}

#[test]
fn what_cannot_be_compared_is_a_difference() {
    let trees = Trees::new();
    let found = texts(compare(&trees.source(), &trees.root.path().join("none"), &|_| false));
    assert!(
        found.iter().any(|text| text.starts_with(".: ") && text.contains("none cannot be read")),
        "{found:?}"
    );
    assert!(found.iter().any(|text| text == "db/small: missing in the image"));
}

#[test]
fn names_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let trees = Trees::new();
    let name = std::ffi::OsStr::from_bytes(b"t\xFF");
    fs::write(trees.source().join(name), b"1").unwrap();
    fs::write(trees.image().join(name), b"2").unwrap();
    let found = trees.differences();
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("byte 0 is 0x31 in the source, 0x32 in the image"), "{found:?}");
}
