//! The coverage oracle, in short: strace sees no change of a file of the data directory that capture does not see.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use lab::oracle::{Report, Settings, watch};

lab::on_every_server! { every_change_is_seen }

const SEED: u64 = 1;

/// strace and the server share what processors there are.
struct Places(Mutex<u32>, Condvar);

static PLACES: Places = Places(Mutex::new(2), Condvar::new());

fn report(name: &str, dropped: &str) -> Report {
    let mut free = PLACES.1.wait_while(PLACES.0.lock().unwrap(), |free| *free == 0).unwrap();
    *free -= 1;
    drop(free);
    let settings = Settings {
        server: name.into(),
        load: Duration::from_secs(2),
        seed: SEED,
        dropped: dropped.into(),
        keep: None,
    };
    let report = std::panic::catch_unwind(|| watch(&settings));
    *PLACES.0.lock().unwrap() += 1;
    PLACES.1.notify_one();
    report.unwrap().unwrap()
}

fn every_change_is_seen(name: &str) {
    let report = report(name, "");
    println!("{name}, seed {SEED}: {report:#?}");
    assert!(report.problems.is_empty(), "{name}: {:#?}", report.problems);
    // There was something to see.
    for call in ["openat", "pwrite64", "write", "rename", "unlink", "mkdir", "rmdir"] {
        assert!(report.changes.contains_key(call), "{name}: {call} is not among {:?}", report.changes);
    }
    assert!(report.flights[1] > 0, "{name}: no asynchronous write ended");
    assert!(report.contents[0] > 0, "{name}: no file has changed");
    // And what escapes by construction is what is read again in the gate.
    let is_stream = |path: &str| {
        [".cfg", "/error.err", "/ib_buffer_pool.incomplete", "/mysqld-auto.cnf.backup"]
            .iter()
            .any(|end| path.ends_with(end))
    };
    assert!(report.unseen.keys().any(|path| path.ends_with("/error.err")), "{:?}", report.unseen);
    let others: Vec<_> = report.unseen.keys().filter(|path| !is_stream(path)).collect();
    assert!(others.is_empty(), "{name}: files that are written past capture: {others:?}");
}

/// The control: hooks that are left out are missed.
#[test]
fn a_hook_that_is_left_out_is_missed() {
    let report = report("mysql-5.6.24", "write,pwrite64,rename,unlink,ftruncate64,mkdir,open,open64,chmod");
    for call in ["write", "pwrite64", "rename", "unlink", "openat", "a file has changed without a mark"] {
        let is_missed = report.problems.keys().any(|problem| problem.starts_with(call));
        assert!(is_missed, "{call} is not missed: {:#?}", report.problems);
    }
    assert!(
        !report.problems.keys().any(|problem| problem.starts_with("io_submit")),
        "{:#?}",
        report.problems
    );
}
