//! kill -9 of the server in the middle of backups: it must restart clean over its own data, and whoever finds what is
//! left of the backup must be able to tell what it is.

use crate::check::{self, Expected, Findings};
use crate::client::{Conn, SqlError};
use crate::image::Manifest;
use crate::ledger::{Instant, Ledger};
use crate::load::Load;
use crate::plugged::{is_complete, set_dir};
use crate::rng::Rng;
use crate::round::{Lab, Settings};
use crate::scratch::workspace;
use crate::{ddl, workload};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// When the server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// At any time from the statement on.
    Anywhere,
    /// A moment after the backup says that it is in this phase.
    In(&'static str),
    /// As soon as the statement has returned.
    Returned,
}

/// One cycle after the other takes the next.
const WHENS: [When; 7] = [
    When::In("copying"),
    When::In("gate"),
    When::Anywhere,
    When::In("finishing"),
    When::In("preparing"),
    When::In("converging"),
    When::Returned,
];

/// Where a killed backup had got to, by what it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// No directory, or an empty one: nothing that could be taken for a backup.
    Nothing,
    /// Marked as incomplete.
    Incomplete,
    /// Manifest and all.
    Complete,
}

/// Kills the server `cycles` times; a line a cycle. Returns how many went wrong: what they left stays on the disk.
///
/// # Errors
/// When a server cannot be made, or what passed cannot be removed.
pub fn run(name: &str, cycles: u32, seed: u64) -> Result<u32> {
    println!("kills of {name}, {cycles} cycles, seed {seed}");
    let home = workspace().join("target/lab").join(format!("kills-{name}-{seed}-{}", std::process::id()));
    let new = |number: u32| {
        let mut settings = Settings::new(name);
        settings.identity = false;
        // Enough to be copied for a while.
        settings.filler = 8 << 20;
        let lab = Lab::new(settings, &home.join(format!("server-{number}")), seed + u64::from(number))?;
        // No DDL runs in here (P27), but the checks look at its databases.
        ddl::begin_round(&mut lab.server.connect()?, &lab.features)?;
        anyhow::Ok(lab)
    };
    let mut lab = new(0)?;
    let (mut failed, mut incomplete, mut complete) = (0, 0, 0);
    for number in 0..cycles {
        let seed = seed + u64::from(number);
        let when = WHENS[seed as usize % WHENS.len()];
        let dir = home.join(format!("cycle-{number}"));
        fs::create_dir_all(&dir)?;
        let ended = cycle(&mut lab, &dir, when, seed);
        let problems = match ended {
            Ok((left, findings)) => {
                incomplete += u32::from(left == Left::Incomplete);
                complete += u32::from(left == Left::Complete);
                println!("cycle {number}, seed {seed}, killed {when:?}: {left:?}");
                findings.problems
            }
            Err(error) => vec![format!("{error:#}")],
        };
        if problems.is_empty() {
            fs::remove_dir_all(&dir)?;
            continue;
        }
        failed += 1;
        println!("cycle {number}, seed {seed}, killed {when:?}: FAILED, left in {}", home.display());
        problems.iter().for_each(|problem| println!("    {problem}"));
        lab.server.kill9();
        lab = new(number + 1)?;
    }
    lab.server.stop()?;
    println!(
        "kills: {cycles} cycles of {name}, {failed} failed, {incomplete} left an incomplete backup, {complete} a \
         complete one, seed {seed}"
    );
    if failed == 0 {
        fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
    }
    Ok(failed)
}

fn cycle(lab: &mut Lab, dir: &Path, when: When, seed: u64) -> Result<(Left, Findings)> {
    let mut rng = Rng::new(seed);
    // A comparison in the gate holds it open to the killer.
    let environment = &mut lab.server.options.env;
    environment.retain(|(name, _)| name != "TOKUDB_BACKUP_TEST_IDENTITY");
    if when == When::In("gate") {
        environment.push(("TOKUDB_BACKUP_TEST_IDENTITY".into(), "1".into()));
        lab.restart()?;
    }
    let backup = dir.join("backup");
    let (returned, ledger, log) = kill(lab, &backup, when, &mut rng, seed)?;
    lab.server.start().context("the source does not start again")?;
    let expected = Expected {
        features: &lab.features,
        ledger: &ledger,
        instant: Instant::end(),
        at_rest: &lab.at_rest,
        binlog: None,
        nolog: None,
    };
    let mut findings = check::check_restarted(&mut lab.server, log, &expected);
    let left = what_is_left(&backup)?;
    if returned && left != Left::Complete {
        findings.problems.push(format!("the statement had succeeded, its backup is {left:?}"));
    }
    if left == Left::Complete {
        let instant = Instant::at(Manifest::read(&backup)?.instant);
        let image = check::check(&lab.server, &backup, &dir.join("check"), &Expected { instant, ..expected });
        findings.problems.extend(image.problems);
    }
    findings.problems.extend(
        again(&mut lab.server.connect()?, left, &backup, &dir.join("another"))
            .err()
            .map(|error| format!("the next backup: {error:#}")),
    );
    Ok((left, findings))
}

