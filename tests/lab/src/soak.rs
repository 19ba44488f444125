//! Round after round on one server, each with its own seed.

use crate::growth::{self, Sample};
use crate::image::Manifest;
use crate::round::{Lab, Round, Settings};
use crate::scratch::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A round that takes this long beyond its load hangs; its server is killed, so that the soak goes on.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a soak goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Length {
    /// So many rounds.
    Rounds(u32),
    /// So long, in one and the same server process, whose memory, descriptors and threads must not grow.
    Time(Duration),
}

/// What ran.
#[derive(Default)]
struct Ran {
    rounds: u32,
    passed: Vec<Round>,
    samples: Vec<Sample>,
}

/// Runs rounds, the first with seed `seed`, each further one with the next; a line a round, and at the end one for all.
/// Returns how many did not pass. What a failed round left stays on the disk. `plot`: where a drawing of what the
/// server's process held goes, and the same as numbers beside it.
///
/// # Errors
/// When what passed cannot be removed, or the drawing not be written.
pub fn run(settings: Settings, length: &Length, seed: u64, plot: Option<&Path>) -> Result<u32> {
    println!("soak of {}, seed {seed}: {settings:?}", settings.server);
    let name = format!("soak-{}-{seed}-{}", settings.server, std::process::id());
    let home = workspace().join("target").join("lab").join(name);
    let mut ran = Ran::default();
    let ended = run_in(&home, &settings, length, seed, &mut ran);
    if let Err(error) = &ended {
        println!("    the soak cannot go on: {error:#}\n    left in {}", home.display());
    }
    if let Some(text) = measured(&ran.passed) {
        println!("{text}");
    }
    let rounds = if let Length::Rounds(rounds) = length { *rounds } else { ran.rounds };
    let mut failed = rounds.saturating_sub(u32::try_from(ran.passed.len())?);
    if let (Some(path), Some(last)) = (plot, ran.samples.last()) {
        let hours = last.at.as_secs_f64() / 3600.0;
        let title = format!("{}: {} backups in {hours:.2} hours, seed {seed}", settings.server, last.backups);
        growth::plot(path, &title, &ran.samples)?;
    }
    if let Length::Time(_) = length {
        println!("{}", growth::summary(&ran.samples));
        let problems = growth::grown(&ran.samples);
        problems.iter().for_each(|problem| println!("    {problem}"));
        failed += u32::from(!problems.is_empty() || ended.is_err());
    }
    println!("soak: {rounds} rounds, {failed} failed, seed {seed}");
    if failed == 0 {
        fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
    }
    Ok(failed)
}

fn run_in(home: &Path, settings: &Settings, length: &Length, seed: u64, ran: &mut Ran) -> Result<()> {
    let mut lab = Lab::new(settings.clone(), home, seed)?;
    let begun = Instant::now();
    let goes_on = |rounds: u32| match length {
        Length::Rounds(wanted) => rounds < *wanted,
        Length::Time(time) => begun.elapsed() < *time,
    };
    while goes_on(ran.rounds) {
        let number = ran.rounds;
        ran.rounds += 1;
        let seed = seed + u64::from(number);
        if settings.kill9 && number > 0 {
            // A crash within DDL may have left things behind.
            lab = Lab::new(settings.clone(), &home.join(format!("server-{number}")), seed)?;
        }
        if !lab.server.is_running() {
            lab.restart()?;
        }
        let pid = lab.server.pid();
        let patience = PATIENCE + 4 * settings.warm_up;
        let (round, hung) = watched(pid, patience, || lab.round(seed, &|_| (), &|_, _| ()));
        let mut round = round?;
        if hung {
            let text = format!("the server hung: the round had not ended after {patience:?}; it was killed");
            round.findings.problems.insert(0, text);
        }
        println!("{}", line(number + 1, seed, &round));
        if round.findings.problems.is_empty() {
            fs::remove_dir_all(&round.dir)?;
            ran.passed.push(round);
            if let Some(pid) = lab.server.pid() {
                let backups = ran.rounds * (1 + settings.more_backups);
                ran.samples.push(Sample::of(pid, begun.elapsed(), backups)?);
            }
            continue;
        }
        for problem in &round.findings.problems {
            println!("    {problem}");
        }
        println!("    left in {}", round.dir.display());
    }
    if lab.server.is_running() {
        lab.server.stop()?;
    }
    Ok(())
}

/// Runs `work`, and kills the process should it take longer than that. Whether it had to be killed.
fn watched<R>(pid: Option<u32>, patience: Duration, work: impl FnOnce() -> R) -> (R, bool) {
    let (ended, ends) = channel();
    std::thread::scope(|scope| {
        let watching = scope.spawn(move || {
            let hangs = ends.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if let (true, Some(pid)) = (hangs, pid) {
                // SAFETY: a number; the process is a child that nobody has waited for, or was at most waited for just now.
                unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
            }
            hangs
        });
        let result = work();
        let _: Result<(), _> = ended.send(());
        (result, watching.join().unwrap_or(false))
    })
}

/// Median and worst of the rounds that passed, of backups only.
fn measured(rounds: &[Round]) -> Option<String> {
    let of = |value: &dyn Fn(&Round, &Manifest) -> u64| {
        let mut all: Vec<u64> =
            rounds.iter().filter_map(|round| Some(value(round, round.manifest.as_ref()?))).collect();
        all.sort_unstable();
        Some((*all.get(all.len() / 2)?, *all.last()?))
    };
    let (backup, longest) = of(&|round, _| round.backup.as_millis() as u64)?;
    let (gate, worst_gate) = of(&|_, manifest| manifest.gate_micros)?;
    let (lock, worst_lock) = of(&|_, manifest| manifest.lock_micros / 1000)?;
    let (before, _) = of(&|round, _| round.pace[0].per_second as u64)?;
    let (during, _) = of(&|round, _| round.pace[1].per_second as u64)?;
    Some(format!(
        "measured, median (worst): backup {backup} ms ({longest}), gate {gate} us ({worst_gate}), lock held {lock} ms \
         ({worst_lock}); commits/s {before} before, {during} during"
    ))
}

/// A round in a line.
fn line(number: u32, seed: u64, round: &Round) -> String {
    let Round { backup, check, commits, ddl, ddl_beside, pace, .. } = round;
    let manifest = round.manifest.as_ref().map_or_else(String::new, |m| {
        format!(
            ", {} MB in {} files, {} passes, gate {} us, lock held {} ms",
            m.bytes / 1_000_000,
            m.files,
            m.passes,
            m.gate_micros,
            m.lock_micros / 1000
        )
    });
    let result = if round.findings.problems.is_empty() { "ok" } else { "FAILED" };
    let stall = pace.iter().map(|pace| pace.longest).max().unwrap_or(Duration::ZERO);
    format!(
        "round {number}, seed {seed}: backup {:.1} s{manifest}; {commits} commits ({:.0}/s before, {:.0}/s during, \
         longest {} ms), {ddl} DDL ({ddl_beside} during); check {:.1} s: {result}",
        backup.as_secs_f64(),
        pace[0].per_second,
        pace[1].per_second,
        stall.as_millis(),
        check.as_secs_f64(),
    )
}
