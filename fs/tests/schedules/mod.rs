//! The schedules that tests under the deterministic scheduler try.
//!
//! The same ones every time, so that no luck is in the verdict on a commit. Others, and one
//! of them again, come by command:
//!
//! ```text
//! HOLDFAST_SCHEDULES=100 cargo test …     fresh ones, a hundred times as many
//! SHUTTLE_RANDOM_SEED=S cargo test …      first the one for which a failure told the seed S
//! ```
#![allow(dead_code)]

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// Where those begin that are tried every time.
const SEED: u64 = 2022;
/// Preemptions to the bug that [`pct`] looks for, and one.
const DEPTH: usize = 3;
/// Who takes more steps than this waits for ever, unless a test knows better.
const STEPS: usize = 1_000_000;

/// How many times as many fresh schedules as usual somebody wants.
fn fresh() -> Option<usize> {
    let times = std::env::var("HOLDFAST_SCHEDULES").ok()?;
    Some(times.parse().expect("HOLDFAST_SCHEDULES: how many times as many schedules as usual"))
}

/// Try a scenario under every schedule of a scheduler's. More than `most_steps` steps are a
/// failure.
pub fn explore(
    scheduler: impl Scheduler + 'static,
    most_steps: usize,
    scenario: impl Fn() + Send + Sync + 'static,
) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(most_steps);
    // A seed says it, in one line instead of thousands.
    config.failure_persistence = FailurePersistence::None;
    Runner::new(scheduler, config).run(scenario);
}

/// Schedules in which anybody may go on at every step.
pub fn any(usual: usize) -> RandomScheduler {
    match fresh() {
        Some(times) => RandomScheduler::new(usual * times),
        None => RandomScheduler::new_from_seed(SEED, usual),
    }
}

/// Try a scenario under so many schedules of [`any`].
pub fn random(scenario: impl Fn() + Send + Sync + 'static, usual: usize) {
    explore(any(usual), STEPS, scenario);
}

/// Try a scenario under so many schedules with few preemptions, which find what takes few
/// of them at the right places (PCT: Burckhardt et al., ASPLOS 2010).
pub fn pct(scenario: impl Fn() + Send + Sync + 'static, usual: usize) {
    let scheduler = match fresh() {
        Some(times) => PctScheduler::new(DEPTH, usual * times),
        None => PctScheduler::new_from_seed(SEED, DEPTH, usual),
    };
    // It tells no seed: a failure prints its schedule.
    Runner::new(scheduler, Config::new()).run(scenario);
}

/// Try a scenario under so many of either.
pub fn both(scenario: impl Fn() + Clone + Send + Sync + 'static, usual: usize) {
    random(scenario.clone(), usual);
    pct(scenario, usual);
}
