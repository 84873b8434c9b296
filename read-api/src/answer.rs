//! What the routes share: waiting for a position, whose job it is, and how a failed read is told.

use std::time::Duration;

use domain::matching::summary::Summary as Summarised;
use event_log::{EventLog, ReadError};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::job::JobKind;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem::{FromRequest, Request, RequestBody};
use poem_openapi::types::ParseFromParameter;
use projections::matching_summary::{Folded, RefoldError, ScoresFrom, SummaryError};
use projections::{Name, QueryError};
use web::problem::Problem;
use web::value::Pos;

use crate::ReadApi;

const MIN_POSITION: &str = "X-Min-Position";

/// How long a read waits for its models to reach `X-Min-Position`.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// When to ask again after the wait was in vain.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The header `X-Min-Position`: how far the log must have been read for the answer.
///
/// Not a parameter of the OpenAPI document but a rule in its description: which positions there are is known to the log
/// alone, and a tool that makes numbers up would only learn that they are not there yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MinPosition(pub(crate) Option<Position>);

impl<'a> FromRequest<'a> for MinPosition {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let Some(given) = request.header(MIN_POSITION) else { return Ok(Self(None)) };
        let Pos(position) = Pos::parse_from_parameter(given)
            .map_err(|_| Problem::invalid(MIN_POSITION, "must be a position: a whole number from 0"))?;
        Ok(Self(Some(position)))
    }
}

impl ReadApi {
    /// The durable head of the log.
    pub(crate) fn head(&self) -> Position {
        *self.log.head().borrow()
    }

    /// Whether the log still takes and gives events.
    pub(crate) fn log_is_open(&self) -> bool {
        self.log.head().has_changed().is_ok()
    }

    /// Waits until the read models reflect `X-Min-Position`, so that a caller reads its own writes.
    ///
    /// # Errors
    /// 503 with `Retry-After` after two seconds.
    pub(crate) async fn models_reached(&self, names: &[Name], min: MinPosition) -> Result<(), Problem> {
        let MinPosition(Some(min)) = min else { return Ok(()) };
        let waited = self.models.wait_for(names, min, WAIT_MAX).await;
        waited.map_err(|behind| Problem::unavailable(behind.to_string(), RETRY_AFTER))
    }

    /// Like [`Self::models_reached`], for what is read from the log itself.
    ///
    /// # Errors
    /// 503 with `Retry-After` after two seconds.
    pub(crate) async fn log_reached(&self, min: MinPosition) -> Result<(), Problem> {
        let MinPosition(Some(min)) = min else { return Ok(()) };
        let mut head = self.log.head();
        let reached = head.wait_for(|head| *head >= min);
        match tokio::time::timeout(WAIT_MAX, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let head = self.head();
                let detail =
                    format!("the log is at position {head} and has not come to {min}; try again shortly");
                Err(Problem::unavailable(detail, RETRY_AFTER))
            }
        }
    }

    /// Holds a read to one tenant. The first event of a job says whose it is.
    ///
    /// # Errors
    /// 404 if there is no such job, or it is another tenant's: the answer is the same.
    pub(crate) async fn check_tenant(&self, tenant: &Tenant, job: JobId) -> Result<(), Problem> {
        let first = self.log.read_stream(&StreamId::job(job), Revision(0), 1).await;
        let first = first.map_err(|error| unread(&error))?;
        let metadata = first.first().map(|event| event.metadata().map_err(|error| Problem::internal(&error)));
        match metadata.transpose()? {
            Some(metadata) if metadata.tenant == *tenant => Ok(()),
            _ => Err(no_such_job()),
        }
    }
}

/// 404 for a job that is not there, or is another tenant's.
pub(crate) fn no_such_job() -> Problem {
    Problem::not_found("no such job")
}

/// How a failed read of the log is told.
pub(crate) fn unread(error: &ReadError) -> Problem {
    match error {
        ReadError::Unavailable(reason) => {
            tracing::warn!(%reason, "the log could not be read");
            Problem::unavailable("the log cannot be read at present", RETRY_AFTER)
        }
        ReadError::Corrupt(_) => Problem::internal(error),
    }
}

/// How a read model that gave no answer is told.
pub(crate) fn unanswered(error: &QueryError) -> Problem {
    match error {
        QueryError::Building { .. } => Problem::unavailable(error.to_string(), RETRY_AFTER),
        QueryError::Store { .. } | QueryError::Row { .. } | QueryError::BrokenOff { .. } => {
            Problem::internal(error)
        }
    }
}

/// How a summary that cannot be told is told.
pub(crate) fn untold(error: &SummaryError) -> Problem {
    match error {
        SummaryError::Query(error) => unanswered(error),
        SummaryError::Refold(RefoldError::Read(error)) => unread(error),
        SummaryError::Refold(_) | SummaryError::Scores { .. } => Problem::internal(error),
    }
}

impl ReadApi {
    /// The job's fold as the read model has it.
    ///
    /// # Errors
    /// 404 if there is no such matching job, or it is another tenant's.
    pub(crate) async fn folded(&self, tenant: &Tenant, job: JobId) -> Result<Folded, Problem> {
        let found = self.models.matching_summary().summary(tenant, job).await;
        let folded = found.map_err(|error| unanswered(&error))?.ok_or_else(no_such_job)?;
        only_matching(&folded)?;
        Ok(folded)
    }

    /// What a fold says at an instant.
    ///
    /// # Errors
    /// 404 before the job's creation.
    pub(crate) async fn summarised(
        &self,
        job: JobId,
        folded: &Folded,
        instant: Timestamp,
        scores: ScoresFrom,
    ) -> Result<Summarised, Problem> {
        let thresholds = &self.server.thresholds;
        let summary =
            self.models.matching_summary().summarise(job, folded, instant, thresholds, scores).await;
        summary.map_err(|error| untold(&error))?.ok_or_else(no_such_job)
    }
}

/// Only jobs of that kind have a matching summary.
pub(crate) fn only_matching(folded: &Folded) -> Result<(), Problem> {
    match &folded.fold.history {
        Some(history) if history.kind() == JobKind::ProductVideoMatching => Ok(()),
        Some(_) => Err(Problem::not_found("this job is of a kind that has no matching summary")),
        None => Err(no_such_job()),
    }
}
