//! What became of failures, and which services are left alone.

use std::sync::Arc;
use std::time::Duration;

use domain::breaker;
use poem_openapi::param::Header;
use poem_openapi::{Enum, Object, OpenApi};
use projections::Name;
use projections::retry::{Outcomes, RetryClass, RetryCounts};
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::problem::Problem;
use web::value::{At, Pos};
use web::vocabulary::{FailureCategory, failure_code};

use super::Tag;
use crate::ReadApi;
use crate::answer::{MinPosition, unanswered};
use crate::server::ServiceStanding;

/// How often retries were scheduled, by what they waited for.
#[derive(Clone, Debug, Object)]
#[oai(rename = "RetryCounts")]
pub struct Counts {
    /// After the pause of their policy; these alone use up tries.
    pub backoff: u64,
    /// Because a service said when to come back.
    pub rate_limited: u64,
    /// Because a service is left alone.
    pub parked: u64,
    /// Because a worker was stopped.
    pub interrupted: u64,
    /// Because somebody wanted a scheduled one at once.
    pub asked: u64,
}

/// What failures came to.
#[derive(Clone, Debug, Object)]
#[oai(rename = "RetryOutcomes")]
pub struct Ends {
    /// The job was tried again and completed.
    pub recovered: u64,
    /// The job was cancelled before it came to an end by itself.
    pub cancelled: u64,
    pub non_retryable: u64,
    pub maximum_attempts: u64,
    pub crash_loop: u64,
    pub no_policy: u64,
}

/// A class of errors that jobs failed of.
#[derive(Clone, Debug, Object)]
#[oai(rename = "RetryClass")]
pub struct Class {
    pub code: String,
    pub category: FailureCategory,
    /// How many attempts failed with it.
    pub failed_attempts: u64,
    pub retries: Counts,
    /// The mean pause before a retry; null if there was none.
    pub mean_delay_seconds: Option<f64>,
    pub longest_delay_seconds: Option<f64>,
    pub outcomes: Ends,
    pub last_failed_at: At,
}

/// Whether a service is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "BreakerState", rename_all = "snake_case")]
pub enum State {
    /// It is.
    Closed,
    /// It is left alone.
    Open,
    /// A few calls find out whether it is back.
    HalfOpen,
}

/// The circuit breaker of a service.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Breaker")]
pub struct BreakerShown {
    pub service: String,
    pub state: State,
    /// Until when the service is left alone.
    pub open_until: Option<At>,
    /// How often in a row it has been left alone.
    pub openings: u32,
}

/// What became of failures, and which services are left alone.
#[derive(Clone, Debug, Object)]
#[oai(rename = "RetryReport")]
pub struct Report {
    /// The tenant's, by code.
    pub classes: Vec<Class>,
    /// What all tenants met counts together.
    pub breakers: Vec<BreakerShown>,
    /// The log position that the classes reflect.
    pub position: Pos,
}

impl From<RetryCounts> for Counts {
    fn from(counts: RetryCounts) -> Self {
        let RetryCounts { backoff, rate_limited, parked, interrupted, asked } = counts;
        Self { backoff, rate_limited, parked, interrupted, asked }
    }
}

impl From<Outcomes> for Ends {
    fn from(outcomes: Outcomes) -> Self {
        let Outcomes { recovered, cancelled, non_retryable, maximum_attempts, crash_loop, no_policy } =
            outcomes;
        Self { recovered, cancelled, non_retryable, maximum_attempts, crash_loop, no_policy }
    }
}

impl From<RetryClass> for Class {
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
            last_failed_at: At(class.last_failed_at),
        }
    }
}

impl From<ServiceStanding> for BreakerShown {
    fn from((service, phase, openings): ServiceStanding) -> Self {
        let (state, open_until) = match phase {
            breaker::Phase::Closed => (State::Closed, None),
            breaker::Phase::Open { until } => (State::Open, Some(At(until))),
            breaker::Phase::Probing => (State::HalfOpen, None),
        };
        Self { service: service.to_owned(), state, open_until, openings }
    }
}

/// Routes over retries.
#[derive(Clone, Debug)]
pub struct RetryRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Operations")]
impl RetryRoutes {
    /// What became of failures, and which services are left alone
    ///
    /// Needs the role `admin`.
    #[oai(path = "/internal/retries", method = "get", operation_id = "read_retries")]
    async fn read(
        &self,
        caller: Caller,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Report>, Problem> {
        caller.require(Role::Admin)?;
        self.api.models_reached(&[Name::Retries], min).await?;
        let classes = self.api.models.retries().classes(&caller.tenant).await;
        let (classes, position) = classes.map_err(|error| unanswered(&error))?;
        let report = Report {
            classes: classes.into_iter().map(Into::into).collect(),
            breakers: self.api.server.services.standing().into_iter().map(Into::into).collect(),
            position: Pos(position),
        };
        Ok(Cached::without(&report, &["position"], if_none_match.as_deref()))
    }
}
