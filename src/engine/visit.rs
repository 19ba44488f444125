//! One visit to one file: take its marks, read what they say from the source, write it into the store.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;

use super::attributes;
use super::control::Control;
use super::error::{Error, Result};
use super::source;
use super::store::{Store, Writer, read_full};
use super::throttle;
use super::tree::{File, Seen};
use crate::tracker::{BLOCK, Marks, Tracker};

/// Bytes read and written at a time.
pub const CHUNK: usize = 1 << 20;

/// What a visit needs besides the file.
pub struct Visit<'a> {
    /// Where marks are put back to.
    pub tracker: &'static Tracker,
    /// Whether to go on.
    pub control: &'a Control,
    /// The first copying of the file: throttled, counted in the progress.
    pub first: bool,
    /// A worker's own buffer of [`CHUNK`] bytes.
    pub buffer: &'a mut [u8],
    /// Told what was copied, bytes.
    pub copied: &'a dyn Fn(u64),
}

/// A stretch of a file, as SEEK_DATA and SEEK_HOLE tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes from, to.
    Data(u64, u64),
    /// A hole from, to; or beyond the end.
    Hole(u64, u64),
}

/// As [`extent`], but data is not asked about again where it is `known` to be: some file systems (tmpfs) count page by
/// page to the next hole. A hole must be asked for each time: it may have been filled, and its mark been taken since.
fn extent_beyond(
    file: BorrowedFd<'_>,
    range: &Range<u64>,
    known: &mut Range<u64>,
) -> std::result::Result<Extent, Errno> {
    if !known.contains(&range.start) {
        match extent(file, &(range.start..u64::MAX / 2))? {
            Extent::Hole(from, to) => return Ok(Extent::Hole(from, to.min(range.end))),
            Extent::Data(from, to) => *known = from..to,
        }
    }
    Ok(Extent::Data(range.start, known.end.min(range.end)))
}

/// The first stretch of `range`, cut at its end. A file system that knows no holes has data everywhere.
pub fn extent(file: BorrowedFd<'_>, range: &Range<u64>) -> std::result::Result<Extent, Errno> {
    let data = match rustix::fs::seek(file, SeekFrom::Data(range.start)) {
        Ok(data) => data,
        Err(Errno::NXIO) => return Ok(Extent::Hole(range.start, range.end)),
        Err(Errno::INVAL) => return Ok(Extent::Data(range.start, range.end)),
        Err(errno) => return Err(errno),
    };
    if data > range.start {
        return Ok(Extent::Hole(range.start, data.min(range.end)));
    }
    match rustix::fs::seek(file, SeekFrom::Hole(range.start)) {
        Ok(hole) => Ok(Extent::Data(range.start, hole.min(range.end))),
        Err(Errno::NXIO) => Ok(Extent::Hole(range.start, range.end)),
        Err(errno) => Err(errno),
    }
}

/// What became of a visit.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The store has it.
    Copied,
    /// It has, and the file got a larger bitmap, which must be settled.
    Outgrown,
    /// It is not to be found by any of its names now; its marks are put back (P4).
    Vanished,
}

