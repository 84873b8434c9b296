//! The problems of commands on jobs and work.

use std::time::Duration;

use web::problem::Problem;

use super::scheduler::Readiness;

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

/// 503 while the work board is not ready.
pub(crate) fn board_not_ready(readiness: &Readiness) -> Problem {
    let detail = match readiness {
        Readiness::CatchingUp | Readiness::Ready => "the server is still reading the log",
        Readiness::Stopped(_) => "the server cannot hand out work; see /status for the reason",
        Readiness::Closing => "the server is shutting down",
    };
    Problem::unavailable(detail, SOON)
}
