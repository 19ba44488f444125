//! libaio: what is submitted is in flight until its completion is found in the context's ring (P11-P14).

use std::ffi::{CStr, c_int, c_long, c_void};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::data::appends;
use super::hook::{self, keep_errno, peek};
use super::uring;
use crate::tracker::inflight::{Full, Locked};
use crate::tracker::sync::monotonic_millis;
use crate::tracker::{Completed, Fault, Pass, StreamKind, Target, tracker};

const TO_THE_END: u64 = u64::MAX;
/// linux/fs/aio.c: what a ring begins with.
const MAGIC: u32 = 0xa10a_10a1;
/// linux/aio_abi.h.
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
const IOCB_CMD_PREADV: u16 = 7;
const IOCB_CMD_PWRITEV: u16 = 8;
/// UIO_MAXIOV.
const MAX_VECTOR: u64 = 1024;

/// A libaio request from before capture is taken to have ended this many milliseconds after it: the kernel does
/// not tell how many there are. Its completion marks its range whenever it is found.
const OLD_REQUESTS_END: u64 = 1000;
/// One that completes this many milliseconds after capture began was submitted since, and not seen.
const OLD_REQUESTS_GONE: u64 = 10_000;
static OLD_UNTIL: AtomicU64 = AtomicU64::new(0);

/// struct aio_ring of linux/fs/aio.c, at the address that io_setup(2) gives as the context.
#[repr(C)]
struct Ring {
    id: u32,
    count: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible: u32,
    incompatible: u32,
    header: u32,
}

/// linux/aio_abi.h: struct io_event.
#[repr(C)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// linux/aio_abi.h: struct iocb; libaio's has the same layout.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: c_int,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// The bytes that a vector of `count` buffers holds.
pub fn vector_bytes(address: u64, count: u64) -> u64 {
    let vector = std::ptr::with_exposed_provenance::<libc::iovec>(address as usize);
    if vector.is_null() || count > MAX_VECTOR {
        return TO_THE_END;
    }
    // SAFETY: the caller gives this vector to the kernel, which reads it too.
    let vector = unsafe { std::slice::from_raw_parts(vector, count as usize) };
    vector.iter().fold(0u64, |sum, part| sum.saturating_add(part.iov_len as u64))
}

/// What a write of `bytes` at `offset` may change. `None`: no file that we look at. A negative offset is the file
/// position.
pub fn target(fd: c_int, offset: i64, bytes: u64, flags: c_int) -> Option<Target> {
    let file = hook::regular(fd)?;
    let range = match u64::try_from(offset) {
        // Where the end is when it runs, nobody knows yet.
        Ok(offset) if !appends(fd, flags) => offset..offset.saturating_add(bytes),
        _ => 0..TO_THE_END,
    };
    (!range.is_empty()).then_some(Target { key: file.key, range })
}

impl Request {
    fn target(&self) -> Option<Target> {
        match self.opcode {
            IOCB_CMD_PREAD | IOCB_CMD_PREADV => None,
            IOCB_CMD_PWRITE => target(self.fd, self.offset, self.bytes, self.rw_flags),
            IOCB_CMD_PWRITEV => {
                target(self.fd, self.offset, vector_bytes(self.buffer, self.bytes), self.rw_flags)
            }
            // fsync, fdsync, poll, noop.
            2 | 3 | 5 | 6 => None,
            _ => target(self.fd, 0, TO_THE_END, 0),
        }
    }
}

/// What [`Locked::complete`] does with each target.
fn marker(pass: &Pass<'_>) -> impl Fn(&Target) {
    move |target| tracker().mark_range(pass, target.key, target.range.clone())
}

/// Turns what has completed on this context into marks.
fn drain(pass: &Pass<'_>, id: usize, stream: &mut Locked<'_>) {
    // SAFETY: the ring of a context that exists: it was recognized when it was first seen, and is forgotten before
    // it is destroyed.
    let ring = unsafe { &*std::ptr::with_exposed_provenance::<Ring>(id) };
    if ring.count == 0 {
        return;
    }
    let events = std::ptr::with_exposed_provenance::<Event>(id.wrapping_add(ring.header as usize));
    let tail = ring.tail.load(Ordering::Acquire) % ring.count;
    let mut cursor = stream.cursor() % ring.count;
    while cursor != tail {
        // SAFETY: the ring holds `count` events behind its header; this one was written before the tail.
        let event = unsafe { &*events.add(cursor as usize) };
        if stream.complete(event.request, &mut marker(pass)) == Completed::Unknown {
            completed_unseen(pass, event.request);
        }
        cursor = (cursor + 1) % ring.count;
    }
    stream.set_cursor(cursor);
}

