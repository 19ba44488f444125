//! Names: made, moved, swapped, removed.

use std::ffi::{CStr, CString, OsStr, c_int, c_uint};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{
    AT_REMOVEDIR, AT_SYMLINK_FOLLOW, O_CLOEXEC, O_CREAT, O_EXCL, O_RDWR, RENAME_EXCHANGE, RENAME_NOREPLACE,
    S_IFIFO, S_IFREG,
};

use super::{Operation, op, zero};
use crate::library::c_string;
use crate::rng::Rng;
use crate::sys::{self, Outcome, check};
use crate::worker::{Held, Worker};
use crate::world::{At, Kind};

/// `_MKNOD_VER` of x86-64, as programs pass it that were built before glibc 2.33.
const VERSION: c_int = 0;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("rename", 8, |w, r| rename_path(w, r, Kind::File, Kind::File)),
    op("rename (directory)", 2, |w, r| rename_path(w, r, Kind::Directory, Kind::Directory)),
    op("rename (link)", 1, |w, r| {
        let (target, from, to) = (w.shared.world.target(r), link(w, r), link(w, r));
        sys::symlink(&target, &from);
        zero(sys::rename(&from, &to))
    }),
    op("rename (to another kind of name)", 1, |w, r| rename_path(w, r, Kind::Directory, Kind::File)),
    op("rename (back)", 1, |w, r| rename_path(w, r, Kind::File, Kind::Directory)),
    op("rename (ring)", 3, |w, r| ring(w, r, Kind::File)),
    op("rename (ring of directories)", 2, |w, r| ring(w, r, Kind::Directory)),
    op("rename (up and back)", 1, up_and_back),
    op("renameat", 5, |w, r| {
        rename_at(w, r, Kind::File, |a, b| sys::renameat(a.directory, &a.path, b.directory, &b.path))
    }),
    op("renameat2", 3, |w, r| rename_at(w, r, Kind::File, |a, b| rename2(a, b, 0))),
    op("renameat2 (NOREPLACE)", 4, |w, r| {
        rename_at(w, r, Kind::File, |a, b| rename2(a, b, RENAME_NOREPLACE))
    }),
    op("renameat2 (EXCHANGE)", 4, |w, r| rename_at(w, r, Kind::File, |a, b| rename2(a, b, RENAME_EXCHANGE))),
    op("renameat2 (EXCHANGE directories)", 1, |w, r| {
        rename_at(w, r, Kind::Directory, |a, b| rename2(a, b, RENAME_EXCHANGE))
    }),
    op("link", 4, |w, r| two_paths(w, r, Kind::File, Kind::File, sys::link)),
    op("linkat", 4, |w, r| {
        let (from, to) = (w.shared.world.at(r, Kind::File), w.shared.world.at(r, Kind::File));
        let flags = if r.one_in(2) { AT_SYMLINK_FOLLOW } else { 0 };
        zero(sys::linkat(from.directory, &from.path, to.directory, &to.path, flags))
    }),
    op("symlink", 3, |w, r| {
        let (target, path) = (w.shared.world.target(r), w.shared.world.path(r, Kind::Symlink));
        zero(sys::symlink(&target, &path))
    }),
    op("symlinkat", 3, |w, r| {
        let (target, at) = (w.shared.world.target(r), w.shared.world.at(r, Kind::Symlink));
        zero(sys::symlinkat(&target, at.directory, &at.path))
    }),
    op("unlink", 6, |w, r| one_path(w, r, Kind::File, sys::unlink)),
    op("unlink (link)", 3, |w, r| one_path(w, r, Kind::Symlink, sys::unlink)),
    op("unlink (fifo)", 1, |w, r| one_path(w, r, Kind::Fifo, sys::unlink)),
    op("unlink (then written)", 3, unlinked_and_written),
    op("unlink (inode used again)", 4, inode_again),
    op("unlinkat", 5, |w, r| {
        let At { directory, path } = w.shared.world.at(r, Kind::File);
        zero(sys::unlinkat(directory, &path, 0))
    }),
    op("unlinkat (directory)", 3, |w, r| {
        let At { directory, path } = w.shared.world.at(r, Kind::Directory);
        zero(sys::unlinkat(directory, &path, AT_REMOVEDIR))
    }),
    op("remove", 3, |w, r| one_path(w, r, Kind::File, sys::remove)),
    op("remove (directory)", 2, |w, r| one_path(w, r, Kind::Directory, sys::remove)),
    op("rmdir (tree)", 6, remove_tree),
    op("mkdir", 8, |w, r| one_path(w, r, Kind::Directory, |path| sys::mkdir(path, 0o755))),
    op("mkdirat", 8, |w, r| {
        let At { directory, path } = w.shared.world.at(r, Kind::Directory);
        zero(sys::mkdirat(directory, &path, 0o711))
    }),
    op("rmdir", 3, |w, r| one_path(w, r, Kind::Directory, sys::rmdir)),
    op("mknod", 3, |w, r| one_path(w, r, Kind::File, |path| sys::mknod(path, S_IFREG | 0o620, 0))),
    op("mknod (fifo)", 1, |w, r| one_path(w, r, Kind::Fifo, |path| sys::mknod(path, S_IFIFO | 0o600, 0))),
    op("mknodat", 2, |w, r| {
        let At { directory, path } = w.shared.world.at(r, Kind::File);
        zero(sys::mknodat(directory, &path, S_IFREG | 0o604, 0))
    }),
    op("__xmknod", 2, |w, r| {
        one_path(w, r, Kind::File, |path| sys::__xmknod(VERSION, path, S_IFREG | 0o606, &0))
    }),
    op("__xmknodat", 2, |w, r| {
        let At { directory, path } = w.shared.world.at(r, Kind::File);
        zero(sys::__xmknodat(VERSION, directory, &path, S_IFREG | 0o660, &0))
    }),
    op("mkfifo", 1, |w, r| one_path(w, r, Kind::Fifo, |path| sys::mkfifo(path, 0o600))),
    op("mkfifoat", 1, |w, r| {
        let At { directory, path } = w.shared.world.at(r, Kind::Fifo);
        zero(sys::mkfifoat(directory, &path, 0o600))
    }),
    op("mkstemp", 2, |w, r| make_file(w, r, "", sys::mkstemp)),
    op("mkstemp64", 2, |w, r| make_file(w, r, "", sys::mkstemp64)),
    op("mkostemp", 2, |w, r| make_file(w, r, "", |path| sys::mkostemp(path, O_CLOEXEC))),
    op("mkostemp64", 2, |w, r| make_file(w, r, "", |path| sys::mkostemp64(path, O_CLOEXEC))),
    op("mkstemps", 2, |w, r| make_file(w, r, ".x", |path| sys::mkstemps(path, 2))),
    op("mkstemps64", 2, |w, r| make_file(w, r, ".x", |path| sys::mkstemps64(path, 2))),
    op("mkostemps", 2, |w, r| make_file(w, r, ".x", |path| sys::mkostemps(path, 2, O_CLOEXEC))),
    op("mkostemps64", 2, |w, r| make_file(w, r, ".x", |path| sys::mkostemps64(path, 2, O_CLOEXEC))),
    op("mkdtemp", 2, make_directory),
];

