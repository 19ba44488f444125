//! The names of the source, as last listed: directories by inode, and the ways that lead to each inode.
//!
//! Paths are made from listings, so a directory that moved changes one listing and no file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use rustix::fs::Stat;

use super::error::Result;
use super::listing::Record;
use super::memory;
use super::source::{self, Root, Type};
use crate::tracker::{Entry, Key};

/// What a name in a directory leads to.
#[derive(Clone, Debug)]
pub enum Leads {
    /// A regular file that belongs into the image.
    File(Key),
    /// A directory that does.
    Directory(Key),
    /// A symbolic link with its target and attributes.
    Symlink(Box<Symlink>),
    /// Excluded, or of a type that is left out.
    Nowhere,
}

/// A symbolic link.
#[derive(Clone, Debug)]
pub struct Symlink {
    /// What it holds.
    pub target: CString,
    /// Owner and times.
    pub stat: Stat,
}

impl Name {
    /// Whether a record of a new listing says the same. A symbolic link may have been replaced under the same number
    /// and must be read again; where the file system tells no types, everything must be looked at.
    pub fn is_same(&self, record: &Record<'_>) -> bool {
        let d_type = match self.kind {
            Type::File => libc::DT_REG,
            Type::Directory => libc::DT_DIR,
            Type::Symlink => return false,
            // Which of them does not matter: they are left out.
            Type::Other => {
                return !matches!(
                    record.d_type,
                    libc::DT_REG | libc::DT_DIR | libc::DT_LNK | libc::DT_UNKNOWN
                );
            }
        };
        self.d_ino == record.d_ino && record.d_type == d_type
    }
}

impl Leads {
    /// The inode whose marks matter, if any.
    pub fn key(&self) -> Option<Key> {
        match self {
            Leads::File(key) | Leads::Directory(key) => Some(*key),
            _ => None,
        }
    }
}

/// One name.
#[derive(Clone, Debug)]
pub struct Name {
    /// `d_ino` of the listing: while it, the type and the name stay the same, so does what it leads to. (That a file
    /// was made anew under the same number is marked, P6.)
    pub d_ino: u64,
    /// Its type, as `lstat` told.
    pub kind: Type,
    /// Where to.
    pub leads: Leads,
}

/// A directory as last listed.
#[derive(Debug)]
pub struct Directory {
    /// Its marks.
    pub entry: &'static Entry,
    /// Its names.
    pub names: BTreeMap<Box<[u8]>, Name>,
    /// Its attributes.
    pub stat: Stat,
    /// Its extended attributes.
    pub xattrs: super::attributes::Xattrs,
}

/// What was read of a file when it was last copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `st_size`.
    pub size: u64,
    /// `st_mtim`.
    pub mtime: (i64, i64),
    /// See [`super::source::generation`].
    pub generation: u64,
}

impl Seen {
    /// From what `fstat` told before the file was read.
    pub fn of(stat: &Stat, generation: u64) -> Seen {
        Seen { size: stat.st_size as u64, mtime: (stat.st_mtime, stat.st_mtime_nsec as i64), generation }
    }

    /// Whether the file looks as it did then.
    pub fn is_like(&self, stat: &Stat) -> bool {
        *self == Seen::of(stat, self.generation)
    }
}

/// A regular file of the source and its store file.
#[derive(Debug)]
pub struct File {
    /// Its inode.
    pub key: Key,
    /// Its marks.
    pub entry: &'static Entry,
    /// The source under whose image its store file lies.
    pub root: usize,
    /// The store file's number.
    pub id: u64,
    /// Its store file was made.
    pub stored: AtomicBool,
    /// Bytes to copy when it became known.
    pub listed: u64,
    /// What was last copied; `None`: nothing yet.
    pub seen: Mutex<Option<Seen>>,
}

impl File {
    /// Bytes to copy, as its marks say now.
    pub fn marked_bytes(&self) -> u64 {
        let size = super::visit::lock(&self.seen).map_or(self.listed, |seen| seen.size);
        (self.entry.marked_bytes() + size.saturating_sub(self.entry.tail())).min(size)
    }
}

