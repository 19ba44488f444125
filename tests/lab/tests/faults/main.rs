//! What fails while a backup runs, on every server: the destination, the source, whoever asked for it. Each time the
//! error is clear, the directory is marked, the server's clients notice nothing, and the next backup works.

mod bench;
mod sweep;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bench::{
    Bench, NOBODY, PATIENCE, Volume, backs_up, directory_of, failed, incomplete, refused, set_dir, status,
    wait_for,
};
use faulty::{Fault, Op};
use lab::client::{Conn, ConnOptions};

macro_rules! on_every_server {
    ($($theme:ident)*) => {$(
        mod $theme {
            #[test]
            fn mysql_5_6() {
                super::$theme("mysql-5.6.24");
            }
            #[test]
            fn mysql_9_7() {
                super::$theme("mysql-9.7");
            }
            #[test]
            fn mariadb_10_11() {
                super::$theme("mariadb-10.11");
            }
        }
    )*};
}

on_every_server! { full_disk removed io_error hanging shutdown_while_hanging another_user client_killed }

fn full_disk(name: &str) {
    let volumes =
        |scratch: &Path| vec![Volume::ext4(scratch, 12), Volume::tmpfs(scratch, "tmpfs", "size=6m")];
    let mut bench = Bench::with(name, None, volumes);
    for volume in ["ext4", "tmpfs"] {
        let dir = bench.server.home().join(volume).join("backup");
        refused(&mut bench.connect(), &dir, libc::ENOSPC, &[&dir.display().to_string(), "No space left"]);
        incomplete(&dir);
        assert!(!dir.join("backup_manifest").exists());
        bench.recovers();
        // Again into the same: refused, and nothing is lost.
        refused(&mut bench.connect(), &dir, libc::ENOTEMPTY, &["incomplete"]);
        incomplete(&dir);
    }
    bench.nothing_lost();
}

fn removed(name: &str) {
    let mut bench = Bench::new(name);
    // The whole, the image, and the directory elsewhere: its descriptors work on, but nobody would find it.
    let dir = bench.backups.join("removed");
    let running = bench.paused(&dir);
    fs::remove_dir_all(&dir).unwrap();
    bench.resume();
    running.fails(libc::ENOENT, &[&dir.display().to_string()]);
    assert!(!dir.exists());
    bench.recovers();

    let dir = bench.backups.join("image-removed");
    let running = bench.paused(&dir);
    fs::remove_dir_all(dir.join("mysql_data_dir")).unwrap();
    bench.resume();
    running.fails(libc::ENOENT, &[&dir.display().to_string()]);
    assert!(!dir.join("backup_manifest").exists());
    bench.recovers();

    let dir = bench.backups.join("moved");
    let elsewhere = bench.backups.join("elsewhere");
    let running = bench.paused(&dir);
    fs::rename(&dir, &elsewhere).unwrap();
    bench.resume();
    running.fails(libc::ENOENT, &[&dir.display().to_string()]);
    assert!(!dir.exists());
    incomplete(&elsewhere);
    bench.recovers();
    bench.nothing_lost();
}

fn io_error(name: &str) {
    let mut bench = Bench::new(name);
    backs_up(&mut bench.connect(), &bench.faulty.path().join("well"));

    // Before anything is copied: nothing is left behind.
    for (op, dir) in [(Op::Mkdir, "mkdir"), (Op::Sync, "first-sync")] {
        let dir = bench.faulty.path().join(dir);
        bench.faulty.arm(op, Fault::Fails(libc::EIO));
        let place = bench.faulty.path().display().to_string();
        refused(&mut bench.connect(), &dir, libc::EIO, &[&place, "Input/output error"]);
        bench.faulty.release();
        assert!(!dir.exists());
        bench.recovers();
    }
    // Later: in copying, in building the tree, in writing the manifest, in taking the mark away.
    for (op, dir) in
        [(Op::Write, "write"), (Op::Rename, "rename"), (Op::Sync, "last-sync"), (Op::Unlink, "unlink")]
    {
        let dir = bench.faulty.path().join(dir);
        let running = bench.paused(&dir);
        bench.faulty.arm(op, Fault::Fails(libc::EIO));
        bench.resume();
        running.fails(libc::EIO, &[&dir.display().to_string(), "Input/output error"]);
        bench.faulty.release();
        incomplete(&dir);
        bench.recovers();
    }
    bench.nothing_lost();
}

fn hanging(name: &str) {
    let mut bench = Bench::new(name);
    let ends = ["KILL QUERY", "KILL"];
    let calls = [
        (Op::Mkdir, "preparing"),
        (Op::Write, "copying"),
        (Op::Rename, "finishing"),
        (Op::Unlink, "finishing"),
    ];
    for (i, (op, phase)) in calls.into_iter().enumerate() {
        let dir = bench.faulty.path().join(format!("{op:?}"));
        // Some calls come earlier, too, in preparing.
        let running = if op == Op::Mkdir {
            bench.faulty.arm(op, Fault::Hangs);
            bench.start(&dir, "DEFAULT")
        } else {
            let running = bench.paused(&dir);
            bench.faulty.arm(op, Fault::Hangs);
            bench.resume();
            running
        };
        assert!(bench.faulty.wait_held(PATIENCE, || false));
        bench.wait_state(phase);
        bench.writes_go_on();
        // A table made, filled and dropped: nothing is held that DDL would wait for.
        let mut conn = bench.connect();
        conn.exec("CREATE TABLE d.u AS SELECT 1 AS a").unwrap();
        conn.exec("DROP TABLE d.u").unwrap();

        let how = ends[i % 2];
        conn.exec(format!("{how} {}", running.id)).unwrap();
        let (error, mut session) = running.error();
        assert!(bench.faulty.held() > 0, "it ended while its destination hung");
        if how == "KILL QUERY" {
            assert_eq!(error.code, 1317, "{error}");
            failed(&mut session, &error, libc::EINTR, &["interrupted"]);
        } else {
            assert!(error.is_disconnect() || error.code == 1317, "{error}");
        }
        wait_for("the end", || status(&mut conn, "last_errno") == libc::EINTR.to_string());
        assert_eq!(status(&mut conn, "state"), "draining");
        let next = bench.backups.join(format!("next-to-{op:?}"));
        refused(&mut conn, &next, libc::EBUSY, &["hangs on its destination"]);
        assert!(!next.exists());
        bench.writes_go_on();

        assert!(bench.faulty.held() > 0, "all that went on while it hung");
        bench.faulty.release();
        bench.wait_state("idle");
        bench.nothing_left();
        incomplete(&bench.faulty.behind().join(format!("{op:?}")));
        bench.recovers();
    }
    bench.nothing_lost();
}

