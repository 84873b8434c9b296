//! Players, the games that they play, and the game service's good and bad days.

use std::time::Duration;

use domain::pool;
use event_schemas::ids::{ChallengeId, EntryId, MatchRecordId};
use event_schemas::pool::{PoolSettings, WindowPolicy};
use uuid::Uuid;

use super::record::Acknowledged;
use super::stage::{Process, Task, Town};
use crate::matchmaking::simulation::Script;
use crate::matchmaking::simulation::players::{self, Answer, person};
use crate::matchmaking::simulation::world::Chance;

const PLAYERS: u64 = 24;
/// Who hand in results.
const REFEREES: u64 = 6;

pub(super) fn all(town: &Town) -> Vec<Task> {
    let of_player = |n| -> Task { Box::pin(player(town.clone(), n)) };
    let of_referee = |n| -> Task { Box::pin(referee(town.clone(), n)) };
    let operator: Task = Box::pin(operator(town.clone()));
    (0..PLAYERS).map(of_player).chain((0..REFEREES).map(of_referee)).chain([operator]).collect()
}

/// The chance of somebody, which does not depend on when others act.
pub(super) fn chance_of(town: &Town, role: u64, n: u64) -> Chance {
    let mut chance = Chance(town.seed ^ (role << 32) ^ (n << 40));
    chance.next();
    chance
}

pub(super) fn id(chance: &mut Chance) -> Uuid {
    Uuid::from_u64_pair(chance.next(), chance.next())
}

/// Asks until it is known what came of it.
pub(super) async fn insist<F>(town: &Town, request: impl Fn(Process) -> F) -> Answer
where
    F: Future<Output = Answer> + Send + 'static,
{
    loop {
        match town.ask(&request).await {
            Some(answer @ (Answer::Done | Answer::Refused)) => return answer,
            Some(Answer::Unknown) | None => town.clock.sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Pools of several kinds, one of which is changed now and then.
async fn operator(town: Town) {
    let mut chance = chance_of(&town, 1, 0);
    let mut is_strict = true;
    while town.is_open() {
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
        insist(&town, |process| players::configure(process.matchmaking, "rapid", rapid)).await;
        town.sleep(&mut chance, 600, 1_800).await;
        is_strict = !is_strict;
    }
}

async fn player(town: Town, n: u64) {
    let mut chance = chance_of(&town, 2, n);
    while town.is_open() {
        town.sleep(&mut chance, 1, 120).await;
        let (who, other) = (person(n), person(chance.below(PLAYERS)));
        match chance.below(20) {
            0..12 => wait(&town, n, &mut chance).await,
            12 => {
                let blocks = chance.percent(40);
                insist(&town, |process| players::block(process.matchmaking, who, other, blocks)).await;
            }
            13 => {
                let challenge = ChallengeId(id(&mut chance));
                let asked = |process: Process| players::challenge(process.matchmaking, challenge, who, other);
                if insist(&town, asked).await == Answer::Done {
                    town.acknowledge(Acknowledged::Challenged(challenge));
                }
            }
            _ => {
                let open: Vec<ChallengeId> = {
                    let record = town.record.lock().unwrap();
                    let open = record.challenges.iter().filter(|(_, by)| by.contains(&who));
                    open.map(|(id, _)| *id).collect()
                };
                let Some(challenge) = open.get(chance.below(open.len().max(1) as u64) as usize).copied()
                else {
                    continue;
                };
                let how = chance.below(6) as usize;
                let answer =
                    |process: Process| players::answer(process.matchmaking, Some(challenge), who, how);
                // Not until it is known: whoever accepts again accepts another attempt.
                town.ask(answer).await;
            }
        }
    }
}

/// Joins, and perhaps thinks better of it.
async fn wait(town: &Town, n: u64, chance: &mut Chance) {
    let (who, entry) = (person(n), EntryId(id(chance)));
    // Strangers far from all the others are among them.
    let rating = if n.is_multiple_of(8) { 4_000 + 1_500 * (n / 8) } else { 1_300 + chance.below(500) };
    let both = chance.percent(40);
    let join = |process: Process| players::queue(process.matchmaking, who, entry, rating as f64, both);
    if insist(town, join).await != Answer::Done {
        return;
    }
    town.acknowledge(Acknowledged::Queued(entry));
    if chance.percent(20) {
        town.sleep(chance, 0, 30).await;
        let cancel = |process: Process| players::cancel(process.matchmaking, Some((who, entry)));
        if insist(town, cancel).await == Answer::Done {
            town.acknowledge(Acknowledged::Cancelled(entry));
        }
    }
}

/// Hands in the results of most games.
async fn referee(town: Town, n: u64) {
    let mut chance = chance_of(&town, 3, n);
    loop {
        town.sleep(&mut chance, 5, 40).await;
        let playing: Vec<MatchRecordId> = town.record.lock().unwrap().playing.iter().copied().collect();
        // A few games are forgotten for good.
        let known: Vec<_> = playing.into_iter().filter(|id| id.0.as_u128() % 10 != 0).collect();
        if known.is_empty() && !town.is_open() {
            return;
        }
        let Some(id) = known.get(chance.below(known.len().max(1) as u64) as usize).copied() else { continue };
        let how = chance.below(4) as usize;
        let report = |process: Process| players::report(process.matchmaking, Some(id), how);
        if insist(&town, report).await == Answer::Done {
            town.acknowledge(Acknowledged::Result(id, how));
        }
    }
}

/// The game service is well for a while, then bad or gone for a while.
pub(super) fn weather(town: Town, service: Script) -> Task {
    Box::pin(async move {
        let mut chance = chance_of(&town, 4, 0);
        while town.is_open() {
            town.sleep(&mut chance, 120, 900).await;
            service.fail(if chance.percent(50) { 100 } else { 50 });
            town.sleep(&mut chance, 20, 300).await;
            service.fail(5);
        }
    })
}