/// A name of an inode: the directory, and the name in it.
pub type Way = (Key, Box<[u8]>);

/// The whole source.
#[derive(Debug)]
pub struct Tree {
    /// The source directories.
    pub roots: Arc<Vec<Root>>,
    /// Listed directories by inode.
    pub directories: HashMap<Key, Directory>,
    /// Files by inode.
    pub files: HashMap<Key, Arc<File>>,
    /// The names of each inode: directory and name.
    ways: HashMap<Key, Vec<Way>>,
    /// Inodes that lost their last way since the last sweep.
    orphans: HashSet<Key>,
}

/// Deepest nesting that a path is made of.
const DEPTH: usize = 256;

impl Tree {
    /// A tree of which nothing is known but its roots.
    pub fn new(roots: Arc<Vec<Root>>) -> Self {
        Tree {
            roots,
            directories: HashMap::new(),
            files: HashMap::new(),
            ways: HashMap::new(),
            orphans: HashSet::new(),
        }
    }

    /// Room for one more inode and its name.
    pub fn reserve(&mut self) -> Result<()> {
        let reserved = self.files.try_reserve(1).and_then(|()| self.ways.try_reserve(1));
        reserved.and_then(|()| self.directories.try_reserve(1)).map_err(|_| memory::refused())
    }

    /// The source whose directory this is.
    pub fn root_of(&self, key: Key) -> Option<usize> {
        self.roots.iter().position(|root| root.key == key)
    }

    /// Writes a directory's path below its root, NUL-terminated, into `path`, whose capacity is never exceeded.
    /// `None`: no way leads there, or it is too long.
    fn directory_path(&self, key: Key, path: &mut Vec<u8>) -> Option<usize> {
        let mut chain: [&[u8]; DEPTH] = [&[]; DEPTH];
        let mut depth = 0;
        let mut at = key;
        let root = loop {
            if let Some(root) = self.root_of(at) {
                break root;
            }
            let (parent, name) = self.ways.get(&at)?.first()?;
            *chain.get_mut(depth)? = name;
            depth += 1;
            at = *parent;
        };
        path.clear();
        for name in chain.get(..depth)?.iter().rev() {
            append(path, name)?;
        }
        Some(root)
    }

