//! Where a file has data and where holes.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Ascending, disjoint, not empty, not adjacent.
pub type Ranges = Vec<Range<u64>>;

/// Data of the file below `size`, as SEEK_DATA and SEEK_HOLE tell.
pub fn data(file: BorrowedFd<'_>, size: u64) -> Result<Ranges, Errno> {
    let mut ranges = Ranges::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // This file system knows no holes.
            Err(Errno::INVAL) => return Ok(std::iter::once(0..size).collect()),
            Err(errno) => return Err(errno),
        };
        if start >= size {
            break;
        }
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        push(&mut ranges, start..end.min(size));
        at = end.max(start + 1);
    }
    Ok(ranges)
}

fn push(ranges: &mut Ranges, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ if range.is_empty() => {}
        _ => ranges.push(range),
    }
}

/// What is in one of them or in both.
pub fn union(one: &[Range<u64>], other: &[Range<u64>]) -> Ranges {
    let mut all: Vec<Range<u64>> = one.iter().chain(other).cloned().collect();
    all.sort_by_key(|range| range.start);
    let mut ranges = Ranges::new();
    for range in all {
        push(&mut ranges, range);
    }
    ranges
}

/// What of `0..size` is not in `ranges`.
pub fn complement(ranges: &[Range<u64>], size: u64) -> Ranges {
    let mut gaps = Ranges::new();
    let mut at = 0;
    for range in ranges {
        push(&mut gaps, at..range.start.min(size).max(at));
        at = at.max(range.end);
    }
    push(&mut gaps, at..size.max(at));
    gaps
}

/// The most that one of the ranges has in common with `range`.
pub fn overlap(ranges: &[Range<u64>], range: &Range<u64>) -> u64 {
    let common = |other: &Range<u64>| other.end.min(range.end).saturating_sub(other.start.max(range.start));
    ranges.iter().map(common).max().unwrap_or(0)
}

/// What the file systems of both sides tell of holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// One of them knows no holes, or may not.
    Nothing,
    /// They allocate more than is written, and what of it counts as data changes by itself: holes are as they should be
    /// when the image takes no more room.
    Roughly,
    /// What was written is data, the rest is holes.
    Exactly,
}

/// By the types of the file systems.
pub fn told(one: impl AsFd, other: impl AsFd) -> Result<Told, Errno> {
    const EXACT: [libc::c_long; 3] = [libc::EXT4_SUPER_MAGIC, libc::TMPFS_MAGIC, libc::F2FS_SUPER_MAGIC];
    const ROUGH: [libc::c_long; 3] =
        [libc::XFS_SUPER_MAGIC, libc::BTRFS_SUPER_MAGIC, libc::OVERLAYFS_SUPER_MAGIC];
    let kinds = [rustix::fs::fstatfs(one)?.f_type, rustix::fs::fstatfs(other)?.f_type];
    let all = |known: &[libc::c_long]| kinds.iter().all(|kind| known.contains(&(*kind as libc::c_long)));
    Ok(match () {
        () if all(&EXACT) => Told::Exactly,
        () if all(&[EXACT, ROUGH].concat()) => Told::Roughly,
        () => Told::Nothing,
    })
}

// linux/fiemap.h and linux/fs.h; not in the libc crate.
const FS_IOC_FIEMAP: libc::Ioctl = 0xC020_660B;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;
const EXTENTS: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [FiemapExtent; EXTENTS],
}

static_assertions::const_assert_eq!(size_of::<FiemapExtent>(), 56);
static_assertions::const_assert_eq!(std::mem::offset_of!(Fiemap, extents), 32);

/// What is allocated and was never written: it reads as zeroes, and is a hole or data depending on what the page
/// cache holds at the moment, so it counts as neither. Empty where the file system does not tell.
pub fn unwritten(file: BorrowedFd<'_>, size: u64) -> Ranges {
    let mut ranges = Ranges::new();
    let mut at = 0;
    while at < size {
        let mut map = Fiemap {
            start: at,
            length: size - at,
            flags: 0,
            mapped_extents: 0,
            extent_count: EXTENTS as u32,
            reserved: 0,
            extents: [FiemapExtent::default(); EXTENTS],
        };
        // SAFETY: FS_IOC_FIEMAP takes this struct and writes at most `extent_count` extents behind it.
        if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &mut map) } != 0 {
            break;
        }
        let extents = map.extents.get(..map.mapped_extents as usize).unwrap_or_default();
        for extent in extents.iter().filter(|extent| extent.flags & FIEMAP_EXTENT_UNWRITTEN != 0) {
            push(&mut ranges, extent.logical..extent.logical.saturating_add(extent.length));
        }
        match extents.last() {
            Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 => {
                at = last.logical.saturating_add(last.length).max(at + 1);
            }
            _ => break,
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_ranges() {
        let ranges = [10..20, 30..40];
        assert_eq!(complement(&ranges, 50), [0..10, 20..30, 40..50]);
        assert_eq!(complement(&ranges, 40), [0..10, 20..30]);
        assert_eq!(complement(&ranges, 15), std::iter::once(0..10).collect::<Ranges>());
        assert_eq!(complement(&[], 5), std::iter::once(0..5).collect::<Ranges>());
        assert_eq!(complement(&[], 0), Ranges::new());
        assert_eq!(union(&ranges, &[0..5, 15..30]), [0..5, 10..40]);
        let common = [0..11, 39..99, 12..13, 15..35].map(|range| overlap(&ranges, &range));
        assert_eq!(common, [1, 1, 1, 5]);
        assert!([0..10, 20..30, 40..41].iter().all(|range| overlap(&ranges, range) == 0));
    }
}
