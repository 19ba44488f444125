//! Building the tree of the image from the names at T: store files are moved to their first name and linked to the
//! others, then the directories get their attributes, from the leaves up.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attributes;
use super::error::{Error, Result};
use super::store::{Store, Writer, read_full, store_name};
use super::tree::{Leads, Tree};
use super::workers::Shared;
use crate::tracker::Key;

/// What was built.
#[derive(Clone, Copy, Debug, Default)]
pub struct Built {
    /// Files, hard links counted once.
    pub files: u64,
}

struct Placer<'a> {
    tree: &'a Tree,
    shared: &'a Shared,
    /// Where each placed file has its first name: root and path below the image.
    placed: HashMap<(usize, Key), CString>,
    built: Built,
}

fn failed(operation: &str, path: &Path, errno: Errno) -> Error {
    Error::io(operation, path, &errno.into())
}

/// Builds the trees of all images. Runs on a worker.
pub fn build(tree: &Tree, shared: &Shared, unwanted: &[(usize, u64)]) -> Result<Built> {
    for (root, id) in unwanted {
        shared.store(*root)?.remove(*id)?;
    }
    let mut placer = Placer { tree, shared, placed: HashMap::new(), built: Built::default() };
    for (index, root) in tree.roots.iter().enumerate() {
        let store = shared.store(index)?;
        let image = rustix::io::fcntl_dupfd_cloexec(&store.image, 0)
            .map_err(|errno| failed("open", &store.path, errno))?;
        placer.directory(index, root.key, image, &mut Vec::new(), 0)?;
    }
    for index in 0..tree.roots.len() {
        let store = shared.store(index)?;
        match store.remove_folder() {
            // A file with names in another source only.
            Err(error) if error.errno == libc::ENOTEMPTY => {
                empty(store)?;
                store.remove_folder()?;
            }
            other => other?,
        }
        // Removing the folder has moved the directory's mtime.
        if let Some(root) = tree.roots.get(index).and_then(|root| tree.directories.get(&root.key)) {
            attributes::apply(store.image.as_fd(), &root.stat, &store.path)?;
        }
    }
    Ok(placer.built)
}

fn empty(store: &Store) -> Result<()> {
    let entries =
        rustix::fs::Dir::read_from(&store.folder).map_err(|errno| failed("list", &store.path, errno))?;
    for entry in entries {
        let entry = entry.map_err(|errno| failed("list", &store.path, errno))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            rustix::fs::unlinkat(&store.folder, entry.file_name(), AtFlags::empty())
                .map_err(|errno| failed("delete a file in", &store.path, errno))?;
        }
    }
    Ok(())
}

impl Placer<'_> {
    fn directory(
        &mut self,
        root: usize,
        key: Key,
        fd: OwnedFd,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        let store = self.shared.store(root)?;
        let Some(directory) = self.tree.directories.get(&key) else { return Ok(()) };
        let length = path.len();
        for (name, leads) in &directory.names {
            self.shared.control.check()?;
            path.truncate(length);
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let name = CString::new(&**name).unwrap_or_default();
            match &leads.leads {
                Leads::Nowhere => {}
                Leads::File(file) => self.file(root, *file, fd.as_fd(), &name, path)?,
                Leads::Symlink(symlink) => {
                    let full = full_path(store, path);
                    rustix::fs::symlinkat(symlink.target.as_c_str(), &fd, name.as_c_str())
                        .map_err(|errno| failed("make the link", &full, errno))?;
                    attributes::apply_to_link(fd.as_fd(), &name, &symlink.stat, &full)?;
                }
                Leads::Directory(child) => {
                    let full = full_path(store, path);
                    if depth > 1000 {
                        return Err(failed("nest directories as deep as", &full, Errno::LOOP));
                    }
                    rustix::fs::mkdirat(&fd, name.as_c_str(), Mode::RWXU)
                        .map_err(|errno| failed("make the directory", &full, errno))?;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                    let opened = rustix::fs::openat(&fd, name.as_c_str(), flags, Mode::empty())
                        .map_err(|errno| failed("open", &full, errno))?;
                    self.directory(root, *child, opened, path, depth + 1)?;
                }
            }
        }
        path.truncate(length);
        let full = full_path(store, path);
        attributes::write_xattrs(fd.as_fd(), &directory.xattrs, &full)?;
        attributes::apply(fd.as_fd(), &directory.stat, &full)
    }

    fn file(&mut self, root: usize, key: Key, into: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<()> {
        let Some(file) = self.tree.files.get(&key) else { return Ok(()) };
        let store = self.shared.store(root)?;
        let full = || full_path(store, path);
        let below = CString::new(path).unwrap_or_default();
        if let Some(first) = self.placed.get(&(root, key)) {
            return rustix::fs::linkat(&store.image, first.as_c_str(), into, name, AtFlags::empty())
                .map_err(|errno| failed("make the hard link", &full(), errno));
        }
        if file.root == root {
            rustix::fs::renameat(&store.folder, store_name(file.id).as_c_str(), into, name)
                .map_err(|errno| failed("put in place", &full(), errno))?;
        } else {
            // A file that belongs to two sources, or moved from one to the other: each image gets one of its own.
            self.copy_from_other(file, into, name, &full())?;
        }
        self.placed.insert((root, key), below);
        self.built.files += 1;
        Ok(())
    }

    fn copy_from_other(
        &self,
        file: &super::tree::File,
        into: BorrowedFd<'_>,
        name: &CStr,
        full: &Path,
    ) -> Result<()> {
        let other = self.shared.store(file.root)?;
        let stored = store_name(file.id);
        let opened = match self.placed.get(&(file.root, file.key)) {
            Some(placed) => {
                rustix::fs::openat(&other.image, placed.as_c_str(), OFlags::RDONLY, Mode::empty())
            }
            None => rustix::fs::openat(&other.folder, stored.as_c_str(), OFlags::RDONLY, Mode::empty()),
        };
        let from = opened.map_err(|errno| failed("read the copy of", full, errno))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("make", full, errno))?;
        let stat = rustix::fs::fstat(&from).map_err(|errno| failed("look at the copy of", full, errno))?;
        let size = stat.st_size as u64;
        let mut writer = Writer::new(to.as_fd(), full);
        writer.set_size(size)?;
        let mut buffer = vec![0u8; 1 << 20];
        let mut at = 0;
        while at < size {
            self.shared.control.check()?;
            match super::visit::extent(from.as_fd(), &(at..size))
                .map_err(|errno| failed("read the copy of", full, errno))?
            {
                super::visit::Extent::Hole(_, end) => at = end,
                super::visit::Extent::Data(start, end) => {
                    let length = (end - start).min(buffer.len() as u64) as usize;
                    let part = buffer.get_mut(..length).unwrap_or(&mut []);
                    let got = read_full(from.as_fd(), part, start)
                        .map_err(|errno| failed("read the copy of", full, errno))?;
                    writer.write(part.get(..got).unwrap_or(&[]), start)?;
                    at = start + got.max(1) as u64;
                }
            }
        }
        attributes::write_xattrs(to.as_fd(), &attributes::read_xattrs(from.as_fd(), full)?, full)?;
        attributes::apply(to.as_fd(), &stat, full)
    }
}

fn full_path(store: &Store, below: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    store.path.join(std::ffi::OsStr::from_bytes(below))
}
