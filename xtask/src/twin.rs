//! `cargo xtask twin`: random programs on every file system, for longer than the suite can afford.

use crate::flags::Flags;
use crate::{Failure, needs, paths, sh};
use anyhow::{Context, Result};
use std::fs;
use std::process::ExitCode;

/// The subcommand. Exit code 1: rounds failed; the lines above tell which, and how to repeat them.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let rounds: u64 = flags.value("--rounds", "a number of rounds")?.unwrap_or(20);
    let seed: Option<u64> = flags.value("--seed", "a number")?;
    let shrink: Option<u64> = flags.value("--shrink", "a number of seconds")?;
    let name: Option<String> = flags.value("--fs", "a file system")?;
    flags.end()?;
    let numbers = [("--rounds", Some(rounds)), ("--seed", seed), ("--shrink", shrink)];
    let mut words: Vec<String> = numbers
        .into_iter()
        .filter_map(|(name, number)| Some([name.to_owned(), number?.to_string()]))
        .flatten()
        .collect();
    words.extend(name.into_iter().flat_map(|name| ["--fs".to_owned(), name]));
    Ok(run_with(&words)?)
}

fn run_with(words: &[String]) -> Result<ExitCode> {
    needs::install(&needs::TWIN)?;
    let packages = ["--package", "tokudb_backup", "--package", "twin", "--package", "twin_late"];
    sh::run(sh::cargo(["build"]).args(packages))?;
    let below = paths::workspace().join("target").join("twin");
    fs::create_dir_all(&below).with_context(|| format!("cannot make {}", below.display()))?;
    let mut twin = sh::cargo(["run", "--quiet", "--package", "twin", "--", "filesystems", "--dir"]);
    let status = sh::status(twin.arg(&below).args(words))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
