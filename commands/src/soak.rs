//! Two hours of matchmaking and analyses in simulated time, under seeds, in a process that dies again and again.
//!
//! Players come, challenge, block and leave; a game service has bad days; workers take analyses, fail of everything that
//! there is a class for, stall, vanish and come back too late. The process is killed between any two steps, stays away for a
//! while and starts on the log as it is. Nothing ticks: whenever nobody has anything to do, the clock goes to the next instant
//! that anybody waits for, and before it goes, nothing may be left that fell due or falls due on the way. So whatever happens
//! at an instant happens exactly then. At the end nothing is lost, nobody doubled, and everything has ended.

mod ledger;
mod people;
mod record;
mod stage;
mod workers;

use std::time::Duration;

use event_log::clock::{Clock, Ids};
use event_schemas::envelope::Envelope;
use event_schemas::time::Timestamp;
use tokio::runtime::{Builder, Runtime};

use crate::vault::Vault;
use record::Figures;
use stage::World;

/// How many seeds are tried; more with this variable.
const SEEDS: u64 = 1;
const SEEDS_VARIABLE: &str = "MATCHBOOK_SOAK_SEEDS";
/// The first of them.
const FROM_VARIABLE: &str = "MATCHBOOK_SOAK_FROM";
/// How long people keep coming, and the process keeps dying.
const LASTS: Duration = Duration::from_secs(2 * 60 * 60);
/// After which everything that was begun must have ended: a match without a result alone lasts two hours.
const ENDS_WITHIN: Duration = Duration::from_secs(6 * 60 * 60);

/// One seed, from its first player to its rest.
fn soak(seed: u64, lasts: Duration, vault: &Vault) -> (Vec<Envelope>, Figures) {
    let end = Timestamp::EPOCH.after(lasts);
    let mut world = World::new(seed, end, vault.clone());
    world.run(end, true);
    world.heal();
    let mut until = end;
    while !world.has_ended() {
        until = until.after(Duration::from_secs(60));
        assert!(until < end.after(ENDS_WITHIN), "seed {seed}: something never ends: {}", world.left());
        world.run(until, false);
    }
    world.check()
}

/// A vault that nobody asks who they are, so that nothing waits for its thread; and what keeps it.
fn vault() -> (Runtime, Vault) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let vault = runtime.block_on(Vault::in_memory(Clock::manual(Timestamp::EPOCH), Ids::Random)).unwrap();
    (runtime, vault)
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn in_two_hours_of_kills_and_outages_nothing_is_lost_nobody_is_doubled_and_all_that_is_due_is_exact() {
    let (_runtime, vault) = vault();
    let (from, seeds) = (number(FROM_VARIABLE, 0), number(SEEDS_VARIABLE, SEEDS));
    let mut sum = Figures::default();
    for seed in from..from + seeds {
        let (_, figures) = soak(seed, LASTS, &vault);
        sum += figures;
    }
    println!("{seeds} seeds from {from}: {sum:#?}");
    sum.prove_something(seeds);
}

#[test]
fn a_soak_of_one_seed_is_the_same_history_again() {
    let (_runtime, vault) = vault();
    let names = || {
        let (events, _) = soak(7, LASTS / 6, &vault);
        let name = |event: &Envelope| (event.recorded_at, event.stream.clone(), event.event.event_type());
        events.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(), names());
}
