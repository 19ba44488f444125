//! A backup through the C interface against `cp -a` and `sync`, in the same run, taking turns.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::library::Library;
use crate::{median, scratch};

/// Prints the table: medians over `rounds`.
pub fn run(library: &Path, rounds: usize) -> Result<()> {
    let library = Library::load(library)?;
    library.throttle(u64::MAX);
    println!("copying, seconds until durable: median of {rounds} each");
    measure(&library, rounds, "one file of 2 GiB", |dir| {
        let file = std::fs::File::create(dir.join("big"))?;
        let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
        for _ in 0..2048 {
            std::io::Write::write_all(&mut &file, &block)?;
        }
        Ok(())
    })?;
    measure(&library, rounds, "20,000 files of 100 KiB", |dir| {
        let block = vec![7u8; 100 << 10];
        for folder in 0..100 {
            let folder = dir.join(folder.to_string());
            std::fs::create_dir(&folder)?;
            for file in 0..200 {
                std::fs::write(folder.join(file.to_string()), &block)?;
            }
        }
        Ok(())
    })
}

fn measure(library: &Library, rounds: usize, what: &str, fill: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let dir = scratch("copy")?;
    let source = dir.path().join("source");
    std::fs::create_dir(&source)?;
    fill(&source)?;
    sync();
    let (mut ours, mut cps) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let image = dir.path().join("image");
        std::fs::create_dir(&image)?;
        let started = Instant::now();
        let result = library.back_up(&source, &image, None, std::ptr::null_mut())?;
        ours.push(started.elapsed().as_secs_f64());
        ensure!(result == 0, "the backup failed with {result}");
        std::fs::remove_dir_all(&image)?;
        sync();
        let started = Instant::now();
        ensure!(Command::new("cp").arg("-a").arg(&source).arg(&image).status()?.success(), "cp failed");
        sync();
        cps.push(started.elapsed().as_secs_f64());
        std::fs::remove_dir_all(&image)?;
        sync();
    }
    let (ours, cp) = (median(&mut ours), median(&mut cps));
    println!("  {what}: backup {ours:.2}  cp -a + sync {cp:.2}  ratio {:.2}", ours / cp);
    Ok(())
}

fn sync() {
    // SAFETY: sync(2) has no preconditions.
    unsafe { libc::sync() };
}
