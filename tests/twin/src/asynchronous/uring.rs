//! A ring of liburing (liburing.h, liburing/io_uring.h).

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::iovec;

use crate::memory::Memory;
use crate::sys::Outcome;

/// Requests at once.
pub const DEPTH: usize = 16;
/// Bytes that one may write.
pub const ROOM: usize = 32 * 1024;

/// `IORING_OP_WRITEV`.
pub const WRITE_VECTOR: u8 = 2;
/// `IORING_OP_FSYNC`.
pub const SYNC: u8 = 3;
/// `IORING_OP_WRITE_FIXED`.
pub const WRITE_FIXED: u8 = 5;
/// `IORING_OP_FALLOCATE`.
pub const ALLOCATE: u8 = 17;
/// `IORING_OP_FTRUNCATE`, since Linux 6.9.
pub const TRUNCATE: u8 = 55;
/// `IORING_OP_WRITEV_FIXED`, since Linux 6.15.
pub const WRITE_VECTOR_FIXED: u8 = 61;
/// `IORING_OP_READ`.
pub const READ: u8 = 22;
/// `IORING_OP_WRITE`.
pub const WRITE: u8 = 23;

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Sqe {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    operation_flags: u32,
    user_data: u64,
    buffer_index: u16,
    personality: u16,
    file_index: u32,
    rest: [u64; 2],
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Cqe {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// `struct io_uring_sq`.
#[repr(C)]
struct Submission {
    words: [*mut c_void; 7],
    sqes: *mut Sqe,
    head: c_uint,
    tail: c_uint,
    size: usize,
    ring: *mut c_void,
    more: [c_uint; 4],
}

/// `struct io_uring_cq`.
#[repr(C)]
struct Completion {
    head: *const AtomicU32,
    words: [*mut c_void; 5],
    cqes: *mut Cqe,
    size: usize,
    ring: *mut c_void,
    more: [c_uint; 4],
}

/// `struct io_uring`, with room for what later versions add.
#[repr(C)]
struct IoUring {
    submission: Submission,
    completion: Completion,
    flags: c_uint,
    fd: c_int,
    more: [c_uint; 20],
}

const _: () = assert!(size_of::<Sqe>() == 64 && size_of::<Cqe>() == 16);
const _: () = assert!(std::mem::offset_of!(IoUring, completion) == 104);
const _: () = assert!(std::mem::offset_of!(IoUring, fd) == 196);

mod real {
    use super::*;
    unsafe extern "C" {
        pub fn io_uring_queue_init(entries: c_uint, ring: *mut IoUring, flags: c_uint) -> c_int;
        pub fn io_uring_queue_exit(ring: *mut IoUring);
        pub fn io_uring_register_buffers(ring: *mut IoUring, parts: *const iovec, count: c_uint) -> c_int;
        pub fn io_uring_get_sqe(ring: *mut IoUring) -> *mut Sqe;
        pub fn io_uring_submit(ring: *mut IoUring) -> c_int;
        pub fn io_uring_submit_and_wait(ring: *mut IoUring, count: c_uint) -> c_int;
        pub fn io_uring_submit_and_get_events(ring: *mut IoUring) -> c_int;
        pub fn io_uring_submit_and_wait_timeout(
            ring: *mut IoUring,
            cqe: *mut *mut Cqe,
            count: c_uint,
            timeout: *mut [i64; 2],
            signals: *mut c_void,
        ) -> c_int;
        pub fn io_uring_wait_cqe_timeout(
            ring: *mut IoUring,
            cqe: *mut *mut Cqe,
            timeout: *mut [i64; 2],
        ) -> c_int;
        pub fn io_uring_peek_batch_cqe(ring: *mut IoUring, cqes: *mut *mut Cqe, count: c_uint) -> c_uint;
        pub fn io_uring_wait_cqes(
            ring: *mut IoUring,
            cqe: *mut *mut Cqe,
            count: c_uint,
            timeout: *mut c_void,
            signals: *mut c_void,
        ) -> c_int;
    }
}

/// A ring with its requests.
pub struct Ring {
    ring: Box<IoUring>,
    parts: Box<[iovec; DEPTH]>,
    busy: [bool; DEPTH],
    writes: [bool; DEPTH],
    late: [bool; DEPTH],
    memory: Memory,
    fixed: bool,
    queued: usize,
    /// Writes that have ended well.
    pub written: u64,
}

/// What to submit.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// One of the opcodes above.
    pub opcode: u8,
    /// To where.
    pub fd: c_int,
    /// From where in the file; -1 is its position.
    pub offset: i64,
    /// Bytes, at most [`ROOM`].
    pub length: usize,
    /// What the data is made of; an allocation takes its mode from it.
    pub stamp: u64,
    /// Those of pwritev2.
    pub flags: c_int,
}

impl Ring {
    /// None: the system allows none.
    #[inline(never)]
    pub fn new() -> Option<Ring> {
        // SAFETY: plain words, which io_uring_queue_init fills.
        let mut ring: Box<IoUring> = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: room for a ring.
        if unsafe { real::io_uring_queue_init(DEPTH as c_uint, &mut *ring, 0) } != 0 {
            return None;
        }
        let mut memory = Memory::new(DEPTH * ROOM);
        let all = iovec { iov_base: memory.bytes().as_mut_ptr().cast(), iov_len: DEPTH * ROOM };
        // SAFETY: one part, which stays mapped as long as the ring.
        let fixed = unsafe { real::io_uring_register_buffers(&mut *ring, &all, 1) } == 0;
        let parts = Box::new([(); DEPTH].map(|()| iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }));
        Some(Ring {
            ring,
            parts,
            busy: [false; DEPTH],
            writes: [false; DEPTH],
            late: [false; DEPTH],
            memory,
            fixed,
            queued: 0,
            written: 0,
        })
    }

    /// Whether WRITE_FIXED may be used.
    pub fn has_fixed(&self) -> bool {
        self.fixed
    }

    /// Queues a request; false: no room.
    #[inline(never)]
    pub fn queue(&mut self, wanted: &Wanted) -> bool {
        let Some(index) = self.busy.iter().position(|busy| !busy) else { return false };
        // SAFETY: a ring of io_uring_queue_init.
        let sqe = unsafe { real::io_uring_get_sqe(&mut *self.ring) };
        if sqe.is_null() {
            return false;
        }
        let data = &mut self.memory.bytes()[index * ROOM..(index + 1) * ROOM];
        crate::worker::fill(data, wanted.length, wanted.stamp);
        self.parts[index] = iovec { iov_base: data.as_mut_ptr().cast(), iov_len: wanted.length };
        let (address, length) = match wanted.opcode {
            WRITE_VECTOR | WRITE_VECTOR_FIXED => (std::ptr::from_ref(&self.parts[index]).addr(), 1),
            SYNC | TRUNCATE => (0, 0),
            ALLOCATE => (
                wanted.length,
                *[0, libc::FALLOC_FL_KEEP_SIZE as u32, 3].get(wanted.stamp as usize % 3).unwrap_or(&0),
            ),
            _ => (data.as_ptr().addr(), wanted.length as u32),
        };
        let request = Sqe {
            opcode: wanted.opcode,
            flags: 0,
            priority: 0,
            fd: wanted.fd,
            offset: if wanted.opcode == SYNC { 0 } else { wanted.offset as u64 },
            address: address as u64,
            length,
            operation_flags: wanted.flags as u32,
            user_data: index as u64,
            buffer_index: 0,
            personality: 0,
            file_index: 0,
            rest: [0; 2],
        };
        // SAFETY: the entry that liburing gave; data and parts stay where they are until it is reaped.
        unsafe { sqe.write(request) };
        self.busy[index] = true;
        self.queued += 1;
        self.late[index] = matches!(wanted.opcode, ALLOCATE | TRUNCATE);
        self.writes[index] = !matches!(wanted.opcode, SYNC | READ);
        true
    }

    /// Whether requests are queued that were not submitted.
    pub fn has_queued(&self) -> bool {
        self.queued > 0
    }

    fn submitted(&mut self, result: c_int) -> Outcome<usize> {
        let count = usize::try_from(result).map_err(|_| -result)?;
        self.queued = self.queued.saturating_sub(count);
        Ok(count)
    }

    /// Submits what is queued.
    #[inline(never)]
    pub fn submit(&mut self) -> Outcome<usize> {
        // SAFETY: a ring of io_uring_queue_init.
        let result = unsafe { real::io_uring_submit(&mut *self.ring) };
        if result == 0 {
            // A call before has taken all, and told something else.
            self.queued = 0;
        }
        self.submitted(result)
    }

    /// Submits what is queued and has the kernel post what has ended.
    #[inline(never)]
    pub fn submit_and_get_events(&mut self) -> Outcome<usize> {
        // SAFETY: a ring of io_uring_queue_init.
        let result = unsafe { real::io_uring_submit_and_get_events(&mut *self.ring) };
        self.submitted(result)
    }

    /// Submits what is queued and waits for one to end, at most for a moment.
    #[inline(never)]
    pub fn submit_and_wait_timeout(&mut self) -> Outcome<usize> {
        let (mut cqe, mut timeout) = (std::ptr::null_mut(), [0, 20_000_000]);
        // SAFETY: a ring, a place for a pointer, a timeout and no signals.
        let result = unsafe {
            real::io_uring_submit_and_wait_timeout(
                &mut *self.ring,
                &mut cqe,
                1,
                &mut timeout,
                std::ptr::null_mut(),
            )
        };
        match self.submitted(result) {
            // What was submitted is not told then.
            Err(libc::ETIME) => {
                self.queued = 0;
                Ok(1)
            }
            other => other,
        }
    }

    /// Waits for one to end, at most for a moment, and reaps.
    #[inline(never)]
    pub fn wait_timeout(&mut self) -> usize {
        let (mut cqe, mut timeout) = (std::ptr::null_mut(), [0, 20_000_000]);
        // SAFETY: a ring, a place for a pointer and a timeout.
        unsafe { real::io_uring_wait_cqe_timeout(&mut *self.ring, &mut cqe, &mut timeout) };
        self.reap()
    }

    /// Submits what is queued and waits for this many to end.
    #[inline(never)]
    pub fn submit_and_wait(&mut self, count: usize) -> Outcome<usize> {
        // SAFETY: a ring of io_uring_queue_init.
        let result = unsafe { real::io_uring_submit_and_wait(&mut *self.ring, count as c_uint) };
        self.submitted(result)
    }

    /// Reaps what has ended.
    #[inline(never)]
    pub fn reap(&mut self) -> usize {
        let mut cqes = [std::ptr::null_mut::<Cqe>(); DEPTH];
        // SAFETY: room for as many pointers.
        let count =
            unsafe { real::io_uring_peek_batch_cqe(&mut *self.ring, cqes.as_mut_ptr(), DEPTH as c_uint) };
        for cqe in &cqes[..count as usize] {
            // SAFETY: liburing points to entries that it does not give again until the head moves.
            let cqe = unsafe { cqe.read() };
            let index = cqe.user_data as usize;
            self.busy[index] = false;
            self.written += u64::from(self.writes[index] && cqe.result > 0);
        }
        // SAFETY: the ring's head, which only its reaper moves.
        unsafe { (*self.ring.completion.head).fetch_add(count, Ordering::Release) };
        count as usize
    }

    /// Whether a request is under way whose descriptor the kernel may not have looked at yet: those that it always hands
    /// to a worker look there.
    pub fn has_late(&self) -> bool {
        (0..DEPTH).any(|index| self.busy[index] && self.late[index])
    }

    /// Requests that have not been reaped.
    pub fn under_way(&self) -> usize {
        self.busy.iter().filter(|busy| **busy).count()
    }

    /// Submits what is queued and waits until nothing is under way.
    #[inline(never)]
    pub fn settle(&mut self) {
        while self.under_way() > 0 {
            let submitted = self.submit();
            let later = matches!(submitted, Ok(_) | Err(libc::EBUSY | libc::EINTR | libc::EAGAIN));
            assert!(later, "cannot submit: {submitted:?}");
            let mut cqe = std::ptr::null_mut();
            let none = std::ptr::null_mut();
            // SAFETY: a ring, a place for a pointer, no timeout and no signals.
            unsafe { real::io_uring_wait_cqes(&mut *self.ring, &mut cqe, 1, none, none) };
            self.reap();
        }
    }
}

impl Drop for Ring {
    #[inline(never)]
    fn drop(&mut self) {
        self.settle();
        // SAFETY: a ring of io_uring_queue_init, with nothing under way.
        unsafe { real::io_uring_queue_exit(&mut *self.ring) };
    }
}
