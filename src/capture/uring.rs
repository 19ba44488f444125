//! io_uring, as liburing's callers use it: submissions are seen at its functions, completions in the ring (P13).

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use super::asynchronous::{target, vector_bytes};
use super::hook::{self, keep_errno};
use super::size;
use crate::tracker::inflight::{Full, Locked};
use crate::tracker::{Fault, Pass, StreamKind, Target, tracker};

const TO_THE_END: u64 = u64::MAX;

/// liburing.h: struct io_uring_sq, versions 2.0 to 2.9.
#[repr(C)]
struct Submissions {
    head: *const AtomicU32,
    tail: *const AtomicU32,
    mask: *const u32,
    entries: *const u32,
    flags: *const AtomicU32,
    dropped: *const AtomicU32,
    array: *const u32,
    requests: *const u8,
    /// First request that the kernel has not been told of.
    next_head: u32,
    /// Behind the last one that the caller has asked for.
    next_tail: u32,
    size: usize,
    memory: *const c_void,
    more: [u32; 4],
}

/// liburing.h: struct io_uring_cq.
#[repr(C)]
struct Completions {
    head: *const AtomicU32,
    tail: *const AtomicU32,
    mask: *const u32,
    entries: *const u32,
    flags: *const AtomicU32,
    overflow: *const AtomicU32,
    events: *const u8,
    size: usize,
    memory: *const c_void,
    more: [u32; 4],
}

/// liburing.h: the beginning of struct io_uring.
#[repr(C)]
pub struct Ring {
    submissions: Submissions,
    completions: Completions,
    flags: u32,
    /// Its descriptor.
    fd: c_int,
    features: u32,
}

/// linux/io_uring.h: the beginning of struct io_uring_sqe.
#[repr(C)]
struct Request {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: c_int,
    offset: u64,
    address: u64,
    length: u32,
    call_flags: u32,
    tag: u64,
}

/// linux/io_uring.h: the beginning of struct io_uring_cqe.
#[repr(C)]
struct Event {
    tag: u64,
    result: i32,
    flags: u32,
}

// linux/io_uring.h.
const SETUP_SQE128: u32 = 1 << 10;
const SETUP_CQE32: u32 = 1 << 11;
/// All up to HYBRID_IOPOLL but SQPOLL and SQ_AFF, under which the kernel submits by itself.
const SETUP_KNOWN: u32 = ((1 << 18) - 1) & !(1 << 1) & !(1 << 2);
const FEATURE_EXT_ARG: u32 = 1 << 8;
const REQUEST_FIXED_FILE: u8 = 1;
const REQUEST_SKIPS_EVENT: u8 = 1 << 6;
const EVENT_MORE: u32 = 1 << 1;

/// Not 0 once the grace is over: from here on no request may be in flight that was not seen being submitted. Another
/// number in each backup: a call may begin in one and come back in the next.
static SETTLED: AtomicU32 = AtomicU32::new(0);

/// Tells whether requests from before capture are still to be expected.
pub fn set_settled(settled: bool) {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = if settled { LAST.fetch_add(1, Ordering::SeqCst).wrapping_add(1).max(1) } else { 0 };
    SETTLED.store(number, Ordering::SeqCst);
}

/// Whether none is to be expected any more.
pub fn is_settled() -> bool {
    settled() != 0
}

/// The backup in which none is to be expected any more; 0: there is none.
pub fn settled() -> u32 {
    SETTLED.load(Ordering::SeqCst)
}

/// What a request does.
enum Effect {
    /// Nothing to a file that we look at.
    None,
    Write(Target),
    /// Something that is not known.
    Unknown,
}

impl Request {
    fn effect(&self) -> Effect {
        let offset = self.offset as i64;
        let write = |bytes: u64| target(self.fd, offset, bytes, self.call_flags as c_int);
        let found = match self.opcode {
            // writev, writev_fixed
            2 | 61 => write(vector_bytes(self.address, self.length.into())),
            // write_fixed, write
            5 | 23 => write(self.length.into()),
            // fallocate: offset, addr is the length, len the mode
            17 => target(self.fd, 0, TO_THE_END, 0).map(|target| Target {
                range: size::allocated(self.length as c_int, offset, self.address as i64),
                ..target
            }),
            // ftruncate
            55 => target(self.fd, 0, TO_THE_END, 0)
                .map(|target| Target { range: self.offset..TO_THE_END, ..target }),
            // openat: harmless unless it creates or truncates
            18 if self.call_flags as c_int
                & (libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY)
                == 0 =>
            {
                return Effect::None;
            }
            // nop, readv, fsync, read_fixed, poll, sync_file_range, messages, timeouts, accept, cancel, connect
            0 | 1 | 3 | 4 | 6..=16
            // close, files_update, statx, read, fadvise, madvise, send, recv, epoll_ctl, buffers, tee, shutdown
            | 19..=22 | 24..=27 | 29 | 31..=34
            // msg_ring, fgetxattr, getxattr, socket, send_zc, sendmsg_zc, read_multishot, waitid, futexes
            | 40 | 43..=45 | 47..=53
            // fixed_fd_install, bind, listen, recv_zc, epoll_wait, readv_fixed, pipe
            | 54 | 56..=60 | 62 => return Effect::None,
            // splice, openat2, names, xattrs, commands, and what is newer
            _ => return Effect::Unknown,
        };
        match found {
            _ if self.flags & REQUEST_FIXED_FILE != 0 => Effect::Unknown,
            None => Effect::None,
            // Its end would not be seen.
            Some(_) if self.flags & REQUEST_SKIPS_EVENT != 0 => Effect::Unknown,
            Some(target) => Effect::Write(target),
        }
    }
}

