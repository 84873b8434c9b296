//! The live-game service: it is asked to make a game for a match.
//!
//! A request carries the match's id, and asking again for the same match gives the same game, so that a call whose answer
//! was lost can be repeated.

use std::time::Duration;

use event_schemas::ids::{GameId, MatchRecordId, PoolKey, Tenant, UserId};
use event_schemas::match_record::Side;
use event_schemas::rating::Rating;
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::http::{self, NoAnswer};

pub use super::http::InvalidService;

/// How much of an answer is kept to explain a failure, in characters.
const DETAIL_CHARS_MAX: usize = 200;

/// Where the service is, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Games are made by `POST {url}/games`.
    pub url: String,
    /// For one call, until its answer is read.
    pub timeout: Duration,
}

impl Settings {
    /// A service at this address, with a time limit of 3 s a call.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), timeout: Duration::from_secs(3) }
    }
}

/// What a game is made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GameRequest {
    pub match_id: MatchRecordId,
    pub tenant: Tenant,
    pub pool_key: PoolKey,
    pub players: [GamePlayer; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GamePlayer {
    pub user_id: UserId,
    pub rating: Rating,
    pub side: Side,
}

/// Why no game was made, or none that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The service did not answer, or said that it failed: asking again may help.
    #[error("{0}")]
    Failed(String),
    /// The service understood, and will not make this game.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct Made {
    game_id: GameId,
}

/// A client of the service. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct LiveGame {
    client: Client,
    games: Url,
}

impl LiveGame {
    /// # Errors
    /// [`InvalidService`] if the address is none.
    pub fn new(settings: &Settings) -> Result<Self, InvalidService> {
        let base = http::address(&settings.url)?;
        let games = format!("{}/games", base.as_str().trim_end_matches('/'));
        let games = Url::parse(&games).map_err(|_| InvalidService::Address)?;
        let client = http::client(settings.timeout)?;
        Ok(Self { client, games })
    }

    /// Asks once for the game of a match.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Failed`] the game may be there nevertheless.
    pub async fn create(&self, request: &GameRequest) -> Result<GameId, CallError> {
        let failed = |no_answer: NoAnswer| CallError::Failed(format!("the game service {no_answer}"));
        let call = self.client.post(self.games.clone());
        let call = call.header("Idempotency-Key", request.match_id.to_string()).json(request);
        let answer = call.send().await.map_err(|error| failed(error.into()))?;
        let status = answer.status();
        let body = http::read(answer).await.map_err(failed)?;
        if status.is_success() {
            let made: Result<Made, _> = serde_json::from_slice(&body);
            return made.map(|made| made.game_id).map_err(|error| {
                CallError::Failed(format!("the game service's answer names no game: {error}"))
            });
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(DETAIL_CHARS_MAX).collect();
        let detail = format!("the game service answered {status}: {text}");
        // These mean that it is asked too early or too much, not that the game is wrong.
        let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        if status.is_client_error() && !passes.contains(&status) {
            Err(CallError::Refused(detail))
        } else {
            Err(CallError::Failed(detail))
        }
    }
}

#[cfg(test)]
mod tests;
