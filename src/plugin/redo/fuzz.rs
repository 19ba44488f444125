//! Logs of any records, and damaged ones.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::records::record;
use super::sample::{Begin, SIZE, log, seal};
use super::*;
use crate::fuzz;

/// Directories outside of the data directory, and what takes their places.
const TURNED: [(&[u8], &str); 3] =
    [(b"/vol/e", "../ts"), (b"/vol/mysql/big", "../tablespaces"), (b"../x//y", "../t.2")];
/// Fewer bytes than there is room for in either format.
const ROOM: usize = 3000;

/// A name in a record: which of [`TURNED`] it begins with (else it lies in the data directory), schema and file.
struct FileName(Option<usize>, Vec<u8>);

enum Part {
    /// Records on pages: they stay as they are.
    Pages(Vec<u8>),
    /// One on a file: its kind, the tablespace, its names.
    File(u8, u32, Vec<FileName>),
}

fn file_name(u: &mut Unstructured<'_>) -> Result<FileName> {
    let part = |u: &mut Unstructured<'_>| -> Result<Vec<u8>> {
        let name: Vec<u8> = fuzz::name(u)?.into_iter().filter(|&byte| byte != b'/').collect();
        Ok(if matches!(&name[..], b"" | b"." | b"..") { b"d".to_vec() } else { name })
    };
    let (schema, file) = (part(u)?, part(u)?);
    let directory = if u.ratio(2, 3)? { Some(u.choose_index(TURNED.len())?) } else { None };
    Ok(FileName(directory, [b"/", &schema[..], b"/", &file, b".ibd"].concat()))
}

/// A record on a page, or on the same page as the one before.
fn on_a_page(u: &mut Unstructured<'_>, same: bool) -> Result<Vec<u8>> {
    let kind = *u.choose(&[0x10, 0x20, 0x30, 0x40, 0x50])?;
    let mut data = Vec::<u8>::arbitrary(u)?;
    data.truncate(600);
    if u.ratio(1, 4)? {
        data = names_file(u.arbitrary()?, b"/vol/e/d/row.ibd");
    }
    if same {
        data.push(7);
        return Ok(record(kind | 0x80, &data));
    }
    let mut body = vec![u.int_in_range(0..=0x7f)?, u.int_in_range(0..=0x7f)?];
    body.extend(data);
    Ok(record(kind, &body))
}

fn transaction(u: &mut Unstructured<'_>) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for _ in 0..u.int_in_range(0..=2)? {
        let kind = *u.choose(&[0x80, 0x90, 0xa0, 0xb0])?;
        let names = (0..if kind == 0xa0 { 2 } else { 1 }).map(|_| file_name(u)).collect::<Result<_>>()?;
        parts.push(Part::File(kind, u.int_in_range(1..=300)?, names));
    }
    if parts.is_empty() || u.ratio(1, 3)? {
        let mut pages = on_a_page(u, false)?;
        for _ in 0..u.int_in_range(0..=2)? {
            pages.extend(on_a_page(u, true)?);
        }
        parts.push(Part::Pages(pages));
    }
    Ok(parts)
}

/// The bytes of a mini-transaction, where these are the directories.
fn rendered(parts: &[Part], directories: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Pages(records) => bytes.extend(records),
            Part::File(kind, space, names) => {
                let name = |FileName(directory, rest): &FileName| {
                    let directory = directory.map_or(&b"."[..], |at| &directories[at]);
                    [directory, rest].concat()
                };
                let body = names.iter().map(name).collect::<Vec<_>>().join(&0);
                // As the server writes it, but for the kind.
                let mut record = names_file(*space, &body);
                record[0] = record[0] & 0x0f | kind;
                bytes.extend(record);
            }
        }
    }
    bytes
}

fn old_directories() -> Vec<Vec<u8>> {
    TURNED.iter().map(|(old, _)| old.to_vec()).collect()
}

/// Filled up to the length of the old ones.
fn new_directories() -> Vec<Vec<u8>> {
    let filled = |(old, new): &(&[u8], &str)| {
        let mut new = new.as_bytes().to_vec();
        new.resize(old.len(), b'/');
        new
    };
    TURNED.iter().map(filled).collect()
}

