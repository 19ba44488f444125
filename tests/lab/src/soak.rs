//! Round after round on one server, each with its own seed.

use crate::round::{Lab, Round, Settings};
use crate::scratch::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Runs `rounds` rounds, the first with seed `seed`, each further one with the next; a line a round, and at the end
/// one for all. Returns how many failed. What a failed round left stays on the disk.
///
/// # Errors
/// When the soak itself cannot go on.
pub fn run(settings: Settings, rounds: u32, seed: u64) -> Result<u32> {
    println!("soak of {}, seed {seed}: {settings:?}", settings.server);
    let name = format!("soak-{}-{seed}-{}", settings.server, std::process::id());
    let home = workspace().join("target").join("lab").join(name);
    let failed = run_in(&home, settings, rounds, seed)?;
    println!("soak: {rounds} rounds, {failed} failed, seed {seed}");
    if failed == 0 {
        fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
    }
    Ok(failed)
}

fn run_in(home: &Path, settings: Settings, rounds: u32, seed: u64) -> Result<u32> {
    let mut lab = Lab::new(settings.clone(), home, seed)?;
    let mut failed = 0;
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
        } else {
            failed += 1;
            for problem in &round.findings.problems {
                println!("    {problem}");
            }
            println!("    left in {}", round.dir.display());
        }
    }
    if lab.server.is_running() {
        lab.server.stop()?;
    }
    Ok(failed)
}

/// A round in a line.
fn line(number: u32, seed: u64, round: &Round) -> String {
    let Round { backup, check, commits, ddl, pace, .. } = round;
    let manifest = round.manifest.as_ref().map_or_else(String::new, |m| {
        format!(
            ", {} MB in {} files, {} passes, gate {} us, DDL held {} ms",
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
         longest {} ms), {ddl} DDL; check {:.1} s: {result}",
        backup.as_secs_f64(),
        pace[0].per_second,
        pace[1].per_second,
        stall.as_millis(),
        check.as_secs_f64(),
    )
}
