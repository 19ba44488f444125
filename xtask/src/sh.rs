//! Running other programs: each is shown before it runs, and its failure names it.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// A command from its words.
pub fn cmd<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// The cargo that runs us, in the workspace.
pub fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = cmd(&cargo, args);
    command.current_dir(crate::paths::workspace());
    // What cargo set for us would look like a change of environment to the builds of others.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    command
}

/// The command as one would type it, without its environment.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Prints the command that is about to run.
pub fn show(command: &Command) {
    println!("  $ {}", shown(command));
}

/// Shows the command, runs it and returns how it ended.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    show(command);
    command.status().with_context(|| format!("cannot start `{}`", shown(command)))
}

/// Shows and runs a command that must succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command that must succeed and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !out.status.success() {
        bail!("`{}` failed: {}", shown(command), out.status);
    }
    String::from_utf8(out.stdout).with_context(|| format!("`{}` did not print text", shown(command)))
}

/// Runs a command that talks to the network, again and again for about half a minute: mirrors hiccup.
pub fn run_patiently(mut make: impl FnMut() -> Command) -> Result<()> {
    let mut wait = Duration::from_secs(2);
    loop {
        match run(&mut make()) {
            Err(e) if wait < Duration::from_secs(32) => {
                println!("  {e:#}; once more in {} s", wait.as_secs());
                std::thread::sleep(wait);
                wait *= 2;
            }
            result => return result,
        }
    }
}

/// The program's full path, if `PATH` has it.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
