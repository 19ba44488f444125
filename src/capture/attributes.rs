//! Mode, owner, times, extended attributes.

use std::ffi::{CStr, c_char, c_int};

use super::changes::{MOVES, NAMES};
use super::hook::{self, Stat, keep_errno};
use super::place::Place;
use crate::tracker::{Key, Marks, Pass, tracker};

/// What an entry is made for: a file or a directory.
fn has_entry(stat: &Stat) -> bool {
    stat.is(libc::S_IFREG) || stat.is(libc::S_IFDIR)
}

/// A call by descriptor: fchmod(2) and the like.
pub fn by_fd(call: &'static CStr, fd: c_int, marks: Marks, real: impl FnOnce() -> c_int) -> c_int {
    if !hook::is_on() {
        return real();
    }
    let entered = keep_errno(|| {
        let stat = hook::stat(fd).filter(|stat| stat.is_watched() && has_entry(stat))?;
        Some((stat.key, tracker().enter(call)?))
    });
    let Some((key, pass)) = entered else { return real() };
    let result = real();
    keep_errno(|| {
        if hook::may_have_changed(result.into()) {
            tracker().mark(&pass, key, marks);
        }
    });
    result
}

/// A call by path that changes one inode, which `mark` then marks. Where it cannot be told which one it was,
/// everything is marked (P9). `follow`: a symbolic link stands for what it leads to.
///
/// # Safety
/// `path` is null or a NUL-terminated string.
pub unsafe fn by_path(
    call: &'static CStr,
    directory: c_int,
    path: *const c_char,
    follow: bool,
    real: impl FnOnce() -> c_int,
    mark: impl Fn(&Pass<'_>, Key),
) -> c_int {
    if !hook::is_on() {
        return real();
    }
    let entered = keep_errno(|| {
        let (moves, all_names) = (MOVES.stamp(), NAMES.stamp());
        // SAFETY: by the caller's promise.
        let place = unsafe { Place::of(directory, path) }?;
        let named = place.lstat();
        let is_link = named.is_some_and(|stat| stat.is(libc::S_IFLNK));
        let before = if is_link && follow { place.stat() } else { named };
        if before.map_or(!place.is_watched(), |stat| !stat.is_watched()) {
            return None;
        }
        Some((tracker().enter(call)?, place, before, is_link, moves, all_names))
    });
    let Some((pass, place, before, is_link, moves, all_names)) = entered else { return real() };
    let result = real();
    keep_errno(|| {
        if !hook::may_have_changed(result.into()) {
            return;
        }
        let after = if follow { place.stat() } else { place.lstat() };
        let certain = if is_link {
            MOVES.quiet_since(moves, 0) && NAMES.quiet_since(all_names, 0)
        } else {
            place.path_is_quiet(0) && place.is_quiet()
        };
        match (before, after) {
            (Some(before), Some(after)) if before.key == after.key && certain => {
                if has_entry(&before) {
                    mark(&pass, before.key);
                } else {
                    // A link's own attributes are read with the names of its directory.
                    place.mark(&pass, 0);
                }
            }
            _ => tracker().mark_everything(&pass),
        }
    });
    result
}

/// chmod(2) and the like; `flags` as of fchmodat(2) and its kin, AT_EMPTY_PATH included.
///
/// # Safety
/// As for the real call.
pub unsafe fn at(
    call: &'static CStr,
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    marks: Marks,
    real: impl FnOnce() -> c_int,
) -> c_int {
    let cwd = directory == libc::AT_FDCWD && flags & libc::AT_EMPTY_PATH != 0;
    // utimensat(2) takes a null path for the descriptor itself.
    // SAFETY: by the caller's promise `path` is a string when it is not null.
    let empty = path.is_null() || unsafe { path.read() } == 0;
    if empty && directory != libc::AT_FDCWD {
        return by_fd(call, directory, marks, real);
    }
    let path = if empty && cwd { c".".as_ptr() } else { path };
    // SAFETY: by the caller's promise.
    unsafe {
        by_path(call, directory, path, flags & libc::AT_SYMLINK_NOFOLLOW == 0, real, |pass, key| {
            tracker().mark(pass, key, marks);
        })
    }
}
