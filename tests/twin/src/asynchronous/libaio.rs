//! A context of libaio (libaio.h).

use std::ffi::{c_int, c_long, c_short, c_uint, c_void};

use libc::{iovec, timespec};

use crate::memory::Memory;
use crate::sys::Outcome;

/// Requests at once.
pub const DEPTH: usize = 16;
/// Bytes that one may write.
pub const ROOM: usize = 32 * 1024;

/// `IO_CMD_PWRITE`.
pub const WRITE: c_short = 1;
/// `IO_CMD_FSYNC`.
pub const SYNC: c_short = 2;
/// `IO_CMD_POLL`, until there is something to read.
pub const POLL: c_short = 5;
/// `IO_CMD_PREAD`.
pub const READ: c_short = 0;
/// `IO_CMD_PWRITEV`.
pub const WRITE_VECTOR: c_short = 8;

/// `struct iocb` of a 64-bit little-endian system.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Iocb {
    data: *mut c_void,
    key: c_uint,
    flags: c_uint,
    opcode: c_short,
    priority: c_short,
    fd: c_int,
    buffer: *mut c_void,
    length: u64,
    offset: i64,
    reserved: [u64; 2],
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Event {
    data: *mut c_void,
    iocb: *mut Iocb,
    result: i64,
    second: i64,
}

const _: () = assert!(size_of::<Iocb>() == 64 && size_of::<Event>() == 32);

mod real {
    use super::*;
    unsafe extern "C" {
        pub fn io_setup(depth: c_int, context: *mut *mut c_void) -> c_int;
        pub fn io_destroy(context: *mut c_void) -> c_int;
        pub fn io_queue_release(context: *mut c_void) -> c_int;
        pub fn io_pgetevents(
            context: *mut c_void,
            least: c_long,
            most: c_long,
            events: *mut Event,
            timeout: *mut timespec,
            signals: *mut c_void,
        ) -> c_int;
        pub fn io_submit(context: *mut c_void, count: c_long, iocbs: *mut *mut Iocb) -> c_int;
        pub fn io_getevents(
            context: *mut c_void,
            least: c_long,
            most: c_long,
            events: *mut Event,
            timeout: *mut timespec,
        ) -> c_int;
    }
}

/// One request: its control block, its data and whether it is under way.
struct Request {
    iocb: Iocb,
    part: iovec,
    busy: bool,
}

/// A context with its requests.
pub struct Context {
    context: *mut c_void,
    // The kernel and the context's ring hold addresses of these.
    requests: Box<[Request; DEPTH]>,
    memory: Memory,
    /// Writes that were submitted and have ended well.
    pub written: u64,
    /// Ends by `io_queue_release`, the old name of `io_destroy`.
    pub by_release: bool,
}

/// What to submit.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// One of the commands above.
    pub opcode: c_short,
    /// To where.
    pub fd: c_int,
    /// From where in the file.
    pub offset: i64,
    /// Bytes, at most [`ROOM`].
    pub length: usize,
    /// What the data is made of.
    pub stamp: u64,
    /// Those of pwritev2.
    pub flags: c_int,
}

impl Context {
    /// None: the system has no room for one.
    #[inline(never)]
    pub fn new() -> Option<Context> {
        let mut context = std::ptr::null_mut();
        // SAFETY: a place for the context, NULL as io_setup wants it.
        if unsafe { real::io_setup(DEPTH as c_int, &mut context) } != 0 {
            return None;
        }
        let iocb = Iocb {
            data: std::ptr::null_mut(),
            key: 0,
            flags: 0,
            opcode: 0,
            priority: 0,
            fd: -1,
            buffer: std::ptr::null_mut(),
            length: 0,
            offset: 0,
            reserved: [0; 2],
        };
        let part = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let requests = Box::new([(); DEPTH].map(|()| Request { iocb, part, busy: false }));
        Some(Context { context, requests, memory: Memory::new(DEPTH * ROOM), written: 0, by_release: false })
    }

