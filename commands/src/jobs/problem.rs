//! The problems of commands on jobs and work.

use std::time::Duration;

use event_schemas::ids::WorkerId;
use event_schemas::job::JobKind;
use event_schemas::worker::WorkKind;
use web::problem::Problem;

use super::scheduler::Readiness;
use super::server_work;

/// The retry delay while the board is not ready.
const SOON: Duration = Duration::from_secs(1);

/// 404, with the same text for a missing job and for another tenant's.
pub(crate) fn no_such_job() -> Problem {
    Problem::not_found("there is no such job")
}

/// 404, with the same text for an unknown lease and for another tenant's.
pub(crate) fn no_such_lease() -> Problem {
    Problem::not_found("there is no such lease; claim work first")
}

/// 409 for work whose lease has ended.
pub(crate) fn lease_lost() -> Problem {
    Problem::conflict("the lease has expired or its job has ended; drop the work and claim again")
}

/// 422 for kinds of work that only the server itself does.
pub(crate) fn check_kinds<'a>(kinds: impl IntoIterator<Item = &'a WorkKind>) -> Result<(), Problem> {
    if !kinds.into_iter().any(|kind| kind.is_of_server()) {
        return Ok(());
    }
    let reason = "the server itself does the kinds cutout_sync and embedding_export; leave them out";
    Err(Problem::unprocessable("kinds", reason))
}

/// 422 for the worker of the server itself: another one of its name could end its leases.
pub(crate) fn check_worker(id: &WorkerId) -> Result<(), Problem> {
    if id.as_str() != server_work::NAME {
        return Ok(());
    }
    Err(Problem::unprocessable("worker_id", "is that of the server itself; choose another"))
}

/// 422 for a kind of job that only a route of its own creates.
pub(crate) fn check_kind(kind: JobKind) -> Result<(), Problem> {
    let route = match kind {
        JobKind::CutoutSync => "POST /api/v1/cutouts/sync",
        JobKind::EmbeddingExport => "POST /api/v1/export",
        JobKind::ProductVideoMatching
        | JobKind::VideoAnalysis
        | JobKind::ExtractCutouts
        | JobKind::ExtractProducts
        | JobKind::ExtractSingleProduct
        | JobKind::ModelTraining => return Ok(()),
    };
    Err(Problem::unprocessable("kind", format!("a job of the kind {kind} is created by {route}")))
}

/// 409 for a phase of a job that the server itself performs.
pub(crate) fn phase_of_server(kind: JobKind) -> Problem {
    Problem::conflict(format!(
        "the server itself performs a job of the kind {kind} and sets its phase; to stop it, cancel it"
    ))
}

/// 503 while the work board is not ready.
pub(crate) fn board_not_ready(readiness: &Readiness) -> Problem {
    let detail = match readiness {
        Readiness::CatchingUp | Readiness::Ready => "the server is still reading the log",
        Readiness::Stopped(_) => "the server cannot hand out work; see /status for the reason",
        Readiness::Closing => "the server is shutting down",
    };
    Problem::unavailable(detail, SOON)
}
