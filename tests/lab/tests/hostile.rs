//! What others put in the way of a backup: who may write to the destination, or near it, swaps directories for links
//! and plants names all the time; who may write to the data directory makes FIFOs and devices there; who may take
//! backups asks for places and expressions that he should not have. docs/security.md says what comes of it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::client::{Conn, ConnOptions};
use lab::plugged::{INSTALL, Plugged, SMALL, backs_up, is_complete, last, refused, set_dir};
use lab::scratch::Scratch;

/// Backups for each kind of attack.
const ROUNDS: usize = 6;

macro_rules! on_two_servers {
    ($($theme:ident)*) => {$(
        mod $theme {
            #[test]
            fn mysql_5_6() {
                super::$theme("mysql-5.6.24");
            }
            #[test]
            fn mariadb_10_11() {
                super::$theme("mariadb-10.11");
            }
        }
    )*};
}

on_two_servers! { destination requests }

/// A server with binary logs elsewhere, so that there are two images, and an index that names logs by full paths.
fn server(name: &str, prefix: Option<&Path>) -> (Plugged, Conn, Scratch) {
    let logs = Scratch::new(&format!("logs-{name}")).unwrap();
    let quick = ["--innodb-use-native-aio=0", "--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"];
    let log_bin = format!("--log-bin={}", logs.path().join("bl").display());
    let prefix = prefix.map(|prefix| format!("--loose-tokudb-backup-allowed-prefix={}", prefix.display()));
    let args = quick.iter().map(|&arg| arg.to_owned()).chain([log_bin, "--server-id=1".to_owned()]);
    let lab = Plugged::new(name, &args.chain(prefix).collect::<Vec<_>>());
    let mut conn = lab.server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    conn.exec(format!("SET tokudb_backup_exclude = '{SMALL}'")).unwrap();
    conn.exec("CREATE DATABASE d").unwrap();
    for table in 0..5 {
        conn.exec(format!("CREATE TABLE d.t{table} (a INT) ENGINE=MyISAM")).unwrap();
    }
    (lab, conn, logs)
}

/// What nobody may touch: what the kernel says of every name below, and what each file holds.
fn everything(root: &Path) -> BTreeMap<PathBuf, (u64, u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(path, (meta.ino(), meta.mode(), meta.ctime(), meta.ctime_nsec(), content));
    }
    found
}

fn exchange(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
    let here = libc::AT_FDCWD;
    // SAFETY: two C strings and constants.
    unsafe { libc::renameat2(here, one.as_ptr(), here, other.as_ptr(), libc::RENAME_EXCHANGE) == 0 }
}

/// A place outside that looks as a backup would, with what would be read or rewritten there.
fn decoy(root: &Path) -> PathBuf {
    let dest = root.join("dest");
    for directory in ["mysql_data_dir/d", "mysql_log_bin", "../store"] {
        fs::create_dir_all(dest.join(directory)).unwrap();
    }
    for table in 0..5 {
        fs::write(dest.join(format!("mysql_data_dir/d/t{table}.MYD")), "precious").unwrap();
    }
    symlink("/somewhere/else", dest.join("mysql_data_dir/d/link")).unwrap();
    for image in ["mysql_data_dir", "mysql_log_bin"] {
        fs::write(dest.join(image).join("bl.index"), "/precious/bl.000001\n").unwrap();
        fs::write(dest.join(image).join("bl.000001"), "precious").unwrap();
    }
    fs::write(dest.join("victim"), "precious").unwrap();
    dest
}

/// One backup after another, to `dest`, while `act` is done over and over by this process, which is not the server.
fn attacked(conn: &mut Conn, dest: &Path, act: &(dyn Fn() -> bool + Sync)) -> (Result<(), String>, u64) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            let mut acts = 0;
            while !over.load(Ordering::SeqCst) {
                acts += u64::from(act());
            }
            acts
        });
        let result = conn.exec(set_dir(dest));
        over.store(true, Ordering::SeqCst);
        (result.map(drop).map_err(|error| error.to_string()), attacker.join().unwrap())
    })
}