impl Ring {
    /// # Safety
    /// `id` is the address of a ring of liburing that is set up.
    unsafe fn at(id: usize) -> &'static Ring {
        // SAFETY: by the caller's promise.
        unsafe { &*std::ptr::with_exposed_provenance::<Ring>(id) }
    }

    fn load(&self, counter: *const AtomicU32) -> u32 {
        // SAFETY: null, or a counter in the mapped memory of this ring.
        unsafe { counter.as_ref() }.map_or(0, |counter| counter.load(Ordering::Acquire))
    }

    /// Where the kernel is and how many requests it has taken that have not completed.
    fn state(&self) -> (u32, u32) {
        let taken = self.load(self.submissions.head).wrapping_sub(self.load(self.submissions.dropped));
        let done = self.load(self.completions.tail);
        (done, taken.wrapping_sub(done))
    }

    fn event(&self, index: u32) -> Option<&Event> {
        let stride = if self.flags & SETUP_CQE32 != 0 { 32 } else { 16 };
        // SAFETY: null, or this ring's mask.
        let mask = *unsafe { self.completions.mask.as_ref() }?;
        // SAFETY: an index under the mask is within the ring's events.
        unsafe { self.completions.events.add((index & mask) as usize * stride).cast::<Event>().as_ref() }
    }

    fn request(&self, index: u32) -> Option<&Request> {
        let stride = if self.flags & SETUP_SQE128 != 0 { 128 } else { 64 };
        // SAFETY: null, or this ring's mask.
        let mask = *unsafe { self.submissions.mask.as_ref() }?;
        // SAFETY: an index under the mask is within the ring's requests.
        unsafe { self.submissions.requests.add((index & mask) as usize * stride).cast::<Request>().as_ref() }
    }

    /// Whether there are requests that the kernel has not taken.
    fn is_pending(&self) -> bool {
        self.submissions.next_tail != self.load(self.submissions.head)
    }
}

/// The descriptor of the ring `id`, a known stream's.
pub fn descriptor(id: usize) -> c_int {
    // SAFETY: streams of this kind are rings that are set up.
    unsafe { Ring::at(id) }.fd
}

/// Turns what has completed on this ring into marks.
pub fn drain(pass: &Pass<'_>, id: usize, stream: &mut Locked<'_>) {
    // SAFETY: a ring is forgotten before it is taken down.
    let ring = unsafe { Ring::at(id) };
    let tail = ring.load(ring.completions.tail);
    let mut cursor = stream.cursor();
    // SAFETY: null, or this ring's number of events.
    let room = unsafe { ring.completions.entries.as_ref() }.copied().unwrap_or(0);
    if tail.wrapping_sub(cursor) > room {
        tracker().set_fault(Fault::LostCompletion);
        cursor = tail;
    }
    while cursor != tail {
        if let Some(event) = ring.event(cursor)
            && event.flags & EVENT_MORE == 0
        {
            let _ = stream.complete(event.tag, &mut |target| {
                tracker().mark_range(pass, target.key, target.range.clone());
            });
        }
        cursor = cursor.wrapping_add(1);
    }
    stream.set_cursor(cursor);
}

/// A call that submits what is pending and does not wait for completions.
///
/// # Safety
/// `ring` is null or a ring of liburing that is set up.
pub unsafe fn submit(call: &'static CStr, ring: *mut Ring, real: impl FnOnce() -> c_int) -> c_int {
    if ring.is_null() || !hook::is_on() {
        return real();
    }
    let Some(pass) = keep_errno(|| tracker().enter(call)) else { return real() };
    // What the kernel does not take stays queued, and entered (P12).
    if let Err(fault) = keep_errno(|| before_submit(&pass, ring.expose_provenance())) {
        tracker().set_fault(fault);
    }
    real()
}

