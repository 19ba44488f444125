//! Is the image what the source is? Written from what the two must be, sharing nothing with the library.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::library::c_string;

/// Holes of this size must be holes in the image.
const HOLE: u64 = 64 * 1024;

/// Differences between a source at rest and its image, one sentence each; at most `limit`. `excluded` says which
/// names (below the source) must not be in the image.
pub fn differences(
    source: &Path,
    image: &Path,
    excluded: &dyn Fn(&Path) -> bool,
    limit: usize,
) -> Vec<String> {
    let mut found = Found { limit, list: Vec::new() };
    let (wanted, there) = match (list(source), list(image)) {
        (Ok(wanted), Ok(there)) => (wanted, there),
        (Err(error), _) | (_, Err(error)) => return vec![format!("cannot list: {error}")],
    };
    let wanted: BTreeMap<PathBuf, Metadata> = wanted
        .into_iter()
        .filter(|(name, what)| {
            let kind = what.file_type();
            (kind.is_file() || kind.is_dir() || kind.is_symlink()) && !name.ancestors().any(excluded)
        })
        .collect();
    for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
        found.add(name, "is in the image only");
    }
    for (name, what) in &wanted {
        let Some(copy) = there.get(name) else {
            found.add(name, &format!("is missing in the image ({})", kind(what)));
            continue;
        };
        let same = attributes(&mut found, name, what, copy);
        if same && let Err(error) = content(&mut found, name, &source.join(name), &image.join(name), what) {
            found.add(name, &format!("cannot be compared: {error}"));
        }
    }
    links(&mut found, &wanted, &there);
    found.list
}

struct Found {
    limit: usize,
    list: Vec<String>,
}

impl Found {
    fn add(&mut self, name: &Path, what: &str) {
        if self.list.len() < self.limit {
            self.list.push(format!("/{} {what}", name.display()));
        }
    }
}

/// Everything below `root`, and itself (the empty name).
fn list(root: &Path) -> io::Result<BTreeMap<PathBuf, Metadata>> {
    let mut all = BTreeMap::from([(PathBuf::new(), fs::symlink_metadata(root)?)]);
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let name = directory.join(entry?.file_name());
            let what = fs::symlink_metadata(root.join(&name))?;
            if what.is_dir() {
                left.push(name.clone());
            }
            all.insert(name, what);
        }
    }
    Ok(all)
}

fn kind(what: &Metadata) -> &'static str {
    let kind = what.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a link",
        () if kind.is_fifo() => "a fifo",
        () if kind.is_file() => "a file",
        () => "something else",
    }
}

/// Compares what lstat tells; false when there is no point in comparing content.
fn attributes(found: &mut Found, name: &Path, what: &Metadata, copy: &Metadata) -> bool {
    if kind(what) != kind(copy) {
        found.add(name, &format!("is {}, in the image {}", kind(what), kind(copy)));
        return false;
    }
    if what.mode() != copy.mode() {
        found.add(name, &format!("has mode {:o}, in the image {:o}", what.mode(), copy.mode()));
    }
    if (what.uid(), what.gid()) != (copy.uid(), copy.gid()) {
        found.add(
            name,
            &format!("belongs to {}:{}, in the image {}:{}", what.uid(), what.gid(), copy.uid(), copy.gid()),
        );
    }
    if (what.mtime(), what.mtime_nsec()) != (copy.mtime(), copy.mtime_nsec()) {
        found.add(
            name,
            &format!(
                "was modified at {}.{:09}, in the image {}.{:09} ({})",
                what.mtime(),
                what.mtime_nsec(),
                copy.mtime(),
                copy.mtime_nsec(),
                kind(what)
            ),
        );
    }
    if what.is_file() && what.len() != copy.len() {
        found.add(name, &format!("has {} bytes, in the image {}", what.len(), copy.len()));
        return false;
    }
    true
}

fn content(found: &mut Found, name: &Path, source: &Path, image: &Path, what: &Metadata) -> io::Result<()> {
    if what.file_type().is_symlink() {
        let (target, copy) = (fs::read_link(source)?, fs::read_link(image)?);
        if target != copy {
            found.add(name, &format!("points to {}, in the image to {}", target.display(), copy.display()));
        }
        return Ok(());
    }
    let (extended, copies) = (extended_attributes(source)?, extended_attributes(image)?);
    if extended != copies {
        found.add(name, &format!("has extended attributes {extended:?}, in the image {copies:?}"));
    }
    if what.is_file() {
        let (source, image) = (File::open(source)?, File::open(image)?);
        bytes(found, name, &source, &image, what.len())?;
    }
    Ok(())
}

