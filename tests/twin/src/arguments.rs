//! The command line.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::library::Library;

/// What `twin` is asked to do.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The library under test.
    pub lib: PathBuf,
    /// Where sources (and images) are made.
    pub dir: PathBuf,
    /// Where images are made, if elsewhere.
    pub images: PathBuf,
    /// How many rounds.
    pub rounds: u64,
    /// The number of the first: any round can be repeated alone.
    pub first: u64,
    /// What all random numbers come from.
    pub seed: u64,
    /// Threads of the program.
    pub threads: usize,
    /// Operations to choose from; empty: all.
    pub only: Vec<String>,
    /// Only backups during which the threads go on.
    pub storm: bool,
    /// Stop at the first failed round.
    pub fail_fast: bool,
}

/// The text for wrong usage.
const USAGE: &str = "usage: twin --dir DIR [--lib PATH] [--images DIR] [--rounds N] [--first N] [--seed S] \
    [--threads T] [--ops NAME,...] [--storm] [--fail-fast]";

impl Arguments {
    /// From the words after the program's name.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let (mut lib, mut dir, mut images, mut only) = (None, None, None, Vec::new());
        let (mut rounds, mut first, mut seed, mut threads, mut storm, mut fail_fast) =
            (20, 0, None, 4, false, false);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value; {USAGE}"));
            let number =
                |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number; {USAGE}"));
            match word.as_str() {
                "--lib" => lib = Some(PathBuf::from(value()?)),
                "--dir" => dir = Some(PathBuf::from(value()?)),
                "--images" => images = Some(PathBuf::from(value()?)),
                "--rounds" => rounds = number(value()?)?,
                "--first" => first = number(value()?)?,
                "--seed" => seed = Some(number(value()?)?),
                "--threads" => threads = number(value()?)?.max(1) as usize,
                "--ops" => only.extend(value()?.split(',').map(|name| name.trim().to_owned())),
                "--storm" => storm = true,
                "--fail-fast" => fail_fast = true,
                _ => return Err(format!("unknown: {word}; {USAGE}")),
            }
        }
        let dir = dir.ok_or(USAGE)?;
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_micros() as u64);
        Ok(Arguments {
            lib: lib.map_or_else(Library::find, Ok)?,
            images: images.unwrap_or_else(|| dir.clone()),
            dir,
            rounds,
            first,
            seed: seed.unwrap_or_else(now),
            threads,
            only,
            storm,
            fail_fast,
        })
    }
}
