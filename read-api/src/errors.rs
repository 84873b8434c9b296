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
        QueryError::Building { .. } | QueryError::Encoding { .. } => {
            Problem::unavailable(error.to_string(), RETRY_AFTER)
        }
        QueryError::Storage { name, source: SqlError::Unavailable(reason) } => {
            tracing::warn!(projection = %name, %reason, "the database of the read models is unavailable");
            Problem::unavailable("the database is unavailable at present; try again shortly", RETRY_AFTER)
        }
        // The projector has been notified.
        QueryError::Storage { name, source: SqlError::Damaged(reason) }
        | QueryError::InvalidRow { name, reason } => {
            tracing::warn!(projection = %name, reason, "a query has met damaged data");
            let detail =
                format!("the read model {name} is damaged and is being rebuilt; retry when /ready succeeds");
            Problem::unavailable(detail, RETRY_AFTER)
        }
        QueryError::Storage { name, source: SqlError::Full(reason) } => {
            tracing::warn!(projection = %name, reason, "a query needs disk space");
            Problem::unavailable("the disk of the read models is full; free some space", RETRY_AFTER)
        }
        QueryError::Storage { .. } | QueryError::Panicked { .. } | QueryError::Encoder { .. } => {
            Problem::internal(error)
        }
    }
}

/// The response to a matching summary that could not be computed.
pub(crate) fn from_summary_error(error: &SummaryError) -> Problem {
    match error {
        SummaryError::Query(error) => from_query_error(error),
        SummaryError::Replay(error) => from_replay_error(error),
        SummaryError::ScoresMismatch { .. } => Problem::internal(error),
    }
}

/// The response to a failed replay of the log.
pub(crate) fn from_replay_error(error: &ReplayError) -> Problem {
    match error {
        ReplayError::Read(error) => from_read_error(error),
        error => Problem::internal(error),
    }
}
