//! The names that programs work on. They are few, so that threads meet on them.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::rng::Rng;

/// What a name is meant for; other kinds of files may come to bear it by renames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `f0` to `f6`, and `x0`, which some backups leave out.
    File,
    /// `d0` to `d2`.
    Directory,
    /// `l0` to `l2`.
    Symlink,
    /// `p0`.
    Fifo,
}

/// The directories of one round.
#[derive(Debug)]
pub struct World {
    /// Where everything is; the working directory.
    pub base: PathBuf,
    /// What is backed up.
    pub sources: Vec<PathBuf>,
    /// Beside the sources, on the same file system, in no backup.
    pub outside: PathBuf,
    roots: Vec<(CString, File)>,
    flat: bool,
}

/// A place as the `*at` calls take it.
#[derive(Debug)]
pub struct At {
    /// A descriptor, or AT_FDCWD.
    pub directory: i32,
    /// Relative to it, or absolute.
    pub path: CString,
}

impl World {
    /// Makes the empty directories of a round with this many sources. `flat`: paths lead to no directory below these.
    pub fn create(base: &Path, sources: usize, flat: bool) -> io::Result<World> {
        let outside = base.join("outside");
        let sources: Vec<PathBuf> = (0..sources).map(|index| base.join(format!("source{index}"))).collect();
        let mut roots = Vec::new();
        for root in sources.iter().chain([&outside]) {
            fs::create_dir_all(root)?;
            let name = root.file_name().expect("a name of ours");
            roots.push((CString::new(name.as_bytes())?, File::open(root)?));
        }
        Ok(World { base: base.to_owned(), sources, outside, roots, flat })
    }

    /// Removes what [`World::create`] and the programs made.
    pub fn remove(&self) -> io::Result<()> {
        self.sources.iter().chain([&self.outside]).try_for_each(fs::remove_dir_all)
    }

    /// A directory below `root`: itself, or up to three levels down; now and then through a symbolic link.
    fn directory(&self, rng: &mut Rng, path: &mut Vec<u8>) {
        let depth = if self.flat { 0 } else { *rng.pick(&[0, 0, 0, 1, 1, 1, 2, 2, 3]) };
        for _ in 0..depth {
            let letter = if rng.one_in(25) { 'l' } else { 'd' };
            path.extend(format!("{letter}{}/", rng.below(3)).bytes());
        }
    }

    /// One of the sources in 9 of 10 cases.
    fn any_root(&self, rng: &mut Rng) -> &(CString, File) {
        let outside = self.roots.len() - 1;
        let index = if rng.one_in(10) { outside } else { rng.below(outside as u64) as usize };
        &self.roots[index]
    }

    fn name(rng: &mut Rng, kind: Kind) -> String {
        match kind {
            Kind::File if rng.one_in(12) => "x0".into(),
            Kind::File => format!("f{}", rng.below(7)),
            Kind::Directory => format!("d{}", rng.below(3)),
            Kind::Symlink => format!("l{}", rng.below(3)),
            Kind::Fifo => "p0".into(),
        }
    }

    /// A descriptor on the file system of the sources.
    pub fn root(&self) -> i32 {
        self.roots[0].1.as_raw_fd()
    }

    /// A path for a call without a descriptor: absolute or relative.
    pub fn path(&self, rng: &mut Rng, kind: Kind) -> CString {
        let (root, _) = self.any_root(rng);
        let mut path = Vec::new();
        if rng.one_in(2) {
            path.extend(self.base.as_os_str().as_bytes());
            path.push(b'/');
        }
        path.extend(root.as_bytes());
        path.push(b'/');
        self.directory(rng, &mut path);
        path.extend(World::name(rng, kind).bytes());
        CString::new(path).expect("no NUL in it")
    }

    /// A place for a call with a descriptor.
    pub fn at(&self, rng: &mut Rng, kind: Kind) -> At {
        if rng.one_in(4) {
            return At { directory: libc::AT_FDCWD, path: self.path(rng, kind) };
        }
        let (_, directory) = self.any_root(rng);
        let mut path = Vec::new();
        self.directory(rng, &mut path);
        path.extend(World::name(rng, kind).bytes());
        At { directory: directory.as_raw_fd(), path: CString::new(path).expect("no NUL in it") }
    }

    /// The target of a symbolic link: a name beside it, above it, outside, or nothing.
    pub fn target(&self, rng: &mut Rng) -> CString {
        let outside = self.outside.as_os_str().as_bytes();
        let target = match rng.below(6) {
            0 => b"/nonexistent/twin".to_vec(),
            1 => b"..".to_vec(),
            2 => [outside, b"/f1"].concat(),
            3 => World::name(rng, Kind::Directory).into_bytes(),
            4 => [b"../", World::name(rng, Kind::File).as_bytes()].concat(),
            _ => World::name(rng, Kind::File).into_bytes(),
        };
        CString::new(target).expect("no NUL in it")
    }

    /// A template for `mkstemp` and its like, with `suffix` behind the X's.
    pub fn template(&self, rng: &mut Rng, suffix: &str) -> Vec<u8> {
        let (root, _) = self.any_root(rng);
        let mut path = root.as_bytes().to_vec();
        path.push(b'/');
        self.directory(rng, &mut path);
        path.extend(b"tmpXXXXXX");
        path.extend(suffix.bytes());
        path.push(0);
        path
    }
}
