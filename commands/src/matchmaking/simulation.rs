//! Everything at once, under seeds: several servers on one log, players who join, cancel, challenge and block, a game service
//! that fails, servers that die between any two steps. Whatever happens, no player is in two games, and none is lost.
//!
//! One thread polls all tasks in an order drawn from the seed, time is simulated, and the log lets others run before and
//! after every call; so a seed is one interleaving, and the same again. A seed has so many steps and no more; what fails,
//! or never ends, names the seed and its last steps.

pub(crate) mod check;
pub(crate) mod players;
pub(crate) mod world;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use event_schemas::envelope::Envelope;
use event_schemas::ids::{ChallengeId, MatchRecordId};
use event_schemas::match_record::Side;
use event_schemas::stream::StreamId;
use uuid::Uuid;

use check::{Figures, check};
use players::{person, tenant};
pub(crate) use world::Script;
use world::World;

/// How many seeds are tried; more with this variable.
const SEEDS: u64 = 25;
const SEEDS_VARIABLE: &str = "MATCHBOOK_SIMULATION_SEEDS";
/// The first of them.
const FROM_VARIABLE: &str = "MATCHBOOK_SIMULATION_FROM";
const STEPS: usize = 4_000;
/// A seed takes well under a second, and much longer where many share a machine. One that takes this long is in a loop that
/// lets nobody else run.
const SEED_WITHIN: Duration = Duration::from_secs(600);

/// One seed, from its first step to its rest.
fn simulate(seed: u64) -> (Vec<Envelope>, Figures) {
    let mut world = World::new(seed);
    let trail = world.trail.clone();
    let (_ended, end) = mpsc::channel::<()>();
    thread::spawn(move || {
        // A task that loops without waiting cannot be stopped from outside: all that is left is to say which it was.
        if end.recv_timeout(SEED_WITHIN) == Err(RecvTimeoutError::Timeout) {
            world::tell(seed, &trail);
            std::process::abort();
        }
    });
    (0..STEPS).for_each(|_| world.step());
    world.come_to_rest();
    for server in &world.servers {
        assert_eq!(server.tasks.len(), 4, "seed {seed}: a request never came to an end, or a process ended");
        let left: Vec<_> = server.matchmaking.left().unfinished().map(|(id, _)| id).collect();
        assert!(left.is_empty(), "seed {seed}: unfinished for ever: {left:?}");
        assert_eq!(server.matchmaking.left().waiting(), 0, "seed {seed}: something never falls due");
    }
    let games = world.games();
    let events = world.events().to_vec();
    let figures = check(seed, &events, &games);
    (events, figures)
}

#[test]
fn whatever_interleaves_fails_or_dies_no_player_is_in_two_games_and_none_is_lost() {
    let number = |name, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (from, seeds) = (number(FROM_VARIABLE, 0), number(SEEDS_VARIABLE, SEEDS));
    let mut sum = Figures::default();
    for seed in from..from + seeds {
        let (_, figures) = simulate(seed);
        sum.confirmed += figures.confirmed;
        sum.abandoned += figures.abandoned;
        sum.released += figures.released;
        sum.engaged += figures.engaged;
        sum.accepted += figures.accepted;
    }
    let least = [sum.confirmed, sum.abandoned, sum.released, sum.engaged, sum.accepted].into_iter().min();
    println!("{seeds} seeds from {from}: {sum:?}");
    assert!(
        least.unwrap_or(0) >= seeds / 8,
        "too little happens in {seeds} seeds to prove anything: {sum:?}"
    );
}

#[test]
fn a_seed_is_the_same_history_again() {
    let names = |seed| {
        let (events, _) = simulate(seed);
        events.iter().map(|event| (event.stream.clone(), event.event.event_type())).collect::<Vec<_>>()
    };
    assert_eq!(names(3), names(3));
}

#[test]
fn the_names_that_tests_use_are_those_of_streams() {
    // The matchmaker follows streams by the beginning of their names.
    let prefixes = super::prefixes();
    let streams = [
        StreamId::player(&tenant(), person(1)),
        StreamId::pool(&tenant(), &"blitz".parse().unwrap()),
        StreamId::match_record(MatchRecordId(Uuid::nil())),
        StreamId::challenge(ChallengeId(Uuid::nil())),
    ];
    for stream in streams {
        assert!(prefixes.iter().any(|prefix| stream.as_str().starts_with(prefix)), "{stream}");
    }
    assert_eq!(Side::First.other(), Side::Second);
}