/// The ways to a file: descriptor of the root, path below it, full path for messages.
pub type Ways<'a> = &'a [(BorrowedFd<'a>, std::ffi::CString, PathBuf)];

/// Opens the file by one of its names.
pub fn open_source<'a>(file: &File, ways: Ways<'a>) -> Result<Option<(OwnedFd, Stat, &'a Path)>> {
    for (root, path, full) in ways {
        match source::open_file(*root, path) {
            Ok(fd) => {
                let stat =
                    rustix::fs::fstat(&fd).map_err(|errno| Error::io("look at", full, &errno.into()))?;
                if source::key_of(&stat) == file.key && source::type_of(&stat) == source::Type::File {
                    return Ok(Some((fd, stat, full)));
                }
            }
            Err(errno) if source::is_vanished(errno) => {}
            Err(errno) => return Err(Error::io("read", full, &errno.into())),
        }
    }
    Ok(None)
}

impl Visit<'_> {
    /// Visits `file`. On failure all marks that were taken are set again.
    pub fn run(&mut self, file: &File, ways: Ways<'_>, store: &Store) -> Result<Outcome> {
        let Some((source, _, path)) = open_source(file, ways)? else {
            self.tracker.put_back(file.entry, None, Marks::DATA);
            return Ok(Outcome::Vanished);
        };
        let marks = file.entry.take_marks();
        let mut missing = Missing { visit: self.tracker, file, marks, ranges: Vec::new() };
        let generation = source::generation(source.as_fd());
        let known = *lock(&file.seen);
        let tail = file.entry.take_tail();
        missing.ranges.push(tail..u64::MAX);
        // Not before the marks were taken: the tail of a file that grew in between would be lost (P2).
        let stat = rustix::fs::fstat(&source).map_err(|errno| Error::io("look at", path, &errno.into()))?;
        let size = stat.st_size as u64;
        // Nothing copied yet, or another file under the same number: all of it (P6).
        let all = marks.contains(Marks::BORN) || known.is_none_or(|seen| seen.generation != generation);
        let tail = if all { 0 } else { tail };
        missing.ranges.clear();
        missing.ranges.push(tail..u64::MAX);
        let tail = tail / BLOCK * BLOCK;
        file.entry.take_ranges(0..tail.min(size), &mut |range| {
            missing.ranges.push(range);
            true
        });
        // Popped from the end: ascending.
        if let Some(ranges) = missing.ranges.get_mut(1..) {
            ranges.reverse();
        }
        let image = store.open(file)?;
        let mut writer = Writer::new(image.as_fd(), &store.path);
        // Should the source shrink and grow again from here on, the image has zeroes there as well.
        writer.cut(size)?;
        while missing.ranges.len() > 1 {
            if let Some(range) = missing.ranges.last().cloned() {
                self.copy(source.as_fd(), &range, &mut (0..0), &mut writer, path)?;
            }
            missing.ranges.pop();
        }
        let mut data = 0..0;
        let mut at = tail;
        while at < size {
            let next = at + CHUNK as u64;
            // What is marked from here on is copied now; what is marked later is marked again (P2).
            file.entry.take_ranges(at..next.min(size), &mut |_| true);
            self.copy(source.as_fd(), &(at..next), &mut data, &mut writer, path)?;
            at = next;
            missing.ranges.clear();
            missing.ranges.push(at..u64::MAX);
        }
        missing.ranges.clear();
        let now = self.finish(&source, &writer, marks.contains(Marks::XATTRS) || all, path)?;
        store.close(image)?;
        // As it was before it was read: whoever changes it meanwhile without a mark has moved its mtime (P25).
        *lock(&file.seen) = Some(Seen::of(&stat, generation));
        missing.marks = Marks::empty();
        let size = now.st_size as u64;
        if file.entry.is_outgrown_by(size) {
            file.entry.grow(size);
            return Ok(Outcome::Outgrown);
        }
        Ok(Outcome::Copied)
    }

    /// Size and attributes, as they are now.
    fn finish(&self, source: &OwnedFd, writer: &Writer<'_>, xattrs: bool, path: &Path) -> Result<Stat> {
        let extended = if xattrs { Some(attributes::read_xattrs(source.as_fd(), path)?) } else { None };
        let stat = rustix::fs::fstat(source).map_err(|errno| Error::io("look at", path, &errno.into()))?;
        writer.set_size(stat.st_size as u64)?;
        if let Some(extended) = extended {
            attributes::write_xattrs(writer.file(), &extended, writer.image())?;
        }
        attributes::apply(writer.file(), &stat, writer.image())?;
        Ok(stat)
    }

    fn copy(
        &mut self,
        source: BorrowedFd<'_>,
        range: &Range<u64>,
        data: &mut Range<u64>,
        writer: &mut Writer<'_>,
        path: &Path,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            self.control.check()?;
            let failed = |errno: Errno| Error::io("read", path, &errno.into());
            match extent_beyond(source, &(at..range.end), data).map_err(failed)? {
                Extent::Hole(from, to) => {
                    writer.hole(from, to - from)?;
                    at = to;
                }
                Extent::Data(from, to) => {
                    let length = (to - from).min(CHUNK as u64) as usize;
                    if self.first {
                        throttle::take(length as u64, &|| self.control.is_stopped());
                        self.control.check()?;
                    }
                    let buffer = self.buffer.get_mut(..length).unwrap_or(&mut []);
                    let got = read_full(source, buffer, from).map_err(failed)?;
                    writer.write(buffer.get(..got).unwrap_or(&[]), from)?;
                    (self.copied)(got as u64);
                    if got < length {
                        // The file has become shorter meanwhile: that is marked, or will be.
                        return Ok(());
                    }
                    at = from + got as u64;
                }
            }
        }
        Ok(())
    }
}

/// What a visit has taken and not copied yet: put back when it is dropped (P4).
struct Missing<'a> {
    visit: &'static Tracker,
    file: &'a File,
    marks: Marks,
    ranges: Vec<Range<u64>>,
}

impl Drop for Missing<'_> {
    fn drop(&mut self) {
        for range in self.ranges.drain(..) {
            if range.start != u64::MAX {
                self.visit.put_back(self.file.entry, Some(range), self.marks);
            }
        }
        if !self.marks.is_empty() {
            self.visit.put_back(self.file.entry, None, self.marks);
        }
    }
}

/// A lock whose poisoning does not matter: what it guards is valid at any time.
pub fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl std::fmt::Debug for Visit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visit").field("first", &self.first).finish_non_exhaustive()
    }
}
