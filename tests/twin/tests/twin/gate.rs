//! What the thread that has closed the gate asks of the kernel until it is over (P19).

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::PoisonError;

use twin::library::Library;

use crate::{ALONE, Scratch, memory, seed};

/// Reading, looking, letting others go first; and waking those who wait, which ends it.
const READS: [&str; 14] = [
    "openat",
    "close",
    "fstat",
    "newfstatat",
    "statx",
    "lseek",
    "pread64",
    "read",
    "getdents64",
    "readlinkat",
    "flistxattr",
    "name_to_handle_at",
    "sched_yield",
    "futex",
];

/// A program that writes all the time, its backups, and each system call of theirs.
#[test]
fn nothing_but_reading_inside() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new(memory(), "gate");
    let calls = scratch.0.join("calls");
    fs::create_dir(&calls).unwrap();
    let output = Command::new("strace")
        .args(["-ff", "-s", "100", "-o"])
        .arg(calls.join("of"))
        .arg(env!("CARGO_BIN_EXE_twin"))
        .arg("--lib")
        .arg(Library::find().unwrap())
        .arg("--dir")
        .arg(&scratch.0)
        .args(["--seed", &seed(), "--rounds", "2", "--threads", "2", "--storm"])
        .args(["--ops", "pwrite,write,open,rename,unlink,mkdir"])
        .envs(["", "_TRACE"].map(|which| (format!("TOKUDB_BACKUP_TEST{which}"), "1")))
        .env("TOKUDB_BACKUP_TEST_IDENTITY", "0")
        .output()
        .expect("strace is installed");
    assert!(output.status.success(), "{output:?}");
    let (mut closed, mut seen) = (0, BTreeMap::<String, u32>::new());
    for thread in fs::read_dir(&calls).unwrap() {
        let mut inside = false;
        for line in String::from_utf8_lossy(&fs::read(thread.unwrap().path()).unwrap()).lines() {
            let says = |what: &str| line.contains(&format!("\"tokudb_backup {what} 0:0 "));
            if says("closed") {
                inside = true;
                closed += 1;
            } else if says("over") {
                inside = false;
            } else if let Some((call, arguments)) = line.split_once('(').filter(|_| inside) {
                *seen.entry(call.to_owned()).or_default() += 1;
                let reads = match call {
                    "openat" => arguments.contains("O_RDONLY") && !arguments.contains("O_CREAT"),
                    "futex" => arguments.contains("FUTEX_WAKE"),
                    _ => READS.contains(&call),
                };
                assert!(reads, "while the gate is closed: {line}");
            }
        }
    }
    println!("closed {closed} times: {seen:?}");
    assert!(closed > 1 && seen.contains_key("pread64"), "{seen:?}");
}
