//! The image: one store file an inode, the names at T, and whether they are what the source was.

use std::collections::BTreeMap;

use crate::world::{Block, Content, Name, Snapshot};

/// What has been read of a file and is to be written into its store file.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Size and attributes.
    Stat(u64, u32),
    /// One block.
    Data(u64, Block),
    /// A hole.
    Hole(u64, u64),
}

/// Store files by number.
#[derive(Debug, Default)]
pub struct Image {
    files: BTreeMap<u64, Content>,
}

impl Image {
    /// Cuts the store file before anything is written (a shrunken source).
    pub fn cut(&mut self, id: u64, size: u64) {
        let file = self.files.entry(id).or_default();
        if file.size > size {
            file.resize(size);
        }
    }

    /// Writes what was read.
    pub fn write(&mut self, id: u64, piece: &Piece, set_size: bool) {
        let file = self.files.entry(id).or_default();
        match *piece {
            Piece::Data(block, data) => {
                file.blocks.insert(block, data);
                file.size = file.size.max(block + 1);
            }
            Piece::Hole(from, to) => file.blocks.retain(|block, _| !(from..to).contains(block)),
            Piece::Stat(size, attributes) => {
                file.attributes = attributes;
                if set_size || file.size < size {
                    file.resize(size);
                }
            }
        }
    }

    /// Compares the image under these names (to inodes, and those to store files) with the source at T.
    pub fn compare(
        &self,
        names: &[BTreeMap<Name, u64>],
        stores: &dyn Fn(u64) -> Option<u64>,
        source: &Snapshot,
    ) -> Result<(), String> {
        for (directory, (image, source)) in names.iter().zip(source).enumerate() {
            let there: BTreeMap<_, _> = source.iter().map(|(name, (number, _))| (*name, *number)).collect();
            if *image != there {
                return Err(format!("names of directory {directory}: image {image:?}, source {there:?}"));
            }
            for (name, (number, content)) in source {
                let copy = stores(*number).and_then(|id| self.files.get(&id));
                if !copy.is_some_and(|copy| same(copy, content)) {
                    return Err(format!(
                        "{directory}/{name} (inode {number}): image {copy:?}, source {content:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A hole is as good as a block of zeroes.
fn same(image: &Content, source: &Content) -> bool {
    let bytes = |content: &Content| -> Vec<(u64, Block)> {
        content
            .blocks
            .iter()
            .filter(|(_, data)| **data != [0; 2])
            .map(|(block, data)| (*block, *data))
            .collect()
    };
    image.size == source.size && image.attributes == source.attributes && bytes(image) == bytes(source)
}
