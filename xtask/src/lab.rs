//! `cargo xtask demo`, `soak`, `kills`, `tables`, `locks` and `oracle`: install, fetch and build what they need, then run
//! the program `lab`.

use crate::flags::Flags;
use crate::{Failure, build, needs, servers, sh};
use anyhow::{Context, Result};
use std::process::{Command, ExitCode};

/// The variable that tells lab and its tests where the built libraries are.
pub const PLUGIN_DIR: &str = "TOKUDB_BACKUP_PLUGIN_DIR";
/// The same for the portable ones.
pub const PORTABLE_DIR: &str = "TOKUDB_BACKUP_PORTABLE_DIR";

/// The server of the demo when none is named.
const DEMO_SERVER: &str = "mariadb-10.11";

/// The subcommand `demo`.
pub fn demo(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let server = server(&mut flags)?.unwrap_or_else(|| DEMO_SERVER.to_owned());
    let seed = seed(&mut flags)?;
    flags.end()?;
    let mut words = vec!["demo".to_owned(), "--server".into(), server.clone()];
    words.extend(seed);
    Ok(run(&server, &words)?)
}

/// The subcommand `soak`.
pub fn soak(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let server = server(&mut flags)?.ok_or_else(|| Failure::Usage("soak wants --server NAME".into()))?;
    let rounds = flags.value::<u32>("--rounds", "a number of rounds")?.map(|n| ("--rounds", n.to_string()));
    let hours =
        flags.value::<f64>("--hours", "a number of hours")?.map(|hours| ("--hours", hours.to_string()));
    let length =
        rounds.xor(hours).ok_or_else(|| Failure::Usage("soak wants --rounds N or --hours H".into()))?;
    let plot: Option<String> = flags.value("--plot", "a file")?;
    let seed = seed(&mut flags)?;
    let lock: Option<String> = flags.value("--lock", "AUTO, OFF, DDL or ALL")?;
    let warm_up = flags.value::<f64>("--warm-up", "a number of seconds")?.map(|seconds| seconds.to_string());
    let option: Option<String> = flags.value("--option", "an option of the server")?;
    let switches = ["--binlog", "--binlog-outside", "--no-identity", "--kill9", "--without-capture"];
    let switches: Vec<&str> = switches.into_iter().filter(|name| flags.switch(name)).collect();
    flags.end()?;
    let mut words = vec!["soak".to_owned(), "--server".into(), server.clone(), length.0.into(), length.1];
    words.extend(plot.into_iter().flat_map(|plot| ["--plot".to_owned(), plot]));
    words.extend(seed);
    let values = [("--lock", lock), ("--warm-up", warm_up), ("--option", option)];
    words.extend(values.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))));
    words.extend(switches.into_iter().map(str::to_owned));
    Ok(run(&server, &words)?)
}

/// The subcommand `kills`.
pub fn kills(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let server = server(&mut flags)?.ok_or_else(|| Failure::Usage("kills wants --server NAME".into()))?;
    let cycles = flags.value::<u32>("--cycles", "a number of cycles")?;
    let cycles = cycles.ok_or_else(|| Failure::Usage("kills wants --cycles N".into()))?;
    let seed = seed(&mut flags)?;
    flags.end()?;
    let mut words =
        vec!["kills".to_owned(), "--server".into(), server.clone(), "--cycles".into(), cycles.to_string()];
    words.extend(seed);
    Ok(run(&server, &words)?)
}

/// The subcommand `tables`.
pub fn tables(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let server = server(&mut flags)?.ok_or_else(|| Failure::Usage("tables wants --server NAME".into()))?;
    let tables = flags.value::<u32>("--tables", "a number of tables")?;
    let tables = tables.ok_or_else(|| Failure::Usage("tables wants --tables N".into()))?;
    flags.end()?;
    let words = ["tables", "--server", &server, "--tables", &tables.to_string()].map(str::to_owned);
    Ok(run(&server, &words)?)
}

/// The subcommand `locks`.
pub fn locks(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let server = server(&mut flags)?.ok_or_else(|| Failure::Usage("locks wants --server NAME".into()))?;
    flags.end()?;
    Ok(run(&server, &["locks".to_owned(), "--server".into(), server.clone()])?)
}

/// The subcommand `oracle`.
pub fn oracle(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let server = server(&mut flags)?.ok_or_else(|| Failure::Usage("oracle wants --server NAME".into()))?;
    let seconds: Option<u64> = flags.value("--seconds", "a number of seconds")?;
    let dropped: Option<String> = flags.value("--drop-hooks", "names of functions, separated by commas")?;
    let keep: Option<String> = flags.value("--keep", "a directory that is not there yet")?;
    let seed = seed(&mut flags)?;
    flags.end()?;
    let mut words = vec!["oracle".to_owned(), "--server".into(), server.clone()];
    let mut add = |name: &str, value: Option<String>| {
        words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
    };
    add("--seconds", seconds.map(|seconds| seconds.to_string()));
    add("--drop-hooks", dropped);
    add("--keep", keep);
    words.extend(seed);
    needs::install(&[&needs::STRACE])?;
    Ok(run(&server, &words)?)
}

fn server(flags: &mut Flags) -> Result<Option<String>, Failure> {
    let name: Option<String> = flags.value("--server", "a server's name")?;
    if let Some(name) = &name {
        servers::check_name(name)?;
    }
    Ok(name)
}

fn seed(flags: &mut Flags) -> Result<Vec<String>, Failure> {
    let seed: Option<u64> = flags.value("--seed", "a number")?;
    Ok(seed.map_or_else(Vec::new, |seed| vec!["--seed".into(), seed.to_string()]))
}

/// Runs lab, optimised as is what it measures, and ends as it ends.
fn run(server: &str, words: &[String]) -> Result<ExitCode> {
    needs::install(&needs::CLIENT)?;
    servers::fetch(&[server])?;
    let plugins = build::build(true)?;
    sh::run(&mut lab("build", &[]))?;
    let status = sh::status(lab("run", words).env(PLUGIN_DIR, &plugins))?;
    let code = status.code().with_context(|| format!("lab ended with {status}"))?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn lab(verb: &str, words: &[String]) -> Command {
    let mut cargo = sh::cargo([verb, "--quiet", "--release", "--package", "lab", "--bin", "lab"]);
    if !words.is_empty() {
        cargo.arg("--").args(words);
    }
    cargo
}