/// Directories on the way to the destination and in it are swapped for links that lead to a decoy; names that the
/// backup will make are planted. The decoy stays as it is, whatever comes of the backup.
fn destination(name: &str) {
    let places = Scratch::new(&format!("hostile-{name}")).unwrap();
    let [allowed, outside, link] = ["allowed", "outside", "link"].map(|name| places.path().join(name));
    fs::create_dir(&allowed).unwrap();
    let decoy = decoy(&outside);
    let before = everything(&outside);
    let (lab, mut conn, _logs) = server(name, Some(&allowed));
    let conn = &mut conn;
    let victim = decoy.join("victim");
    let way = allowed.join("way");
    let dest = way.join("dest");
    let kinds: [(&str, &Path); 7] = [
        // What is swapped, below `way`, and where the link leads in the decoy. `way` itself leads out of the prefix.
        ("", Path::new("..")),
        ("dest", Path::new("")),
        ("dest/mysql_data_dir", Path::new("mysql_data_dir")),
        ("dest/mysql_data_dir/.tokudb_backup.store", Path::new("../store")),
        ("dest/mysql_data_dir/d", Path::new("mysql_data_dir/d")),
        ("dest/mysql_log_bin", Path::new("mysql_log_bin")),
        ("planted", Path::new("")),
    ];
    for (what, leads) in kinds {
        let (mut complete, mut attacks, mut errors) = (0, 0, BTreeMap::<String, u32>::new());
        for round in 0..ROUNDS {
            fs::create_dir(&way).unwrap();
            let target = if what.is_empty() { way.clone() } else { way.join(what) };
            symlink(decoy.join(leads), &link).unwrap();
            let (result, acts) = match what {
                "planted" => attacked(conn, &dest, &|| plant(&dest, &victim)),
                _ => attacked(conn, &dest, &|| exchange(&target, &link)),
            };
            if target.is_symlink() && link.exists() {
                assert!(exchange(&target, &link));
            }
            assert_eq!(everything(&outside), before, "{what}, round {round}: {result:?}");
            attacks += acts;
            match result {
                Ok(()) => {
                    // What is swapped inside an image may be missing in the manifest, as it was at that moment.
                    let listed = what.ends_with("/d") || is_complete(&dest);
                    assert!(listed && dest.join("backup_manifest").is_file(), "{what}, round {round}");
                    complete += 1;
                }
                Err(error) => {
                    let [errno, text, _] = last(conn);
                    let known = [
                        libc::ELOOP,
                        libc::ENOENT,
                        libc::ENOTDIR,
                        libc::EPERM,
                        libc::EEXIST,
                        libc::ENOTEMPTY,
                    ];
                    let known = known.iter().any(|known| errno == known.to_string());
                    assert!(known && text.contains('/'), "{what}, round {round}: {error}: {errno} {text}");
                    // A planted one is none.
                    let manifest = dest.join("backup_manifest").symlink_metadata();
                    assert!(!manifest.is_ok_and(|meta| meta.is_file()), "{what}, round {round}: {text}");
                    *errors.entry(errno).or_default() += 1;
                }
            }
            for left in [&link, &way] {
                let _ = fs::remove_dir_all(left);
            }
        }
        println!(
            "{name}: '{what}': {attacks} attacks, {complete} backups complete, refused by errno: {errors:?}"
        );
        assert!(attacks > 0, "nothing was attacked: {what}");
    }
    // And when nobody disturbs it, all is well, and no copy is open to others who could not read the original.
    for round in 0..ROUNDS {
        let dest = allowed.join(format!("quiet-{round}"));
        let open = std::sync::Mutex::new(Vec::new());
        let (result, looks) = attacked(conn, &dest, &|| {
            open.lock().unwrap().extend(open_to_others(&dest));
            true
        });
        result.unwrap();
        assert!(is_complete(&dest) && looks > 0);
        let open = open.into_inner().unwrap();
        // What is open in the source is so in the image, the two top directories too.
        let images = ["mysql_data_dir", "mysql_log_bin"];
        let allowed = |name: &str| {
            let data = lab.server.data();
            images.contains(&name) || is_open(&data.join(name)) || is_open(&data.join("d").join(name))
        };
        let wrong: Vec<_> = open.iter().filter(|name| !allowed(name)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        for (file, mode) in [
            ("", 0o750),
            ("backup_manifest", 0o640),
            ("backup_my.cnf", 0o640),
            ("tokubackup_binlog_info", 0o640),
        ] {
            let meta = dest.join(file).metadata().unwrap();
            assert_eq!(meta.mode() & 0o7777, mode, "{file}");
            assert_eq!(meta.uid(), lab.server.data().metadata().unwrap().uid(), "{file}");
        }
    }
}

/// Puts links and FIFOs where the backup is about to make something.
fn plant(dest: &Path, victim: &Path) -> bool {
    let mut names =
        ["backup_manifest.unfinished", "backup_my.cnf", "tokubackup_binlog_info", "backup_manifest"]
            .map(|name| dest.join(name))
            .to_vec();
    names.push(dest.join("mysql_log_bin/bl.index.tokudb_backup_new"));
    names.extend((1..20).map(|number| dest.join(format!("mysql_data_dir/.tokudb_backup.store/{number}"))));
    let mut planted = false;
    for (number, name) in names.iter().enumerate() {
        planted |= if number % 2 == 0 {
            symlink(victim, name).is_ok()
        } else {
            let name = CString::new(name.as_os_str().as_bytes()).unwrap();
            // SAFETY: a C string.
            unsafe { libc::mkfifo(name.as_ptr(), 0o666) == 0 }
        };
    }
    planted
}

fn is_open(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| !meta.is_symlink() && meta.mode() & 0o007 != 0)
}

