//! The client of the live-game service, which creates the games of matches.
//!
//! A request contains the match id, and a repeated request for the same match returns the same game, so that a call
//! whose response was lost can be retried.

use std::time::Duration;

use event_schemas::game_match::Side;
use event_schemas::ids::{GameId, GameMatchId, PoolKey, Tenant, UserId};
use event_schemas::rating::Rating;
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};

use crate::engine::http::{self, TransportError};

pub use crate::engine::http::InvalidService;

/// The length of a response that is kept to explain a failure, in characters.
const DETAIL_CHARS_MAX: usize = 200;

/// The address and the timeout of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Games are created by `POST {url}/games`.
    pub url: String,
    /// The timeout of one call, including its response.
    pub timeout: Duration,
}

impl Settings {
    /// A service at this address, with a timeout of 3 s per call.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), timeout: Duration::from_secs(3) }
    }
}

/// The request for a game.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GameRequest {
    pub match_id: GameMatchId,
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

/// The reason why a call returned no game.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The service did not respond, or reported a failure: a retry may help.
    #[error("{0}")]
    Failed(String),
    /// The service understood the request, and refuses to create this game.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct CreatedGame {
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
    /// [`InvalidService`] if the address is not valid.
    pub fn new(settings: &Settings) -> Result<Self, InvalidService> {
        let base = http::address(&settings.url)?;
        let games = format!("{}/games", base.as_str().trim_end_matches('/'));
        let games = Url::parse(&games).map_err(|_| InvalidService::Address)?;
        let client = http::client(settings.timeout)?;
        Ok(Self { client, games })
    }

    /// Requests the game of a match once.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Failed`] the game may exist nevertheless.
    pub async fn create(&self, request: &GameRequest) -> Result<GameId, CallError> {
        let failed = |error: TransportError| CallError::Failed(format!("the game service {error}"));
        let call = self.client.post(self.games.clone());
        let call = call.header("Idempotency-Key", request.match_id.to_string()).json(request);
        let response = call.send().await.map_err(|error| failed(error.into()))?;
        let status = response.status();
        let body = http::read(response).await.map_err(failed)?;
        if status.is_success() {
            let created: Result<CreatedGame, _> = web::json::parse_strictly(&body);
            return created.map(|created| created.game_id).map_err(|error| {
                CallError::Failed(format!("the response of the game service contains no game id: {error}"))
            });
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(DETAIL_CHARS_MAX).collect();
        let detail = format!("the game service responded {status}: {text}");
        // These statuses mean that the call came too early or too often, not that the game is refused.
        let transient = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        if status.is_client_error() && !transient.contains(&status) {
            Err(CallError::Refused(detail))
        } else {
            Err(CallError::Failed(detail))
        }
    }
}

#[cfg(test)]
mod tests;
