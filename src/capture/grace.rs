//! Waiting until every call that began before the hooks were in place is over (P15).

use std::collections::BTreeMap;
use std::ffi::{c_int, c_long, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::process::{self, Doing};
use super::{hook, syscall};
use crate::engine::error::{Error, Result};
use crate::tracker::tracker;

/// So long a thread may show nothing but "running", or sit in a call that must be made anew, before it is asked.
const PATIENCE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(1);
/// So long the answer to a signal is waited for; a thread in the kernel answers when it returns.
const ANSWER: Duration = Duration::from_millis(5);

/// How long an operation may take, and who may end it earlier.
pub struct Limit<'a> {
    /// When it began.
    pub start: Instant,
    /// How long it may take.
    pub deadline: Duration,
    /// Asked again and again.
    pub should_stop: &'a dyn Fn() -> bool,
}

impl Limit<'_> {
    /// Sleeps a little. An error when the time is over: what `who` says, or that it was interrupted.
    pub fn pause(&self, who: impl FnOnce() -> String) -> Result<()> {
        if (self.should_stop)() {
            return Err(Error::interrupted("it was still waiting for calls that began before it"));
        }
        if self.start.elapsed() >= self.deadline {
            return Err(Error::new(
                libc::ETIMEDOUT,
                format!(
                    "cannot start the backup: after {:.1} s {}; take the backup again when it is over",
                    self.deadline.as_secs_f64(),
                    who()
                ),
            ));
        }
        std::thread::sleep(POLL);
        Ok(())
    }
}

/// A thread that has not been seen outside of a call from before.
#[derive(Debug)]
struct Suspect {
    /// Since when it shows the same.
    since: Instant,
    last: Doing,
}

/// What is to be done about a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is in no call from before that changes files.
    Past,
    /// It may be; it ends by itself.
    Wait,
    /// Only the thread itself can tell, or it must be made to come back.
    Ask,
}

/// Waits for every thread but the calling one. `callers`: memory from which system calls are made.
pub fn wait_for_threads(callers: &[Range<usize>], limit: &Limit<'_>) -> Result<()> {
    // SAFETY: gettid has no preconditions.
    let me = unsafe { libc::gettid() };
    let mut suspects = BTreeMap::new();
    // Twice: a listing of /proc may miss one while others end. Who comes later has never called anything else than
    // our hooks.
    for thread in process::threads()?.into_iter().chain(process::threads()?).filter(|&thread| thread != me) {
        suspects.insert(thread, Suspect { since: Instant::now(), last: Doing::Gone });
    }
    loop {
        let seen: Vec<u32> = tracker().gate().slots().seen().collect();
        suspects.retain(|&thread, suspect| {
            if seen.contains(&(thread as u32)) {
                return false;
            }
            let doing = process::doing(thread);
            let same = match (doing, suspect.last) {
                (Doing::Call(now, _), Doing::Call(before, _)) => now == before,
                _ => doing == suspect.last,
            };
            if !same {
                *suspect = Suspect { since: Instant::now(), last: doing };
            }
            match judge(doing, callers) {
                Verdict::Past => false,
                Verdict::Ask if suspect.since.elapsed() >= PATIENCE => {
                    suspect.since = Instant::now();
                    let at = ask(thread);
                    // In a call it is made to return from it; running it tells where.
                    doing != Doing::Running || at.is_none_or(|at| at.judge(callers) != Verdict::Past)
                }
                _ => true,
            }
        });
        let Some((&thread, suspect)) = suspects.first_key_value() else { return Ok(()) };
        limit.pause(|| describe(thread, suspect.last))?;
    }
}

fn describe(thread: i32, doing: Doing) -> String {
    let what = match doing {
        Doing::Call(number, _) => format!("was still in {}", syscall::name(number)),
        _ => "could not be found outside of a system call".into(),
    };
    format!("thread {thread} ({}) {what}, which began before it", process::thread_name(thread))
}

fn judge(doing: Doing, callers: &[Range<usize>]) -> Verdict {
    match doing {
        Doing::Gone => Verdict::Past,
        Doing::Running => Verdict::Ask,
        Doing::Waiting(at) if callers.iter().any(|caller| caller.contains(&at)) => Verdict::Wait,
        Doing::Waiting(_) => Verdict::Past,
        Doing::Call(number, arguments) => judge_call(number, arguments),
    }
}

