//! A player: queues, follows the entry, sometimes loses patience, challenges others and is challenged, waits for the result,
//! and is ready for the next game. What is open is always asked of the server, so that neither its restart nor the
//! player's own leaves anything forgotten.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use crate::api::{Answer, Away, Caller};
use crate::entry::{Fate, Follows, fate};
use crate::habits::Habits;
use crate::seats::Seats;
use crate::strength::{Strengths, exponential};

const BASE: &str = "/v1/matchmaking";
const QUEUE: &str = "/queue";
const CHALLENGES: &str = "/challenges";
/// A server that is away is waited for so long before the player looks at things anew.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long each call may take when the player leaves.
const FAREWELL: Duration = Duration::from_secs(1);
const UNQUEUE_TRIES: u32 = 3;
const UNQUEUE_PAUSE: Duration = Duration::from_millis(300);
const RESULT_EVERY: Duration = Duration::from_secs(2);
const CHALLENGE_EVERY: Duration = Duration::from_secs(3);
const SETTLE_PAUSE: Duration = Duration::from_millis(250);
/// A match that was just made may not be there yet for those who read.
const UNKNOWN_MAX: u32 = 5;

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
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Open {
    #[default]
    Nothing,
    /// The answer to the command that makes an entry or a challenge.
    Answer(Begun),
    Entry(String),
    Challenge(String),
}

/// What the server says that a player is in.
struct Things {
    entry: Option<String>,
    /// The match that is played.
    game: Option<String>,
}

/// A command on its way. Whoever leaves before its answer sends it once more, under its key, to learn what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    key: Uuid,
    path: &'static str,
    body: Value,
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
            match self.open_things().await {
                Ok(Things { entry: Some(id), .. }) => drop(self.follow(id).await),
                Ok(Things { game: Some(id), .. }) => drop(self.finish(id).await),
                Ok(_) => return,
                Err(away) => tracing::debug!(user = self.user(), %away, "the server is away"),
            }
            sleep(SETTLE_PAUSE).await;
        }
    }

    async fn open_things(&self) -> Result<Things, Away> {
        let active = self.get("/active").await?;
        let is_waiting = matches!(active.text("/entry/status"), Some("searching" | "placing"));
        let entry = active.text("/entry/id").filter(|_| is_waiting).map(str::to_owned);
        let newest = self.get("/matches?limit=1").await?;
        let is_played = matches!(newest.text("/items/0/status"), Some("placing" | "playing"));
        let game = newest.text("/items/0/id").filter(|_| is_played).map(str::to_owned);
        Ok(Things { entry, game })
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
        let (id, answer) = self.begin(QUEUE, body).await?;
        let Some(id) = id else { return self.refused("to the queue", &answer) };
        tracing::info!(
            user = self.user(),
            pools = self.habits.pools.join(", "),
            max_gap = self.habits.max_rating_gap,
            "queues"
        );
        self.follow(id).await
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
        let (id, answer) = self.begin(CHALLENGES, body).await?;
        let Some(id) = id else { return self.refused("to the challenge", &answer) };
        tracing::info!(user = self.user(), opponent, pool, "challenges");
        self.open = Open::Challenge(id.clone());
        let until = Instant::now() + Duration::from_secs(self.chance.u64(15..=60));
        while Instant::now() < until {
            sleep(CHALLENGE_EVERY).await;
            let answer = self.get(&format!("{CHALLENGES}/{id}")).await?;
            match answer.text("/status") {
                Some("pending") => {}
                Some(status) => {
                    tracing::info!(user = self.user(), opponent, status, "hears of the challenge");
                    self.open = Open::Nothing;
                    return Ok(());
                }
                None => {}
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
            let (Some(id), Some("pending")) = (text("id"), text("status")) else { continue };
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

    /// Sends a command that makes something, and answers its id if it did.
    async fn begin(&mut self, path: &'static str, body: Value) -> Result<(Option<String>, Answer), Away> {
        let begun = Begun { key: Uuid::new_v4(), path, body };
        self.open = Open::Answer(begun.clone());
        let answer = self.send(&begun, PATIENCE).await?;
        self.open = Open::Nothing;
        Ok((made(&answer), answer))
    }

    async fn send(&self, begun: &Begun, patience: Duration) -> Result<Answer, Away> {
        let path = format!("{BASE}{}", begun.path);
        self.caller.ask_as(begun.key, Method::POST, &path, Some(&begun.body), patience).await
    }

    /// Takes back what is open.
    pub async fn leave(&self) {
        let left = match &self.open {
            Open::Nothing => Ok(()),
            Open::Answer(begun) => match self.send(begun, FAREWELL).await {
                Ok(answer) => match made(&answer) {
                    Some(id) if begun.path == QUEUE => self.unqueue(&id).await,
                    Some(id) => self.unchallenge(&id).await,
                    None => Ok(()),
                },
                Err(away) => Err(away),
            },
            Open::Entry(id) => self.unqueue(id).await,
            Open::Challenge(id) => self.unchallenge(id).await,
        };
        if let Err(away) = left {
            tracing::debug!(user = self.user(), %away, "left without a word; what is open expires");
        }
    }

    async fn unqueue(&self, id: &str) -> Result<(), Away> {
        let path = format!("{BASE}{QUEUE}/{id}");
        for _ in 0..UNQUEUE_TRIES {
            let answer = self.caller.ask(Method::DELETE, &path, None, FAREWELL).await?;
            if answer.status != StatusCode::CONFLICT {
                break;
            }
            // A game is being made, or was; if it fails, the entry searches again.
            sleep(UNQUEUE_PAUSE).await;
        }
        Ok(())
    }

    async fn unchallenge(&self, id: &str) -> Result<(), Away> {
        let path = format!("{BASE}{CHALLENGES}/{id}/cancel");
        self.caller.ask(Method::POST, &path, Some(&json!({})), FAREWELL).await.map(drop)
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

/// The id of what a command made.
fn made(answer: &Answer) -> Option<String> {
    (answer.status == StatusCode::CREATED).then(|| answer.text("/id").map(str::to_owned))?
}