/// Whether the statement had succeeded, what the clients know, and how long the error log was then.
fn kill(lab: &mut Lab, backup: &Path, when: When, rng: &mut Rng, seed: u64) -> Result<(bool, Ledger, u64)> {
    let mut conn = lab.server.connect()?;
    // Where it is on, all of it would be copied in every cycle.
    conn.exec("PURGE BINARY LOGS BEFORE NOW()")?;
    workload::begin_round(&mut conn, &lab.features)?;
    let number = seed % 1_000_000_000;
    let mut load = Load::new(lab.server.conn_options(), number);
    workload::start(&mut load, &lab.features, number, rng)?;
    std::thread::sleep(Duration::from_millis(rng.within(50, 400)));
    let mut watcher = lab.server.connect()?;
    if rng.percent(50) {
        let rate = rng.within(20, 200) * 1_000_000;
        conn.exec(format!("SET tokudb_backup_throttle = {rate}"))?;
    }
    let log = fs::metadata(lab.server.error_log())?.len();
    let sql = set_dir(backup);
    let taking = std::thread::spawn(move || conn.exec(sql));
    match when {
        When::Anywhere => std::thread::sleep(Duration::from_millis(rng.below(3000))),
        When::Returned => wait_until(&mut watcher, |_| taking.is_finished())?,
        When::In(phase) => {
            wait_until(&mut watcher, |now| now == phase || taking.is_finished())?;
            std::thread::sleep(Duration::from_micros(rng.below(20_000)));
        }
    }
    lab.server.kill9();
    let taken = taking.join().map_err(|_| anyhow::anyhow!("the backup's client panicked"))?;
    let (ledger, failures) = load.stop();
    if let Some(failure) = failures.into_iter().find(|failure| !failure.disconnect) {
        bail!("a client of the load: {}", failure.text);
    }
    match taken {
        Ok(_) => Ok((true, ledger, log)),
        Err(error) if error.is_disconnect() => Ok((false, ledger, log)),
        Err(error) => bail!("the backup failed before it was killed: {error}"),
    }
}

/// Watches the backup's state until `enough`.
fn wait_until(watcher: &mut Conn, enough: impl Fn(&str) -> bool) -> Result<(), SqlError> {
    loop {
        let rows = watcher.query("SHOW GLOBAL STATUS LIKE 'tokudb_backup_state'")?.texts();
        if rows.first().is_some_and(|row| enough(&row[1])) {
            return Ok(());
        }
    }
}

/// What anybody can tell of the directory, with no knowledge of what happened.
fn what_is_left(backup: &Path) -> Result<Left> {
    let holds = |name: &str| backup.join(name).exists();
    if holds("backup_incomplete") {
        return Ok(Left::Incomplete);
    }
    if holds("backup_manifest") {
        ensure!(is_complete(backup), "{} says that it is complete and is not", backup.display());
        return Ok(Left::Complete);
    }
    let empty = !backup.exists() || fs::read_dir(backup)?.next().is_none();
    ensure!(empty, "{} has files and says neither that it is complete nor that it is not", backup.display());
    Ok(Left::Nothing)
}

/// A backup into the same directory is refused, if there is one; one into another works.
fn again(conn: &mut Conn, left: Left, same: &Path, another: &Path) -> Result<()> {
    let refused = conn.exec(set_dir(same));
    let text = match (left, &refused) {
        (Left::Nothing, Ok(_)) => {
            ensure!(is_complete(same), "{} is not complete", same.display());
            return Ok(());
        }
        (Left::Nothing, Err(error)) => bail!("into the empty directory: {error}"),
        (_, Ok(_)) => bail!("{} was taken for an empty directory", same.display()),
        (Left::Incomplete, Err(_)) => "holds an incomplete backup",
        (Left::Complete, Err(_)) => "holds a backup already",
    };
    let error = refused.expect_err("it was refused");
    ensure!(error.message.contains(text), "{error} does not tell that it {text}");
    let kept = what_is_left(same)?;
    ensure!(kept == left, "the refused backup has made {kept:?} of {left:?}");
    conn.exec(set_dir(another))?;
    ensure!(is_complete(another), "{} is not complete", another.display());
    Ok(())
}
