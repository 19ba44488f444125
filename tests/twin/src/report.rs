//! What ran how often.

use std::path::Path;

use crate::ops::{Needs, Table};
use crate::shared::Stats;

/// Fewer rounds than this do not show that an operation cannot succeed.
const ENOUGH: u64 = 10;

/// Prints how often each operation ran and succeeded; gives those that never did though they could.
pub fn print(table: &Table, stats: &Stats, directory: &Path, rounds: u64) -> Vec<&'static str> {
    let mut never = Vec::new();
    for (index, operation) in table.operations.iter().enumerate() {
        let (tried, done) = stats.of(index);
        let supported = done > 0 || operation.needs == Needs::Nothing || operation.needs.met(directory);
        let note = match (done, supported) {
            (0, false) => "  (not supported here)",
            (0, true) => {
                never.push(operation.name);
                "  NEVER"
            }
            _ => "",
        };
        println!("{:>9} of {:>9}  {}{note}", done, tried, operation.name);
    }
    println!(
        "{:>9} operations in all, {} of them without room on the file system",
        stats.total(),
        stats.full()
    );
    if rounds < ENOUGH { Vec::new() } else { never }
}
