//! A server that gets no more threads or descriptors from its system than it has.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use lab::client::{Conn, SqlError};

use crate::bench::{Bench, failed, incomplete, set_dir};

/// Accounts that every Debian has and nobody uses: a limit of processes counts all that run under a number.
fn user(name: &str) -> u32 {
    if name == "mysql-9.7" { 10 } else { 13 }
}

fn count(pid: u32, what: &str) -> u64 {
    fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count() as u64
}

/// Gives the server another soft limit, and what it had before back at the end. Under its own number:
/// root in a container may not do that to others.
fn limited<T>(bench: &Bench, what: &str, most: u64, work: impl FnOnce() -> T) -> T {
    let pid = bench.server.pid().unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let name = if what == "nproc" { "Max processes" } else { "Max open files" };
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let soft = line.split_whitespace().next().unwrap().to_owned();
    let set = |soft: &str| {
        let user = bench.server.options.user.unwrap_or(0);
        let mut prlimit = Command::new("prlimit");
        prlimit.args([&format!("--pid={pid}"), &format!("--{what}={soft}:")]);
        assert!(prlimit.uid(user).gid(user).status().unwrap().success(), "{prlimit:?}");
    };
    set(&most.to_string());
    let result = work();
    set(&soft);
    result
}

/// One backup with so much more than the server has; whether it failed, as it may, for want of it.
fn take(
    bench: &mut Bench,
    conn: &mut Conn,
    (what, counted): (&str, &str),
    room: u64,
    (errno, text): (i32, &str),
) -> bool {
    let pid = bench.server.pid().unwrap();
    let dir = bench.backups.join(format!("{counted}-{room}"));
    let most = count(pid, counted) + room;
    let taken: Result<u64, SqlError> = limited(bench, what, most, || conn.exec(set_dir(&dir)));
    if let Err(error) = &taken {
        failed(conn, error, errno, &[text]);
        if dir.exists() {
            incomplete(&dir);
        }
    } else {
        assert!(dir.join("backup_manifest").exists() && !dir.join("backup_incomplete").exists());
    }
    bench.nothing_left();
    bench.writes_go_on();
    taken.is_err()
}

pub fn no_threads(name: &str) {
    let mut bench = Bench::with(name, Some(user(name)), |_| Vec::new());
    let mut conn = bench.connect();
    let fails: Vec<bool> = (0..4)
        .map(|room| {
            let wanted = (libc::EAGAIN, "cannot start a thread");
            take(&mut bench, &mut conn, ("nproc", "task"), room, wanted)
        })
        .collect();
    assert!(fails[0], "a backup without a thread");
    println!("{name}: {fails:?}");
    bench.recovers();
    bench.nothing_lost();
}

/// Never less than the server itself needs to go on: MySQL 9.7 aborts when it cannot open a directory to sync it.
pub fn no_descriptors(name: &str) {
    let mut bench = Bench::new(name);
    let mut conn = bench.connect();
    let fails: Vec<bool> = [8, 16, 48, 128, 256]
        .into_iter()
        .map(|room| {
            let wanted = (libc::EMFILE, "file descriptors left");
            take(&mut bench, &mut conn, ("nofile", "fd"), room, wanted)
        })
        .collect();
    // The server opens and closes some of its own meanwhile.
    assert_eq!(fails, [true, true, true, false, false]);
    bench.recovers();
    bench.nothing_lost();
}
