//! The queue of marked entries and the gate alone, so small that every schedule is tried.

use std::sync::Arc;
use std::time::Duration;

use shuttle::scheduler::DfsScheduler;
use shuttle::{Config, Runner, thread};
use tokudb_backup::tracker::{Key, Kind, Marks, Tracker, tracker};

fn every_schedule(name: &str, scenario: fn()) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let begin = std::time::Instant::now();
    let schedules = Runner::new(DfsScheduler::new(None, false), config).run(scenario);
    println!("{name}: all {schedules} schedules, {:.1} s", begin.elapsed().as_secs_f64());
}
