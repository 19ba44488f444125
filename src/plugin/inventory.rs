//! The manifest of a finished backup of a server: what its images hold, and where the binary log stood.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::layout::Layout;
use super::variables::{LIBRARY_VERSION, PLUGIN_VERSION};
use crate::backup::Report;
use crate::engine::error::{Error, Result};
use crate::engine::manifest::{
    Binlog, Entry, FORMAT, Kind, Manifest, Moved, Mtime, Name, Server, Source, Time,
};

/// What of the manifest is known without looking at the images.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Kind and version of the server.
    pub server: Server,
    /// Where the server's files are.
    pub layout: Layout,
    /// When the backup began, since the epoch.
    pub started: Duration,
}

/// Lists the images below `destination`. Touches the destination, so never on a session's thread.
pub fn manifest(destination: &Path, facts: &Facts, report: &Report, moved: Vec<Moved>) -> Result<Manifest> {
    let mut files = Vec::new();
    for part in &facts.layout.parts {
        match list(destination, Path::new(&part.image), &mut files) {
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
        binlog: newest_binlog(facts, &files),
        moved,
        unseen: report.unseen.iter().cloned().map(Name).collect(),
        files,
    })
}

/// Adds `relative` and everything below it.
fn list(destination: &Path, relative: &Path, files: &mut Vec<Entry>) -> Result<()> {
    let mut open = vec![relative.to_owned()];
    while let Some(relative) = open.pop() {
        let path = destination.join(&relative);
        let meta = std::fs::symlink_metadata(&path).map_err(|e| Error::io("look at", &path, &e))?;
        let (kind, target) = if meta.is_dir() {
            (Kind::Directory, None)
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&path).map_err(|e| Error::io("read the link", &path, &e))?;
            (Kind::Link, Some(target))
        } else {
            (Kind::File, None)
        };
        if kind == Kind::Directory {
            for entry in std::fs::read_dir(&path).map_err(|e| Error::io("list", &path, &e))? {
                let entry = entry.map_err(|e| Error::io("list", &path, &e))?;
                open.push(relative.join(entry.file_name()));
            }
        }
        files.push(Entry {
            path: relative,
            kind,
            size: if kind == Kind::Directory { 0 } else { meta.len() },
            mode: meta.mode() & 0o7777,
            mtime: Mtime {
                seconds: meta.mtime(),
                nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
            },
            target,
        });
    }
    Ok(())
}

/// The binary log with the highest number, as it is in the image.
fn newest_binlog(facts: &Facts, files: &[Entry]) -> Option<Binlog> {
    let log_bin = facts.layout.log_bin.as_deref()?;
    // With the dot: in a directory elsewhere nothing else is taken.
    let mut first = log_bin.as_os_str().to_owned();
    first.push(".");
    let image = facts.layout.image_of(Path::new(&first))?;
    let base = image.as_os_str().as_bytes();
    let number = |entry: &Entry| -> Option<u64> {
        let digits = entry.path.as_os_str().as_bytes().strip_prefix(base)?;
        let all_digits = entry.kind == Kind::File && digits.iter().all(u8::is_ascii_digit);
        all_digits.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
    };
    let (_, newest) =
        files.iter().filter_map(|entry| Some((number(entry)?, entry))).max_by_key(|(n, _)| *n)?;
    Some(Binlog { file: newest.path.file_name()?.to_string_lossy().into_owned(), size: newest.size })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::backup::Members;
    use crate::plugin::layout::Part;

    fn facts(log_bin: Option<&str>) -> Facts {
        Facts {
            server: Server { flavour: "MySQL".to_owned(), version: "5.6.24".to_owned() },
            layout: Layout {
                parts: [("/data", "mysql_data_dir"), ("/logs", "mysql_log_bin")]
                    .map(|(path, image)| Part {
                        path: path.into(),
                        image: image.into(),
                        members: Members::All,
                    })
                    .into(),
                log_bin: log_bin.map(PathBuf::from),
                ..Layout::default()
            },
            started: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_newest_binary_log_is_the_one_of_the_highest_number() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        std::fs::create_dir_all(root.join("mysql_log_bin")).unwrap();
        std::fs::create_dir_all(root.join("mysql_data_dir/test")).unwrap();
        for (name, size) in
            [("bl.000009", 3), ("bl.1000000", 5), ("bl.999999", 7), ("bl.index", 9), ("bl.2000000x", 2)]
        {
            std::fs::write(root.join("mysql_log_bin").join(name), vec![0; size]).unwrap();
        }
        std::os::unix::fs::symlink("../x", root.join("mysql_data_dir/test/link")).unwrap();
        let listed = manifest(root, &facts(Some("/logs/bl")), &Report::default(), Vec::new()).unwrap();
        assert_eq!(listed.binlog, Some(Binlog { file: "bl.1000000".to_owned(), size: 5 }));
        let names: Vec<_> = listed.files.iter().map(|entry| entry.path.to_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "mysql_data_dir",
                "mysql_data_dir/test",
                "mysql_data_dir/test/link",
                "mysql_log_bin",
                "mysql_log_bin/bl.000009",
                "mysql_log_bin/bl.1000000",
                "mysql_log_bin/bl.2000000x",
                "mysql_log_bin/bl.999999",
                "mysql_log_bin/bl.index"
            ]
        );
        assert_eq!(manifest(root, &facts(None), &Report::default(), Vec::new()).unwrap().binlog, None);
        std::fs::remove_dir_all(root).unwrap();
        assert_eq!(
            manifest(root, &facts(None), &Report::default(), Vec::new()).unwrap_err().errno,
            libc::ENOENT
        );
    }
}
