//! A file system that passes everything through to a directory, until it is told to fail, to hang, or to go away.
//!
//! A call that hangs is only not answered: the file system goes on with all others, so that nobody but the caller waits.
//! Nothing is cached: every call that the kernel makes is seen, so that the n-th of them can be the one that fails.

mod behind;
mod passing;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use behind::Behind;

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Symlink,
    Mkdir,
    Unlink,
    Rmdir,
    Rename,
    Link,
    Create,
    Open,
    Read,
    Write,
    Fallocate,
    Flush,
    Release,
    /// fsync of a file or a directory.
    Sync,
    Opendir,
    Readdir,
    Releasedir,
    Statfs,
    Getxattr,
    Listxattr,
    Setxattr,
    Removexattr,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this errno; nothing is done.
    Fails(i32),
    /// A write writes the first half only; everything else goes well.
    Short,
    /// It is not answered until [`Faulty::release`], and then done.
    Hangs,
    /// The file system goes away: this call, and every later one (ENOTCONN).
    Dies,
}

/// Which calls fail, counted from when it is armed.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Only these are counted.
    op: Option<Op>,
    first: u64,
    last: u64,
    fault: Fault,
}

#[derive(Default)]
struct Rules {
    rule: Option<Rule>,
    counted: u64,
    struck: Option<String>,
    held: Vec<Box<dyn FnOnce() + Send>>,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Rules>,
    bell: Condvar,
    behind: Behind,
    mounted: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The mounted file system; gone, with nobody waiting for it, when dropped.
pub struct Faulty {
    shared: Arc<Shared>,
    behind: PathBuf,
    _session: fuser::BackgroundSession,
}

impl Faulty {
    /// Shows the directory `behind` at `at`; both exist.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(behind: &Path, at: &Path) -> io::Result<Faulty> {
        let shared =
            Arc::new(Shared { behind: Behind::new(behind)?, mounted: at.to_owned(), ..Shared::default() });
        let session = fuser::spawn_mount(passing::Passing(shared.clone()), at, &fuser::Config::default())?;
        Ok(Faulty { shared, behind: behind.to_owned(), _session: session })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.shared.mounted
    }

    /// The directory that it shows.
    pub fn behind(&self) -> &Path {
        &self.behind
    }

    /// From now on every `op` fails.
    pub fn arm(&self, op: Op, fault: Fault) {
        self.set(Rule { op: Some(op), first: 1, last: u64::MAX, fault });
    }

    /// The n-th call from now on fails, whatever it is (n begins at 1; a short write: the n-th write).
    pub fn arm_nth(&self, n: u64, fault: Fault) {
        self.set(Rule { op: only(fault), first: n, last: n, fault });
    }

    /// The n-th call from now on fails, and all that come after it.
    pub fn arm_from(&self, n: u64, fault: Fault) {
        self.set(Rule { op: only(fault), first: n, last: u64::MAX, fault });
    }

    /// The n-th `op` from now on fails.
    pub fn arm_kind_nth(&self, op: Op, n: u64, fault: Fault) {
        self.set(Rule { op: Some(op), first: n, last: n, fault });
    }

    /// The n-th `op` from now on fails, and all that come after it.
    pub fn arm_kind_from(&self, op: Op, n: u64, fault: Fault) {
        self.set(Rule { op: Some(op), first: n, last: u64::MAX, fault });
    }

    fn set(&self, rule: Rule) {
        let mut rules = lock(&self.shared.rules);
        (rules.rule, rules.counted, rules.struck) = (Some(rule), 0, None);
    }

    /// How many calls were counted since it was armed.
    pub fn counted(&self) -> u64 {
        lock(&self.shared.rules).counted
    }

    /// The first call that failed since it was armed: what it was.
    pub fn struck(&self) -> Option<String> {
        lock(&self.shared.rules).struck.clone()
    }

    /// Waits until a call hangs; false when none does in time, or as soon as `over`, which is asked now and then.
    pub fn wait_held(&self, patience: Duration, mut over: impl FnMut() -> bool) -> bool {
        let until = std::time::Instant::now() + patience;
        let mut rules = lock(&self.shared.rules);
        while rules.held.is_empty() {
            if std::time::Instant::now() > until || over() {
                return false;
            }
            rules = self
                .shared
                .bell
                .wait_timeout(rules, Duration::from_millis(5))
                .unwrap_or_else(|poison| poison.into_inner())
                .0;
        }
        true
    }

    /// How many calls hang.
    pub fn held(&self) -> usize {
        lock(&self.shared.rules).held.len()
    }

    /// All is well again; what hangs is done now.
    pub fn release(&self) {
        let held = {
            let mut rules = lock(&self.shared.rules);
            rules.rule = None;
            std::mem::take(&mut rules.held)
        };
        held.into_iter().for_each(|work| work());
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.release();
        unmount(&self.shared.mounted, libc::MNT_DETACH);
    }
}

fn only(fault: Fault) -> Option<Op> {
    (fault == Fault::Short).then_some(Op::Write)
}

/// Takes a mount out of the tree; with MNT_FORCE, its server is gone, too, for those who still use it.
fn unmount(path: &Path, flags: i32) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    // SAFETY: a C string that outlives the call.
    unsafe { libc::umount2(path.as_ptr(), flags) };
}
