//! `lab`: what `cargo xtask soak`, `demo`, `locks`, `kills`, `tables`, `oracle` and `mtr` run.

use anyhow::{Result, bail};
use lab::rng::fresh_seed;
use lab::round::{Binlog, Settings};
use lab::soak::Length;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

const USAGE: &str = "usage: lab soak --server NAME --rounds N|--hours H [--seed S] [--plot FILE] [--warm-up SECONDS] [--no-identity] \
                     [--binlog] [--binlog-outside] [--kill9] [--without-capture] [--lock VALUE] [--option=OPTION OF THE SERVER]...
       lab demo [--server NAME] [--seed S]
       lab locks --server NAME
       lab kills --server NAME --cycles N [--seed S]
       lab tables --server NAME --tables N
       lab oracle --server NAME [--seconds N] [--seed S] [--drop-hooks NAME,...] [--keep DIR]
       lab with-server --server NAME -- COMMAND [ARG...]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything was right.
fn run(args: Vec<String>) -> Result<bool> {
    let Some((command, rest)) = args.split_first() else { bail!("{USAGE}") };
    let mut parts = rest.splitn(2, |arg| arg == "--");
    let mut flags = Flags(parts.next().unwrap_or_default().to_vec());
    let server: Option<String> = flags.value("--server")?;
    let seed = flags.value("--seed")?.unwrap_or_else(fresh_seed);
    match command.as_str() {
        "soak" => {
            let length = match (flags.value("--rounds")?, flags.value::<f64>("--hours")?) {
                (Some(rounds), None) => Length::Rounds(rounds),
                (None, Some(hours)) => Length::Time(Duration::try_from_secs_f64(hours * 3600.0)?),
                _ => bail!("{USAGE}"),
            };
            let plot: Option<PathBuf> = flags.value("--plot")?;
            let Some(server) = server else { bail!("{USAGE}") };
            let mut settings = Settings::new(&server);
            if let Length::Time(_) = length {
                settings.more_backups = 3;
            }
            settings.identity = !flags.switch("--no-identity");
            if flags.switch("--binlog") {
                settings.binlog = Binlog::Inside;
            }
            if flags.switch("--binlog-outside") {
                settings.binlog = Binlog::Outside;
            }
            settings.lock = flags.value("--lock")?;
            if let Some(seconds) = flags.value("--warm-up")? {
                settings.warm_up = Duration::try_from_secs_f64(seconds)?;
            }
            settings.kill9 = flags.switch("--kill9");
            settings.without_capture = flags.switch("--without-capture");
            while let Some(option) = flags.value("--option")? {
                settings.args.push(option);
            }
            flags.end()?;
            Ok(lab::soak::run(settings, &length, seed, plot.as_deref())? == 0)
        }
        "demo" => {
            flags.end()?;
            lab::demo::run(server.as_deref().unwrap_or(lab::demo::SERVER), seed)
        }
        "with-server" => {
            flags.end()?;
            let (Some(server), Some(words)) = (server, parts.next()) else { bail!("{USAGE}") };
            lab::with_server::run(&server, words)
        }
        "kills" => {
            let (Some(server), Some(cycles)) = (server, flags.value("--cycles")?) else { bail!("{USAGE}") };
            flags.end()?;
            Ok(lab::kills::run(&server, cycles, seed)? == 0)
        }
        "tables" => {
            let (Some(server), Some(tables)) = (server, flags.value("--tables")?) else { bail!("{USAGE}") };
            flags.end()?;
            lab::tables::run(&server, tables).map(|()| true)
        }
        "oracle" => {
            let Some(server) = server else { bail!("{USAGE}") };
            let load = Duration::from_secs(flags.value("--seconds")?.unwrap_or(60));
            let dropped = flags.value("--drop-hooks")?.unwrap_or_default();
            let keep: Option<std::path::PathBuf> = flags.value("--keep")?;
            flags.end()?;
            lab::oracle::run(&lab::oracle::Settings { server, load, seed, dropped, keep })
        }
        "locks" => {
            let Some(server) = server else { bail!("{USAGE}") };
            flags.end()?;
            lab::locks::run(&server)
        }
        _ => bail!("{USAGE}"),
    }
}

/// The arguments that are still to be understood.
struct Flags(Vec<String>);

impl Flags {
    fn switch(&mut self, name: &str) -> bool {
        let at = self.0.iter().position(|arg| arg == name);
        at.map(|at| self.0.remove(at)).is_some()
    }

    /// The value of `--name VALUE` or `--name=VALUE`.
    fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(at) = self.0.iter().position(|arg| arg.split('=').next() == Some(name)) else {
            return Ok(None);
        };
        let flag = self.0.remove(at);
        let value = match flag.split_once('=') {
            Some((_, value)) => value.to_owned(),
            None if at < self.0.len() => self.0.remove(at),
            None => bail!("{name} wants a value\n{USAGE}"),
        };
        match value.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => bail!("`{value}` is no value for {name}\n{USAGE}"),
        }
    }

    fn end(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some(arg) => bail!("what is `{arg}`?\n{USAGE}"),
        }
    }
}
