//! Where a directory is: by its real path, by the inodes above it, and by its file system, so that no symbolic link,
//! `..` or bind mount hides that one directory lies inside another.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Error, Folder, Result, failed, retry};

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

impl Id {
    /// What `stat` was told of.
    pub fn of(stat: &Stat) -> Id {
        Id { device: stat.st_dev, inode: stat.st_ino }
    }

    /// Of an open directory.
    pub fn of_folder(folder: &Folder) -> Result<Id> {
        id_of(folder.as_fd()).map_err(|errno| failed("look at", folder.path(), errno))
    }

    /// Whether a path leads to it.
    pub fn is_found_by(&self, path: &Path) -> Result<bool> {
        match rustix::fs::stat(path) {
            Ok(stat) => Ok(Id::of(&stat) == *self),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(errno) => Err(failed("look at", path, errno)),
        }
    }
}

/// An existing directory, opened.
#[derive(Debug)]
pub struct Place {
    /// Its real path, for messages and for what is mounted there.
    pub path: PathBuf,
    /// The directory.
    pub fd: OwnedFd,
    /// What it is.
    pub id: Id,
    /// The directories on the way up to the root, this one first.
    above: Vec<Id>,
    /// None: /proc does not tell.
    location: Option<Location>,
}

/// A directory as its file system knows it, wherever that is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Location {
    /// "major:minor" of the file system.
    device: Vec<u8>,
    /// From the root of the file system.
    path: PathBuf,
}

impl Place {
    /// Opens the directory `path`, links followed.
    pub fn open(path: &Path) -> Result<Place> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry(|| rustix::fs::open(path, flags, Mode::empty()))
            .map_err(|errno| failed("open the directory", path, errno))?;
        Place::of(fd, path)
    }

    /// The directory that was opened by `path`, which is not looked up again: where it is, the kernel tells.
    pub fn of(fd: OwnedFd, path: &Path) -> Result<Place> {
        let id = id_of(fd.as_fd()).map_err(|errno| failed("look at", path, errno))?;
        let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .map_err(|error| Error::io("find in /proc the real path of", path, &error))?;
        let above = above(fd.as_fd(), id).map_err(|errno| failed("look at what is above", path, errno))?;
        let location = location(fd.as_fd(), &real);
        Ok(Place { path: real, fd, id, above, location })
    }

    /// Whether this is the directory `other` or lies below it, as `..` leads.
    pub fn is_below(&self, other: Id) -> bool {
        self.above.contains(&other)
    }

    /// Whether this is `other` or lies below it, wherever either is mounted.
    pub fn is_inside(&self, other: &Place) -> bool {
        let same_file_system = self.location.as_ref().zip(other.location.as_ref());
        self.path.starts_with(&other.path)
            || self.is_below(other.id)
            || same_file_system.is_some_and(|(this, other)| {
                this.device == other.device && this.path.starts_with(&other.path)
            })
    }
}

fn id_of(fd: BorrowedFd<'_>) -> rustix::io::Result<Id> {
    Ok(Id::of(&rustix::fs::fstat(fd)?))
}

/// `id`, then what `..` leads to, up to where it leads to itself.
fn above(start: BorrowedFd<'_>, id: Id) -> rustix::io::Result<Vec<Id>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let up = |fd: BorrowedFd<'_>| retry(|| rustix::fs::openat(fd, c"..", flags, Mode::empty()));
    let mut ids = vec![id];
    let mut fd = up(start)?;
    // A path has at most 4096 bytes; directories moved meanwhile make no endless loop.
    while ids.len() < 4096 {
        let id = id_of(fd.as_fd())?;
        if ids.last() == Some(&id) {
            return Ok(ids);
        }
        ids.push(id);
        fd = up(fd.as_fd())?;
    }
    Err(Errno::LOOP)
}

/// From /proc, of this thread: which mount the descriptor is on, and what is mounted there.
fn location(fd: BorrowedFd<'_>, real: &Path) -> Option<Location> {
    let info = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    locate(&std::fs::read("/proc/thread-self/mountinfo").ok()?, id, real)
}

/// In the lines of proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, ...
fn locate(mounts: &[u8], id: &str, real: &Path) -> Option<Location> {
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        if fields.next()? != id.as_bytes() {
            return None;
        }
        let device = fields.nth(1)?.to_vec();
        let root = unescape(fields.next()?);
        let below = real.strip_prefix(unescape(fields.next()?)).ok()?;
        Some(Location { device, path: root.join(below) })
    })
}

/// Space, tab, line feed and backslash stand as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                path.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = tail;
            }
            _ => path.push(*first),
        }
    }
    PathBuf::from(OsStr::from_bytes(&path))
}

#[cfg(test)]
pub(crate) mod fuzz {
    //! Lines of mountinfo(5).

    use arbitrary::{Arbitrary, Result, Unstructured};

    use super::*;
    use crate::fuzz;

    /// As the kernel writes a path.
    fn escape(path: &[u8]) -> Vec<u8> {
        let escaped = |&byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            byte => vec![byte],
        };
        path.iter().flat_map(escaped).collect()
    }

    /// A mount is found by its number, whatever its names are; lines of anybody are no harm.
    pub fn mounts(u: &mut Unstructured<'_>) -> Result<()> {
        let absolute = |path: Vec<u8>| [b"/", &path[..]].concat();
        let (root, point, below) = (absolute(fuzz::path(u)?), absolute(fuzz::path(u)?), fuzz::name(u)?);
        let id: u16 = u.arbitrary()?;
        let line = [
            format!("1 0 8:1 / / rw - ext4 /dev/sda rw\n{id} 1 0:30 ").as_bytes(),
            &escape(&root),
            b" ",
            &escape(&point),
            b" rw shared:3 - tmpfs tmpfs rw\n",
        ]
        .concat();
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let real = path(&point).join(path(&below));
        let found = locate(&line, &id.to_string(), &real);
        if id != 1 && !below.starts_with(b"/") {
            let expected = Location { device: b"0:30".to_vec(), path: path(&root).join(path(&below)) };
            assert_eq!(found, Some(expected), "{}", line.escape_ascii());
        }
        let mut line = line;
        fuzz::damage(&mut line, u)?;
        locate(&line, &id.to_string(), &real);
        unescape(&Vec::<u8>::arbitrary(u)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let mounts = b"25 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            31 25 254:0 /data/my\\040sql /mnt/a\\134b rw shared:3 - ext4 /dev/vda rw\n\
            40 25 0:30 / /tmp rw - tmpfs tmpfs rw\n";
        let at = |id, path: &str| {
            locate(mounts, id, Path::new(path))
                .map(|location| (String::from_utf8(location.device).unwrap(), location.path))
        };
        assert_eq!(at("25", "/data/x"), Some(("254:0".into(), "/data/x".into())));
        assert_eq!(at("31", "/mnt/a\\b/db"), Some(("254:0".into(), "/data/my sql/db".into())));
        assert_eq!(at("31", "/elsewhere"), None);
        assert_eq!(at("40", "/tmp"), Some(("0:30".into(), "/".into())));
        assert_eq!(at("4", "/tmp"), None);
    }

    #[test]
    fn proc_tells_where_the_root_is() {
        let place = Place::open(Path::new("/")).unwrap();
        assert_eq!(place.above, [place.id]);
        assert!(place.location.is_some());
    }
}
