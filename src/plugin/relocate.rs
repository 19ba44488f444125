//! What in the images leads to the live server's files is turned to the images (P26): symbolic links, .isl files, the
//! indexes of logs, MariaDB's redo log. Tablespaces from elsewhere come to where InnoDB then finds them.
//!
//! All paths become relative, so that a backup may be moved and copied as a whole.

mod tablespaces;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::indexes::make_relative;
use super::layout::{Layout, leads_out};
use crate::engine::attributes;
use crate::engine::error::{Error, Result};
use crate::engine::manifest::Moved;
use tablespaces::Place;

/// Turns everything below `destination` to the images. Returns what was moved from its image to
/// another place. Runs on a worker, since the destination may hang.
pub fn relocate(destination: &Path, layout: &Layout) -> Result<Vec<Moved>> {
    for index in layout.log_indexes.iter().filter_map(|index| layout.image_of(index)) {
        make_relative(&destination.join(index))?;
    }
    let place = Place::of(destination, layout)?;
    for part in &layout.parts {
        let image = Path::new(&part.image);
        walk(destination, image, &mut |path, kind| {
            let below = path.strip_prefix(image).unwrap_or(path);
            let source = part.path.join(below);
            if kind.is_symlink() {
                turn_link(destination, layout, path, &source)
            } else if path.extension() == Some(OsStr::new("isl")) {
                place.turn_isl(destination, layout, path)
            } else {
                Ok(())
            }
        })?;
    }
    place.settle(destination, layout)
}

/// `link` lies below the destination; `source` is what it is a copy of.
fn turn_link(destination: &Path, layout: &Layout, link: &Path, source: &Path) -> Result<()> {
    let path = destination.join(link);
    let target = std::fs::read_link(&path).map_err(|e| Error::io("read the link", &path, &e))?;
    let led = source.parent().unwrap_or(Path::new("/")).join(&target);
    let image = image_of(layout, &led).ok_or_else(|| leads_out(source, &led))?;
    let wanted = relative(link, &image);
    if wanted == target {
        return Ok(());
    }
    let stays =
        !target.is_absolute() && normal(&link.parent().unwrap_or(Path::new("")).join(&target)) == image;
    if stays {
        return Ok(());
    }
    let directory = std::fs::File::open(path.parent().unwrap_or(destination))
        .map_err(|e| Error::io("open the directory of", &path, &e))?;
    let failed = |what: &'static str| {
        let path = &path;
        move |errno: rustix::io::Errno| Error::io(what, path, &errno.into())
    };
    let of_directory = rustix::fs::fstat(&directory).map_err(failed("look at the directory of"))?;
    let stat = rustix::fs::lstat(&path).map_err(failed("look at"))?;
    let name = std::ffi::CString::new(path.file_name().unwrap_or_default().as_bytes()).unwrap_or_default();
    std::fs::remove_file(&path).map_err(|e| Error::io("replace the link", &path, &e))?;
    std::os::unix::fs::symlink(&wanted, &path).map_err(|e| Error::io("make the link", &path, &e))?;
    attributes::apply_to_link(directory.as_fd(), &name, &stat, &path)?;
    attributes::apply(directory.as_fd(), &of_directory, &path)?;
    directory.sync_all().map_err(|e| Error::io("sync the directory of", &path, &e))
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

/// Calls `visit` with the path below `destination` of everything in an image but directories.
fn walk(
    destination: &Path,
    image: &Path,
    visit: &mut dyn FnMut(&Path, std::fs::FileType) -> Result<()>,
) -> Result<()> {
    let mut open = vec![image.to_owned()];
    while let Some(relative) = open.pop() {
        let path = destination.join(&relative);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("list", &path, &e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &path, &e))?;
            let kind = entry.file_type().map_err(|e| Error::io("look at", &entry.path(), &e))?;
            let below = relative.join(entry.file_name());
            if kind.is_dir() { open.push(below) } else { visit(&below, kind)? }
        }
    }
    Ok(())
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
    fn links_lead_to_images() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
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
        assert_eq!(relocate(root, &layout).unwrap(), []);
        let target = |name: &str| std::fs::read_link(root.join("mysql_data_dir/d").join(name)).unwrap();
        assert_eq!(target("t.MYD"), Path::new("../../data_directory/t.MYD"));
        assert_eq!(target("u.MYD"), Path::new("../../data_directory/u.MYD"));
        assert_eq!(target("inside"), Path::new("../e"));
        let isl = std::fs::read_to_string(root.join("mysql_data_dir/d/v.isl")).unwrap();
        assert_eq!(isl, "../data_directory/d/v.ibd");
        link("out", "/nowhere/else");
        assert_eq!(relocate(root, &layout).unwrap_err().errno, libc::EXDEV);
    }
}