fn link(w: &mut Worker<'_>, rng: &mut Rng) -> CString {
    w.shared.world.path(rng, Kind::Symlink)
}

fn one_path(w: &mut Worker<'_>, rng: &mut Rng, kind: Kind, call: fn(&CStr) -> c_int) -> Outcome {
    let path = w.shared.world.path(rng, kind);
    zero(call(&path))
}

fn two_paths(
    w: &mut Worker<'_>,
    rng: &mut Rng,
    from: Kind,
    to: Kind,
    call: fn(&CStr, &CStr) -> c_int,
) -> Outcome {
    let (from, to) = (w.shared.world.path(rng, from), w.shared.world.path(rng, to));
    zero(call(&from, &to))
}

fn rename_path(w: &mut Worker<'_>, rng: &mut Rng, from: Kind, to: Kind) -> Outcome {
    two_paths(w, rng, from, to, sys::rename)
}

fn rename_at(w: &mut Worker<'_>, rng: &mut Rng, kind: Kind, call: fn(&At, &At) -> c_int) -> Outcome {
    let (from, to) = (w.shared.world.at(rng, kind), w.shared.world.at(rng, kind));
    zero(call(&from, &to))
}

fn rename2(from: &At, to: &At, flags: c_uint) -> c_int {
    sys::renameat2(from.directory, &from.path, to.directory, &to.path, flags)
}

