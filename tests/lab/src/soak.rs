//! Round after round on one server, each with its own seed.

use crate::image::Manifest;
use crate::round::{Lab, Round, Settings};
use crate::scratch::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Runs `rounds` rounds, the first with seed `seed`, each further one with the next; a line a round, and at the end
/// one for all. Returns how many did not pass. What a failed round left stays on the disk.
///
/// # Errors
/// When what passed cannot be removed.
pub fn run(settings: Settings, rounds: u32, seed: u64) -> Result<u32> {
    println!("soak of {}, seed {seed}: {settings:?}", settings.server);
    let name = format!("soak-{}-{seed}-{}", settings.server, std::process::id());
    let home = workspace().join("target").join("lab").join(name);
    let mut passed = Vec::new();
    if let Err(error) = run_in(&home, &settings, rounds, seed, &mut passed) {
        println!("    the soak cannot go on: {error:#}\n    left in {}", home.display());
    }
    if let Some(text) = measured(&passed) {
        println!("{text}");
    }
    let failed = rounds.saturating_sub(u32::try_from(passed.len())?);
    println!("soak: {rounds} rounds, {failed} failed, seed {seed}");
    if failed == 0 {
        fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
    }
    Ok(failed)
}

fn run_in(home: &Path, settings: &Settings, rounds: u32, seed: u64, passed: &mut Vec<Round>) -> Result<()> {
    let mut lab = Lab::new(settings.clone(), home, seed)?;
    for number in 0..rounds {
        let seed = seed + u64::from(number);
        if settings.kill9 && number > 0 {
            // A crash within DDL may have left things behind.
            lab = Lab::new(settings.clone(), &home.join(format!("server-{number}")), seed)?;
        }
        let round = lab.round(seed, &|_| (), &|_, _| ())?;
        println!("{}", line(number + 1, seed, &round));
        if round.findings.problems.is_empty() {
            fs::remove_dir_all(&round.dir)?;
            passed.push(round);
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
