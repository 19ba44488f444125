//! Indexes of binary and relay logs (and relay-log.info) name the logs, by full paths when these lie outside the data
//! directory: a server over a copy would then use the live server's logs (P26). In the image they are named relative to
//! their directory, which every server resolves against its own `log_bin` and `relay_log` (`normalize_binlog_name`,
//! log.cc and binlog.cc of MySQL 5.6 to 9.7 and MariaDB 10.5 to 11.8).

use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::engine::attributes;
use crate::engine::error::{Error, Result};
use crate::engine::folder::Folder;

/// Rewrites an index below the destination, durably, if it names anything by a full path. No file: nothing to do.
pub fn make_relative(destination: &Folder, index: &Path) -> Result<()> {
    let (folder, name) = match destination.parent_of(index) {
        Err(error) if error.errno == libc::ENOENT => return Ok(()),
        found => found?,
    };
    let Some(content) = folder.read(&name)? else { return Ok(()) };
    relative(&content).map_or(Ok(()), |content| rewrite(&folder, &name, &content))
}

/// Gives a file of an image another content, durably. Owner, mode, times and extended attributes stay.
pub fn rewrite(folder: &Folder, name: &CStr, content: &[u8]) -> Result<()> {
    let path = folder.path_of(name);
    let gone = || Error::io("open", &path, &Errno::NOENT.into());
    let old = folder.open_file(name)?.ok_or_else(gone)?;
    let fresh = fresh_name(name);
    // Nobody else may read it before it has the mode of the old one.
    let mut file = folder.create(&fresh, Mode::RUSR | Mode::WUSR)?;
    let mut write = || -> Result<()> {
        file.write_all(content).map_err(|e| Error::io("write", &path, &e))?;
        let stat = rustix::fs::fstat(&old).map_err(|errno| Error::io("look at", &path, &errno.into()))?;
        let extended = attributes::read_xattrs(old.as_fd(), &path)?;
        attributes::write_xattrs(file.as_fd(), &extended, &path)?;
        attributes::apply(file.as_fd(), &stat, &path)?;
        file.sync_all().map_err(|e| Error::io("sync", &path, &e))?;
        rustix::fs::renameat(folder, &fresh, folder, name)
            .map_err(|errno| Error::io("rename a new file to", &path, &errno.into()))?;
        folder.sync()
    };
    write().inspect_err(|_| {
        let _ = folder.remove_file(&fresh);
    })
}

/// No server makes such a name.
fn fresh_name(name: &CStr) -> CString {
    CString::new([name.to_bytes(), b".tokudb_backup_new"].concat()).unwrap_or_default()
}

/// The lines of an index with every full path made `./name`; `None` when there is none.
fn relative(content: &[u8]) -> Option<Vec<u8>> {
    let mut any = false;
    let mut result = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|&b| b == b'\n') {
        let name = Path::new(std::ffi::OsStr::from_bytes(line.trim_ascii_end()))
            .file_name()
            .filter(|_| line.starts_with(b"/"));
        match name {
            Some(name) => {
                any = true;
                result.extend_from_slice(b"./");
                result.extend_from_slice(name.as_bytes());
                result.extend_from_slice(if line.ends_with(b"\n") { b"\n" } else { b"" });
            }
            None => result.extend_from_slice(line),
        }
    }
    any.then_some(result)
}

#[cfg(test)]
pub(crate) mod fuzz {
    //! Indexes of any content.

    use arbitrary::{Arbitrary, Result, Unstructured};

    use super::*;
    use crate::fuzz;

    /// No full path of a log is left, every line still names the same file, and a second time changes nothing.
    pub fn index(u: &mut Unstructured<'_>) -> Result<()> {
        let mut content = Vec::new();
        for _ in 0..u.int_in_range(0..=6)? {
            content.extend(if u.ratio(1, 6)? { Vec::arbitrary(u)? } else { fuzz::path(u)? });
            content.extend(*u.choose(&[&b"\n"[..], b"\n", b"\r\n", b""])?);
        }
        let turned = relative(&content);
        let shown = content.escape_ascii();
        if let Some(again) = turned.as_deref().and_then(relative) {
            panic!("{shown} is changed twice, to {}", again.escape_ascii());
        }
        fn lines(content: &[u8]) -> Vec<&[u8]> {
            content.split(|&byte| byte == b'\n').collect()
        }
        fn file(line: &[u8]) -> Option<&[u8]> {
            let path = Path::new(std::ffi::OsStr::from_bytes(line.trim_ascii_end()));
            path.file_name().map(|name| name.as_bytes().trim_ascii_end()).filter(|name| !name.is_empty())
        }
        let new = turned.as_deref().unwrap_or(&content);
        assert_eq!(lines(&content).len(), lines(new).len(), "{shown}");
        for (old, new) in lines(&content).into_iter().zip(lines(new)) {
            assert_eq!(file(old), file(new), "{shown}");
            assert!(new == old || new.starts_with(b"./"), "{shown}");
            assert!(!new.starts_with(b"/") || file(new).is_none(), "{shown}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn only_full_paths_are_changed() {
        assert_eq!(relative(b"./bl.000001\nbl.000002\n"), None);
        assert_eq!(relative(b""), None);
        let mixed = relative(b"/logs/a b/bl.000001\n./bl.000002\n/bl.000003").unwrap();
        assert_eq!(mixed, b"./bl.000001\n./bl.000002\n./bl.000003");
    }

    #[test]
    fn an_index_keeps_its_mode_and_time() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("bl.index");
        let folder = Folder::open(scratch.path()).unwrap();
        let make_relative = || make_relative(&folder, Path::new("bl.index")).unwrap();
        make_relative();
        std::fs::write(&path, "/somewhere/bl.000001\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        make_relative();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "./bl.000001\n");
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.mtime()), (0o640, 1_000_000));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else is left");
    }
}
