//! `cargo xtask controls`: breaks rules of the protocol in a copy of the sources, one at a time, and shows that a test
//! notices each. For docs/controls.md; takes too long for the suite.

mod rules;

use crate::flags::Flags;
use crate::{Failure, needs, paths, sh};
use anyhow::{Context, Result, bail};
use rules::CONTROLS;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// A text of a source file, and what stands there instead.
type Edit = (&'static str, &'static str, &'static str);

/// A rule, broken.
struct Control {
    rule: &'static str,
    what: &'static str,
    edits: &'static [Edit],
    shown_by: By,
}

/// What must notice it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum By {
    /// The twin, with these operations (none: all), under a temporary file system.
    Twin(&'static str),
    /// The same without the comparison in the gate, which keeps it closed for as long as it takes: the program's own
    /// ledgers must notice.
    Ledgers(&'static str),
    /// A test of the C interface.
    Capi(&'static str),
    /// A test of failing destinations.
    Faults(&'static str),
    /// A test inside the library.
    Unit(&'static str),
}

/// Seconds after which a test of one rule hangs.
const LONGEST: &str = "600";

/// The subcommand. Last line: how many were noticed.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let only: Option<String> = flags.value("--rule", "rules, such as P1,P20")?;
    let rounds: u32 = flags.value("--rounds", "a number of rounds")?.unwrap_or(40);
    flags.end()?;
    Ok(break_rules(only.as_deref(), rounds)?)
}

fn break_rules(only: Option<&str>, rounds: u32) -> Result<ExitCode> {
    needs::install(&needs::TWIN)?;
    let place = Place::make()?;
    for control in CONTROLS {
        control.broken(|file| Ok(fs::read_to_string(paths::workspace().join(file))?))?;
    }
    let chosen: Vec<_> = CONTROLS
        .iter()
        .filter(|control| only.is_none_or(|only| only.split(',').any(|rule| rule == control.rule)))
        .collect();
    // All must be good while nothing is broken: what is noticed then is what was broken.
    place.copy_sources()?;
    place.build()?;
    let mut good = HashSet::new();
    for control in &chosen {
        if good.insert(control.shown_by)
            && let Noticed::Yes(line) = place.test(control, rounds.min(5))?
        {
            bail!("with nothing broken, the test of {} ({}) fails: {line}", control.rule, control.what);
        }
    }
    let mut unnoticed = 0;
    for control in &chosen {
        place.copy_sources()?;
        place.sabotage(control)?;
        place.build()?;
        let begin = Instant::now();
        let noticed = place.test(control, rounds)?;
        let took = begin.elapsed().as_secs_f64();
        let Control { rule, what, .. } = control;
        match noticed {
            Noticed::Yes(line) => println!("{rule}: {what}: noticed in {took:.1} s: {line}"),
            Noticed::No => {
                unnoticed += 1;
                println!("{rule}: {what}: NOT NOTICED");
            }
        }
    }
    println!("controls: {} times broken, {unnoticed} not noticed", chosen.len());
    let noticed = unnoticed == 0 && !chosen.is_empty();
    Ok(if noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Control {
    /// The files that it changes, as they are then. `read`: as they are.
    fn broken(&self, read: impl Fn(&str) -> Result<String>) -> Result<BTreeMap<&'static str, String>> {
        let mut files = BTreeMap::new();
        for (file, find, replace) in self.edits {
            let content = files.remove(file).map_or_else(|| read(file), Ok)?;
            if !content.contains(find) {
                bail!("{}: {file} has no {find:?} any more: the control is out of date", self.rule);
            }
            files.insert(*file, content.replace(find, replace));
        }
        Ok(files)
    }
}

enum Noticed {
    Yes(String),
    No,
}

/// A copy of the sources with builds of its own.
struct Place {
    tree: PathBuf,
    target: PathBuf,
    /// Names and contents of all sources, as they were at the start.
    sources: Vec<(String, Vec<u8>)>,
}

impl Place {
    fn make() -> Result<Place> {
        let below = paths::workspace().join("target").join("controls");
        let root = paths::workspace();
        let list = sh::output(
            sh::cmd("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
                .current_dir(&root),
        )?;
        let names = list.split('\0').filter(|name| !name.is_empty());
        let sources =
            names.filter_map(|name| Some((name.to_owned(), fs::read(root.join(name)).ok()?))).collect();
        Ok(Place { tree: below.join("tree"), target: below.join("target"), sources })
    }

    /// Files that are the same already keep their times.
    fn copy_sources(&self) -> Result<()> {
        for (name, content) in &self.sources {
            let to = self.tree.join(name);
            if fs::read(&to).is_ok_and(|known| known == *content) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&to, content).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }

    fn sabotage(&self, control: &Control) -> Result<()> {
        for (file, content) in control.broken(|file| Ok(fs::read_to_string(self.tree.join(file))?))? {
            fs::write(self.tree.join(file), content)?;
        }
        Ok(())
    }

    fn cargo(&self, words: &[&str]) -> Command {
        let mut cargo = sh::cargo(words);
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target).env("RUSTFLAGS", "-Awarnings");
        cargo
    }

    fn build(&self) -> Result<PathBuf> {
        sh::run(&mut self.cargo(&[
            "build",
            "--quiet",
            "--package",
            "tokudb_backup",
            "--package",
            "twin",
            "--package",
            "twin_late",
        ]))?;
        Ok(self.target.join("debug").join("libtokudb_backup.so"))
    }

    fn test(&self, control: &Control, rounds: u32) -> Result<Noticed> {
        let memory = memory().unwrap_or_else(|| self.target.clone());
        match control.shown_by {
            By::Twin(ops) => self.twin(ops, rounds, &memory, true),
            By::Ledgers(ops) => self.twin(ops, rounds, &memory, false),
            By::Capi(name) => self.cargo_test(&["--package", "twin", "--test", "capi"], name),
            By::Faults(name) => self.cargo_test(&["--package", "twin", "--test", "faults"], name),
            By::Unit(name) => self.cargo_test(&["--package", "tokudb_backup", "--lib"], name),
        }
    }

    fn twin(&self, ops: &str, rounds: u32, directory: &Path, identity: bool) -> Result<Noticed> {
        let library = self.target.join("debug").join("libtokudb_backup.so");
        let mut twin = Command::new(self.target.join("debug").join("twin"));
        twin.arg("--lib").arg(library).arg("--dir").arg(directory);
        twin.args(["--rounds", &rounds.to_string(), "--fail-fast", "--storm"]);
        twin.env("TOKUDB_BACKUP_TEST_IDENTITY", if identity { "1" } else { "0" });
        if !ops.is_empty() {
            twin.args(["--ops", ops]);
        }
        let output = twin.output().context("cannot start twin")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // A backup that found no moment to end (110) says nothing about what it saw.
        let line = text.lines().find(|line| line.contains("FAILED") && !line.contains("returned 110"));
        Ok(line.map_or(Noticed::No, |line| Noticed::Yes(line.chars().take(200).collect())))
    }

    fn cargo_test(&self, of: &[&str], name: &str) -> Result<Noticed> {
        let test = self.cargo(&[&["test", "--quiet"], of, &["--", "--exact", name]].concat());
        // Who hangs has noticed, too.
        let mut timed = sh::cmd("timeout", ["--kill-after=10", LONGEST]);
        timed.arg(test.get_program()).args(test.get_args()).current_dir(&self.tree);
        for (name, value) in test.get_envs() {
            match value {
                Some(value) => timed.env(name, value),
                None => timed.env_remove(name),
            };
        }
        let output = timed.output().context("cannot start cargo")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            if !text.contains("1 passed") {
                bail!("there is no test {name}");
            }
            return Ok(Noticed::No);
        }
        if !text.contains("running 1 test") {
            bail!("{name} cannot be built: {}", String::from_utf8_lossy(&output.stderr));
        }
        let told = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or("it hangs");
        Ok(Noticed::Yes(format!("{name}: {}", told.chars().take(200).collect::<String>())))
    }
}

/// A directory in memory: faster, and windows are narrower than on a disk.
fn memory() -> Option<PathBuf> {
    Some(PathBuf::from("/dev/shm")).filter(|path| Path::new(path).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_fits_the_sources() {
        for control in CONTROLS {
            control.broken(|file| Ok(fs::read_to_string(paths::workspace().join(file))?)).unwrap();
        }
    }
}
