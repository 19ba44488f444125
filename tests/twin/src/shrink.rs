//! Looks for the smallest program that still fails: a failed round is run again with parts left out.
//!
//! Interleavings are chance, so each candidate is tried several times, more often the seldomer the whole program
//! failed; it counts as failing when it fails in the same way once.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::arguments::{Arguments, Shape};
use crate::ops::FAMILIES;

/// Runs of the whole program at most, to see how often it fails.
const SAMPLES: u32 = 12;

/// In what way a run failed; `None`: it did not.
pub fn way(status: ExitStatus, output: &str) -> Option<String> {
    if status.success() {
        return None;
    }
    let told = output.lines().find(|line| line.contains(" FAILED: ") || line.contains(" HANGS "));
    let Some(line) = told else {
        return Some(format!("ends badly ({status})"));
    };
    const WAYS: [&str; 5] =
        ["image differs", "source and image differ", "is torn", "of another time", "HANGS"];
    let known = WAYS.into_iter().find(|way| line.contains(way));
    let returned = || {
        let number = line.split(" returned ").nth(1)?.split(',').next()?;
        Some(format!("returned {number}"))
    };
    Some(known.map(str::to_owned).or_else(returned).unwrap_or_else(|| "something else".into()))
}

/// The fewest of `parts` without which it does not fail any more (delta debugging: in halves, quarters, ...).
pub fn fewest<T: Clone>(mut parts: Vec<T>, fails: &mut dyn FnMut(&[T]) -> bool) -> Vec<T> {
    let mut pieces = 2;
    while parts.len() > 1 {
        let size = parts.len().div_ceil(pieces);
        let chunks: Vec<Vec<T>> = parts.chunks(size).map(<[T]>::to_vec).collect();
        let without = |index: usize| -> Vec<T> {
            let rest = chunks.iter().enumerate().filter(|(other, _)| *other != index);
            rest.flat_map(|(_, chunk)| chunk.iter().cloned()).collect()
        };
        // One piece alone shrinks more, the rest without one piece is likelier to fail.
        let alone = chunks.iter().find(|chunk| fails(chunk)).cloned();
        let smaller = alone.map(|parts| (parts, 2)).or_else(|| {
            let rest = (0..chunks.len()).filter(|_| chunks.len() > 2).map(without).find(|rest| fails(rest));
            rest.map(|parts| (parts, (pieces - 1).max(2)))
        });
        match smaller {
            Some((smaller, next)) => (parts, pieces) = (smaller, next),
            None if pieces >= parts.len() => break,
            None => pieces = (pieces * 2).min(parts.len()),
        }
    }
    parts
}

struct Trials<'a> {
    arguments: &'a Arguments,
    round: u64,
    way: String,
    attempts: u32,
    deadline: Instant,
    runs: u32,
    scratch: PathBuf,
}

/// Runs the rounds; at the first that fails, looks for a smaller program. The number of failures.
pub fn run(arguments: &Arguments, seconds: u64) -> Result<u64, String> {
    let first = command(arguments, &arguments.shape, arguments.first, arguments.rounds)
        .arg("--fail-fast")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start the rounds: {error}"))?;
    let text = String::from_utf8_lossy(&first.stdout).into_owned();
    print!("{text}");
    let Some(way) = way(first.status, &text) else { return Ok(0) };
    let good = text.lines().filter(|line| line.starts_with("twin: round ") && line.ends_with(" ok")).count();
    let round = arguments.first + good as u64;
    println!("twin: round {round} fails: {way}; looking for less that does, for {seconds} s at most");
    let scratch = arguments.dir.join(format!("shrink-{}", std::process::id()));
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut trials = Trials { arguments, round, way, attempts: SAMPLES, deadline, runs: 0, scratch };
    trials.shrink();
    let _ = fs::remove_dir_all(&trials.scratch);
    Ok(1)
}

