//! Logs that are made here, in both formats, for tests.

use super::records::record;
use super::*;

/// Bytes of a log.
pub const SIZE: usize = 16 << 10;

/// How a log begins.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// The number in its header.
    pub format: u32,
    /// How far from the first byte of the file's mini-transactions the checkpoint lies.
    pub shift: u64,
}

/// Gives a block its checksum.
pub fn seal(bytes: &mut [u8]) {
    if let Some((bytes, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(bytes).to_be_bytes();
    }
}

/// A log with these mini-transactions since its checkpoint, and that of the checkpoint.
pub fn log(begin: Begin, records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0xee; SIZE];
    put(&mut bytes, 0, &begin.format.to_be_bytes());
    let first: u64 = 1 << 40;
    put(&mut bytes, 8, &first.to_be_bytes());
    seal(&mut bytes[..512]);
    let checkpoint = |lsn: u64| record(0xf0, &[&[0, 0][..], &lsn.to_be_bytes()].concat());
    let mut records = records.to_vec();
    if begin.format == IN_A_RING {
        let lsn = first + begin.shift;
        records.insert(0, checkpoint(lsn));
        for (at, lsn) in [(0x1000, lsn), (0x2000, lsn - 1)] {
            let block = &mut bytes[at..at + 64];
            block.fill(0);
            put(block, 0, &lsn.to_be_bytes());
            put(block, 8, &lsn.to_be_bytes());
            seal(block);
        }
        // The other one is no longer valid, as when a server died while it wrote it.
        bytes[0x2010] ^= 1;
        let capacity = SIZE as u64 - 0x3000;
        let mut at = begin.shift;
        for record in &records {
            let end = at + record.len() as u64;
            let turn = u8::from((end / capacity).is_multiple_of(2));
            for byte in [&record[..], &[turn], &crc32c::crc32c(record).to_be_bytes()].concat() {
                bytes[(0x3000 + at % capacity) as usize] = byte;
                at += 1;
            }
        }
    } else {
        let block = begin.shift / 496;
        let lsn = first + block * 512 + 12 + begin.shift % 496;
        records.insert(0, checkpoint(lsn));
        let capacity = (SIZE - 2048) as u64;
        let place = |block: u64| (2048 + block * 512 % capacity) as usize;
        for (at, number) in [(512, 8_u64), (1536, 7)] {
            let offset = place(block) as u64 + lsn % 512;
            let block = &mut bytes[at..at + 512];
            block.fill(0);
            put(block, 0, &number.to_be_bytes());
            put(block, 8, &(lsn - (8 - number) * 512).to_be_bytes());
            put(block, 16, &offset.to_be_bytes());
            seal(block);
        }
        let mut payload = vec![0x77; (begin.shift % 496) as usize];
        payload.extend(records.iter().flat_map(|record| [&record[..], &[0]].concat()));
        // A block that is full is followed by one that is empty.
        let empty = payload.len().is_multiple_of(496).then_some(&[][..]);
        for (count, chunk) in payload.chunks(496).chain(empty).enumerate() {
            let block = block + count as u64;
            let place = place(block);
            let to = &mut bytes[place..place + 512];
            to.fill(0);
            put(to, 0, &((((first / 512 + block) & 0x3fff_ffff) as u32 + 1) | 1 << 31).to_be_bytes());
            let used = if chunk.len() == 496 { 512 } else { 12 + chunk.len() };
            put(to, 4, &(used as u16).to_be_bytes());
            put(to, 12, chunk);
            seal(to);
        }
    }
    bytes
}
