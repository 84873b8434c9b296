//! The response objects of the projections. The command line parses the same types.

use projections::status::{LagState, Progress, ProjectionStatus, ReportedState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server::LagLimits;

/// All projections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProjectionList {
    pub items: Vec<ProjectionStatus>,
}

/// The acceptance of a command to a projection.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProjectionCommandAccepted {
    pub name: String,
    /// A sentence that describes what happens next.
    pub detail: String,
}

/// The acceptance of a rebuild.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RebuildAccepted {
    pub name: String,
    /// The number of the new generation. The rebuild is done when it is the live one.
    pub generation: u64,
    /// A sentence that describes what happens next.
    pub detail: String,
}

/// Judges the lag by the settings. A read model that is behind has a progress towards the head.
pub(crate) fn judge(mut status: ProjectionStatus, limits: LagLimits) -> ProjectionStatus {
    status.lag_state = match status.lag_events {
        lag if lag > limits.max => LagState::TooFarBehind,
        lag if lag > limits.warn => LagState::Behind,
        _ => LagState::Ok,
    };
    if status.lag_state != LagState::Ok && status.progress.is_none() {
        status.progress = Some(progress_to_head(&status));
    }
    status
}

/// The progress of a projection that follows the log, at its recent speed.
fn progress_to_head(status: &ProjectionStatus) -> Progress {
    let moves = status.state == ReportedState::Live && status.events_per_second > 0.0;
    Progress {
        at: status.position,
        target: status.head,
        fraction: status.position.0 as f64 / status.head.0.max(1) as f64,
        eta_seconds: moves.then(|| status.lag_events as f64 / status.events_per_second),
    }
}
