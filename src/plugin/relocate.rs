//! What in the images leads to the live server's files is turned to the images (P26): symbolic links, .isl files, the
//! indexes of logs, MariaDB's redo log. Tablespaces from elsewhere come to where InnoDB then finds them. And what recovery
//! would trip over, as after any crash, is put right (P27): logs that say nothing yet, or more than they should.
//!
//! All paths become relative, so that a backup may be moved and copied as a whole.

pub(crate) mod tablespaces;

use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::indexes::make_relative;
use super::layout::{Layout, leads_out, of_channels};
use super::redo;
use crate::engine::attributes;
use crate::engine::error::{Error, Result};
use crate::engine::folder::Folder;
use crate::engine::manifest::Moved;
use tablespaces::Place;

/// Turns everything below `destination` to the images. Returns what was moved from its image to another
/// place. Runs on a worker, since the destination may hang.
pub fn relocate(destination: &Folder, layout: &Layout) -> Result<Vec<Moved>> {
    for index in layout.log_indexes.iter().filter_map(|index| layout.image_of(index)) {
        turn_indexes(destination, &index)?;
    }
    let place = Place::of(destination, layout)?;
    for part in &layout.parts {
        let image = Path::new(&part.image);
        destination.walk(image, &mut |path, folder, name, stat| {
            let below = path.strip_prefix(image).unwrap_or(path);
            let source = part.path.join(below);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => turn_link(layout, path, folder, name, &source),
                FileType::RegularFile if path.extension() == Some(OsStr::new("isl")) => {
                    place.turn_isl(layout, path, folder, name)
                }
                FileType::RegularFile if stat.st_size == 0 && is_truncation_log(name) => {
                    folder.remove_file(name)
                }
                _ => Ok(()),
            }
        })?;
    }
    let moved = place.settle(destination, layout)?;
    if let Some(log) = layout.redo_log.as_deref().and_then(|log| layout.image_of(log))
        && destination.open_below(&log)?.is_some()
    {
        let (log, path) = tablespaces::open_log(destination, &log)?;
        redo::end_before_leftovers(&log, &path)?;
    }
    Ok(moved)
}

/// MySQL 5.7 and later make `undo_N_trunc.log` before they cut an undo tablespace, and do not start over one that is empty
/// still (seen in 9.7: "Tried to read 16384 bytes at offset 0"). It says nothing yet: without it, nothing was begun.
fn is_truncation_log(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"undo_") && name.to_bytes().ends_with(b"_trunc.log")
}

/// An index of logs or its like below the destination, and those of named channels beside it.
fn turn_indexes(destination: &Folder, index: &Path) -> Result<()> {
    make_relative(destination, index)?;
    let (folder, name) = match destination.parent_of(index) {
        Err(error) if error.errno == libc::ENOENT => return Ok(()),
        found => found?,
    };
    let channels = of_channels(name.to_bytes());
    let ending = index.extension();
    for other in folder.names()? {
        let other = other.to_bytes();
        if other.starts_with(&channels) && Path::new(OsStr::from_bytes(other)).extension() == ending {
            make_relative(destination, &index.with_file_name(OsStr::from_bytes(other)))?;
        }
    }
    Ok(())
}

/// `link` lies below the destination, in `folder`; `source` is what it is a copy of.
fn turn_link(layout: &Layout, link: &Path, folder: &Folder, name: &CStr, source: &Path) -> Result<()> {
    let target = folder.read_link(name)?;
    let led = source.parent().unwrap_or(Path::new("/")).join(&target);
    let image = image_of(layout, &led).ok_or_else(|| match source.symlink_metadata() {
        Ok(original) if !original.is_symlink() => folder.foreign(name, "is a symbolic link now"),
        _ => leads_out(source, &led),
    })?;
    let wanted = relative(link, &image);
    if wanted == target {
        return Ok(());
    }
    let stays =
        !target.is_absolute() && normal(&link.parent().unwrap_or(Path::new("")).join(&target)) == image;
    if stays {
        return Ok(());
    }
    let path = folder.path_of(name);
    let failed = |what: &'static str| {
        let path = &path;
        move |errno: Errno| Error::io(what, path, &errno.into())
    };
    let of_directory = rustix::fs::fstat(folder).map_err(failed("look at the directory of"))?;
    let stat = folder.stat(name)?.ok_or(Errno::NOENT).map_err(failed("look at"))?;
    folder.remove_file(name)?;
    rustix::fs::symlinkat(&wanted, folder, name).map_err(failed("make the link"))?;
    attributes::apply_to_link(folder.as_fd(), name, &stat, &path)?;
    attributes::apply(folder.as_fd(), &of_directory, &path)?;
    folder.sync()
}