fn begin(u: &mut Unstructured<'_>) -> Result<Begin> {
    let in_blocks = Begin { format: IN_BLOCKS, shift: u.int_in_range(0..=496 * 28 * 2)? };
    let in_a_ring = Begin { format: IN_A_RING, shift: u.int_in_range(0..=4096 * 2 + 7)? };
    Ok(*u.choose(&[in_blocks, in_a_ring])?)
}

fn transactions(u: &mut Unstructured<'_>) -> Result<Vec<Vec<Part>>> {
    let mut all = Vec::new();
    let mut left = ROOM;
    for _ in 0..u.int_in_range(0..=10)? {
        let transaction = transaction(u)?;
        match left.checked_sub(rendered(&transaction, &old_directories()).len() + 5) {
            Some(less) => left = less,
            None => break,
        }
        all.push(transaction);
    }
    Ok(all)
}

fn turn(file: &File, path: &Path, more: &[Tablespace]) -> std::result::Result<(), Error> {
    let directories = TURNED.iter().map(|(old, new)| (old.to_vec(), (*new).to_owned())).collect();
    turn_names(file, path, &directories, more)
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().expect("a file").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("all of it");
    bytes
}

/// A log becomes the one that the server would have written with the new names, and nothing else of it changes.
pub fn turned(u: &mut Unstructured<'_>) -> Result<()> {
    let path = Path::new("/nowhere/ib_logfile0");
    let (begin, all) = (begin(u)?, transactions(u)?);
    let with = |directories: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        all.iter().map(|transaction| rendered(transaction, &directories)).collect()
    };
    let (old, mut new) = (with(old_directories()), with(new_directories()));
    let file = fuzz::file(&log(begin, &old));
    let files = || {
        all.iter().flatten().filter_map(|part| match part {
            Part::File(_, space, names) => Some((*space, names)),
            Part::Pages(_) => None,
        })
    };
    let used: BTreeSet<_> = files()
        .flat_map(|(_, names)| names.iter().filter_map(|FileName(directory, _)| *directory))
        .map(|at| TURNED[at].0.to_vec())
        .collect();
    assert_eq!(directories(&file, path).expect("a log"), used, "{begin:?}");
    let more: Vec<Tablespace> = (0..u.int_in_range(0..=3)?)
        .map(|_| Ok(Tablespace { id: u.int_in_range(1..=400)?, name: b"../ts/d/more.ibd".to_vec() }))
        .collect::<Result<_>>()?;
    turn(&file, path, &more).unwrap_or_else(|error| panic!("{error}: {begin:?}"));
    let work = visit(&file, path, None).expect("a log still");
    if begin.format == IN_BLOCKS {
        let named: HashSet<u32> = files().map(|(space, _)| space).collect();
        let added = more.iter().filter(|tablespace| !named.contains(&tablespace.id));
        new.extend(added.map(|tablespace| names_file(tablespace.id, &tablespace.name)));
        let expected = fuzz::file(&log(begin, &new));
        let expected = visit(&expected, path, None).expect("a log");
        assert_eq!(
            (work.end, work.named, work.directories),
            (expected.end, expected.named, expected.directories)
        );
    }
    if begin.format == IN_A_RING || more.is_empty() {
        let (found, expected) = (content(&file), log(begin, &new));
        let differs = (0..SIZE).find(|&at| found[at] != expected[at]);
        assert_eq!(differs, None, "{begin:?}");
    }
    Ok(())
}

