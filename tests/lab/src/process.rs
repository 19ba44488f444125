//! Child processes that cannot outlive us, and waiting for their end with a deadline.

use anyhow::{Context, Result, bail};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Starts the command so that the kernel kills it (SIGKILL) when this process ends, in whatever way it ends.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn_bound(mut command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();

    // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent's.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    // The signal comes when the *thread* that forked ends, so one thread that never ends does it for all.
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (reply, answer) = channel();
    spawner.lock().map_err(|_| gone())?.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// Waits until the child has ended and reaps it.
///
/// # Errors
/// When it has not ended in time; it then still runs.
pub fn wait_until(child: &mut Child, deadline: Instant) -> Result<ExitStatus> {
    let pid = child.id();
    // SAFETY: the call takes a process id and flags; the child is not reaped yet, so the number is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd @ 0..) = i32::try_from(fd) else {
        bail!("cannot watch process {pid}: {}", io::Error::last_os_error());
    };
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut event = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, alive during the call.
        match unsafe { libc::poll(&raw mut event, 1, millis) } {
            0 => bail!("process {pid} still runs"),
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => bail!("cannot watch process {pid}: {}", io::Error::last_os_error()),
            _ => return child.wait().with_context(|| format!("cannot reap process {pid}")),
        }
    }
}

/// Sends a signal to a child that is not reaped yet.
///
/// # Errors
/// As `kill(2)`.
pub fn signal(child: &Child, signal: i32) -> Result<()> {
    let pid = i32::try_from(child.id()).context("a process id beyond the kernel's range")?;
    // SAFETY: kill touches no memory; the child is not reaped, so the number is its own.
    if unsafe { libc::kill(pid, signal) } != 0 {
        bail!("cannot send signal {signal} to process {pid}: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// Kills the child and reaps it.
pub fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = wait_until(child, Instant::now() + Duration::from_secs(60));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    /// Set for the process that is to be killed: this test's program once more.
    const VICTIM: &str = "LAB_PROCESS_TEST_VICTIM";

    #[test]
    fn children_die_with_us() {
        let sleep = |seconds: &str| {
            let mut command = Command::new("sleep");
            command.arg(seconds);
            command
        };
        if std::env::var_os(VICTIM).is_some() {
            let mut child = spawn_bound(sleep("600")).unwrap();
            println!("child={}", child.id());
            child.wait().unwrap();
            return;
        }
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::tests::children_die_with_us", "--nocapture"])
            .env(VICTIM, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(victim.stdout.take().unwrap());
        let pid = said.lines().find_map(|l| Some(l.unwrap().split_once("child=")?.1.to_owned())).unwrap();
        // SAFETY: takes a process id and flags.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.parse::<i32>().unwrap(), 0) };
        let mut event = libc::pollfd { fd: i32::try_from(fd).unwrap(), events: libc::POLLIN, revents: 0 };
        assert!(event.fd >= 0, "the child runs while its parent does");
        kill(&mut victim);
        // SAFETY: one pollfd, alive during the call.
        assert_eq!(unsafe { libc::poll(&raw mut event, 1, 10_000) }, 1, "the child has outlived its parent");

        let mut child = spawn_bound(sleep("600")).unwrap();
        assert!(wait_until(&mut child, Instant::now() + Duration::from_millis(50)).is_err());
        signal(&child, libc::SIGTERM).unwrap();
        assert!(!wait_until(&mut child, Instant::now() + Duration::from_secs(10)).unwrap().success());
    }
}
