//! The client of a tenant's rating service, which provides a player's rating in a pool.
//!
//! `GET {url}/ratings/{tenant}/{user_id}?pool_key=…` returns `{"rating": 1640}`, or 404 for an unknown player. Every
//! call has a timeout, follows no redirect and reads a short response only.

use std::time::Duration;

use event_schemas::ids::{PoolKey, Tenant, UserId};
use event_schemas::rating::Rating;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use crate::engine::http::{self, TransportError};

pub use crate::engine::http::InvalidService;

/// The address and the timeout of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ratings are read under `{url}/ratings`.
    pub url: String,
    /// The timeout of one call, including its response. A player who joins a queue waits for it.
    pub timeout: Duration,
}

/// The reason why a call returned no rating. The texts contain nothing that the service has sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The service did not respond, reported a failure, or returned an invalid rating: a retry may help.
    #[error("{0}")]
    Failed(String),
    /// The service works, and refuses the request: it limits the rate of calls, refuses the credentials, or does not
    /// accept the request.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct RatingResponse {
    rating: f64,
}

/// A client of the service. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct RatingService {
    client: Client,
    base: Url,
}

impl RatingService {
    /// # Errors
    /// [`InvalidService`] if the address is not valid.
    pub fn new(settings: &Settings) -> Result<Self, InvalidService> {
        let base = http::address(&settings.url)?;
        let client = http::client(&base, settings.timeout)?;
        Ok(Self { client, base })
    }

    /// Requests a player's rating in a pool once; none if the service does not know the player. Fractions are rounded.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn rating(
        &self,
        tenant: &Tenant,
        user: &UserId,
        pool: &PoolKey,
    ) -> Result<Option<Rating>, CallError> {
        let Some(url) = self.url(tenant, user, pool) else { return Ok(None) };
        let failed = |error: TransportError| CallError::Failed(format!("the rating service {error}"));
        let response = self.client.get(url).send().await.map_err(|error| failed(error.into()))?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        // These statuses mean that the call came too early, not that the request is refused.
        let transient = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY];
        if status.is_client_error() && !transient.contains(&status) {
            return Err(CallError::Refused(format!("the rating service responded {status}")));
        }
        if !status.is_success() {
            return Err(CallError::Failed(format!("the rating service responded {status}")));
        }
        let body = http::read(response).await.map_err(failed)?;
        let rating = web::json::parse_strictly(&body).ok();
        let rating = rating.and_then(|response: RatingResponse| Rating::rounded(response.rating).ok());
        let invalid = "the response of the rating service contains no valid rating";
        rating.map(Some).ok_or_else(|| CallError::Failed(invalid.to_owned()))
    }

    /// None for a name that cannot be a path segment: a user with the name `..` is not known there.
    fn url(&self, tenant: &Tenant, user: &UserId, pool: &PoolKey) -> Option<Url> {
        let names = [tenant.as_str(), user.as_str()];
        if names.iter().any(|name| matches!(*name, "." | "..")) {
            return None;
        }
        let mut url = self.base.clone();
        url.path_segments_mut().ok()?.pop_if_empty().push("ratings").extend(names);
        url.query_pairs_mut().append_pair("pool_key", pool.as_str());
        Some(url)
    }
}

#[cfg(test)]
mod tests;
