//! The redo log of MariaDB names tablespaces by their paths, and recovery opens (and renames) them there. In an image
//! the names of those that lay elsewhere are turned to where they lie now, in a directory beside the data directory
//! (P26).
//!
//! The log is read record by record from its newer checkpoint on, as the server does at recovery, and ends where it
//! ends for the server; what only looks like a name, in a row of a table, is no record on a file. A name is replaced by
//! one of the same length, so nothing moves: `/vol/mysql/big/d/t.ibd` becomes `../tablespaces/d/t.ibd`.
//!
//! Up to 10.5 the dictionary has paths, too. The server opens a table by them unless recovery has opened it, and puts
//! them right if it has. So tablespaces that the log does not name are named at its end.
//!
//! From 10.8 on recovery can take what is no part of the log for its end: [`ring`].

mod blocks;
#[cfg(test)]
pub(crate) mod fuzz;
mod records;
mod ring;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blocks::Blocks;
use records::{Extent, FileRecord, extent, file_records, names_file};
use ring::Ring;

use crate::engine::attributes;
use crate::engine::error::{Error, Result};

/// The formats that are known, by the number in the header: 10.5 to 10.7, and 10.8 and later.
const IN_BLOCKS: u32 = 0x5048_5953;
const IN_A_RING: u32 = 0x5068_7973;
const ENCRYPTED: u32 = 1 << 31;
/// Longer than any mini-transaction.
const LONGEST: usize = 4 << 20;

/// A tablespace and its file, relative to the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its number.
    pub id: u32,
    /// `../tablespaces/d/t.ibd`.
    pub name: Vec<u8>,
}

/// How a log keeps its bytes. Positions count the bytes of mini-transactions from the checkpoint on.
trait Medium {
    /// How many bytes follow the records of a mini-transaction.
    const TAIL: usize;
    /// Each mini-transaction has a checksum: what follows the last one may be anything.
    const IS_SEALED: bool;
    /// LSN of the checkpoint.
    fn checkpoint(&self) -> u64;
    /// Appends what comes next to `to`. False: that is all.
    fn read_on(&mut self, to: &mut Vec<u8>) -> Result<bool>;
    /// Whether a mini-transaction is one, and not left over from an earlier time.
    fn is_whole(&self, position: u64, records: &[u8], tail: &[u8]) -> bool;
    /// The checksum of changed records, which ends their tail, if there is one.
    fn seal(&self, records: &[u8]) -> Option<Vec<u8>>;
    /// Changes bytes in place.
    fn write(&mut self, position: u64, bytes: &[u8]) -> Result<()>;
    /// Ends the log at `position` with these mini-transactions.
    fn append(&mut self, position: u64, records: &[u8]) -> Result<()>;
}

/// Ends a log where its mini-transactions end, if others follow that are left over from an earlier block
/// ([`ring`]); durably. Returns how many bytes of such there were. Of formats that cannot be read nothing is asked.
pub fn end_before_leftovers(file: &File, path: &Path) -> Result<u64> {
    let header = match header(file, path) {
        Ok((IN_A_RING, header)) => header,
        Err(error) if error.errno != libc::ENOTSUP => return Err(error),
        _ => return Ok(0),
    };
    let stat = rustix::fs::fstat(file).map_err(|errno| Error::io("look at", path, &errno.into()))?;
    let Some(mut ring) = Ring::open(file, path, &header, stat.st_size as u64)? else { return Ok(0) };
    // Where those begin that may end in the last block.
    let mut begins = VecDeque::new();
    let end = walk(&mut ring, path, |_, position, _| {
        begins.push_back(position);
        while begins.front().is_some_and(|&first| first + ring::LARGEST_BLOCK < position) {
            begins.pop_front();
        }
        Ok(())
    })?;
    let Some(begin) = ring.leftovers(begins.make_contiguous(), end)? else { return Ok(0) };
    ring.write(begin, &[ring::END])?;
    attributes::apply(file.as_fd(), &stat, path)?;
    file.sync_all().map_err(|e| Error::io("sync", path, &e))?;
    Ok(end - begin)
}

/// Whether the names in the log at `path` can be turned.
pub fn is_known(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
    header(&file, path).map(drop)
}

