//! What is below a directory.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Difference, What};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Link,
    Other,
}

/// One name.
#[derive(Debug)]
pub struct Node {
    pub kind: Kind,
    /// Device and inode.
    pub id: (u64, u64),
    pub size: u64,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    /// Of a symbolic link.
    pub target: PathBuf,
}

/// By path relative to the root, which is the empty path.
pub type Tree = BTreeMap<PathBuf, Node>;

/// Everything below `root` that is `wanted` (full path, kind), the root itself always.
pub fn walk(root: &Path, wanted: &dyn Fn(&Path, Kind) -> bool, failures: &mut Vec<Difference>) -> Tree {
    let mut tree = Tree::new();
    let mut pending = vec![PathBuf::new()];
    let mut failed = |path: &Path, full: &Path, error: io::Error| {
        let why = format!("{} cannot be read: {error}", full.display());
        failures.push(Difference { path: path.to_owned(), what: What::Failed(why) });
    };
    while let Some(path) = pending.pop() {
        // `join` of an empty path would end in a slash, and follow a link.
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let node = match node(&full) {
            Ok(node) => node,
            Err(error) => {
                failed(&path, &full, error);
                continue;
            }
        };
        if !path.as_os_str().is_empty() && !wanted(&full, node.kind) {
            continue;
        }
        if node.kind == Kind::Directory {
            let names: io::Result<Vec<_>> =
                fs::read_dir(&full).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
            match names {
                Ok(names) => pending.extend(names.into_iter().map(|name| path.join(name))),
                Err(error) => failed(&path, &full, error),
            }
        }
        tree.insert(path, node);
    }
    tree
}

fn node(full: &Path) -> io::Result<Node> {
    let stat = fs::symlink_metadata(full)?;
    let kind = match stat.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    let target = if kind == Kind::Link { fs::read_link(full)? } else { PathBuf::new() };
    Ok(Node {
        kind,
        id: (stat.dev(), stat.ino()),
        size: stat.size(),
        mode: stat.mode() & 0o7777,
        owner: (stat.uid(), stat.gid()),
        mtime: (stat.mtime(), stat.mtime_nsec()),
        target,
    })
}

/// Attributes of users' programs, by name.
type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// The name of the first `user.` attribute that one has and the other has not, or not with this value.
pub fn first_other_attribute(source: &Path, image: &Path) -> Result<Option<String>, Errno> {
    let (source, image) = (attributes(source)?, attributes(image)?);
    let name = source
        .iter()
        .find(|(name, value)| image.get(*name) != Some(*value))
        .or_else(|| image.iter().find(|(name, _)| !source.contains_key(*name)))
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    Ok(name)
}

fn attributes(path: &Path) -> Result<Attributes, Errno> {
    let names = match whole(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Attributes::new()),
        names => names?,
    };
    let mut attributes = Attributes::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if name.to_bytes().starts_with(b"user.") {
            let value = whole(|buffer| rustix::fs::lgetxattr(path, name, buffer))?;
            attributes.insert(name.to_bytes().to_vec(), value);
        }
    }
    Ok(attributes)
}

/// What a call writes into a buffer of the largest size that the kernel knows (XATTR_LIST_MAX, XATTR_SIZE_MAX).
fn whole(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let length = call(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}
