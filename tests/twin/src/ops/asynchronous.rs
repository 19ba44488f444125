//! Asynchronous writes: submitted by one operation, reaped by a later one.

use std::ffi::c_int;

use super::{Needs, Operation, op, op_where};
use crate::asynchronous::{libaio, uring};
use crate::rng::Rng;
use crate::sys::Outcome;
use crate::worker::{BLOCK, Held, Worker};

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("io_submit", 14, |w, r| aio(w, r, libaio::WRITE)),
    op("io_submit (PWRITEV)", 6, |w, r| aio(w, r, libaio::WRITE_VECTOR)),
    op("io_submit (RWF_APPEND)", 3, |w, r| aio_with(w, r, libaio::WRITE, libc::RWF_APPEND)),
    op("io_submit (PREAD)", 2, |w, r| aio(w, r, libaio::READ)),
    op("io_submit (FSYNC)", 1, |w, r| aio(w, r, libaio::SYNC)),
    op("io_submit (bad descriptor)", 1, |w, _| {
        let stamp = w.next_stamp();
        let wanted =
            libaio::Wanted { opcode: libaio::WRITE, fd: -1, offset: 0, length: 512, stamp, flags: 0 };
        match context(w)?.submit(&[wanted]) {
            Err(libc::EBADF) => Ok(()),
            other => other.and(Err(0)),
        }
    }),
    op("io_submit (odd length)", 4, |w, r| {
        let (held, offset, length) = odd_place(w, r)?;
        let (opcode, stamp) = (libaio::WRITE, w.next_stamp());
        let wanted = libaio::Wanted { opcode, fd: held.fd, offset, length, stamp, flags: 0 };
        context(w)?.submit(&[wanted])
    }),
    op("io_getevents", 10, |w, r| {
        let least = if r.one_in(3) { 1 } else { 0 };
        super::some(w.context.as_mut().ok_or(0)?.reap(least)?)
    }),
    op("io_pgetevents", 3, |w, _| super::some(w.context.as_mut().ok_or(0)?.reap_with_signals(0)?)),
    op("io_queue_release", 1, |w, _| {
        w.context.as_mut().ok_or(0)?.by_release = true;
        w.context.take().map(drop).ok_or(0)
    }),
    op("io_destroy", 1, |w, _| w.context.take().map(drop).ok_or(0)),
    op_where(Needs::Uring, "io_uring_submit", 14, |w, r| submit(w, r, uring::WRITE)),
    op_where(Needs::Uring, "io_uring_submit (WRITEV)", 6, |w, r| submit(w, r, uring::WRITE_VECTOR)),
    op_where(Needs::Uring, "io_uring_submit (WRITE_FIXED)", 4, |w, r| {
        if !ring(w)?.has_fixed() {
            return Err(0);
        }
        submit(w, r, uring::WRITE_FIXED)
    }),
    op_where(Needs::Uring, "io_uring_submit (WRITEV_FIXED)", 2, |w, r| {
        if !ring(w)?.has_fixed() {
            return Err(0);
        }
        submit(w, r, uring::WRITE_VECTOR_FIXED)
    }),
    op_where(Needs::Uring, "io_uring_submit (RWF_APPEND)", 2, |w, r| {
        queue_with(w, r, uring::WRITE, libc::RWF_APPEND)?;
        super::some(ring(w)?.submit()?)
    }),
    op_where(Needs::Uring, "io_uring_submit (FALLOCATE)", 4, |w, r| submit(w, r, uring::ALLOCATE)),
    op_where(Needs::Uring, "io_uring_submit (FTRUNCATE)", 2, |w, r| submit(w, r, uring::TRUNCATE)),
    op_where(Needs::Uring, "io_uring_submit (odd length)", 4, |w, r| {
        let (held, offset, length) = odd_place(w, r)?;
        let (opcode, stamp) = (uring::WRITE, w.next_stamp());
        ring(w)?.queue(&uring::Wanted { opcode, fd: held.fd, offset, length, stamp, flags: 0 });
        super::some(ring(w)?.submit()?)
    }),
    op_where(Needs::Uring, "io_uring_submit_and_get_events", 3, |w, r| {
        queue(w, r, uring::WRITE)?;
        super::some(ring(w)?.submit_and_get_events()?)
    }),
    op_where(Needs::Uring, "io_uring_submit_and_wait_timeout", 3, |w, r| {
        queue(w, r, uring::WRITE)?;
        super::some(ring(w)?.submit_and_wait_timeout()?)
    }),
    op_where(Needs::Uring, "io_uring_wait_cqe_timeout", 2, |w, r| {
        submit(w, r, uring::WRITE)?;
        super::some(ring(w)?.wait_timeout())
    }),
    op_where(Needs::Uring, "io_uring_submit (READ)", 2, |w, r| submit(w, r, uring::READ)),
    op_where(Needs::Uring, "io_uring_submit (FSYNC)", 1, |w, r| submit(w, r, uring::SYNC)),
    op_where(Needs::Uring, "io_uring_submit_and_wait", 6, |w, r| {
        if !queue(w, r, uring::WRITE)? {
            return Err(libc::EAGAIN);
        }
        super::some(ring(w)?.submit_and_wait(1)?)
    }),
    op_where(Needs::Uring, "io_uring_get_sqe (submitted later)", 2, |w, r| {
        if queue(w, r, uring::WRITE)? { Ok(()) } else { Err(libc::EAGAIN) }
    }),
    op_where(Needs::Uring, "io_uring_peek_batch_cqe", 10, |w, _| {
        super::some(w.ring.as_mut().map_or(0, uring::Ring::reap))
    }),
    op_where(Needs::Uring, "io_uring_queue_exit", 1, |w, _| w.ring.take().map(drop).ok_or(0)),
];

