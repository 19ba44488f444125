//! The bytes and the holes of two files.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::What;
use super::extents::{self, Ranges, Told};

/// Bytes compared at a time.
const BLOCK: usize = 1 << 20;
/// Shorter holes may differ.
const SHORTEST_HOLE: u64 = 64 << 10;

/// A thread's two buffers.
pub struct Blocks {
    source: Vec<u8>,
    image: Vec<u8>,
}

impl Blocks {
    pub fn new() -> Blocks {
        Blocks { source: vec![0; BLOCK], image: vec![0; BLOCK] }
    }
}

/// Compares the first `size` bytes: the first byte that differs, the first hole that does on each side.
pub fn compare(
    source: impl AsFd,
    image: impl AsFd,
    size: u64,
    blocks: &mut Blocks,
) -> Result<Vec<What>, Errno> {
    let (source, image) = (source.as_fd(), image.as_fd());
    let source_data = extents::data(source, size)?;
    let image_data = extents::data(image, size)?;
    let mut found = Vec::new();
    // What is a hole in both is equal.
    for range in extents::union(&source_data, &image_data) {
        if let Some(what) = compare_range(source, image, range, blocks)? {
            found.push(what);
            break;
        }
    }
    let told = extents::told(source, image)?;
    if source_data != image_data && told != Told::Nothing {
        let unwritten = extents::union(&extents::unwritten(source, size), &extents::unwritten(image, size));
        let block = rustix::fs::fstat(source)?.st_blksize.max(rustix::fs::fstat(image)?.st_blksize);
        let block = u64::try_from(block).unwrap_or(4096).max(1);
        let filled = |holes_of: &Ranges, data_of: &Ranges, in_source| {
            let undecided = extents::union(holes_of, &unwritten);
            let hole = extents::complement(&undecided, size)
                .into_iter()
                .map(|hole| {
                    let start = hole.start.next_multiple_of(block);
                    start..if hole.end == size { size } else { hole.end / block * block }
                })
                .filter(|hole| hole.start < hole.end && hole.end - hole.start >= SHORTEST_HOLE)
                .find(|hole| {
                    // A write into allocated space makes up to 32 KiB around it zeroes on the disk (ext4,
                    // extent_max_zeroout_kb).
                    let most = if in_source { 0 } else { SHORTEST_HOLE - 1 };
                    extents::overlap(data_of, hole) > most
                })?;
            Some(What::Hole { offset: hole.start, length: hole.end - hole.start, in_source })
        };
        let exact = told == Told::Exactly;
        if exact || room(image)? > room(source)? + SHORTEST_HOLE {
            found.extend(filled(&source_data, &image_data, true));
        }
        if exact {
            found.extend(filled(&image_data, &source_data, false));
        }
    }
    Ok(found)
}

/// Bytes on the disk.
fn room(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(file)?.st_blocks as u64 * 512)
}

fn compare_range(
    source: BorrowedFd<'_>,
    image: BorrowedFd<'_>,
    range: Range<u64>,
    blocks: &mut Blocks,
) -> Result<Option<What>, Errno> {
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(BLOCK).min(BLOCK);
        let source = read(source, &mut blocks.source, length, at)?;
        let image = read(image, &mut blocks.image, length, at)?;
        if source != image {
            let differs = source.iter().zip(image).position(|(one, other)| one != other);
            let index = differs.unwrap_or(source.len().min(image.len()));
            let byte = |bytes: &[u8]| bytes.get(index).copied().unwrap_or(0);
            let offset = at + index as u64;
            return Ok(Some(What::Bytes { offset, source: byte(source), image: byte(image) }));
        }
        if source.len() < length {
            break;
        }
        at += length as u64;
    }
    Ok(None)
}

/// `length` bytes at `offset`, fewer at the end of the file.
fn read<'a>(
    file: BorrowedFd<'_>,
    buffer: &'a mut [u8],
    length: usize,
    offset: u64,
) -> Result<&'a [u8], Errno> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..length).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(buffer.get(..done).unwrap_or_default())
}
