//! Writing.

use std::ffi::c_int;

use libc::iovec;

use super::{Needs, Operation, op, op_where, some};
use crate::rng::Rng;
use crate::sys::{self, Address, Outcome, written};
use crate::worker::{BLOCK, Held, Worker};
use crate::world::Kind;

/// RLIMIT_FSIZE of the process: writes end here.
pub const LIMIT: i64 = (8 << 20) + 100;
/// An address that is never mapped.
const NOWHERE: Address = 16 as Address;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("write", 14, |w, r| write(w, r, true)),
    op("write (where it is)", 8, |w, r| write(w, r, false)),
    op("pwrite", 20, |w, r| positioned(w, r, sys::pwrite)),
    op("pwrite64", 20, |w, r| positioned(w, r, sys::pwrite64)),
    op("__write", 4, |w, r| write_by(w, r, true, sys::__write)),
    op("__pwrite64", 4, |w, r| positioned(w, r, sys::__pwrite64)),
    op("writev", 8, writev),
    op("pwritev", 8, |w, r| vectored(w, r, |fd, parts, at| sys::pwritev(fd, parts, 2, at))),
    op("pwritev64", 8, |w, r| vectored(w, r, |fd, parts, at| sys::pwritev64(fd, parts, 2, at))),
    op("pwritev2", 6, |w, r| vectored(w, r, |fd, parts, at| sys::pwritev2(fd, parts, 2, at, 0))),
    op("pwritev2 (RWF_APPEND)", 6, |w, r| {
        vectored(w, r, |fd, parts, at| sys::pwritev2(fd, parts, 2, at, libc::RWF_APPEND))
    }),
    op("pwritev2 (position)", 4, |w, r| vectored(w, r, |fd, parts, _| sys::pwritev2(fd, parts, 2, -1, 0))),
    op("pwritev64v2", 4, |w, r| {
        vectored(w, r, |fd, parts, at| sys::pwritev64v2(fd, parts, 2, at, libc::RWF_DSYNC))
    }),
    op("sendfile", 6, |w, r| send(w, r, sys::sendfile)),
    op("sendfile64", 6, |w, r| send(w, r, sys::sendfile64)),
    op("splice", 6, |w, r| splice(w, r, true)),
    op("splice (position)", 4, |w, r| splice(w, r, false)),
    op("copy_file_range", 6, |w, r| copy_range(w, r, true)),
    op("copy_file_range (position)", 4, |w, r| copy_range(w, r, false)),
    op_where(Needs::Clones, "ioctl (FICLONE)", 4, clone_file),
    op_where(Needs::Clones, "ioctl (FICLONERANGE)", 4, clone_range),
    op("pwrite64 (short: limit)", 1, short_by_limit),
    op("pwritev (short: address)", 3, short_by_address),
    op("pwrite64 (EFBIG)", 2, |w, r| {
        let held = w.file(r)?;
        fails(libc::EFBIG, sys::pwrite64(held.fd, w.fill(4096), 4096, (LIMIT + 4096) / 4096 * 4096))
    }),
    op("writev (EFAULT)", 2, |w, r| {
        let held = w.private(r)?;
        let bad = iovec { iov_base: NOWHERE.cast_mut(), iov_len: 4096 };
        fails(libc::EFAULT, sys::writev(held.fd, &[bad, bad], 2))
    }),
    op("copy_file_range (EBADF)", 1, |w, r| {
        let (from, to) = (w.file(r)?.fd, opened_to_read(w, r)?);
        let outcome = fails(libc::EBADF, sys::copy_file_range(from, Some(&mut 0), to, Some(&mut 0), 100, 0));
        sys::close(to);
        outcome
    }),
    op("pwrite (EBADF)", 2, |w, _| fails(libc::EBADF, sys::pwrite(-1, w.fill(100), 100, 0))),
    op("pwrite64 (read-only)", 2, read_only),
    op("write (read-only)", 2, read_only_position),
    op("pwrite64 (EFAULT)", 2, |w, r| {
        let held = w.file(r)?;
        let at = w.extent(r, held);
        fails(libc::EFAULT, sys::pwrite64(held.fd, NOWHERE, at.length, at.offset))
    }),
    op("pwrite64 (EINVAL)", 1, |w, r| {
        let held = w.file(r)?;
        fails(libc::EINVAL, sys::pwrite64(held.fd, w.fill(100), 100, -5))
    }),
    op("write (to a pipe)", 3, |w, _| {
        let done = written(sys::write(w.pipe[1], w.fill(512), 512));
        drain(w);
        done.and_then(some)
    }),
];

fn fails(expected: c_int, value: isize) -> Outcome {
    match written(value) {
        Err(errno) if errno == expected => Ok(()),
        Err(errno) => Err(errno),
        Ok(_) => Err(0),
    }
}

fn write(w: &mut Worker<'_>, rng: &mut Rng, seek: bool) -> Outcome {
    write_by(w, rng, seek, sys::write)
}

fn write_by(
    w: &mut Worker<'_>,
    rng: &mut Rng,
    seek: bool,
    call: fn(c_int, Address, usize) -> isize,
) -> Outcome {
    let held = w.file(rng)?;
    let at = w.extent(rng, held);
    let data = w.fill(at.length);
    if seek || rng.one_in(20) {
        w.seek(held, at.offset);
    }
    some(written(call(held.fd, data, at.length))?)
}

fn positioned(w: &mut Worker<'_>, rng: &mut Rng, call: fn(c_int, Address, usize, i64) -> isize) -> Outcome {
    let held = w.file(rng)?;
    let at = w.extent(rng, held);
    let data = w.fill(at.length);
    some(written(call(held.fd, data, at.length, at.offset))?)
}

