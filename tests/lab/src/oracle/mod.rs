//! The coverage oracle: strace watches a server whose backup stands still while clients do all that changes files, and
//! every call that changed a file of the data directory must have been seen by capture.
//!
//! - [`log`] reads what strace wrote;
//! - [`judge`] compares calls with marks;
//! - [`content`] compares the files themselves with marks, which needs no strace: what io_uring wrote, or a mapping;
//! - [`deeds`] is what clients do beside the workload of the soak.

mod content;
mod deeds;
mod judge;
mod log;

use crate::client::Conn;
use crate::features::Features;
use crate::load::Load;
use crate::rng::Rng;
use crate::scratch::Scratch;
use crate::server::{Options, Server};
use crate::{built, ddl, workload};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Calls that change no file, and that strace need not stop at. What is in neither of this list and of the judge's
/// tables fails the oracle.
const HARMLESS: &[&str] = &[
    // Read, look, wait, write out.
    "read pread64 readv preadv preadv2 readahead fadvise64 getdents getdents64 readlink readlinkat getcwd chdir fchdir",
    "access faccessat faccessat2 statfs fstatfs statx stat lstat getxattr lgetxattr fgetxattr listxattr llistxattr",
    "flistxattr name_to_handle_at poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2",
    "eventfd2 signalfd4 timerfd_create timerfd_settime inotify_init1 inotify_add_watch inotify_rm_watch fsync fdatasync",
    "sync_file_range sync syncfs msync io_setup io_destroy io_getevents io_pgetevents io_uring_setup io_uring_register",
    // Descriptors.
    "close close_range dup dup2 dup3 fcntl flock pipe pipe2",
    // Sockets.
    "socket socketpair bind listen accept accept4 connect shutdown sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg",
    "getsockname getpeername setsockopt getsockopt",
    // Memory.
    "munmap brk madvise mlock mlockall munlock mincore mbind set_mempolicy get_mempolicy process_vm_readv pkey_alloc",
    "pkey_free pkey_mprotect membarrier",
    // Threads, signals, time, the process itself.
    "futex futex_wait futex_wake futex_waitv clone clone3 vfork fork execve exit exit_group wait4 waitid set_robust_list",
    "get_robust_list rseq set_tid_address arch_prctl prctl sched_yield sched_getaffinity sched_setaffinity",
    "sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min getpriority",
    "setpriority rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait rt_sigsuspend rt_sigpending sigaltstack kill",
    "tgkill tkill pidfd_open restart_syscall nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time",
    "times timer_create timer_settime timer_delete alarm setitimer pause getpid gettid getppid getuid geteuid getgid",
    "getegid getgroups setsid getsid getpgrp getrusage getrlimit setrlimit prlimit64 sysinfo uname getrandom getcpu",
    "capget capset umask personality",
];

/// The error of a statement that was killed.
const KILLED: u32 = 1317;
/// Longest wait for what should come soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// How an oracle is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name.
    pub server: String,
    /// How long the load of the soak runs, after the deeds.
    pub load: Duration,
    /// What the load does is a function of it.
    pub seed: u64,
    /// Hooks that are left out: the control.
    pub dropped: String,
    /// Where what strace wrote and the server's log are kept.
    pub keep: Option<PathBuf>,
}

/// What an oracle saw.
#[derive(Debug)]
pub struct Report {
    /// Judged changes by call.
    pub changes: BTreeMap<String, u64>,
    /// Calls that escaped by construction, on files that capture knows as such (P24), by path.
    pub unseen: BTreeMap<String, u64>,
    /// Asynchronous writes, and those of them that were over.
    pub flights: [u64; 2],
    /// Files whose content has changed, and their changed ranges.
    pub contents: [usize; 2],
    /// Statements of the deeds that the server refused.
    pub refused: Vec<String>,
    /// What capture has missed.
    pub problems: judge::Problems,
}

/// Runs one oracle and prints what it saw. Whether nothing was missed.
///
/// # Errors
/// When something other than what is under test fails.
pub fn run(settings: &Settings) -> Result<bool> {
    let report = watch(settings)?;
    println!("oracle: {} seed {}: {report:#?}", settings.server, settings.seed);
    println!("oracle: {}", if report.problems.is_empty() { "ok" } else { "FAILED" });
    Ok(report.problems.is_empty())
}

