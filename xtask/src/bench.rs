//! `cargo xtask bench`: what an intercepted call and a copy cost, without any database.

use crate::flags::Flags;
use crate::{Failure, build, sh};
use std::process::ExitCode;

/// The measurements, in the order in which they run.
const KINDS: [&str; 3] = ["call", "copy", "throttle"];

/// The subcommand.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    Flags::new(args).end()?;
    let library = build::build(true)?.join("libHotBackup.so");
    for kind in KINDS {
        sh::run(sh::cargo(["run", "--quiet", "--release", "--package", "bench", "--", kind]).arg(&library))?;
    }
    Ok(ExitCode::SUCCESS)
}
