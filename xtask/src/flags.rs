//! Command line flags: `--name VALUE`, `--name=VALUE` and switches, each at most once.

use crate::Failure;
use std::str::FromStr;

/// The arguments of a subcommand that are still to be understood.
pub struct Flags {
    left: Vec<String>,
}

impl Flags {
    /// All arguments of the subcommand.
    pub fn new(args: &[String]) -> Self {
        Flags { left: args.to_vec() }
    }

    /// Takes a switch.
    pub fn switch(&mut self, name: &str) -> bool {
        let at = self.left.iter().position(|arg| arg == name);
        at.map(|at| self.left.remove(at)).is_some()
    }

    /// Takes a flag's value, if the flag is given.
    pub fn value<T: FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, Failure> {
        let Some(at) = self.left.iter().position(|arg| arg.split('=').next() == Some(name)) else {
            return Ok(None);
        };
        let flag = self.left.remove(at);
        let value = match flag.split_once('=') {
            Some((_, value)) => value.to_owned(),
            None if at < self.left.len() => self.left.remove(at),
            None => return Err(Failure::Usage(format!("{name} wants {what}"))),
        };
        match value.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Failure::Usage(format!("{name} wants {what}, not `{value}`"))),
        }
    }

    /// Takes the words that are no flags.
    pub fn words(&mut self) -> Vec<String> {
        let (flags, words) = std::mem::take(&mut self.left).into_iter().partition(|arg| arg.starts_with('-'));
        self.left = flags;
        words
    }

    /// Nothing else may be left.
    pub fn end(self) -> Result<(), Failure> {
        match self.left.first() {
            None => Ok(()),
            Some(arg) => Err(Failure::Usage(format!("what is `{arg}`?"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_switches_and_what_is_wrong() {
        let flags = |args: &[&str]| Flags::new(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        let number = |args: &[&str]| flags(args).value::<u64>("--seed", "a number");
        assert!(matches!(number(&["--seed", "7"]), Ok(Some(7))));
        assert!(matches!(number(&["-x", "--seed=7"]), Ok(Some(7))));
        assert!(matches!(number(&["--seeds=7"]), Ok(None)));
        assert!(matches!(number(&["--seed"]), Err(Failure::Usage(_))));
        assert!(matches!(number(&["--seed", "seven"]), Err(Failure::Usage(_))));
        let mut both = flags(&["--release", "--seed", "1"]);
        assert!(both.switch("--release") && !both.switch("--release"));
        assert!(matches!(both.value::<u64>("--seed", "a number"), Ok(Some(1))));
        assert!(both.end().is_ok());
        assert!(matches!(flags(&["more"]).end(), Err(Failure::Usage(_))));
    }
}
