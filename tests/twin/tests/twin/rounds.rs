//! Rounds that must all be good.

use std::path::Path;

use crate::{Scratch, disk, memory, twin};

#[track_caller]
fn good(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) {
    let (success, output) = twin(directory, arguments, environment);
    assert!(success, "{output}");
    println!("{output}");
}

#[test]
fn on_a_disk() {
    let scratch = Scratch::new(disk(), "disk");
    good(&scratch.0, &["--rounds", "10"], &[]);
}

#[test]
fn in_memory() {
    let scratch = Scratch::new(memory(), "memory");
    good(&scratch.0, &["--rounds", "10"], &[]);
}

/// The way that backups go: what is read in the gate is written after it. The oracles are the program's own.
#[test]
fn without_the_comparison_in_the_gate() {
    for (below, name) in [(disk(), "own-disk"), (memory(), "own-memory")] {
        let scratch = Scratch::new(below, name);
        good(&scratch.0, &["--rounds", "6"], &[("TOKUDB_BACKUP_TEST_IDENTITY", "0")]);
    }
}

#[test]
fn from_one_file_system_to_another() {
    let (sources, images) = (Scratch::new(memory(), "from"), Scratch::new(disk(), "to"));
    good(&sources.0, &["--rounds", "6", "--images", images.0.to_str().unwrap()], &[]);
}

/// Not a thread more than the one that takes the backup and one beside it.
#[test]
fn a_single_thread() {
    let scratch = Scratch::new(disk(), "single");
    good(&scratch.0, &["--rounds", "6", "--threads", "1"], &[]);
}

/// Sources on ext4 (with and without types in its directories), xfs, btrfs, tmpfs, overlayfs, and on one that is always
/// full; images on the same and on another.
#[test]
fn on_every_file_system() {
    let scratch = Scratch::new(disk(), "filesystems");
    good(&scratch.0, &["filesystems", "--rounds", "1"], &[]);
}
