//! Players, the results of their games, and the outages of the game service.

use std::time::Duration;

use domain::pool;
use event_schemas::ids::{ChallengeId, EntryId, GameMatchId};
use event_schemas::pool::{PoolSettings, WindowPolicy};
use uuid::Uuid;

use super::record::Acknowledged;
use super::world::{Process, Task, World};
use crate::matchmaking::simulation::SimulatedGameService;
use crate::matchmaking::simulation::players::{self, CommandOutcome, person};
use crate::matchmaking::simulation::world::Rng;

const PLAYERS: u64 = 24;
/// The number of referees, who report results.
const REFEREES: u64 = 6;

pub(super) fn all(world: &World) -> Vec<Task> {
    let of_player = |n| -> Task { Box::pin(player(world.clone(), n)) };
    let of_referee = |n| -> Task { Box::pin(referee(world.clone(), n)) };
    let operator: Task = Box::pin(operator(world.clone()));
    (0..PLAYERS).map(of_player).chain((0..REFEREES).map(of_referee)).chain([operator]).collect()
}

/// The random numbers of one task, which do not depend on when others run.
pub(super) fn rng_of(world: &World, role: u64, n: u64) -> Rng {
    let mut rng = Rng(world.seed ^ (role << 32) ^ (n << 40));
    rng.next();
    rng
}

pub(super) fn id(rng: &mut Rng) -> Uuid {
    Uuid::from_u64_pair(rng.next(), rng.next())
}

/// Repeats a request until its outcome is known.
pub(super) async fn retry_until_known<F>(world: &World, request: impl Fn(Process) -> F) -> CommandOutcome
where
    F: Future<Output = CommandOutcome> + Send + 'static,
{
    loop {
        match world.ask(&request).await {
            Some(outcome @ (CommandOutcome::Done | CommandOutcome::Refused)) => return outcome,
            Some(CommandOutcome::Unknown) | None => world.clock.sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Changes the settings of a pool now and then.
async fn operator(world: World) {
    let mut rng = rng_of(&world, 1, 0);
    let mut is_strict = true;
    while world.is_open() {
        let rapid = PoolSettings {
            window: 50,
            widen_by: 40,
            widen_every_seconds: 7,
            window_policy: if is_strict { WindowPolicy::Both } else { WindowPolicy::LongestWaiting },
            entry_expires_after_seconds: 240,
            rematch_after_seconds: 45,
            result_expires_after_seconds: 900,
            ..pool::DEFAULTS
        };
        retry_until_known(&world, |process| players::configure(process.matchmaking, "rapid", rapid)).await;
        world.sleep(&mut rng, 600, 1_800).await;
        is_strict = !is_strict;
    }
}

async fn player(world: World, n: u64) {
    let mut rng = rng_of(&world, 2, n);
    while world.is_open() {
        world.sleep(&mut rng, 1, 120).await;
        let (who, other) = (person(n), person(rng.below(PLAYERS)));
        match rng.below(20) {
            0..12 => wait(&world, n, &mut rng).await,
            12 => {
                let blocks = rng.percent(40);
                retry_until_known(&world, |process| players::block(process.matchmaking, who, other, blocks))
                    .await;
            }
            13 => {
                let challenge = ChallengeId(id(&mut rng));
                let challenge_request =
                    |process: Process| players::challenge(process.matchmaking, challenge, who, other);
                if retry_until_known(&world, challenge_request).await == CommandOutcome::Done {
                    world.acknowledge(Acknowledged::Challenged(challenge));
                }
            }
            _ => {
                let open: Vec<ChallengeId> = {
                    let record = world.record.lock().unwrap();
                    let open = record.challenges.iter().filter(|(_, by)| by.contains(&who));
                    open.map(|(id, _)| *id).collect()
                };
                let Some(challenge) = open.get(rng.below(open.len().max(1) as u64) as usize).copied() else {
                    continue;
                };
                let how = rng.below(6) as usize;
                let answer =
                    |process: Process| players::answer(process.matchmaking, Some(challenge), who, how);
                // Not repeated: a second acceptance would accept another attempt.
                world.ask(answer).await;
            }
        }
    }
}

/// Joins the queue, and sometimes cancels.
async fn wait(world: &World, n: u64, rng: &mut Rng) {
    let (who, entry) = (person(n), EntryId(id(rng)));
    // Some players are far from all others.
    let rating = if n.is_multiple_of(8) { 4_000 + 1_500 * (n / 8) } else { 1_300 + rng.below(500) };
    let both = rng.percent(40);
    let join = |process: Process| players::queue(process.matchmaking, who, entry, rating as f64, both);
    if retry_until_known(world, join).await != CommandOutcome::Done {
        return;
    }
    world.acknowledge(Acknowledged::Queued(entry));
    if rng.percent(20) {
        world.sleep(rng, 0, 30).await;
        let cancel = |process: Process| players::cancel(process.matchmaking, Some((who, entry)));
        if retry_until_known(world, cancel).await == CommandOutcome::Done {
            world.acknowledge(Acknowledged::Cancelled(entry));
        }
    }
}

/// Reports the results of most games.
async fn referee(world: World, n: u64) {
    let mut rng = rng_of(&world, 3, n);
    loop {
        world.sleep(&mut rng, 5, 40).await;
        let playing: Vec<GameMatchId> = world.record.lock().unwrap().playing.iter().copied().collect();
        // A few games never get a result.
        let known: Vec<_> = playing.into_iter().filter(|id| id.0.as_u128() % 10 != 0).collect();
        if known.is_empty() && !world.is_open() {
            return;
        }
        let Some(id) = known.get(rng.below(known.len().max(1) as u64) as usize).copied() else { continue };
        let how = rng.below(4) as usize;
        let report = |process: Process| players::report(process.matchmaking, Some(id), how);
        if retry_until_known(&world, report).await == CommandOutcome::Done {
            world.acknowledge(Acknowledged::Result(id, how));
        }
    }
}

/// The game service is healthy for a while, then fails for a while.
pub(super) fn service_outages(world: World, service: SimulatedGameService) -> Task {
    Box::pin(async move {
        let mut rng = rng_of(&world, 4, 0);
        while world.is_open() {
            world.sleep(&mut rng, 120, 900).await;
            service.fail(if rng.percent(50) { 100 } else { 50 });
            world.sleep(&mut rng, 20, 300).await;
            service.fail(5);
        }
    })
}
