//! The rest of the calls by number through `syscall`, those of older programs included.

use std::ffi::CStr;

use libc::{O_CLOEXEC, O_CREAT, O_RDWR, O_TRUNC, S_IFREG, c_long, timespec, timeval};

use super::raw::{address, bytes, fd, nothing, opened};
use super::{Needs, Operation, op, op_where};
use crate::rng::Rng;
use crate::sys::{self, Outcome, syscall};
use crate::worker::{SMALL, Worker};
use crate::world::Kind;

const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;

const NAME: &CStr = c"user.twin.raw";

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("syscall (writev)", 2, |w, r| vectored(w, r, libc::SYS_writev)),
    op("syscall (pwritev)", 2, |w, r| vectored(w, r, libc::SYS_pwritev)),
    op("syscall (splice)", 2, |w, r| {
        let held = w.file(r)?;
        let filled = sys::written(sys::write(w.pipe[1], w.fill(4096), 4096))?;
        let done = bytes(syscall(libc::SYS_splice, [w.pipe[0] as usize, 0, fd(held), 0, filled, 0]));
        super::data::drain(w);
        done
    }),
    op("syscall (truncate)", 2, |w, r| {
        let path = w.shared.world.path(r, Kind::File);
        nothing(syscall(libc::SYS_truncate, [address(&path), r.below(SMALL) as usize, 0, 0, 0, 0]))
    }),
    op_where(Needs::Clones, "syscall (ioctl FICLONE)", 2, |w, r| {
        let (from, to) = (w.file(r)?, w.file(r)?);
        nothing(syscall(libc::SYS_ioctl, [fd(to), libc::FICLONE as usize, fd(from), 0, 0, 0]))
    }),
    op_where(Needs::Handles, "syscall (open_by_handle_at)", 2, |w, r| {
        let (mount, handle) = (w.shared.world.root(), sys::handle(&w.shared.world.path(r, Kind::File))?);
        let (handle, flags) = (std::ptr::from_ref(&handle).addr(), O_RDWR | O_TRUNC | O_CLOEXEC);
        opened(w, r, syscall(libc::SYS_open_by_handle_at, [mount as usize, handle, flags as usize, 0, 0, 0]))
    }),
    op("syscall (open)", 2, |w, r| {
        let (path, flags) = (w.shared.world.path(r, Kind::File), O_RDWR | O_CREAT | O_CLOEXEC);
        opened(w, r, syscall(libc::SYS_open, [address(&path), flags as usize, 0o644, 0, 0, 0]))
    }),
    op("syscall (creat)", 2, |w, r| {
        let path = w.shared.world.path(r, Kind::File);
        opened(w, r, syscall(libc::SYS_creat, [address(&path), 0o644, 0, 0, 0, 0]))
    }),
    op("syscall (rename)", 2, |w, r| {
        let (from, to) = (w.shared.world.path(r, Kind::File), w.shared.world.path(r, Kind::File));
        nothing(syscall(libc::SYS_rename, [address(&from), address(&to), 0, 0, 0, 0]))
    }),
    op("syscall (renameat)", 2, |w, r| {
        let (from, to) = (w.shared.world.at(r, Kind::File), w.shared.world.at(r, Kind::File));
        let (from_directory, to_directory) = (from.directory as usize, to.directory as usize);
        let arguments = [from_directory, address(&from.path), to_directory, address(&to.path), 0, 0];
        nothing(syscall(libc::SYS_renameat, arguments))
    }),
    op("syscall (link)", 2, |w, r| {
        let (from, to) = (w.shared.world.path(r, Kind::File), w.shared.world.path(r, Kind::File));
        nothing(syscall(libc::SYS_link, [address(&from), address(&to), 0, 0, 0, 0]))
    }),
    op("syscall (symlink)", 2, |w, r| {
        let (target, path) = (w.shared.world.target(r), w.shared.world.path(r, Kind::Symlink));
        nothing(syscall(libc::SYS_symlink, [address(&target), address(&path), 0, 0, 0, 0]))
    }),
    op("syscall (unlink)", 2, |w, r| {
        let path = w.shared.world.path(r, Kind::File);
        nothing(syscall(libc::SYS_unlink, [address(&path), 0, 0, 0, 0, 0]))
    }),
    op("syscall (mkdir)", 3, |w, r| {
        let path = w.shared.world.path(r, Kind::Directory);
        nothing(syscall(libc::SYS_mkdir, [address(&path), 0o755, 0, 0, 0, 0]))
    }),
    op("syscall (rmdir)", 2, |w, r| {
        let path = w.shared.world.path(r, Kind::Directory);
        nothing(syscall(libc::SYS_rmdir, [address(&path), 0, 0, 0, 0, 0]))
    }),
    op("syscall (mknod)", 2, |w, r| {
        let path = w.shared.world.path(r, Kind::File);
        nothing(syscall(libc::SYS_mknod, [address(&path), (S_IFREG | 0o640) as usize, 0, 0, 0, 0]))
    }),
    op("syscall (mknodat)", 2, |w, r| {
        let at = w.shared.world.at(r, Kind::File);
        let mode = (S_IFREG | 0o604) as usize;
        nothing(syscall(libc::SYS_mknodat, [at.directory as usize, address(&at.path), mode, 0, 0, 0]))
    }),
    op("syscall (chmod)", 2, |w, r| {
        let (path, mode) = (w.shared.world.path(r, Kind::File), mode(r));
        nothing(syscall(libc::SYS_chmod, [address(&path), mode, 0, 0, 0, 0]))
    }),
    op("syscall (fchmodat)", 2, |w, r| {
        let (at, mode) = (w.shared.world.at(r, Kind::File), mode(r));
        nothing(syscall(libc::SYS_fchmodat, [at.directory as usize, address(&at.path), mode, 0, 0, 0]))
    }),
    op_where(Needs::Call(FCHMODAT2), "syscall (fchmodat2)", 2, |w, r| {
        let (at, mode) = (w.shared.world.at(r, Kind::File), mode(r));
        nothing(syscall(FCHMODAT2, [at.directory as usize, address(&at.path), mode, 0, 0, 0]))
    }),
    op("syscall (chown)", 2, |w, r| owner(w, r, libc::SYS_chown)),
    op("syscall (lchown)", 2, |w, r| owner(w, r, libc::SYS_lchown)),
    op("syscall (fchownat)", 2, |w, r| {
        let (at, (user, group)) = (w.shared.world.at(r, Kind::File), super::attributes::owner(r));
        let (user, group) = (user as usize, group as usize);
        nothing(syscall(libc::SYS_fchownat, [at.directory as usize, address(&at.path), user, group, 0, 0]))
    }),
    op("syscall (utime)", 2, |w, r| {
        let (path, times) = (w.shared.world.path(r, Kind::File), [seconds(r), seconds(r)]);
        nothing(syscall(libc::SYS_utime, [address(&path), std::ptr::from_ref(&times).addr(), 0, 0, 0, 0]))
    }),
    op("syscall (utimes)", 2, |w, r| {
        let path = w.shared.world.path(r, Kind::File);
        let times = [timeval { tv_sec: seconds(r), tv_usec: 7 }; 2];
        nothing(syscall(libc::SYS_utimes, [address(&path), std::ptr::from_ref(&times).addr(), 0, 0, 0, 0]))
    }),
    op("syscall (futimesat)", 2, |w, r| {
        let at = w.shared.world.at(r, Kind::File);
        let times = [timeval { tv_sec: seconds(r), tv_usec: 8 }; 2];
        let times = std::ptr::from_ref(&times).addr();
        nothing(syscall(libc::SYS_futimesat, [at.directory as usize, address(&at.path), times, 0, 0, 0]))
    }),
    op("syscall (utimensat of a descriptor)", 2, |w, r| {
        let times = [timespec { tv_sec: seconds(r), tv_nsec: 9 }; 2];
        let times = std::ptr::from_ref(&times).addr();
        nothing(syscall(libc::SYS_utimensat, [fd(w.file(r)?), 0, times, 0, 0, 0]))
    }),
    op_where(Needs::Attributes, "syscall (setxattr)", 2, |w, r| set(w, r, libc::SYS_setxattr)),
    op_where(Needs::Attributes, "syscall (lsetxattr)", 2, |w, r| set(w, r, libc::SYS_lsetxattr)),
    op_where(Needs::Attributes, "syscall (removexattr)", 1, |w, r| {
        let path = w.shared.world.path(r, Kind::File);
        nothing(syscall(libc::SYS_removexattr, [address(&path), address(NAME), 0, 0, 0, 0]))
    }),
    op_where(Needs::Attributes, "syscall (lremovexattr)", 1, |w, r| {
        let path = w.shared.world.path(r, Kind::File);
        nothing(syscall(libc::SYS_lremovexattr, [address(&path), address(NAME), 0, 0, 0, 0]))
    }),
    op_where(Needs::Attributes, "syscall (fremovexattr)", 1, |w, r| {
        nothing(syscall(libc::SYS_fremovexattr, [fd(w.file(r)?), address(NAME), 0, 0, 0, 0]))
    }),
    op_where(Needs::Call(SETXATTRAT), "syscall (setxattrat)", 2, |w, r| {
        let (at, value) = (w.shared.world.at(r, Kind::File), w.next_stamp());
        // struct xattr_args: the value's address, its length and flags.
        let value = [std::ptr::from_ref(&value).addr() as u64, 8];
        let arguments = [at.directory as usize, address(&at.path), 0, address(NAME)];
        let [a, b, c, d] = arguments;
        nothing(syscall(SETXATTRAT, [a, b, c, d, std::ptr::from_ref(&value).addr(), 16]))
    }),
    op_where(Needs::Call(REMOVEXATTRAT), "syscall (removexattrat)", 1, |w, r| {
        let at = w.shared.world.at(r, Kind::File);
        nothing(syscall(REMOVEXATTRAT, [at.directory as usize, address(&at.path), 0, address(NAME), 0, 0]))
    }),
];

