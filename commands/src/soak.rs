//! The soak test: two hours of matchmaking and analyses in simulated time, in a process that crashes again and again.
//!
//! Players join, challenge, block and leave; the game service has outages; workers claim analyses, fail with every
//! class of error, stall, vanish and return too late. The process is killed between any two steps, stays down for a
//! while and restarts on the log. There is no polling: whenever all tasks are idle, the clock jumps to the next awaited
//! instant, and before it jumps, nothing may be left that is due or becomes due on the way. So everything that is due
//! happens exactly at its instant. At the end nothing is lost, nothing has happened twice, and all work has ended.

mod harness;
mod invariants;
mod players;
mod record;
mod workers;
mod world;

use std::time::Duration;

use event_schemas::envelope::Envelope;
use event_schemas::time::Timestamp;

use harness::Harness;
use record::Figures;

/// The number of seeds; the variable sets another number.
const SEEDS: u64 = 1;
const SEEDS_VARIABLE: &str = "MATCHBOOK_SOAK_SEEDS";
/// The first seed.
const FROM_VARIABLE: &str = "MATCHBOOK_SOAK_FROM";
/// The duration of the load, and of the crashes.
const LOAD_DURATION: Duration = Duration::from_secs(2 * 60 * 60);
/// The time after the load within which everything must end: a match without a result alone lasts two hours.
const ENDS_WITHIN: Duration = Duration::from_secs(6 * 60 * 60);

/// The events of twenty minutes, for tests of other modules.
pub(crate) fn history() -> Vec<Envelope> {
    soak(7, LOAD_DURATION / 6).0
}

/// Runs one seed until all work has ended.
fn soak(seed: u64, duration: Duration) -> (Vec<Envelope>, Figures) {
    let end = Timestamp::EPOCH.after(duration);
    let mut harness = Harness::new(seed, end);
    harness.run(end, true);
    harness.heal();
    let mut until = end;
    while !harness.has_ended() {
        until = until.after(Duration::from_secs(60));
        assert!(until < end.after(ENDS_WITHIN), "seed {seed}: something never ends: {}", harness.pending());
        harness.run(until, false);
    }
    harness.check()
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn two_hours_of_crashes_and_outages_lose_and_delay_nothing() {
    let (from, seeds) = (number(FROM_VARIABLE, 0), number(SEEDS_VARIABLE, SEEDS));
    let mut sum = Figures::default();
    for seed in from..from + seeds {
        let (_, figures) = soak(seed, LOAD_DURATION);
        sum += figures;
    }
    println!("{seeds} seeds from {from}: {sum:#?}");
    sum.prove_something(seeds);
}

#[test]
fn soak_seed_is_reproducible() {
    let names = || {
        let (events, _) = soak(7, LOAD_DURATION / 6);
        let name = |event: &Envelope| (event.recorded_at, event.stream.clone(), event.event.event_type());
        events.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(), names());
}
