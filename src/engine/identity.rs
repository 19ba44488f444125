//! The oracle of the tests: whether an image is its source, name by name and byte by byte.
//!
//! It runs while the gate is closed in a test mode (nothing changes then), and in tests of the engine. Sockets,
//! FIFOs, devices and what is excluded must be missing in the image; everything else must be the same: names,
//! types, bytes, sizes, holes, modes, owners, which names are one file, targets of links, `user.` attributes.

mod content;
mod extents;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::Mode;
use rustix::io::Errno;

use tree::{Kind, Node, Tree};

/// One difference between a source and its image.
#[derive(Debug)]
pub struct Difference {
    /// Relative to both roots; empty for the roots themselves.
    pub path: PathBuf,
    /// What differs.
    pub what: What,
}

/// What differs.
#[derive(Debug)]
pub enum What {
    /// In the source only.
    Missing,
    /// In the image only, or left out of it by the rules.
    Extra,
    /// A file here, a directory there, and the like.
    Kind,
    /// Sizes in bytes.
    Size {
        /// Of the source.
        source: u64,
        /// Of the image.
        image: u64,
    },
    /// The first byte that differs.
    Bytes {
        /// Where it is.
        offset: u64,
        /// What the source holds there.
        source: u8,
        /// What the image holds there.
        image: u8,
    },
    /// A hole of at least 64 KiB in one is data in the other; bytes.
    Hole {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: u64,
        /// Whether it is the source that has it.
        in_source: bool,
    },
    /// The low 12 bits of the modes.
    Mode {
        /// Of the source.
        source: u32,
        /// Of the image.
        image: u32,
    },
    /// Users and groups.
    Owner {
        /// Of the source.
        source: (u32, u32),
        /// Of the image.
        image: (u32, u32),
    },
    /// One file under two names here, two files there.
    Links {
        /// The other name.
        with: PathBuf,
        /// Whether it is one file in the source.
        in_source: bool,
    },
    /// Targets of symbolic links.
    Target {
        /// Of the source.
        source: PathBuf,
        /// Of the image.
        image: PathBuf,
    },
    /// The first extended attribute that differs.
    Attribute(String),
    /// Times of last modification: seconds, nanoseconds.
    Mtime {
        /// Of the source.
        source: (i64, i64),
        /// Of the image.
        image: (i64, i64),
    },
    /// It could not be compared.
    Failed(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.as_os_str().is_empty() { Path::new(".") } else { &self.path };
        write!(f, "{}: ", path.display())?;
        let sides = |in_source: bool| if in_source { ("source", "image") } else { ("image", "source") };
        match &self.what {
            What::Missing => f.write_str("missing in the image"),
            What::Extra => f.write_str("in the image, and should not be"),
            What::Kind => f.write_str("of another type in the image"),
            What::Size { source, image } => write!(f, "{source} bytes in the source, {image} in the image"),
            What::Bytes { offset, source, image } => {
                write!(f, "byte {offset} is {source:#04x} in the source, {image:#04x} in the image")
            }
            What::Hole { offset, length, in_source } => {
                let (one, other) = sides(*in_source);
                write!(f, "hole of {length} bytes at {offset} in the {one} is data in the {other}")
            }
            What::Mode { source, image } => {
                write!(f, "mode {source:04o} in the source, {image:04o} in the image")
            }
            What::Owner { source, image } => {
                write!(f, "owner {}:{} in the source, ", source.0, source.1)?;
                write!(f, "{}:{} in the image", image.0, image.1)
            }
            What::Links { with, in_source } => {
                let (one, other) = sides(*in_source);
                write!(f, "the same file as {} in the {one}, another in the {other}", with.display())
            }
            What::Target { source, image } => {
                write!(f, "leads to {} in the source, {} in the image", source.display(), image.display())
            }
            What::Attribute(name) => write!(f, "extended attribute {name} differs"),
            What::Mtime { source, image } => {
                write!(f, "mtime {}.{:09} in the source, ", source.0, source.1)?;
                write!(f, "{}.{:09} in the image", image.0, image.1)
            }
            What::Failed(why) => f.write_str(why),
        }
    }
}

/// What is compared beyond the rest.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// Users and groups. Only root can keep them.
    pub owners: bool,
    /// Times of last modification.
    pub mtimes: bool,
}

impl Default for Checks {
    fn default() -> Self {
        Checks { owners: true, mtimes: false }
    }
}

/// Compares the directories with the default [`Checks`]. `excluded` is asked for full source paths; of an excluded
/// directory nothing is expected. In the order of the paths.
pub fn compare(source: &Path, image: &Path, excluded: &dyn Fn(&Path) -> bool) -> Vec<Difference> {
    compare_with(source, image, excluded, Checks::default())
}

