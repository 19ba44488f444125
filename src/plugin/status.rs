//! SHOW STATUS LIKE 'tokudb_backup%': the running backup as it is at the time of reading, and the last one.

use std::ffi::{c_char, c_int};
use std::fmt::Write as _;
use std::ptr::null;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokudb_backup_abi::common::{
    MysqlShowVar, SHOW_SCOPE_GLOBAL, SHOW_VAR_FUNC_BUFF_SIZE, ShowFunction, ShowType, Thd,
};

use super::declare::Shared;
use super::{guarded, run};
use crate::backup::Report;
use crate::engine::error::Error;
use crate::engine::manifest::Time;
use crate::engine::progress::{PROGRESS, Phase};

/// What is known of the last backup, and of the running one beyond its progress.
struct Runs {
    started: Option<(SystemTime, Instant)>,
    ended: Option<(SystemTime, Duration)>,
    outcome: Option<Outcome>,
    gate_micros: u64,
    lock_micros: u64,
}

struct Outcome {
    errno: i32,
    message: String,
}

static RUNS: Mutex<Runs> =
    Mutex::new(Runs { started: None, ended: None, outcome: None, gate_micros: 0, lock_micros: 0 });

fn with<T>(look: impl FnOnce(&mut Runs) -> T) -> T {
    look(&mut RUNS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A backup begins.
pub fn started() {
    with(|runs| {
        *runs = Runs {
            started: Some((SystemTime::now(), Instant::now())),
            ended: None,
            outcome: None,
            gate_micros: 0,
            lock_micros: 0,
        };
    });
}

/// The lock at the end was held for so long.
pub fn lock_held(micros: u64) {
    with(|runs| runs.lock_micros = micros);
}

/// It has ended.
pub fn ended(outcome: Result<&Report, &Error>) {
    with(|runs| {
        let took = runs.started.map_or(Duration::ZERO, |(_, since)| since.elapsed());
        runs.ended = Some((SystemTime::now(), took));
        runs.outcome = Some(match outcome {
            Ok(report) => {
                runs.gate_micros = report.gate_micros;
                Outcome { errno: 0, message: String::new() }
            }
            Err(error) => Outcome { errno: error.errno, message: error.message.clone() },
        });
    });
}

/// A value to show.
enum Shown {
    Number(u64),
    Text(String),
}

/// RFC 3339, as in the manifest.
fn time(at: Option<SystemTime>) -> Shown {
    let since_epoch = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Shown::Text(at.map(|at| Time(since_epoch(at)).to_string()).unwrap_or_default())
}

fn state() -> Shown {
    let phase = match PROGRESS.snapshot().phase {
        // The server's paths are being looked at.
        Phase::Idle if run::running().is_some() => Phase::Preparing,
        phase => phase,
    };
    Shown::Text(phase.name().to_owned())
}

fn file() -> Shown {
    let Some((path, done, total)) = PROGRESS.snapshot().file else { return Shown::Text(String::new()) };
    let mut text = path.display().to_string();
    let _ = write!(text, " ({done} of {total} bytes)");
    Shown::Text(text)
}

fn result() -> Shown {
    let text = with(|runs| match (&runs.outcome, runs.started) {
        (Some(outcome), _) if outcome.errno == 0 => "success",
        (Some(_), _) => "failure",
        (None, Some(_)) => "running",
        (None, None) => "none",
    });
    Shown::Text(text.to_owned())
}

fn duration() -> Shown {
    let took = with(|runs| match (runs.ended, runs.started) {
        (Some((_, took)), _) => took,
        (None, Some((_, since))) => since.elapsed(),
        (None, None) => Duration::ZERO,
    });
    Shown::Text(format!("{:.3}", took.as_secs_f64()))
}

/// Fills a variable at the time of reading.
///
/// # Safety
/// Called with what the server handed to a [`ShowFunction`].
unsafe fn show(variable: *mut MysqlShowVar, buffer: *mut c_char, value: impl FnOnce() -> Shown) -> c_int {
    guarded(1, || {
        let shown = value();
        // SAFETY: the variable is the server's copy to fill; the buffer has SHOW_VAR_FUNC_BUFF_SIZE bytes, aligned
        // as any buffer on a stack or of a String is, or written byte by byte where it is not.
        unsafe {
            let variable = &mut *variable;
            variable.value = buffer.cast_const().cast();
            match shown {
                Shown::Number(number) => {
                    variable.kind = ShowType::LONGLONG;
                    buffer.cast::<u64>().write_unaligned(number);
                }
                Shown::Text(text) => {
                    variable.kind = ShowType::CHAR;
                    let text = text.replace('\0', "\u{fffd}");
                    let end = text.floor_char_boundary(SHOW_VAR_FUNC_BUFF_SIZE - 1);
                    std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), end);
                    *buffer.add(end) = 0;
                }
            }
        }
        0
    })
}

/// The array of variables, each with a function of its own.
macro_rules! variables {
    ($($name:literal => $value:expr,)*) => {
        [$({
            unsafe extern "C" fn read(_thd: Thd, variable: *mut MysqlShowVar, buffer: *mut c_char) -> c_int {
                // SAFETY: called by the server.
                unsafe { show(variable, buffer, || $value) }
            }
            let function: ShowFunction = read;
            MysqlShowVar {
                name: concat!("tokudb_backup_", $name, "\0").as_ptr().cast(),
                value: function as *const std::ffi::c_void,
                kind: ShowType::FUNC,
                scope: SHOW_SCOPE_GLOBAL,
            }
        },)* MysqlShowVar { name: null(), value: null(), kind: ShowType::UNDEF, scope: 0 }]
    };
}

static VARIABLES: Shared<[MysqlShowVar; 16]> = Shared::new(variables! {
    "state" => state(),
    "bytes_done" => Shown::Number(PROGRESS.snapshot().bytes_done),
    "bytes_total" => Shown::Number(PROGRESS.snapshot().bytes_total),
    "files_done" => Shown::Number(PROGRESS.snapshot().files_done),
    "files_total" => Shown::Number(PROGRESS.snapshot().files_total),
    "file" => file(),
    "passes" => Shown::Number(PROGRESS.snapshot().passes.into()),
    "gate_microseconds" => Shown::Number(with(|runs| runs.gate_micros)),
    "lock_microseconds" => Shown::Number(with(|runs| runs.lock_micros)),
    "last_start" => time(with(|runs| runs.started.map(|(at, _)| at))),
    "last_end" => time(with(|runs| runs.ended.map(|(at, _)| at))),
    "last_duration" => duration(),
    "last_result" => result(),
    "last_errno" => Shown::Number(with(|runs| runs.outcome.as_ref().map_or(0, |o| o.errno.unsigned_abs().into()))),
    "last_message" => Shown::Text(with(|runs| runs.outcome.as_ref().map_or(String::new(), |o| o.message.clone()))),
});

/// The variables, an all-zero one behind the last.
pub fn variables() -> *mut MysqlShowVar {
    VARIABLES.get().cast()
}