/// A request that was submitted before capture has completed. Its iocb still says what it was: whoever reaps it
/// comes here first.
fn completed_unseen(pass: &Pass<'_>, request: u64) {
    let gone = OLD_UNTIL.load(Ordering::SeqCst) + (OLD_REQUESTS_GONE - OLD_REQUESTS_END);
    if uring::is_settled() && monotonic_millis() > gone {
        tracker().set_fault(Fault::LostCompletion);
    }
    // SAFETY: numbers.
    match unsafe { peek::<Request>(request as usize) } {
        Some(request) => {
            if let Some(target) = keep_errno(|| request.target()) {
                marker(pass)(&target);
            }
        }
        None => tracker().mark_everything(pass),
    }
}

/// Makes the context known, as empty, unless it is. False: it is none that the kernel lets us read.
fn know(id: usize) -> Result<Option<Locked<'static>>, Full> {
    if let Some(stream) = tracker().in_flight().find(id) {
        return Ok(Some(stream));
    }
    let head = keep_errno(|| {
        // SAFETY: numbers.
        unsafe { peek::<[u32; 8]>(id) }
    });
    let Some([_, count, _, tail, MAGIC, ..]) = head else { return Ok(None) };
    tracker()
        .in_flight()
        .find_or_add(id, StreamKind::Libaio, || (tail.checked_rem(count).unwrap_or(0), 0))
        .map(Some)
}

/// A context that existed before capture (its ring is mapped at `id`).
pub fn add_context(id: usize) {
    if let Err(Full) = know(id).map(drop) {
        tracker().set_fault(Fault::TooManyRequests);
    }
    OLD_UNTIL.store(monotonic_millis() + OLD_REQUESTS_END, Ordering::SeqCst);
}

/// Forgets what an earlier backup knew.
pub fn forget_all() {
    OLD_UNTIL.store(0, Ordering::SeqCst);
}

/// io_submit(2). `real` returns how many it took, or less than 0.
///
/// # Safety
/// As for the real call.
pub unsafe fn submit(
    call: &'static CStr,
    context: usize,
    count: c_long,
    requests: *const *const c_void,
    real: impl FnOnce() -> c_long,
) -> c_long {
    if !hook::is_on() || count <= 0 || requests.is_null() {
        return real();
    }
    let Some(pass) = keep_errno(|| tracker().enter(call)) else { return real() };
    // SAFETY: the caller gives `count` pointers to the kernel, which reads them too.
    let requests = unsafe { std::slice::from_raw_parts(requests.cast::<*const Request>(), count as usize) };
    keep_errno(|| before_submit(&pass, context, requests));
    let taken = real();
    keep_errno(|| {
        let Some(mut stream) = tracker().in_flight().find(context) else { return };
        for &request in requests.iter().skip(taken.max(0) as usize) {
            // SAFETY: null, or an iocb that the caller has just given to the kernel.
            if let Some(content) = unsafe { request.as_ref() } {
                stream.retract(request as u64, content.target().as_ref());
            }
        }
    });
    taken
}

fn before_submit(pass: &Pass<'_>, context: usize, requests: &[*const Request]) {
    let known = match know(context) {
        Ok(Some(mut stream)) => {
            // First what has completed: an iocb may be used again.
            drain(pass, context, &mut stream);
            Ok(())
        }
        Ok(None) => Err(Fault::LostCompletion),
        Err(Full) => Err(Fault::TooManyRequests),
    };
    if let Err(fault) = known {
        tracker().set_fault(fault);
        return;
    }
    for &request in requests {
        // SAFETY: null, or an iocb that the kernel is about to read.
        let Some(content) = (unsafe { request.as_ref() }) else { continue };
        let target = content.target();
        let entered = tracker()
            .in_flight()
            .find(context)
            .ok_or(Full)
            .and_then(|mut stream| stream.enter(request as u64, target.as_ref()));
        if let Err(Full) = entered {
            tracker().set_fault(Fault::TooManyRequests);
        }
    }
}

