//! `cargo xtask`: the project's own tasks, one file a subcommand.
//!
//! It builds with cargo and rustc alone, so that it can install whatever the rest of the workspace needs
//! ([`needs`]) before that is built.

mod bench;
mod build;
mod controls;
mod faults;
mod flags;
mod fuzz;
mod lab;
mod mtr;
mod needs;
mod paths;
mod portable;
mod sanitize;
mod servers;
mod sh;
mod test;
mod twin;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  servers [NAME...]                          fetch real servers below target/servers, apart from the system's own
  build [--release] [--portable]             build tokudb_backup.so and libHotBackup.so; last line: their folder;
                                             portable: for every server on glibc 2.17 or later
  demo [--server NAME] [--seed S]            a backup of a real server under load, restored and checked
  soak --server NAME --rounds N [--seed S]   the same, again and again, source and image compared in the gate;
       [--hours H] [--plot FILE.svg]         for hours, instead of N rounds: the server's process must not grow;
       [--binlog] [--binlog-outside]         with the binary log on, in the data directory or in one of its own;
       [--no-identity]                       without comparing, so that times are real;
       [--lock VALUE]                        tokudb_backup_lock; ALL adds tables without a log, and checks all strictly;
       [--warm-up SECONDS]                   how long the load runs before the backup (0.9);
       [--option=OPTION]                     one more option of the server, such as --innodb-undo-log-truncate=OFF;
       [--kill9] [--without-capture]         controls: kill -9 instead of a backup; a copy without capture
  kills --server NAME --cycles N [--seed S]  kill -9 of the server in the middle of backups, again and again: it must
                                             restart clean, and what is left of the backup must say so
  tables --server NAME --tables N            what a backup of very many tables takes: time, memory, the gate
  locks --server NAME                        what tokudb_backup_lock costs other clients beside a long statement
  oracle --server NAME [--seconds N]         strace beside capture: every change of a file of the data directory must
       [--seed S] [--drop-hooks NAME,...]    have been seen; control: hooks that are left out must be missed; what strace
       [--keep DIR]                          wrote is kept in DIR
  bench                                      what an intercepted call and a copy cost, without a database
  controls [--rule P1,...] [--rounds N]      breaks rules of the protocol on purpose: a test must notice each
  faults [--server NAME] [--errno E]         every call of a backup on its destination fails, once and from there on: that
         [--stride K]                        of a program beside the library, or of a server; of K calls one
  twin [--rounds N] [--seed S] [--fs NAME]   random programs without a server, on ext4, xfs, btrfs, tmpfs, overlayfs, untyped
       [--shrink SECONDS]                    (no d_type) and small (full); of a failure, the smallest program
  sanitize [address|thread|miri]             unit tests and twin under AddressSanitizer and ThreadSanitizer, what is
       [--rounds N] [--seed S]               pure under Miri
  fuzz [--seconds N] [--seed S] [NAME...]    what reads foreign bytes, on random ones: each property for N seconds
  mtr [--server NAME] [--record] [TEST...]   the suite mysql-test/suite/tokudb_backup by mysql-test-run
  test                                       the whole test suite
  help                                       this text

What is missing on the machine is installed with apt-get. Servers: mysql-5.6.24, mysql-9.7, mariadb-10.5,
mariadb-10.11, mariadb-11.8 (these five when none is named), mariadb-10.11-engines.
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
            eprint!("xtask: {what}\n\n{USAGE}");
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
        "build" => build::run(rest),
        "controls" => controls::run(rest),
        "faults" => faults::run(rest),
        "fuzz" => fuzz::run(rest),
        "sanitize" => sanitize::run(rest),
        "bench" => bench::run(rest),
        "demo" => lab::demo(rest),
        "soak" => lab::soak(rest),
        "mtr" => mtr::run(rest),
        "kills" => lab::kills(rest),
        "tables" => lab::tables(rest),
        "locks" => lab::locks(rest),
        "oracle" => lab::oracle(rest),
        "test" => test::run(rest),
        "twin" => twin::run(rest),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => Err(Failure::Usage(format!("there is no command `{other}`"))),
    }
}
