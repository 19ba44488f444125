//! `cargo xtask`: the project's own tasks, one file a subcommand.
//!
//! It builds with cargo and rustc alone, so that it can install whatever the rest of the workspace needs
//! ([`needs`]) before that is built.

mod needs;
mod paths;
mod servers;
mod sh;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  servers [NAME...]                             fetch real servers below target/servers
  help                                          this text
";

/// Why a command did not do its job.
enum Failure {
    /// The arguments make no sense: the text says which one; exit code 2.
    Usage(String),
    /// The job itself failed; exit code 1.
    Job(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure::Job(e.into())
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(code) => code,
        Err(Failure::Usage(what)) => {
            eprintln!("xtask: {what}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Err(Failure::Job(e)) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<ExitCode, Failure> {
    let Some((command, rest)) = args.split_first() else {
        return Err(Failure::Usage("a command is missing".into()));
    };
    match command.as_str() {
        "servers" => servers::run(rest),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => Err(Failure::Usage(format!("there is no command `{other}`"))),
    }
}