/// Like [`compare`].
pub fn compare_with(
    source: &Path,
    image: &Path,
    excluded: &dyn Fn(&Path) -> bool,
    checks: Checks,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    let wanted = |path: &Path, kind| kind != Kind::Other && !excluded(path);
    let source_tree = tree::walk(source, &wanted, &mut differences);
    let image_tree = tree::walk(image, &|_, _| true, &mut differences);
    let mut note = |path: &Path, what| differences.push(Difference { path: path.to_owned(), what });

    for path in source_tree.keys().filter(|path| !image_tree.contains_key(*path)) {
        note(path, What::Missing);
    }
    for path in image_tree.keys().filter(|path| !source_tree.contains_key(*path)) {
        note(path, What::Extra);
    }
    let mut files = Vec::new();
    for (path, from) in &source_tree {
        let Some(to) = image_tree.get(path) else { continue };
        compare_nodes(path, from, to, checks, &mut note);
        if from.kind == Kind::File && to.kind == Kind::File {
            files.push((path.as_path(), from, to));
        }
        if from.kind != Kind::Link && from.kind == to.kind {
            match tree::first_other_attribute(&source.join(path), &image.join(path)) {
                Ok(None) => {}
                Ok(Some(name)) => note(path, What::Attribute(name)),
                Err(errno) => {
                    note(path, What::Failed(format!("extended attributes cannot be read: {errno}")));
                }
            }
        }
    }
    compare_links(&source_tree, &image_tree, &mut note);
    // Once a file, however many names it has; large ones first, so that the threads end together.
    let mut seen = std::collections::HashSet::new();
    files.retain(|(_, from, to)| seen.insert((from.id, to.id)));
    files.sort_by_key(|(_, from, _)| std::cmp::Reverse(from.size));
    differences.extend(compare_contents(source, image, &files));
    differences.sort_by(|one, other| one.path.cmp(&other.path));
    differences
}

fn compare_nodes(path: &Path, from: &Node, to: &Node, checks: Checks, note: &mut impl FnMut(&Path, What)) {
    if from.kind != to.kind {
        return note(path, What::Kind);
    }
    if from.mode != to.mode && from.kind != Kind::Link {
        note(path, What::Mode { source: from.mode, image: to.mode });
    }
    if checks.owners && from.owner != to.owner {
        note(path, What::Owner { source: from.owner, image: to.owner });
    }
    if from.target != to.target {
        note(path, What::Target { source: from.target.clone(), image: to.target.clone() });
    }
    if from.kind == Kind::File && from.size != to.size {
        note(path, What::Size { source: from.size, image: to.size });
    }
    if checks.mtimes && from.mtime != to.mtime {
        note(path, What::Mtime { source: from.mtime, image: to.mtime });
    }
}

/// The names that both have must fall into the same groups on both sides.
fn compare_links(source: &Tree, image: &Tree, note: &mut impl FnMut(&Path, What)) {
    let mut by_source = HashMap::new();
    let mut by_image = HashMap::new();
    for (path, from) in source.iter().filter(|(_, node)| node.kind != Kind::Directory) {
        let Some(to) = image.get(path) else { continue };
        let (first, first_to) = by_source.entry(from.id).or_insert((path, to.id));
        if *first_to != to.id {
            note(path, What::Links { with: first.to_path_buf(), in_source: true });
        }
        let (first, first_from) = by_image.entry(to.id).or_insert((path, from.id));
        if *first_from != from.id {
            note(path, What::Links { with: first.to_path_buf(), in_source: false });
        }
    }
}

/// A name and what it is on both sides.
type Pair<'a> = (&'a Path, &'a Node, &'a Node);

/// By two threads, this one and one more.
fn compare_contents(source: &Path, image: &Path, files: &[Pair<'_>]) -> Vec<Difference> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        let mut blocks = content::Blocks::new();
        while let Some((path, from, to)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let size = from.size.min(to.size);
            let compared = open(&source.join(path))
                .and_then(|from| Ok((from, open(&image.join(path))?)))
                .and_then(|(from, to)| content::compare(&from, &to, size, &mut blocks));
            let whats = compared.unwrap_or_else(|errno| {
                vec![What::Failed(format!("cannot be read: {}", io::Error::from(errno)))]
            });
            found.extend(whats.into_iter().map(|what| Difference { path: path.to_path_buf(), what }));
        }
        found
    };
    std::thread::scope(|scope| {
        // Without a second thread this one does it all.
        let other = std::thread::Builder::new().spawn_scoped(scope, work);
        let mut found = work();
        match other.map(|other| other.join()) {
            Ok(Ok(more)) => found.extend(more),
            Ok(Err(_)) => {
                let what = What::Failed("the comparison has panicked".to_owned());
                found.push(Difference { path: PathBuf::new(), what });
            }
            Err(_) => {}
        }
        found
    })
}

fn open(path: &Path) -> Result<std::os::fd::OwnedFd, Errno> {
    use rustix::fs::OFlags;
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