fn judge_call(number: c_long, arguments: [u64; 6]) -> Verdict {
    match number {
        // Comes back with events that nobody would look at: it is made to come back now and call again, through us.
        libc::SYS_io_getevents | syscall::IO_PGETEVENTS => Verdict::Ask,
        // One that only waits takes nothing from us: its completions stay in the ring.
        libc::SYS_io_uring_enter if arguments[1] == 0 => Verdict::Past,
        libc::SYS_io_uring_enter => Verdict::Ask,
        // Their files are found in the list of mappings.
        libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_mremap => Verdict::Past,
        libc::SYS_openat if arguments[2] as c_int & (libc::O_CREAT | libc::O_TRUNC) == 0 => Verdict::Past,
        _ if syscall::is_harmless(number) => Verdict::Past,
        _ => match syscall::changed_descriptor(number) {
            Some(argument) => {
                let fd = arguments.get(argument).copied().unwrap_or(u64::MAX) as c_int;
                match hook::stat(fd) {
                    Some(stat) if stat.is(libc::S_IFREG) || stat.is(libc::S_IFDIR) => Verdict::Wait,
                    _ => Verdict::Past,
                }
            }
            None => Verdict::Wait,
        },
    }
}

/// The signal that is used; 0: none is chosen yet.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Who is asked.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// Where it was; 0: it has not answered.
static INSTRUCTION: AtomicUsize = AtomicUsize::new(0);
/// Number and arguments of a system call, if it was about to make one there.
static CALL: [AtomicUsize; 7] = [const { AtomicUsize::new(0) }; 7];

/// What instructions make a system call.
#[cfg(target_arch = "x86_64")]
const SYSCALL: [u8; 2] = [0x0f, 0x05];
#[cfg(target_arch = "aarch64")]
const SYSCALL: [u8; 4] = 0xd400_0001_u32.to_le_bytes();

/// Where a thread was when it took the signal: then it was in no call, whatever it had been in before.
#[derive(Clone, Copy, Debug)]
struct At {
    instruction: usize,
    beside: usize,
    call: [u64; 7],
}

/// The thread was about to make a call: the kernel makes an interrupted one anew, so this is where one that waits is
/// found each time.
const BEFORE_CALL: usize = 1;
/// The thread had just come back from a call.
const AFTER_CALL: usize = 2;
/// What of the two it was; 0: neither.
static BESIDE: AtomicUsize = AtomicUsize::new(0);

impl At {
    fn judge(&self, callers: &[Range<usize>]) -> Verdict {
        if !callers.iter().any(|caller| caller.contains(&self.instruction)) {
            return Verdict::Past;
        }
        let [number, arguments @ ..] = self.call;
        match self.beside {
            BEFORE_CALL => judge_call(number as c_long, arguments),
            AFTER_CALL => Verdict::Past,
            _ => Verdict::Wait,
        }
    }
}

/// Looks at the code that the calling thread is executing, in that page only.
fn beside_call(instruction: usize) -> usize {
    let makes_call = |at: usize| {
        let page = |address: usize| address / 4096;
        page(at) == page(instruction)
            && page(at.wrapping_add(SYSCALL.len() - 1)) == page(instruction)
            // SAFETY: in the page of an instruction of this thread's, which nobody unmaps meanwhile.
            && unsafe { std::ptr::read_unaligned(at as *const [u8; SYSCALL.len()]) } == SYSCALL
    };
    if makes_call(instruction) {
        BEFORE_CALL
    } else if makes_call(instruction.wrapping_sub(SYSCALL.len())) {
        AFTER_CALL
    } else {
        0
    }
}

/// Stays installed for ever, because a signal may be delivered late. Async-signal-safe: atomics and gettid.
extern "C" fn answer(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: gettid has no preconditions.
    if unsafe { libc::gettid() } != ASKED.load(Ordering::SeqCst) {
        return;
    }
    // SAFETY: a handler with SA_SIGINFO gets a ucontext_t.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    let (instruction, call) = {
        use libc::{REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RIP, REG_RSI};
        let registers = &context.uc_mcontext.gregs;
        let register = |number: c_int| registers.get(number as usize).copied().unwrap_or_default() as usize;
        let call = [REG_RAX, REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9];
        (register(REG_RIP), call.map(register))
    };
    #[cfg(target_arch = "aarch64")]
    let (instruction, call) = {
        let [a, b, c, d, e, f, _, _, number, ..] = context.uc_mcontext.regs;
        (context.uc_mcontext.pc as usize, [number, a, b, c, d, e, f].map(|register| register as usize))
    };
    for (slot, register) in CALL.iter().zip(call) {
        slot.store(register, Ordering::SeqCst);
    }
    BESIDE.store(beside_call(instruction), Ordering::SeqCst);
    INSTRUCTION.store(instruction, Ordering::SeqCst);
}

/// Chooses a real-time signal that nobody handles and installs our handler; the same one ever after.
fn signal() -> Option<c_int> {
    let chosen = SIGNAL.load(Ordering::SeqCst);
    if chosen != 0 {
        return Some(chosen);
    }
    // SAFETY: a struct of integers and a mask.
    let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
    ours.sa_sigaction = answer as *const () as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    let chosen = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(|&signal| {
        // SAFETY: as above; sigaction writes it.
        let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: valid structs; a handler that is async-signal-safe.
        unsafe {
            libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0
                && now.sa_sigaction == libc::SIG_DFL
                && libc::sigaction(signal, &raw const ours, std::ptr::null_mut()) == 0
        }
    })?;
    SIGNAL.store(chosen, Ordering::SeqCst);
    Some(chosen)
}

