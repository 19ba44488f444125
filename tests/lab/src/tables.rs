//! A server with very many tables: what a backup of them takes.
//!
//! They are MyISAM tables whose files are copies of one table's, so this is for servers that find tables by their
//! files: MySQL 5.6 and MariaDB.

use crate::image::Manifest;
use crate::plugged::{INSTALL, is_complete, set_dir};
use crate::scratch::Scratch;
use crate::server::{Options, Server};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Makes `count` tables in one database, takes a backup beside RENAME TABLE in that database, and prints what it took.
///
/// # Errors
/// When any of it fails.
pub fn run(name: &str, count: u32) -> Result<()> {
    let scratch = Scratch::new(&format!("tables-{name}"))?;
    let options = Options { plugins: vec![crate::built::plugin()?], ..Options::default() };
    let mut server = Server::create(name, scratch.path(), options)?;
    server.start()?;
    let mut conn = server.connect()?;
    conn.exec(INSTALL)?;
    conn.exec("CREATE DATABASE many")?;
    conn.exec("CREATE TABLE many.t0 (a INT PRIMARY KEY) ENGINE=MyISAM")?;
    conn.exec("INSERT INTO many.t0 VALUES (1)")?;
    conn.exec("FLUSH TABLES")?;
    let directory = server.data().join("many");
    for number in 1..count {
        for kind in ["frm", "MYD", "MYI"] {
            fs::copy(directory.join(format!("t0.{kind}")), directory.join(format!("t{number}.{kind}")))?;
        }
    }
    let last = format!("SELECT a FROM many.t{}", count - 1);
    ensure!(conn.value(last)?.as_deref() == Some("1"), "the server does not see the tables");
    let pid = server.pid().context("the server is gone")?;
    let memory = |what: &str| -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).context("no memory?")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    };
    for beside in ["nothing", "RENAME TABLE"] {
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let before = memory("VmRSS:")?;
        let backup = scratch.path().join("backup");
        let over = AtomicBool::new(beside == "nothing");
        let begin = Instant::now();
        let renamed = std::thread::scope(|scope| {
            let renamer = scope.spawn(|| {
                let mut conn = server.connect()?;
                let mut renamed = 0;
                while !over.load(Ordering::Relaxed) {
                    conn.exec("RENAME TABLE many.t1 TO many.other")?;
                    conn.exec("RENAME TABLE many.other TO many.t1")?;
                    renamed += 2;
                }
                anyhow::Ok(renamed)
            });
            let taken = conn.exec(set_dir(&backup));
            over.store(true, Ordering::Relaxed);
            let renamed = renamer.join().map_err(|_| anyhow::anyhow!("the renamer panicked"))?;
            taken?;
            renamed
        })?;
        let (took, peak) = (begin.elapsed(), memory("VmHWM:")?);
        ensure!(is_complete(&backup), "the backup is not complete");
        let manifest = Manifest::read(&backup)?;
        println!(
            "{name}, {count} tables, beside {beside} ({renamed} statements): {} files in {:.1} s, {} passes, gate {} us, \
             lock held {} ms; the server's memory {before} MiB before, {peak} MiB at most",
            manifest.files,
            took.as_secs_f64(),
            manifest.passes,
            manifest.gate_micros,
            manifest.lock_micros / 1000,
        );
        fs::remove_dir_all(&backup)?;
    }
    server.stop()
}