/// io_getevents(2) and io_pgetevents(2): waits, so it never enters the gate (P12); what it returns is taken from
/// the ring before the caller sees it.
pub fn get_events(call: &'static CStr, context: usize, real: impl FnOnce() -> c_long) -> c_long {
    if !hook::is_on() {
        return real();
    }
    // The thread has been seen: what it waits in is no call from before capture (P15).
    drop(keep_errno(|| tracker().pin(call)));
    let settled = uring::settled();
    let result = real();
    if result > 0 {
        keep_errno(|| reaped(call, context, settled));
    }
    result
}

/// `settled`: the backup, not 0 if its contexts from before capture were known already, when the call began.
fn reaped(call: &'static CStr, context: usize, settled: u32) {
    let Some(pass) = tracker().pin(call) else { return };
    match tracker().in_flight().find(context) {
        Some(mut stream) => drain(&pass, context, &mut stream),
        // Something was submitted on it that nobody saw; unless that was an earlier backup's to see.
        None if settled != 0 && settled == uring::settled() => tracker().set_fault(Fault::LostCompletion),
        None => {}
    }
}

/// io_destroy(2): the kernel takes the ring away, then waits for the context's requests.
pub fn destroy(call: &'static CStr, context: usize, real: impl FnOnce() -> c_long) -> c_long {
    /// Odd, so that they are no addresses of contexts.
    static CLOSING: AtomicUsize = AtomicUsize::new(1);
    if !hook::is_on() {
        return real();
    }
    let closing = keep_errno(|| {
        let pass = tracker().pin(call)?;
        let mut stream = tracker().in_flight().find(context)?;
        drain(&pass, context, &mut stream);
        let id = CLOSING.fetch_add(2, Ordering::SeqCst);
        stream.close(id);
        Some(id)
    });
    let result = real();
    if let Some(id) = closing {
        keep_errno(|| {
            let Some(pass) = tracker().pin(call) else { return };
            if let Some(mut stream) = tracker().in_flight().find(id) {
                stream.each_write(marker(&pass));
            }
            tracker().in_flight().remove(id);
        });
    }
    result
}

/// Whether a stream is being destroyed just now.
pub fn is_any_closing() -> bool {
    let mut any = false;
    tracker().in_flight().each(|_, stream| any |= stream.kind() == StreamKind::Closing);
    any
}

/// Reads all completion rings and returns how many writes are still under way. Allocates nothing.
pub fn reap() -> u32 {
    let Some(pass) = tracker().pin(c"reap") else { return 0 };
    let mut under_way = u32::from(monotonic_millis() < OLD_UNTIL.load(Ordering::SeqCst));
    tracker().in_flight().each(|id, stream| {
        match stream.kind() {
            StreamKind::Libaio => drain(&pass, id, stream),
            StreamKind::IoUring => uring::drain(&pass, id, stream),
            StreamKind::Closing => {}
        }
        under_way = under_way.saturating_add(stream.writes()).saturating_add(stream.older());
    });
    under_way
}

/// aio_write(3) and lio_listio(3): libc's own threads do it (P24).
pub fn posix(real: impl FnOnce() -> c_int) -> c_int {
    if hook::is_on() {
        tracker().set_fault(Fault::PosixAio);
    }
    real()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// io_getevents may begin in one backup and come back in the next, which has not looked for contexts yet.
    #[test]
    fn each_backup_settles_anew() {
        uring::set_settled(true);
        let before = uring::settled();
        uring::set_settled(false);
        assert_ne!(uring::settled(), before);
        uring::set_settled(true);
        assert!(uring::is_settled() && uring::settled() != before);
        uring::set_settled(false);
    }

    #[test]
    fn a_vector_is_as_long_as_its_parts() {
        let part = |len| libc::iovec { iov_base: std::ptr::null_mut(), iov_len: len };
        let vector = [part(100), part(28)];
        assert_eq!(vector_bytes((&raw const vector).expose_provenance() as u64, 2), 128);
        assert_eq!(vector_bytes(0, 2), TO_THE_END);
    }
}