/// Sends the thread a signal and waits a moment for the place that it was at.
fn ask(thread: i32) -> Option<At> {
    let signal = signal()?;
    INSTRUCTION.store(0, Ordering::SeqCst);
    ASKED.store(thread, Ordering::SeqCst);
    // SAFETY: a signal with a handler, to a thread of this process; a thread that has ended is an error.
    if unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) } != 0 {
        return None;
    }
    let start = Instant::now();
    let mut instruction = 0;
    while instruction == 0 && start.elapsed() < ANSWER {
        std::thread::yield_now();
        instruction = INSTRUCTION.load(Ordering::SeqCst);
    }
    ASKED.store(0, Ordering::SeqCst);
    let call = CALL.each_ref().map(|slot| slot.load(Ordering::SeqCst) as u64);
    let beside = BESIDE.load(Ordering::SeqCst);
    (instruction != 0).then_some(At { instruction, beside, call })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// One thread is asked at a time.
    static ASKING: std::sync::Mutex<()> = std::sync::Mutex::new(());

    #[test]
    fn only_a_call_that_changes_files_is_waited_for() {
        let futex = [0; 6];
        assert_eq!(judge_call(libc::SYS_futex, futex), Verdict::Past);
        assert_eq!(judge_call(libc::SYS_renameat2, futex), Verdict::Wait);
        assert_eq!(judge_call(libc::SYS_io_getevents, futex), Verdict::Ask);
        assert_eq!(judge_call(libc::SYS_io_uring_enter, [3, 0, 1, 1, 0, 0]), Verdict::Past);
        assert_eq!(judge_call(libc::SYS_io_uring_enter, [3, 1, 0, 0, 0, 0]), Verdict::Ask);
        let file = std::fs::File::open("/proc/self/exe").expect("our own file");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file) as u64;
        assert_eq!(judge_call(libc::SYS_pwrite64, [fd, 0, 0, 0, 0, 0]), Verdict::Wait);
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&null) as u64;
        assert_eq!(judge_call(libc::SYS_pwrite64, [fd, 0, 0, 0, 0, 0]), Verdict::Past);
    }

    #[test]
    fn a_running_thread_tells_where_it_is() {
        let _asking = ASKING.lock();
        static STOP: AtomicBool = AtomicBool::new(false);
        static AT: AtomicI32 = AtomicI32::new(0);
        let runner = std::thread::spawn(|| {
            // SAFETY: gettid has no preconditions.
            AT.store(unsafe { libc::gettid() }, Ordering::SeqCst);
            while !STOP.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        });
        while AT.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let program = process::mappings()
            .expect("maps")
            .into_iter()
            .find(|mapping| mapping.at.contains(&(a_running_thread_tells_where_it_is as *const () as usize)))
            .expect("the test's own code");
        // Under a sanitizer it is sometimes in the sanitizer's code.
        let mut asked = (0..1000).filter_map(|_| ask(AT.load(Ordering::SeqCst)));
        let found = asked.any(|at| program.at.contains(&at.instruction));
        STOP.store(true, Ordering::SeqCst);
        runner.join().expect("no panic");
        assert!(found, "not in {program:x?}");
    }

    #[test]
    fn a_thread_that_waits_in_a_call_tells_which() {
        let _asking = ASKING.lock();
        let (told, tid) = std::sync::mpsc::channel();
        let (mut end, mut ended) = std::io::pipe().expect("a pipe");
        let waiter = std::thread::spawn(move || {
            // SAFETY: gettid has no preconditions.
            told.send(unsafe { libc::gettid() }).expect("the test waits");
            std::io::Read::read(&mut end, &mut [0]).expect("a byte")
        });
        let tid = tid.recv().expect("the thread's id");
        while !matches!(process::doing(tid), Doing::Call(libc::SYS_read, _)) {
            std::thread::yield_now();
        }
        let mut at = None;
        while at.is_none() {
            at = ask(tid);
        }
        let at = at.expect("an answer");
        assert_eq!((at.beside, at.call[0]), (BEFORE_CALL, libc::SYS_read as u64), "{at:x?}");
        let everywhere = std::slice::from_ref(&(0..usize::MAX));
        assert_eq!(at.judge(everywhere), Verdict::Past, "reading changes nothing");
        let writes = At { call: [libc::SYS_renameat2 as u64, 0, 0, 0, 0, 0, 0], ..at };
        assert_eq!(writes.judge(everywhere), Verdict::Wait);
        assert_eq!(At { beside: AFTER_CALL, ..writes }.judge(everywhere), Verdict::Past);
        assert_eq!(At { beside: 0, ..writes }.judge(everywhere), Verdict::Wait);
        std::io::Write::write_all(&mut ended, b"x").expect("room in the pipe");
        waiter.join().expect("no panic");
    }
}
