//! Manifests of any content, and texts that are none.

use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};

use super::*;
use crate::fuzz;

fn name(u: &mut Unstructured<'_>) -> Result<Name> {
    Ok(Name(path_of(&fuzz::path(u)?)))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn text(u: &mut Unstructured<'_>) -> Result<String> {
    Ok(String::from_utf8_lossy(&fuzz::name(u)?).into_owned())
}

/// In the years of four digits, in microseconds.
fn time(u: &mut Unstructured<'_>) -> Result<Time> {
    Ok(Time(Duration::from_micros(u.int_in_range(0..=253_402_300_799_999_999)?)))
}

fn optional<T>(u: &mut Unstructured<'_>, make: fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Option<T>> {
    if u.arbitrary()? { make(u).map(Some) } else { Ok(None) }
}

fn list<T>(u: &mut Unstructured<'_>, make: fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=4)?).map(|_| make(u)).collect()
}

fn binlog(u: &mut Unstructured<'_>) -> Result<Binlog> {
    let file = fuzz::name(u)?;
    Ok(Binlog {
        file: String::from_utf8_lossy(&file).into_owned(),
        file_hex: encode(&file).1,
        size: u.arbitrary()?,
        position: u.arbitrary()?,
        gtid_mode: optional(u, text)?,
        gtid: optional(u, text)?,
        unknown: optional(u, text)?,
    })
}

fn entry(u: &mut Unstructured<'_>) -> Result<Entry> {
    let inside = |part: &Component<'_>| matches!(part, Component::Normal(_));
    let path: PathBuf = path_of(&fuzz::path(u)?).components().filter(inside).collect();
    let kind = *u.choose(&[Kind::File, Kind::Directory, Kind::Link])?;
    Ok(Entry {
        path: if path.as_os_str().is_empty() { "x".into() } else { path },
        kind,
        size: u.arbitrary()?,
        mode: u.int_in_range(0..=0o7777)?,
        mtime: Mtime { seconds: u.arbitrary()?, nanoseconds: u.int_in_range(0..=999_999_999)? },
        target: if kind == Kind::Link { Some(name(u)?.0) } else { None },
    })
}

fn manifest(u: &mut Unstructured<'_>) -> Result<Manifest> {
    Ok(Manifest {
        format: FORMAT,
        library: text(u)?,
        plugin: text(u)?,
        server: optional(u, |u| Ok(Server { flavour: text(u)?, version: text(u)? }))?,
        started: time(u)?,
        ended: time(u)?,
        instant: time(u)?,
        passes: u.arbitrary()?,
        gate_micros: u.arbitrary()?,
        gate_bytes: u.arbitrary()?,
        lock_micros: u.arbitrary()?,
        sources: list(u, |u| Ok(Source { path: name(u)?, image: text(u)? }))?,
        binlog: optional(u, binlog)?,
        moved: list(u, |u| Ok(Moved { path: name(u)?, from: name(u)? }))?,
        unseen: list(u, name)?,
        files: list(u, entry)?,
    })
}

fn written(manifest: &Manifest) -> Vec<u8> {
    let mut text = Vec::new();
    manifest.write(&mut text).expect("a manifest can be written");
    text
}

/// What was written is read back the same, whatever the names are; each entry stands in a line of its own.
pub fn is_read_as_written(u: &mut Unstructured<'_>) -> Result<()> {
    let manifest = manifest(u)?;
    let text = written(&manifest);
    let read = Manifest::read(&*text).unwrap_or_else(|error| panic!("{error}: {}", text.escape_ascii()));
    assert_eq!(read, manifest);
    let entries = text.split(|&byte| byte == b'\n').filter(|line| line.starts_with(br#"{"path"#)).count();
    let listed = [manifest.sources.len(), manifest.moved.len(), manifest.unseen.len(), manifest.files.len()];
    assert_eq!(entries, listed.iter().sum::<usize>(), "{}", text.escape_ascii());
    Ok(())
}

/// A text of anybody is refused, or means something: then it leads nowhere outside, and is read as it is written anew.
pub fn of_anybody(u: &mut Unstructured<'_>) -> Result<()> {
    let mut text = written(&manifest(u)?);
    if u.ratio(1, 8)? {
        text = Vec::arbitrary(u)?;
    } else {
        fuzz::damage(&mut text, u)?;
    }
    let Ok(manifest) = Manifest::read(&*text) else { return Ok(()) };
    for entry in &manifest.files {
        assert!(entry.path.components().all(|part| matches!(part, Component::Normal(_))), "{entry:?}");
        assert_eq!(entry.kind == Kind::Link, entry.target.is_some(), "{entry:?}");
    }
    assert_eq!(Manifest::read(&*written(&manifest)).expect("written by ourselves"), manifest);
    Ok(())
}
