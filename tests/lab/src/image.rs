//! What a backup says of itself, and a second server over a copy of it.

use crate::installation::copy_tree;
use crate::server::{Options, Server};
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The image of the data directory within a backup.
pub const DATA: &str = "mysql_data_dir";
/// The image of the binary logs within a backup, where they lie outside of the data directory.
pub const LOGS: &str = "mysql_log_bin";
/// What a backup that is not complete has.
const INCOMPLETE: &str = "backup_incomplete";

/// What the manifest tells.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// T, since the epoch.
    pub instant: Duration,
    /// Passes over the files, the gate not counted.
    pub passes: u64,
    /// How long the gate was closed, microseconds.
    pub gate_micros: u64,
    /// How long the lock at the end was held, microseconds.
    pub lock_micros: u64,
    /// Files that changed unseen.
    pub unseen: usize,
    /// Files in the images.
    pub files: usize,
    /// Bytes of these files.
    pub bytes: u64,
}

impl Manifest {
    /// Reads the manifest of a complete backup.
    ///
    /// # Errors
    /// When the backup is not complete, or the manifest lacks something.
    pub fn read(backup: &Path) -> Result<Manifest> {
        if backup.join(INCOMPLETE).exists() {
            bail!("{} says that it is incomplete", backup.display());
        }
        let path = backup.join("backup_manifest");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let json: serde_json::Value =
            serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        let number = |name: &str| json[name].as_u64().with_context(|| format!("the manifest lacks {name}"));
        let list = |name: &str| json[name].as_array().with_context(|| format!("the manifest lacks {name}"));
        let files: Vec<u64> = list("files")?
            .iter()
            .filter(|entry| entry["kind"] == "file")
            .filter_map(|entry| entry["size"].as_u64())
            .collect();
        Ok(Manifest {
            instant: since_epoch(json["instant"].as_str().unwrap_or_default())?,
            passes: number("passes")?,
            gate_micros: number("gate_micros")?,
            lock_micros: number("lock_micros")?,
            unseen: list("unseen")?.len(),
            files: files.len(),
            bytes: files.iter().sum(),
        })
    }
}

/// "2026-08-01T12:34:56.123456Z".
fn since_epoch(text: &str) -> Result<Duration> {
    let parts: Vec<u64> =
        text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect();
    let [year, month, day, hour, minute, second, micros] = parts[..] else { bail!("`{text}` is no time") };
    // SAFETY: a tm of zeroes is valid.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    tm.tm_year = i32::try_from(year)? - 1900;
    tm.tm_mon = i32::try_from(month)? - 1;
    tm.tm_mday = i32::try_from(day)?;
    // SAFETY: timegm reads and normalises the tm.
    let days = u64::try_from(unsafe { libc::timegm(&raw mut tm) })?;
    Ok(Duration::from_secs(days + hour * 3600 + minute * 60 + second) + Duration::from_micros(micros))
}

/// Copies a backup and starts a server of the same kind and options over the copy, in `home`.
///
/// # Errors
/// When it does not start: with the end of its error log.
pub fn boot(original: &Server, backup: &Path, home: &Path) -> Result<Server> {
    let mut server = place(original, backup, home)?;
    server.start()?;
    Ok(server)
}

/// Copies a backup and puts a server of the same kind and options over the copy, in `home`, not yet started.
///
/// # Errors
/// When the backup cannot be copied.
pub fn place(original: &Server, backup: &Path, home: &Path) -> Result<Server> {
    let data = home.join("data");
    fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))?;
    copy_tree(&backup.join(DATA), &data)?;
    let mut options =
        Options { env: Vec::new(), preload: None, program: None, wrapper: None, ..original.options.clone() };
    if let Some(logs) = logs_outside(original) {
        let copy = home.join("binlog");
        copy_tree(&backup.join(LOGS), &copy)?;
        let (from, to) = (logs.display().to_string(), copy.display().to_string());
        options.args.iter_mut().for_each(|arg| *arg = arg.replace(&from, &to));
    }
    Server::over(&original.installation.name, home, &data, options)
}

