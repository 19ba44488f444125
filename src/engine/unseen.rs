//! Files that change without a mark: written through streams and mappings (P24), or by other processes (P25).

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::Stat;

use super::error::{Error, Result};
use super::hold::{UNSEEN_BYTES, Watcher};
use super::run::{Engine, GATE_PATIENCE};
use super::source;
use crate::tracker::{How, Key, Marks};

impl Engine<'_> {
    /// Files that are written without our seeing it are copied again before the gate, so that little is left to
    /// read inside it: all of small ones, what has been added to logs.
    pub(super) fn mark_unseen(&self) {
        self.tracker.unseen().each(|key, how| {
            let Some(file) = self.state.tree.files.get(&key) else { return };
            let from = match *super::visit::lock(&file.seen) {
                Some(seen) if how == How::Log => seen.size,
                _ => 0,
            };
            self.tracker.put_back(file.entry, Some(from..u64::MAX), Marks::empty());
        });
    }

    /// Files whose size or mtime moved without a mark are changed by others, or by means that we do not see (P25).
    pub(super) fn look_for_foreign_changes(&mut self, watcher: &dyn Watcher) -> Result<()> {
        let mut moved = Vec::new();
        let mut path = Vec::with_capacity(libc::PATH_MAX as usize * 2);
        for (key, directory) in &self.state.tree.directories {
            let Some((root, below)) = self.state.tree.path_of_directory(*key, &mut path) else { continue };
            let Some(root) = self.state.tree.roots.get(root).filter(|root| root.key != *key) else {
                continue;
            };
            let known = (directory.stat.st_mtime, directory.stat.st_mtime_nsec);
            if let Ok(stat) = source::stat_name(root.fd.as_fd(), below)
                && source::key_of(&stat) == *key
                && (stat.st_mtime, stat.st_mtime_nsec) != known
            {
                self.tracker.put_back(directory.entry, None, Marks::NAMES | Marks::ATTRIBUTES);
            }
        }
        for directory in
            self.state.tree.roots.iter().filter_map(|root| self.state.tree.directories.get(&root.key))
        {
            self.tracker.put_back(directory.entry, None, Marks::NAMES | Marks::ATTRIBUTES);
        }
        for file in self.state.tree.files.values() {
            let Some(seen) = *super::visit::lock(&file.seen) else { continue };
            if file.entry.is_marked() || self.tracker.unseen().how(file.key).is_some() {
                continue;
            }
            if self.stat_of(file.key, &mut path).is_some_and(|stat| !seen.is_like(&stat)) {
                moved.push(file.clone());
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        // Whoever changed it may not have marked it yet: it is inside, or its write is in flight.
        if self.tracker.gate().slots().quiesce(Duration::from_secs(1)).is_err() {
            return Ok(());
        }
        watcher.reap();
        let mut in_flight = HashSet::new();
        if let Some(_pass) = self.tracker.pin(c"look for foreign changes") {
            self.tracker.in_flight().each(|_, stream| {
                stream.each_write(|write| {
                    in_flight.insert(write.key);
                })
            });
        }
        for file in moved {
            if !file.entry.is_marked() && !in_flight.contains(&file.key) {
                self.unseen.insert(self.state.tree.full_path_of(file.key));
                if !self.foreign.contains(&file.key) {
                    self.foreign.push(file.key);
                }
                self.tracker.put_back(file.entry, Some(0..u64::MAX), Marks::ATTRIBUTES | Marks::XATTRS);
            }
        }
        Ok(())
    }

    /// A stream is soon closed as a rule: waits until what is written unseen is small enough to be read inside the
    /// gate, before DDL is held off.
    pub(super) fn wait_for_streams(&mut self, watcher: &dyn Watcher) -> Result<()> {
        let give_up = Instant::now() + GATE_PATIENCE;
        loop {
            watcher.review_unseen()?;
            let Some(refused) = self.too_large() else { return Ok(()) };
            if Instant::now() > give_up {
                return Err(refused);
            }
            self.sleep(Duration::from_millis(100))?;
            self.pass(false)?;
        }
    }

    /// A mapping stays as a rule: refused before anything is copied. The files have been listed.
    pub(super) fn refuse_mapped(&self) -> Result<()> {
        self.larger_than_fits(|how| how == How::Mapped).map_or(Ok(()), Err)
    }

    /// Why files that are written through streams or mappings are too large to be read inside the gate (P24), if
    /// they are.
    pub(super) fn too_large(&self) -> Option<Error> {
        // A log only grows, and is read from where it ended.
        self.larger_than_fits(|how| how != How::Log)
    }

    fn larger_than_fits(&self, counts: impl Fn(How) -> bool) -> Option<Error> {
        let mut path = Vec::with_capacity(libc::PATH_MAX as usize * 2);
        let (mut total, mut largest) = (0, None);
        self.tracker.unseen().each(|key, how| {
            let known = counts(how) && self.state.tree.files.contains_key(&key);
            if let Some(stat) = known.then(|| self.stat_of(key, &mut path)).flatten() {
                let size = stat.st_size as u64;
                total += size;
                if largest.is_none_or(|(_, _, known)| known < size) {
                    largest = Some((key, how, size));
                }
            }
        });
        let (key, how, size) = largest.filter(|_| total > UNSEEN_BYTES)?;
        let how = if how == How::Mapped { "a writable memory mapping" } else { "a stdio stream" };
        Some(Error::new(
            libc::ENOTSUP,
            format!(
                "{} ({size} bytes) is written through {how}, which cannot be observed; have the server write it by \
                 ordinary calls (MariaDB: no redo log on /dev/shm or persistent memory), move it out of the data \
                 directory, or exclude it",
                self.state.tree.full_path_of(key).display()
            ),
        ))
    }

    /// What stat(2) tells of a known file now, by the first of its names that still leads to it.
    fn stat_of(&self, key: Key, path: &mut Vec<u8>) -> Option<Stat> {
        let tree = &self.state.tree;
        tree.ways(key).iter().find_map(|(directory, name)| {
            let (root, below) = tree.path_of_name(*directory, name, path)?;
            let stat = source::stat_name(tree.roots.get(root)?.fd.as_fd(), below).ok()?;
            (source::key_of(&stat) == key).then_some(stat)
        })
    }
}
