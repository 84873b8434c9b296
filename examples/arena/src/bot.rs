//! A simulated player: joins queues, follows its entry, sometimes cancels it, challenges others and answers challenges, and
//! waits for results. Open items are always read from the server, so that a restart of the server or the player loses
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use crate::api::{ApiResponse, Caller, Unreachable};
use crate::entry::{EntryOutcome, FollowMode, wait_for_outcome};
use crate::habits::Habits;
use crate::player_view::PlayerView;
use crate::strength::{Strengths, exponential};

const BASE: &str = "/v1/matchmaking";
const QUEUE: &str = "/queue";
const CHALLENGES: &str = "/challenges";
/// The time for which a call to an unreachable server is retried.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout of each call of a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
const UNQUEUE_ATTEMPTS: u32 = 3;
const UNQUEUE_PAUSE: Duration = Duration::from_millis(300);
const RESULT_EVERY: Duration = Duration::from_secs(2);
const CHALLENGE_EVERY: Duration = Duration::from_secs(3);
const FREE_PAUSE: Duration = Duration::from_millis(250);
/// The most 404 responses for a match: a read model may be behind.
const NOT_FOUND_MAX: u32 = 5;

/// A player.
#[derive(Debug)]
pub struct Bot {
    pub caller: Caller,
    pub habits: Habits,
    pub strengths: Strengths,
    /// The ids of all players, including this one.
    pub all_users: Arc<[String]>,
    pub rng: fastrand::Rng,
    /// The item to cancel at a shutdown.
    pub open: OpenItem,
}

/// The item that a player waits for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum OpenItem {
    #[default]
    Nothing,
    /// A sent command that creates a queue entry or a challenge.
    Command(PendingCommand),
    Entry(String),
    Challenge(String),
}

/// The player's current entry and match, as read from the server.
struct ActiveState {
    entry: Option<String>,
    /// The running match.
    game_match: Option<String>,
}

/// A sent command. At a shutdown before its response, it is sent once more with the same key to learn its outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingCommand {
    key: Uuid,
    path: &'static str,
    body: Value,
}

impl Bot {
    fn user(&self) -> String {
        self.caller.user().to_owned()
    }

    /// Plays one game: joins a queue, or challenges another player.
    pub async fn play(&mut self) {
        let played =
            if self.rng.f64() < self.habits.challenges { self.challenge().await } else { self.queue().await };
        if let Err(error) = played {
            tracing::warn!(user = self.user(), %error, "the server is unreachable");
        }
        self.wait_until_free().await;
    }

    /// Waits until this player has no open entry and no running match.
    pub async fn wait_until_free(&mut self) {
        loop {
            match self.active_state().await {
                Ok(ActiveState { entry: Some(id), .. }) => drop(self.follow(id).await),
                Ok(ActiveState { game_match: Some(id), .. }) => drop(self.finish(id).await),
                Ok(_) => return,
                Err(error) => tracing::debug!(user = self.user(), %error, "the server is unreachable"),
            }
            sleep(FREE_PAUSE).await;
        }
    }

    async fn active_state(&self) -> Result<ActiveState, Unreachable> {
        let active = self.get("/active").await?;
        let is_waiting = matches!(active.text("/entry/status"), Some("searching" | "placing"));
        let entry = active.text("/entry/id").filter(|_| is_waiting).map(str::to_owned);
        let newest = self.get("/matches?limit=1").await?;
        let is_played = matches!(newest.text("/items/0/status"), Some("placing" | "playing"));
        let game_match = newest.text("/items/0/id").filter(|_| is_played).map(str::to_owned);
        Ok(ActiveState { entry, game_match })
    }

    async fn queue(&mut self) -> Result<(), Unreachable> {
        let mut body = json!({ "pool_keys": self.habits.pools });
        if let Some(gap) = self.habits.max_rating_gap {
            body["max_rating_gap"] = gap.into();
        }
        // A player with results has a rating here; a new player sends its own estimate.
        let ratings = self.get("/ratings").await?;
        let is_new = ratings.body.pointer("/items").and_then(Value::as_array).is_some_and(Vec::is_empty);
        if is_new {
            body["rating"] = self.strengths.guess(self.caller.user()).into();
        }
        let (id, answer) = self.create(QUEUE, body).await?;
        let Some(id) = id else { return self.log_refusal("join", &answer) };
        tracing::info!(
            user = self.user(),
            pools = self.habits.pools.join(", "),
            max_gap = self.habits.max_rating_gap,
            "joins the queue"
        );
        self.follow(id).await
    }

