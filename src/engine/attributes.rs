//! Mode, owner, times and extended attributes of what is in the image.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::error::{Error, Result};

/// Extended attributes by name.
pub type Xattrs = BTreeMap<CString, Vec<u8>>;

fn failed(operation: &str, path: &Path, errno: Errno) -> Error {
    Error::io(operation, path, &errno.into())
}

/// Only root may give files away, and some file systems know no owners: then they keep the server's own.
fn tolerate(result: std::result::Result<(), Errno>) -> std::result::Result<(), Errno> {
    match result {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

/// Gives a file or directory of the image the owner, mode and mtime of its source. The owner first: changing it
/// clears the set-id bits.
pub fn apply(image: BorrowedFd<'_>, stat: &Stat, path: &Path) -> Result<()> {
    let now = rustix::fs::fstat(image).map_err(|errno| failed("look at", path, errno))?;
    if (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        tolerate(rustix::fs::fchown(image, owner.0, owner.1))
            .map_err(|errno| failed("set the owner of", path, errno))?;
    }
    rustix::fs::fchmod(image, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .map_err(|errno| failed("set the mode of", path, errno))?;
    rustix::fs::futimens(image, &times(stat)).map_err(|errno| failed("set the times of", path, errno))
}

/// The same for a symbolic link, which has no mode of its own.
pub fn apply_to_link(directory: BorrowedFd<'_>, name: &CStr, stat: &Stat, path: &Path) -> Result<()> {
    // The link itself, and only if it is one: a file in its place would be given away.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = rustix::fs::openat(directory, name, flags, Mode::empty())
        .map_err(|errno| failed("open the link", path, errno))?;
    let now = rustix::fs::fstat(&link).map_err(|errno| failed("look at", path, errno))?;
    if FileType::from_raw_mode(now.st_mode) != FileType::Symlink {
        return Err(failed("set the owner of the link", path, Errno::EXIST));
    }
    if (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        tolerate(rustix::fs::chownat(&link, c"", owner.0, owner.1, AtFlags::EMPTY_PATH))
            .map_err(|errno| failed("set the owner of", path, errno))?;
    }
    // Kernels before 5.8 take no AT_EMPTY_PATH here.
    let set = match rustix::fs::utimensat(&link, c"", &times(stat), AtFlags::EMPTY_PATH) {
        Err(Errno::INVAL) => rustix::fs::utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW),
        set => set,
    };
    tolerate(set).map_err(|errno| failed("set the times of", path, errno))
}

/// Reads the extended attributes of a source file or directory.
pub fn read_xattrs(file: BorrowedFd<'_>, path: &Path) -> Result<Xattrs> {
    let none = |errno| matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM);
    let mut names = vec![0u8; 65_536];
    let length = match rustix::fs::flistxattr(file, names.as_mut_slice()) {
        Ok(length) => length,
        Err(errno) if none(errno) => 0,
        Err(errno) => return Err(failed("list the extended attributes of", path, errno)),
    };
    let mut found = Xattrs::new();
    for name in names.get(..length).unwrap_or(&[]).split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0u8; 65_536];
        match rustix::fs::fgetxattr(file, name, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                found.insert(name.to_owned(), value);
            }
            // Removed meanwhile: there is a mark, or will be.
            Err(Errno::NODATA) => {}
            Err(errno) if none(errno) => {}
            Err(errno) => return Err(failed("read the extended attributes of", path, errno)),
        }
    }
    Ok(found)
}

/// Gives the image exactly these extended attributes, as far as the server may set them there.
pub fn write_xattrs(image: BorrowedFd<'_>, wanted: &Xattrs, path: &Path) -> Result<()> {
    let present = read_xattrs(image, path)?;
    for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
        tolerate(rustix::fs::fremovexattr(image, name.as_c_str()))
            .map_err(|errno| failed("remove an extended attribute of", path, errno))?;
    }
    for (name, value) in wanted {
        if present.get(name) != Some(value) {
            tolerate(rustix::fs::fsetxattr(image, name.as_c_str(), value, XattrFlags::empty()))
                .map_err(|errno| failed("set an extended attribute of", path, errno))?;
        }
    }
    Ok(())
}
