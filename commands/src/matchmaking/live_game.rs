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

/// The length of a response that the server's own log contains to explain a failure, in characters.
const LOGGED_CHARS_MAX: usize = 200;

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

/// The reason why a call returned no game. The texts contain nothing that the service has sent: they are recorded, and the
/// response of a failing service may say anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The service did not respond, or reported a failure: a retry may help.
    #[error("{0}")]
    Failed(String),
    /// The service works and did not create this game now: it limits the rate of calls, or refuses the credentials. A
    /// retry may help.
    #[error("{0}")]
    Limited(String),
    /// The service understood the request, and refuses to create this game.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct CreatedGame {
    game_id: CreatedId,
}

/// The id of a game: a text, or a whole number, which counts as its decimal text.
#[derive(Deserialize)]
#[serde(untagged)]
enum CreatedId {
    Text(GameId),
    Number(serde_json::Number),
}

impl CreatedId {
    fn into_id(self) -> Option<GameId> {
        match self {
            Self::Text(id) => Some(id),
            Self::Number(number) if number.is_f64() => None,
            Self::Number(number) => number.to_string().parse().ok(),
        }
    }
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
        let client = http::client(&games, settings.timeout)?;
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
            let created = web::json::parse_strictly(&body).ok();
            if let Some(id) = created.and_then(|created: CreatedGame| created.game_id.into_id()) {
                return Ok(id);
            }
            log(status, &body);
            return Err(CallError::Failed("the response of the game service contains no game id".to_owned()));
        }
        log(status, &body);
        let detail = format!("the game service responded {status}");
        Err(match status {
            // The call came too early.
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => CallError::Failed(detail),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                CallError::Limited(detail)
            }
            _ if status.is_client_error() => CallError::Refused(detail),
            _ => CallError::Failed(detail),
        })
    }
}

/// Shows an unexpected response to the operator, who reads the server's own log. It is recorded nowhere else.
fn log(status: StatusCode, body: &[u8]) {
    let body: String = String::from_utf8_lossy(body).chars().take(LOGGED_CHARS_MAX).collect();
    tracing::warn!(%status, ?body, "unexpected response of the game service");
}

#[cfg(test)]
mod tests;