fn vectored(w: &mut Worker<'_>, rng: &mut Rng, number: c_long) -> Outcome {
    let held = w.file(rng)?;
    let at = w.extent(rng, held);
    let part = libc::iovec { iov_base: w.fill(at.length).cast_mut(), iov_len: at.length };
    bytes(syscall(number, [fd(held), std::ptr::from_ref(&part).addr(), 1, at.offset as usize, 0, 0]))
}

fn owner(w: &mut Worker<'_>, rng: &mut Rng, number: c_long) -> Outcome {
    let (path, (user, group)) = (w.shared.world.path(rng, Kind::File), super::attributes::owner(rng));
    nothing(syscall(number, [address(&path), user as usize, group as usize, 0, 0, 0]))
}

fn set(w: &mut Worker<'_>, rng: &mut Rng, number: c_long) -> Outcome {
    let (path, value) = (w.shared.world.path(rng, Kind::File), w.next_stamp());
    let value = std::ptr::from_ref(&value).addr();
    nothing(syscall(number, [address(&path), address(NAME), value, 8, 0, 0]))
}

fn mode(rng: &mut Rng) -> usize {
    *rng.pick(&[0o600, 0o640, 0o644, 0o755, 0o4711])
}

fn seconds(rng: &mut Rng) -> i64 {
    rng.below(2_000_000_000) as i64
}
