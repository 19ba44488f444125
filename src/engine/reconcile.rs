//! Between passes: list the directories that were marked, make new inodes known, forget those without a name.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use rustix::fs::Stat;
use rustix::io::Errno;

use super::attributes;
use super::control::{Answer, Control, Question};
use super::error::{Error, Result};
use super::exclude::Exclude;
use super::listing;
use super::memory;
use super::progress::PROGRESS;
use super::source::{self, Type};
use super::tree::{Directory, File, Leads, Name, Symlink, Tree};
use crate::backup::Links;
use crate::tracker::{Entry, Key, Kind, Marks, Tracker};

/// How often one pass lists a directory. A small one has hardly ever changed when it is listed again, and so much less is left
/// for the gate; a large one in which names change all the time would be listed for ever.
const LISTINGS: u32 = 3;

/// Keeps the tree up to date.
#[derive(Debug)]
pub struct Reconciler {
    /// Where marks are.
    pub tracker: &'static Tracker,
    /// Whom to ask.
    pub control: Arc<Control>,
    /// The names as last listed.
    pub tree: Tree,
    /// What is left out.
    pub exclude: Exclude,
    /// Full paths that are left out.
    pub leave_out: Vec<PathBuf>,
    /// What to do with symbolic links.
    pub links: Links,
    /// Number of the next store file.
    next_id: u64,
    /// Store files (root, id) that nothing refers to any more.
    pub unwanted: Vec<(usize, u64)>,
}

/// A name that must be looked up.
struct NewName {
    name: CString,
    d_ino: u64,
}

/// A directory that is listed.
struct Opened {
    key: Key,
    fd: OwnedFd,
    stat: Stat,
    /// Full.
    path: PathBuf,
    /// The source where it is.
    root: usize,
}

impl Reconciler {
    /// Nothing is known but the roots.
    pub fn new(
        tracker: &'static Tracker,
        control: Arc<Control>,
        tree: Tree,
        exclude: Exclude,
        leave_out: Vec<PathBuf>,
        links: Links,
    ) -> Self {
        Reconciler { tracker, control, tree, exclude, leave_out, links, next_id: 0, unwanted: Vec::new() }
    }

