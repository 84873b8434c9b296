//! Many players: who they are, and when each wants to play. They come as people do, independently of each other, so that
//! the pauses between arrivals are exponential; how many come in a minute is what was asked for, however many there are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api::Api;
use crate::bot::{Bot, Open};
use crate::habits::Habits;
use crate::strength::{Strengths, exponential};

/// How often a player who does nothing looks for challenges.
const LOOK_EVERY: Duration = Duration::from_secs(6);

const NAMES: [&str; 40] = [
    "ada", "ben", "cleo", "dan", "eve", "finn", "gina", "hal", "iris", "jon", "kim", "leo", "mia", "ned",
    "olga", "paul", "quinn", "rosa", "sam", "tess", "uma", "vic", "wanda", "xena", "yuri", "zoe", "amir",
    "bea", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "jade", "karl", "lena", "max", "nora",
];

/// Who plays, where, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub tenant: String,
    pub players: usize,
    pub pools: Vec<String>,
    /// How many want to play in a minute, of all together.
    pub arrivals_a_minute: f64,
    pub strengths: Strengths,
}

/// Those who have nothing to do, by number.
#[derive(Debug, Default)]
struct Idle {
    players: Mutex<BTreeSet<usize>>,
}

impl Idle {
    fn add(&self, player: usize) {
        self.lock().insert(player);
    }

    /// If they were called meanwhile, the call waits for them.
    fn remove(&self, player: usize) {
        self.lock().remove(&player);
    }

    fn take_any(&self, chance: &mut fastrand::Rng) -> Option<usize> {
        let mut players = self.lock();
        if players.is_empty() {
            return None;
        }
        let player = *players.iter().nth(chance.usize(..players.len()))?;
        players.remove(&player);
        Some(player)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.players.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The players' ids: short names first.
pub fn users(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| {
            let name = NAMES[number % NAMES.len()];
            match number / NAMES.len() {
                0 => name.to_owned(),
                round => format!("{name}-{}", round + 1),
            }
        })
        .collect()
}

/// Lets the players play until `stop`, and then lets each take back what is open.
pub async fn play(plan: &Plan, api: &Api, stop: impl Future<Output = ()>) {
    let everybody: Arc<[String]> = users(plan.players).into();
    let idle = Arc::new(Idle::default());
    let (stopping, stopped) = watch::channel(false);
    let (mut bots, mut calls) = (JoinSet::new(), Vec::new());
    for (number, user) in everybody.iter().enumerate() {
        let (call, called) = mpsc::channel(1);
        calls.push(call);
        let bot = Bot {
            caller: api.caller(&plan.tenant, user),
            habits: Habits::of(plan.strengths, user, &plan.pools),
            strengths: plan.strengths,
            everybody: Arc::clone(&everybody),
            chance: plan.strengths.chance("days", user),
            open: Open::Nothing,
        };
        bots.spawn(live(bot, number, Arc::clone(&idle), called, stopped.clone()));
    }
    tokio::select! {
        () = arrivals(plan, &idle, &calls) => {}
        () = stop => {}
    }
    // If nobody listens, there is nobody to stop.
    let _ = stopping.send(true);
    while bots.join_next().await.is_some() {}
}

/// Calls somebody who has nothing to do, again and again.
async fn arrivals(plan: &Plan, idle: &Idle, calls: &[mpsc::Sender<()>]) {
    let mut chance = plan.strengths.chance("arrivals", "");
    let mut is_short = false;
    loop {
        let pause = exponential(&mut chance, 60.0 / plan.arrivals_a_minute);
        tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        match idle.take_any(&mut chance) {
            // A player who has been called already comes anyway.
            Some(player) => drop(calls[player].try_send(())),
            None if !is_short => {
                is_short = true;
                tracing::info!("everybody waits or plays; with more players more would come");
            }
            None => {}
        }
    }
}

async fn live(
    mut bot: Bot,
    number: usize,
    idle: Arc<Idle>,
    mut called: mpsc::Receiver<()>,
    mut stopped: watch::Receiver<bool>,
) {
    tokio::select! {
        () = days(&mut bot, number, &idle, &mut called) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    bot.leave().await;
}

async fn days(bot: &mut Bot, number: usize, idle: &Idle, called: &mut mpsc::Receiver<()>) {
    bot.settle().await;
    loop {
        if bot.answer_challenges().await {
            bot.settle().await;
        }
        idle.add(number);
        let look = LOOK_EVERY.mul_f64(0.5 + bot.chance.f64());
        tokio::select! {
            call = called.recv() => {
                if call.is_none() {
                    return;
                }
                bot.play().await;
            }
            () = tokio::time::sleep(look) => {
                idle.remove(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_name_of_their_own() {
        let users = users(1_000);
        assert_eq!((users[0].as_str(), users[40].as_str()), ("ada", "ada-2"));
        assert_eq!(users.iter().collect::<BTreeSet<_>>().len(), 1_000);
    }

    #[test]
    fn whoever_has_nothing_to_do_is_called_once() {
        let (idle, mut chance) = (Idle::default(), fastrand::Rng::with_seed(1));
        (0..50).for_each(|player| idle.add(player));
        let called: BTreeSet<usize> = std::iter::from_fn(|| idle.take_any(&mut chance)).collect();
        assert_eq!(called.len(), 50);
        idle.add(7);
        idle.remove(7);
        assert_eq!(idle.take_any(&mut chance), None, "who has something to do is left alone");
    }
}