    /// Follows an entry until it ends, or cancels it after too long a wait.
    async fn follow(&mut self, id: String) -> Result<(), Unreachable> {
        self.open = OpenItem::Entry(id.clone());
        let patience = exponential(&mut self.rng, self.habits.patience.as_secs_f64());
        let until = Instant::now() + Duration::from_secs(5) + Duration::from_secs_f64(patience);
        let waiting = wait_for_outcome(&self.caller, &id, self.habits.follow_mode);
        let outcome = match timeout_at(until, waiting).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let path = format!("{BASE}/queue/{id}");
                let answer = self.caller.send(Method::DELETE, &path, None, RETRY_TIMEOUT).await?;
                if answer.status.is_success() {
                    tracing::info!(user = self.user(), "cancels the entry");
                    EntryOutcome::Cancelled
                } else {
                    // The entry is being matched right now.
                    wait_for_outcome(&self.caller, &id, FollowMode::Poll).await
                }
            }
        };
        match outcome {
            EntryOutcome::Matched | EntryOutcome::Cancelled => {}
            EntryOutcome::Expired => tracing::info!(user = self.user(), "the entry expired"),
            EntryOutcome::Unknown => {
                tracing::warn!(user = self.user(), entry = id, "the entry is unknown to the server");
            }
        }
        self.open = OpenItem::Nothing;
        Ok(())
    }

    /// Waits until a match is over.
    async fn finish(&mut self, id: String) -> Result<(), Unreachable> {
        let (mut not_found, mut is_logged) = (0, false);
        loop {
            let answer = self.get(&format!("/matches/{id}")).await?;
            if answer.status == StatusCode::NOT_FOUND {
                not_found += 1;
                if not_found > NOT_FOUND_MAX {
                    return Ok(());
                }
            }
            let view = PlayerView::of(&answer, self.caller.user());
            let (pool, opponent) = (answer.text("/pool_key"), view.opponent);
            match answer.text("/status") {
                Some("finished") => {
                    let result = view.result(answer.text("/result"));
                    tracing::info!(
                        user = self.user(),
                        pool,
                        opponent,
                        result,
                        rating = view.rating(),
                        "played"
                    );
                    return Ok(());
                }
                Some(status @ ("expired" | "abandoned")) => {
                    tracing::info!(
                        user = self.user(),
                        pool,
                        opponent,
                        status,
                        "the match ended without a game"
                    );
                    return Ok(());
                }
                Some("playing") if !is_logged => {
                    is_logged = true;
                    tracing::info!(user = self.user(), pool, opponent, side = view.side, "plays");
                }
                _ => {}
            }
            sleep(RESULT_EVERY).await;
        }
    }

    /// Challenges another player, and waits for the answer.
    async fn challenge(&mut self) -> Result<(), Unreachable> {
        let others: Vec<&String> = self.all_users.iter().filter(|user| *user != self.caller.user()).collect();
        let (Some(opponent), Some(pool)) = (self.rng.choice(others), self.habits.pools.first()) else {
            return Ok(());
        };
        let (opponent, pool) = (opponent.clone(), pool.clone());
        let body = json!({ "opponent_id": opponent, "pool_key": pool, "message": "Do you play?" });
        let (id, answer) = self.create(CHALLENGES, body).await?;
        let Some(id) = id else { return self.log_refusal("challenge", &answer) };
        tracing::info!(user = self.user(), opponent, pool, "challenges");
        self.open = OpenItem::Challenge(id.clone());
        let until = Instant::now() + Duration::from_secs(self.rng.u64(15..=60));
        while Instant::now() < until {
            sleep(CHALLENGE_EVERY).await;
            let answer = self.get(&format!("{CHALLENGES}/{id}")).await?;
            match answer.text("/status") {
                Some("pending") => {}
                Some(status) => {
                    tracing::info!(user = self.user(), opponent, status, "the challenge was answered");
                    self.open = OpenItem::Nothing;
                    return Ok(());
                }
                None => {}
            }
        }
        let answer = self.post(&format!("/challenges/{id}/cancel"), &json!({})).await?;
        if answer.status.is_success() {
            tracing::info!(user = self.user(), opponent, "cancels the challenge");
        }
        self.open = OpenItem::Nothing;
        Ok(())
    }

    /// Answers incoming challenges. Returns true if one was accepted.
    pub async fn answer_challenges(&mut self) -> bool {
        let Ok(answer) = self.get("/challenges/incoming").await else { return false };
        let items = answer.body.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
        for challenge in items {
            let text = |member: &str| challenge.get(member).and_then(Value::as_str);
            let (Some(id), Some("pending")) = (text("id"), text("status")) else { continue };
            let by = text("challenger_id").unwrap_or("unknown");
            let is_accepted = self.rng.f64() < self.habits.accepts;
            let act = if is_accepted { "accept" } else { "decline" };
            match self.post(&format!("/challenges/{id}/{act}"), &json!({})).await {
                Ok(answer) if answer.status.is_success() => {
                    tracing::info!(user = self.user(), by, act, "answers a challenge");
                    if is_accepted {
                        return true;
                    }
                }
                Ok(answer) => {
                    tracing::debug!(
                        user = self.user(),
                        by,
                        act,
                        problem = answer.problem(),
                        "the answer to the challenge was refused"
                    );
                }
                Err(error) => {
                    tracing::warn!(user = self.user(), by, act, %error, "the challenge was not answered");
                }
            }
        }
        false
    }

    /// Sends a command that creates an entry or a challenge, and returns its id on success.
    async fn create(
        &mut self,
        path: &'static str,
        body: Value,
    ) -> Result<(Option<String>, ApiResponse), Unreachable> {
        let command = PendingCommand { key: Uuid::new_v4(), path, body };
        self.open = OpenItem::Command(command.clone());
        let answer = self.send(&command, RETRY_TIMEOUT).await?;
        self.open = OpenItem::Nothing;
        Ok((created_id(&answer), answer))
    }

    async fn send(&self, command: &PendingCommand, timeout: Duration) -> Result<ApiResponse, Unreachable> {
        let path = format!("{BASE}{}", command.path);
        self.caller.send_with_key(command.key, Method::POST, &path, Some(&command.body), timeout).await
    }

    /// Cancels the open item.
    pub async fn shut_down(&self) {
        let outcome = match &self.open {
            OpenItem::Nothing => Ok(()),
            OpenItem::Command(command) => match self.send(command, SHUTDOWN_TIMEOUT).await {
                Ok(answer) => match created_id(&answer) {
                    Some(id) if command.path == QUEUE => self.unqueue(&id).await,
                    Some(id) => self.unchallenge(&id).await,
                    None => Ok(()),
                },
                Err(error) => Err(error),
            },
            OpenItem::Entry(id) => self.unqueue(id).await,
            OpenItem::Challenge(id) => self.unchallenge(id).await,
        };
        if let Err(error) = outcome {
            tracing::debug!(user = self.user(), %error, "not cancelled; the open item expires");
        }
    }

    async fn unqueue(&self, id: &str) -> Result<(), Unreachable> {
        let path = format!("{BASE}{QUEUE}/{id}");
        for _ in 0..UNQUEUE_ATTEMPTS {
            let answer = self.caller.send(Method::DELETE, &path, None, SHUTDOWN_TIMEOUT).await?;
            if answer.status != StatusCode::CONFLICT {
                break;
            }
            // A game is being created, or exists; if it fails, the entry searches again.
            sleep(UNQUEUE_PAUSE).await;
        }
        Ok(())
    }

    async fn unchallenge(&self, id: &str) -> Result<(), Unreachable> {
        let path = format!("{BASE}{CHALLENGES}/{id}/cancel");
        self.caller.send(Method::POST, &path, Some(&json!({})), SHUTDOWN_TIMEOUT).await.map(drop)
    }

    fn log_refusal(&self, action: &str, answer: &ApiResponse) -> Result<(), Unreachable> {
        tracing::info!(user = self.user(), action, problem = answer.problem(), "refused");
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<ApiResponse, Unreachable> {
        self.caller.send(Method::GET, &format!("{BASE}{path}"), None, RETRY_TIMEOUT).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<ApiResponse, Unreachable> {
        self.caller.send(Method::POST, &format!("{BASE}{path}"), Some(body), RETRY_TIMEOUT).await
    }
}

/// The id of the created resource.
fn created_id(answer: &ApiResponse) -> Option<String> {
    (answer.status == StatusCode::CREATED).then(|| answer.text("/id").map(str::to_owned))?
}
