//! What /proc tells of this process: threads, mappings, rings.

#[cfg(test)]
pub(crate) mod fuzz;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::engine::error::{Error, Result};
use crate::tracker::Key;

/// A line of /proc/self/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Addresses.
    pub at: Range<usize>,
    /// Seen by others.
    pub is_shared: bool,
    /// May be written now.
    pub is_writable: bool,
    device: u64,
    inode: u64,
    /// The file, or what the kernel calls it.
    pub name: String,
}

impl Mapping {
    fn parse(line: &str) -> Option<Mapping> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let inode = fields.next()?.parse().ok()?;
        Some(Mapping {
            at: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
            is_shared: rights.ends_with('s'),
            is_writable: rights.contains('w'),
            device: libc::makedev(number(major)?, number(minor)?),
            inode,
            name: fields.collect::<Vec<_>>().join(" "),
        })
    }

    /// The mapped file, as stat(2) numbers it: some file systems show another device in maps.
    pub fn key(&self) -> Key {
        let device = fs::metadata(&self.name)
            .ok()
            .filter(|found| found.ino() == self.inode)
            .map_or(self.device, |found| found.dev());
        Key { dev: device, ino: self.inode }
    }

    /// The completion ring of a libaio context.
    pub fn is_aio(&self) -> bool {
        self.name.starts_with("/[aio]")
    }

    /// Memory of an io_uring.
    pub fn is_uring(&self) -> bool {
        self.name.contains("[io_uring]")
    }
}

fn read(path: &str) -> Result<String> {
    // Names of mapped files may be anything.
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|cause| Error::io("read", Path::new(path), &cause))
}

fn list(path: &str) -> Result<Vec<i32>> {
    let entries = fs::read_dir(path).map_err(|cause| Error::io("list", Path::new(path), &cause))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// All mappings.
pub fn mappings() -> Result<Vec<Mapping>> {
    Ok(read("/proc/self/maps")?.lines().filter_map(Mapping::parse).collect())
}

/// An io_uring's descriptor and what the kernel tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UringState {
    /// The descriptor.
    pub fd: i32,
    /// Which ring it is: another one on the same descriptor has another number.
    pub inode: u64,
    /// Requests that the kernel has taken, ever. `None`: this kernel does not tell.
    pub taken: Option<u32>,
    /// Requests that it has not ended.
    pub in_flight: u32,
    /// The kernel takes requests by itself.
    pub has_thread: bool,
}

impl UringState {
    fn parse(fd: i32, text: &str) -> UringState {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<i64>().ok())
        };
        let taken = field("CachedSqHead").map(|taken| taken as u32);
        let done = field("CachedCqTail").unwrap_or(0) as u32;
        // More completions than requests: one of those that complete many times.
        let in_flight = taken.map_or(0, |taken| taken.wrapping_sub(done)) as i32;
        UringState {
            fd,
            inode: field("ino").unwrap_or(0) as u64,
            taken,
            in_flight: in_flight.max(0) as u32,
            has_thread: field("SqThread").is_some_and(|thread| thread > 0),
        }
    }
}

/// All io_urings that this process has a descriptor of.
pub fn urings() -> Result<Vec<UringState>> {
    let mut rings = Vec::new();
    for fd in list("/proc/self/fd")? {
        let is_ring = fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|link| link.as_os_str() == "anon_inode:[io_uring]");
        if is_ring && let Ok(text) = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) {
            rings.push(UringState::parse(fd, &text));
        }
    }
    Ok(rings)
}

/// The kernel ids of the threads, without those that the kernel made to run requests of an io_uring.
pub fn threads() -> Result<Vec<i32>> {
    const PF_IO_WORKER: u64 = 0x10;
    const PF_USER_WORKER: u64 = 0x4000;
    let is_worker = |thread: &i32| {
        fs::read_to_string(format!("/proc/self/task/{thread}/stat")).is_ok_and(|stat| {
            // The name, in parentheses, may hold anything; the flags are the seventh field behind it.
            stat.rsplit_once(')')
                .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok())
                .is_some_and(|flags| flags & (PF_IO_WORKER | PF_USER_WORKER) != 0)
        })
    };
    Ok(list("/proc/self/task")?.into_iter().filter(|thread| !is_worker(thread)).collect())
}

/// A thread's name, for messages.
pub fn thread_name(thread: i32) -> String {
    fs::read_to_string(format!("/proc/self/task/{thread}/comm"))
        .map_or_else(|_| "?".into(), |name| name.trim().into())
}

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It has ended.
    Gone,
    /// It is on a processor, or could be: nothing more is known.
    Running,
    /// It waits, but not in a system call (for a page): the instruction.
    Waiting(usize),
    /// It waits in a system call.
    Call(i64, [u64; 6]),
}

impl Doing {
    fn parse(text: &str) -> Doing {
        let mut fields = text.split_ascii_whitespace();
        let Some(number) = fields.next().and_then(|number| number.parse::<i64>().ok()) else {
            return Doing::Running;
        };
        let values: Vec<u64> =
            fields.filter_map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).ok()).collect();
        if number < 0 {
            return values.last().map_or(Doing::Running, |&instruction| Doing::Waiting(instruction as usize));
        }
        match values.first_chunk::<6>() {
            Some(arguments) => Doing::Call(number, *arguments),
            None => Doing::Running,
        }
    }
}

