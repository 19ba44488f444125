//! Scratch directories: below the workspace's `target/lab`, never on a file system in memory (a MariaDB server whose
//! redo log lies in /dev/shm writes it without a system call).

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    // cargo sets the variable for what it runs; the compiled-in value serves a binary that is called by hand.
    let lab = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    // tests/lab lies two levels below the root.
    lab.ancestors().nth(2).unwrap_or(&lab).to_path_buf()
}

/// A directory of its own that is removed with everything in it when the value is dropped, unless its thread panics:
/// then it stays, for whoever looks for the cause.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `target/lab/NAME-PID-N`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(name: &str) -> Result<Scratch> {
        Self::below(&workspace().join("target").join("lab"), name)
    }

    /// Makes `PARENT/NAME-PID-N`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn below(parent: &Path, name: &str) -> Result<Scratch> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{name}-{}-{number}", std::process::id()));
        // A process of the same number may have left one behind.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Scratch { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for inspection: {}", self.path.display());
        } else if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {e}", self.path.display());
        }
    }
}
