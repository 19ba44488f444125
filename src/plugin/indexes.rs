//! Indexes of binary and relay logs name the logs, by full paths when these lie outside the data directory: a server
//! over a copy would then use the live server's logs (P26). In the image they are named relative to their directory,
//! which every server resolves against its own `log_bin` and `relay_log` (`normalize_binlog_name`, log.cc and
//! binlog.cc of MySQL 5.6 to 9.7 and MariaDB 10.5 to 11.8).

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::engine::attributes;
use crate::engine::error::{Error, Result};

/// Rewrites the index at `path` in an image, durably, if it names anything by a full path. No file: nothing to do.
pub fn make_relative(path: &Path) -> Result<()> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", path, &e)),
    };
    relative(&content).map_or(Ok(()), |content| rewrite(path, &content))
}

/// Gives a file of an image another content, durably. Owner, mode, times and extended attributes stay.
pub fn rewrite(path: &Path, content: &[u8]) -> Result<()> {
    let old = std::fs::File::open(path).map_err(|e| Error::io("open", path, &e))?;
    let fresh = fresh_name(path);
    let write = || -> Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&fresh)
            .map_err(|e| Error::io("create", &fresh, &e))?;
        file.write_all(content).map_err(|e| Error::io("write", &fresh, &e))?;
        let stat = rustix::fs::fstat(&old).map_err(|errno| Error::io("look at", path, &errno.into()))?;
        let extended = attributes::read_xattrs(old.as_fd(), path)?;
        attributes::write_xattrs(file.as_fd(), &extended, &fresh)?;
        attributes::apply(file.as_fd(), &stat, &fresh)?;
        file.sync_all().map_err(|e| Error::io("sync", &fresh, &e))?;
        std::fs::rename(&fresh, path).map_err(|e| Error::io("rename a new file to", path, &e))?;
        sync_directory_of(path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&fresh);
    })
}

/// Makes the names in the directory of `path` durable.
pub fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| Error::io("sync", directory, &e))
}

/// No server makes such a name.
fn fresh_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tokudb_backup_new");
    PathBuf::from(name)
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
        make_relative(&path).unwrap();
        std::fs::write(&path, "/somewhere/bl.000001\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        make_relative(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "./bl.000001\n");
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.mtime()), (0o640, 1_000_000));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else is left");
    }
}
