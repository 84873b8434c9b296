//! The write routes. Each reads the caller and the body, executes one command, and returns the resource, or counts,
//! with its position.

mod analysis;
mod block;
mod challenge;
mod image_matches;
mod job;
mod matching;
mod pool;
mod queue;
mod result;
mod work;
mod worker;

use event_schemas::envelope::Idempotency;
use poem_openapi::types::ToJSON;
use web::caller::{Caller, Role, Roles};
use web::idempotency::{IdempotencyKey, idempotency};
use web::routes::RouteLimits;

use crate::Commands;

pub use analysis::AnalysisCommands;
pub use block::BlockCommands;
pub use challenge::ChallengeCommands;
pub use image_matches::MatchesCommands;
pub use job::JobCommands;
pub use matching::MatchingCommands;
pub use pool::PoolCommands;
pub use queue::QueueCommands;
pub use result::ResultCommands;
pub use work::WorkCommands;
pub use worker::WorkerCommands;

/// All write routes, for one OpenAPI document together with the read routes.
pub type Routes = (
    JobCommands,
    AnalysisCommands,
    MatchingCommands,
    MatchesCommands,
    WorkCommands,
    WorkerCommands,
    QueueCommands,
    BlockCommands,
    PoolCommands,
    ResultCommands,
    ChallengeCommands,
);

/// The paths with limits of their own, because they accept batches or wait.
pub const ROUTE_LIMITS: [(&str, RouteLimits); 7] = [
    ("/jobs/{job_id}/products", RouteLimits::Bulk),
    ("/jobs/{job_id}/videos", RouteLimits::Bulk),
    ("/jobs/{job_id}/match-requests", RouteLimits::Bulk),
    ("/jobs/{job_id}/match-progress", RouteLimits::Bulk),
    ("/jobs/{job_id}/matches", RouteLimits::Bulk),
    ("/internal/work/claim", RouteLimits::LongPoll),
    // The game service may be slow.
    ("/v1/matchmaking/challenges/{challenge_id}/accept", RouteLimits::Bulk),
];

impl Commands {
    /// The write routes over these commands.
    pub fn routes(&self) -> Routes {
        (
            JobCommands(self.clone()),
            AnalysisCommands(self.clone()),
            MatchingCommands(self.clone()),
            MatchesCommands(self.clone()),
            WorkCommands(self.clone()),
            WorkerCommands(self.clone()),
            QueueCommands(self.clone()),
            BlockCommands(self.clone()),
            PoolCommands(self.clone()),
            ResultCommands(self.clone()),
            ChallengeCommands(self.clone()),
        )
    }
}

/// The roles that may manage jobs.
fn job_roles() -> Roles {
    Role::User | Role::Service | Role::Admin
}

/// The roles that may play.
fn player_roles() -> Roles {
    Role::User | Role::Service | Role::Admin
}

/// The roles that may report work.
fn worker_roles() -> Roles {
    Role::Worker | Role::Service
}

/// The idempotency of a command with a key. The path contains the resource, so that a key belongs to one resource only.
fn idempotency_of(
    caller: &Caller,
    method: &str,
    path: &str,
    key: Option<IdempotencyKey>,
    body: &impl ToJSON,
) -> Option<Idempotency> {
    key.map(|key| idempotency(caller, &format!("{method} {path}"), &key, body))
}
