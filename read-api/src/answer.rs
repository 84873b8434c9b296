//! What the routes share: waiting for a position, whose job it is, and how a failed read is told.

use std::time::Duration;

use event_log::{EventLog, ReadError};
use event_schemas::ids::{JobId, Position, Revision};
use event_schemas::stream::StreamId;
use projections::{Name, QueryError};
use web::caller::Caller;
use web::problem::Problem;
use web::value::Pos;

use crate::ReadApi;

/// How long a read waits for its models to reach `X-Min-Position`.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// When to ask again after the wait was in vain.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    pub(crate) async fn models_reached(&self, names: &[Name], min: Option<Pos>) -> Result<(), Problem> {
        let Some(Pos(min)) = min else { return Ok(()) };
        let waited = self.models.wait_for(names, min, WAIT_MAX).await;
        waited.map_err(|behind| Problem::unavailable(behind.to_string(), RETRY_AFTER))
    }

    /// Like [`Self::models_reached`], for what is read from the log itself.
    ///
    /// # Errors
    /// 503 with `Retry-After` after two seconds.
    pub(crate) async fn log_reached(&self, min: Option<Pos>) -> Result<(), Problem> {
        let Some(Pos(min)) = min else { return Ok(()) };
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

    /// Holds a read of the log to the caller's tenant. The first event of a job says whose it is.
    ///
    /// # Errors
    /// 404 if there is no such job, or it is another tenant's: the answer is the same.
    pub(crate) async fn check_tenant(&self, caller: &Caller, job: JobId) -> Result<(), Problem> {
        let first = self.log.read_stream(&StreamId::job(job), Revision(0), 1).await;
        let first = first.map_err(|error| unread(&error))?;
        let metadata = first.first().map(|event| event.metadata().map_err(|error| Problem::internal(&error)));
        match metadata.transpose()? {
            Some(metadata) if metadata.tenant == caller.tenant => Ok(()),
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
        QueryError::Store { .. } | QueryError::Row { .. } => Problem::internal(error),
    }
}
