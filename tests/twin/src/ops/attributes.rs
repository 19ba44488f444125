//! Modes, owners, times, extended attributes.

use std::ffi::{CStr, c_int, c_uint};

use libc::{AT_SYMLINK_NOFOLLOW, timespec, timeval, utimbuf};

use super::{Needs, Operation, op, op_where, zero};
use crate::rng::Rng;
use crate::sys::{self, Outcome};
use crate::worker::Worker;
use crate::world::{At, Kind};

const XATTR: Needs = Needs::Attributes;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("chmod", 3, |w, r| {
        let (path, mode) = (any(w, r), mode(r));
        zero(sys::chmod(&path, mode))
    }),
    op("lchmod", 2, |w, r| {
        let (path, mode) = (any(w, r), mode(r));
        zero(sys::lchmod(&path, mode))
    }),
    op("fchmod", 3, |w, r| zero(sys::fchmod(w.file(r)?.fd, mode(r)))),
    op("fchmodat", 3, |w, r| {
        let (At { directory, path }, mode) = (place(w, r), mode(r));
        zero(sys::fchmodat(directory, &path, mode, 0))
    }),
    op("chown", 3, |w, r| {
        let (path, (user, group)) = (any(w, r), owner(r));
        zero(sys::chown(&path, user, group))
    }),
    op("lchown", 3, |w, r| {
        let (path, (user, group)) = (any(w, r), owner(r));
        zero(sys::lchown(&path, user, group))
    }),
    op("lchown (link)", 2, |w, r| {
        let (path, (user, group)) = (w.shared.world.path(r, Kind::Symlink), owner(r));
        zero(sys::lchown(&path, user, group))
    }),
    op("fchown", 3, |w, r| {
        let (fd, (user, group)) = (w.file(r)?.fd, owner(r));
        zero(sys::fchown(fd, user, group))
    }),
    op("fchownat", 3, |w, r| {
        let (At { directory, path }, (user, group)) = (place(w, r), owner(r));
        zero(sys::fchownat(directory, &path, user, group, nofollow(r)))
    }),
    op_where(XATTR, "setxattr", 2, |w, r| {
        set(w, r, |w, r, name, value| sys::setxattr(&any(w, r), name, value.as_ptr().cast(), value.len(), 0))
    }),
    op_where(XATTR, "lsetxattr", 2, |w, r| {
        set(w, r, |w, r, name, value| sys::lsetxattr(&any(w, r), name, value.as_ptr().cast(), value.len(), 0))
    }),
    op_where(XATTR, "fsetxattr", 3, |w, r| {
        set(w, r, |w, r, name, value| {
            w.file(r).map_or(-1, |held| sys::fsetxattr(held.fd, name, value.as_ptr().cast(), value.len(), 0))
        })
    }),
    op_where(XATTR, "removexattr", 2, |w, r| zero(sys::removexattr(&any(w, r), name(r)))),
    op_where(XATTR, "lremovexattr", 2, |w, r| zero(sys::lremovexattr(&any(w, r), name(r)))),
    op_where(XATTR, "fremovexattr", 3, |w, r| zero(sys::fremovexattr(w.file(r)?.fd, name(r)))),
    op("utime", 2, |w, r| {
        let [modified, accessed] = [(); 2].map(|()| seconds(r));
        zero(sys::utime(&any(w, r), &utimbuf { actime: accessed, modtime: modified }))
    }),
    op("utimes", 2, |w, r| zero(sys::utimes(&any(w, r), &micros(r)))),
    op("lutimes", 2, |w, r| zero(sys::lutimes(&any(w, r), &micros(r)))),
    op("lutimes (link)", 2, |w, r| zero(sys::lutimes(&w.shared.world.path(r, Kind::Symlink), &micros(r)))),
    op("futimes", 2, |w, r| zero(sys::futimes(w.file(r)?.fd, &micros(r)))),
    op("futimesat", 2, |w, r| {
        let At { directory, path } = place(w, r);
        zero(sys::futimesat(directory, &path, &micros(r)))
    }),
    op("utimensat", 2, |w, r| {
        let At { directory, path } = place(w, r);
        zero(sys::utimensat(directory, &path, &nanos(r), nofollow(r)))
    }),
    op("futimens", 3, |w, r| zero(sys::futimens(w.file(r)?.fd, &nanos(r)))),
];

/// A file or, less often, a directory.
fn any(w: &mut Worker<'_>, rng: &mut Rng) -> std::ffi::CString {
    let kind = if rng.one_in(3) { Kind::Directory } else { Kind::File };
    w.shared.world.path(rng, kind)
}

fn place(w: &mut Worker<'_>, rng: &mut Rng) -> At {
    let kind = if rng.one_in(3) { Kind::Directory } else { Kind::File };
    w.shared.world.at(rng, kind)
}

fn nofollow(rng: &mut Rng) -> c_int {
    if rng.one_in(2) { AT_SYMLINK_NOFOLLOW } else { 0 }
}

fn mode(rng: &mut Rng) -> c_uint {
    0o500 | rng.below(0o10000) as c_uint
}

/// Anyone for root; nobody else for others, who are not allowed to give files away.
pub(super) fn owner(rng: &mut Rng) -> (c_uint, c_uint) {
    // SAFETY: no arguments.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    if user == 0 { (rng.below(3) as c_uint, rng.below(3) as c_uint) } else { (user, group) }
}

fn name(rng: &mut Rng) -> &'static CStr {
    rng.pick::<&CStr>(&[c"user.twin.a", c"user.twin.b"])
}

fn set(
    w: &mut Worker<'_>,
    rng: &mut Rng,
    call: fn(&mut Worker<'_>, &mut Rng, &CStr, &[u8]) -> c_int,
) -> Outcome {
    let value = w.next_stamp().to_le_bytes();
    let length = rng.below(8) as usize;
    let name = name(rng);
    zero(call(w, rng, name, &value[..length]))
}

fn seconds(rng: &mut Rng) -> i64 {
    1_000_000_000 + rng.below(900_000_000) as i64
}

fn micros(rng: &mut Rng) -> [timeval; 2] {
    [(); 2].map(|()| timeval { tv_sec: seconds(rng), tv_usec: rng.below(1_000_000) as i64 })
}

fn nanos(rng: &mut Rng) -> [timespec; 2] {
    [(); 2].map(|()| timespec { tv_sec: seconds(rng), tv_nsec: rng.below(1_000_000_000) as i64 })
}