/// The server gets to the end of its shutdown while the destination hangs; only the kernel keeps the process until
/// the call comes back.
fn shutdown_while_hanging(name: &str) {
    let mut bench = Bench::new(name);
    bench.dismiss_writer();
    let dir = bench.faulty.path().join("backup");
    let running = bench.paused(&dir);
    bench.faulty.arm(Op::Write, Fault::Hangs);
    bench.resume();
    assert!(bench.faulty.wait_held(PATIENCE, || false));
    let pid = i32::try_from(bench.server.pid().unwrap()).unwrap();
    // SAFETY: kill takes numbers; the process is ours and not reaped.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert!(running.error().0.code > 0);
    let log = bench.server.error_log();
    wait_for("the end of the shutdown", || {
        let log = String::from_utf8_lossy(&fs::read(&log).unwrap()).to_lowercase();
        log.contains("shutdown complete")
    });
    assert!(bench.faulty.held() > 0);
    bench.faulty.release();
    let status = bench.server.wait(PATIENCE).unwrap();
    assert!(status.success(), "{status}\n{}", bench.server.log_tail());
    incomplete(&bench.faulty.behind().join("backup"));
}

/// A server that gave up root's privileges, as most do: it backs up as well, and fails where its user may not go.
fn another_user(name: &str) {
    let volumes = |scratch: &Path| vec![Volume::tmpfs(scratch, "read-only", "ro")];
    let mut bench = Bench::with(name, Some(NOBODY), volumes);
    backs_up(&mut bench.connect(), &bench.backups.join("well"));

    let roots = bench.server.home().join("roots");
    directory_of(&roots, 0);
    let below = roots.join("backup");
    refused(&mut bench.connect(), &below, libc::EACCES, &[&below.display().to_string(), "Permission denied"]);
    assert!(!below.exists());
    refused(&mut bench.connect(), &roots, libc::EACCES, &[&roots.display().to_string(), "Permission denied"]);
    assert_eq!(fs::read_dir(&roots).unwrap().count(), 0);
    bench.recovers();

    let read_only = bench.server.home().join("read-only/backup");
    let texts = [&*read_only.display().to_string(), "Read-only file system"];
    refused(&mut bench.connect(), &read_only, libc::EROFS, &texts);
    bench.recovers();

    // A file that it cannot read, and a directory.
    let file = bench.server.data().join("d/secret");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o000)).unwrap();
    let dir = bench.backups.join("file");
    refused(&mut bench.connect(), &dir, libc::EACCES, &[&file.display().to_string(), "Permission denied"]);
    incomplete(&dir);
    fs::remove_file(&file).unwrap();
    bench.recovers();

    let folder = bench.server.data().join("folder");
    directory_of(&folder, 0);
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    let dir = bench.backups.join("folder");
    refused(&mut bench.connect(), &dir, libc::EACCES, &[&folder.display().to_string(), "Permission denied"]);
    assert!(!dir.join("backup_manifest").exists());
    fs::remove_dir(&folder).unwrap();
    bench.recovers();
    bench.nothing_lost();
}

/// Set for the client that is to be killed, this test's program once more: its server's socket, and the destination.
const VICTIM: [&str; 2] = ["FAULTS_VICTIM_SOCKET", "FAULTS_VICTIM_DIR"];

fn client_killed(name: &str) {
    if let (Some(socket), Some(dir)) = (std::env::var_os(VICTIM[0]), std::env::var_os(VICTIM[1])) {
        let mut conn = Conn::connect(&ConnOptions::root(socket)).unwrap();
        conn.exec("SET tokudb_backup_throttle = 0").unwrap();
        conn.exec(set_dir(Path::new(&dir))).unwrap();
        return;
    }
    let mut bench = Bench::new(name);
    let dir = bench.backups.join("client-killed");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", std::thread::current().name().unwrap()]);
    command.env(VICTIM[0], bench.server.socket()).env(VICTIM[1], &dir);
    let mut client = lab::process::spawn_bound(command).unwrap();
    bench.wait_state("copying");
    lab::process::kill(&mut client);
    let mut conn = bench.connect();
    wait_for("the end of a backup without a client", || status(&mut conn, "last_result") == "failure");
    assert_eq!(status(&mut conn, "last_errno"), libc::EINTR.to_string());
    incomplete(&dir);
    assert!(!dir.join("backup_manifest").exists());
    bench.recovers();
    bench.nothing_lost();
}
