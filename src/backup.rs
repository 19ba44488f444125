//! One backup from end to end: attach capture, run the engine, detach. What plugin and C interface both call.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::engine::progress::Snapshot;

/// A directory to back up and the directory that becomes its image.
#[derive(Clone, Debug)]
pub struct Source {
    /// Real path (no symbolic link in it) of an existing directory.
    pub path: PathBuf,
    /// Existing empty directory that receives the image.
    pub image: PathBuf,
}

/// What to do with symbolic links found in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Copy each as a link with the same target.
    Copy,
    /// Copy those that stay inside the sources; refuse the backup, naming it, for one that leads out (P26).
    RefuseOutside,
}

/// Everything that a backup needs to know before it starts.
#[derive(Debug)]
pub struct Request {
    /// At least one; none inside another's image.
    pub sources: Vec<Source>,
    /// What is neither copied nor mirrored.
    pub exclude: Exclude,
    /// Links that lead out of the sources.
    pub links: Links,
    /// Files of the sources that are left out by their full path: the pid file, sockets' lock files.
    pub leave_out: Vec<PathBuf>,
    /// How long the gate may stay closed at most.
    pub gate_timeout: Duration,
    /// Copy without capture and without gate. Only the demo's control asks for it.
    pub without_capture: bool,
}

/// What a backup did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Files in the image (hard links counted once).
    pub files: u64,
    /// Bytes of data written to the image's first copy.
    pub bytes: u64,
    /// Passes over the files, the first included, the gate not.
    pub passes: u32,
    /// How long the successful gate was closed, microseconds.
    pub gate_micros: u64,
    /// Bytes that were read inside it.
    pub gate_bytes: u64,
    /// How long DDL was held off, microseconds; 0: not at all.
    pub lock_micros: u64,
    /// The instant T: seconds and nanoseconds since the epoch.
    pub instant: Duration,
    /// Files that changed without a mark and are exact to within the last pass only (P25).
    pub unseen: Vec<PathBuf>,
}

/// The calling thread's side of a backup. Every method runs on the thread that called [`run`], with no lock of
/// ours held and the gate open.
pub trait Caller {
    /// Called about ten times a second, and at once when a phase changes. An error ends the backup with it.
    fn poll(&mut self, progress: &Snapshot) -> Result<()>;
    /// Whether a source file is left out; asked once a name, only when [`Exclude::AskCaller`] is set.
    fn excluded(&mut self, _path: &Path) -> bool {
        false
    }
    /// Before the last pass and the gate: hold DDL off where the server needs it (P27).
    fn before_last_pass(&mut self) -> Result<()> {
        Ok(())
    }
    /// Capture is about to end: what is written in here is still in the image.
    fn before_stop_capture(&mut self) {}
    /// Capture has ended (also when the backup failed after [`Caller::before_last_pass`]).
    fn after_stop_capture(&mut self) {}
}

/// Takes a backup and returns when the images are complete and durable.
pub fn run(_request: Request, _caller: &mut dyn Caller) -> Result<Report> {
    Err(Error::new(libc::ENOSYS, "not built yet"))
}
