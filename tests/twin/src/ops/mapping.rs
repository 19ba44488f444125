//! Stores to shared mappings of small files. Nobody sees them happen (P24).

use std::ffi::{CString, c_int, c_void};

use libc::{MAP_SHARED, MAP_SHARED_VALIDATE, PROT_READ, PROT_WRITE};

use super::{Operation, unseen, zero};
use crate::rng::Rng;
use crate::sys::{self, Outcome, check};
use crate::worker::Worker;

/// Bytes of a mapping.
const LENGTH: usize = 64 * 1024;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    unseen("mmap", 2, |w, r| map(w, r, PROT_READ | PROT_WRITE, MAP_SHARED, sys::mmap)),
    unseen("mmap64", 2, |w, r| map(w, r, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE, sys::mmap64)),
    unseen("mprotect", 2, |w, r| {
        map(w, r, PROT_READ, MAP_SHARED, sys::mmap)?;
        let mapping = w.mapping.as_mut().ok_or(0)?;
        zero(sys::mprotect(mapping.address, LENGTH, PROT_READ | PROT_WRITE))?;
        mapping.writable = true;
        store(w, r)
    }),
    unseen("mremap", 2, |w, r| {
        let mapping = w.mapping.as_mut().ok_or(0)?;
        for (from, to) in [(LENGTH, LENGTH / 2), (LENGTH / 2, LENGTH)] {
            let moved = sys::mremap(mapping.address, from, to, libc::MREMAP_MAYMOVE);
            if moved == libc::MAP_FAILED {
                let errno = sys::errno();
                // Half of it is mapped: nobody stores to it any more.
                std::mem::forget(w.mapping.take());
                return Err(errno);
            }
            mapping.address = moved;
        }
        store(w, r)
    }),
    unseen("mmap (store)", 6, store),
    unseen("munmap", 1, |w, _| w.mapping.take().map(drop).ok_or(0)),
];

/// A mapping that stays until it is dropped.
#[derive(Debug)]
pub struct Mapping {
    address: *mut c_void,
    writable: bool,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        sys::munmap(self.address, LENGTH);
    }
}

fn map(
    w: &mut Worker<'_>,
    rng: &mut Rng,
    access: c_int,
    flags: c_int,
    call: fn(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void,
) -> Outcome {
    let path = CString::new(format!("source0/map{}", w.id)).expect("no NUL in it");
    let fd = check(sys::open64(&path, libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC, 0o644))?;
    // A store for which the file system has no room would be a SIGBUS.
    if sys::fallocate64(fd, 0, 0, LENGTH as i64) != 0 {
        let errno = sys::errno();
        sys::close(fd);
        return Err(errno);
    }
    let address = call(std::ptr::null_mut(), LENGTH, access, flags, fd, 0);
    let outcome = if address == libc::MAP_FAILED { Err(sys::errno()) } else { Ok(()) };
    // The mapping outlives its descriptor.
    sys::close(fd);
    outcome?;
    w.mapping = Some(Mapping { address, writable: access & PROT_WRITE != 0 });
    if access & PROT_WRITE != 0 { store(w, rng) } else { Ok(()) }
}

fn store(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let stamp = w.next_stamp();
    let Some(Mapping { address, writable: true }) = w.mapping else { return Err(0) };
    for _ in 0..1 + rng.below(4) {
        let offset = rng.below(LENGTH as u64 / 8) as usize;
        // SAFETY: inside the mapping, aligned; the file keeps its size, so the pages are there.
        unsafe { address.cast::<u64>().add(offset).write_volatile(stamp) };
    }
    Ok(())
}
