//! Sizes, allocation and holes.

use std::ffi::{CStr, c_int};

use libc::{
    FALLOC_FL_COLLAPSE_RANGE as COLLAPSE, FALLOC_FL_INSERT_RANGE as INSERT, FALLOC_FL_KEEP_SIZE as KEEP,
    FALLOC_FL_PUNCH_HOLE as PUNCH, FALLOC_FL_ZERO_RANGE as ZERO,
};

use super::{Needs, Operation, op, op_where, zero};
use crate::rng::Rng;
use crate::sys::{self, Outcome};
use crate::worker::{BLOCK, SMALL, Worker};
use crate::world::Kind;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("ftruncate", 5, |w, r| by_descriptor(w, r, sys::ftruncate)),
    op("ftruncate64", 5, |w, r| by_descriptor(w, r, sys::ftruncate64)),
    op("truncate", 5, |w, r| by_path(w, r, sys::truncate)),
    op("truncate64", 5, |w, r| by_path(w, r, sys::truncate64)),
    op("fallocate", 4, |w, r| range(w, r, 0, sys::fallocate)),
    op("fallocate64", 4, |w, r| range(w, r, 0, sys::fallocate64)),
    op("fallocate (KEEP_SIZE)", 4, |w, r| range(w, r, KEEP, sys::fallocate)),
    op_where(Needs::Allocation(PUNCH | KEEP), "fallocate (PUNCH_HOLE)", 6, |w, r| {
        range(w, r, PUNCH | KEEP, sys::fallocate)
    }),
    op_where(Needs::Allocation(PUNCH | KEEP), "fallocate64 (PUNCH_HOLE)", 6, |w, r| {
        range(w, r, PUNCH | KEEP, sys::fallocate64)
    }),
    op_where(Needs::Allocation(ZERO), "fallocate (ZERO_RANGE)", 4, |w, r| range(w, r, ZERO, sys::fallocate)),
    op_where(Needs::Allocation(ZERO | KEEP), "fallocate64 (ZERO_RANGE KEEP_SIZE)", 4, |w, r| {
        range(w, r, ZERO | KEEP, sys::fallocate64)
    }),
    op_where(Needs::Allocation(COLLAPSE), "fallocate (COLLAPSE_RANGE)", 4, |w, r| {
        range(w, r, COLLAPSE, sys::fallocate)
    }),
    op_where(Needs::Allocation(INSERT), "fallocate64 (INSERT_RANGE)", 4, |w, r| {
        range(w, r, INSERT, sys::fallocate64)
    }),
    op("ftruncate (EFBIG)", 1, |w, r| match by_size(w, r, super::data::LIMIT + 1) {
        Err(libc::EFBIG) => Ok(()),
        other => other.and(Err(0)),
    }),
    op("posix_fallocate", 4, |w, r| posix(w, r, sys::posix_fallocate)),
    op("posix_fallocate64", 4, |w, r| posix(w, r, sys::posix_fallocate64)),
];

fn size(rng: &mut Rng) -> i64 {
    (match rng.below(8) {
        0 => 0,
        1..4 => rng.below(20_000),
        4..7 => rng.below(SMALL),
        _ => rng.below(SMALL / BLOCK) * BLOCK,
    }) as i64
}

fn by_descriptor(w: &mut Worker<'_>, rng: &mut Rng, call: fn(c_int, i64) -> c_int) -> Outcome {
    let held = w.file(rng)?;
    zero(call(held.fd, size(rng)))
}

fn by_size(w: &mut Worker<'_>, rng: &mut Rng, size: i64) -> Outcome {
    let held = w.file(rng)?;
    zero(sys::ftruncate(held.fd, size))
}

fn by_path(w: &mut Worker<'_>, rng: &mut Rng, call: fn(&CStr, i64) -> c_int) -> Outcome {
    let path = w.shared.world.path(rng, Kind::File);
    zero(call(&path, size(rng)))
}

fn range(
    w: &mut Worker<'_>,
    rng: &mut Rng,
    mode: c_int,
    call: fn(c_int, c_int, i64, i64) -> c_int,
) -> Outcome {
    let held = w.file(rng)?;
    let (mut offset, mut length) = (rng.below(SMALL) as i64, 1 + rng.below(SMALL / 2) as i64);
    if mode & (COLLAPSE | INSERT) != 0 {
        let block = BLOCK as i64;
        (offset, length) = (offset / 2 / block * block, (length / 4 / block + 1) * block);
        // Inserting is the only operation by which a file grows without an end to it.
        // SAFETY: `stat` is written by fstat, plain integers.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        if mode == INSERT && (unsafe { libc::fstat(held.fd, &mut stat) } != 0 || stat.st_size > 1 << 18) {
            return Err(0);
        }
    }
    zero(call(held.fd, mode, offset, length))
}

fn posix(w: &mut Worker<'_>, rng: &mut Rng, call: fn(c_int, i64, i64) -> c_int) -> Outcome {
    let held = w.file(rng)?;
    match call(held.fd, rng.below(SMALL) as i64, 1 + rng.below(SMALL / 2) as i64) {
        0 => Ok(()),
        errno => Err(errno),
    }
}
