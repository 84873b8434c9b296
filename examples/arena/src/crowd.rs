//! Many simulated players and their arrivals. Arrivals are independent, so the pauses between them are exponentially
//! distributed; the rate is as configured, independent of the number of players.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api::Api;
use crate::bot::{Bot, OpenItem};
use crate::habits::Habits;
use crate::strength::{Strengths, exponential};

/// The interval at which an idle player checks for challenges.
const CHECK_EVERY: Duration = Duration::from_secs(6);

const NAMES: [&str; 40] = [
    "ada", "ben", "cleo", "dan", "eve", "finn", "gina", "hal", "iris", "jon", "kim", "leo", "mia", "ned",
    "olga", "paul", "quinn", "rosa", "sam", "tess", "uma", "vic", "wanda", "xena", "yuri", "zoe", "amir",
    "bea", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "jade", "karl", "lena", "max", "nora",
];

/// The settings of the simulated players.
#[derive(Clone, Debug, PartialEq)]
pub struct CrowdSettings {
    pub tenant: String,
    pub players: usize,
    pub pools: Vec<String>,
    /// The arrivals per minute of all players together.
    pub arrivals_per_minute: f64,
    pub strengths: Strengths,
}

/// The numbers of the idle players.
#[derive(Debug, Default)]
struct IdlePlayers {
    players: Mutex<BTreeSet<usize>>,
}

impl IdlePlayers {
    fn add(&self, player: usize) {
        self.lock().insert(player);
    }

    /// A call that was sent meanwhile is handled later.
    fn remove(&self, player: usize) {
        self.lock().remove(&player);
    }

    fn take_any(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let mut players = self.lock();
        if players.is_empty() {
            return None;
        }
        let player = *players.iter().nth(rng.usize(..players.len()))?;
        players.remove(&player);
        Some(player)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.players.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ids of the players, short names first.
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

/// Runs the players until `stop`, and then lets each cancel its open item.
pub async fn play(settings: &CrowdSettings, api: &Api, stop: impl Future<Output = ()>) {
    let all_users: Arc<[String]> = users(settings.players).into();
    let idle = Arc::new(IdlePlayers::default());
    let (stopping, stopped) = watch::channel(false);
    let (mut bots, mut calls) = (JoinSet::new(), Vec::new());
    for (number, user) in all_users.iter().enumerate() {
        let (call, called) = mpsc::channel(1);
        calls.push(call);
        let bot = Bot {
            caller: api.caller(&settings.tenant, user),
            habits: Habits::of(settings.strengths, user, &settings.pools),
            strengths: settings.strengths,
            all_users: Arc::clone(&all_users),
            rng: settings.strengths.rng("days", user),
            open: OpenItem::Nothing,
        };
        bots.spawn(run_bot(bot, number, Arc::clone(&idle), called, stopped.clone()));
    }
    tokio::select! {
        () = arrivals(settings, &idle, &calls) => {}
        () = stop => {}
    }
    // An error means that no player is running.
    let _ = stopping.send(true);
    while bots.join_next().await.is_some() {}
}

/// Calls random idle players to play.
async fn arrivals(settings: &CrowdSettings, idle: &IdlePlayers, calls: &[mpsc::Sender<()>]) {
    let mut rng = settings.strengths.rng("arrivals", "");
    let mut is_short = false;
    loop {
        let pause = exponential(&mut rng, 60.0 / settings.arrivals_per_minute);
        tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        match idle.take_any(&mut rng) {
            // A player with a pending call plays anyway.
            Some(player) => drop(calls[player].try_send(())),
            None if !is_short => {
                is_short = true;
                tracing::info!("no player is idle; more players are needed for this rate");
            }
            None => {}
        }
    }
}

async fn run_bot(
    mut bot: Bot,
    number: usize,
    idle: Arc<IdlePlayers>,
    mut called: mpsc::Receiver<()>,
    mut stopped: watch::Receiver<bool>,
) {
    tokio::select! {
        () = run_loop(&mut bot, number, &idle, &mut called) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    bot.shut_down().await;
}

async fn run_loop(bot: &mut Bot, number: usize, idle: &IdlePlayers, called: &mut mpsc::Receiver<()>) {
    bot.wait_until_free().await;
    loop {
        if bot.answer_challenges().await {
            bot.wait_until_free().await;
        }
        idle.add(number);
        let pause = CHECK_EVERY.mul_f64(0.5 + bot.rng.f64());
        tokio::select! {
            call = called.recv() => {
                if call.is_none() {
                    return;
                }
                bot.play().await;
            }
            () = tokio::time::sleep(pause) => {
                idle.remove(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_player_has_a_unique_name() {
        let users = users(1_000);
        assert_eq!((users[0].as_str(), users[40].as_str()), ("ada", "ada-2"));
        assert_eq!(users.iter().collect::<BTreeSet<_>>().len(), 1_000);
    }

    #[test]
    fn idle_player_is_called_once() {
        let (idle, mut rng) = (IdlePlayers::default(), fastrand::Rng::with_seed(1));
        (0..50).for_each(|player| idle.add(player));
        let called: BTreeSet<usize> = std::iter::from_fn(|| idle.take_any(&mut rng)).collect();
        assert_eq!(called.len(), 50);
        idle.add(7);
        idle.remove(7);
        assert_eq!(idle.take_any(&mut rng), None, "a busy player is not called");
    }
}
