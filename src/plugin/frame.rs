//! What stands around the images of a server: the destination, marked incomplete first, and the manifest last.
//!
//! The engine calls it on a worker thread: the destination may hang, and no session waits for that (P28).

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::inventory::{self, Facts};
use super::layout::Part;
use super::{options, position, relocate, replica};
use crate::backup::{Frame, Members, Report};
use crate::engine::destination::Destination;
use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::engine::folder::Folder;
use crate::engine::manifest::Moved;
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
    /// What is left out.
    pub exclude: Exclude,
    /// What the manifest says beside the files.
    pub facts: Facts,
    /// How long the lock at the end was held, microseconds; written by the session before the images are complete.
    pub lock_micros: Arc<AtomicU64>,
    /// What the server replicates, if anything; written by the session like `lock_micros`.
    pub replica: Arc<Mutex<Option<String>>>,
    /// Once it was made.
    pub destination: Mutex<Option<Destination>>,
}

impl Frame for ServerFrame {
    fn begin(&self) -> Result<Vec<Folder>> {
        // Of a directory elsewhere only some files are taken: the destination may lie in it.
        let parts = &self.facts.layout.parts;
        let whole = parts.iter().filter(|part| part.members == Members::All);
        let sources: Vec<PathBuf> = whole.map(|part| part.path.clone()).collect();
        let dir = self.dir.as_os_str().as_bytes();
        let mut destination = Destination::prepare(dir, self.allowed_prefix.as_deref(), &sources)?;
        let images: Result<Vec<_>> = parts.iter().map(|part| destination.make_image(&part.image)).collect();
        if images.is_err() {
            destination.discard();
            return images;
        }
        *self.destination.lock().unwrap_or_else(PoisonError::into_inner) = Some(destination);
        images
    }

    fn complete(&self, report: &Report) -> Result<()> {
        let mut destination = self.destination.lock().unwrap_or_else(PoisonError::into_inner);
        let destination =
            destination.as_mut().ok_or_else(|| Error::new(libc::EIO, "the destination was not made"))?;
        // Of what follows from a destination that is gone, that is the cause; of what fails twice, the first.
        self.complete_in(destination, report).map_err(|error| match destination.verify() {
            Err(gone) if gone.errno == libc::ENOENT => gone,
            _ => error,
        })
    }

    fn revoke(&self) {
        if let Some(destination) = &*self.destination.lock().unwrap_or_else(PoisonError::into_inner) {
            destination.revoke();
        }
    }
}

impl ServerFrame {
    fn complete_in(&self, destination: &mut Destination, report: &Report) -> Result<()> {
        let layout = &self.facts.layout;
        layout.refuse_new_directories(&self.exclude, report.instant)?;
        let moved = relocate::relocate(destination.folder(), layout)?;
        let emptied = |part: &&Part| {
            let gone = |m: &Moved| m.from.0.starts_with(&part.path);
            moved.iter().any(gone) && is_empty(destination.folder(), &part.image)
        };
        let emptied: Vec<&Part> = layout.parts.iter().filter(emptied).collect();
        for part in &emptied {
            destination.remove_image(&part.image)?;
        }
        destination.write(options::FILE, options::text(layout).as_bytes())?;
        let report = Report { lock_micros: self.lock_micros.load(Ordering::Acquire), ..report.clone() };
        let binlog = position::of_image(destination.folder(), &self.facts, &self.exclude)?;
        if let Some(binlog) = &binlog {
            destination.write(position::INFO, position::info(binlog).as_bytes())?;
        }
        let replica = self.replica.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(replica) = replica {
            destination.write(replica::INFO, replica.as_bytes())?;
        }
        destination.finish(&inventory::manifest(destination.folder(), &self.facts, &report, moved, binlog)?)
    }
}

fn is_empty(destination: &Folder, image: &str) -> bool {
    destination.folder(Path::new(image)).and_then(|image| image.is_empty()).unwrap_or(false)
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
