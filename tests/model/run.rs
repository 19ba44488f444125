//! Running a scenario under many schedules.

use std::cell::Cell;
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

/// Most schedules have few, well-placed preemptions (PCT: two, or five), the others are random.
fn explore(
    scenario: impl Fn(Sabotage) + Copy + Send + Sync + 'static,
    sabotage: Sabotage,
    schedules: usize,
    quiet: bool,
) {
    let persistence = || if quiet { FailurePersistence::None } else { FailurePersistence::Print };
    for depth in [3, 6] {
        let pct = PctScheduler::new_from_seed(seed(), depth, schedules * 2 / 5);
        Runner::new(pct, config(persistence())).run(move || scenario(sabotage));
    }
    let random = RandomScheduler::new_from_seed(seed(), schedules / 5);
    Runner::new(random, config(persistence())).run(move || scenario(sabotage));
}

fn seed() -> u64 {
    variable("MODEL_SEED").unwrap_or(1)
}

/// Every schedule of `scenario` ends with an exact image.
pub fn holds(name: &str, scenario: Scenario, schedules: usize) {
    let schedules = schedules * variable("MODEL_SCHEDULES").unwrap_or(1) as usize;
    let begin = std::time::Instant::now();
    println!("{name}: {schedules} schedules, MODEL_SEED={}", seed());
    explore(scenario, Sabotage::None, schedules, false);
    println!("{name}: ok, {:.1} s", begin.elapsed().as_secs_f64());
}

/// With the rule broken, one of the schedules does not: the check can fail.
pub fn notices(sabotage: Sabotage, scenario: Scenario, schedules: usize) {
    thread_local! {
        static TRIED_HERE: Cell<usize> = const { Cell::new(0) };
    }
    let counted = move |sabotage| {
        TRIED_HERE.set(TRIED_HERE.get() + 1);
        scenario(sabotage);
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| explore(counted, sabotage, schedules, true)));
    assert!(
        outcome.is_err(),
        "{sabotage:?} was not noticed within {schedules} schedules, MODEL_SEED={}",
        seed()
    );
    println!("{sabotage:?}: noticed in schedule {}, MODEL_SEED={}", TRIED_HERE.get(), seed());
}