/// Names below the destination that others than the server's user and group may use.
fn open_to_others(dest: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dest.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if is_open(&entry.path()) {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    found
}

/// What the user asks for, and what lies in the data directory.
fn requests(name: &str) {
    let (lab, mut conn, _logs) = server(name, None);
    // Who waits for a FIFO is not waited for.
    let patient = ConnOptions { read_timeout: Some(Duration::from_secs(120)), ..lab.server.conn_options() };
    let mut hasty = Conn::connect(&patient).unwrap();
    let never = lab.backup("never");
    let data = lab.server.data().to_owned();

    // FIFOs, devices, sockets.
    let mut sockets = Vec::new();
    for place in ["", "d"] {
        let make = |name: &str, kind, device| {
            let path = CString::new(data.join(place).join(name).as_os_str().as_bytes()).unwrap();
            // SAFETY: a C string and numbers. Devices are root's to make.
            unsafe { libc::mknod(path.as_ptr(), kind | 0o666, device) }
        };
        for name in ["f.isl", "f.ibd", "f.MYD", "ib_logfile7"] {
            assert_eq!(make(name, libc::S_IFIFO, 0), 0);
        }
        make("null.isl", libc::S_IFCHR, libc::makedev(1, 3));
        make("zero.MYD", libc::S_IFCHR, libc::makedev(1, 5));
        make("block.ibd", libc::S_IFBLK, libc::makedev(7, 63));
        sockets.push(std::os::unix::net::UnixListener::bind(data.join(place).join("so.isl")).ok());
    }
    hasty.exec(format!("SET tokudb_backup_exclude = '{SMALL}'")).unwrap();
    let dest = lab.backup("special");
    backs_up(&mut hasty, &dest);
    let mut left = vec![dest.clone()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            let special =
                kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device();
            assert!(!special, "{}", entry.path().display());
            if kind.is_dir() {
                left.push(entry.path());
            }
        }
    }
    let manifest = fs::read_to_string(dest.join("backup_manifest")).unwrap();
    for name in ["f.isl", "zero.MYD", "block.ibd", "so.isl"] {
        assert!(!manifest.contains(name), "{name}");
    }
    for place in ["", "d"] {
        for name in ["f.isl", "f.ibd", "f.MYD", "ib_logfile7", "null.isl", "zero.MYD", "block.ibd", "so.isl"]
        {
            let _ = fs::remove_file(data.join(place).join(name));
        }
    }

    // Expressions: too long, and too much of it.
    let expressions = [
        "REPEAT('a', 1000000)",
        "REPEAT('(a|', 340000)",
        "CONCAT(REPEAT('(', 40), 'a', REPEAT('){1000}', 40))",
        "'((a{1000}){1000}){1000}'",
        "'(a{32767}){32767}'",
        "'(){32767}{32767}{32767}'",
    ];
    for expression in expressions {
        // That a server takes no such long value is as good.
        if hasty.exec(format!("SET tokudb_backup_exclude = {expression}")).is_ok() {
            refused(&mut hasty, set_dir(&never), 1105, libc::EINVAL, "expression");
        }
    }
    assert!(!never.exists());
    // Of exponential shape elsewhere; here it is an expression like any other.
    hasty.exec("SET tokudb_backup_exclude = '^(x+x+)+y$|^(a|a)*#$|(.*)*~$'").unwrap();
    backs_up(&mut hasty, &lab.backup("exponential"));

    // A directory that is left out is a part of the source all the same.
    fs::create_dir_all(data.join("left/out")).unwrap();
    hasty.exec(format!("SET tokudb_backup_exclude = '{SMALL}|/data/left'")).unwrap();
    refused(&mut hasty, set_dir(&data.join("left/out")), 1105, libc::EINVAL, "inside the source");
    refused(&mut hasty, set_dir(&data.join("left/new")), 1105, libc::EINVAL, "inside the source");
    fs::remove_dir_all(data.join("left")).unwrap();
    conn.exec("DROP DATABASE d").unwrap();
}
