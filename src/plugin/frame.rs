//! What stands around the images of a server: the destination, marked incomplete first, and the manifest last.
//!
//! The engine calls it on a worker thread: the destination may hang, and no session waits for that (P28).

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::indexes;
use super::inventory::{self, Facts};
use crate::backup::{Frame, Report};
use crate::engine::destination::Destination;
use crate::engine::error::{Error, Result};
use crate::engine::threads;

/// How long a refused backup may take to remove what it had made.
const TIDY: Duration = Duration::from_millis(500);

/// The frame of a server's backup.
#[derive(Debug)]
pub struct ServerFrame {
    /// The destination, as the user wrote it.
    pub dir: PathBuf,
    /// Directory below which it must lie.
    pub allowed_prefix: Option<PathBuf>,
    /// What the manifest says beside the files.
    pub facts: Facts,
    /// How long DDL was held off, microseconds; written by the session before the images are complete.
    pub lock_micros: Arc<AtomicU64>,
    /// Once it was made.
    pub destination: Mutex<Option<Destination>>,
}

impl Frame for ServerFrame {
    fn begin(&self) -> Result<()> {
        let sources: Vec<PathBuf> = self.facts.sources.iter().map(|(path, _)| path.clone()).collect();
        let dir = self.dir.as_os_str().as_bytes();
        let mut destination = Destination::prepare(dir, self.allowed_prefix.as_deref(), &sources)?;
        for (_, image) in &self.facts.sources {
            if let Err(error) = destination.make_image(image) {
                destination.discard();
                return Err(error);
            }
        }
        *self.destination.lock().unwrap_or_else(PoisonError::into_inner) = Some(destination);
        Ok(())
    }

    fn complete(&self, report: &Report) -> Result<()> {
        let destination = self.destination.lock().unwrap_or_else(PoisonError::into_inner);
        let destination =
            destination.as_ref().ok_or_else(|| Error::new(libc::EIO, "the destination was not made"))?;
        for index in self.facts.log_indexes.iter().filter_map(|index| self.facts.image_of(index)) {
            indexes::make_relative(&destination.path().join(index))?;
        }
        let report = Report { lock_micros: self.lock_micros.load(Ordering::Acquire), ..report.clone() };
        destination.finish(&inventory::manifest(destination.path(), &self.facts, &report)?)
    }

    fn revoke(&self) {
        if let Some(destination) = &*self.destination.lock().unwrap_or_else(PoisonError::into_inner) {
            destination.revoke();
        }
    }
}

/// A backup that was refused before it copied anything leaves nothing behind; what holds something already stays,
/// marked incomplete. A destination that does not answer is left alone after a moment.
pub fn tidy(frame: Arc<ServerFrame>) {
    let (done, told) = channel();
    let spawned = threads::spawn("backup_tidy", move || {
        // A worker that hangs inside `complete` still holds it: then nothing can be removed anyway.
        if let Ok(mut destination) = frame.destination.try_lock()
            && let Some(destination) = destination.take()
        {
            destination.discard();
        }
        let _ = done.send(());
    });
    if spawned.is_ok() {
        let _ = told.recv_timeout(TIDY);
    }
}