    /// Makes the roots known; they are listed by the next [`Reconciler::run`].
    pub fn add_roots(&mut self) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        for root in self.tree.roots.clone().iter() {
            if matches!(&self.exclude, Exclude::Matching(_))
                && self.exclude.matches(root.path.as_os_str().as_bytes())
            {
                return Err(Error::invalid(format!(
                    "the exclude expression matches the source directory {} itself, so nothing would be backed up; \
                     make it more specific",
                    root.path.display()
                )));
            }
            let stat = rustix::fs::fstat(&root.fd)
                .map_err(|errno| Error::io("look at", &root.path, &errno.into()))?;
            self.add_directory(root.key, &stat)?;
        }
        Ok(())
    }

    /// Takes the queue and lists marked directories until none is left, each [`LISTINGS`] times at most: one that is marked
    /// again meanwhile stays marked then. Returns the files that are marked; their marks are still set.
    pub fn run(&mut self) -> Result<Vec<Arc<File>>> {
        let mut files: Vec<Arc<File>> = Vec::new();
        let mut postponed: Vec<(&'static Entry, Marks)> = Vec::new();
        let mut listings: HashMap<*const Entry, u32> = HashMap::new();
        let mut restless: Vec<&'static Entry> = Vec::new();
        self.take_wide_marks();
        loop {
            let mut directories = memory::list(self.tree.directories.len())?;
            memory::reserve(&mut files, self.tree.files.len())?;
            self.tracker.take_queue(|entry| match entry.kind {
                Kind::Directory => directories.push(entry),
                Kind::File => {
                    if let Some(file) = self.tree.files.get(&entry.key) {
                        files.push(file.clone());
                    }
                }
            });
            if directories.is_empty() {
                break;
            }
            for entry in directories {
                self.control.check()?;
                listings.try_reserve(1).map_err(|_| memory::refused())?;
                let count = listings.entry(entry).or_default();
                *count += 1;
                if *count > LISTINGS {
                    memory::reserve(&mut restless, 1)?;
                    restless.push(entry);
                    continue;
                }
                if let Some(marks) = self.list(entry)? {
                    postponed.push((entry, marks));
                }
            }
        }
        if !postponed.is_empty() {
            self.tree.forget_unreachable()?;
        }
        let unwanted = &mut self.unwanted;
        let tracker = self.tracker;
        self.tree.sweep(|file, entry| {
            if let Some(file) = file {
                unwanted.push((file.root, file.id));
            }
            tracker.forget(entry);
        });
        // A directory that could not be opened by its path: it has moved, and its parents are marked or will be;
        // or it is gone, and then it was swept.
        for (entry, marks) in postponed {
            if self.tree.directories.contains_key(&entry.key) {
                self.tracker.put_back(entry, None, marks | Marks::NAMES | Marks::ATTRIBUTES);
            }
        }
        // Their marks were not taken.
        for entry in restless {
            if self.tree.directories.contains_key(&entry.key) {
                self.tracker.put_back(entry, None, Marks::empty());
            }
        }
        // A file that was marked while directories were listed was taken more than once. Two visits at once would
        // write what the first has read over what the second has, and the mark is gone (P2).
        let mut once = HashSet::new();
        once.try_reserve(files.len()).map_err(|_| memory::refused())?;
        files.retain(|file| {
            self.tree.files.get(&file.key).is_some_and(|known| Arc::ptr_eq(known, file))
                && once.insert(file.key)
        });
        Ok(files)
    }

    fn take_wide_marks(&self) {
        if self.tracker.take_all_names() {
            for directory in self.tree.directories.values() {
                self.tracker.put_back(directory.entry, None, Marks::NAMES | Marks::ATTRIBUTES);
            }
        }
        if self.tracker.take_everything() {
            for file in self.tree.files.values() {
                self.tracker.put_back(file.entry, Some(0..u64::MAX), Marks::ATTRIBUTES | Marks::XATTRS);
            }
            for directory in self.tree.directories.values() {
                self.tracker.put_back(
                    directory.entry,
                    None,
                    Marks::NAMES | Marks::ATTRIBUTES | Marks::XATTRS,
                );
            }
        }
    }

    /// Lists one directory again. When it is not where it was: the marks that were taken.
    fn list(&mut self, entry: &'static Entry) -> Result<Option<Marks>> {
        let marks = entry.take_marks();
        let listed = self.read_directory(entry.key, marks);
        match listed {
            Ok(Some(())) => Ok(None),
            Ok(None) => Ok(Some(marks)),
            Err(error) => {
                self.tracker.put_back(entry, None, marks);
                Err(error)
            }
        }
    }

    fn read_directory(&mut self, key: Key, marks: Marks) -> Result<Option<()>> {
        let Some(opened) = self.open(key)? else { return Ok(None) };
        let Opened { fd: directory, path, .. } = &opened;
        let known = self.tree.directories.get(&key);
        let xattrs = match known {
            Some(known) if !marks.contains(Marks::XATTRS) => known.xattrs.clone(),
            _ => attributes::read_xattrs(directory.as_fd(), path)?,
        };
        let mut space = memory::zeroes(256 * 1024)?;
        let mut present: HashSet<Box<[u8]>> = HashSet::new();
        let mut new = Vec::new();
        loop {
            let length = match listing::read(directory.as_fd(), &mut space) {
                Ok(0) => break,
                Ok(length) => length,
                // The directory was removed while it was open.
                Err(Errno::NOENT) => break,
                Err(errno) => return Err(Error::io("list", path, &errno.into())),
            };
            for record in listing::records(space.get(..length).unwrap_or(&[])) {
                let same = known
                    .and_then(|known| known.names.get(record.name.to_bytes()))
                    .is_some_and(|name| name.is_same(&record));
                present.try_reserve(1).map_err(|_| memory::refused())?;
                present.insert(record.name.to_bytes().into());
                if !same {
                    memory::reserve(&mut new, 1)?;
                    new.push(NewName { name: record.name.to_owned(), d_ino: record.d_ino });
                }
            }
        }
        if let Some(known) = self.tree.directories.get_mut(&key) {
            known.stat = opened.stat;
            known.xattrs = xattrs;
            let gone: Vec<_> = known.names.keys().filter(|name| !present.contains(*name)).cloned().collect();
            for name in gone {
                self.tree.remove_name(key, &name);
            }
        }
        self.add_names(&opened, new)?;
        Ok(Some(()))
    }

    fn open(&self, key: Key) -> Result<Option<Opened>> {
        use std::os::unix::ffi::OsStrExt;
        let mut space = Vec::with_capacity(libc::PATH_MAX as usize * 2);
        if let Some((index, below)) = self.tree.path_of_directory(key, &mut space)
            && let Some(root) = self.tree.roots.get(index)
        {
            let path = root.path.join(Path::new(OsStr::from_bytes(below.to_bytes())));
            let failed = |operation: &str, errno: Errno| Error::io(operation, &path, &errno.into());
            match source::open_directory(root.fd.as_fd(), below) {
                Ok(fd) => {
                    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("look at", errno))?;
                    if source::key_of(&stat) == key {
                        return Ok(Some(Opened { key, fd, stat, path, root: index }));
                    }
                }
                Err(errno) if source::is_vanished(errno) => {}
                Err(errno) => return Err(failed("open", errno)),
            }
        }
        let Some((fd, root, path)) = self.tree.open_by_any_way(key) else { return Ok(None) };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::io("look at", &path, &errno.into()))?;
        Ok(Some(Opened { key, fd, stat, path, root }))
    }

    /// Looks new names up and makes what they lead to known.
    fn add_names(&mut self, opened: &Opened, new: Vec<NewName>) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let Opened { key: directory, fd, root, .. } = opened;
        let (directory, root) = (*directory, *root);
        let mut paths: Vec<PathBuf> = memory::list(new.len())?;
        paths.extend(new.iter().map(|new| opened.path.join(OsStr::from_bytes(new.name.to_bytes()))));
        let excluded = self.excluded(&paths)?;
        for ((new, path), excluded) in new.into_iter().zip(paths).zip(excluded) {
            let stat = match source::stat_name(fd.as_fd(), &new.name) {
                Ok(stat) => stat,
                // Gone again: its directory is marked, or will be.
                Err(errno) if source::is_vanished(errno) => {
                    self.tree.remove_name(directory, new.name.to_bytes());
                    continue;
                }
                Err(errno) => return Err(Error::io("look at", &path, &errno.into())),
            };
            let left_out = self.is_left_out(directory, new.name.to_bytes(), &path);
            let leads = if excluded || left_out {
                Leads::Nowhere
            } else {
                match source::type_of(&stat) {
                    Type::Other => Leads::Nowhere,
                    // A source inside another one has an image of its own.
                    Type::Directory if self.tree.root_of(source::key_of(&stat)).is_some() => Leads::Nowhere,
                    Type::File => Leads::File(self.add_file(root, &stat)?),
                    Type::Directory => {
                        let key = source::key_of(&stat);
                        self.add_directory(key, &stat)?;
                        Leads::Directory(key)
                    }
                    Type::Symlink => match self.read_link(fd, &new, &path, stat)? {
                        Some(symlink) => Leads::Symlink(Box::new(symlink)),
                        None => continue,
                    },
                }
            };
            self.tree.set_name(
                directory,
                new.name.to_bytes(),
                Name { d_ino: new.d_ino, kind: source::type_of(&stat), leads },
            );
        }
        Ok(())
    }

    /// Whether a name is left out whatever the exclude expression says.
    pub fn is_left_out(&self, directory: Key, name: &[u8], path: &Path) -> bool {
        let root = self.tree.root_of(directory).and_then(|root| self.tree.roots.get(root));
        root.is_some_and(|root| !root.members.take(name)) || self.leave_out.iter().any(|left| left == path)
    }

    /// Which of these full paths are excluded. The caller may be asked: not while the gate is closed.
    pub fn excluded(&self, paths: &[PathBuf]) -> Result<Vec<bool>> {
        use std::os::unix::ffi::OsStrExt;
        match &self.exclude {
            Exclude::Nothing => {
                let mut none = memory::list(paths.len())?;
                none.resize(paths.len(), false);
                Ok(none)
            }
            Exclude::AskCaller if paths.is_empty() => Ok(Vec::new()),
            Exclude::AskCaller => match self.control.ask(Question::Excluded(paths.to_vec()))? {
                Answer::Excluded(answer) if answer.len() == paths.len() => Ok(answer),
                _ => Err(Error::new(libc::EPROTO, "the exclude callback gave no answer")),
            },
            // A large expression takes its time.
            matching => paths
                .iter()
                .map(|path| {
                    self.control.check()?;
                    Ok(matching.matches(path.as_os_str().as_bytes()))
                })
                .collect(),
        }
    }

    fn check_device(&self, stat: &Stat) -> Result<()> {
        if self.tracker.watches(stat.st_dev) {
            return Ok(());
        }
        Err(Error::new(
            libc::EXDEV,
            "a file of a source lies on another device than its directory: a file system was mounted there while the \
             backup was running (start it again), or it is an overlayfs with layers on different file systems, which \
             changes the identity of files as they are written (mount it with xino=on)",
        ))
    }

    fn add_directory(&mut self, key: Key, stat: &Stat) -> Result<()> {
        self.check_device(stat)?;
        self.tree.reserve()?;
        let entry = self.register(key, Kind::Directory, 0)?;
        if self.tree.files.contains_key(&key)
            && let Some(file) = self.tree.take_out(key)
        {
            self.unwanted.push((file.root, file.id));
        }
        let stale = self.tree.directories.get(&key).is_none_or(|known| !std::ptr::eq(known.entry, entry));
        if stale {
            let directory =
                Directory { entry, names: Default::default(), stat: *stat, xattrs: Default::default() };
            self.tree.directories.insert(key, directory);
        }
        Ok(())
    }

    fn register(&self, key: Key, kind: Kind, size: u64) -> Result<&'static Entry> {
        self.tracker.register(key, kind, size).ok_or_else(memory::refused)
    }

    /// Makes a regular file known, if it is not, in the source where it was found.
    pub fn add_file(&mut self, root: usize, stat: &Stat) -> Result<Key> {
        self.check_device(stat)?;
        self.tree.reserve()?;
        let key = source::key_of(stat);
        let entry = self.register(key, Kind::File, stat.st_size as u64)?;
        if self.tree.directories.contains_key(&key) {
            self.tree.take_out(key);
        }
        let known = self.tree.files.get(&key);
        if known.is_some_and(|known| std::ptr::eq(known.entry, entry)) {
            return Ok(key);
        }
        if let Some(stale) = known {
            self.unwanted.push((stale.root, stale.id));
        }
        self.next_id += 1;
        let listed = (stat.st_blocks as u64 * 512).min(stat.st_size as u64);
        let (stored, seen) = (AtomicBool::new(false), Mutex::new(None));
        let file = File { key, entry, root, id: self.next_id, stored, listed, seen };
        self.tree.files.insert(key, Arc::new(file));
        PROGRESS.listed(1, listed);
        Ok(key)
    }

    fn read_link(
        &self,
        directory: &OwnedFd,
        new: &NewName,
        path: &Path,
        stat: Stat,
    ) -> Result<Option<Symlink>> {
        let target = match rustix::fs::readlinkat(directory, new.name.as_c_str(), Vec::new()) {
            Ok(target) => target,
            Err(errno) if source::is_vanished(errno) || errno == Errno::INVAL => return Ok(None),
            Err(errno) => return Err(Error::io("read the link", path, &errno.into())),
        };
        if self.links == Links::RefuseOutside && self.leads_outside(path, &target) {
            return Err(Error::new(
                libc::EXDEV,
                format!(
                    "{} is a symbolic link that leads out of the backup, to {}: an image with it would open the \
                     running server's files. Move the table or database into the data directory, or exclude it",
                    path.display(),
                    target.to_string_lossy()
                ),
            ));
        }
        Ok(Some(Symlink { target, stat }))
    }

    /// Whether what a link leads to is in no image. (An absolute target that is in one is made relative to it later.)
    fn leads_outside(&self, link: &Path, target: &CString) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
        let inside = |path: &Path| self.tree.roots.iter().any(|root| root.members.hold(&root.path, path));
        match std::fs::canonicalize(link) {
            Ok(real) => !inside(&real),
            // It dangles: an absolute one may lead to something of the running server later.
            Err(_) => target.is_absolute() && !inside(target),
        }
    }
}
