//! Measurements of the library without a database: `cargo xtask bench` runs them.
//!
//! What happens on real servers (gate time, transactions during a backup) is measured by `cargo xtask soak` and the
//! demo.

mod call;
mod copy;
mod library;
mod throttle;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// A folder that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A folder beside the executable, which lies on the disk that the checkout is on.
fn scratch(name: &str) -> Result<Scratch> {
    let exe = std::env::current_exe()?;
    let dir = exe.with_file_name(format!("bench-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    Ok(Scratch(dir))
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["call", library] => call::run(Path::new(library), 9),
        ["copy", library] => copy::run(Path::new(library), 5),
        ["throttle", library] => throttle::run(Path::new(library), 5),
        ["sample", state, threads, library] => call::sample(state, threads.parse()?, Path::new(library)),
        _ => bail!("usage: bench call|copy|throttle LIBRARY"),
    }
}
