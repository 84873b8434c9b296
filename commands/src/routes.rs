//! The write routes. Each reads as: who asks, for what → one command → the thing, or counts, and its position.

mod analysis;
mod block;
mod challenge;
mod job;
mod matches;
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
use web::routes::Class;

use crate::Commands;

pub use analysis::AnalysisCommands;
pub use block::BlockCommands;
pub use challenge::ChallengeCommands;
pub use job::JobCommands;
pub use matches::MatchesCommands;
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

/// The paths that take batches, or wait, as the server's limits need to know.
pub const CLASSES: [(&str, Class); 7] = [
    ("/jobs/{job_id}/products", Class::Bulk),
    ("/jobs/{job_id}/videos", Class::Bulk),
    ("/jobs/{job_id}/match-requests", Class::Bulk),
    ("/jobs/{job_id}/match-progress", Class::Bulk),
    ("/jobs/{job_id}/matches", Class::Bulk),
    ("/internal/work/claim", Class::Waiting),
    // The game service may take its time.
    ("/v1/matchmaking/challenges/{challenge_id}/accept", Class::Bulk),
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

/// Who leads jobs.
fn leaders() -> Roles {
    Role::User | Role::Service | Role::Admin
}

/// Who plays.
fn players() -> Roles {
    Role::User | Role::Service | Role::Admin
}

/// Who reports work.
fn reporters() -> Roles {
    Role::Worker | Role::Service
}

/// What the log is to remember of a command under a key. The route names the thing, so that a key is one thing's only.
fn keyed(
    caller: &Caller,
    method: &str,
    path: &str,
    key: Option<IdempotencyKey>,
    body: &impl ToJSON,
) -> Option<Idempotency> {
    key.map(|key| idempotency(caller, &format!("{method} {path}"), &key, body))
}
