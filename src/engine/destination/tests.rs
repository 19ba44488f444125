use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::engine::manifest::{FORMAT, Name, Source, Time};

/// A scratch directory with a source in it.
struct Scene {
    root: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("data/db")).unwrap();
        fs::create_dir(root.path().join("empty")).unwrap();
        Scene { root }
    }
    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }
    fn prepare(&self, path: &str) -> Result<Destination> {
        self.prepare_below(path, None)
    }
    fn prepare_below(&self, path: &str, prefix: Option<&str>) -> Result<Destination> {
        let prefix = prefix.map(|prefix| self.at(prefix));
        Destination::prepare(self.at(path).as_os_str().as_bytes(), prefix.as_deref(), &[self.at("data")])
    }
    /// Refused with this errno and these words, and nothing in the scene has changed.
    #[track_caller]
    fn refused(&self, path: &str, errno: i32, words: &str) {
        let before = self.everything();
        let error = self.prepare(path).expect_err(path);
        assert_refused(&error, errno, words);
        assert_eq!(self.everything(), before, "something was left behind");
    }
    fn everything(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                found.push(entry.path());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.root.path(), &mut found);
        found.sort();
        found
    }
}

#[track_caller]
fn assert_refused(error: &Error, errno: i32, words: &str) {
    assert_eq!(error.errno, errno, "{error}");
    assert!(error.message.contains(words), "no '{words}' in: {error}");
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn manifest() -> Manifest {
    let time = Time(Duration::from_secs(1));
    Manifest {
        format: FORMAT,
        library: "1".into(),
        plugin: "1".into(),
        server: None,
        started: time,
        ended: time,
        instant: time,
        passes: 1,
        gate_micros: 0,
        gate_bytes: 0,
        lock_micros: 0,
        sources: vec![Source { path: Name("/d".into()), image: "mysql_data_dir".into() }],
        binlog: None,
        moved: Vec::new(),
        unseen: Vec::new(),
        files: Vec::new(),
    }
}

#[test]
fn from_nothing_to_complete() {
    let scene = Scene::new();
    let mut destination = scene.prepare("new").unwrap();
    let path = fs::canonicalize(scene.at("new")).unwrap();
    assert_eq!(destination.path(), path);
    assert_eq!(names(&path), ["backup_incomplete"]);
    let marker = path.join("backup_incomplete");
    assert!(fs::read_to_string(&marker).unwrap().contains("not complete"));
    let stat = fs::metadata(&path).unwrap();
    assert_eq!(destination.device_and_inode(), (stat.dev(), stat.ino()));
    assert_eq!((mode(&path), mode(&marker)), (0o750, 0o640));

    let image = destination.make_image("mysql_data_dir").unwrap();
    assert_eq!(image.path(), path.join("mysql_data_dir"));
    assert_eq!(mode(image.path()), 0o750);
    assert_refused(&destination.make_image("mysql_data_dir").unwrap_err(), libc::EEXIST, "mysql_data_dir");
    assert_refused(&destination.make_image("a\0b").unwrap_err(), libc::EINVAL, "named");

    destination.finish(&manifest()).unwrap();
    assert_eq!(names(&path), ["backup_manifest", "mysql_data_dir"]);
    assert_eq!(mode(&path.join("backup_manifest")), 0o640);
    let read = Manifest::read(fs::File::open(path.join("backup_manifest")).unwrap()).unwrap();
    assert_eq!(read, manifest());
}

#[test]
fn an_existing_empty_directory_is_taken_as_it_is() {
    let scene = Scene::new();
    fs::set_permissions(scene.at("empty"), fs::Permissions::from_mode(0o711)).unwrap();
    symlink("empty", scene.at("link")).unwrap();
    let destination = scene.prepare("link/../link//").unwrap();
    assert_eq!(destination.path(), fs::canonicalize(scene.at("empty")).unwrap());
    assert_eq!(mode(&scene.at("empty")), 0o711);
    destination.discard();
    assert_eq!(names(&scene.at("empty")), [""; 0]);
}

#[test]
fn a_umask_changes_nothing() {
    let scene = Scene::new();
    // The umask belongs to the process: a child has its own. Nothing but system calls between fork and exit.
    let path = scene.at("new");
    // SAFETY: the child makes no use of locks of other threads but malloc's, which fork(2) of glibc keeps usable.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: umask cannot fail.
        unsafe { libc::umask(0o077) };
        let made = Destination::prepare(path.as_os_str().as_bytes(), None, &[])
            .and_then(|mut destination| destination.make_image("i"));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(made.is_err())) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!((mode(&path), mode(&path.join("i"))), (0o750, 0o750));
    assert_eq!(mode(&path.join("backup_incomplete")), 0o640);
}

