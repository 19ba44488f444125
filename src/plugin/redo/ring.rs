//! The redo log of MariaDB 10.8 and later: one circular file of mini-transactions, each with a checksum of its own.
//!
//! # Leftovers
//! The server writes whole blocks from one of two buffers. Behind the last mini-transaction it puts a byte that ends the
//! log, and behind that comes what the buffer held before: an earlier block. Servers that go on filling a buffer while
//! it is being written (11.8: log0log.cc, log_t::write_buf, blocks that are not full) put the next mini-transactions
//! over that byte, and it may be these that reach the disk. Then leftovers follow without an end between. They have
//! good checksums, which say nothing of an LSN; where one of them begins by chance where the log ends, recovery applies
//! it a second time. (Seen: MariaDB 11.8, after `kill -9` with nothing attached, an end without its byte in 6 cases of 31;
//! rows that are twice in a table in 1 image of some 570.)
//!
//! So a tail of the last block that an earlier block has at the same place is no part of the log. Should the server
//! have meant it after all, nobody was told that it is durable: it lay behind the end of what was to be written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Medium, crc_is_good, number};
use crate::engine::error::{Error, Result};

/// Where the mini-transactions begin.
const START: u64 = 0x3000;
const CHECKPOINTS: [u64; 2] = [0x1000, 0x2000];
/// How much is read at once.
const CHUNK: u64 = 1 << 20;
/// Where a mini-transaction would begin: there is none.
pub const END: u8 = 0;
/// Blocks in which the server may write: those of the disk (log_t::set_block_size).
const BLOCKS: [u64; 4] = [LARGEST_BLOCK, 2048, 1024, 512];
pub const LARGEST_BLOCK: u64 = 4096;
/// How far back leftovers may come from: what was written the last two times.
const BACK: u64 = 4 << 20;

/// A log and how far it was read.
#[derive(Debug)]
pub struct Ring<'a> {
    file: &'a File,
    path: &'a Path,
    capacity: u64,
    /// LSN of the file's first mini-transaction.
    first: u64,
    checkpoint: u64,
    read: u64,
}

impl<'a> Ring<'a> {
    /// Opens the log at its newer checkpoint; `None` where there is none.
    pub fn open(file: &'a File, path: &'a Path, header: &[u8], size: u64) -> Result<Option<Ring<'a>>> {
        let first = number(header, 8);
        let mut newest: Option<u64> = None;
        for at in CHECKPOINTS {
            let mut block = [0; 64];
            file.read_exact_at(&mut block, at).map_err(|e| Error::io("read", path, &e))?;
            let (lsn, end) = (number(&block, 0), number(&block, 8));
            if crc_is_good(&block) && first <= lsn && lsn <= end && newest.is_none_or(|newest| newest < lsn) {
                newest = Some(lsn);
            }
        }
        let capacity = size.saturating_sub(START);
        Ok(newest.filter(|_| capacity > 0).map(|checkpoint| Ring {
            file,
            path,
            capacity,
            first,
            checkpoint,
            read: 0,
        }))
    }

    /// How many times the file was filled before that position, and where in it that lies. The header and the checkpoint
    /// may say any numbers.
    fn place(&self, position: u64) -> (u128, u64) {
        let at = u128::from(self.checkpoint - self.first) + u128::from(position);
        let capacity = u128::from(self.capacity);
        (at / capacity, (at % capacity) as u64)
    }

    fn offset(&self, position: u64) -> u64 {
        START + self.place(position).1
    }

    /// The position at which leftovers begin that were taken for the last of the mini-transactions at these positions, of
    /// which the last one ends at `end`. In a block that is full to its end there are none.
    pub fn leftovers(&self, begins: &[u64], end: u64) -> Result<Option<u64>> {
        let mut least = None;
        for block in BLOCKS.into_iter().filter(|&block| self.capacity.is_multiple_of(block)) {
            let offset = self.offset(end);
            let (before, after) = (offset % block, block - offset % block);
            let offset = offset - before;
            let last = self.block(offset, block)?;
            for back in 1..=BACK.min(self.capacity - 1) / block {
                let earlier = START + (offset - START + self.capacity - back * block) % self.capacity;
                let earlier = self.block(earlier, block)?;
                let pairs = last.iter().rev().zip(earlier.iter().rev());
                let same = pairs.take_while(|(a, b)| a == b).count() as u64;
                let from = (end + after).saturating_sub(same);
                let begin = begins.iter().copied().find(|&begin| begin >= from && begin < end);
                least = least.into_iter().chain(begin).min();
            }
            if least.is_some() {
                break;
            }
        }
        Ok(least)
    }

    fn block(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut block = vec![0; length as usize];
        self.file.read_exact_at(&mut block, offset).map_err(|e| Error::io("read", self.path, &e))?;
        Ok(block)
    }
}

impl Medium for Ring<'_> {
    /// The byte that ends the records, and their checksum.
    const TAIL: usize = 5;
    const IS_SEALED: bool = true;

    fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    fn read_on(&mut self, to: &mut Vec<u8>) -> Result<bool> {
        let offset = self.offset(self.read);
        let count = CHUNK.min(self.capacity - self.read).min(START + self.capacity - offset);
        let old = to.len();
        to.resize(old + count as usize, 0);
        let fresh = to.get_mut(old..).unwrap_or_default();
        self.file.read_exact_at(fresh, offset).map_err(|e| Error::io("read", self.path, &e))?;
        self.read += count;
        Ok(count > 0)
    }

    fn is_whole(&self, position: u64, records: &[u8], tail: &[u8]) -> bool {
        let turn = u8::from(self.place(position + records.len() as u64).0.is_multiple_of(2));
        !records.is_empty()
            && tail
                .split_first()
                .is_some_and(|(first, crc)| *first == turn && *crc == crc32c::crc32c(records).to_be_bytes())
    }

    fn seal(&self, records: &[u8]) -> Option<Vec<u8>> {
        Some(crc32c::crc32c(records).to_be_bytes().to_vec())
    }

    fn write(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        let offset = self.offset(position);
        let until_end = usize::try_from(START + self.capacity - offset).unwrap_or(usize::MAX);
        let (here, wrapped) = bytes.split_at(until_end.min(bytes.len()));
        self.file
            .write_all_at(here, offset)
            .and_then(|()| self.file.write_all_at(wrapped, START))
            .map_err(|e| Error::io("write", self.path, &e))
    }

    /// Nothing is to be added: from 10.8 on the dictionary has no paths.
    fn append(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
}
