//! One run of a backup, from the destination's name to the manifest.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokudb_backup_abi::common::Thd;

use super::caller::{SessionCaller, interrupted};
use super::frame::{ServerFrame, tidy};
use super::inventory::Facts;
use super::layout::{Layout, Part};
use super::state::StateLine;
use super::variables::Settings;
use super::{c_text, lifecycle, status};
use crate::backup::{self, Frame, Links, Report, Request, Source};
use crate::engine::error::{Error, Result};
use crate::engine::exclude::Exclude;
use crate::engine::manifest;
use crate::engine::throttle::THROTTLE;
use crate::server::files::server_version;
use crate::server::replica::gtid_mode;
use crate::server::{Flavour, Host, Level, Server};

/// The session that runs a backup, plus one; 0 when none does.
static RUNNING: AtomicU64 = AtomicU64::new(0);

/// How long a failed backup's workers are waited for.
const SETTLE: Duration = Duration::from_millis(150);
/// How long the next backup waits for them, on a machine that is busy.
const TAIL: Duration = Duration::from_millis(800);

/// The right to run a backup, of which there is one.
struct Slot;

impl Slot {
    fn claim(session: u64) -> Result<Slot> {
        let claimed = RUNNING.compare_exchange(0, session + 1, Ordering::AcqRel, Ordering::Acquire);
        claimed.map(|_| Slot).map_err(|other| {
            let text = format!(
                "another backup is running in connection {}: wait for it, or KILL it, first",
                other - 1
            );
            Error::new(libc::EBUSY, text)
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        RUNNING.store(0, Ordering::Release);
    }
}

/// The session that runs a backup.
pub fn running() -> Option<u64> {
    RUNNING.load(Ordering::Acquire).checked_sub(1)
}

/// Bounds the copying of the backup that runs; the next one begins with its own session's bound.
pub fn throttle(rate: u64) {
    if running().is_some() {
        THROTTLE.set_rate(rate);
    }
}

/// Takes a backup of this server to `dir` in a session, on its thread. EBUSY while another runs, which is not
/// touched in any way.
pub fn back_up(server: &'static dyn Server, thd: Thd, dir: &Path) -> Result<()> {
    let session = server.session_id(thd);
    let _slot = Slot::claim(session)?;
    if !settled(TAIL) {
        let text = "a backup of this process is running, or was ended and still hangs on its destination: wait for it";
        return Err(Error::new(libc::EBUSY, text));
    }
    if !lifecycle::installed() {
        return Err(Error::new(libc::EBUSY, "the plugin is being uninstalled"));
    }
    let settings = Settings::of(thd);
    THROTTLE.set_rate(settings.throttle);
    status::started();
    log(server, Level::Note, &format!("backup to {} started by connection {session}", dir.display()));
    let outcome = catch_unwind(AssertUnwindSafe(|| take(server, thd, dir, settings))).unwrap_or_else(|_| {
        Err(Error::new(
            libc::EIO,
            "a defect of tokudb_backup: see the error log of the server, and report it",
        ))
    });
    let (level, text) = match &outcome {
        Ok(report) => (Level::Note, success(dir, report)),
        Err(error) => (Level::Error, format!("backup to {} failed: {error}", dir.display())),
    };
    status::ended(outcome.as_ref());
    log(server, level, &text);
    outcome.map(drop)
}

fn take(server: &'static dyn Server, thd: Thd, dir: &Path, settings: Settings) -> Result<Report> {
    let exclude = match settings.exclude.map(CStr::to_str) {
        None => Exclude::Nothing,
        Some(Ok(text)) => Exclude::parse(text)?,
        Some(Err(_)) => return Err(Error::invalid("tokudb_backup_exclude is not valid UTF-8")),
    };
    let state = StateLine::new(server, thd, "backup: preparing");
    let held = settings.lock.on(server.host());
    if let Some(what) = held {
        server.can_hold(thd, what)?;
    }
    let mut layout = Layout::of_this_server(server.host(), &exclude, &mut || interrupted(server, thd))?;
    if held.is_some() && server.host().flavour == Flavour::MariaDb {
        layout.leave_out_ddl_log();
    }
    let lock_micros = Arc::new(AtomicU64::new(0));
    let replica = Arc::new(Mutex::new(None));
    let frame = Arc::new(ServerFrame {
        dir: dir.to_owned(),
        allowed_prefix: settings.allowed_prefix.clone(),
        exclude: exclude.clone(),
        facts: facts(server.host(), &layout),
        lock_micros: Arc::clone(&lock_micros),
        replica: Arc::clone(&replica),
        destination: Mutex::new(None),
    });
    let source = |part: &Part| Source {
        path: part.path.clone(),
        image: dir.join(&part.image),
        members: part.members.clone(),
    };
    let request = Request {
        sources: layout.parts.iter().map(source).collect(),
        frame: Arc::clone(&frame) as Arc<dyn Frame>,
        exclude,
        links: Links::RefuseOutside,
        leave_out: layout.leave_out.clone(),
        gate_timeout: settings.gate_timeout,
        without_capture: without_capture(),
    };
    let mut caller = SessionCaller::new(server, thd, state, settings, Arc::clone(&lock_micros), replica);
    match backup::run(request, &mut caller) {
        Ok(report) => Ok(Report { lock_micros: lock_micros.load(Ordering::Acquire), ..report }),
        Err(error) => {
            let settled = settled(SETTLE);
            if settled && error.errno != libc::EINTR {
                tidy(frame);
            }
            Err(error)
        }
    }
}

/// Workers of a failed backup come back at once unless the destination hangs; the next SET should not meet them.
/// False when they have not in time.
fn settled(limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while backup::is_running() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn facts(host: &Host, layout: &Layout) -> Facts {
    let flavour = match host.flavour {
        Flavour::MySql => "MySQL",
        Flavour::MariaDb => "MariaDB",
    };
    Facts {
        server: manifest::Server {
            flavour: flavour.to_owned(),
            version: server_version().unwrap_or_else(|| host.name()),
        },
        layout: layout.clone(),
        gtid_mode: gtid_mode(host),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    }
}

fn success(dir: &Path, report: &Report) -> String {
    let mut text = format!(
        "backup to {} complete: {} files, {} bytes, {} passes, gate closed for {} us, lock held for {} us",
        dir.display(),
        report.files,
        report.bytes,
        report.passes,
        report.gate_micros,
        report.lock_micros
    );
    if let Some(first) = report.unseen.first() {
        text += &format!(
            "; {} files were changed by another process and are as of the last pass: {}",
            report.unseen.len(),
            first.display()
        );
    }
    text
}

fn log(server: &dyn Server, level: Level, text: &str) {
    server.log(level, &c_text(text));
}

/// Whether the server was started to show what a copy without capture is worth: the demo's control.
fn without_capture() -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    *ASKED.get_or_init(|| {
        std::env::var_os("TOKUDB_BACKUP_TEST_WITHOUT_CAPTURE").is_some_and(|value| value == "1")
    })
}
