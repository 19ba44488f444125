//! `cargo xtask faults`: every call that a backup makes on its destination fails, not a stride of them as in the suite.

use crate::flags::Flags;
use crate::{Failure, build, lab, needs, servers, sh};
use std::process::ExitCode;

/// The subcommand.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let server: Option<String> = flags.value("--server", "a server's name")?;
    let errno: Option<i32> = flags.value("--errno", "an errno value")?;
    let stride = flags.value::<u64>("--stride", "a number")?.unwrap_or(1).max(1);
    flags.end()?;
    needs::install(&needs::VOLUMES)?;
    let tests = |words: &[&str]| {
        let mut cargo = sh::cargo(["test"]);
        cargo.args(words).args(["--nocapture", "--test-threads", "1"]);
        cargo.env("FAULTS_STRIDE", stride.to_string());
        cargo
    };
    let Some(server) = server else {
        needs::install(&needs::TWIN)?;
        sh::run(&mut tests(&["--package", "tokudb_backup", "--test", "destination", "--"]))?;
        sh::run(&mut tests(&["--package", "twin", "--test", "faults", "--"]))?;
        return Ok(ExitCode::SUCCESS);
    };
    servers::check_name(&server)?;
    needs::install(&needs::CLIENT)?;
    servers::fetch(&[&server])?;
    let plugins = build::build(false)?;
    let test = if server.starts_with("mysql") { "sweep::mysql" } else { "sweep::mariadb" };
    let mut cargo = tests(&["--package", "lab", "--test", "faults", "--", "--exact", test]);
    cargo.env(lab::PLUGIN_DIR, plugins).env("FAULTS_SERVER", server);
    cargo.env("FAULTS_ERRNO", errno.map_or_else(String::new, |errno| errno.to_string()));
    sh::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
