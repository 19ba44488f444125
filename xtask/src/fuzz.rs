//! `cargo xtask fuzz`: the properties of `src/fuzz.rs`, for longer than the suite can afford.

use crate::flags::Flags;
use crate::{Failure, sh};
use std::process::ExitCode;

/// The subcommand. Exit code 1: a property does not hold; the lines above say for which seed.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let seconds: u64 = flags.value("--seconds", "a number of seconds")?.unwrap_or(60);
    let seed: Option<u64> = flags.value("--seed", "a number")?;
    let names = flags.words();
    flags.end()?;
    let mut cargo = sh::cargo(["test", "--package", "tokudb_backup", "--lib", "--", "--nocapture"]);
    if names.is_empty() {
        cargo.arg("fuzz::tests::");
    }
    cargo.args(names.iter().map(|name| format!("fuzz::tests::{name}")));
    cargo.env("FUZZ_SECONDS", seconds.to_string());
    if let Some(seed) = seed {
        cargo.env("FUZZ_SEED", seed.to_string());
    }
    let good = sh::status(&mut cargo)?.success();
    println!("fuzz: {}", if good { "ok" } else { "FAILED" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
