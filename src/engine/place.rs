//! Building the tree of the image from the names at T: store files are moved to their first name and linked to the
//! others, then the directories get their attributes, from the leaves up.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::attributes;
use super::error::{Error, Result};
use super::folder::Folder;
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
    placed: HashMap<(usize, Key), PathBuf>,
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
        placer.directory(index, root.key, &store.image, &mut Vec::new(), 0)?;
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
        store.complete_directory(store.image.as_fd(), &store.path)?;
    }
    Ok(placer.built)
}

fn empty(store: &Store) -> Result<()> {
    store.folder.names()?.iter().try_for_each(|name| store.folder.remove_file(name))
}

impl Placer<'_> {
    fn directory(
        &mut self,
        root: usize,
        key: Key,
        folder: &Folder,
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
                Leads::File(file) => self.file(root, *file, folder, &name, path)?,
                Leads::Symlink(symlink) => {
                    let full = full_path(store, path);
                    rustix::fs::symlinkat(symlink.target.as_c_str(), folder, name.as_c_str())
                        .map_err(|errno| failed("make the link", &full, errno))?;
                    attributes::apply_to_link(folder.as_fd(), &name, &symlink.stat, &full)?;
                }
                Leads::Directory(child) => {
                    if depth > 1000 {
                        let full = full_path(store, path);
                        return Err(failed("nest directories as deep as", &full, Errno::LOOP));
                    }
                    let made = folder.make_folder(&name, Mode::RWXU)?;
                    self.directory(root, *child, &made, path, depth + 1)?;
                }
            }
        }
        path.truncate(length);
        let full = full_path(store, path);
        attributes::write_xattrs(folder.as_fd(), &directory.xattrs, &full)?;
        attributes::apply(folder.as_fd(), &directory.stat, &full)?;
        store.complete_directory(folder.as_fd(), &full)
    }

    fn file(&mut self, root: usize, key: Key, into: &Folder, name: &CStr, path: &[u8]) -> Result<()> {
        let Some(file) = self.tree.files.get(&key) else { return Ok(()) };
        let store = self.shared.store(root)?;
        let full = || full_path(store, path);
        if let Some(first) = self.placed.get(&(root, key)) {
            let (folder, first) = store.image.parent_of(first)?;
            return rustix::fs::linkat(&folder, first.as_c_str(), into, name, AtFlags::empty())
                .map_err(|errno| failed("make the hard link", &full(), errno));
        }
        if file.root == root {
            rustix::fs::renameat(&store.folder, store_name(file.id).as_c_str(), into, name)
                .map_err(|errno| failed("put in place", &full(), errno))?;
        } else {
            // A file that belongs to two sources, or moved from one to the other: each image gets one of its own.
            self.copy_from_other(file, store, into, name, &full())?;
        }
        self.placed.insert((root, key), PathBuf::from(OsStr::from_bytes(path)));
        self.built.files += 1;
        Ok(())
    }

    fn copy_from_other(
        &self,
        file: &super::tree::File,
        store: &Store,
        into: &Folder,
        name: &CStr,
        full: &Path,
    ) -> Result<()> {
        let other = self.shared.store(file.root)?;
        let opened = match self.placed.get(&(file.root, file.key)) {
            Some(placed) => other.image.open_below(placed)?,
            None => other.folder.open_file(&store_name(file.id))?,
        };
        let from = opened.ok_or_else(|| failed("read the copy of", full, Errno::NOENT))?;
        let to = into.create(name, Mode::RUSR | Mode::WUSR)?;
        let stat = rustix::fs::fstat(&from).map_err(|errno| failed("look at the copy of", full, errno))?;
        let size = stat.st_size as u64;
        let mut writer = Writer::new(to.as_fd(), full);
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
        writer.set_size(size)?;
        attributes::write_xattrs(to.as_fd(), &attributes::read_xattrs(from.as_fd(), full)?, full)?;
        attributes::apply(to.as_fd(), &stat, full)?;
        store.close(to.into())
    }
}

fn full_path(store: &Store, below: &[u8]) -> PathBuf {
    store.path.join(OsStr::from_bytes(below))
}
