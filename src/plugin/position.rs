//! Where the binary log of an image ends: the position of T, for the manifest and for `tokubackup_binlog_info`.
//!
//! Everything is read from the image, after the gate: it is the state at T, and its newest binary log ends with the
//! last transaction that a server over it will have.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::inventory::Facts;
use super::layout::Layout;
use super::one_line;
use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::engine::folder::Folder;
use crate::engine::manifest::{Binlog, encode};
use crate::server::binlog::{self, Failure};

/// Name of the file in the destination.
pub const INFO: &str = "tokubackup_binlog_info";

/// The end of the newest binary log below `destination`; `None` when the server writes none, or the log is excluded
/// from the backup. ENOENT when the image lacks the log that its index names last. Touches the destination, so never
/// on a session's thread.
pub fn of_image(destination: &Folder, facts: &Facts, exclude: &Exclude) -> Result<Option<Binlog>> {
    let layout = &facts.layout;
    let index = layout.files.log_bin_index.as_deref().and_then(index_path);
    let (Some(log_bin), Some(index)) = (&layout.log_bin, index) else { return Ok(None) };
    let Some(name) = newest(destination, layout, exclude, &index)? else { return Ok(None) };
    let log = log_bin.with_file_name(OsStr::from_bytes(&name));
    if exclude.matches(log.as_os_str().as_bytes()) {
        return Ok(None);
    }
    let image = layout.image_of(&log).ok_or_else(|| {
        Error::new(libc::EIO, format!("the binary log {} is in none of the images", log.display()))
    })?;
    let path = destination.path().join(&image);
    let file = destination.open_below(&image)?.ok_or_else(|| {
        Error::new(
            libc::ENOENT,
            format!(
                "the newest binary log, {}, which the index {} names, is not in the backup: it was just being \
                 replaced, or was removed by hand; FLUSH BINARY LOGS and set tokudb_backup_dir again",
                log.display(),
                index.display()
            ),
        )
    })?;
    let size = file.metadata().map_err(|e| Error::io("look at", &path, &e))?.len();
    let gtid_mode = facts.gtid_mode.map(str::to_owned);
    let found = Binlog {
        file: String::from_utf8_lossy(&name).into_owned(),
        file_hex: encode(&name).1,
        size,
        position: None,
        gtid_mode,
        gtid: None,
        unknown: None,
    };
    match binlog::end(&file) {
        Ok(end) => {
            let encrypted =
                || "the binary log is encrypted: its last transaction may not be complete".to_owned();
            Ok(Some(Binlog {
                position: Some(end.position),
                unknown: end.gtids.is_none().then(encrypted),
                gtid: end.gtids.map(|gtids| gtids.to_string()),
                ..found
            }))
        }
        Err(Failure::Io(error)) => Err(Error::io("read", &path, &error)),
        Err(Failure::Format(what, at)) => {
            Ok(Some(Binlog { unknown: Some(format!("{what}, at {at}")), ..found }))
        }
    }
}

/// The name that the image's index has last.
fn newest(destination: &Folder, layout: &Layout, exclude: &Exclude, index: &Path) -> Result<Option<Vec<u8>>> {
    // MySQL removes the index for an instant and renames a new one to it.
    let candidates = [index.to_owned(), index.with_extension("index_crash_safe")];
    for path in candidates.iter().filter_map(|path| layout.image_of(path)) {
        if let Some(content) = destination.read_below(&path)? {
            let last =
                content.split(|&b| b == b'\n').map(<[u8]>::trim_ascii_end).rfind(|line| !line.is_empty());
            let name = last.and_then(|line| Path::new(OsStr::from_bytes(line)).file_name());
            return Ok(name.map(|name| name.as_bytes().to_vec()));
        }
    }
    if exclude.matches(index.as_os_str().as_bytes()) {
        return Ok(None);
    }
    let text = format!(
        "the index of the binary logs, {}, is not in the backup: set tokudb_backup_dir again",
        index.display()
    );
    Err(Error::new(libc::ENOENT, text))
}

