//! The problem responses for failed reads, shared by all routes.

use std::time::Duration;

use event_log::ReadError;
use projections::matching_summary::{ReplayError, SummaryError};
use projections::{QueryError, SqlError};
use web::problem::Problem;

/// The delay after which a client should retry.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// 404 for a job that does not exist or belongs to another tenant.
pub(crate) fn no_such_job() -> Problem {
    Problem::not_found("no such job")
}

/// The response to a failed read of the log.
pub(crate) fn from_read_error(error: &ReadError) -> Problem {
    match error {
        ReadError::Unavailable(reason) => {
            tracing::warn!(%reason, "the log could not be read");
            Problem::unavailable("the log is not readable at present; try again shortly", RETRY_AFTER)
        }
        ReadError::Corrupt(_) => Problem::internal(error),
    }
}

/// The response to a failed query of a read model.
pub(crate) fn from_query_error(error: &QueryError) -> Problem {
    match error {
        QueryError::Building { .. } => Problem::unavailable(error.to_string(), RETRY_AFTER),
        QueryError::Storage { name, source: SqlError::Unavailable(reason) } => {
            tracing::warn!(projection = %name, %reason, "the database of the read models is unavailable");
            Problem::unavailable("the database is unavailable at present; try again shortly", RETRY_AFTER)
        }
        QueryError::Storage { .. } | QueryError::InvalidRow { .. } | QueryError::Panicked { .. } => {
            Problem::internal(error)
        }
    }
}

/// The response to a matching summary that could not be computed.
pub(crate) fn from_summary_error(error: &SummaryError) -> Problem {
    match error {
        SummaryError::Query(error) => from_query_error(error),
        SummaryError::Replay(ReplayError::Read(error)) => from_read_error(error),
        SummaryError::Replay(_) | SummaryError::ScoresMismatch { .. } => Problem::internal(error),
    }
}
