//! Names: what is created, renamed, linked and removed marks directories (P9); what is created or emptied marks
//! its inode as a whole, because inode numbers come back (P6).

use std::ffi::{CStr, c_char, c_int};

use super::changes::{Change, MOVES, SHRINKS};
use super::hook::{self, Stat, keep_errno};
use super::place::Place;
use crate::tracker::{Marks, Pass, tracker};

/// A call that may create or empty a file, between its beginning and its end.
#[derive(Debug)]
pub struct Opening {
    pass: Pass<'static>,
    place: Place,
    /// What the path led to before.
    before: Option<Stat>,
    /// The path's last name was a symbolic link: a new file is made where it leads, not beside it.
    through_link: bool,
    flags: c_int,
    _shrink: Option<Change<'static>>,
}

impl Opening {
    /// Enters the gate for an open of `path` with `flags` that create or truncate. `None`: none of ours; in
    /// particular what is no regular file is opened outside the gate, because a FIFO waits for its other end.
    ///
    /// # Safety
    /// `path` is null or a NUL-terminated string that outlives the opening.
    pub unsafe fn begin(
        call: &'static CStr,
        directory: c_int,
        path: *const c_char,
        flags: c_int,
    ) -> Option<Opening> {
        // SAFETY: by the caller's promise.
        let place = unsafe { Place::of(directory, path) }?;
        let named = place.lstat();
        let through_link = named.is_some_and(|stat| stat.is(libc::S_IFLNK));
        let before = if through_link { place.stat() } else { named };
        match before {
            Some(stat) if !stat.is(libc::S_IFREG) || !stat.is_watched() => return None,
            None if !through_link && !place.is_watched() => return None,
            _ => {}
        }
        let shrink = (flags & libc::O_TRUNC != 0).then(|| SHRINKS.begin());
        Some(Opening { pass: tracker().enter(call)?, place, before, through_link, flags, _shrink: shrink })
    }

    /// The file is open as `file`.
    pub fn succeeded(self, file: Option<Stat>) {
        let Some(file) = file.filter(|file| file.is(libc::S_IFREG) && file.is_watched()) else { return };
        let existed = self.before.is_some_and(|before| before.key == file.key) && self.place.is_quiet();
        if !existed || file.size == 0 || self.flags & libc::O_TRUNC != 0 {
            tracker().mark_born(&self.pass, file.key);
        }
        // An empty file that was there may have been made by a call that nobody saw.
        if !existed || self.before.is_some_and(|before| before.size == 0) {
            self.mark_names();
        }
    }

    /// The call failed; it may have created or emptied the file all the same (O_DIRECT where it is not supported).
    pub fn failed(self) {
        let Some(now) = self.place.stat().filter(|now| now.is(libc::S_IFREG) && now.is_watched()) else {
            return;
        };
        let created = self.before.is_none_or(|before| before.key != now.key);
        if created || now.size == 0 && self.flags & libc::O_TRUNC != 0 {
            tracker().mark_born(&self.pass, now.key);
        }
        if created {
            self.mark_names();
        }
    }

    fn mark_names(&self) {
        self.place.mark(&self.pass, 0);
        if self.through_link {
            tracker().mark_all_names(&self.pass);
        }
    }
}

/// The open family.
///
/// # Safety
/// As for the real call.
pub unsafe fn open(
    call: &'static CStr,
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    real: impl FnOnce() -> c_int,
) -> c_int {
    if !hook::is_on() {
        return real();
    }
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        return open_nameless(call, real);
    }
    if flags & (libc::O_CREAT | libc::O_TRUNC) == 0 {
        return real();
    }
    // SAFETY: by the caller's promise.
    let Some(opening) = keep_errno(|| unsafe { Opening::begin(call, directory, path, flags) }) else {
        return real();
    };
    let fd = real();
    keep_errno(|| if fd >= 0 { opening.succeeded(hook::stat(fd)) } else { opening.failed() });
    fd
}

/// A file without a name: its inode may be one that had another life before.
pub fn open_nameless(call: &'static CStr, real: impl FnOnce() -> c_int) -> c_int {
    made_without_name(call, real, |&fd| fd)
}