#[test]
fn bad_text_is_refused() {
    let refused = |path: &[u8], errno, words: &str| {
        assert_refused(&Destination::prepare(path, None, &[]).unwrap_err(), errno, words);
    };
    refused(b"backup", libc::EINVAL, "relative");
    refused(b"./backup", libc::EINVAL, "relative");
    refused(b"", libc::EINVAL, "relative");
    refused(b"/tmp/\xFF", libc::EINVAL, "UTF-8");
    refused(b"/tmp/a\0b", libc::EINVAL, "UTF-8");
    let mut long = b"/tmp/".to_vec();
    long.resize(4097, b'/');
    refused(&long, libc::ENAMETOOLONG, "4097 bytes");
    let mut long = b"/tmp/".to_vec();
    long.resize(4000, b'x');
    refused(&long, libc::ENAMETOOLONG, "/tmp/xxx");
}

#[test]
fn bad_places_are_refused() {
    let scene = Scene::new();
    fs::write(scene.at("file"), "x").unwrap();
    fs::create_dir_all(scene.at("full/sub")).unwrap();
    symlink("nowhere", scene.at("dangling")).unwrap();
    symlink("loop", scene.at("loop")).unwrap();
    scene.refused("no/parent", libc::ENOENT, "parent directory does not exist");
    scene.refused("no/such/..", libc::ENOENT, "parent directory does not exist");
    scene.refused("new/.", libc::ENOENT, "parent directory does not exist");
    scene.refused("file", libc::ENOTDIR, "/file");
    scene.refused("file/x", libc::ENOTDIR, "/file/x");
    scene.refused("full", libc::ENOTEMPTY, "'sub'");
    scene.refused("dangling", libc::ENOENT, "does not exist");
    scene.refused("loop", libc::ELOOP, "/loop");
}

#[test]
fn earlier_backups_are_told_apart() {
    let scene = Scene::new();
    drop(scene.prepare("failed").unwrap());
    scene.refused("failed", libc::ENOTEMPTY, "incomplete backup: remove it");
    scene.prepare("complete").unwrap().finish(&manifest()).unwrap();
    scene.refused("complete", libc::ENOTEMPTY, "holds a backup already");
}

#[test]
fn sources_and_destination_stay_apart() {
    let scene = Scene::new();
    symlink("data/db", scene.at("into")).unwrap();
    symlink("../empty", scene.at("data/out")).unwrap();
    for path in ["data", "data/", "data/new", "data/db", "data/db/new", "into", "into/new", "empty/../data/x"]
    {
        scene.refused(path, libc::EINVAL, "lies inside the source");
    }
    // It only looks like inside, or like the same name.
    for path in ["data/out", "data/out/new", "data2", "data/../new", "into/../../newer"] {
        scene.prepare(path).expect(path).discard();
    }
    let above = scene.prepare(".").unwrap_err();
    assert_refused(&above, libc::EINVAL, "the source");
    assert_refused(&above, libc::EINVAL, "lies inside the destination");
    // A source that is reached by a link is where the link leads.
    let real = scene.at("data/new");
    let error = Destination::prepare(real.as_os_str().as_bytes(), None, &[scene.at("into/..")]).unwrap_err();
    assert_refused(&error, libc::EINVAL, "lies inside the source");
    let error = Destination::prepare(scene.at("new").as_os_str().as_bytes(), None, &[scene.at("gone")]);
    assert_refused(&error.unwrap_err(), libc::ENOENT, "/gone");
    assert!(!scene.at("new").exists());
}

/// Runs `check` on a thread with mounts of its own. Needs CAP_SYS_ADMIN, as a CI container's root has it.
fn with_own_mounts(check: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        // SAFETY: only this thread's mount namespace (and its own copy of cwd and umask) changes.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            // SAFETY: geteuid cannot fail.
            assert_ne!(unsafe { libc::geteuid() }, 0, "root, and cannot unshare");
            println!("not checked: mounting needs CAP_SYS_ADMIN");
            return;
        }
        mount(None, Path::new("/"), libc::MS_REC | libc::MS_PRIVATE, None);
        check();
    })
    .join()
    .unwrap();
}

fn mount(source: Option<&Path>, target: &Path, flags: libc::c_ulong, kind: Option<(&CStr, &CStr)>) {
    let source = CString::new(source.unwrap_or(Path::new("none")).as_os_str().as_bytes()).unwrap();
    let target = CString::new(target.as_os_str().as_bytes()).unwrap();
    let (kind, data) =
        kind.map_or((std::ptr::null(), std::ptr::null()), |(kind, data)| (kind.as_ptr(), data.as_ptr()));
    // SAFETY: NUL-terminated strings or null, as mount(2) takes them for these flags.
    let failed = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data.cast()) };
    assert_eq!(failed, 0, "mount: {}", std::io::Error::last_os_error());
}