/// The directories outside of the data directory that names in a log begin with, before the schema.
pub fn directories(file: &File, path: &Path) -> Result<BTreeSet<Vec<u8>>> {
    Ok(visit(file, path, None)?.directories)
}

/// Which directory takes the place of each of [`directories`]; it is no longer.
pub type Directories = BTreeMap<Vec<u8>, String>;

/// Turns the names in a log, open for reading and writing, durably, and names those of `tablespaces` that it does not.
pub fn turn_names(
    file: &File,
    path: &Path,
    directories: &Directories,
    tablespaces: &[Tablespace],
) -> Result<()> {
    let stat = rustix::fs::fstat(file).map_err(|errno| Error::io("look at", path, &errno.into()))?;
    visit(file, path, Some((directories, tablespaces)))?;
    attributes::apply(file.as_fd(), &stat, path)?;
    file.sync_all().map_err(|e| Error::io("sync", path, &e))
}

/// The name with another directory before the schema, filled up with slashes to the length it had.
pub fn turned(name: &[u8], directory: &str) -> Option<Vec<u8>> {
    let (old, rest) = name.split_at_checked(outside(name)??)?;
    let mut turned = directory.as_bytes().to_vec();
    turned.resize(old.len().max(directory.len()), b'/');
    turned.extend_from_slice(rest);
    Some(turned)
}

/// Where to turn the names to, and what else to name.
type Turn<'a> = Option<(&'a Directories, &'a [Tablespace])>;

fn visit(file: &File, path: &Path, turn: Turn) -> Result<Work> {
    let size = file.metadata().map_err(|e| Error::io("look at", path, &e))?.len();
    let (format, header) = header(file, path)?;
    let lost = || damaged(path, "has no valid checkpoint");
    if format == IN_A_RING {
        return visit_in(&mut Ring::open(file, path, &header, size)?.ok_or_else(lost)?, path, turn);
    }
    if path.with_file_name("ib_logfile1").exists() {
        return Err(damaged(path, "has more than one file"));
    }
    visit_in(&mut Blocks::open(file, path, size)?.ok_or_else(lost)?, path, turn)
}

/// The format and the header, if they are known and sound.
fn header(file: &File, path: &Path) -> Result<(u32, [u8; 512])> {
    let mut header = [0; 512];
    file.read_exact_at(&mut header, 0).map_err(|e| Error::io("read", path, &e))?;
    let format = (number(&header, 0) >> 32) as u32;
    if format & ENCRYPTED != 0 {
        return Err(unknown(path, "is encrypted (innodb_encrypt_log)"));
    }
    if format != IN_BLOCKS && format != IN_A_RING {
        return Err(unknown(path, &format!("has a format that is not known ({format:#x})")));
    }
    if !crc_is_good(&header) {
        return Err(damaged(path, "has a damaged header"));
    }
    Ok((format, header))
}

fn unknown(path: &Path, what: &str) -> Error {
    Error::new(libc::ENOTSUP, format!("the redo log {} {what}", path.display()))
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::new(
        libc::ENOTSUP,
        format!(
            "the redo log {} {what}, so the paths in it cannot be turned from the live server's tablespaces to those of the backup",
            path.display()
        ),
    )
}

/// What is to be done to a log.
#[derive(Debug, Default)]
struct Work {
    edits: Vec<(u64, Vec<u8>)>,
    named: HashSet<u32>,
    directories: BTreeSet<Vec<u8>>,
    /// Where the log ends.
    end: u64,
    /// The log has what the server looks for first.
    is_complete: bool,
}

fn visit_in(log: &mut impl Medium, path: &Path, turn: Turn) -> Result<Work> {
    let work = read(log, path, turn.map(|(directories, _)| directories))?;
    if !work.is_complete {
        return Err(damaged(path, "ends before the record of its checkpoint"));
    }
    let Some((_, tablespaces)) = turn else { return Ok(work) };
    let mut more = Vec::new();
    for tablespace in tablespaces.iter().filter(|tablespace| !work.named.contains(&tablespace.id)) {
        more.extend(names_file(tablespace.id, &tablespace.name));
        more.push(0);
    }
    // First, since there may be no room: nothing is changed then.
    log.append(work.end, &more)?;
    for (position, bytes) in &work.edits {
        log.write(*position, bytes)?;
    }
    Ok(work)
}

