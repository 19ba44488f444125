//! `cargo xtask mtr`: the suite in `mysql-test` by the servers' own mysql-test-run, or, for servers that come
//! without one, by MariaDB's on a server that runs already (`--extern`).

use crate::flags::Flags;
use crate::{Failure, build, lab, needs, paths, servers, sh};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The suite's name and folder.
const SUITE: &str = "tokudb_backup";

/// Every server, the slow ones first.
const SERVERS: [&str; 5] = ["mysql-9.7", "mariadb-10.5", "mysql-5.6.24", "mariadb-10.11", "mariadb-11.8"];

/// How many servers are tested at a time: a test waits more than it works.
const AT_A_TIME: usize = 3;

/// Whose mysql-test-run drives the servers that have none.
const FOR_OTHERS: &str = "mariadb-10.11";

/// The subcommand.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let server: Option<String> = flags.value("--server", "a server's name")?;
    let record = flags.switch("--record");
    if let Some(name) = &server {
        servers::check_name(name)?;
    }
    let wanted = flags.words();
    flags.end()?;
    let all = tests()?;
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(*name)) {
        return Err(Failure::Usage(format!("there is no test `{unknown}` in {}", suite().display())));
    }
    let tests = if wanted.is_empty() { all } else { wanted.into_iter().collect() };
    let servers = server.as_deref().map_or_else(|| SERVERS.to_vec(), |name| vec![name]);
    fetch(&servers)?;
    Ok(match run_on(&servers, &tests, record, &build::build(false)?)? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// All tests on all servers, with this folder of built libraries.
pub fn run_all(plugins: &Path) -> Result<()> {
    fetch(&SERVERS)?;
    if !run_on(&SERVERS, &tests()?, false, plugins)? {
        bail!("tests of the suite {SUITE} failed");
    }
    Ok(())
}

/// Makes sure that the servers are there, and who drives them.
fn fetch(names: &[&str]) -> Result<()> {
    let (own, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| servers::has_runner(name));
    servers::fetch_runners(&own)?;
    if others.is_empty() {
        return Ok(());
    }
    servers::fetch_runners(&[FOR_OTHERS])?;
    servers::fetch(&others)?;
    needs::install(&needs::CLIENT)
}

/// Whether every test passed on every server.
fn run_on(names: &[&str], tests: &BTreeSet<String>, record: bool, plugins: &Path) -> Result<bool> {
    if names.iter().any(|name| !servers::has_runner(name)) {
        sh::run(&mut sh::cargo(["build", "--quiet", "--package", "lab", "--bin", "lab"]))?;
    }
    // One recorder at a time.
    let lanes = if record { 1 } else { AT_A_TIME };
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some(&name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = one(name, tests, record, plugins);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((name, outcome));
                }
            });
        }
    });
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, outcome) in outcomes.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                println!("{name}: {error:#}");
                failed.push(format!("all on {name}"));
                continue;
            }
        };
        passed += outcome.passed;
        let bad = outcome.tests - outcome.passed;
        if !outcome.success || bad > 0 {
            print!("== what mysql-test-run said on {name}\n{}", outcome.output);
            failed.push(format!("{bad} of {} on {name}", outcome.tests));
        }
    }
    if passed == 0 && failed.is_empty() {
        failed.push("since none of these tests is for these servers".into());
    }
    if failed.is_empty() {
        println!("mtr: ok, {passed} tests on {} servers", names.len());
    } else {
        println!("mtr: FAILED {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

/// The suite's folder.
fn suite() -> PathBuf {
    paths::workspace().join("mysql-test/suite").join(SUITE)
}

/// The names of the suite's tests.
fn tests() -> Result<BTreeSet<String>> {
    let dir = suite().join("t");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_suffix(".test").map(str::to_owned));
    }
    Ok(found)
}

/// Whether a test is for this server. The beginning of its name says so, and the test itself skips the others: what
/// is skipped although it is meant to run counts as failed.
fn runs_on(test: &str, server: &str) -> bool {
    match test.split('_').next() {
        Some("mariadb") => server.starts_with("mariadb-"),
        Some("mysql8") => server == "mysql-9.7",
        Some("restart") => servers::has_runner(server),
        _ => true,
    }
}

/// What a mysql-test-run has done.
struct Outcome {
    success: bool,
    /// How many tests it was to run.
    tests: usize,
    passed: usize,
    output: String,
}