#[test]
fn bind_mounts_hide_nothing() {
    with_own_mounts(|| {
        let scene = Scene::new();
        for name in ["bound", "bound_db", "bound_empty", "data/db/hole", "elsewhere"] {
            fs::create_dir(scene.at(name)).unwrap();
        }
        let bind = |from: &str, to: &str| mount(Some(&scene.at(from)), &scene.at(to), libc::MS_BIND, None);
        bind("data", "bound");
        bind("data/db", "bound_db");
        scene.refused("bound/new", libc::EINVAL, "lies inside the source");
        scene.refused("bound/db", libc::EINVAL, "lies inside the source");
        scene.refused("bound_db", libc::EINVAL, "lies inside the source");
        scene.refused("bound_db/new", libc::EINVAL, "lies inside the source");
        // Reached by a path inside the source, though it is another file system's directory: it would be copied.
        bind("elsewhere", "data/db/hole");
        scene.refused("data/db/hole", libc::EINVAL, "lies inside the source");
        // An empty directory of another name is no part of the source.
        bind("empty", "bound_empty");
        scene.prepare("bound_empty").unwrap().discard();
    });
}

#[test]
fn a_full_disk_leaves_the_mark() {
    with_own_mounts(|| {
        let scene = Scene::new();
        mount(None, &scene.at("empty"), 0, Some((c"tmpfs", c"size=64k")));
        let destination = scene.prepare("empty/new").unwrap();
        let mut long = manifest();
        long.unseen = vec![Name("/x".repeat(100).into()); 2000];
        assert_refused(&destination.finish(&long).unwrap_err(), libc::ENOSPC, "backup_manifest");
        assert_eq!(names(destination.path()), ["backup_incomplete"]);

        // No room for the mark itself: nothing is left.
        drop(destination);
        fs::remove_dir_all(scene.at("empty/new")).unwrap();
        let error = fs::write(scene.at("empty/fill"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        scene.refused("empty/new", libc::ENOSPC, "/empty/new");

        // Nor on a read-only file system.
        mount(None, &scene.at("empty"), libc::MS_REMOUNT | libc::MS_RDONLY, None);
        scene.refused("empty/new", libc::EROFS, "/empty/new");
    });
}

#[test]
fn what_is_not_writable_is_refused() {
    let scene = Scene::new();
    fs::set_permissions(scene.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(scene.at("empty"), fs::Permissions::from_mode(0o555)).unwrap();
    std::thread::spawn(move || {
        // For this thread alone, and back to it: whoever root is to the file system from here on. As another user
        // the directories are closed by their modes anyway.
        // SAFETY: setfsuid(2) takes a number and cannot fail.
        unsafe { libc::setfsuid(65534) };
        scene.refused("empty", libc::EACCES, "/empty");
        scene.refused("empty/new", libc::EACCES, "/empty/new");
        // SAFETY: as above.
        unsafe { libc::setfsuid(0) };
        scene.prepare("fine").unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn the_allowed_prefix_is_compared_by_component() {
    let scene = Scene::new();
    for name in ["backup/old", "backup2"] {
        fs::create_dir_all(scene.at(name)).unwrap();
    }
    symlink("../backup2", scene.at("backup/out")).unwrap();
    symlink("backup", scene.at("prefix")).unwrap();
    for prefix in ["backup", "prefix", "backup/../backup/"] {
        for path in ["backup/new", "backup/old", "backup/old/new", "prefix/new", "backup2/../backup/new"] {
            scene.prepare_below(path, Some(prefix)).expect(path).discard();
        }
        for path in ["backup2", "backup2/new", "backup/out", "backup/out/new", "backup/../new", "new"] {
            let error = scene.prepare_below(path, Some(prefix)).expect_err(path);
            assert_refused(&error, libc::EPERM, "not below the allowed prefix");
        }
    }
    assert!(!scene.at("new").exists() && !scene.at("backup2/new").exists());
    let error = scene.prepare_below("backup/new", Some("missing")).unwrap_err();
    assert_refused(&error, libc::ENOENT, "cannot use the allowed prefix");
    let relative = Destination::prepare(b"/tmp/x", Some(Path::new(".")), &[]).unwrap_err();
    assert_refused(&relative, libc::EPERM, "not below");
}

#[test]
fn a_destination_that_is_gone_is_no_success() {
    let scene = Scene::new();
    let gone = |destination: &Destination| {
        assert_refused(&destination.finish(&manifest()).unwrap_err(), libc::ENOENT, "removed or replaced");
    };
    // Removed; removed and made anew; moved; its parent moved; its image removed.
    let destination = scene.prepare("a").unwrap();
    fs::remove_dir_all(scene.at("a")).unwrap();
    gone(&destination);
    fs::create_dir(scene.at("a")).unwrap();
    gone(&destination);
    assert_eq!(names(&scene.at("a")), [""; 0]);

    let destination = scene.prepare("b").unwrap();
    fs::rename(scene.at("b"), scene.at("c")).unwrap();
    gone(&destination);
    assert_eq!(names(&scene.at("c")), ["backup_incomplete"]);
    fs::rename(scene.at("c"), scene.at("b")).unwrap();
    destination.finish(&manifest()).unwrap();

    fs::create_dir(scene.at("parent")).unwrap();
    let mut destination = scene.prepare("parent/d").unwrap();
    let image = destination.make_image("mysql_data_dir").unwrap().path().to_owned();
    fs::rename(scene.at("parent"), scene.at("moved")).unwrap();
    gone(&destination);
    fs::rename(scene.at("moved"), scene.at("parent")).unwrap();
    fs::rename(&image, scene.at("image")).unwrap();
    fs::create_dir(&image).unwrap();
    gone(&destination);
    assert!(scene.at("parent/d/backup_incomplete").exists());
    fs::remove_dir(&image).unwrap();
    fs::rename(scene.at("image"), &image).unwrap();
    destination.finish(&manifest()).unwrap();
}

#[test]
fn a_manifest_is_not_written_over_anything() {
    let scene = Scene::new();
    let destination = scene.prepare("new").unwrap();
    symlink("/etc/passwd", scene.at("new/backup_manifest.unfinished")).unwrap();
    assert_refused(&destination.finish(&manifest()).unwrap_err(), libc::EEXIST, "backup_manifest");
    assert!(scene.at("new/backup_incomplete").exists());
    // It was only a name in our way; it is gone now.
    destination.finish(&manifest()).unwrap();
}

#[test]
fn what_is_discarded_leaves_nothing() {
    let scene = Scene::new();
    let before = scene.everything();
    let mut destination = scene.prepare("new").unwrap();
    destination.make_image("a").unwrap();
    destination.make_image("b").unwrap();
    destination.discard();
    assert_eq!(scene.everything(), before);
    // What holds something stays, marked.
    let mut destination = scene.prepare("new").unwrap();
    let image = destination.make_image("a").unwrap();
    fs::write(image.path().join("x"), "").unwrap();
    destination.discard();
    assert_eq!(names(&scene.at("new")), ["a", "backup_incomplete"]);
    // A directory that has taken the place of ours is not ours to remove.
    let destination = scene.prepare("other").unwrap();
    fs::remove_dir_all(scene.at("other")).unwrap();
    fs::create_dir(scene.at("other")).unwrap();
    destination.discard();
    assert!(scene.at("other").exists());
}

#[test]
fn paths_with_names_that_are_not_utf8_can_be_sources() {
    let scene = Scene::new();
    let source = scene.at("").join(std::ffi::OsString::from_vec(b"src\xFF".to_vec()));
    fs::create_dir(&source).unwrap();
    let path = scene.at("new");
    Destination::prepare(path.as_os_str().as_bytes(), None, &[source]).unwrap();
}

/// Another process that exchanges two names in a tight loop.
struct Swapper(libc::pid_t);

impl Swapper {
    fn new(one: &Path, other: &Path) -> Swapper {
        let [one, other] = [one, other].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
        // SAFETY: the child makes system calls on what was made ready before, and nothing else; it ends with its parent.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: constants and two C strings.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    let here = libc::AT_FDCWD;
                    libc::renameat2(here, one.as_ptr(), here, other.as_ptr(), libc::RENAME_EXCHANGE);
                }
            }
        }
        assert!(child > 0);
        Swapper(child)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        // SAFETY: a child of ours, which nobody else waits for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Takes the link away, whichever of the two it is now.
fn put_back(target: &Path, link: &Path) {
    if target.is_symlink() {
        fs::remove_file(target).unwrap();
        fs::rename(link, target).unwrap();
    } else {
        fs::remove_file(link).unwrap();
    }
}

/// A component is a directory at one moment and a link out of the prefix, or into the source, at the next: nothing is
/// made on the other side.
#[test]
fn a_component_that_is_swapped_leads_nowhere() {
    let scene = Scene::new();
    for name in ["allowed/way/old", "outside/old", "data/old"] {
        fs::create_dir_all(scene.at(name)).unwrap();
    }
    let untouched = || {
        for (place, held) in
            [("outside", &["old"][..]), ("outside/old", &[]), ("data", &["db", "old"]), ("data/old", &[])]
        {
            assert_eq!(names(&scene.at(place)), held, "{place}");
        }
    };
    for (lead, prefix) in [("outside", Some("allowed")), ("data", None)] {
        let link = scene.at("link");
        symlink(scene.at(lead), &link).unwrap();
        let swapper = Swapper::new(&scene.at("allowed/way"), &link);
        let (mut made, mut refused) = (0, 0);
        // Each kind comes by chance: until there were some of both.
        while made < 60 || refused < 60 {
            for path in ["allowed/way/new", "allowed/way/old"] {
                match scene.prepare_below(path, prefix) {
                    Ok(mut destination) => {
                        made += 1;
                        destination.make_image("image").unwrap();
                        destination.write("file", b"content").unwrap();
                        untouched();
                        destination.folder().remove_file(c"file").unwrap();
                        destination.discard();
                    }
                    Err(error) => {
                        refused += 1;
                        assert!([libc::EPERM, libc::EINVAL].contains(&error.errno), "{error}");
                    }
                }
                untouched();
            }
        }
        println!("{lead}: {made} made, {refused} refused");
        drop(swapper);
        put_back(&scene.at("allowed/way"), &link);
    }
}

/// The destination itself and what is below it: everything that is done in it while a component is swapped.
#[test]
fn what_is_below_is_never_reached_through_a_link() {
    let scene = Scene::new();
    fs::create_dir_all(scene.at("outside/a/b")).unwrap();
    fs::write(scene.at("outside/a/b/file"), "precious").unwrap();
    let destination = scene.prepare("new").unwrap();
    let folder = destination.folder();
    fs::create_dir_all(scene.at("new/a/b")).unwrap();
    fs::write(scene.at("new/a/b/file"), "ours").unwrap();
    for (target, lead) in
        [("new/a", "outside/a"), ("new/a/b", "outside/a/b"), ("new/a/b/file", "outside/a/b/file")]
    {
        let link = scene.at("link");
        symlink(scene.at(lead), &link).unwrap();
        let swapper = Swapper::new(&scene.at(target), &link);
        let below = Path::new("a/b/file");
        let (mut read, mut refused) = (0, 0);
        while read < 300 || refused < 300 {
            match folder.read_below(below) {
                Ok(content) => {
                    read += 1;
                    assert_eq!(content.as_deref(), Some(&b"ours"[..]));
                }
                Err(error) => {
                    refused += 1;
                    assert!([libc::ELOOP, libc::ENOTDIR].contains(&error.errno), "{error}");
                }
            }
            let made = folder.folder(Path::new("a/b")).and_then(|folder| {
                folder.create(c"made", FILE_MODE)?;
                folder.make_folder(c"folder", DIRECTORY_MODE)?.create(c"made", FILE_MODE)?;
                folder.folder(Path::new("folder"))?.remove_file(c"made")?;
                folder.remove_folder(c"folder")?;
                folder.remove_file(c"made")
            });
            if let Err(error) = made {
                assert!([libc::ELOOP, libc::ENOTDIR].contains(&error.errno), "{error}");
            }
            assert_eq!(names(&scene.at("outside/a/b")), ["file"]);
            folder
                .walk(Path::new("a"), &mut |path, _, _, _| {
                    assert!(path.starts_with("a"));
                    Ok(())
                })
                .or_else(|error| {
                    if [libc::ELOOP, libc::ENOTDIR].contains(&error.errno) { Ok(()) } else { Err(error) }
                })
                .unwrap();
        }
        drop(swapper);
        put_back(&scene.at(target), &link);
    }
    assert_eq!(fs::read_to_string(scene.at("outside/a/b/file")).unwrap(), "precious");
    // Ways out that need no link, and what is no file.
    for path in ["/etc/passwd", "../data", "a/../../data/db", "."] {
        assert_refused(
            &folder
                .folder(Path::new(path))
                .map(drop)
                .and(folder.read_below(Path::new(path)).map(drop))
                .unwrap_err(),
            libc::EINVAL,
            path,
        );
    }
    let fifo = CString::new(scene.at("new/fifo").as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    assert_refused(&folder.read(c"fifo").unwrap_err(), libc::ELOOP, "no regular file");
    let error = folder.folder(Path::new("nowhere")).unwrap_err();
    assert_refused(&error, libc::ENOENT, "/new/nowhere");
}