/// A log that is not understood is not changed. One that is, is still one afterwards, of the same size, behind the same
/// header, and leads nowhere outside.
pub fn damaged(u: &mut Unstructured<'_>) -> Result<()> {
    let path = Path::new("/nowhere/ib_logfile0");
    let (begin, all) = (begin(u)?, transactions(u)?);
    let mut records: Vec<_> =
        all.iter().map(|transaction| rendered(transaction, &old_directories())).collect();
    // With good checksums.
    if !records.is_empty() && u.arbitrary()? {
        let at = u.choose_index(records.len())?;
        fuzz::damage(&mut records[at], u)?;
        records[at].truncate(600);
    }
    let mut bytes = log(begin, &records);
    if u.arbitrary()? {
        let mut head = bytes[..SIZE / 8].to_vec();
        fuzz::damage(&mut head, u)?;
        bytes.splice(..SIZE / 8, head);
    }
    if u.ratio(1, 4)? {
        fuzz::damage(&mut bytes, u)?;
    }
    // Header and newest checkpoint may say anything.
    const NUMBERS: [u64; 6] = [0, 1, 1 << 40, u64::MAX / 512 * 512 + 100, u64::MAX - 1, u64::MAX];
    let checkpoint = if begin.format == IN_A_RING { 0x1000 } else { 512 };
    if u.ratio(1, 4)? {
        for at in [8, checkpoint, checkpoint + 8, checkpoint + 16] {
            if u.arbitrary()? {
                put(&mut bytes, at as u64, &u.choose(&NUMBERS)?.to_be_bytes());
            }
        }
    }
    if u.arbitrary()? {
        let length = if begin.format == IN_A_RING { 64 } else { 512 };
        for (at, length) in [(0, 512), (checkpoint, length)] {
            if let Some(block) = bytes.get_mut(at..at + length) {
                seal(block);
            }
        }
    }
    let file = fuzz::file(&bytes);
    // Sometimes more than there is room for.
    let more: Vec<Tablespace> = (0..*u.choose(&[0, 1, 60])?)
        .map(|count| Tablespace { id: 301 + count, name: format!("../ts/d/{}.ibd", "x".repeat(200)).into() })
        .collect();
    let before = visit(&file, path, None);
    let result = turn(&file, path, &more);
    let after = content(&file);
    match result {
        Err(error) => {
            assert!(after == bytes, "changed, and refused: {error}");
            assert!(!error.message.is_empty());
        }
        Ok(()) => {
            let before = before.expect("what can be turned can be read");
            let head = if begin.format == IN_A_RING { 0x3000 } else { 2048 };
            assert!(after.len() == bytes.len() && after[..head] == bytes[..head], "not in the records");
            let work = visit(&file, path, None).expect("a log still");
            assert!(work.end >= before.end && work.named.is_superset(&before.named));
            let new: BTreeSet<_> = new_directories().into_iter().chain([b"../ts".to_vec()]).collect();
            assert!(work.directories.is_subset(&new), "{:?}", work.directories);
            if more.is_empty() && before.directories.is_empty() {
                assert!(after == bytes, "there was nothing to turn");
            }
        }
    }
    let leftovers = end_before_leftovers(&file, path).unwrap_or_default();
    let ended = content(&file);
    let changed = after.iter().zip(&ended).filter(|(before, after)| before != after).count();
    assert_eq!((ended.len(), changed as u64), (after.len(), leftovers.min(1)), "a byte, or none");
    Ok(())
}

/// Bytes of anybody are cut into records, or are none; a record of a file is found wherever it stands.
pub fn records(u: &mut Unstructured<'_>) -> Result<()> {
    let (before, name) = (on_a_page(u, false)?, fuzz::path(u)?);
    let name = [b"./", &name[..], b".ibd"].concat();
    // Of every length.
    let space = (u32::arbitrary(u)? >> u.int_in_range(0..=31)?).max(1);
    let mut bytes = [names_file(space, &name), before].concat();
    bytes.push(0);
    assert_eq!(extent(&bytes), Extent::Whole(bytes.len() - 1));
    let found = file_records(&bytes[..bytes.len() - 1]).expect("records");
    let [FileRecord::Names(found_space, [Some(range), None])] = &found[..] else { panic!("{found:?}") };
    assert_eq!((*found_space, &bytes[range.clone()]), (space, &name[..]));
    for cut in 0..bytes.len() {
        assert_eq!(extent(&bytes[..cut]), Extent::Cut, "cut to {cut}");
    }
    fuzz::damage(&mut bytes, u)?;
    for bytes in [bytes, Vec::arbitrary(u)?] {
        if let Extent::Whole(length) = extent(&bytes) {
            assert!(length < bytes.len() && bytes[length] <= 1);
            for record in file_records(&bytes[..length]).unwrap_or_default() {
                if let FileRecord::Names(_, names) = record {
                    names.into_iter().flatten().for_each(|range| assert!(bytes[range].ends_with(b".ibd")));
                }
            }
        }
    }
    Ok(())
}
