//! The demo: a backup of a server under load with a live progress bar, what the image is worth, what was measured; and
//! the same without capture, which the checks must notice.

use crate::client::Conn;
use crate::ledger::Pace;
use crate::round::{Binlog, Lab, Round, Settings};
use crate::scratch::Scratch;
use anyhow::Result;
use std::fs;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The server of the demo when none is named.
pub const SERVER: &str = "mariadb-10.11";

/// A copy without capture passes the checks by luck now and then: how often it may.
const CONTROLS: u64 = 5;

/// Shows it all. Whether everything was right; the last line says so.
///
/// # Errors
/// When the demo itself cannot go on.
pub fn run(server: &str, seed: u64) -> Result<bool> {
    let begin = Instant::now();
    let result = show(server, seed);
    let seconds = begin.elapsed().as_secs_f64();
    match &result {
        Ok(Ok(())) => println!("demo: ok, {server}, seed {seed}, {seconds:.0} s"),
        Ok(Err(why)) => println!("demo: FAILED, {server}, seed {seed}: {why}"),
        Err(error) => println!("demo: FAILED, {server}, seed {seed}: {error:#}"),
    }
    Ok(matches!(result, Ok(Ok(()))))
}

fn show(server: &str, seed: u64) -> Result<Result<(), String>> {
    let scratch = Scratch::new(&format!("demo-{server}"))?;
    let settings = Settings {
        identity: false,
        binlog: Binlog::Inside,
        filler: 200_000_000,
        warm_up: Duration::from_secs(3),
        ..Settings::new(server)
    };
    title(&format!("a {server} server, its data, and the plugin (seed {seed})"));
    let mut lab = Lab::new(settings, scratch.path(), seed)?;
    let version = lab.server.connect()?.value("SELECT VERSION()")?.unwrap_or_default();
    println!(
        "version {version}, engines {}",
        lab.features.engines.iter().cloned().collect::<Vec<_>>().join(" ")
    );

    let round = lab.round(seed, &announce, &watch)?;
    report(&round);
    if !round.findings.problems.is_empty() {
        return Ok(Err(format!("{} checks found something wrong", round.findings.problems.len())));
    }
    fs::remove_dir_all(&round.dir)?;

    title("the control: the same without capture, which the checks must notice");
    lab.copy_without_capture()?;
    for number in 1..=CONTROLS {
        let round = lab.round(seed + number, &|_| (), &|_, _| ())?;
        let problems = &round.findings.problems;
        if problems.is_empty() {
            println!("try {number}: the copy was right by luck, once more");
            fs::remove_dir_all(&round.dir)?;
            continue;
        }
        println!("try {number}: noticed, as it must be:");
        for problem in problems.iter().flat_map(|problem| telling(problem)).take(6) {
            println!("    {problem}");
        }
        lab.server.stop()?;
        return Ok(Ok(()));
    }
    Ok(Err(format!("{CONTROLS} copies without capture passed every check: the checks are worth nothing")))
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn announce(step: &str) {
    match step {
        "load" => title(
            "clients move money between accounts and log each acknowledged commit outside the server, with DDL beside",
        ),
        "backup" => title("SET tokudb_backup_dir = '...'"),
        _ => title("a second server on a copy of the backup"),
    }
}

/// Shows the progress until the backup is over: one line that is drawn again on a terminal, else a line now and then.
fn watch(conn: &mut Conn, is_over: &dyn Fn() -> bool) {
    let live = std::io::stdout().is_terminal();
    let mut last = String::new();
    let mut drawn = Instant::now();
    while !is_over() {
        let line = conn.query("SHOW FULL PROCESSLIST").ok().and_then(|answer| {
            let state = answer.columns.iter().position(|column| column == "State")?;
            let rows = answer.texts();
            let row = rows.iter().find(|row| row[state].contains("backup: "))?;
            Some(bar(&row[state]))
        });
        if let Some(line) = line.filter(|line| *line != last) {
            if live {
                print!("\r\x1b[2K{}", line.chars().take(120).collect::<String>());
                let _ = std::io::stdout().flush();
            } else if last.is_empty() || drawn.elapsed() > Duration::from_millis(400) {
                println!("{line}");
                drawn = Instant::now();
            }
            last = line;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if live {
        println!("\r\x1b[2K{}", bar("100%"));
    }
}

/// A state of the processlist with a bar before it.
fn bar(state: &str) -> String {
    const WIDTH: usize = 30;
    let percent = state.split('%').next().and_then(|text| {
        let digits = text.rsplit(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<usize>().ok().filter(|_| state.contains('%'))
    });
    let done = percent.unwrap_or(0).min(100) * WIDTH / 100;
    format!("[{}{}] {state}", "#".repeat(done), ".".repeat(WIDTH - done))
}

/// The lines of a problem that say most, without the quiet ones of a server's log.
fn telling(problem: &str) -> Vec<&str> {
    let lines: Vec<&str> = problem.lines().collect();
    let first = lines.first().copied().into_iter();
    let errors = lines.iter().skip(1).copied().filter(|line| line.contains("[ERROR]")).take(3);
    first.chain(errors).map(|line| line.get(..240).unwrap_or(line)).collect()
}

fn report(round: &Round) {
    for note in &round.findings.notes {
        println!("  ok     {note}");
    }
    for problem in &round.findings.problems {
        println!("  WRONG  {problem}");
    }
    title("measured");
    if let Some(manifest) = &round.manifest {
        println!(
            "backup     {:.2} s for {} MB in {} files; {} passes",
            round.backup.as_secs_f64(),
            manifest.bytes / 1_000_000,
            manifest.files,
            manifest.passes
        );
        println!("gate       closed for {:.3} ms", manifest.gate_micros as f64 / 1000.0);
        println!("DDL        held off for {:.1} ms", manifest.lock_micros as f64 / 1000.0);
    }
    for (when, Pace { per_second, longest }) in ["before", "during", "after"].iter().zip(round.pace) {
        let millis = longest.as_secs_f64() * 1000.0;
        println!("{when:<10} {per_second:.0} commits/s, the longest took {millis:.1} ms");
    }
    println!(
        "in all     {} commits, {} DDL and FLUSH statements ({} during the backup); restored and checked in {:.1} s",
        round.commits,
        round.ddl,
        round.ddl_beside,
        round.check.as_secs_f64()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        let filled = |state: &str| bar(state).matches('#').count();
        assert_eq!(filled("backup: preparing"), 0);
        assert_eq!(filled("backup: 50% copied, 1 of 2"), 15);
        assert_eq!(filled("backup: 100%, making the copy durable"), 30);
        assert!(bar("backup: 7% copied").ends_with("] backup: 7% copied"));
    }

    #[test]
    fn what_tells() {
        assert_eq!(telling("died\nthe end of log:\n1 [Note] x\n2 [ERROR] y"), ["died", "2 [ERROR] y"]);
    }
}
