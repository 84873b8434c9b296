//! A player: queues, follows the entry, sometimes loses patience, challenges others and is challenged, waits for the result,
//! and is ready for the next game. What is open is always asked of the server, so that neither its restart nor the
//! player's own leaves anything forgotten.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::{Answer, Away, Caller};
use crate::entry::{Fate, Follows, fate};
use crate::strength::{Strengths, exponential};

const BASE: &str = "/v1/matchmaking";
/// A server that is away is waited for so long before the player looks at things anew.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long leaving may take.
const FAREWELL: Duration = Duration::from_secs(1);
const RESULT_EVERY: Duration = Duration::from_secs(2);
const CHALLENGE_EVERY: Duration = Duration::from_secs(3);
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// A match that was just made may not be there yet for those who read.
const UNKNOWN_MAX: u32 = 5;

/// What a player tends to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Habits {
    pub pools: Vec<String>,
    pub max_rating_gap: Option<u16>,
    pub follows: Follows,
    /// Of the times they want to play, they challenge somebody in this share.
    pub challenges: f64,
    /// Of the challenges, they accept this share.
    pub accepts: f64,
    /// How long they wait on average before they give up.
    pub patience: Duration,
}

impl Habits {
    /// Of a player under a seed.
    pub fn of(strengths: Strengths, user: &str, pools: &[String]) -> Self {
        let mut chance = strengths.chance("habits", user);
        let mut picked = pools.to_vec();
        chance.shuffle(&mut picked);
        // Two in three wait in one pool, the others in several.
        let several = chance.f64() < 0.33;
        picked.truncate(if several { picked.len().max(1) } else { 1 });
        Self {
            pools: picked,
            max_rating_gap: (chance.f64() < 0.25).then(|| 50 * chance.u16(2..=8)),
            follows: if chance.f64() < 0.7 { Follows::Stream } else { Follows::Poll },
            challenges: 0.02 + 0.16 * chance.f64(),
            accepts: 0.5 + 0.4 * chance.f64(),
            patience: Duration::from_secs(chance.u64(60..=240)),
        }
    }
}

/// A player.
#[derive(Debug)]
pub struct Bot {
    pub caller: Caller,
    pub habits: Habits,
    pub strengths: Strengths,
    /// Everybody, themselves included.
    pub everybody: Arc<[String]>,
    pub chance: fastrand::Rng,
    /// What is to be taken back when the player leaves.
    pub open: Open,
}

/// What a player waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Open {
    #[default]
    Nothing,
    Entry(String),
    Challenge(String),
}

impl Bot {
    fn user(&self) -> String {
        self.caller.user().to_owned()
    }

    /// Plays once: by the queue, or by challenging somebody.
    pub async fn play(&mut self) {
        let played = if self.chance.f64() < self.habits.challenges {
            self.challenge().await
        } else {
            self.queue().await
        };
        if let Err(away) = played {
            tracing::warn!(user = self.user(), %away, "the server is away");
        }
        self.settle().await;
    }

    /// Waits until nothing of this player is open: no entry, no match.
    pub async fn settle(&mut self) {
        loop {
            let active = match self.get("/active").await {
                Ok(answer) if answer.status.is_success() => answer,
                Ok(answer) => {
                    tracing::warn!(user = self.user(), status = %answer.status, problem = answer.problem(), "not told what is open");
                    return;
                }
                Err(_) => {
                    sleep(AWAY_PAUSE).await;
                    continue;
                }
            };
            let playing = active.text("/match/match_id").or_else(|| active.text("/entry/match_id"));
            let waiting = active.text("/entry/entry_id");
            let result = match (playing, waiting, active.text("/entry/status")) {
                (_, Some(entry), Some("searching" | "placing")) => self.follow(entry.to_owned()).await,
                (Some(id), _, _) => self.finish(id.to_owned()).await,
                _ => return,
            };
            if result.is_err() {
                sleep(AWAY_PAUSE).await;
            }
        }
    }

    async fn queue(&mut self) -> Result<(), Away> {
        let mut body = json!({ "pool_keys": self.habits.pools });
        if let Some(gap) = self.habits.max_rating_gap {
            body["max_rating_gap"] = gap.into();
        }
        // Who has played here has a rating here; anybody else brings along what they take themselves for.
        let ratings = self.get("/ratings").await?;
        let is_new = ratings.body.pointer("/items").and_then(Value::as_array).is_some_and(Vec::is_empty);
        if is_new {
            body["rating"] = self.strengths.guess(self.caller.user()).into();
        }
        let answer = self.post("/queue", &body).await?;
        let Some(id) = answer.text("/entry_id").filter(|_| answer.status == StatusCode::CREATED) else {
            return self.refused("to the queue", &answer);
        };
        tracing::info!(
            user = self.user(),
            pools = self.habits.pools.join(", "),
            max_gap = self.habits.max_rating_gap,
            "queues"
        );
        self.follow(id.to_owned()).await
    }

