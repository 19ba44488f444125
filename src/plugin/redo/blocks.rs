//! The redo log of MariaDB 10.5 to 10.7: a circular file of blocks of 512 bytes, each with a checksum; the records lie
//! in them without regard to where a block ends.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Medium, crc_is_good, number, put};
use crate::engine::error::{Error, Result};

/// Size of a block, and where in it the records begin and end.
const BLOCK: u64 = 512;
const HEAD: u64 = 12;
const TRAILER: u64 = 508;
const PAYLOAD: u64 = TRAILER - HEAD;
/// Where the blocks begin.
const START: u64 = 2048;
const CHECKPOINTS: [u64; 2] = [512, 1536];
/// How many blocks are read at once.
const CHUNK: u64 = 256;
/// Which part of the log a server needs for itself when it has recovered.
const SPARE: u64 = 64;

type Block = [u8; BLOCK as usize];

/// A log and how far it was read.
#[derive(Debug)]
pub struct Blocks<'a> {
    file: &'a File,
    path: &'a Path,
    capacity: u64,
    checkpoint: u64,
    /// Where in the file the checkpoint lies, blocks only.
    offset: u64,
    /// Blocks that were read.
    read: u64,
    ended: bool,
    /// Of the last block, the number of the checkpoint that was the latest when it was written.
    number: [u8; 4],
}

impl<'a> Blocks<'a> {
    /// Opens the log at its newer checkpoint; `None` where there is none.
    pub fn open(file: &'a File, path: &'a Path, size: u64) -> Result<Option<Blocks<'a>>> {
        let capacity = size.saturating_sub(START) / BLOCK * BLOCK;
        let mut newest: Option<(u64, u64, u64)> = None;
        for at in CHECKPOINTS {
            let mut block: Block = [0; BLOCK as usize];
            file.read_exact_at(&mut block, at).map_err(|e| Error::io("read", path, &e))?;
            let (no, lsn, offset) = (number(&block, 0), number(&block, 8), number(&block, 16));
            let inside = offset >= START && offset < START + capacity;
            let fits = offset % BLOCK == lsn % BLOCK && (HEAD..TRAILER).contains(&(lsn % BLOCK));
            if crc_is_good(&block) && inside && fits && newest.is_none_or(|(newest, ..)| newest <= no) {
                newest = Some((no, lsn, offset));
            }
        }
        Ok(newest.map(|(_, checkpoint, offset)| Blocks {
            file,
            path,
            capacity,
            checkpoint,
            offset: offset - START,
            read: 0,
            ended: false,
            number: [0; 4],
        }))
    }

    /// Where the block lies, counted from that of the checkpoint.
    fn place(&self, index: u64) -> u64 {
        START + (self.offset / BLOCK * BLOCK + index * BLOCK) % self.capacity
    }

    fn block_number(&self, index: u64) -> u32 {
        ((self.checkpoint / BLOCK + index) & 0x3fff_ffff) as u32 + 1
    }

    /// Block and place in it of a byte of the records.
    fn find(&self, position: u64) -> (u64, u64) {
        let at = self.checkpoint % BLOCK - HEAD + position;
        (at / PAYLOAD, HEAD + at % PAYLOAD)
    }

    fn load(&self, index: u64) -> Result<Block> {
        let mut block = [0; BLOCK as usize];
        self.file
            .read_exact_at(&mut block, self.place(index))
            .map_err(|e| Error::io("read", self.path, &e))?;
        Ok(block)
    }

    fn store(&self, index: u64, mut block: Block) -> Result<()> {
        let sum = crc32c::crc32c(block.get(..TRAILER as usize).unwrap_or(&[]));
        put(&mut block, TRAILER, &sum.to_be_bytes());
        self.file.write_all_at(&block, self.place(index)).map_err(|e| Error::io("write", self.path, &e))
    }
}

/// How many bytes of a block are used, its head counted.
fn used(block: &[u8]) -> u64 {
    block.get(4..6).map_or(0, |bytes| bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte)))
}

impl Medium for Blocks<'_> {
    /// The byte that ends the records.
    const TAIL: usize = 1;
    const IS_SEALED: bool = false;

    fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    fn read_on(&mut self, to: &mut Vec<u8>) -> Result<bool> {
        let all = self.capacity / BLOCK;
        let place = self.place(self.read);
        let until_end = (START + self.capacity - place) / BLOCK;
        let count = CHUNK.min(all - self.read).min(until_end);
        if self.ended || count == 0 {
            return Ok(false);
        }
        let mut chunk = vec![0; (count * BLOCK) as usize];
        self.file.read_exact_at(&mut chunk, place).map_err(|e| Error::io("read", self.path, &e))?;
        for block in chunk.chunks_exact(BLOCK as usize) {
            let expected = self.block_number(self.read);
            let found = number(block, 0) >> 32 & 0x3fff_ffff;
            let used = used(block);
            let from = if self.read == 0 { self.checkpoint % BLOCK } else { HEAD };
            let is_sized = used == BLOCK || (HEAD..TRAILER).contains(&used);
            if found != u64::from(expected) & 0x3fff_ffff || !crc_is_good(block) || !is_sized {
                self.ended = true;
                break;
            }
            to.extend_from_slice(block.get(from as usize..used.min(TRAILER) as usize).unwrap_or(&[]));
            self.number.copy_from_slice(block.get(8..12).unwrap_or(&[0; 4]));
            self.read += 1;
            if used < BLOCK {
                self.ended = true;
                break;
            }
        }
        Ok(true)
    }

    fn is_whole(&self, _: u64, _: &[u8], tail: &[u8]) -> bool {
        tail == [0]
    }

    fn seal(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn write(&mut self, mut position: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (index, at) = self.find(position);
            let (here, rest) = bytes.split_at(bytes.len().min((TRAILER - at) as usize));
            let mut block = self.load(index)?;
            put(&mut block, at, here);
            self.store(index, block)?;
            position += here.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn append(&mut self, position: u64, records: &[u8]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let (last, _) = self.find(position + records.len() as u64);
        if (last + 1) * BLOCK + self.capacity / SPARE > self.capacity {
            return Err(Error::new(
                libc::ENOSPC,
                format!(
                    "the redo log {} has no room for the names of the tablespaces that lie elsewhere: enlarge \
                     innodb_log_file_size, or take the backup when less is being written",
                    self.path.display()
                ),
            ));
        }
        let (mut index, mut at) = self.find(position);
        let mut rest = records;
        loop {
            let mut block = if at == HEAD { [0; BLOCK as usize] } else { self.load(index)? };
            if at == HEAD {
                put(&mut block, 0, &self.block_number(index).to_be_bytes());
                put(&mut block, 8, &self.number.clone());
            }
            let (here, more) = rest.split_at(rest.len().min((TRAILER - at) as usize));
            put(&mut block, at, here);
            let end = at + here.len() as u64;
            let is_full = end == TRAILER;
            put(&mut block, 4, &(if is_full { BLOCK } else { end } as u16).to_be_bytes());
            // Where the first mini-transaction of a block begins matters only to who begins in the middle.
            if rest.len() == records.len() && block.get(6..8) == Some(&[0, 0]) {
                put(&mut block, 6, &(at as u16).to_be_bytes());
            }
            self.store(index, block)?;
            if !is_full {
                return Ok(());
            }
            (index, at, rest) = (index + 1, HEAD, more);
        }
    }
}
