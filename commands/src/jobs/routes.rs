//! The write routes of jobs. Each reads the caller and the body, executes one command, and returns the resource, or
//! counts, with its position.

mod analysis;
mod extraction;
mod image_matches;
mod job;
mod matching;
mod work;
mod worker;

use std::sync::Arc;

use web::routes::RouteLimits;

use super::Jobs;
use crate::trained_models::TrainedModels;

pub use analysis::AnalysisCommands;
pub use extraction::ExtractionCommands;
pub use image_matches::MatchesCommands;
pub use job::{ChangedPhase, CreatedJob, JobCommands};
pub use matching::MatchingCommands;
pub use work::WorkCommands;
pub use worker::WorkerCommands;

/// All write routes of jobs.
pub type Routes = (
    JobCommands,
    AnalysisCommands,
    ExtractionCommands,
    MatchingCommands,
    MatchesCommands,
    WorkCommands,
    WorkerCommands,
);

/// The paths with limits of their own, because they accept batches or wait.
pub(crate) const LIMITS: [(&str, RouteLimits); 6] = [
    ("/jobs/{job_id}/products", RouteLimits::Bulk),
    ("/jobs/{job_id}/videos", RouteLimits::Bulk),
    ("/jobs/{job_id}/match-requests", RouteLimits::Bulk),
    ("/jobs/{job_id}/match-progress", RouteLimits::Bulk),
    ("/jobs/{job_id}/matches", RouteLimits::Bulk),
    ("/internal/work/claim", RouteLimits::LongPoll),
];

pub(crate) fn routes(jobs: &Arc<Jobs>, trained: &TrainedModels) -> Routes {
    (
        JobCommands(jobs.clone()),
        AnalysisCommands(jobs.clone()),
        ExtractionCommands(jobs.clone()),
        MatchingCommands(jobs.clone()),
        MatchesCommands(jobs.clone()),
        WorkCommands(jobs.clone(), trained.clone()),
        WorkerCommands(jobs.clone()),
    )
}
