//! The redo log of MariaDB 10.8 and later: one circular file of mini-transactions, each with a checksum of its own.

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
