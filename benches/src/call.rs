//! The time of one 16 KiB pwrite: in a process without the library, with it idle, and while it captures.
//!
//! Each sample is a process of its own; the states take turns, so that a noisy machine disturbs all alike.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::library::Library;
use crate::{median, scratch};

const BLOCK: usize = 16 * 1024;
const FILE: u64 = 64 << 20;
const SAMPLE: Duration = Duration::from_millis(400);
/// States in the order of their columns.
const STATES: [&str; 3] = ["bare", "idle", "capturing"];

/// Prints the table: medians over `rounds`.
pub fn run(library: &Path, rounds: usize) -> Result<()> {
    println!("one pwrite of 16 KiB, ns: median of {rounds} processes each (ratio to bare)");
    for threads in [1, 2] {
        let mut samples = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for (state, samples) in STATES.iter().zip(&mut samples) {
                let output = Command::new(std::env::current_exe()?)
                    .args(["sample", state, &threads.to_string()])
                    .arg(library)
                    .output()?;
                let text = String::from_utf8_lossy(&output.stdout);
                ensure!(output.status.success(), "{state}: {}", String::from_utf8_lossy(&output.stderr));
                samples.push(text.trim().parse::<f64>().with_context(|| format!("{state}: {text}"))?);
            }
        }
        let medians = samples.each_mut().map(|samples| median(samples));
        let [bare, ..] = medians;
        let columns: Vec<String> = STATES
            .iter()
            .zip(medians)
            .map(|(state, ns)| format!("{state} {ns:.0} ({:.2})", ns / bare))
            .collect();
        println!("  {threads} thread(s): {}", columns.join("  "));
    }
    Ok(())
}

static POLLS: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicU32 = AtomicU32::new(0);

extern "C" fn poll(_progress: f32, _text: *const c_char, _extra: *mut c_void) -> c_int {
    POLLS.fetch_add(1, Ordering::SeqCst);
    STOP.load(Ordering::SeqCst) as c_int
}

/// One sample in this process: prints nanoseconds for one call.
pub fn sample(state: &str, threads: usize, library: &Path) -> Result<()> {
    let dir = scratch("call")?;
    let source = dir.path().join("source");
    let image = dir.path().join("image");
    std::fs::create_dir(&source)?;
    std::fs::create_dir(&image)?;
    let files = (0..threads)
        .map(|number| {
            let file = std::fs::File::create(source.join(number.to_string()))?;
            std::io::Write::write_all(&mut &file, &vec![1u8; FILE as usize])?;
            Ok(file)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut backup = None;
    if state != "bare" {
        let library = Library::load(library)?;
        if state == "capturing" {
            // Copying is paused, marks are taken.
            library.throttle(0);
            let (source, image) = (source.clone(), image.clone());
            backup = Some(std::thread::spawn(move || {
                library.back_up(&source, &image, Some(poll), std::ptr::null_mut())
            }));
            let give_up = Instant::now() + Duration::from_secs(20);
            while POLLS.load(Ordering::SeqCst) < 5 {
                if Instant::now() > give_up {
                    bail!("the backup does not begin");
                }
                std::thread::yield_now();
            }
        }
    }
    let ns = measure(&files);
    STOP.store(1, Ordering::SeqCst);
    if let Some(backup) = backup {
        let result = backup.join().map_err(|_| anyhow::anyhow!("the backup's thread panicked"))??;
        ensure!(result == 1, "the backup ended by itself with {result}");
    }
    println!("{ns}");
    Ok(())
}

fn measure(files: &[std::fs::File]) -> f64 {
    let started = Instant::now();
    let calls: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .map(|file| {
                scope.spawn(move || {
                    let data = vec![2u8; BLOCK];
                    let mut offset = 12345u64;
                    let mut calls = 0u64;
                    while started.elapsed() < SAMPLE {
                        for _ in 0..64 {
                            offset =
                                offset.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                            let at = (offset >> 20) % (FILE / BLOCK as u64) * BLOCK as u64;
                            // SAFETY: an open descriptor and a buffer of BLOCK bytes.
                            let n = unsafe {
                                libc::pwrite64(file.as_raw_fd(), data.as_ptr().cast(), BLOCK, at as i64)
                            };
                            assert_eq!(n, BLOCK as isize, "pwrite");
                            calls += 1;
                        }
                    }
                    calls
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    started.elapsed().as_nanos() as f64 * files.len() as f64 / calls as f64
}