/// Three names are handed on in a ring, by way of a fourth.
fn ring(w: &mut Worker<'_>, rng: &mut Rng, kind: Kind) -> Outcome {
    let [a, b, c] = [(); 3].map(|()| {
        let path = w.shared.world.path(rng, kind);
        if kind == Kind::Directory {
            sys::mkdir(&path, 0o755);
        } else {
            sys::mknod(&path, S_IFREG | 0o644, 0);
        }
        path
    });
    let spare = CString::new(format!("outside/ring{}", w.id)).expect("no NUL in it");
    zero(sys::rename(&a, &spare))?;
    let first = sys::rename(&b, &a);
    let second = sys::rename(&c, &b);
    // Back to somewhere it must go, or the next ring finds its spare name taken.
    if sys::rename(&spare, &c) != 0 && sys::rename(&spare, &a) != 0 {
        let to = w.shared.world.path(rng, kind);
        sys::rename(&spare, &to);
    }
    zero(first.min(second))
}

/// `mv a/b b; mv a b/a`: what was below is now above.
fn up_and_back(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let above = w.shared.world.path(rng, Kind::Directory);
    let mut below = above.as_bytes().to_vec();
    below.extend_from_slice(b"/d1");
    let mut beside = above.as_bytes().to_vec();
    beside.extend_from_slice(b"x");
    let (below, beside) = (CString::new(below).expect("no NUL"), CString::new(beside).expect("no NUL"));
    zero(sys::rename(&below, &beside))?;
    let mut inside = beside.as_bytes().to_vec();
    inside.extend_from_slice(b"/d2");
    let moved = sys::rename(&above, &CString::new(inside).expect("no NUL"));
    let back = sys::rename(&beside, &above);
    zero(moved.min(back))
}

fn unlinked_and_written(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let path = w.shared.world.path(rng, Kind::File);
    let held = Held { fd: check(sys::open64(&path, O_RDWR | O_CLOEXEC, 0))?, direct: false, shared: false };
    let unlinked = sys::unlink(&path);
    let at = w.extent(rng, held);
    sys::pwrite64(held.fd, w.fill(at.length), at.length, at.offset);
    w.hold(rng, held);
    zero(unlinked)
}

/// Made, unlinked, made again: the same inode number for another file, perhaps under another name.
fn inode_again(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let first = w.shared.world.path(rng, Kind::File);
    let second = if rng.one_in(2) { first.clone() } else { w.shared.world.path(rng, Kind::File) };
    for path in [&first, &second] {
        let fd = check(sys::open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o644))?;
        let length = 1 + rng.below(9000) as usize;
        sys::write(fd, w.fill(length), length);
        sys::close(fd);
        if path == &first {
            zero(sys::unlink(path))?;
        }
    }
    Ok(())
}

/// Everything below a directory, and itself. Renamed directories would otherwise pile up below each other for ever.
fn remove_tree(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let kind = if rng.one_in(3) { Kind::File } else { Kind::Directory };
    let path = w.shared.world.path(rng, kind);
    empty(Path::new(OsStr::from_bytes(path.as_bytes())), 0);
    zero(sys::rmdir(&path))
}

fn empty(directory: &Path, depth: usize) {
    // Links are not followed below the first; what is deeper than this is left for another time.
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = c_string(&path);
        if sys::unlink(&name) != 0 && depth < 60 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            empty(&path, depth + 1);
            sys::rmdir(&name);
        }
    }
}

fn text(template: Vec<u8>) -> CString {
    CString::from_vec_with_nul(template).expect("a template ends with its NUL")
}

fn make_file(w: &mut Worker<'_>, rng: &mut Rng, suffix: &str, call: fn(&mut [u8]) -> c_int) -> Outcome {
    let mut template = w.shared.world.template(rng, suffix);
    let fd = check(call(&mut template))?;
    let held = Held { fd, direct: false, shared: false };
    let at = w.extent(rng, held);
    sys::write(fd, w.fill(at.length), at.length);
    let made = text(template);
    let to = w.shared.world.path(rng, Kind::File);
    // Its name is libc's choice and would stay for ever.
    if rng.one_in(2) || sys::rename(&made, &to) != 0 {
        sys::unlink(&made);
    }
    w.hold(rng, held);
    Ok(())
}

fn make_directory(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let mut template = w.shared.world.template(rng, "");
    if sys::mkdtemp(&mut template).is_null() {
        return Err(sys::errno());
    }
    let made = text(template);
    let to = w.shared.world.path(rng, Kind::Directory);
    if rng.one_in(2) || sys::rename(&made, &to) != 0 {
        sys::rmdir(&made);
    }
    Ok(())
}
