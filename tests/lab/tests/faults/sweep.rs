//! Every call that a real server's backup makes on its destination fails, once or from then on: a stride of them in the
//! suite, each by `cargo xtask faults --server NAME`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use faulty::Fault;
use lab::client::{Conn, SqlError};

use crate::bench::{Bench, failed, set_dir};

/// What makes the number of calls large and adds nothing.
const EXCLUDE: &str =
    "/(mysql|sys|performance_schema|test|#innodb_redo|#innodb_temp)(/|$)|ib_logfile|/undo|\\\\.pem$";

/// By command: this server, this errno, every so manieth call.
fn given(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[test]
fn mysql() {
    sweep("mysql-9.7");
}

#[test]
fn mariadb() {
    sweep("mariadb-11.8");
}

fn small(bench: &Bench) -> Conn {
    let mut conn = bench.connect();
    conn.exec(format!("SET tokudb_backup_exclude = '{EXCLUDE}'")).unwrap();
    conn
}

fn sweep(usual: &str) {
    let name = given("FAULTS_SERVER").unwrap_or_else(|| usual.to_owned());
    let mut bench = Bench::with(&name, None, |_| Vec::new());
    let dir = bench.faulty.path().join("backup");
    for _ in 0..3 {
        bench.faulty.arm_nth(u64::MAX, Fault::Fails(libc::EIO));
        small(&bench).exec(set_dir(&dir)).unwrap();
        fs::remove_dir_all(bench.faulty.behind().join("backup")).unwrap();
    }
    let calls = bench.faulty.counted();
    let step = given("FAULTS_STRIDE").map_or(calls / 5, |stride| stride.parse().unwrap()).max(1);
    let errnos = match given("FAULTS_ERRNO") {
        Some(errno) => vec![errno.parse().unwrap()],
        None => vec![libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS],
    };
    let (begun, memory, mut swept) = (Instant::now(), bench.server.memory(), 0);
    // Now this errno, now that one; now one call, now all from there on; and, by command, each of them for every call.
    let ways: Vec<_> = errnos.iter().flat_map(|errno| [(*errno, true), (*errno, false)]).collect();
    let sweeps = if given("FAULTS_STRIDE").is_some() { ways.len() } else { 1 };
    for first in 0..sweeps {
        for n in (1..).step_by(step as usize) {
            let (errno, once) = ways[if sweeps > 1 { first } else { ((n - 1) / step) as usize % ways.len() }];
            match once {
                true => bench.faulty.arm_nth(n, Fault::Fails(errno)),
                false => bench.faulty.arm_from(n, Fault::Fails(errno)),
            }
            // In a session of its own, which has taken no other backup.
            let mut conn = small(&bench);
            let result = conn.exec(set_dir(&dir)).map(drop);
            let struck = bench.faulty.struck();
            bench.faulty.release();
            let what = format!("{name}: errno {errno} at call {n} (once: {once}), {struck:?}: {result:?}");
            let hidden = bench.faulty.behind().join("backup");
            check(&mut conn, &result, errno, once, bench.faulty.path(), &hidden, &what);
            if hidden.exists() {
                fs::remove_dir_all(&hidden).unwrap();
            }
            bench.recovers_with(&mut conn);
            if struck.is_none() {
                assert!(result.is_ok(), "{what}");
                break;
            }
            swept += 1;
        }
    }
    let more = bench.server.memory().saturating_sub(memory);
    let time = begun.elapsed().as_secs_f64();
    println!("{name}: {swept} backups failed, of {calls} calls each, {time:.1} s, {more} KiB more");
    // Of the server itself, a buffer pool that fills; of a backup alone, 32 MiB and more.
    assert!(swept > 2 && more < 256 << 10, "{more} KiB more");
    bench.nothing_lost();
}

fn check(
    conn: &mut Conn,
    result: &Result<(), SqlError>,
    errno: i32,
    once: bool,
    at: &Path,
    dir: &Path,
    what: &str,
) {
    let (marked, complete) = (dir.join("backup_incomplete").exists(), dir.join("backup_manifest").exists());
    let Err(error) = result else {
        assert!(complete && !marked, "{what}");
        return;
    };
    println!("{what}");
    let cause = std::io::Error::from_raw_os_error(errno).to_string();
    let cause = cause.split(" (").next().unwrap();
    failed(conn, error, errno, &[at.to_str().unwrap(), cause]);
    let empty = !dir.exists() || fs::read_dir(dir).unwrap().next().is_none();
    // The very last: the mark had been taken away, and could not be set again.
    let last = complete && !once;
    assert!(marked || empty || last, "not marked: {what}");
}

/// The server's user may not write there any more.
#[test]
fn permission_taken_away() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let mut bench = Bench::with("mariadb-11.8", Some(crate::bench::NOBODY), |_| Vec::new());
    let dir = bench.backups.join("backup");
    let running = bench.paused(&dir);
    let image = dir.join("mysql_data_dir");
    for path in [image.join(".tokudb_backup.store"), image, dir.clone()] {
        chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    }
    bench.resume();
    running.fails(libc::EACCES, &[dir.to_str().unwrap(), "Permission denied"]);
    crate::bench::incomplete(&dir);
    bench.recovers();
    bench.nothing_lost();
}