/// Runs those of the tests that are for this server.
fn one(server: &str, tests: &BTreeSet<String>, record: bool, plugins: &Path) -> Result<Outcome> {
    let tests: Vec<&str> = tests.iter().map(String::as_str).filter(|test| runs_on(test, server)).collect();
    let own = servers::has_runner(server);
    let runner = if own { server } else { FOR_OTHERS };
    println!("{server}: {} tests by mysql-test-run of {runner}", tests.len());
    if tests.is_empty() {
        return Ok(Outcome { success: true, tests: 0, passed: 0, output: String::new() });
    }
    // Never on a file system in memory: MariaDB writes its redo log there without a system call.
    let vardir = paths::workspace().join("target/mtr").join(server);
    // With --extern the runner does not make its folders.
    for folder in ["log", "tmp"] {
        let folder = vardir.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // Errors name real paths.
    let vardir = vardir.canonicalize()?;
    let mut options = vec![
        format!("--suite={SUITE}"),
        format!("--vardir={}", vardir.display()),
        "--force".into(),
        "--retry=0".into(),
        "--max-test-fail=0".into(),
    ];
    if record {
        options.push("--record".into());
    }
    if own {
        options.push(format!("--mysqld=--plugin-dir={}", plugins.display()));
    }
    let (folder, program) = match runner {
        "mysql-9.7" => {
            options.push("--client-bindir=/usr/lib/mysql-test/bin".into());
            ("usr/lib/mysql-test", "mysql-test-run.pl")
        }
        "mariadb-11.8" => ("usr/share/mariadb/mariadb-test", "mariadb-test-run.pl"),
        _ => ("usr/share/mysql/mysql-test", "mariadb-test-run.pl"),
    };
    if own && runner.starts_with("mariadb-") {
        // Off by default there.
        options.extend(["--mysqld=--innodb".into(), "--mysqld=--loose-partition=ON".into()]);
    }
    options.extend(tests.iter().map(|&test| test.to_owned()));
    let tree = servers::runner(runner);
    let mount = tree.join("root").join(folder).join("suite").join(SUITE);
    fs::create_dir_all(&mount).with_context(|| format!("cannot create {}", mount.display()))?;

    let mut command = if own { Command::new("unshare") } else { with_server(server, plugins) };
    if own {
        command.env_remove(SOCKET);
    } else {
        command.arg("unshare");
    }
    // The suite is seen among the runner's own, by its name (MariaDB takes no path with a `-` in it), in a mount
    // namespace that goes with the command.
    command
        .args(["--mount", "--propagation", "private", "sh", "-ceu", ENTER, "sh"])
        .arg(suite())
        .arg(&mount)
        .arg(if record { "rw" } else { "ro" })
        .arg(tree.join("enter"))
        .args([&format!("/{folder}"), program])
        .args(&options);
    let outcome = watch(server, &mut command, &tests)?;
    if outcome.success && outcome.passed == outcome.tests {
        fs::remove_dir_all(&vardir).with_context(|| format!("cannot remove {}", vardir.display()))?;
    }
    Ok(outcome)
}

/// The variable in which `lab with-server` says where the server is.
const SOCKET: &str = "LAB_SOCKET";

/// Mounts the suite and runs the runner in its folder, on the server that LAB_SOCKET names if it does.
const ENTER: &str = r#"
    mount --bind "$1" "$2"
    mount -o "remount,bind,$3" "$2"
    enter=$4 folder=$5 program=$6
    shift 6
    if [ -n "${LAB_SOCKET-}" ]; then
        set -- --extern "socket=$LAB_SOCKET" --extern user=root "$@"
    fi
    exec "$enter" sh -c 'cd "$1"; shift; exec env LC_ALL=C perl "$@" 2>&1' sh "$folder" "$program" "$@"
"#;

/// The program `lab` with a server around another command.
fn with_server(server: &str, plugins: &Path) -> Command {
    let mut cargo = sh::cargo(["run", "--quiet", "--package", "lab", "--bin", "lab", "--"]);
    cargo.args(["with-server", "--server", server, "--"]).env(lab::PLUGIN_DIR, plugins);
    cargo
}

/// Runs it, prints how each test ends as it does, and keeps everything that it says.
fn watch(server: &str, command: &mut Command, tests: &[&str]) -> Result<Outcome> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start mysql-test-run")?;
    let Some(stdout) = child.stdout.take() else { bail!("mysql-test-run has no output") };
    let (mut passed, mut output) = (BTreeSet::new(), String::new());
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if let Some((name, result)) = result(&line)
            && tests.contains(&name)
        {
            println!("  {server}: {name} [ {result} ]");
            if result == "pass" {
                passed.insert(name.to_owned());
            }
        }
        output.push_str(&line);
        output.push('\n');
    }
    let status = child.wait()?;
    Ok(Outcome { success: status.success(), tests: tests.len(), passed: passed.len(), output })
}

/// The test's name and its result in a line like `[ 50%] tokudb_backup.kill 'innodb'   [ pass ]   123`.
fn result(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(&format!("{SUITE}."))?;
    let name = after.split_whitespace().next()?;
    let (_, result) = after.split_once("[ ")?;
    let (result, _) = result.split_once(" ]")?;
    let progress = before.trim().trim_matches(['[', ']', '%']).trim();
    progress.chars().all(|c| c.is_ascii_digit()).then_some((name, result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_both_runners() {
        assert_eq!(result("[ 50%] tokudb_backup.kill             [ pass ]    123"), Some(("kill", "pass")));
        assert_eq!(result("tokudb_backup.kill 'x' w1 [ fail ]  Found warnings"), Some(("kill", "fail")));
        assert_eq!(result("Failing test(s): tokudb_backup.kill"), None);
        assert_eq!(result("tokudb_backup.kill"), None);
    }

    #[test]
    fn the_name_says_where_a_test_runs() {
        assert!(runs_on("kill", "mysql-5.6.24"));
        assert!(runs_on("mariadb_sql", "mariadb-10.5") && !runs_on("mariadb_sql", "mysql-9.7"));
        assert!(runs_on("mysql8_sql", "mysql-9.7") && !runs_on("mysql8_sql", "mysql-5.6.24"));
        assert!(runs_on("restart", "mariadb-11.8") && !runs_on("restart", "mariadb-10.5"));
    }
}
