//! Servers that are killed in the middle of backups, that have very many connections, and files with strange names.
//! What else can go wrong around a server is in `faults`; the long form of [`kills`] is `cargo xtask kills`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lab::plugged::{INSTALL, Plugged as Lab, SMALL, backs_up, set_dir};

fn kills(name: &str, seed: u64) {
    assert_eq!(lab::kills::run(name, 3, seed).unwrap(), 0);
}

#[test]
fn kills_mysql_9_7() {
    kills("mysql-9.7", 700);
}

#[test]
fn kills_mariadb_10_11() {
    kills("mariadb-10.11", 703);
}

const CONNECTIONS: usize = 2000;

/// All of them write, none more often than once in a while: most are between statements, as in life.
fn connections(name: &str) {
    // This process has the other end of each.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a place for a limit, and a limit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: limit.rlim_max, ..limit });
    }
    let args = [
        "--max-connections=2100",
        "--open-files-limit=8192",
        "--innodb-flush-log-at-trx-commit=2",
        "--sync-binlog=0",
    ];
    let mut lab = Lab::new(name, &args.map(str::to_owned));
    let mut conn = lab.server.connect().unwrap();
    conn.exec(INSTALL).unwrap();
    conn.exec("CREATE DATABASE d").unwrap();
    conn.exec("CREATE TABLE d.t (client INT, seq INT, PRIMARY KEY (client, seq)) ENGINE=InnoDB").unwrap();
    let acknowledged: Vec<AtomicU64> = (0..CONNECTIONS).map(|_| AtomicU64::new(0)).collect();
    let over = AtomicBool::new(false);
    let dir = lab.backup("backup");
    let all = || acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let before = std::thread::scope(|scope| {
        for (client, count) in acknowledged.iter().enumerate() {
            let mut conn = lab.server.connect().unwrap();
            let over = &over;
            let work = move || {
                for seq in 1.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    conn.exec(format!("INSERT INTO d.t VALUES ({client}, {seq})")).unwrap();
                    count.store(seq, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(500 + client as u64 % 500));
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, work).unwrap();
        }
        let started = std::time::Instant::now();
        while all().contains(&0) && started.elapsed() < Duration::from_secs(120) {
            std::thread::yield_now();
        }
        let before = all();
        let taken = conn.exec(set_dir(&dir));
        over.store(true, Ordering::SeqCst);
        taken.unwrap();
        before
    });
    assert!(!before.contains(&0), "every connection has written");
    assert!(lab::plugged::is_complete(&dir));
    let after = all();
    lab.server.stop().unwrap();
    let restored = lab::image::boot(&lab.server, &dir, &lab.backup("restored")).unwrap();
    let mut conn = restored.connect().unwrap();
    let rows = conn.query("SELECT client, COUNT(*), MAX(seq) FROM d.t GROUP BY client").unwrap().texts();
    let found: BTreeMap<usize, (u64, u64)> = rows
        .iter()
        .map(|row| (row[0].parse().unwrap(), (row[1].parse().unwrap(), row[2].parse().unwrap())))
        .collect();
    for client in 0..CONNECTIONS {
        let (count, last) = found[&client];
        assert_eq!(count, last, "client {client} has a gap");
        let range = before[client]..=after[client];
        assert!(range.contains(&count), "client {client} has {count} rows, {range:?} were acknowledged");
    }
    assert_eq!(conn.query("CHECK TABLE d.t EXTENDED").unwrap().texts()[0][3], "OK");
}

#[test]
fn connections_mysql_9_7() {
    connections("mysql-9.7");
}

#[test]
fn connections_mariadb_10_11() {
    connections("mariadb-10.11");
}

/// Files whose names are in no encoding lie in the data directory: they are in the image, and in the manifest by their
/// bytes.
fn names(name: &str) {
    let (lab, mut conn) = Lab::installed(name);
    conn.exec("CREATE DATABASE d").unwrap();
    let wild: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let names: [&[u8]; 3] = [&[b'l'; 255], &wild, b"two\nlines"];
    for bytes in names {
        fs::write(lab.server.data().join("d").join(OsStr::from_bytes(bytes)), bytes).unwrap();
    }
    conn.exec(format!("SET tokudb_backup_exclude = '{SMALL}'")).unwrap();
    let dir = lab.backup("backup");
    backs_up(&mut conn, &dir);
    let manifest = fs::read_to_string(dir.join("backup_manifest")).unwrap();
    for bytes in names {
        let copy = dir.join("mysql_data_dir/d").join(OsStr::from_bytes(bytes));
        assert_eq!(fs::read(&copy).unwrap(), bytes);
        let path = [b"mysql_data_dir/d/", bytes].concat();
        let shown = match std::str::from_utf8(&path) {
            Ok(text) => format!("\"path\": \"{}\"", text.replace('\n', "\\n")),
            Err(_) => {
                let hex: String = path.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("\"path_hex\": \"{hex}\"")
            }
        };
        assert!(manifest.contains(&shown), "{shown} is not in the manifest");
    }
}

#[test]
fn names_mysql_9_7() {
    names("mysql-9.7");
}

#[test]
fn names_mariadb_10_11() {
    names("mariadb-10.11");
}
