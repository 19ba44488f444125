//! What the files below a directory hold, block by block: which bytes have changed, by whatever means.

use super::log::Key;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const BLOCK: usize = 4096;

/// A file.
#[derive(Debug)]
pub struct Content {
    /// One of its names.
    pub path: PathBuf,
    blocks: Vec<u64>,
    size: u64,
}

/// Reads every regular file below `root` that stays where it is for long enough.
///
/// # Errors
/// When a file that is there cannot be read.
pub fn read(root: &Path, into: &mut BTreeMap<Key, Content>) -> Result<()> {
    // Files and directories come and go meanwhile.
    let gone = |error: &std::io::Error| error.kind() == ErrorKind::NotFound;
    let entries = match fs::read_dir(root) {
        Err(error) if gone(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = match entry {
            Err(error) if gone(&error) => continue,
            entry => entry?,
        };
        let path = entry.path();
        let kind = match entry.file_type() {
            Err(error) if gone(&error) => continue,
            kind => kind?,
        };
        if kind.is_dir() {
            read(&path, into)?;
        } else if kind.is_file() {
            match File::open(&path) {
                Err(error) if gone(&error) => {}
                file => drop(read_file(file?, path, into)?),
            }
        }
    }
    Ok(())
}

fn read_file(mut file: File, path: PathBuf, into: &mut BTreeMap<Key, Content>) -> Result<()> {
    let stat = file.metadata()?;
    let mut blocks = Vec::new();
    let mut buffer = vec![0; 256 * BLOCK];
    let mut size = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                more => filled += more,
            }
        }
        if filled == 0 {
            break;
        }
        size += filled as u64;
        blocks.extend(buffer[..filled].chunks(BLOCK).map(|block| {
            let mut hasher = DefaultHasher::new();
            hasher.write(block);
            hasher.finish()
        }));
    }
    into.insert((stat.dev(), stat.ino()), Content { path, blocks, size });
    Ok(())
}

impl Content {
    /// The ranges of this file, as it was, in which `after` is another.
    pub fn changes(&self, after: &Content) -> Vec<Range<u64>> {
        let mut changed = Vec::new();
        for index in 0..self.blocks.len().max(after.blocks.len()) {
            if self.blocks.get(index) != after.blocks.get(index) {
                let from = (index * BLOCK) as u64;
                // No block reaches beyond the end; of the last one only what is new may differ.
                let end = self.size.max(after.size).min(from + BLOCK as u64);
                changed.push(from..end);
            }
        }
        changed
    }
}