/// Whether any were taken.
pub fn some_of(count: usize) -> Outcome {
    super::some(count)
}

fn context<'a>(w: &'a mut Worker<'_>) -> Outcome<&'a mut libaio::Context> {
    if w.context.is_none() {
        w.context = libaio::Context::new();
    }
    w.context.as_mut().ok_or(libc::EAGAIN)
}

fn ring<'a>(w: &'a mut Worker<'_>) -> Outcome<&'a mut uring::Ring> {
    if w.ring.is_none() {
        w.ring = uring::Ring::new();
    }
    w.ring.as_mut().ok_or(libc::EAGAIN)
}

/// A place in a file that is no larger than a request's room.
fn place(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome<(Held, i64, usize)> {
    let held = w.file(rng)?;
    let at = w.extent(rng, held);
    let length = if at.length > libaio::ROOM { BLOCK as usize * 2 } else { at.length };
    Ok((held, at.offset, length))
}

/// For direct I/O, a write that ends in the middle of a block: it fails, and may have landed in part where the file lies in
/// several extents.
fn odd_place(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome<(Held, i64, usize)> {
    let held = w.file(rng)?;
    let blocks = 1 + rng.below(6);
    let offset = rng.below(12) * BLOCK;
    Ok((held, offset as i64, (blocks * BLOCK) as usize + 1000))
}

fn aio(w: &mut Worker<'_>, rng: &mut Rng, opcode: i16) -> Outcome {
    aio_with(w, rng, opcode, 0)
}

fn aio_with(w: &mut Worker<'_>, rng: &mut Rng, opcode: i16, flags: c_int) -> Outcome {
    let mut wanted = Vec::new();
    for _ in 0..1 + rng.below(4) {
        let (held, offset, length) = place(w, rng)?;
        wanted.push(libaio::Wanted { opcode, fd: held.fd, offset, length, stamp: w.next_stamp(), flags });
    }
    context(w)?.submit(&wanted)
}

fn queue(w: &mut Worker<'_>, rng: &mut Rng, opcode: u8) -> Outcome<bool> {
    queue_with(w, rng, opcode, 0)
}

fn queue_with(w: &mut Worker<'_>, rng: &mut Rng, opcode: u8, flags: c_int) -> Outcome<bool> {
    let (held, mut offset, length) = place(w, rng)?;
    let has_position = matches!(opcode, uring::WRITE | uring::WRITE_VECTOR | uring::READ);
    if rng.one_in(8) && has_position && flags == 0 {
        offset = -1;
    }
    let stamp = w.next_stamp();
    Ok(ring(w)?.queue(&uring::Wanted { opcode, fd: held.fd, offset, length, stamp, flags }))
}

fn submit(w: &mut Worker<'_>, rng: &mut Rng, opcode: u8) -> Outcome {
    for _ in 0..1 + rng.below(4) {
        queue(w, rng, opcode)?;
    }
    super::some(ring(w)?.submit()?)
}
