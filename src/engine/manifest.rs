//! `backup_manifest`: what a complete backup consists of, as JSON, one array element a line.
//!
//! Written into the destination as its last file before the backup counts as complete. Names that are not UTF-8
//! stand under a key that ends in `_hex`, as the hexadecimal digits of their bytes.

#[cfg(test)]
pub(crate) mod fuzz;
mod name;
#[cfg(test)]
mod tests;
mod time;

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use name::{Name, encode};
pub use time::{Mtime, Time};

/// The version of this format that is written; readers refuse later ones.
pub const FORMAT: u32 = 1;

/// A whole manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the library.
    pub library: String,
    /// Version of the plugin.
    pub plugin: String,
    /// The server that was backed up; none for a program of another kind.
    pub server: Option<Server>,
    /// When the backup began.
    pub started: Time,
    /// When it was complete.
    pub ended: Time,
    /// The instant T.
    pub instant: Time,
    /// Passes over the files, the first included, the gate not.
    pub passes: u32,
    /// How long the successful gate was closed, microseconds.
    pub gate_micros: u64,
    /// Bytes that were read inside it.
    pub gate_bytes: u64,
    /// How long DDL was held off, microseconds; 0: not at all.
    pub lock_micros: u64,
    /// What was backed up, and into which directory of the destination.
    pub sources: Vec<Source>,
    /// The binary log at T; none when it is off.
    pub binlog: Option<Binlog>,
    /// Files that lie in another image than that of their directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<Moved>,
    /// Source files that changed unseen and are exact to within the last pass only.
    pub unseen: Vec<Name>,
    /// Every file, directory and link of the images, in the order of their paths.
    pub files: Vec<Entry>,
}

/// A file that lies in another image than that of its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Where it lies, relative to the destination.
    pub path: Name,
    /// Where the server had it.
    pub from: Name,
}

/// A server's kind and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// "MySQL", "MariaDB", ...
    pub flavour: String,
    /// As the server says it.
    pub version: String,
}

/// One directory that was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its real path, on the machine of the backup.
    #[serde(flatten)]
    pub path: Name,
    /// Its image's name in the destination.
    pub image: String,
}

/// Where the binary log stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binlog {
    /// The newest file's name.
    pub file: String,
    /// The same in hexadecimal digits, when it is not UTF-8 and `file` is only like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_hex: Option<String>,
    /// Its size, bytes.
    pub size: u64,
    /// Where the last complete transaction ends, bytes: a server over the image has what stands before it.
    #[serde(default)]
    pub position: Option<u64>,
    /// Whether transactions have GTIDs, in the server's words.
    #[serde(default)]
    pub gtid_mode: Option<String>,
    /// The GTIDs up to the position, as SQL takes them.
    #[serde(default)]
    pub gtid: Option<String>,
    /// Why something of this is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// What a name of the image stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file; a hard link is listed as a file of its own.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// One name of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "EntryText", into = "EntryText")]
pub struct Entry {
    /// Relative to the destination: "mysql_data_dir/test/t1.ibd".
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file; of a link, of its target; 0 for a directory.
    pub size: u64,
    /// Permissions: the low 12 bits of `st_mode`.
    pub mode: u32,
    /// When it was last modified.
    pub mtime: Mtime,
    /// A symbolic link's target.
    pub target: Option<PathBuf>,
}

/// An entry as it stands in the file.
#[derive(Serialize, Deserialize)]
struct EntryText {
    #[serde(flatten)]
    path: Name,
    kind: Kind,
    size: u64,
    /// Octal, with a leading 0.
    mode: String,
    mtime: Mtime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
}

impl From<Entry> for EntryText {
    fn from(entry: Entry) -> Self {
        let (target, target_hex) = match &entry.target {
            Some(target) => name::encode(target.as_os_str().as_bytes()),
            None => (None, None),
        };
        EntryText {
            path: Name(entry.path),
            kind: entry.kind,
            size: entry.size,
            mode: format!("{:04o}", entry.mode),
            mtime: entry.mtime,
            target,
            target_hex,
        }
    }
}

impl TryFrom<EntryText> for Entry {
    type Error = String;
    fn try_from(text: EntryText) -> Result<Self, String> {
        let path = text.path.0;
        // Whoever restores by a manifest stays inside the backup.
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.as_os_str().is_empty() {
            return Err(format!("{} is not a path inside the backup", path.display()));
        }
        let mode = u32::from_str_radix(&text.mode, 8).ok().filter(|mode| *mode <= 0o7777);
        let mode = mode.ok_or_else(|| format!("'{}' is not a mode", text.mode))?;
        let target = match (text.target, text.target_hex) {
            (None, None) => None,
            (target, hex) => Some(name::decode(target, hex)?),
        };
        if (text.kind == Kind::Link) != target.is_some() {
            return Err(format!("{}: a link has a target, nothing else has", path.display()));
        }
        Ok(Entry { path, kind: text.kind, size: text.size, mode, mtime: text.mtime, target })
    }
}

impl Manifest {
    /// Writes it; at no time is the whole text in memory.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        let mut to = io::BufWriter::with_capacity(32 << 10, to);
        let mut serializer = serde_json::Serializer::with_formatter(&mut to, Lines::default());
        self.serialize(&mut serializer).map_err(io::Error::from)?;
        to.write_all(b"\n")?;
        to.flush()
    }

    /// Reads what [`Manifest::write`] has written. InvalidData says what is wrong with a damaged one.
    pub fn read(from: impl Read) -> io::Result<Manifest> {
        let manifest: Manifest = serde_json::from_reader(io::BufReader::with_capacity(256 << 10, from))
            .map_err(|error| {
                if error.is_io() { error.into() } else { io::Error::new(io::ErrorKind::InvalidData, error) }
            })?;
        if manifest.format != FORMAT {
            let text = format!("format {} of the manifest is unknown, {FORMAT} is known", manifest.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(manifest)
    }
}

impl From<&Path> for Name {
    fn from(path: &Path) -> Self {
        Name(path.to_owned())
    }
}

impl AsRef<OsStr> for Name {
    fn as_ref(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

/// JSON with a line for each key of the outermost object and for each element of its arrays: readable, and
/// comparable with diff, at no more than a byte or two a line.
#[derive(Default)]
struct Lines {
    depth: u32,
}

impl Lines {
    fn separate<W: ?Sized + Write>(&self, writer: &mut W, first: bool, lines: u32) -> io::Result<()> {
        let separator: &[u8] = match (first, self.depth <= lines) {
            (true, true) => b"\n",
            (false, true) => b",\n",
            (true, false) => b"",
            (false, false) => b", ",
        };
        writer.write_all(separator)
    }
}

impl serde_json::ser::Formatter for Lines {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(b"{")
    }
    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(if self.depth == 0 { b"\n}" } else { b"}" })
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first, 1)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(b"[")
    }
    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(b"]")
    }
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first, 2)
    }
}
