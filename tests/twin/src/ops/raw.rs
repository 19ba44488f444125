//! Calls by number through `syscall`.

use libc::{O_CLOEXEC, O_CREAT, O_RDWR, RENAME_EXCHANGE, c_long, timespec};

use super::{Needs, Operation, op, op_where, some};
use crate::rng::Rng;
use crate::sys::{self, Outcome, syscall};
use crate::worker::{Held, SMALL, Worker};
use crate::world::Kind;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("syscall (write)", 3, |w, r| {
        let held = w.file(r)?;
        let at = w.extent(r, held);
        let data = w.fill(at.length).addr();
        bytes(syscall(libc::SYS_write, [fd(held), data, at.length, 0, 0, 0]))
    }),
    op("syscall (pwrite64)", 4, |w, r| {
        let held = w.file(r)?;
        let at = w.extent(r, held);
        let data = w.fill(at.length).addr();
        bytes(syscall(libc::SYS_pwrite64, [fd(held), data, at.length, at.offset as usize, 0, 0]))
    }),
    op("syscall (pwritev2)", 3, |w, r| {
        let held = w.file(r)?;
        let at = w.extent(r, held);
        let part = libc::iovec { iov_base: w.fill(at.length).cast_mut(), iov_len: at.length };
        let part = std::ptr::from_ref(&part).addr();
        bytes(syscall(libc::SYS_pwritev2, [fd(held), part, 1, at.offset as usize, 0, 0]))
    }),
    op("syscall (sendfile)", 2, |w, r| {
        let (from, to) = (w.file(r)?, w.file(r)?);
        bytes(syscall(libc::SYS_sendfile, [fd(to), fd(from), 0, 5000, 0, 0]))
    }),
    op("syscall (copy_file_range)", 2, |w, r| {
        let (from, to) = (w.file(r)?, w.file(r)?);
        bytes(syscall(libc::SYS_copy_file_range, [fd(from), 0, fd(to), 0, 5000, 0]))
    }),
    op("syscall (ftruncate)", 2, |w, r| {
        let held = w.file(r)?;
        nothing(syscall(libc::SYS_ftruncate, [fd(held), r.below(SMALL) as usize, 0, 0, 0, 0]))
    }),
    op("syscall (fallocate)", 2, |w, r| {
        let held = w.file(r)?;
        let (mode, at) = (*r.pick(&[0, 1, 3]), r.below(SMALL) as usize);
        nothing(syscall(libc::SYS_fallocate, [fd(held), mode, at, 20_000, 0, 0]))
    }),
    op("syscall (openat)", 3, |w, r| {
        let at = w.shared.world.at(r, Kind::File);
        let flags = (O_RDWR | O_CREAT | O_CLOEXEC) as usize;
        opened(
            w,
            r,
            syscall(libc::SYS_openat, [at.directory as usize, address(&at.path), flags, 0o644, 0, 0]),
        )
    }),
    op("syscall (openat2)", 3, |w, r| {
        let at = w.shared.world.at(r, Kind::File);
        let how = [(O_RDWR | O_CREAT | O_CLOEXEC) as u64, 0o644, 0];
        let how = std::ptr::from_ref(&how).addr();
        opened(w, r, syscall(libc::SYS_openat2, [at.directory as usize, address(&at.path), how, 24, 0, 0]))
    }),
    op("syscall (renameat2)", 3, |w, r| {
        let (from, to) = (w.shared.world.at(r, Kind::File), w.shared.world.at(r, Kind::File));
        let flags = if r.one_in(2) { RENAME_EXCHANGE as usize } else { 0 };
        let (from_directory, to_directory) = (from.directory as usize, to.directory as usize);
        let arguments = [from_directory, address(&from.path), to_directory, address(&to.path), flags, 0];
        nothing(syscall(libc::SYS_renameat2, arguments))
    }),
    op("syscall (linkat)", 2, |w, r| {
        let (from, to) = (w.shared.world.at(r, Kind::File), w.shared.world.at(r, Kind::File));
        let (from_directory, to_directory) = (from.directory as usize, to.directory as usize);
        let arguments = [from_directory, address(&from.path), to_directory, address(&to.path), 0, 0];
        nothing(syscall(libc::SYS_linkat, arguments))
    }),
    op("syscall (symlinkat)", 2, |w, r| {
        let (target, at) = (w.shared.world.target(r), w.shared.world.at(r, Kind::Symlink));
        nothing(syscall(
            libc::SYS_symlinkat,
            [address(&target), at.directory as usize, address(&at.path), 0, 0, 0],
        ))
    }),
    op("syscall (unlinkat)", 2, |w, r| {
        let at = w.shared.world.at(r, Kind::File);
        nothing(syscall(libc::SYS_unlinkat, [at.directory as usize, address(&at.path), 0, 0, 0, 0]))
    }),
    op("syscall (mkdirat)", 3, |w, r| {
        let at = w.shared.world.at(r, Kind::Directory);
        nothing(syscall(libc::SYS_mkdirat, [at.directory as usize, address(&at.path), 0o750, 0, 0, 0]))
    }),
    op("syscall (fchmod)", 2, |w, r| {
        let held = w.file(r)?;
        nothing(syscall(libc::SYS_fchmod, [fd(held), *r.pick(&[0o600, 0o640, 0o755]), 0, 0, 0, 0]))
    }),
    op("syscall (fchown)", 2, |w, r| {
        // SAFETY: no arguments.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        nothing(syscall(libc::SYS_fchown, [fd(w.file(r)?), user as usize, group as usize, 0, 0, 0]))
    }),
    op("syscall (utimensat)", 2, |w, r| {
        let at = w.shared.world.at(r, Kind::File);
        let times = [timespec { tv_sec: r.below(2_000_000_000) as i64, tv_nsec: 5 }; 2];
        let times = std::ptr::from_ref(&times).addr();
        nothing(syscall(libc::SYS_utimensat, [at.directory as usize, address(&at.path), times, 0, 0, 0]))
    }),
    op_where(Needs::Attributes, "syscall (fsetxattr)", 2, |w, r| {
        let (held, value) = (w.file(r)?, w.next_stamp());
        let (name, value) = (c"user.twin.raw".as_ptr().addr(), std::ptr::from_ref(&value).addr());
        nothing(syscall(libc::SYS_fsetxattr, [fd(held), name, value, 8, 0, 0]))
    }),
];

pub(super) fn fd(held: Held) -> usize {
    held.fd as usize
}

pub(super) fn address(path: &std::ffi::CStr) -> usize {
    path.as_ptr().addr()
}

pub(super) fn bytes(value: c_long) -> Outcome {
    some(usize::try_from(value).map_err(|_| sys::errno())?)
}

pub(super) fn nothing(value: c_long) -> Outcome {
    sys::check(value).map(drop)
}

pub(super) fn opened(w: &mut Worker<'_>, rng: &mut Rng, value: c_long) -> Outcome {
    let fd = sys::check(value)? as i32;
    w.hold(rng, Held { fd, direct: false, shared: false });
    Ok(())
}