/// The folder of a server's binary logs, when `--log-bin` names one outside of the data directory.
pub fn logs_outside(server: &Server) -> Option<PathBuf> {
    let log = server.options.args.iter().find_map(|arg| arg.strip_prefix("--log-bin="))?;
    Path::new(log).parent().filter(|dir| dir.is_absolute()).map(Path::to_path_buf)
}

/// The files below `dir` that the process has open or mapped.
///
/// # Errors
/// When the process is gone or `dir` cannot be read.
pub fn files_in_use(pid: u32, dir: &Path) -> Result<Vec<String>> {
    let mut inodes = HashMap::new();
    collect(dir, &mut inodes)?;
    let mut found = Vec::new();
    let mut look = |how: &str, name: &Path| {
        // The link leads to the file itself, whatever mount namespace its name is from.
        let used = fs::metadata(name).ok().and_then(|meta| inodes.get(&(meta.dev(), meta.ino())));
        found.extend(used.map(|path| format!("{} is {how}", path.display())));
    };
    for (how, list) in [("open", "fd"), ("mapped", "map_files")] {
        let list = PathBuf::from(format!("/proc/{pid}/{list}"));
        for entry in fs::read_dir(&list).with_context(|| format!("cannot read {}", list.display()))? {
            look(how, &entry?.path());
        }
    }
    look("the working directory", &PathBuf::from(format!("/proc/{pid}/cwd")));
    Ok(found)
}

/// Every name below `dir`, and `dir`, by device and inode.
fn collect(dir: &Path, inodes: &mut HashMap<(u64, u64), PathBuf>) -> Result<()> {
    let meta = match fs::symlink_metadata(dir) {
        // A server that runs makes and removes files.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        meta => meta.with_context(|| format!("cannot look at {}", dir.display()))?,
    };
    inodes.insert((meta.dev(), meta.ino()), dir.to_owned());
    if meta.is_dir() {
        for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
            collect(&entry?.path(), inodes)?;
        }
    }
    Ok(())
}

/// Bytes and number of all regular files below a directory, as long as they are (not as they are stored).
///
/// # Errors
/// When it cannot be read.
pub fn size(dir: &Path) -> Result<(u64, usize)> {
    let mut inodes = HashMap::new();
    collect(dir, &mut inodes)?;
    let files =
        inodes.values().filter_map(|path| fs::symlink_metadata(path).ok()).filter(|meta| meta.is_file());
    Ok(files.fold((0, 0), |(bytes, count), meta| (bytes + meta.len(), count + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_manifest() {
        let micros = |text: &str| since_epoch(text).unwrap().as_micros();
        assert_eq!(micros("1970-01-01T00:00:00.000000Z"), 0);
        assert_eq!(micros("2026-08-01T12:34:56.123456Z"), 1_785_587_696_123_456);
        assert!(since_epoch("2026-08-01").is_err());
    }

    #[test]
    fn what_a_process_uses() {
        let scratch = crate::scratch::Scratch::new("in-use").unwrap();
        let path = scratch.path().join("f");
        fs::write(&path, "text").unwrap();
        let used = || files_in_use(std::process::id(), scratch.path()).unwrap();
        assert_eq!(used(), Vec::<String>::new());
        let file = fs::File::open(&path).unwrap();
        assert_eq!(used(), [format!("{} is open", path.display())]);
        // A mapping outlives the descriptor.
        use std::os::fd::AsRawFd;
        // SAFETY: a fresh private mapping of an open file, of one page.
        let map = unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        assert_ne!(map, libc::MAP_FAILED);
        drop(file);
        assert_eq!(used(), [format!("{} is mapped", path.display())]);
        // SAFETY: the mapping from above, used no more.
        unsafe { libc::munmap(map, 4096) };
    }
}
