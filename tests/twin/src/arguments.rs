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
    /// Sources are made in `dir` itself, where some may be already, instead of in a directory of this process.
    pub as_is: bool,
    /// How many rounds.
    pub rounds: u64,
    /// The number of the first: any round can be repeated alone.
    pub first: u64,
    /// What all random numbers come from.
    pub seed: u64,
    /// What a program is made of.
    pub shape: Shape,
    /// Stop at the first failed round.
    pub fail_fast: bool,
    /// Look for the smallest program that fails like the first failed round, for so many seconds.
    pub shrink: Option<u64>,
    /// Make file systems and run on each: all, or this one.
    pub filesystems: Option<Option<String>>,
}

/// What a program is made of; what is left out makes it smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Threads of the program.
    pub threads: usize,
    /// Operations to choose from; empty: all.
    pub only: Vec<String>,
    /// Sources of each backup; `None`: one to three.
    pub sources: Option<usize>,
    /// No directories below the sources.
    pub flat: bool,
    /// Operations of each thread during a backup at most.
    pub operations: Option<u64>,
    /// Only backups during which the threads go on.
    pub storm: bool,
}

impl Shape {
    /// Everything.
    pub fn whole() -> Shape {
        Shape { threads: 4, only: Vec::new(), sources: None, flat: false, operations: None, storm: false }
    }

    /// As arguments.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["--threads".to_owned(), self.threads.to_string()];
        let numbers =
            [("--sources", self.sources.map(|number| number as u64)), ("--operations", self.operations)];
        for (name, number) in numbers {
            words.extend(number.into_iter().flat_map(|number| [name.to_owned(), number.to_string()]));
        }
        let switches = [("--flat", self.flat), ("--storm", self.storm)];
        words.extend(switches.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.to_owned()));
        if !self.only.is_empty() {
            words.extend(["--ops".to_owned(), self.only.join(",")]);
        }
        words
    }
}

/// The text for wrong usage.
const USAGE: &str = "usage: twin --dir DIR [--lib PATH] [--images DIR] [--as-is] [--rounds N] [--first N] [--seed S] \
    [--threads T] [--ops NAME,...] [--sources N] [--flat] [--operations N] [--storm] [--fail-fast] \
    [--shrink SECONDS]; or twin filesystems --dir DIR [--lib PATH] [--fs NAME] [--rounds N] [--seed S] \
    [--shrink SECONDS]";

impl Arguments {
    /// From the words after the program's name.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut words = words.peekable();
        let filesystems = words.next_if(|word| word == "filesystems").is_some();
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_micros() as u64);
        let (mut lib, mut dir, mut images, mut fs) = (None, None, None, None);
        let (mut as_is, mut rounds, mut first, mut seed) = (false, 20, 0, None);
        let (mut fail_fast, mut shrink) = (false, None);
        let mut shape = Shape::whole();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value; {USAGE}"));
            let number =
                |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number; {USAGE}"));
            match word.as_str() {
                "--lib" => lib = Some(PathBuf::from(value()?)),
                "--dir" => dir = Some(PathBuf::from(value()?)),
                "--images" => images = Some(PathBuf::from(value()?)),
                "--as-is" => as_is = true,
                "--rounds" => rounds = number(value()?)?,
                "--first" => first = number(value()?)?,
                "--seed" => seed = Some(number(value()?)?),
                "--threads" => shape.threads = number(value()?)?.max(1) as usize,
                "--ops" => shape.only.extend(value()?.split(',').map(|name| name.trim().to_owned())),
                "--sources" => shape.sources = Some(number(value()?)?.clamp(1, 3) as usize),
                "--flat" => shape.flat = true,
                "--operations" => shape.operations = Some(number(value()?)?),
                "--storm" => shape.storm = true,
                "--fail-fast" => fail_fast = true,
                "--shrink" => shrink = Some(number(value()?)?),
                "--fs" if filesystems => fs = Some(value()?),
                _ => return Err(format!("unknown: {word}; {USAGE}")),
            }
        }
        let dir = dir.ok_or(USAGE)?;
        Ok(Arguments {
            lib: lib.map_or_else(Library::find, Ok)?,
            images: images.unwrap_or_else(|| dir.clone()),
            dir,
            as_is,
            rounds,
            first,
            seed: seed.unwrap_or_else(now),
            shape,
            fail_fast,
            shrink,
            filesystems: filesystems.then_some(fs),
        })
    }
}