/// Reads a log to its end. Nothing is changed before all of it is understood.
fn read<M: Medium>(log: &mut M, path: &Path, directories: Option<&Directories>) -> Result<Work> {
    let mut work = Work::default();
    work.end =
        walk(log, path, |log, position, records| note(log, path, directories, &mut work, position, records))?;
    Ok(work)
}

/// Shows each mini-transaction from the checkpoint on: its position and its records. Returns where the log ends.
fn walk<M: Medium>(
    log: &mut M,
    path: &Path,
    mut each: impl FnMut(&M, u64, &[u8]) -> Result<()>,
) -> Result<u64> {
    let mut end = 0;
    let mut bytes = Vec::new();
    let mut at = 0;
    loop {
        let here = bytes.get(at..).unwrap_or(&[]);
        let ended =
            |end| if M::IS_SEALED { Ok(end) } else { Err(damaged(path, "has a record that is none")) };
        match extent(here) {
            Extent::Whole(length) if here.len() >= length + M::TAIL => {
                let (records, rest) = here.split_at(length);
                if !log.is_whole(end, records, rest.get(..M::TAIL).unwrap_or(&[])) {
                    return ended(end);
                }
                each(log, end, records)?;
                end += (length + M::TAIL) as u64;
                at += length + M::TAIL;
            }
            Extent::Broken => return ended(end),
            _ if here.len() > LONGEST => return ended(end),
            _ => {
                bytes.drain(..at);
                at = 0;
                if !log.read_on(&mut bytes)? {
                    return Ok(end);
                }
            }
        }
    }
}

fn note(
    log: &impl Medium,
    path: &Path,
    directories: Option<&Directories>,
    work: &mut Work,
    position: u64,
    records: &[u8],
) -> Result<()> {
    let found = file_records(records).ok_or_else(|| damaged(path, "has records that are not known"))?;
    let mut changed = None;
    for record in found {
        match record {
            FileRecord::Checkpoint(lsn) => work.is_complete |= lsn == log.checkpoint(),
            FileRecord::Names(space, names) => {
                work.named.insert(space);
                for range in names.into_iter().flatten() {
                    let name = records.get(range.clone()).unwrap_or(&[]);
                    let unknown = || no_place(path, name);
                    let Some(length) = outside(name).ok_or_else(unknown)? else { continue };
                    let directory = name.get(..length).unwrap_or(&[]);
                    if let Some(directories) = directories {
                        let name = directories.get(directory).and_then(|to| turned(name, to));
                        let name = name.filter(|name| name.len() == range.len()).ok_or_else(unknown)?;
                        put(changed.get_or_insert_with(|| records.to_vec()), range.start as u64, &name);
                        work.edits.push((position + range.start as u64, name));
                    } else {
                        work.directories.insert(directory.to_vec());
                    }
                }
            }
        }
    }
    if let Some(seal) = changed.and_then(|changed| log.seal(&changed)) {
        work.edits.push((position + records.len() as u64 + 1, seal));
    }
    Ok(())
}

fn no_place(path: &Path, name: &[u8]) -> Error {
    damaged(path, &format!("names {}, a path of a form that is not known", String::from_utf8_lossy(name)))
}

/// How much of a name comes before the schema's, if that lies outside of the data directory.
fn outside(name: &[u8]) -> Option<Option<usize>> {
    if !name.starts_with(b"/") && !name.split(|&byte| byte == b'/').any(|part| part == b"..") {
        return Some(None);
    }
    let mut slashes = name.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let (file, schema) = (slashes.next()?, slashes.next()?);
    let is_name = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
    (is_name(name.get(schema + 1..file)?) && is_name(name.get(file + 1..)?)).then_some(Some(schema))
}

/// A number of eight bytes.
fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    u64::from_be_bytes(bytes.unwrap_or_default())
}

/// Whether a block ends with the checksum of what stands before.
fn crc_is_good(block: &[u8]) -> bool {
    block.split_last_chunk::<4>().is_some_and(|(bytes, crc)| crc32c::crc32c(bytes).to_be_bytes() == *crc)
}

fn put(to: &mut [u8], at: u64, bytes: &[u8]) {
    let at = at as usize;
    if let Some(place) = to.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
