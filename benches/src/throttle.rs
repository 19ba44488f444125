//! How exactly a throttled backup keeps its bound, by the real clock: sizes such that each takes some seconds, in
//! memory, so that nothing but the bound takes time.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::library::Library;
use crate::{Scratch, median};

/// Bytes per second, and bytes to copy.
const CASES: [(u64, u64); 4] =
    [(1_000_000, 6 << 20), (10_000_000, 40 << 20), (100_000_000, 400 << 20), (1_000_000_000, 3 << 30)];

/// Prints the table: medians over `rounds`.
pub fn run(library: &Path, rounds: usize) -> Result<()> {
    let library = Library::load(library)?;
    println!("throttle, bytes per second of the first copying against the bound: median of {rounds} each");
    for (rate, bytes) in CASES {
        let dir = Scratch(format!("/dev/shm/bench-throttle-{}", std::process::id()).into());
        let source = dir.path().join("source");
        std::fs::create_dir_all(&source)?;
        let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
        let file = std::fs::File::create(source.join("file"))?;
        for _ in 0..bytes >> 20 {
            std::io::Write::write_all(&mut &file, &block)?;
        }
        // The same without a bound: what a backup costs besides.
        let (mut rest, mut bound) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            rest.push(back_up(&library, &source, dir.path(), u64::MAX)?);
            bound.push(back_up(&library, &source, dir.path(), rate)?);
        }
        let (rest, bound) = (median(&mut rest), median(&mut bound));
        println!(
            "  {rate} B/s: {bytes} bytes copied in {bound:.2} s, {:.3} of the bound (without a bound {rest:.2} s)",
            bytes as f64 / bound / rate as f64
        );
    }
    library.throttle(u64::MAX);
    Ok(())
}

/// Seconds that a backup takes.
fn back_up(library: &Library, source: &Path, below: &Path, rate: u64) -> Result<f64> {
    let image = below.join("image");
    std::fs::create_dir(&image)?;
    library.throttle(rate);
    let started = Instant::now();
    let result = library.back_up(source, &image, None, std::ptr::null_mut())?;
    ensure!(result == 0, "the backup failed with {result}");
    let took = started.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&image)?;
    Ok(took)
}
