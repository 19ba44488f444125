//! Opening and creating.

use std::ffi::{CStr, c_int, c_uint};

use libc::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECT, O_EXCL, O_NOFOLLOW,
    O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
};

use super::{Needs, Operation, op, op_where, zero};
use crate::rng::Rng;
use crate::sys::{self, Outcome, check};
use crate::worker::{Held, Worker};
use crate::world::{At, Kind};

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("open", 8, |w, r| by_path(w, r, sys::open)),
    op("open64", 8, |w, r| by_path(w, r, sys::open64)),
    op("__open", 3, |w, r| by_path(w, r, sys::__open)),
    op("__open64", 3, |w, r| by_path(w, r, sys::__open64)),
    op_where(Needs::Handles, "open_by_handle_at (O_TRUNC)", 3, |w, r| {
        let mount = w.shared.world.root();
        let handle = sys::handle(&w.shared.world.path(r, Kind::File))?;
        keep(w, r, 0, sys::open_by_handle_at(mount, &handle, O_RDWR | O_TRUNC | O_CLOEXEC))
    }),
    op("openat", 8, |w, r| by_place(w, r, sys::openat)),
    op("openat64", 8, |w, r| by_place(w, r, sys::openat64)),
    op("creat", 4, |w, r| by_path(w, r, |path, _, mode| sys::creat(path, mode))),
    op("creat64", 4, |w, r| by_path(w, r, |path, _, mode| sys::creat64(path, mode))),
    op("__open_2", 3, |w, r| by_path(w, r, |path, flags, _| sys::__open_2(path, existing(flags)))),
    op("__open64_2", 3, |w, r| by_path(w, r, |path, flags, _| sys::__open64_2(path, existing(flags)))),
    op("__openat_2", 3, |w, r| {
        by_place(w, r, |directory, path, flags, _| sys::__openat_2(directory, path, existing(flags)))
    }),
    op("__openat64_2", 3, |w, r| {
        by_place(w, r, |directory, path, flags, _| sys::__openat64_2(directory, path, existing(flags)))
    }),
    op("open (O_TRUNC)", 4, |w, r| {
        by_path(w, r, |path, _, _| sys::open(path, O_RDWR | O_TRUNC | O_CLOEXEC, 0))
    }),
    op_where(Needs::Temporary, "open (O_TMPFILE)", 4, |w, r| temporary(w, r, false)),
    op_where(Needs::Temporary, "linkat (O_TMPFILE)", 6, |w, r| temporary(w, r, true)),
    op("close", 6, |w, r| w.take(r).map_or(Err(0), |held| zero(w.close(held)))),
    op("dup", 3, |w, r| {
        let held = w.file(r)?;
        // SAFETY: a descriptor number.
        let fd = check(unsafe { libc::fcntl(held.fd, libc::F_DUPFD_CLOEXEC, 0) })?;
        w.hold(r, Held { fd, ..held });
        Ok(())
    }),
    op("fcntl (O_APPEND)", 2, |w, r| {
        // Where a write goes that runs while this changes, nobody can tell: only a file of this thread, at rest.
        let held = w.private(r)?;
        w.settle();
        // SAFETY: a descriptor number and flags.
        let flags = check(unsafe { libc::fcntl(held.fd, libc::F_GETFL) })?;
        // SAFETY: a descriptor number and flags.
        zero(unsafe { libc::fcntl(held.fd, libc::F_SETFL, flags ^ O_APPEND) })
    }),
];

fn flags(rng: &mut Rng) -> c_int {
    let mut flags = O_CLOEXEC | if rng.one_in(10) { O_WRONLY } else { O_RDWR };
    for (one_in, flag) in [(2, O_CREAT), (6, O_TRUNC), (5, O_APPEND), (5, O_DIRECT), (20, O_NOFOLLOW)] {
        if rng.one_in(one_in) {
            flags |= flag;
        }
    }
    if flags & O_CREAT != 0 && rng.one_in(8) {
        flags |= O_EXCL;
    }
    flags
}

/// What the fortified functions take: no third argument.
fn existing(flags: c_int) -> c_int {
    flags & !(O_CREAT | O_EXCL)
}

fn mode(rng: &mut Rng) -> c_uint {
    *rng.pick(&[0o600, 0o640, 0o644, 0o666, 0o777, 0o400])
}

fn keep(w: &mut Worker<'_>, rng: &mut Rng, flags: c_int, fd: c_int) -> Outcome {
    let fd = check(fd)?;
    w.hold(rng, Held { fd, direct: flags & O_DIRECT != 0, shared: false });
    Ok(())
}

fn by_path(w: &mut Worker<'_>, rng: &mut Rng, call: fn(&CStr, c_int, c_uint) -> c_int) -> Outcome {
    let path = w.shared.world.path(rng, Kind::File);
    let flags = flags(rng);
    let fd = call(&path, flags, mode(rng));
    keep(w, rng, flags, fd)
}

fn by_place(w: &mut Worker<'_>, rng: &mut Rng, call: fn(c_int, &CStr, c_int, c_uint) -> c_int) -> Outcome {
    let At { directory, path } = w.shared.world.at(rng, Kind::File);
    let flags = flags(rng);
    let fd = call(directory, &path, flags, mode(rng));
    keep(w, rng, flags, fd)
}

/// A file without a name, written, and given one perhaps.
fn temporary(w: &mut Worker<'_>, rng: &mut Rng, name: bool) -> Outcome {
    let directory = w.shared.world.path(rng, Kind::Directory);
    let fd = check(sys::open(&directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0o640))?;
    let held = Held { fd, direct: false, shared: false };
    let at = w.extent(rng, held);
    sys::pwrite64(fd, w.fill(at.length), at.length, at.offset);
    let mut outcome = Ok(());
    if name {
        let to = w.shared.world.at(rng, Kind::File);
        if rng.one_in(2) {
            sys::unlinkat(to.directory, &to.path, 0);
        }
        outcome = zero(if rng.one_in(2) {
            sys::linkat(fd, c"", to.directory, &to.path, AT_EMPTY_PATH)
        } else {
            let from = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).expect("no NUL in it");
            sys::linkat(AT_FDCWD, &from, to.directory, &to.path, AT_SYMLINK_FOLLOW)
        });
    }
    w.hold(rng, held);
    outcome
}