/// As [`open_nameless`], for calls that return something else; `fd` tells the descriptor, -1: none.
pub fn made_without_name<R>(call: &'static CStr, real: impl FnOnce() -> R, fd: impl Fn(&R) -> c_int) -> R {
    let Some(pass) = keep_errno(|| tracker().enter(call)) else { return real() };
    let result = real();
    keep_errno(|| {
        if let Some(file) = hook::regular(fd(&result)) {
            tracker().mark_born(&pass, file.key);
        }
    });
    result
}

/// An open of something that is named by a handle: it can only truncate.
pub fn open_by_handle(call: &'static CStr, flags: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if flags & libc::O_TRUNC == 0 {
        return real();
    }
    let shrink = SHRINKS.begin();
    let fd = open_nameless(call, real);
    drop(shrink);
    fd
}

/// A change of one name. After a success `change` gets the place, the pass and what `real` returned.
///
/// # Safety
/// `path` is null or a NUL-terminated string.
unsafe fn one_name(
    call: &'static CStr,
    directory: c_int,
    path: *const c_char,
    real: impl FnOnce() -> c_int,
    change: impl FnOnce(&Place, &Pass<'_>, c_int),
) -> c_int {
    if !hook::is_on() {
        return real();
    }
    // SAFETY: by the caller's promise.
    match keep_errno(|| unsafe { Place::of(directory, path) }) {
        Some(place) => at_place(call, &place, real, change),
        None => real(),
    }
}

/// As [`one_name`], with the place looked up.
fn at_place(
    call: &'static CStr,
    place: &Place,
    real: impl FnOnce() -> c_int,
    change: impl FnOnce(&Place, &Pass<'_>, c_int),
) -> c_int {
    if !place.is_watched() {
        return real();
    }
    let Some(pass) = keep_errno(|| tracker().enter(call)) else { return real() };
    let result = real();
    keep_errno(|| {
        if hook::may_have_changed(result.into()) {
            change(place, &pass, result);
        }
    });
    result
}

/// unlink(2), rmdir(2), remove(3).
///
/// # Safety
/// As for the real call.
pub unsafe fn unlink(
    call: &'static CStr,
    directory: c_int,
    path: *const c_char,
    real: impl FnOnce() -> c_int,
) -> c_int {
    if !hook::is_on() {
        return real();
    }
    // SAFETY: by the caller's promise.
    let Some(place) = keep_errno(|| unsafe { Place::of(directory, path) }) else { return real() };
    let changes = place.begin();
    let result = at_place(call, &place, real, |place, pass, _| place.mark(pass, 0));
    drop(changes);
    result
}

/// mkdir(2), mknod(2), mkfifo(3): what is made is a new inode.
///
/// # Safety
/// As for the real call.
pub unsafe fn make(
    call: &'static CStr,
    directory: c_int,
    path: *const c_char,
    real: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { one_name(call, directory, path, real, made) }
}

/// Marks the inode that now has the place's name, and the name.
fn made(place: &Place, pass: &Pass<'_>, _result: c_int) {
    match place.lstat() {
        Some(now) if place.is_quiet() && place.certain(0).is_some() => tracker().mark_born(pass, now.key),
        // It has been moved or removed already.
        _ => tracker().mark_everything(pass),
    }
    place.mark(pass, 0);
}

/// mkdtemp(3): the template becomes the name.
///
/// # Safety
/// As for the real call.
pub unsafe fn make_temporary_directory(
    call: &'static CStr,
    template: *mut c_char,
    real: impl FnOnce() -> *mut c_char,
) -> *mut c_char {
    let mut made = std::ptr::null_mut();
    // SAFETY: by the caller's promise.
    unsafe {
        make(call, libc::AT_FDCWD, template, || {
            made = real();
            if made.is_null() { -1 } else { 0 }
        })
    };
    made
}

/// mkstemp(3) and its kin.
///
/// # Safety
/// As for the real call.
pub unsafe fn make_temporary_file(
    call: &'static CStr,
    template: *mut c_char,
    real: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe {
        one_name(call, libc::AT_FDCWD, template, real, |place, pass, fd| {
            place.mark(pass, 0);
            if let Some(file) = hook::regular(fd) {
                tracker().mark_born(pass, file.key);
            }
        })
    }
}

/// symlink(2). A path may lead elsewhere from now on.
///
/// # Safety
/// As for the real call.
pub unsafe fn symlink(
    call: &'static CStr,
    directory: c_int,
    path: *const c_char,
    real: impl FnOnce() -> c_int,
) -> c_int {
    if !hook::is_on() {
        return real();
    }
    // SAFETY: by the caller's promise.
    let Some(place) = keep_errno(|| unsafe { Place::of(directory, path) }) else { return real() };
    let moves = (MOVES.begin(), place.begin_move());
    let result = at_place(call, &place, real, |place, pass, _| place.mark(pass, 1));
    drop(moves);
    result
}

/// link(2). A file without a name that gets one is as good as created (P6).
///
/// # Safety
/// As for the real call.
pub unsafe fn link(
    call: &'static CStr,
    from: (c_int, *const c_char),
    to: (c_int, *const c_char),
    flags: c_int,
    real: impl FnOnce() -> c_int,
) -> c_int {
    if !hook::is_on() || from.1.is_null() {
        return real();
    }
    let linked: Option<Stat> = keep_errno(|| {
        let follow = if flags & libc::AT_SYMLINK_FOLLOW != 0 { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        // SAFETY: by the caller's promise it is a NUL-terminated string.
        let path = unsafe { CStr::from_ptr(from.1) };
        if path.is_empty() { hook::stat(from.0) } else { hook::stat_at(from.0, path, follow) }
    });
    // SAFETY: by the caller's promise.
    let Some(place) = keep_errno(|| unsafe { Place::of(to.0, to.1) }) else { return real() };
    let is_link = linked.is_some_and(|stat| stat.is(libc::S_IFLNK));
    let moves = is_link.then(|| (MOVES.begin(), place.begin_move()));
    let result = at_place(call, &place, real, |place, pass, _| {
        if let Some(file) = linked.filter(|file| file.links == 0) {
            tracker().mark_born(pass, file.key);
        }
        place.mark(pass, is_link.into());
    });
    drop(moves);
    result
}

/// The rename family.
///
/// # Safety
/// As for the real call.
pub unsafe fn rename(
    call: &'static CStr,
    from: (c_int, *const c_char),
    to: (c_int, *const c_char),
    flags: u32,
    real: impl FnOnce() -> c_int,
) -> c_int {
    if !hook::is_on() {
        return real();
    }
    let entered = keep_errno(|| {
        // SAFETY: by the caller's promise.
        let (from, to) = unsafe { (Place::of(from.0, from.1)?, Place::of(to.0, to.1)?) };
        if !from.is_watched() && !to.is_watched() {
            return None;
        }
        Some((tracker().enter(call)?, from, to))
    });
    let Some((pass, from, to)) = entered else { return real() };
    let changes = [from.begin(), to.begin()];
    // What is no file, a directory or a link, may be part of others' paths.
    let moves_paths = keep_errno(|| {
        let is_file = |place: &Place| place.lstat().is_some_and(|stat| stat.is(libc::S_IFREG));
        !is_file(&from) || flags & libc::RENAME_EXCHANGE != 0 && !is_file(&to)
    });
    let moves = moves_paths.then(|| (MOVES.begin(), from.begin_move(), to.begin_move()));
    let result = real();
    keep_errno(|| {
        if hook::may_have_changed(result.into()) {
            from.mark(&pass, moves_paths.into());
            to.mark(&pass, moves_paths.into());
            // An exchange of directories moves their own mtime on xfs.
            for moved in [&from, &to].iter().filter(|_| moves_paths).filter_map(|place| place.lstat()) {
                tracker().mark(&pass, moved.key, Marks::ATTRIBUTES);
            }
        }
    });
    drop((moves, changes));
    result
}