/// The line of `tokubackup_binlog_info`, as the earlier plugin wrote it.
pub fn info(binlog: &Binlog) -> String {
    let position = binlog.position.map_or_else(|| "unknown".to_owned(), |position| position.to_string());
    let mode = binlog.gtid_mode.as_deref().unwrap_or("unknown");
    let gtid = match (&binlog.gtid, &binlog.unknown) {
        (Some(gtid), _) => gtid.clone(),
        (None, Some(why)) => format!("unknown ({why})"),
        (None, None) => "unknown".to_owned(),
    };
    format!(
        "filename: {}, position: {position}, gtid_mode: {mode}, GTID of last change: {gtid}\n",
        one_line(&binlog.file)
    )
}

/// Where an index is to be looked for: its directory's real path and its name, whether it exists just now or not.
fn index_path(index: &Path) -> Option<PathBuf> {
    Some(index.parent()?.canonicalize().ok()?.join(index.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Members;
    use crate::engine::manifest::Server;
    use crate::plugin::layout::Part;
    use crate::server::files::ServerFiles;

    /// A server whose data and logs are in directories of `root`.
    fn facts(root: &Path) -> Facts {
        let part = |path: &str, image: &str| Part {
            path: root.join(path),
            image: image.into(),
            members: Members::All,
        };
        Facts {
            server: Server { flavour: "MySQL".to_owned(), version: "5.6.24".to_owned() },
            layout: Layout {
                parts: vec![part("data", "mysql_data_dir"), part("logs", "mysql_log_bin")],
                log_bin: Some(root.join("logs/bl")),
                files: ServerFiles {
                    log_bin_index: Some(root.join("data/bl.index")),
                    ..ServerFiles::default()
                },
                ..Layout::default()
            },
            gtid_mode: Some("OFF"),
            started: std::time::Duration::from_secs(1),
        }
    }

    #[test]
    fn the_newest_log_is_the_last_of_the_index_and_must_be_there() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let root = &root;
        std::fs::create_dir(root.join("data")).unwrap();
        std::fs::create_dir(root.join("mysql_data_dir")).unwrap();
        std::fs::create_dir(root.join("mysql_log_bin")).unwrap();
        let folder = Folder::open(root).unwrap();
        let find = |exclude| of_image(&folder, &facts(root), &Exclude::parse(exclude).unwrap());
        let missing = find("").unwrap_err();
        assert!(missing.errno == libc::ENOENT && missing.message.contains("/data/bl.index"), "{missing}");
        assert_eq!(find("index").unwrap(), None);

        std::fs::write(root.join("mysql_data_dir/bl.index"), "./bl.999999\n./bl.1000000\n").unwrap();
        // The server has made a log that it has not yet named.
        std::fs::write(root.join("mysql_log_bin/bl.1000001"), "").unwrap();
        let missing = find("").unwrap_err();
        assert!(missing.errno == libc::ENOENT && missing.message.contains("/logs/bl.1000000"), "{missing}");
        assert_eq!(find("bl[.]1").unwrap(), None);

        std::fs::write(root.join("mysql_log_bin/bl.1000000"), "no log").unwrap();
        let found = find("").unwrap().unwrap();
        assert_eq!((found.file.as_str(), found.size, found.position), ("bl.1000000", 6, None));
        assert!(found.unknown.as_deref().is_some_and(|why| why.contains("no binary log")));
        assert!(info(&found).starts_with("filename: bl.1000000, position: unknown, gtid_mode: OFF, GTID"));

        // The instant in which MySQL replaces the index.
        let index = root.join("mysql_data_dir/bl.index");
        std::fs::rename(&index, index.with_extension("index_crash_safe")).unwrap();
        assert_eq!(find("").unwrap().unwrap().file, "bl.1000000");
        let mut none = facts(root);
        none.layout.log_bin = None;
        assert_eq!(of_image(&folder, &none, &Exclude::Nothing).unwrap(), None);
    }

    #[test]
    fn the_line_is_the_known_one() {
        let known = Binlog {
            file: "bl.000002".to_owned(),
            file_hex: None,
            size: 500,
            position: Some(444),
            gtid_mode: Some("ON".to_owned()),
            gtid: Some("0-1-7".to_owned()),
            unknown: None,
        };
        let line = "filename: bl.000002, position: 444, gtid_mode: ON, GTID of last change: 0-1-7\n";
        assert_eq!(info(&known), line);
    }
}
