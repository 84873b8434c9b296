//! A tenant's rating service: it is asked how strong a player is in a pool.
//!
//! `GET {url}/ratings/{tenant}/{user_id}?pool_key=…` answers `{"rating": 1640}`, or 404 for a player whom it does not know.
//! Every call has a time limit, follows no redirect and reads a short answer only.

use std::time::Duration;

use event_schemas::ids::{PoolKey, Tenant, UserId};
use event_schemas::rating::Rating;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use super::http::{self, NoAnswer};

pub use super::http::InvalidService;

/// Where the service is, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ratings are read under `{url}/ratings`.
    pub url: String,
    /// For one call, until its answer is read. Whoever joins a queue waits for it.
    pub timeout: Duration,
}

/// Why a rating is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The service did not answer, said that it failed, or answered no rating: asking again may help.
    #[error("{0}")]
    Failed(String),
    /// The service understood, and does not answer this.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct Answer {
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
    /// [`InvalidService`] if the address is none.
    pub fn new(settings: &Settings) -> Result<Self, InvalidService> {
        let (base, client) = (http::address(&settings.url)?, http::client(settings.timeout)?);
        Ok(Self { client, base })
    }

    /// Asks once for a player's rating in a pool; none if the service does not know the player. Fractions are rounded.
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
        let failed = |no_answer: NoAnswer| CallError::Failed(format!("the rating service {no_answer}"));
        let answer = self.client.get(url).send().await.map_err(|error| failed(error.into()))?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        // These mean that it is asked too early or too much, not that the question is wrong.
        let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        if status.is_client_error() && !passes.contains(&status) {
            return Err(CallError::Refused(format!("the rating service answered {status}")));
        }
        if !status.is_success() {
            return Err(CallError::Failed(format!("the rating service answered {status}")));
        }
        let body = http::read(answer).await.map_err(failed)?;
        let no_rating = |why: &dyn std::fmt::Display| {
            CallError::Failed(format!("the rating service's answer holds no rating: {why}"))
        };
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| no_rating(&error))?;
        Rating::rounded(answer.rating).map(Some).map_err(|error| no_rating(&error))
    }

    /// None for a name that no path can hold: whoever is called `..` is not known there.
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
