//! The write routes of matchmaking. Each reads the caller and the body, executes one command, and returns the resource
//! with its position.

mod block;
mod challenge;
mod pool;
mod queue;
mod result;

use std::sync::Arc;

use web::routes::RouteLimits;

use super::Matchmaking;

pub use block::BlockCommands;
pub use challenge::ChallengeCommands;
pub use pool::PoolCommands;
pub use queue::QueueCommands;
pub use result::ResultCommands;

/// All write routes of matchmaking.
pub type Routes = (QueueCommands, BlockCommands, PoolCommands, ResultCommands, ChallengeCommands);

/// The paths with limits of their own.
pub(crate) const LIMITS: [(&str, RouteLimits); 1] = [
    // The game service may be slow.
    ("/v1/matchmaking/challenges/{challenge_id}/accept", RouteLimits::Bulk),
];

pub(crate) fn routes(matchmaking: &Arc<Matchmaking>) -> Routes {
    (
        QueueCommands(matchmaking.clone()),
        BlockCommands(matchmaking.clone()),
        PoolCommands(matchmaking.clone()),
        ResultCommands(matchmaking.clone()),
        ChallengeCommands(matchmaking.clone()),
    )
}
