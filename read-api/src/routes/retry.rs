//! Retry statistics and circuit breakers.

use std::sync::Arc;
use std::time::Duration;

use domain::breaker;
use poem_openapi::param::Header;
use poem_openapi::{Enum, Object, OpenApi};
use projections::Name;
use projections::retry::{Outcomes, RetryClass, RetryCounts};
use web::caller::{Caller, Role};
use web::enums::{FailureCategory, failure_code};
use web::etag::Cached;
use web::problem::Problem;
use web::value::{ApiPosition, ApiTimestamp};

use super::Tag;
use crate::ReadApi;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;
use crate::server::BreakerStatus;

/// The number of scheduled retries by reason.
#[derive(Clone, Debug, Object)]
#[oai(rename = "RetryCounts")]
pub struct RetryCountsDto {
    /// After the backoff of the retry policy; only these count as attempts.
    pub backoff: u64,
    /// After the delay that a service requested.
    pub rate_limited: u64,
    /// Because the circuit breaker of a service is open.
    pub parked: u64,
    /// Because a worker stopped.
    pub interrupted: u64,
    /// Because a caller requested an immediate retry.
    pub asked: u64,
}

/// The outcomes of failures.
#[derive(Clone, Debug, Object)]
#[oai(rename = "RetryOutcomes")]
pub struct RetryOutcomesDto {
    /// The job was retried and completed.
    pub recovered: u64,
    /// The job was cancelled before it completed or failed.
    pub cancelled: u64,
    pub non_retryable: u64,
    pub maximum_attempts: u64,
    pub crash_loop: u64,
    pub no_policy: u64,
}

/// A class of errors with which jobs failed.
#[derive(Clone, Debug, Object)]
#[oai(rename = "RetryClass")]
pub struct RetryClassDto {
    pub code: String,
    pub category: FailureCategory,
    /// The number of attempts that failed with it.
    pub failed_attempts: u64,
    pub retries: RetryCountsDto,
    /// The mean delay before a retry; null if there was none.
    pub mean_delay_seconds: Option<f64>,
    pub longest_delay_seconds: Option<f64>,
    pub outcomes: RetryOutcomesDto,
    pub last_failed_at: ApiTimestamp,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "BreakerState", rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// No calls are made.
    Open,
    /// A few calls test whether the service has recovered.
    HalfOpen,
}

/// The circuit breaker of an external service.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Breaker")]
pub struct Breaker {
    pub service: String,
    pub state: BreakerState,
    /// When the breaker becomes half-open; null unless it is open.
    pub open_until: Option<ApiTimestamp>,
    /// The number of openings in a row.
    pub openings: u32,
}

/// Retry statistics and circuit breakers.
#[derive(Clone, Debug, Object)]
#[oai(rename = "RetryReport")]
pub struct RetryReport {
    /// The tenant's error classes, by code.
    pub classes: Vec<RetryClassDto>,
    /// The circuit breakers, which all tenants share.
    pub breakers: Vec<Breaker>,
    /// The log position that the classes reflect.
    pub position: ApiPosition,
}

impl From<RetryCounts> for RetryCountsDto {
    fn from(counts: RetryCounts) -> Self {
        let RetryCounts { backoff, rate_limited, parked, interrupted, asked } = counts;
        Self { backoff, rate_limited, parked, interrupted, asked }
    }
}

impl From<Outcomes> for RetryOutcomesDto {
    fn from(outcomes: Outcomes) -> Self {
        let Outcomes { recovered, cancelled, non_retryable, maximum_attempts, crash_loop, no_policy } =
            outcomes;
        Self { recovered, cancelled, non_retryable, maximum_attempts, crash_loop, no_policy }
    }
}

impl From<RetryClass> for RetryClassDto {
    fn from(class: RetryClass) -> Self {
        let scheduled = class.scheduled();
        let seconds = |micros| Duration::from_micros(micros).as_secs_f64();
        Self {
            code: failure_code(class.code),
            category: class.category.into(),
            failed_attempts: class.failed_attempts,
            retries: class.retries.into(),
            mean_delay_seconds: (scheduled > 0).then(|| seconds(class.delay_micros) / scheduled as f64),
            longest_delay_seconds: (scheduled > 0).then(|| seconds(class.longest_delay_micros)),
            outcomes: class.outcomes.into(),
            last_failed_at: ApiTimestamp(class.last_failed_at),
        }
    }
}

impl From<BreakerStatus> for Breaker {
    fn from((service, phase, openings): BreakerStatus) -> Self {
        let (state, open_until) = match phase {
            breaker::CircuitState::Closed => (BreakerState::Closed, None),
            breaker::CircuitState::Open { until } => (BreakerState::Open, Some(ApiTimestamp(until))),
            breaker::CircuitState::HalfOpen => (BreakerState::HalfOpen, None),
        };
        Self { service: service.to_owned(), state, open_until, openings }
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
            breakers: self.api.server.breakers.statuses().into_iter().map(Into::into).collect(),
            position: ApiPosition(position),
        };
        Ok(Cached::without(&report, &["position"], if_none_match.as_deref()))
    }
}