    /// Waits for what becomes of an entry, until it is over or patience is.
    async fn follow(&mut self, id: String) -> Result<(), Away> {
        self.open = Open::Entry(id.clone());
        let patience = exponential(&mut self.chance, self.habits.patience.as_secs_f64());
        let until = Instant::now() + Duration::from_secs(5) + Duration::from_secs_f64(patience);
        let waited = fate(&self.caller, &id, self.habits.follows);
        let fate = match timeout_at(until, waited).await {
            Ok(fate) => fate,
            Err(_) => {
                let path = format!("{BASE}/queue/{id}");
                let answer = self.caller.ask(Method::DELETE, &path, None, PATIENCE).await?;
                if answer.status.is_success() {
                    tracing::info!(user = self.user(), "gives up waiting");
                    Fate::Cancelled
                } else {
                    // As a match is being made of it right now.
                    fate(&self.caller, &id, Follows::Poll).await
                }
            }
        };
        match fate {
            Fate::Matched | Fate::Cancelled => {}
            Fate::Expired => tracing::info!(user = self.user(), "nobody came in time"),
            Fate::Unknown => {
                tracing::warn!(user = self.user(), entry = id, "the server does not know the entry");
            }
        }
        self.open = Open::Nothing;
        Ok(())
    }

    /// Waits until a match is over.
    async fn finish(&mut self, id: String) -> Result<(), Away> {
        let (mut unknown, mut is_told) = (0, false);
        loop {
            let answer = self.get(&format!("/matches/{id}")).await?;
            if answer.status == StatusCode::NOT_FOUND {
                unknown += 1;
                if unknown > UNKNOWN_MAX {
                    return Ok(());
                }
            }
            let seats = Seats::of(&answer, self.caller.user());
            let (pool, opponent) = (answer.text("/pool_key"), seats.opponent);
            match answer.text("/status") {
                Some("finished") => {
                    let result = seats.result(answer.text("/result"));
                    tracing::info!(
                        user = self.user(),
                        pool,
                        opponent,
                        result,
                        rating = seats.rating(),
                        "played"
                    );
                    return Ok(());
                }
                Some(status @ ("expired" | "abandoned")) => {
                    tracing::info!(user = self.user(), pool, opponent, status, "did not play");
                    return Ok(());
                }
                Some("playing") if !is_told => {
                    is_told = true;
                    tracing::info!(user = self.user(), pool, opponent, side = seats.side, "meets");
                }
                _ => {}
            }
            sleep(RESULT_EVERY).await;
        }
    }

    /// Challenges somebody, and waits for what they say.
    async fn challenge(&mut self) -> Result<(), Away> {
        let others: Vec<&String> = self.everybody.iter().filter(|user| *user != self.caller.user()).collect();
        let (Some(opponent), Some(pool)) = (self.chance.choice(others), self.habits.pools.first()) else {
            return Ok(());
        };
        let (opponent, pool) = (opponent.clone(), pool.clone());
        let body = json!({ "opponent_id": opponent, "pool_key": pool, "message": "Do you play?" });
        let answer = self.post("/challenges", &body).await?;
        let Some(id) = answer.text("/challenge_id").filter(|_| answer.status == StatusCode::CREATED) else {
            return self.refused("to the challenge", &answer);
        };
        tracing::info!(user = self.user(), opponent, pool, "challenges");
        let id = id.to_owned();
        self.open = Open::Challenge(id.clone());
        let until = Instant::now() + Duration::from_secs(self.chance.u64(15..=60));
        while Instant::now() < until {
            sleep(CHALLENGE_EVERY).await;
            let active = self.get("/active").await?;
            if active.text("/match/match_id").is_some() || !is_open(&active, &id) {
                self.open = Open::Nothing;
                return Ok(());
            }
        }
        let answer = self.post(&format!("/challenges/{id}/cancel"), &json!({})).await?;
        if answer.status.is_success() {
            tracing::info!(user = self.user(), opponent, "takes the challenge back");
        }
        self.open = Open::Nothing;
        Ok(())
    }

    /// Answers those who challenge this player. True if a game comes of it.
    pub async fn answer_challenges(&mut self) -> bool {
        let Ok(answer) = self.get("/challenges/incoming").await else { return false };
        let items = answer.body.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
        for challenge in items {
            let text = |member: &str| challenge.get(member).and_then(Value::as_str);
            let (Some(id), Some("pending")) = (text("challenge_id"), text("status")) else { continue };
            let by = text("challenger_id").unwrap_or("somebody");
            let is_accepted = self.chance.f64() < self.habits.accepts;
            let act = if is_accepted { "accept" } else { "decline" };
            match self.post(&format!("/challenges/{id}/{act}"), &json!({})).await {
                Ok(answer) if answer.status.is_success() => {
                    tracing::info!(user = self.user(), by, act, "answers a challenge");
                    if is_accepted {
                        return true;
                    }
                }
                Ok(answer) => {
                    tracing::debug!(user = self.user(), by, act, problem = answer.problem(), "too late");
                }
                Err(away) => tracing::warn!(user = self.user(), by, act, %away, "not answered"),
            }
        }
        false
    }