    /// The path of a directory below its root; no allocation as long as `path` has room.
    pub fn path_of_directory<'a>(&self, key: Key, path: &'a mut Vec<u8>) -> Option<(usize, &'a CStr)> {
        let root = self.directory_path(key, path)?;
        terminate(path).map(|path| (root, path))
    }

    /// The path of a name in a directory.
    pub fn path_of_name<'a>(
        &self,
        directory: Key,
        name: &[u8],
        path: &'a mut Vec<u8>,
    ) -> Option<(usize, &'a CStr)> {
        let root = self.directory_path(directory, path)?;
        append(path, name)?;
        terminate(path).map(|path| (root, path))
    }

    /// Opens a directory by whichever of its ways leads there: with its source and its full path. A way may be of a time that
    /// is over, until the directory that held it is listed again, which may need this directory first. Two that have
    /// changed places name each other so, and neither has a path any more.
    pub fn open_by_any_way(&self, key: Key) -> Option<(OwnedFd, usize, PathBuf)> {
        self.open_without(key, &mut Vec::new())
    }

    /// `tried`: what no way leads to, or what is being looked for.
    fn open_without(&self, key: Key, tried: &mut Vec<Key>) -> Option<(OwnedFd, usize, PathBuf)> {
        if let Some(index) = self.root_of(key) {
            let root = self.roots.get(index)?;
            let directory = source::open_directory(root.fd.as_fd(), c".").ok()?;
            return Some((directory, index, root.path.clone()));
        }
        if tried.len() >= DEPTH || tried.contains(&key) {
            return None;
        }
        tried.push(key);
        self.ways(key).iter().find_map(|(parent, name)| {
            let (parent, root, path) = self.open_without(*parent, tried)?;
            let directory = source::open_directory(parent.as_fd(), &CString::new(&**name).ok()?).ok()?;
            let stat = rustix::fs::fstat(&directory).ok()?;
            (source::key_of(&stat) == key).then(|| (directory, root, path.join(OsStr::from_bytes(name))))
        })
    }

    /// Directories that no names lead to from a source lose theirs with the next [`Tree::sweep`]: they may name each other.
    pub fn forget_unreachable(&mut self) -> Result<()> {
        let mut reached = HashSet::new();
        reached.try_reserve(self.directories.len()).map_err(|_| memory::refused())?;
        let mut left: Vec<Key> = self.roots.iter().map(|root| root.key).collect();
        while let Some(key) = left.pop() {
            if let Some(directory) = self.directories.get(&key).filter(|_| reached.insert(key)) {
                left.extend(directory.names.values().filter_map(|name| match name.leads {
                    Leads::Directory(child) => Some(child),
                    _ => None,
                }));
            }
        }
        self.orphans.extend(self.directories.keys().filter(|key| !reached.contains(key)));
        Ok(())
    }

    /// The full path of a name, for messages and exclusion.
    pub fn full_path(&self, directory: Key, name: &[u8]) -> PathBuf {
        let mut path = Vec::with_capacity(libc::PATH_MAX as usize * 2);
        match self.path_of_name(directory, name, &mut path) {
            Some((root, below)) => {
                let root = self.roots.get(root).map(|root| root.path.clone()).unwrap_or_default();
                root.join(OsStr::from_bytes(below.to_bytes()))
            }
            None => PathBuf::from(OsStr::from_bytes(name)),
        }
    }

    /// The ways to an inode.
    pub fn ways(&self, key: Key) -> &[Way] {
        self.ways.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The full path of a file or directory, by its first name.
    pub fn full_path_of(&self, key: Key) -> PathBuf {
        if let Some(root) = self.root_of(key).and_then(|root| self.roots.get(root)) {
            return root.path.clone();
        }
        match self.ways(key).first() {
            Some((directory, name)) => self.full_path(*directory, name),
            None => PathBuf::from(format!("(inode {})", key.ino)),
        }
    }

    /// Every way to a file: the root and the path below it.
    pub fn paths_of(&self, key: Key) -> Vec<(usize, CString)> {
        let mut path = Vec::with_capacity(libc::PATH_MAX as usize * 2);
        self.ways(key)
            .iter()
            .filter_map(|(directory, name)| {
                let (root, path) = self.path_of_name(*directory, name, &mut path)?;
                Some((root, path.to_owned()))
            })
            .collect()
    }

    /// Sets or changes one name of a listed directory.
    pub fn set_name(&mut self, directory: Key, name: &[u8], leads: Name) {
        let new = leads.leads.key();
        let Some(dir) = self.directories.get_mut(&directory) else { return };
        let old = dir.names.insert(name.into(), leads).and_then(|old| old.leads.key());
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.remove_way(old, directory, name);
        }
        if let Some(new) = new {
            self.ways.entry(new).or_default().push((directory, name.into()));
            self.orphans.remove(&new);
        }
    }

    /// Takes one name out of a listed directory.
    pub fn remove_name(&mut self, directory: Key, name: &[u8]) {
        let Some(dir) = self.directories.get_mut(&directory) else { return };
        if let Some(old) = dir.names.remove(name).and_then(|old| old.leads.key()) {
            self.remove_way(old, directory, name);
        }
    }

    fn remove_way(&mut self, key: Key, directory: Key, name: &[u8]) {
        if let Some(ways) = self.ways.get_mut(&key) {
            ways.retain(|(d, n)| !(*d == directory && **n == *name));
            if ways.is_empty() {
                self.ways.remove(&key);
                self.orphans.insert(key);
            }
        }
    }

    /// The inode number has come back as another type: what it was is gone, whatever its names say until their
    /// directories are listed again. Its file, or its directory with what was in it. These names go too: should one
    /// of them lead to the same number again, it must count as new, or nothing would lead there.
    pub fn take_out(&mut self, key: Key) -> Option<Arc<File>> {
        for (directory, name) in self.ways.remove(&key).unwrap_or_default() {
            if let Some(directory) = self.directories.get_mut(&directory) {
                directory.names.remove(&name);
            }
        }
        self.orphans.remove(&key);
        self.take_children(key);
        self.files.remove(&key)
    }

    fn take_children(&mut self, key: Key) -> Option<Directory> {
        let directory = self.directories.remove(&key)?;
        for (name, leads) in &directory.names {
            if let Some(child) = leads.leads.key() {
                self.remove_way(child, key, name);
            }
        }
        Some(directory)
    }

    /// Takes out every inode that has no way any more, those below vanished directories too, and hands them out.
    pub fn sweep(&mut self, mut gone: impl FnMut(Option<Arc<File>>, &'static Entry)) {
        while !self.orphans.is_empty() {
            // All at once: to look for the first again and again takes the longer the more are gone already.
            for key in std::mem::take(&mut self.orphans) {
                if let Some(file) = self.files.remove(&key) {
                    let entry = file.entry;
                    gone(Some(file), entry);
                }
                if let Some(directory) = self.take_children(key) {
                    gone(None, directory.entry);
                }
            }
        }
    }
}