/// What a thread of this process is doing (proc_pid_syscall(5)).
pub fn doing(thread: i32) -> Doing {
    match fs::read_to_string(format!("/proc/self/task/{thread}/syscall")) {
        Ok(text) => Doing::parse(&text),
        Err(cause) if matches!(cause.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Doing::Gone,
        // A server that was started as root and then gave its rights away may not read it, nor do all kernels have it.
        Err(_) => by_wait_channel(thread),
    }
}

/// Functions of the kernel in which a thread waits that is in a call which changes no file, by the beginnings of
/// their names, and a call that waits there.
const WAIT_CHANNELS: [(&str, i64); 19] = [
    ("futex_", libc::SYS_futex),
    ("poll_schedule_timeout", libc::SYS_ppoll),
    ("do_poll", libc::SYS_ppoll),
    ("do_select", libc::SYS_pselect6),
    ("ep_poll", libc::SYS_epoll_pwait),
    ("do_epoll_wait", libc::SYS_epoll_pwait),
    ("hrtimer_nanosleep", libc::SYS_clock_nanosleep),
    ("do_nanosleep", libc::SYS_clock_nanosleep),
    ("do_sigtimedwait", libc::SYS_rt_sigtimedwait),
    ("sigsuspend", libc::SYS_rt_sigsuspend),
    ("inet_csk_accept", libc::SYS_accept4),
    ("__skb_wait_for_more_packets", libc::SYS_recvfrom),
    ("unix_stream_data_wait", libc::SYS_recvfrom),
    ("unix_stream_read_generic", libc::SYS_recvfrom),
    ("sk_wait_data", libc::SYS_recvfrom),
    ("wait_woken", libc::SYS_recvfrom),
    ("do_wait", libc::SYS_wait4),
    ("io_cqring_wait", libc::SYS_io_uring_enter),
    ("read_events", libc::SYS_io_getevents),
];

/// What a thread waits for, as /proc/PID/wchan tells every thread of the same process (proc_pid_wchan(5)).
fn by_wait_channel(thread: i32) -> Doing {
    let read = |what| fs::read_to_string(format!("/proc/self/task/{thread}/{what}"));
    let (Ok(before), Ok(stat), Ok(after)) = (read("wchan"), read("stat"), read("wchan")) else {
        return Doing::Gone;
    };
    // Asleep so that a signal would wake it: nobody writes a regular file in that state.
    let asleep = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S'));
    let call = WAIT_CHANNELS.iter().find(|(channel, _)| before == after && after.starts_with(channel));
    match call {
        Some(&(_, call)) if asleep => Doing::Call(call, [0; 6]),
        _ => Doing::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_with_their_names() {
        let line =
            "7f72c3eb3000-7f72c3eb4000 rw-s 00000000 08:13 139447                     /d/a b (deleted)";
        let mapping = Mapping::parse(line).expect("a mapping");
        assert_eq!(mapping.at, 0x7f72_c3eb_3000..0x7f72_c3eb_4000);
        assert!(mapping.is_shared && mapping.is_writable);
        assert_eq!(mapping.key(), Key { dev: libc::makedev(8, 0x13), ino: 139_447 });
        assert_eq!(mapping.name, "/d/a b (deleted)");
        assert!(mappings().expect("maps").iter().any(|mapping| !mapping.is_shared && mapping.is_writable));
    }

    #[test]
    fn a_waiting_thread_is_known_by_its_wait_channel() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            // SAFETY: gettid has no preconditions.
            tell.send(unsafe { libc::gettid() }).expect("somebody listens");
            let _ = receive.recv();
        });
        let thread = told.recv().expect("the thread tells");
        while by_wait_channel(thread) != Doing::Call(libc::SYS_futex, [0; 6]) {
            std::thread::yield_now();
        }
        drop(send);
        waiter.join().expect("no panic");
        // SAFETY: gettid has no preconditions.
        let me = unsafe { libc::gettid() };
        assert_eq!(by_wait_channel(me), Doing::Running, "one that runs waits for nothing");
    }

    #[test]
    fn a_ring_tells_what_is_in_flight() {
        let text = "ino:\t77\nSqHead:\t7\nCachedSqHead:\t9\nCachedCqTail:\t4\nSqThread:\t-1\n";
        let ring = UringState { fd: 5, inode: 77, taken: Some(9), in_flight: 5, has_thread: false };
        assert_eq!(UringState::parse(5, text), ring);
        assert!(UringState::parse(5, "SqThread:\t4711\n").has_thread);
        assert_eq!(UringState::parse(5, "pos:\t0\n").taken, None);
    }

    #[test]
    fn a_thread_runs_or_waits_in_a_call() {
        assert_eq!(Doing::parse("running\n"), Doing::Running);
        assert_eq!(Doing::parse("-1 0x7ffd19dfc48 0x7f72c3d9dbd3\n"), Doing::Waiting(0x7f72_c3d9_dbd3));
        assert_eq!(
            Doing::parse("61 0x197e 0x2 0x0 0x0 0x1 0x0 0x7fffd19dfc38 0x7f72c3d9dbd3\n"),
            Doing::Call(61, [0x197e, 2, 0, 0, 1, 0])
        );
    }

    #[test]
    fn a_thread_that_waits_is_seen_in_its_call() {
        let (told, tid) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let waiter = std::thread::spawn(move || {
            // SAFETY: gettid has no preconditions.
            told.send(unsafe { libc::gettid() }).expect("the test waits");
            ended.recv().expect_err("nothing is sent");
        });
        let tid = tid.recv().expect("the thread's id");
        assert!(threads().expect("threads").contains(&tid));
        while !matches!(doing(tid), Doing::Call(libc::SYS_futex, _)) {
            std::thread::yield_now();
        }
        drop(end);
        waiter.join().expect("no panic");
        while doing(tid) != Doing::Gone {
            std::thread::yield_now();
        }
    }
}
