//! What else changes files: asynchronous I/O that was set up before capture, shared mappings, standard streams.

use super::elf::Objects;
use super::grace::Limit;
use super::hook;
use super::process::{self, UringState};
use super::{asynchronous, mapping, uring};
use crate::engine::error::{Error, Result};
use crate::tracker::{How, Marks, StreamKind, tracker};

const ADVICE: &str = "set innodb_use_native_aio=0 and restart the server";

/// Refuses what could not be seen, before anything is copied (P13).
pub fn refuse(objects: &Objects) -> Result<()> {
    let calls = |names: &[&[u8]]| objects.slots().any(|slot| names.contains(&slot.hook.name.to_bytes()));
    let mappings = process::mappings()?;
    if mappings.iter().any(process::Mapping::is_aio) && !calls(&[b"io_submit", b"syscall"]) {
        return Err(unseen("libaio is linked into the server, so that its writes cannot be intercepted"));
    }
    let submits: [&[u8]; 5] = [
        b"io_uring_submit",
        b"io_uring_submit_and_wait",
        b"io_uring_submit_and_wait_timeout",
        b"io_uring_submit_and_get_events",
        b"syscall",
    ];
    if mappings.iter().any(process::Mapping::is_uring) && !calls(&submits) {
        return Err(unseen("liburing is linked into the server, so that its writes cannot be intercepted"));
    }
    if process::urings()?.iter().any(|ring| ring.has_thread) {
        return Err(unseen("an io_uring is submitted to by the kernel itself (IORING_SETUP_SQPOLL)"));
    }
    Ok(())
}

fn unseen(what: &str) -> Error {
    Error::new(libc::ENOTSUP, format!("cannot take a backup: {what}; {ADVICE}"))
}

/// The stream of the ring behind `fd` and how many of its requests are older than capture; `None`: nothing has been
/// submitted on it since.
fn older_on(fd: i32) -> Option<u32> {
    let mut found = None;
    tracker().in_flight().each(|id, stream| {
        if stream.kind() == StreamKind::IoUring && uring::descriptor(id) == fd {
            found = Some(stream.older());
        }
    });
    found
}

/// Waits until each ring was empty once, or has completed all that it had before.
pub fn wait_for_rings(limit: &Limit<'_>) -> Result<()> {
    let mut waiting: Vec<i32> = process::urings()?.iter().map(|ring| ring.fd).collect();
    loop {
        asynchronous::reap();
        let now = process::urings()?;
        waiting.retain(|&fd| {
            now.iter().any(|ring| ring.fd == fd && ring.in_flight != 0) && older_on(fd) != Some(0)
        });
        let Some(fd) = waiting.first() else { return Ok(()) };
        limit.pause(|| {
            format!("requests on io_uring (descriptor {fd}) that began before it were still under way")
        })?;
    }
}

/// Rings on which requests were taken that nobody saw being submitted.
fn strangers(known: &[UringState]) -> Result<Vec<UringState>> {
    let mut rings = process::urings()?;
    rings.retain(|ring| {
        let same = |known: &&UringState| known.fd == ring.fd && known.inode == ring.inode;
        let before = known.iter().find(same).and_then(|known| known.taken).unwrap_or(0);
        ring.has_thread || ring.taken.is_some_and(|taken| taken != before) && older_on(ring.fd).is_none()
    });
    // One that is being taken down has no stream that could be compared any more.
    if asynchronous::is_any_closing() { Ok(Vec::new()) } else { Ok(rings) }
}

/// Refuses rings that are submitted to in a way that is not seen. `known`: those that were there when capture began.
pub fn check_rings(known: &[UringState]) -> Result<()> {
    let found = strangers(known)?;
    if found.is_empty() {
        return Ok(());
    }
    // A ring may have been taken down between the two looks of one.
    let again = strangers(known)?;
    match found.iter().find(|ring| again.iter().any(|again| again.inode == ring.inode)) {
        Some(ring) => Err(unseen(&format!(
            "requests are submitted to an io_uring (descriptor {}) in a way that cannot be intercepted",
            ring.fd
        ))),
        None => Ok(()),
    }
}

/// Makes the libaio contexts known that exist.
pub fn add_contexts() -> Result<()> {
    for mapping in process::mappings()?.iter().filter(|mapping| mapping.is_aio()) {
        asynchronous::add_context(mapping.at.start);
    }
    Ok(())
}

/// Remembers the shared mappings of files on watched devices.
pub fn add_mapped() -> Result<()> {
    for mapping in process::mappings()?.into_iter().filter(|mapping| mapping.is_shared) {
        let key = mapping.key();
        if tracker().watches(key.dev) && !mapping.is_aio() && !mapping.is_uring() {
            mapping::add(key, mapping.at.clone(), mapping.is_writable);
        }
    }
    Ok(())
}

/// Descriptors 1 and 2 belong to `FILE*`s that are always there.
pub fn add_standard_streams() {
    for fd in [1, 2] {
        if let Some(file) = hook::regular(fd) {
            tracker().add_unseen(file.key, How::Log, fd);
        }
    }
}

/// Takes out the unseen files whose streams are closed and whose mappings are undone, and marks them (P24).
pub fn review_unseen() -> Result<()> {
    let unseen = tracker().unseen();
    unseen.doubt();
    // Looked at after the doubt: a stream or a mapping made from here on takes a place of its own.
    let mapped = if unseen.has(How::Mapped) { process::mappings() } else { Ok(Vec::new()) };
    let is_mapped = |key| match &mapped {
        Ok(mapped) => mapped.iter().any(|mapping| mapping.is_shared && mapping.key() == key),
        Err(_) => true,
    };
    unseen.settle(
        |key, how, fd| match how {
            How::Mapped => is_mapped(key),
            How::Stdio | How::Log => hook::regular(fd).is_some_and(|file| file.key == key),
        },
        |key| {
            if let Some(entry) = tracker().entry(key) {
                tracker().put_back(entry, Some(0..u64::MAX), Marks::ATTRIBUTES);
            }
        },
    );
    mapped.map(|_| ())
}