fn before_submit(pass: &Pass<'_>, id: usize) -> Result<(), Fault> {
    // SAFETY: the caller is about to submit on it.
    let ring = unsafe { Ring::at(id) };
    if ring.flags & !SETUP_KNOWN != 0 {
        return Err(Fault::UnknownUring);
    }
    let is_new = Cell::new(false);
    let begin = || {
        is_new.set(true);
        ring.state()
    };
    let full = |Full| Fault::TooManyRequests;
    let mut stream = tracker().in_flight().find_or_add(id, StreamKind::IoUring, begin).map_err(full)?;
    if is_new.get() && stream.older() != 0 && is_settled() {
        return Err(Fault::UnknownUring);
    }
    // First what has completed: a tag may be used again.
    drain(pass, id, &mut stream);
    drop(stream);
    // What was queued before capture and has not been taken belongs to it too.
    let first = if is_new.get() { ring.load(ring.submissions.head) } else { ring.submissions.next_head };
    let count = ring.submissions.next_tail.wrapping_sub(first);
    for index in (0..count).map(|step| first.wrapping_add(step)) {
        let Some(request) = ring.request(index) else { return Err(Fault::UnknownUring) };
        let target = match request.effect() {
            Effect::None if request.flags & REQUEST_SKIPS_EVENT != 0 => continue,
            Effect::None => None,
            Effect::Write(target) => Some(target),
            Effect::Unknown => return Err(Fault::UnknownUring),
        };
        let mut stream = tracker().in_flight().find(id).ok_or(Fault::LostCompletion)?;
        stream.enter(request.tag, target.as_ref()).map_err(full)?;
    }
    Ok(())
}

/// A call that submits and then waits: submits inside the gate, waits outside of it.
///
/// # Safety
/// As for [`submit`].
pub unsafe fn submit_and_wait(
    call: &'static CStr,
    ring: *mut Ring,
    submit_only: Option<impl FnOnce() -> c_int>,
    real: impl FnOnce() -> c_int,
) -> c_int {
    if ring.is_null() || !hook::is_on() {
        return real();
    }
    let Some(submit_only) = submit_only else {
        tracker().set_fault(Fault::UnknownUring);
        return real();
    };
    // SAFETY: by the caller's promise.
    let submitted = unsafe { submit(call, ring, submit_only) };
    // SAFETY: by the caller's promise.
    if submitted < 0 || unsafe { (*ring).is_pending() } {
        // The kernel does not wait either when it has not taken all.
        return submitted;
    }
    let waited = real();
    if waited < 0 { waited } else { submitted.max(waited) }
}

/// A call that waits; on Linux before 5.11 it submits what is pending, to submit a timeout.
///
/// # Safety
/// As for [`submit`].
pub unsafe fn wait(
    call: &'static CStr,
    ring: *mut Ring,
    submit_only: Option<impl FnOnce() -> c_int>,
    real: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: by the caller's promise.
    let submits = !ring.is_null()
        && hook::is_on()
        && unsafe { (*ring).features & FEATURE_EXT_ARG == 0 && (*ring).is_pending() };
    if !submits {
        return real();
    }
    // SAFETY: by the caller's promise.
    unsafe { submit_and_wait(call, ring, submit_only, real) }
}

/// io_uring_enter(2) by a caller that keeps its rings itself.
pub fn enter<R>(call: &'static CStr, submits: u32, real: impl FnOnce() -> R) -> R {
    // Inside another hook it is liburing's, and has been looked at.
    if submits > 0 && hook::is_on() && keep_errno(|| tracker().enter(call)).is_some() {
        tracker().set_fault(Fault::UnknownUring);
    }
    real()
}

/// io_uring_queue_exit(3): the kernel ends what is in flight after it has returned, at a time that nobody sees.
pub fn exit(call: &'static CStr, ring: *mut Ring, real: impl FnOnce()) {
    let id = ring.expose_provenance();
    let closing = hook::is_on()
        && keep_errno(|| {
            let pass = tracker().pin(call)?;
            let mut stream = tracker().in_flight().find(id)?;
            drain(&pass, id, &mut stream);
            if stream.writes() > 0 {
                tracker().set_fault(Fault::LostCompletion);
            }
            stream.close(id);
            Some(())
        })
        .is_some();
    real();
    if closing && let Some(_pass) = keep_errno(|| tracker().pin(call)) {
        tracker().in_flight().remove(id);
    }
}

/// The rings are replaced by others.
pub fn resize(real: impl FnOnce() -> c_int) -> c_int {
    if hook::is_on() {
        tracker().set_fault(Fault::UnknownUring);
    }
    real()
}
