//! The short form of an analysis.

use domain::image_matching::eta::Eta;
use domain::job::analysis::AnalysisView;
use domain::job::history::Status;
use domain::job::view::{ErrorView, RetryView};
use event_schemas::ids::{JobId, VideoId};
use event_schemas::job::{Phase, RetryState};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

/// The status of an analysis.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AnalysisStatus {
    pub id: JobId,
    pub job_id: JobId,
    pub video_id: Option<VideoId>,
    pub status: Status,
    pub phase: Phase,
    /// The display name of the phase, such as `Transcribing`.
    pub current_stage: String,
    /// From 0 to 100; never decreases within an attempt.
    pub progress_percentage: f64,
    /// Null before an estimate is possible, after the end, and while the job is stalled.
    pub estimated_completion_seconds: Option<u64>,
    pub eta: Option<Eta>,
    pub attempt: u32,
    pub last_event_at: Timestamp,
    pub error: Option<ErrorView>,
    pub retry_state: Option<RetryState>,
    pub retry: Option<RetryView>,
}

impl From<AnalysisView> for AnalysisStatus {
    fn from(view: AnalysisView) -> Self {
        Self {
            id: view.id,
            job_id: view.job_id,
            video_id: view.video_id,
            status: view.status,
            phase: view.phase,
            current_stage: view.current_stage,
            progress_percentage: view.progress_percentage,
            estimated_completion_seconds: view.estimated_completion_seconds,
            eta: view.eta,
            attempt: view.attempt,
            last_event_at: view.last_event_at,
            error: view.error,
            retry_state: view.retry_state,
            retry: view.retry,
        }
    }
}