impl Trials<'_> {
    fn shrink(&mut self) {
        let mut best = self.arguments.shape.clone();
        if !self.fails(&best) {
            println!("twin: it did not fail again in {} runs: nothing to shrink", self.runs);
            return;
        }
        // Seen once in so many runs: three times as many miss it in 1 case of 20.
        self.attempts = (self.runs * 3).clamp(3, SAMPLES * 3);
        let whole = best.clone();
        let names: Vec<&'static str> = FAMILIES
            .iter()
            .flat_map(|family| family.iter().map(|operation| operation.name))
            .filter(|name| whole.only.is_empty() || whole.only.iter().any(|only| is_called(name, only)))
            .collect();
        let families: Vec<Vec<&'static str>> = FAMILIES
            .iter()
            .map(|family| {
                family.iter().map(|operation| operation.name).filter(|name| names.contains(name)).collect()
            })
            .filter(|family: &Vec<_>| !family.is_empty())
            .collect();
        let of = |shape: &Shape, names: &[&str]| Shape {
            only: names.iter().map(|name| (*name).to_owned()).collect(),
            ..shape.clone()
        };
        self.adopt(&mut best, |shape| Shape { storm: true, ..shape.clone() });
        let families = fewest(families, &mut |families| self.fails(&of(&best, &families.concat())));
        let names = fewest(families.concat(), &mut |names| self.fails(&of(&best, names)));
        best = of(&best, &names);
        self.adopt(&mut best, |shape| Shape { sources: Some(1), ..shape.clone() });
        self.adopt(&mut best, |shape| Shape { flat: true, ..shape.clone() });
        for threads in 1..best.threads {
            if self.adopt(&mut best, |shape| Shape { threads, ..shape.clone() }) {
                break;
            }
        }
        for operations in [4, 16, 64, 256, 1024] {
            if self.adopt(&mut best, |shape| Shape { operations: Some(operations), ..shape.clone() }) {
                break;
            }
        }
        println!(
            "twin: smallest after {} runs: {} thread(s), {} of {} operations, {}{}{}",
            self.runs,
            best.threads,
            best.only.len(),
            FAMILIES.iter().map(|family| family.len()).sum::<usize>(),
            best.sources.map_or("1 to 3 sources".into(), |sources| format!("{sources} source(s)")),
            if best.flat { ", no directories" } else { "" },
            best.operations
                .map_or(String::new(), |number| format!(", {number} operations a backup and thread")),
        );
        let words = command(self.arguments, &best, self.round, 1);
        let words = words.get_args().map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>();
        println!("twin: again: twin {}", words.join(" "));
    }

    /// Takes the smaller program if it fails too.
    fn adopt(&mut self, best: &mut Shape, smaller: impl Fn(&Shape) -> Shape) -> bool {
        let candidate = smaller(best);
        let fails = candidate != *best && self.fails(&candidate);
        if fails {
            *best = candidate;
        }
        fails
    }

    fn fails(&mut self, shape: &Shape) -> bool {
        for _ in 0..self.attempts {
            if Instant::now() > self.deadline {
                return false;
            }
            self.runs += 1;
            let mut command = command(self.arguments, shape, self.round, 1);
            // Its own directories, so that what a failed run leaves can be removed.
            let _ = fs::create_dir_all(&self.scratch);
            command.arg("--dir").arg(&self.scratch);
            let Ok(output) = command.stderr(Stdio::null()).output() else { return false };
            let _ = fs::remove_dir_all(&self.scratch);
            if way(output.status, &String::from_utf8_lossy(&output.stdout)).as_ref() == Some(&self.way) {
                return true;
            }
        }
        false
    }
}

/// Whether `only` of the command line means this operation.
fn is_called(name: &str, only: &str) -> bool {
    name == only || name.split(' ').next() == Some(only)
}

fn command(arguments: &Arguments, shape: &Shape, first: u64, rounds: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "twin".into()));
    command.arg("--lib").arg(&arguments.lib).arg("--dir").arg(&arguments.dir);
    if arguments.images != arguments.dir {
        command.arg("--images").arg(&arguments.images);
    }
    if arguments.as_is {
        command.arg("--as-is");
    }
    for (name, number) in [("--first", first), ("--rounds", rounds), ("--seed", arguments.seed)] {
        command.args([name, &number.to_string()]);
    }
    command.args(shape.words());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_stays() {
        for wanted in [vec![7], vec![0, 99], vec![3, 4, 5], (0..100).collect()] {
            let mut runs = 0;
            let found = fewest((0..100).collect(), &mut |parts: &[i32]| {
                runs += 1;
                wanted.iter().all(|part| parts.contains(part))
            });
            assert_eq!(found, wanted, "after {runs} runs");
        }
        assert_eq!(fewest(vec![1, 2, 3], &mut |_| false), [1, 2, 3]);
    }

    #[test]
    fn ways_to_fail_are_told_apart() {
        use std::os::unix::process::ExitStatusExt;
        let way = |text: &str| way(ExitStatus::from_raw(256), text).unwrap();
        assert_eq!(
            way("x\ntwin: round 3 FAILED: backup 0 (Storm): returned 84, 1 error call(s)"),
            "returned 84"
        );
        assert_eq!(way("twin: round 3 FAILED: the image is torn: ledger 1"), "is torn");
        assert_eq!(way("twin: HANGS after 3 backups"), "HANGS");
        assert!(way("nothing").starts_with("ends badly"));
        assert_eq!(super::way(ExitStatus::from_raw(0), ""), None);
    }
}
