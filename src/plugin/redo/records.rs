//! Mini-transactions and their records, as MariaDB 10.5 and later write them (mtr0types.h, mtr0log.h, log0recv.cc).

use std::ops::Range;

/// Kinds of records on files: the upper half of their first byte.
const CREATE: u8 = 0x80;
const DELETE: u8 = 0x90;
const RENAME: u8 = 0xa0;
const MODIFY: u8 = 0xb0;
const CHECKPOINT: u8 = 0xf0;
/// Of a kind of no meaning yet.
const RESERVED: u8 = 0x60;

/// Least numbers that are written in two, three, four and five bytes.
const LEAST: [u64; 4] = [
    1 << 7,
    (1 << 7) + (1 << 14),
    (1 << 7) + (1 << 14) + (1 << 21),
    (1 << 7) + (1 << 14) + (1 << 21) + (1 << 28),
];

/// What the bytes from the start of a mini-transaction on hold.
#[derive(Debug, PartialEq, Eq)]
pub enum Extent {
    /// Records of this length, and the byte after them, which is 0 or 1.
    Whole(usize),
    /// Its end is not there.
    Cut,
    /// No records.
    Broken,
}

/// How far the records of a mini-transaction go.
pub fn extent(bytes: &[u8]) -> Extent {
    let mut at = 0;
    loop {
        match bytes.get(at) {
            None => return Extent::Cut,
            Some(0 | 1) => return Extent::Whole(at),
            Some(_) => {}
        }
        match length(bytes.get(at..).unwrap_or(&[])) {
            Length::Of(_, whole) => at += whole,
            Length::Cut => return Extent::Cut,
            Length::Broken => return Extent::Broken,
        }
    }
}

enum Length {
    /// Of what stands before the page's number, and of the whole record.
    Of(usize, usize),
    Cut,
    Broken,
}

/// Of the record that begins here.
fn length(record: &[u8]) -> Length {
    let Some((first, rest)) = record.split_first() else { return Length::Cut };
    if first & 0x0f != 0 {
        return Length::Of(1, 1 + usize::from(first & 0x0f));
    }
    match number(rest) {
        Ok(Some((more, bytes))) => {
            usize::try_from(more).map_or(Length::Broken, |more| Length::Of(1 + bytes, 16 + more))
        }
        Ok(None) => Length::Cut,
        Err(()) => Length::Broken,
    }
}

/// A number of one to five bytes, and how many; `None` where it is cut off.
fn number(bytes: &[u8]) -> Result<Option<(u32, usize)>, ()> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let (count, top) = match first {
        0..0x80 => return Ok(Some((u32::from(first), 1))),
        0x80..0xc0 => (1, first & 0x3f),
        0xc0..0xe0 => (2, first & 0x1f),
        0xe0..0xf0 => (3, first & 0x0f),
        0xf0 => (4, 0),
        _ => return Err(()),
    };
    let Some(rest) = rest.get(..count) else { return Ok(None) };
    let value = rest.iter().fold(u64::from(top), |value, &byte| value << 8 | u64::from(byte));
    let least = LEAST.get(count - 1).copied().unwrap_or_default();
    u32::try_from(least + value).map(|value| Some((value, count + 1))).map_err(drop)
}

fn write_number(value: u32, to: &mut Vec<u8>) {
    let value = u64::from(value);
    let count = LEAST.iter().take_while(|&&least| value >= least).count();
    let Some(least) = count.checked_sub(1).and_then(|n| LEAST.get(n)) else {
        to.push(value as u8);
        return;
    };
    let bytes = (value - least).to_be_bytes();
    let mark = [0x80, 0xc0, 0xe0, 0xf0].get(count - 1).copied().unwrap_or(0xf0);
    let tail = bytes.get(bytes.len() - count..).unwrap_or(&[]);
    let top = bytes.get(bytes.len() - count - 1).copied().unwrap_or_default();
    to.push(mark | top);
    to.extend_from_slice(tail);
}

/// A record on files.
#[derive(Debug, PartialEq, Eq)]
pub enum FileRecord {
    /// What was done to the tablespace of this number, whose name stands here; where it was renamed, the new one, too.
    Names(u32, [Option<Range<usize>>; 2]),
    /// The log names all files that changed since the checkpoint at this LSN.
    Checkpoint(u64),
}

/// The records on files of a mini-transaction; `None` where one is of an unknown form.
pub fn file_records(records: &[u8]) -> Option<Vec<FileRecord>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut of_a_page = false;
    while at < records.len() {
        let record = records.get(at..)?;
        let Length::Of(head, whole) = length(record) else { return None };
        let first = *record.first()?;
        if first & 0x70 == RESERVED {
            return None;
        }
        // After a record of a page this bit says that the next one is of the same.
        if first & 0x80 == 0 || !of_a_page {
            of_a_page = first & 0x80 == 0;
            if !of_a_page {
                let record = record.get(..whole)?;
                let (space, space_bytes) = number(record.get(head..)?).ok()??;
                let (page, page_bytes) = number(record.get(head + space_bytes..)?).ok()??;
                let begin = head + space_bytes + page_bytes;
                let body = record.get(begin..)?;
                found.extend(file_record(first & 0xf0, (space, page), body, at + begin)?);
            }
        }
        at += whole;
    }
    Some(found)
}

