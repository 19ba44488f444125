//! The directory of a backup on a file system of which the n-th call fails, for every n: the error is told, and what
//! is there never looks like a backup unless it is one.
//!
//! The images' content is not the matter here (`tests/twin`, tests `faults`), so that all of it takes seconds.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use faulty::{Fault, Faulty, Op};
use tokudb_backup::engine::destination::{Destination, INCOMPLETE, MANIFEST};
use tokudb_backup::engine::error::{Error, Result, describe};
use tokudb_backup::engine::manifest::{FORMAT, Manifest, Time};

fn manifest() -> Manifest {
    let time = Time(Duration::from_secs(1_700_000_000));
    Manifest {
        format: FORMAT,
        library: "1".into(),
        plugin: "1".into(),
        server: None,
        started: time,
        ended: time,
        instant: time,
        passes: 1,
        gate_micros: 1,
        gate_bytes: 0,
        lock_micros: 0,
        sources: Vec::new(),
        binlog: None,
        moved: Vec::new(),
        unseen: Vec::new(),
        files: Vec::new(),
    }
}

/// What a server's backup does with its destination.
fn back_up(dir: &Path, source: &Path) -> Result<()> {
    let mut destination = Destination::prepare(dir.as_os_str().as_bytes(), None, &[source.to_owned()])?;
    for image in ["mysql_data_dir", "mysql_log_bin"] {
        if let Err(error) = destination.make_image(image) {
            destination.discard();
            return Err(error);
        }
    }
    destination.remove_image("mysql_log_bin")?;
    destination.write("backup_my.cnf", b"[mysqld]\n")?;
    destination.finish(&manifest())
}

/// How calls fail: the n-th only; it and all after it; the n-th of a kind and all of that kind after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    One,
    AllFrom,
    Kind(Op),
}

/// All calls of a backup into a directory that is there already, or is to be made. Returns how many there were.
fn sweep(fault: Fault, which: Which, exists: bool) -> u64 {
    let scratch = tempfile::tempdir().unwrap();
    let [source, behind, at] = ["source", "behind", "at"].map(|name| scratch.path().join(name));
    [&source, &behind, &at].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let mut faulty = Faulty::mount(&behind, &at).unwrap();
    for n in 1.. {
        let (dir, hidden) = (at.join("backup"), behind.join("backup"));
        if exists {
            fs::create_dir(&hidden).unwrap();
        }
        match which {
            Which::One => faulty.arm_nth(n, fault),
            Which::AllFrom => faulty.arm_from(n, fault),
            Which::Kind(op) => faulty.arm_kind_from(op, n, fault),
        }
        let result = back_up(&dir, &source);
        let struck = faulty.struck();
        faulty.release();
        if fault == Fault::Dies {
            drop(faulty);
            faulty = Faulty::mount(&behind, &at).unwrap();
        }
        let what = format!("{fault:?}, {which:?} {n}: {struck:?}: {result:?}");
        check(&result, fault, which, &hidden, exists, &at, &what);
        if hidden.exists() {
            fs::remove_dir_all(&hidden).unwrap();
        }
        if struck.is_none() {
            assert!(result.is_ok(), "{what}");
            assert!(n > 40 || matches!(which, Which::Kind(_)), "a backup makes more than {n} calls");
            return n - 1;
        }
    }
    unreachable!()
}

fn check(result: &Result<()>, fault: Fault, which: Which, dir: &Path, existed: bool, at: &Path, what: &str) {
    let holds = |name: &std::ffi::CStr| dir.join(name.to_str().unwrap()).exists();
    let complete =
        holds(MANIFEST) && dir.join("backup_my.cnf").exists() && dir.join("mysql_data_dir").exists();
    match result {
        Ok(()) => assert!(complete && !holds(INCOMPLETE), "{what}"),
        Err(error) => {
            told(error, fault, at, what);
            if holds(INCOMPLETE) {
                return;
            }
            // Nothing is there, or, where nothing can be removed any more, an empty directory.
            let empty = !dir.exists() || fs::read_dir(dir).unwrap().next().is_none();
            let could = which == Which::One && fault != Fault::Dies && !what.contains("Rmdir");
            assert!(!could || existed || !dir.exists(), "a directory was left: {what}");
            // Or the mark has gone and what failed after that is whether that is durable; to set it again fails, too.
            let last = complete && (which == Which::AllFrom || fault == Fault::Dies);
            assert!(empty || last, "not marked: {what}");
        }
    }
}

fn told(error: &Error, fault: Fault, at: &Path, what: &str) {
    match fault {
        Fault::Fails(errno) => {
            assert_eq!(error.errno, errno, "{what}");
            assert!(error.message.contains(&describe(errno)), "{what}");
        }
        // What was under way when it went away ends with ECONNABORTED.
        _ => assert!([libc::ENOTCONN, libc::ECONNABORTED, libc::ENOENT].contains(&error.errno), "{what}"),
    }
    assert!(error.message.contains(at.to_str().unwrap()), "no path: {what}");
}

#[test]
fn every_call_may_fail() {
    if !is_root() {
        return;
    }
    for which in [Which::One, Which::AllFrom] {
        for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EACCES] {
            for exists in [false, true] {
                let calls = sweep(Fault::Fails(errno), which, exists);
                println!("{}: {which:?}, exists: {exists}: {calls} calls", describe(errno));
            }
        }
    }
}

#[test]
fn every_kind_of_call_may_fail_from_then_on() {
    if !is_root() {
        return;
    }
    for op in [Op::Sync, Op::Create, Op::Write, Op::Setattr, Op::Rename, Op::Unlink, Op::Rmdir, Op::Mkdir] {
        let calls = sweep(Fault::Fails(libc::EIO), Which::Kind(op), false);
        assert!(calls > 0, "no {op:?}");
    }
}

#[test]
fn it_may_go_away_at_every_call() {
    if !is_root() {
        return;
    }
    for exists in [false, true] {
        let calls = sweep(Fault::Dies, Which::One, exists);
        println!("gone, exists: {exists}: {calls} calls");
    }
}

/// Only root may mount.
fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}