/// A program for [`Options::wrapper`] that runs the server under strace, which writes to `folder`; it holds a lock on
/// the file `alive` for as long as it runs.
fn strace(home: &Path, folder: &Path, alive: &Path) -> Result<PathBuf> {
    let calls: Vec<&str> = HARMLESS.iter().flat_map(|names| names.split(' ')).collect();
    let script = home.join("strace.sh");
    let text = format!(
        "#!/bin/sh\nexec 9>'{}'\nflock --shared 9\nexec strace -D -q -ff --seccomp-bpf -y -s 120 -e signal=none \
         --absolute-timestamps=format:unix,precision:ns -e abbrev='!?fstat,?newfstatat,?io_submit' -e trace='!?{}' \
         -o '{}' \"$@\"\n",
        alive.display(),
        calls.join(",?"),
        folder.join("t").display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    Ok(script)
}

/// Watches a server.
///
/// # Errors
/// When something other than what is under test fails.
pub fn watch(settings: &Settings) -> Result<Report> {
    let scratch = Scratch::new(&format!("oracle-{}", settings.server))?;
    let home = scratch.path();
    let (folder, alive) = (home.join("trace"), home.join("alive"));
    fs::create_dir(&folder)?;
    let mut options = Options { plugins: vec![built::plugin()?], ..Options::default() };
    options.args = ["--log-bin=bl", "--server-id=1"].map(str::to_owned).to_vec();
    if settings.server.ends_with("-engines") {
        // It cannot be installed while the server runs.
        options.args.push("--plugin-load-add=ha_rocksdb".into());
    }
    let mut set = |name: &str, value: &str| options.env.push((name.to_owned(), value.to_owned()));
    set("TOKUDB_BACKUP_TEST", "1");
    set("TOKUDB_BACKUP_TEST_TRACE", "1");
    set("TOKUDB_BACKUP_TEST_DROP_HOOKS", &settings.dropped);
    let mut server = Server::create(&settings.server, home, options)?;
    // In the data directory: libc writes it by itself (P24).
    server.options.args.push(format!("--log-error={}", server.data().join("error.err").display()));
    server.options.wrapper = Some(strace(home, &folder, &alive)?);
    server.start()?;
    let mut conn = server.connect()?;
    let features = Features::of(&mut conn)?;
    let rng = Rng::new(settings.seed);
    workload::prepare(&mut conn, &features, &mut rng.fork(1), 0)?;
    workload::begin_round(&mut conn, &features)?;
    ddl::begin_round(&mut conn, &features)?;
    conn.exec("INSTALL PLUGIN tokudb_backup SONAME 'tokudb_backup.so'")?;

    let mut backup = server.connect()?;
    let id = backup.id();
    backup.exec("SET tokudb_backup_throttle = 0")?;
    let sql = format!("SET tokudb_backup_dir = '{}'", home.join("backup").display());
    let backup = std::thread::spawn(move || backup.exec(sql).map(drop));
    await_copying(&mut conn)?;
    let mut before = BTreeMap::new();
    content::read(server.data(), &mut before)?;

    let refused = match deeds::all(&server, &features) {
        Ok(refused) => refused,
        Err(error) => {
            // It says why before it ends.
            let _ = server.wait(PATIENCE);
            return Err(error).context(log_of(&server));
        }
    };
    let mut load = Load::new(server.conn_options(), 1);
    workload::start(&mut load, &features, 1, &rng)?;
    ddl::start(&mut load, &features, &rng)?;
    std::thread::sleep(settings.load);
    let (_, failures) = load.stop();
    let mut after = BTreeMap::new();
    content::read(server.data(), &mut after)?;

    conn.exec(format!("KILL QUERY {id}"))?;
    let ended = backup.join().map_err(|_| anyhow::anyhow!("the backup's client panicked"))?;
    server.kill9();
    await_end(&alive)?;

    if let Some(keep) = &settings.keep {
        fs::rename(&folder, keep).with_context(|| format!("cannot move the trace to {}", keep.display()))?;
    }
    let threads = log::read(settings.keep.as_ref().unwrap_or(&folder))?;
    let marks = judge::Marks::of(&threads);
    // The kernel shows paths to strace as they are outside of the server's own root.
    let outer = server.installation.root().canonicalize()?.display().to_string();
    let mut verdict = judge::judge(&threads, &marks, &server.data().display().to_string(), &outer);
    for failure in failures {
        verdict.add("a client met an error that it did not expect", failure.text);
    }
    let mut contents = [0; 2];
    for (key, file) in &before {
        let changes = after.get(key).map(|after| file.changes(after)).unwrap_or_default();
        contents[0] += usize::from(!changes.is_empty());
        contents[1] += changes.len();
        let is_missed =
            |range: &&std::ops::Range<u64>| !marks.unseen.contains(key) && !marks.touch(*key, range);
        if let Some(missed) = changes.iter().find(is_missed) {
            verdict
                .add("a file has changed without a mark", format!("{} in {missed:?}", file.path.display()));
        }
    }
    if let Some(error) = ended.err().filter(|error| error.code != KILLED) {
        verdict.add("the backup ended by itself", error.to_string());
    }
    let judge::Verdict { changes, unseen, flights, problems } = verdict;
    Ok(Report { changes, unseen, flights, contents, refused, problems })
}

/// Waits until capture is attached and the first copying stands still.
fn await_copying(conn: &mut Conn) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let rows = conn.query("SHOW GLOBAL STATUS LIKE 'tokudb_backup_state'")?.texts();
        match rows.first().map(|row| row[1].as_str()) {
            Some("copying") => return Ok(()),
            state if Instant::now() > end => bail!("the backup does not begin to copy: it is {state:?}"),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Waits until strace has written all and has ended.
fn await_end(alive: &Path) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let file = fs::File::open(alive).with_context(|| format!("cannot open {}", alive.display()))?;
    while file.try_lock().is_err() {
        if Instant::now() > end {
            bail!("strace outlives the server that it watched");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn log_of(server: &Server) -> String {
    crate::server::tail(&server.data().join("error.err"), 60)
}