/// Compares bytes wherever one of the two has data, and that large holes of the source are holes. What is allocated
/// and was never written is a hole or data, as the page cache has it at the moment: zeros in its place are right as
/// long as the image takes no more room for them.
fn bytes(found: &mut Found, name: &Path, source: &File, image: &File, length: u64) -> io::Result<()> {
    let data = extents(source, length)?;
    let copied = extents(image, length)?;
    for (start, end) in union(data.iter().chain(&copied).copied().collect()) {
        let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
        let mut at = start;
        while at < end {
            let size = (end - at).min(1 << 16) as usize;
            let [ours, copy] = &mut buffers;
            source.read_exact_at(&mut ours[..size], at)?;
            image.read_exact_at(&mut copy[..size], at)?;
            if let Some(index) = (0..size).find(|index| ours[*index] != copy[*index]) {
                let last = (0..size).rev().find(|index| ours[*index] != copy[*index]).unwrap_or(index);
                found.add(
                    name,
                    &format!("differs in bytes {} to {} of {length}", at + index as u64, at + last as u64),
                );
                return Ok(());
            }
            at += size as u64;
        }
    }
    let larger = image.metadata()?.blocks() > source.metadata()?.blocks() + HOLE / 512;
    let mut from: u64 = 0;
    for (start, end) in data.into_iter().chain([(length, length)]) {
        let (first, last) = (from.next_multiple_of(HOLE), start / HOLE * HOLE);
        if larger
            && first < last
            && copied.iter().any(|(data_start, data_end)| *data_start < last && *data_end > first)
        {
            found.add(name, &format!("has a hole from {from} to {start}, the image has data there"));
            return Ok(());
        }
        from = end;
    }
    Ok(())
}

fn extents(file: &File, length: u64) -> io::Result<Vec<(u64, u64)>> {
    let seek = |from: u64, whence| {
        // SAFETY: numbers only.
        let position = unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) };
        match u64::try_from(position) {
            Ok(position) => Ok(position),
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => Ok(length),
            Err(_) => Err(io::Error::last_os_error()),
        }
    };
    let mut extents = Vec::new();
    let mut at = 0;
    while at < length {
        let start = seek(at, libc::SEEK_DATA)?.min(length);
        if start == length {
            break;
        }
        at = seek(start, libc::SEEK_HOLE)?.min(length);
        extents.push((start, at));
    }
    Ok(extents)
}

fn union(mut extents: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    extents.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in extents {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

fn extended_attributes(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let path = c_string(path);
    let mut names = vec![0u8; 65536];
    // SAFETY: a C string and a buffer of this size.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(BTreeMap::new()) } else { Err(error) };
    };
    let mut all = BTreeMap::new();
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        let mut value = vec![0u8; 65536];
        // SAFETY: C strings and a buffer of this size.
        let size =
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(size).map_err(|_| io::Error::last_os_error())?);
        all.insert(OsString::from_vec(name.to_bytes().to_vec()), value);
    }
    Ok(all)
}

/// Names that are one file in the source are one file in the image, and no others are.
fn links(found: &mut Found, wanted: &BTreeMap<PathBuf, Metadata>, there: &BTreeMap<PathBuf, Metadata>) {
    let groups = |all: &BTreeMap<PathBuf, Metadata>| {
        let mut groups: HashMap<(u64, u64), BTreeSet<PathBuf>> = HashMap::new();
        for (name, what) in all.iter().filter(|(_, what)| what.is_file()) {
            groups.entry((what.dev(), what.ino())).or_default().insert(name.clone());
        }
        groups.into_values().filter(|group| group.len() > 1).collect::<BTreeSet<_>>()
    };
    let (wanted, there) = (groups(wanted), groups(there));
    for group in wanted.symmetric_difference(&there) {
        let names: Vec<_> =
            group.iter().map(|name| String::from_utf8_lossy(name.as_os_str().as_bytes())).collect();
        let whose = if wanted.contains(group) { "source" } else { "image" };
        found.add(Path::new(""), &format!("in the {whose} only, these are one file: {}", names.join(", ")));
    }
}

#[cfg(test)]
mod tests;