fn append(path: &mut Vec<u8>, name: &[u8]) -> Option<()> {
    if path.len() + name.len() + 2 > path.capacity() {
        return None;
    }
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    Some(())
}

fn terminate(path: &mut Vec<u8>) -> Option<&CStr> {
    if path.len() + 1 > path.capacity() {
        return None;
    }
    path.push(0);
    CStr::from_bytes_with_nul(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Kind;
    use std::sync::Mutex;

    fn key(ino: u64) -> Key {
        Key { dev: 1, ino }
    }

    fn directory(tree: &mut Tree, ino: u64) -> Leads {
        directory_of(tree, key(ino))
    }

    fn directory_of(tree: &mut Tree, key: Key) -> Leads {
        let entry = Box::leak(Box::new(Entry::new(key, Kind::Directory, 0).unwrap()));
        let stat = rustix::fs::stat("/").unwrap();
        let new = Directory { entry, names: BTreeMap::new(), stat, xattrs: Default::default() };
        tree.directories.insert(key, new);
        Leads::Directory(key)
    }

    fn file(tree: &mut Tree, ino: u64) -> Leads {
        let entry = Box::leak(Box::new(Entry::new(key(ino), Kind::File, 0).unwrap()));
        let (stored, seen) = (AtomicBool::new(false), Mutex::new(None));
        let new = File { key: key(ino), entry, root: 0, id: ino, stored, listed: 0, seen };
        tree.files.insert(key(ino), Arc::new(new));
        Leads::File(key(ino))
    }

    fn name(leads: Leads) -> Name {
        let kind = if matches!(leads, Leads::File(_)) { Type::File } else { Type::Directory };
        Name { d_ino: leads.key().unwrap().ino, kind, leads }
    }

    #[test]
    fn a_number_that_comes_back_as_another_type() {
        let mut tree = Tree::new(Arc::new(Vec::new()));
        directory(&mut tree, 1);
        for (parent, ino, text) in [(1, 2, "a"), (1, 3, "b")] {
            let leads = directory(&mut tree, ino);
            tree.set_name(key(parent), text.as_bytes(), name(leads));
        }
        let leads = file(&mut tree, 4);
        tree.set_name(key(2), b"f", name(leads));
        // Directory a is gone with its file, its number is a file in b; a's parent is listed last.
        assert!(tree.take_out(key(2)).is_none());
        let leads = file(&mut tree, 2);
        tree.set_name(key(3), b"g", name(leads));
        tree.remove_name(key(1), b"a");
        let mut gone = Vec::new();
        tree.sweep(|file, _| gone.push(file.unwrap().key));
        assert_eq!(gone, [key(4)], "what was in it has no name any more");
        assert_eq!(tree.ways(key(2)), [(key(3), Box::from(&b"g"[..]))]);
        assert!(tree.files.contains_key(&key(2)) && !tree.directories.contains_key(&key(2)));
        // And the other way round.
        assert!(tree.take_out(key(2)).is_some());
        let leads = directory(&mut tree, 2);
        tree.set_name(key(1), b"c", name(leads));
        tree.remove_name(key(3), b"g");
        tree.sweep(|_, _| panic!("nothing lost its last name"));
        assert_eq!(tree.ways(key(2)), [(key(1), Box::from(&b"c"[..]))]);
    }

    /// a held b; now b holds a, and the place where a was bears another name. What each says of the other goes round in a ring.
    #[test]
    fn two_directories_that_have_changed_places() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("new/b/a")).unwrap();
        let key_of = |path: &str| source::key_of(&rustix::fs::stat(scratch.path().join(path)).unwrap());
        let fd =
            source::open_directory(rustix::fs::CWD, &CString::new(scratch.path().to_str().unwrap()).unwrap());
        let (root, new, b, a) = (key_of("."), key_of("new"), key_of("new/b"), key_of("new/b/a"));
        let roots = vec![Root {
            path: scratch.path().into(),
            fd: fd.unwrap(),
            key: root,
            members: crate::backup::Members::All,
        }];
        let mut tree = Tree::new(Arc::new(roots));
        let leads = [root, new, b, a].map(|key| directory_of(&mut tree, key));
        let [_, to_new, to_b, to_a] = leads.map(name);
        tree.set_name(a, b"b", to_b.clone());
        tree.set_name(root, b"new", to_new);
        tree.set_name(new, b"b", to_b);
        tree.set_name(b, b"a", to_a);
        let mut space = Vec::with_capacity(libc::PATH_MAX as usize * 2);
        assert!(tree.path_of_directory(a, &mut space).is_none(), "by first ways it goes round in a ring");
        for wanted in [a, b] {
            let (found, _, path) = tree.open_by_any_way(wanted).unwrap();
            assert_eq!(source::key_of(&rustix::fs::fstat(&found).unwrap()), wanted);
            assert_eq!(source::key_of(&rustix::fs::stat(&path).unwrap()), wanted);
        }
        tree.forget_unreachable().unwrap();
        tree.sweep(|_, _| panic!("all are reached"));
        // And when both are gone, nothing else would tell.
        tree.remove_name(new, b"b");
        std::fs::remove_dir_all(scratch.path().join("new/b")).unwrap();
        assert!(tree.open_by_any_way(a).is_none() && tree.open_by_any_way(b).is_none());
        tree.forget_unreachable().unwrap();
        let mut gone = Vec::new();
        tree.sweep(|_, entry| gone.push(entry.key));
        gone.sort_unstable_by_key(|key| key.ino);
        let mut both = [a, b];
        both.sort_unstable_by_key(|key| key.ino);
        assert_eq!(gone, both);
        assert!(tree.ways(a).is_empty() && tree.ways(b).is_empty());
    }

    #[test]
    fn a_number_that_comes_back_as_another_type_under_the_same_name() {
        let mut tree = Tree::new(Arc::new(Vec::new()));
        directory(&mut tree, 1);
        let leads = file(&mut tree, 2);
        tree.set_name(key(1), b"a", name(leads));
        assert!(tree.take_out(key(2)).is_some());
        let leads = directory(&mut tree, 2);
        tree.set_name(key(1), b"a", name(leads));
        assert_eq!(tree.ways(key(2)), [(key(1), Box::from(&b"a"[..]))]);
        // There and back again before the directory of the name is listed: what it led to is not known any more.
        assert!(tree.take_out(key(2)).is_none());
        assert!(tree.directories[&key(1)].names.is_empty(), "the next listing looks at it anew");
    }
}