    /// Submits these at once, as far as there is room.
    #[inline(never)]
    pub fn submit(&mut self, wanted: &[Wanted]) -> Outcome {
        let mut iocbs = Vec::with_capacity(wanted.len());
        let free = (0..DEPTH).filter(|index| !self.requests[*index].busy).collect::<Vec<_>>();
        for (index, wanted) in free.into_iter().zip(wanted) {
            let data = &mut self.memory.bytes()[index * ROOM..(index + 1) * ROOM];
            crate::worker::fill(data, wanted.length, wanted.stamp);
            let request = &mut self.requests[index];
            let vector = wanted.opcode == WRITE_VECTOR;
            request.part = iovec { iov_base: data.as_mut_ptr().cast(), iov_len: wanted.length };
            request.iocb.opcode = wanted.opcode;
            request.iocb.flags = wanted.flags as c_uint;
            request.iocb.fd = wanted.fd;
            request.iocb.data = index as *mut c_void;
            request.iocb.offset = wanted.offset;
            request.iocb.buffer =
                if vector { std::ptr::from_mut(&mut request.part).cast() } else { data.as_mut_ptr().cast() };
            request.iocb.length = if vector { 1 } else { wanted.length as u64 };
            if wanted.opcode == SYNC || wanted.opcode == POLL {
                let events = if wanted.opcode == POLL { libc::POLLIN } else { 0 };
                (request.iocb.offset, request.iocb.buffer, request.iocb.length) =
                    (0, std::ptr::without_provenance_mut(events as usize), 0);
            }
            iocbs.push(std::ptr::from_mut(&mut request.iocb));
        }
        if iocbs.is_empty() {
            return Err(libc::EAGAIN);
        }
        // SAFETY: control blocks and data stay where they are until their events have been read.
        let taken = unsafe { real::io_submit(self.context, iocbs.len() as c_long, iocbs.as_mut_ptr()) };
        // Errors come back as negative numbers; a short count leaves the rest unsubmitted.
        let count = usize::try_from(taken).map_err(|_| -taken)?;
        for iocb in &iocbs[..count] {
            // SAFETY: points into `requests`.
            let index = unsafe { (**iocb).data }.addr();
            self.requests[index].busy = true;
        }
        crate::ops::asynchronous::some_of(count)
    }

    /// Reads events, waiting for `least` of them.
    pub fn reap(&mut self, least: usize) -> Outcome<usize> {
        self.reap_by(least, |context, least, most, events, timeout| {
            // SAFETY: by the promise of `reap_by`.
            unsafe { real::io_getevents(context, least, most, events, timeout) }
        })
    }

    /// The same by `io_pgetevents`.
    pub fn reap_with_signals(&mut self, least: usize) -> Outcome<usize> {
        self.reap_by(least, |context, least, most, events, timeout| {
            // SAFETY: by the promise of `reap_by`; no signals.
            unsafe { real::io_pgetevents(context, least, most, events, timeout, std::ptr::null_mut()) }
        })
    }

    /// `call` gets a context, room for as many events as told, and a timeout.
    #[inline(never)]
    fn reap_by(
        &mut self,
        least: usize,
        call: fn(*mut c_void, c_long, c_long, *mut Event, *mut timespec) -> c_int,
    ) -> Outcome<usize> {
        let least = least.min(self.under_way());
        let empty = Event { data: std::ptr::null_mut(), iocb: std::ptr::null_mut(), result: 0, second: 0 };
        let mut events = [empty; DEPTH];
        let mut timeout = timespec { tv_sec: if least > 0 { 20 } else { 0 }, tv_nsec: 0 };
        let (least, most) = (least as c_long, DEPTH as c_long);
        let count = call(self.context, least, most, events.as_mut_ptr(), &mut timeout);
        let count = usize::try_from(count).map_err(|_| -count)?;
        for event in &events[..count] {
            let request = &mut self.requests[event.data.addr()];
            request.busy = false;
            self.written += u64::from(event.result > 0 && request.iocb.opcode != READ);
        }
        Ok(count)
    }

    /// Requests that have not been reaped.
    pub fn under_way(&self) -> usize {
        self.requests.iter().filter(|request| request.busy).count()
    }

    /// Waits for all of them.
    pub fn settle(&mut self) {
        while self.under_way() > 0 {
            match self.reap(self.under_way()) {
                Ok(0) => panic!("asynchronous requests do not end"),
                // A signal: the library sends one to a thread that it cannot tell to be past the calls from before.
                Ok(_) | Err(libc::EINTR) => {}
                Err(errno) => panic!("io_getevents fails: errno {errno}"),
            }
        }
    }
}

impl Drop for Context {
    #[inline(never)]
    fn drop(&mut self) {
        let release = if self.by_release { real::io_queue_release } else { real::io_destroy };
        // SAFETY: a context of io_setup; both wait for what is under way, so the memory may go after it.
        unsafe { release(self.context) };
    }
}
