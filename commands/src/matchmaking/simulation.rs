//! A deterministic simulation of matchmaking: several servers on one log, players who join, cancel, challenge and
//! block, a game service that fails, and servers that crash between any two steps. No player may be in two games, and
//! no player may be lost.
//!
//! One thread polls all tasks in an order drawn from the seed, time is simulated, and the log yields before and after
//! every call; so a seed determines one interleaving. The number of steps per seed is limited; a failure or an endless
//! run prints the seed and its last steps.

pub(crate) mod check;
pub(crate) mod players;
pub(crate) mod world;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use event_schemas::envelope::Envelope;
use event_schemas::game_match::Side;
use event_schemas::ids::{ChallengeId, GameMatchId};
use event_schemas::stream::StreamId;
use uuid::Uuid;

use check::{Figures, check};
use players::{person, tenant};
pub(crate) use world::SimulatedGameService;
use world::World;

/// The number of seeds; the variable sets another number.
const SEEDS: u64 = 25;
const SEEDS_VARIABLE: &str = "MATCHBOOK_SIMULATION_SEEDS";
/// The first seed.
const FROM_VARIABLE: &str = "MATCHBOOK_SIMULATION_FROM";
const STEPS: usize = 4_000;
/// A seed takes well under a second, or much longer on a busy machine. One that takes this long is in a loop that never
/// yields.
const SEED_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs one seed until nothing more happens.
fn simulate(seed: u64) -> (Vec<Envelope>, Figures) {
    let mut world = World::new(seed);
    let trace = world.trace.clone();
    let (_ended, end) = mpsc::channel::<()>();
    thread::spawn(move || {
        // A task that loops without awaiting cannot be stopped from outside; only its trace can be printed.
        if end.recv_timeout(SEED_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            world::print_trace(seed, &trace);
            std::process::abort();
        }
    });
    (0..STEPS).for_each(|_| world.step());
    world.settle();
    for server in &world.servers {
        assert_eq!(server.tasks.len(), 3, "seed {seed}: a request never ended, or a process did");
        let pending: Vec<_> = server.matchmaking.pending().unfinished().map(|(id, _)| id).collect();
        assert!(pending.is_empty(), "seed {seed}: unfinished for ever: {pending:?}");
        assert_eq!(server.matchmaking.pending().deadline_count(), 0, "seed {seed}: a deadline never came");
    }
    let games = world.games();
    let events = world.events().to_vec();
    let figures = check(seed, &events, &games);
    (events, figures)
}

#[test]
fn no_interleaving_puts_a_player_in_two_games_or_loses_one() {
    let number = |name, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (from, seeds) = (number(FROM_VARIABLE, 0), number(SEEDS_VARIABLE, SEEDS));
    let mut sum = Figures::default();
    for seed in from..from + seeds {
        let (_, figures) = simulate(seed);
        sum.confirmed += figures.confirmed;
        sum.abandoned += figures.abandoned;
        sum.released += figures.released;
        sum.reserved_by_challenge += figures.reserved_by_challenge;
        sum.accepted += figures.accepted;
    }
    let least = [sum.confirmed, sum.abandoned, sum.released, sum.reserved_by_challenge, sum.accepted]
        .into_iter()
        .min();
    println!("{seeds} seeds from {from}: {sum:?}");
    assert!(
        least.unwrap_or(0) >= seeds / 8,
        "too little happens in {seeds} seeds to prove anything: {sum:?}"
    );
}

#[test]
fn simulation_seed_is_reproducible() {
    let names = |seed| {
        let (events, _) = simulate(seed);
        events.iter().map(|event| (event.stream.clone(), event.event.event_type())).collect::<Vec<_>>()
    };
    assert_eq!(names(3), names(3));
}

#[test]
fn stream_prefixes_cover_all_matchmaking_streams() {
    // The matchmaker follows streams by the prefix of their names.
    let prefixes = super::stream_prefixes();
    let streams = [
        StreamId::player(&tenant(), person(1)),
        StreamId::pool(&tenant(), &"blitz".parse().unwrap()),
        StreamId::game_match(GameMatchId(Uuid::nil())),
        StreamId::challenge(ChallengeId(Uuid::nil())),
    ];
    for stream in streams {
        assert!(prefixes.iter().any(|prefix| stream.as_str().starts_with(prefix)), "{stream}");
    }
    assert_eq!(Side::First.other(), Side::Second);
}
