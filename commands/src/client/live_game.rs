//! The live-game service: it is asked to make a game for a match.
//!
//! A request carries the match's id, and asking again for the same match gives the same game, so that a call whose answer
//! was lost can be repeated. Every call has a time limit, follows no redirect and reads a short answer only.

use std::time::Duration;

use event_schemas::ids::{GameId, MatchRecordId, PoolKey, Tenant, UserId};
use event_schemas::match_record::Side;
use event_schemas::rating::Rating;
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};

/// The longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
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

/// Why the service cannot be used as it is set.
#[derive(Debug, thiserror::Error)]
pub enum InvalidService {
    /// It is not shown, as there may be a password in it.
    #[error(
        "the address of the game service must be as http://host:port; https is not spoken, so put a proxy before a service \
         that asks for it"
    )]
    Address,
    #[error("the HTTP client cannot be made: {0}")]
    Client(reqwest::Error),
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
        let address = || InvalidService::Address;
        // Looked at before anything is added to it: `http://` alone would take the path for a host.
        let base = Url::parse(&settings.url).map_err(|_| address())?;
        if base.scheme() != "http" || !base.has_host() {
            return Err(address());
        }
        let games = format!("{}/games", base.as_str().trim_end_matches('/'));
        let games = Url::parse(&games).map_err(|_| address())?;
        let client = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(InvalidService::Client)?;
        Ok(Self { client, games })
    }

    /// Asks once for the game of a match.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Failed`] the game may be there nevertheless.
    pub async fn create(&self, request: &GameRequest) -> Result<GameId, CallError> {
        let failed = |error: reqwest::Error| CallError::Failed(describe(&error));
        let call = self.client.post(self.games.clone());
        let call = call.header("Idempotency-Key", request.match_id.to_string()).json(request);
        let mut answer = call.send().await.map_err(failed)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(CallError::Failed("the game service's answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
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

/// In words that name no address.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "the game service did not answer in time".to_owned()
    } else if error.is_connect() {
        "the game service cannot be reached".to_owned()
    } else {
        "the connection to the game service broke".to_owned()
    }
}

#[cfg(test)]
mod tests;
