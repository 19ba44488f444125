//! Runs the program `twin`: on a disk and in memory, with and without the comparison in the gate; and with hooks left
//! out, which it must notice.

mod controls;
mod rounds;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use twin::library::Library;

/// One program at a time: they take both processors.
static ALONE: Mutex<()> = Mutex::new(());

/// Where there is memory in place of a disk.
fn memory() -> &'static Path {
    Path::new("/dev/shm")
}

/// Where there is a disk: below cargo's target directory.
fn disk() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// `TWIN_SEED`, or one that is always the same.
fn seed() -> String {
    std::env::var("TWIN_SEED").unwrap_or_else(|_| "20".to_owned())
}

/// A directory that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path, name: &str) -> Scratch {
        let path = below.join(format!("twin-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What failed is kept, to be looked at.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Runs the program; whether it ended well, and what it printed.
fn twin(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_twin"));
    let (command_word, arguments) = match arguments {
        ["filesystems", rest @ ..] => (Some("filesystems"), rest),
        _ => (None, arguments),
    };
    command.args(command_word).arg("--lib").arg(Library::find().unwrap()).arg("--dir").arg(directory);
    let output =
        command.args(["--seed", &seed()]).args(arguments).envs(environment.iter().copied()).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}