/// One record's meaning. `Some(None)`: none, as that of a checkpoint that only fills up.
fn file_record(kind: u8, page: (u32, u32), body: &[u8], at: usize) -> Option<Option<FileRecord>> {
    let is_name = |name: &[u8]| name.ends_with(b".ibd") && name.contains(&b'/') && !name.contains(&0);
    match (kind, page) {
        (CHECKPOINT, (0, 0)) => {
            let lsn = body.try_into().map(u64::from_be_bytes);
            Some(lsn.ok().map(FileRecord::Checkpoint))
        }
        (CREATE | DELETE | MODIFY, (1.., 0)) if is_name(body) => {
            Some(Some(FileRecord::Names(page.0, [Some(at..at + body.len()), None])))
        }
        (RENAME, (1.., 0)) => {
            let end = body.iter().position(|&byte| byte == 0)?;
            let (old, new) = (body.get(..end)?, body.get(end + 1..)?);
            let names = [Some(at..at + end), Some(at + end + 1..at + body.len())];
            (is_name(old) && is_name(new)).then_some(Some(FileRecord::Names(page.0, names)))
        }
        _ => None,
    }
}

/// The record by which the server says which file a tablespace has.
pub fn names_file(space: u32, name: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    write_number(space, &mut body);
    body.push(0);
    body.extend_from_slice(name);
    record(MODIFY, &body)
}

/// A record of a kind with what follows its length.
pub fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    match u8::try_from(body.len()) {
        Ok(length @ 1..=15) => record.push(kind | length),
        _ => {
            record.push(kind);
            // The length counts its own bytes.
            let length = |bytes: usize| u32::try_from(body.len() + bytes - 15).unwrap_or(u32::MAX);
            let bytes = (1..=5).find(|&bytes| {
                let mut written = Vec::new();
                write_number(length(bytes), &mut written);
                written.len() == bytes
            });
            write_number(length(bytes.unwrap_or(1)), &mut record);
        }
    }
    record.extend_from_slice(body);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_written() {
        let mut bounds: Vec<u32> =
            LEAST.iter().flat_map(|&n| [n as u32 - 1, n as u32, n as u32 + 1]).collect();
        bounds.extend([0, 1, 12_345_678, u32::MAX]);
        for value in bounds {
            let mut bytes = Vec::new();
            write_number(value, &mut bytes);
            assert_eq!(number(&bytes), Ok(Some((value, bytes.len()))));
            assert_eq!(number(&bytes[..bytes.len() - 1]), Ok(None), "{value} cut off");
        }
        assert_eq!(number(&[0x80, 0]), Ok(Some((0x80, 2))), "the least of two bytes");
        assert_eq!(number(&[0xf1, 0, 0, 0, 0]), Err(()));
        assert_eq!(number(&[0xf0, 0xff, 0xff, 0xff, 0xff]), Err(()), "more than 32 bits");
    }

    #[test]
    fn records_of_any_length_are_found() {
        for length in [8, 13, 14, 15, 16, 17, 140, 141, 142, 143, 144, 145, 512] {
            let name = format!("/{}/t.ibd", "x".repeat(length - 7));
            let mut bytes = names_file(300, name.as_bytes());
            let names = [Some(bytes.len() - name.len()..bytes.len()), None];
            assert_eq!(file_records(&bytes), Some(vec![FileRecord::Names(300, names)]), "{length}");
            assert_eq!(extent(&bytes), Extent::Cut);
            bytes.push(0);
            assert_eq!(extent(&bytes), Extent::Whole(bytes.len() - 1));
        }
    }

    #[test]
    fn what_looks_like_a_record_on_a_page_is_none() {
        // WRITE on page 3 of space 5, one byte at 200, then one on the same page whose first byte is that of MODIFY.
        let page = [0x35, 5, 3, 0x80, 72, b'x'];
        let same = [0xb0 | 4, b'/', b'a', b'/', b'b'];
        assert_eq!(file_records(&[&page[..], &same].concat()), Some(vec![]));
        assert_eq!(file_records(&same), None, "by itself it is a record on files, of no known form");
        let rename = [&[0xa0 | 15, 9, 0][..], b"/a/b.ibd", &[0], b"/c"].concat();
        assert_eq!(file_records(&rename), None);
        let checkpoint = [&[0xfa, 0, 0][..], &77u64.to_be_bytes()].concat();
        assert_eq!(file_records(&checkpoint), Some(vec![FileRecord::Checkpoint(77)]));
        assert_eq!(file_records(&[0xf2, 0, 0]), Some(vec![]), "fills up");
        assert_eq!(file_records(&[0x62, 0, 0]), None, "reserved");
    }
}