    /// Takes back what is open.
    pub async fn leave(&self) {
        let (method, path) = match &self.open {
            Open::Nothing => return,
            Open::Entry(id) => (Method::DELETE, format!("{BASE}/queue/{id}")),
            Open::Challenge(id) => (Method::POST, format!("{BASE}/challenges/{id}/cancel")),
        };
        let body = (method == Method::POST).then(|| json!({}));
        if let Err(away) = self.caller.ask(method, &path, body.as_ref(), FAREWELL).await {
            tracing::debug!(user = self.user(), %away, "left without a word; what is open expires");
        }
    }

    fn refused(&self, what: &str, answer: &Answer) -> Result<(), Away> {
        tracing::info!(user = self.user(), what, problem = answer.problem(), "is not let");
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Answer, Away> {
        self.caller.ask(Method::GET, &format!("{BASE}{path}"), None, PATIENCE).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Answer, Away> {
        self.caller.ask(Method::POST, &format!("{BASE}{path}"), Some(body), PATIENCE).await
    }
}

/// A match as one of its players sees it.
#[derive(Debug, Default, PartialEq)]
struct Seats<'a> {
    side: Option<&'a str>,
    opponent: Option<&'a str>,
    before: Option<f64>,
    after: Option<f64>,
}

impl<'a> Seats<'a> {
    fn of(answer: &'a Answer, user: &str) -> Self {
        let players = answer.body.pointer("/players").and_then(Value::as_array);
        let mut seats = Self::default();
        for player in players.into_iter().flatten() {
            let text = |member: &str| player.get(member).and_then(Value::as_str);
            if text("user_id") == Some(user) {
                let points = |member: &str| player.get(member).and_then(Value::as_f64);
                seats.side = text("side");
                (seats.before, seats.after) = (points("rating_before"), points("rating_after"));
            } else {
                seats.opponent = text("user_id");
            }
        }
        seats
    }

    fn result(&self, result: Option<&str>) -> &'static str {
        match result {
            Some("draw") => "draws",
            Some("aborted") | None => "is aborted",
            result if result == self.side => "wins",
            Some(_) => "loses",
        }
    }

    /// As `1512 (+12)`; nothing while no rating has moved.
    fn rating(&self) -> Option<String> {
        let (before, after) = (self.before?, self.after?);
        Some(format!("{after:.0} ({:+.0})", after - before))
    }
}

fn is_open(active: &Answer, challenge: &str) -> bool {
    let open = active.body.pointer("/challenges").and_then(Value::as_array);
    open.into_iter().flatten().any(|open| {
        let is = |member: &str, value: &str| open.get(member).and_then(Value::as_str) == Some(value);
        is("challenge_id", challenge) && is("status", "pending")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_told_as_its_player_sees_it() {
        let body = json!({"result": "second", "players": [
            {"user_id": "ada", "side": "first", "rating_before": 1500.0, "rating_after": 1491.6},
            {"user_id": "ben", "side": "second", "rating_before": 1480.0, "rating_after": 1489.0},
        ]});
        let answer = Answer { status: StatusCode::OK, body };
        let told = |user: &str| {
            let seats = Seats::of(&answer, user);
            let result = seats.result(answer.text("/result"));
            (seats.opponent.unwrap().to_owned(), result, seats.rating().unwrap())
        };
        assert_eq!(told("ada"), ("ben".to_owned(), "loses", "1492 (-8)".to_owned()));
        assert_eq!(told("ben"), ("ada".to_owned(), "wins", "1489 (+9)".to_owned()));
    }

    #[test]
    fn habits_follow_from_the_seed_and_differ_between_players() {
        let pools = ["blitz".to_owned(), "rapid".to_owned()];
        let of = |user: &str| Habits::of(Strengths::new(1), user, &pools);
        assert_eq!(of("ada"), of("ada"));
        let all: Vec<Habits> = (0..200).map(|number| of(&number.to_string())).collect();
        let several = all.iter().filter(|habits| habits.pools.len() == 2).count();
        assert!((40..100).contains(&several), "{several}");
        assert!(all.iter().any(|habits| habits.pools == ["rapid"]));
        assert!(all.iter().any(|habits| habits.max_rating_gap.is_some()));
        assert!(all.iter().any(|habits| habits.follows == Follows::Poll));
    }
}
