//! Retry statistics and circuit breakers.

use std::sync::Arc;
use std::time::Duration;

use domain::breaker;
use event_schemas::failure::{FailureCategory, FailureCode};
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::Header;
use projections::Name;
use projections::retry::{Outcomes, RetryClass, RetryCounts};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::problem::Problem;

use super::Tag;
use crate::ReadApi;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;
use crate::server::BreakerStatus;

/// A class of errors with which jobs failed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "RetryClass")]
pub struct RetryClassDto {
    #[schemars(with = "String")]
    pub code: FailureCode,
    pub category: FailureCategory,
    /// The number of attempts that failed with it.
    pub failed_attempts: u64,
    pub retries: RetryCounts,
    /// The mean delay before a retry; null if there was none.
    pub mean_delay_seconds: Option<f64>,
    pub longest_delay_seconds: Option<f64>,
    pub outcomes: Outcomes,
    pub last_failed_at: Timestamp,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "BreakerState")]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// No calls are made.
    Open,
    /// A few calls test whether the service has recovered.
    HalfOpen,
}

/// The circuit breaker of an external service.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Breaker")]
pub struct Breaker {
    pub service: &'static str,
    pub state: BreakerState,
    /// When the breaker becomes half-open; null unless it is open.
    pub open_until: Option<Timestamp>,
    /// The number of openings in a row.
    pub openings: u32,
}

/// Retry statistics and circuit breakers.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "RetryReport")]
pub struct RetryReport {
    /// The tenant's error classes, by code.
    pub classes: Vec<RetryClassDto>,
    /// The tenant's circuit breakers.
    pub breakers: Vec<Breaker>,
    /// The log position that the classes reflect.
    pub position: Position,
}

impl From<RetryClass> for RetryClassDto {
    fn from(class: RetryClass) -> Self {
        let scheduled = class.scheduled();
        let seconds = |micros| Duration::from_micros(micros).as_secs_f64();
        Self {
            code: class.code,
            category: class.category,
            failed_attempts: class.failed_attempts,
            retries: class.retries,
            mean_delay_seconds: (scheduled > 0).then(|| seconds(class.delay_micros) / scheduled as f64),
            longest_delay_seconds: (scheduled > 0).then(|| seconds(class.longest_delay_micros)),
            outcomes: class.outcomes,
            last_failed_at: class.last_failed_at,
        }
    }
}

impl From<BreakerStatus> for Breaker {
    fn from((service, phase, openings): BreakerStatus) -> Self {
        let (state, open_until) = match phase {
            breaker::CircuitState::Closed => (BreakerState::Closed, None),
            breaker::CircuitState::Open { until } => (BreakerState::Open, Some(until)),
            breaker::CircuitState::HalfOpen => (BreakerState::HalfOpen, None),
        };
        Self { service, state, open_until, openings }
    }
}

/// Routes for retries.
#[derive(Clone, Debug)]
pub struct RetryRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Operations")]
impl RetryRoutes {
    /// Get retry statistics and circuit breakers
    ///
    /// Needs the role `admin`.
    #[oai(path = "/internal/retries", method = "get", operation_id = "read_retries")]
    async fn read(
        &self,
        caller: Caller,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<RetryReport>, Problem> {
        caller.require(Role::Admin)?;
        self.api.wait_for_models(&[Name::Retries], min).await?;
        let classes = self.api.models.retries().classes(&caller.tenant).await;
        let (classes, position) = classes.map_err(|error| from_query_error(&error))?;
        let report = RetryReport {
            classes: classes.into_iter().map(Into::into).collect(),
            breakers: self.api.server.breakers.statuses(&caller.tenant).into_iter().map(Into::into).collect(),
            position,
        };
        Ok(Cached::without(&report, &["position"], if_none_match.as_deref()))
    }
}
