//! What a server's process holds while backups are taken in it for hours: memory, descriptors, threads.

use anyhow::{Context, Result};
use plotters::prelude::*;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// One look at a process that has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Since the beginning.
    pub at: Duration,
    /// Backups so far.
    pub backups: u32,
    /// Resident memory, bytes.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Sample {
    /// Looks at a process of this machine (proc(5)).
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32, at: Duration, backups: u32) -> Result<Sample> {
        let proc = Path::new("/proc").join(pid.to_string());
        let status = fs::read_to_string(proc.join("status")).context("the server is gone")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let kib: u64 = resident.context("no VmRSS")?.parse()?;
        let count = |dir: &str| Ok::<_, std::io::Error>(fs::read_dir(proc.join(dir))?.count());
        Ok(Sample { at, backups, memory: kib << 10, descriptors: count("fd")?, threads: count("task")? })
    }
}

/// What has grown: the median of the last quarter is held against that of the second one, when caches are full. A
/// server's own memory moves by some percent; descriptors and threads by a few.
pub fn grown(samples: &[Sample]) -> Vec<String> {
    let quarter = samples.len() / 4;
    if quarter == 0 {
        return Vec::new();
    }
    let median = |part: &[Sample], of: &dyn Fn(&Sample) -> u64| {
        let mut all: Vec<u64> = part.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (early, late) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
    let mut grown = Vec::new();
    let mut compare = |what: &str, of: &dyn Fn(&Sample) -> u64, allowed: &dyn Fn(u64) -> u64| {
        let (before, after) = (median(early, of), median(late, of));
        if after > before + allowed(before) {
            grown.push(format!("{what} grew from {before} to {after}"));
        }
    };
    compare("resident memory", &|sample| sample.memory, &|before| before / 20);
    compare("open descriptors", &|sample| sample.descriptors as u64, &|before| before / 10);
    compare("threads", &|sample| sample.threads as u64, &|before| before / 10);
    grown
}

/// One line: from the second quarter on, since when caches are full.
pub fn summary(samples: &[Sample]) -> String {
    let rest = &samples[samples.len() / 4..];
    let range = |of: &dyn Fn(&Sample) -> u64| {
        let all = || rest.iter().map(of);
        format!("{} to {}", all().min().unwrap_or(0), all().max().unwrap_or(0))
    };
    format!(
        "after the first quarter: memory {} MiB, descriptors {}, threads {}",
        range(&|sample| sample.memory >> 20),
        range(&|sample| sample.descriptors as u64),
        range(&|sample| sample.threads as u64)
    )
}

type Value<'a> = &'a dyn Fn(&Sample) -> f64;

/// Draws the samples into an SVG file: three curves over the hours, one above the other.
///
/// # Errors
/// When the file cannot be written.
pub fn plot(path: &Path, title: &str, samples: &[Sample]) -> Result<()> {
    let area = SVGBackend::new(path, (900, 660)).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 18))?;
    let curves: [(&str, Value); 3] = [
        ("resident memory, MiB", &|sample| (sample.memory >> 20) as f64),
        ("open descriptors", &|sample| sample.descriptors as f64),
        ("threads", &|sample| sample.threads as f64),
    ];
    let hours = samples.last().map_or(1.0, |last| last.at.as_secs_f64() / 3600.0);
    for (part, (name, of)) in area.split_evenly((3, 1)).iter().zip(curves) {
        let top = samples.iter().map(of).fold(1.0, f64::max) * 1.15;
        let mut chart = ChartBuilder::on(part)
            .caption(name, ("sans-serif", 14))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..hours, 0.0..top)?;
        chart.configure_mesh().x_desc("hours").draw()?;
        let points = samples.iter().map(|sample| (sample.at.as_secs_f64() / 3600.0, of(sample)));
        chart.draw_series(LineSeries::new(points, &BLUE))?;
    }
    area.present().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: impl Fn(u64) -> u64, descriptors: impl Fn(u64) -> usize) -> Vec<Sample> {
        let sample = |n: u64| Sample {
            at: Duration::from_secs(n),
            backups: n as u32,
            memory: memory(n),
            descriptors: descriptors(n),
            threads: 40,
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn growth_is_told_from_a_cache_that_fills() {
        let steady = samples(|n| (100 + n.min(20)) << 20, |n| 50 + (n % 3) as usize);
        assert_eq!(grown(&steady), [""; 0]);
        let leak = samples(|n| (100 + n) << 20, |_| 50);
        assert!(grown(&leak)[0].starts_with("resident memory grew from"), "{:?}", grown(&leak));
        let lost = samples(|_| 100 << 20, |n| 50 + n as usize);
        assert!(grown(&lost)[0].starts_with("open descriptors grew from"), "{:?}", grown(&lost));
        assert_eq!(grown(&steady[..3]), [""; 0]);
    }

    #[test]
    fn this_process_has_something_of_each() {
        let sample = Sample::of(std::process::id(), Duration::ZERO, 0).unwrap();
        assert!(sample.memory > 1 << 20 && sample.descriptors >= 3 && sample.threads >= 1, "{sample:?}");
    }
}
