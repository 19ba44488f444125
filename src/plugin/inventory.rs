//! The manifest of a finished backup of a server: what its images hold, and where the binary log stood.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::layout::Layout;
use super::variables::{LIBRARY_VERSION, PLUGIN_VERSION};
use crate::backup::Report;
use crate::engine::error::{Error, Result};
use crate::engine::folder::Folder;
use crate::engine::manifest::{
    Binlog, Entry, FORMAT, Kind, Manifest, Moved, Mtime, Name, Server, Source, Time,
};
use crate::engine::memory;

/// What of the manifest is known without looking at the images.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Kind and version of the server.
    pub server: Server,
    /// Where the server's files are.
    pub layout: Layout,
    /// Whether transactions have GTIDs, in the server's words.
    pub gtid_mode: Option<&'static str>,
    /// When the backup began, since the epoch.
    pub started: Duration,
}

/// Lists the images below `destination`. Touches the destination, so never on a session's thread.
pub fn manifest(
    destination: &Folder,
    facts: &Facts,
    report: &Report,
    moved: Vec<Moved>,
    binlog: Option<Binlog>,
) -> Result<Manifest> {
    let mut files = Vec::new();
    let of_parts = facts.layout.parts.iter().map(|part| Path::new(&part.image));
    let of_moved = moved.iter().filter_map(|moved| moved.path.0.iter().next()).map(Path::new);
    let images: BTreeSet<&Path> = of_parts.chain(of_moved).collect();
    for image in images {
        match list(destination, image, &mut files) {
            Err(error) if error.errno == libc::ENOENT && !moved.is_empty() => {}
            other => other?,
        }
    }
    files.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    let ended = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Manifest {
        format: FORMAT,
        library: LIBRARY_VERSION.to_owned(),
        plugin: PLUGIN_VERSION.to_owned(),
        server: Some(facts.server.clone()),
        started: Time(facts.started),
        ended: Time(ended),
        instant: Time(report.instant),
        passes: report.passes,
        gate_micros: report.gate_micros,
        gate_bytes: report.gate_bytes,
        lock_micros: report.lock_micros,
        sources: facts
            .layout
            .parts
            .iter()
            .map(|part| Source { path: Name(part.path.clone()), image: part.image.clone() })
            .collect(),
        binlog,
        moved,
        unseen: report.unseen.iter().cloned().map(Name).collect(),
        files,
    })
}

/// Adds an image and everything below it.
fn list(destination: &Folder, image: &Path, files: &mut Vec<Entry>) -> Result<()> {
    let mut add = |path: &Path, folder: &Folder, name: &CStr, stat: &Stat| {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::File,
        };
        memory::reserve(files, 1)?;
        files.push(Entry {
            path: path.to_owned(),
            kind,
            size: if kind == Kind::Directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) },
            mode: stat.st_mode & 0o7777,
            mtime: Mtime {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
            target: if kind == Kind::Link { Some(folder.read_link(name)?) } else { None },
        });
        Ok(())
    };
    let (parent, name) = destination.parent_of(image)?;
    let missing = || Error::io("look at", &parent.path_of(&name), &Errno::NOENT.into());
    add(image, &parent, &name, &parent.stat(&name)?.ok_or_else(missing)?)?;
    destination.walk(image, &mut add)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::backup::Members;
    use crate::plugin::layout::Part;

    #[test]
    fn everything_is_listed_in_the_order_of_paths() {
        let facts = Facts {
            server: Server { flavour: "MySQL".to_owned(), version: "5.6.24".to_owned() },
            layout: Layout {
                parts: [("/data", "mysql_data_dir"), ("/logs", "mysql_log_bin")]
                    .map(|(path, image)| Part {
                        path: path.into(),
                        image: image.into(),
                        members: Members::All,
                    })
                    .into(),
                ..Layout::default()
            },
            gtid_mode: None,
            started: Duration::from_secs(1),
        };
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let folder = Folder::open(root).unwrap();
        std::fs::create_dir_all(root.join("mysql_log_bin")).unwrap();
        std::fs::create_dir_all(root.join("mysql_data_dir/test")).unwrap();
        std::fs::write(root.join("mysql_log_bin/bl.000009"), "log").unwrap();
        std::os::unix::fs::symlink("../x", root.join("mysql_data_dir/test/link")).unwrap();
        let listed = manifest(&folder, &facts, &Report::default(), Vec::new(), None).unwrap();
        assert_eq!(listed.binlog, None);
        let names: Vec<_> = listed.files.iter().map(|entry| entry.path.to_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "mysql_data_dir",
                "mysql_data_dir/test",
                "mysql_data_dir/test/link",
                "mysql_log_bin",
                "mysql_log_bin/bl.000009"
            ]
        );
        std::fs::remove_dir_all(root).unwrap();
        let missing = manifest(&folder, &facts, &Report::default(), Vec::new(), None).unwrap_err();
        assert_eq!(missing.errno, libc::ENOENT);
    }
}