/// Where the copy of what a path of the source leads to lies below the destination.
fn image_of(layout: &Layout, path: &Path) -> Option<PathBuf> {
    layout.image_of(&normal(path)).or_else(|| layout.image_of(&path.canonicalize().ok()?))
}

/// The path that leads from the directory of `link` to `to`; both lie below the destination.
fn relative(link: &Path, to: &Path) -> PathBuf {
    let from = link.parent().unwrap_or(Path::new(""));
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().count() - common;
    let mut path: PathBuf = std::iter::repeat_n(Component::ParentDir, up).collect();
    path.extend(to.components().skip(common));
    if up == 0 { Path::new(".").join(path) } else { path }
}

/// Without `.` and `..`, as text.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Members;
    use crate::plugin::layout::Part;

    #[test]
    fn ways_between_images() {
        let way = |link: &str, to: &str| relative(Path::new(link), Path::new(to)).display().to_string();
        assert_eq!(way("mysql_data_dir/d/t.MYD", "data_directory/t.MYD"), "../../data_directory/t.MYD");
        assert_eq!(way("mysql_data_dir/d", "data_directory"), "../data_directory");
        assert_eq!(way("mysql_data_dir/d/l", "mysql_data_dir/d/f"), "./f");
        assert_eq!(way("mysql_data_dir/d/l", "mysql_data_dir/e/f"), "../e/f");
    }

    #[test]
    fn a_truncation_log_that_says_nothing_is_left_out() {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("mysql_data_dir");
        std::fs::create_dir(&data).unwrap();
        let files = [("undo_3_trunc.log", ""), ("undo_4_trunc.log", "begun"), ("undo_5.log", "")];
        for (name, content) in files {
            std::fs::write(data.join(name), content).unwrap();
        }
        let part =
            Part { path: "/nowhere/data".into(), image: "mysql_data_dir".into(), members: Members::All };
        let layout = Layout { parts: vec![part], ..Layout::default() };
        relocate(&Folder::open(scratch.path()).unwrap(), &layout).unwrap();
        let there = files.map(|(name, _)| data.join(name).exists());
        assert_eq!(there, [false, true, true]);
    }

    #[test]
    fn links_lead_to_images() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let folder = Folder::open(root).unwrap();
        std::fs::create_dir_all(root.join("mysql_data_dir/d")).unwrap();
        std::fs::create_dir_all(root.join("data_directory")).unwrap();
        let part =
            |path: &str, image: &str| Part { path: path.into(), image: image.into(), members: Members::All };
        let layout = Layout {
            parts: vec![part("/nowhere/data", "mysql_data_dir"), part("/nowhere/big", "data_directory")],
            ..Layout::default()
        };
        let link = |name: &str, target: &str| {
            std::os::unix::fs::symlink(target, root.join("mysql_data_dir/d").join(name)).unwrap();
        };
        link("t.MYD", "/nowhere/big/t.MYD");
        link("u.MYD", "../../big/u.MYD");
        link("inside", "../e");
        std::fs::write(root.join("mysql_data_dir/d/v.isl"), "/nowhere/big/d/v.ibd\n").unwrap();
        assert_eq!(relocate(&folder, &layout).unwrap(), []);
        let target = |name: &str| std::fs::read_link(root.join("mysql_data_dir/d").join(name)).unwrap();
        assert_eq!(target("t.MYD"), Path::new("../../data_directory/t.MYD"));
        assert_eq!(target("u.MYD"), Path::new("../../data_directory/u.MYD"));
        assert_eq!(target("inside"), Path::new("../e"));
        let isl = std::fs::read_to_string(root.join("mysql_data_dir/d/v.isl")).unwrap();
        assert_eq!(isl, "../data_directory/d/v.ibd");
        link("out", "/nowhere/else");
        assert_eq!(relocate(&folder, &layout).unwrap_err().errno, libc::EXDEV);
    }
}