/// The first `length` bytes of the buffer in two parts.
fn parts(w: &mut Worker<'_>, rng: &mut Rng, held: Held, length: usize) -> [iovec; 2] {
    let data = w.fill(length).cast_mut();
    let mut first = rng.below(length as u64 + 1) as usize;
    if held.direct {
        first = first / BLOCK as usize * BLOCK as usize;
    }
    let second = data.wrapping_byte_add(first);
    [iovec { iov_base: data, iov_len: first }, iovec { iov_base: second, iov_len: length - first }]
}

fn vectored(w: &mut Worker<'_>, rng: &mut Rng, call: fn(c_int, &[iovec; 2], i64) -> isize) -> Outcome {
    let held = w.file(rng)?;
    let at = w.extent(rng, held);
    let parts = parts(w, rng, held, at.length);
    some(written(call(held.fd, &parts, at.offset))?)
}

fn writev(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let held = w.file(rng)?;
    let at = w.extent(rng, held);
    let parts = parts(w, rng, held, at.length);
    if rng.one_in(2) {
        w.seek(held, at.offset);
    }
    some(written(sys::writev(held.fd, &parts, 2))?)
}

fn send(
    w: &mut Worker<'_>,
    rng: &mut Rng,
    call: fn(c_int, c_int, Option<&mut i64>, usize) -> isize,
) -> Outcome {
    let (from, to) = (w.file(rng)?, w.file(rng)?);
    let (source, target) = (w.extent(rng, from), w.extent(rng, to));
    w.seek(to, target.offset);
    let mut offset = source.offset / 4;
    let offset = if rng.one_in(2) { Some(&mut offset) } else { None };
    some(written(call(to.fd, from.fd, offset, source.length))?)
}

fn splice(w: &mut Worker<'_>, rng: &mut Rng, position: bool) -> Outcome {
    let held = w.file(rng)?;
    let mut at = w.extent(rng, held);
    let length = at.length.min(8192);
    let filled = written(sys::write(w.pipe[1], w.fill(length), length))?;
    let offset = if position { Some(&mut at.offset) } else { None };
    let done = written(sys::splice(w.pipe[0], None, held.fd, offset, filled, 0));
    drain(w);
    some(done?)
}

/// Empties the thread's pipe.
pub(super) fn drain(w: &mut Worker<'_>) {
    let bytes = w.buffer.bytes();
    // SAFETY: a buffer of this length.
    while unsafe { libc::read(w.pipe[0], bytes.as_mut_ptr().cast(), bytes.len()) } > 0 {}
}

fn copy_range(w: &mut Worker<'_>, rng: &mut Rng, position: bool) -> Outcome {
    let (from, to) = (w.file(rng)?, w.file(rng)?);
    let (mut source, mut target) = (w.extent(rng, from), w.extent(rng, to));
    source.offset /= 4;
    let to_offset = if position { Some(&mut target.offset) } else { None };
    let done = sys::copy_file_range(from.fd, Some(&mut source.offset), to.fd, to_offset, source.length, 0);
    some(written(done)?)
}

fn clone_file(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let (from, to) = (w.file(rng)?, w.file(rng)?);
    super::zero(sys::ioctl(to.fd, libc::FICLONE, from.fd as usize))
}

fn clone_range(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let (from, to) = (w.file(rng)?, w.file(rng)?);
    let block = |rng: &mut Rng| rng.below(16) * BLOCK;
    let range = libc::file_clone_range {
        src_fd: i64::from(from.fd),
        src_offset: block(rng),
        src_length: BLOCK + block(rng),
        dest_offset: block(rng),
    };
    super::zero(sys::ioctl(to.fd, libc::FICLONERANGE, std::ptr::from_ref(&range).addr()))
}

fn short_by_limit(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let path = w.shared.world.path(rng, Kind::File);
    let fd = sys::check(sys::open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC, 0o644))?;
    let done = written(sys::pwrite64(fd, w.fill(200), 200, LIMIT - 50));
    // Seldom left as large as that: the whole tree has to be compared again and again.
    if !rng.one_in(8) {
        sys::ftruncate(fd, 10_000);
    }
    sys::close(fd);
    if done? == 50 { Ok(()) } else { Err(0) }
}

fn short_by_address(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let held = w.file(rng)?;
    let at = w.extent(rng, held);
    let data = w.fill(at.length).cast_mut();
    let bad = iovec { iov_base: NOWHERE.cast_mut(), iov_len: 5000 };
    let parts = [iovec { iov_base: data, iov_len: at.length }, bad];
    let done = written(sys::pwritev(held.fd, &parts, 2, at.offset))?;
    if done > 0 && done < at.length + 5000 { Ok(()) } else { Err(0) }
}

fn opened_to_read(w: &mut Worker<'_>, rng: &mut Rng) -> Result<c_int, c_int> {
    let path = w.shared.world.path(rng, Kind::File);
    sys::check(sys::open(&path, libc::O_RDONLY | libc::O_CLOEXEC, 0))
}

fn read_only(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let fd = opened_to_read(w, rng)?;
    let outcome = fails(libc::EBADF, sys::pwrite64(fd, w.fill(4096), 4096, 0));
    sys::close(fd);
    outcome
}

fn read_only_position(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let fd = opened_to_read(w, rng)?;
    let outcome = fails(libc::EBADF, sys::write(fd, w.fill(4096), 4096));
    sys::close(fd);
    outcome
}
