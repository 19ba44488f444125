//! Running a scenario under many schedules.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::sabotage::Sabotage;

/// A scenario, with one rule broken or none.
pub type Scenario = fn(Sabotage);

/// `MODEL_SEED` begins elsewhere, `MODEL_SCHEDULES` multiplies the number of schedules.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn config(persistence: FailurePersistence) -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.max_steps = MaxSteps::FailAfter(200_000);
    config.failure_persistence = persistence;
    config.silence_warnings = true;
    config
}

/// Half of the schedules random, half with few, well-placed preemptions (PCT).
fn explore(scenario: Scenario, sabotage: Sabotage, seed: u64, schedules: usize, quiet: bool) {
    let persistence = || if quiet { FailurePersistence::None } else { FailurePersistence::Print };
    let random = RandomScheduler::new_from_seed(seed, schedules / 2);
    Runner::new(random, config(persistence())).run(move || scenario(sabotage));
    let pct = PctScheduler::new_from_seed(seed, 3, schedules / 2);
    Runner::new(pct, config(persistence())).run(move || scenario(sabotage));
}

fn seed() -> u64 {
    variable("MODEL_SEED").unwrap_or(1)
}

/// Every schedule of `scenario` ends with an exact image.
pub fn holds(name: &str, scenario: Scenario, schedules: usize) {
    let schedules = schedules * variable("MODEL_SCHEDULES").unwrap_or(1) as usize;
    let begin = std::time::Instant::now();
    println!("{name}: {schedules} schedules, MODEL_SEED={}", seed());
    explore(scenario, Sabotage::None, seed(), schedules, false);
    println!("{name}: ok, {:.1} s", begin.elapsed().as_secs_f64());
}

/// With the rule broken, one of the schedules does not: the check can fail.
pub fn notices(sabotage: Sabotage, scenario: Scenario, schedules: usize) {
    println!("{sabotage:?}: at most {schedules} schedules, MODEL_SEED={}", seed());
    let outcome =
        catch_unwind(AssertUnwindSafe(|| explore(scenario, sabotage, seed(), schedules, true)));
    assert!(outcome.is_err(), "{sabotage:?} was not noticed within {schedules} schedules");
}
