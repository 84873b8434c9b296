//! The response objects of analyses.

use domain::job::analysis::{AnalysisView, StageView};
use domain::job::pipeline;
use event_schemas::ids::{JobId, VideoId};
use poem_openapi::Object;
use poem_openapi::types::Any;
use serde_json::{Map, Value};
use web::enums::{JobKind, Phase, RetryState};
use web::value::{ApiTimestamp, TextId, UuidParam};

use crate::routes::job::{Attempt, ClassifiedErrorDto, Retry, Status};
use crate::routes::matching::Eta;

/// A stage of the current attempt of an analysis.
#[derive(Clone, Debug, Object)]
#[oai(rename = "AnalysisStage")]
pub struct AnalysisStage {
    pub phase: Phase,
    /// The display name.
    pub name: String,
    /// The range of the overall percentage that the stage covers.
    pub from: f64,
    pub to: f64,
    /// From 0 to 1: 0 for a stage that has not started, 1 for one that is done or skipped.
    pub fraction: f64,
    pub items_done: Option<u64>,
    pub items_total: Option<u64>,
    /// Null for a stage that has not started or was skipped.
    pub started_at: Option<ApiTimestamp>,
    pub ended_at: Option<ApiTimestamp>,
}

/// An analysis of a video.
#[derive(Clone, Debug, Object)]
pub struct Analysis {
    pub id: UuidParam<JobId>,
    pub job_id: UuidParam<JobId>,
    pub kind: JobKind,
    pub video_id: Option<TextId<VideoId>>,
    pub url: Option<String>,
    pub options: Any<Map<String, Value>>,
    pub status: Status,
    pub phase: Phase,
    /// The display name of the phase, such as `Transcribing`.
    pub current_stage: String,
    /// From 0 to 100; never decreases within an attempt.
    pub progress_percentage: f64,
    /// Null before an estimate is possible, after the end, and while the job is stalled.
    pub estimated_completion_seconds: Option<u64>,
    pub eta: Option<Eta>,
    /// From 1; incremented by each retry.
    pub attempt: u32,
    pub created_at: ApiTimestamp,
    /// When work on the first attempt started.
    pub started_at: Option<ApiTimestamp>,
    /// When it completed, failed permanently or was cancelled.
    pub ended_at: Option<ApiTimestamp>,
    /// The latest instant of any of its events.
    pub last_event_at: ApiTimestamp,
    /// The time that its attempts have waited for a worker.
    pub queue_seconds: f64,
    /// The time that workers have spent on its attempts.
    pub run_seconds: f64,
    pub stages: Vec<AnalysisStage>,
    pub attempts: Vec<Attempt>,
    /// The latest error, while the job is failed or waits for a retry.
    pub error: Option<ClassifiedErrorDto>,
    /// Why it is or is not retried automatically; null if it never failed, or was resumed manually since.
    pub retry_state: Option<RetryState>,
    /// The scheduled retry.
    pub retry: Option<Retry>,
    pub result: Option<Any<Value>>,
}

/// The status of an analysis.
#[derive(Clone, Debug, Object)]
pub struct AnalysisStatus {
    pub id: UuidParam<JobId>,
    pub job_id: UuidParam<JobId>,
    pub video_id: Option<TextId<VideoId>>,
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
    pub last_event_at: ApiTimestamp,
    pub error: Option<ClassifiedErrorDto>,
    pub retry_state: Option<RetryState>,
    pub retry: Option<Retry>,
}

impl From<StageView> for AnalysisStage {
    fn from(stage: StageView) -> Self {
        Self {
            phase: stage.phase.into(),
            name: pipeline::display_name(stage.phase).to_owned(),
            from: stage.from,
            to: stage.to,
            fraction: stage.fraction,
            items_done: stage.items_done,
            items_total: stage.items_total,
            started_at: stage.started_at.map(ApiTimestamp),
            ended_at: stage.ended_at.map(ApiTimestamp),
        }
    }
}

impl From<AnalysisView> for Analysis {
    fn from(view: AnalysisView) -> Self {
        Self {
            id: UuidParam(view.job_id),
            job_id: UuidParam(view.job_id),
            kind: JobKind::VideoAnalysis,
            video_id: view.video_id.map(TextId),
            url: view.url,
            options: Any(view.options),
            status: view.status.into(),
            phase: view.phase.into(),
            current_stage: pipeline::display_name(view.phase).to_owned(),
            progress_percentage: view.progress_percentage,
            estimated_completion_seconds: view.eta.map(|eta| eta.seconds),
            eta: view.eta.map(Into::into),
            attempt: view.attempt,
            created_at: ApiTimestamp(view.created_at),
            started_at: view.started_at.map(ApiTimestamp),
            ended_at: view.ended_at.map(ApiTimestamp),
            last_event_at: ApiTimestamp(view.last_event_at),
            queue_seconds: view.queue_seconds,
            run_seconds: view.run_seconds,
            stages: view.stages.into_iter().map(Into::into).collect(),
            attempts: view.attempts.into_iter().map(Into::into).collect(),
            error: view.error.map(Into::into),
            retry_state: view.retry_state.map(Into::into),
            retry: view.retry.map(Into::into),
            result: view.result.map(Any),
        }
    }
}

impl From<AnalysisView> for AnalysisStatus {
    fn from(view: AnalysisView) -> Self {
        Self {
            id: UuidParam(view.job_id),
            job_id: UuidParam(view.job_id),
            video_id: view.video_id.map(TextId),
            status: view.status.into(),
            phase: view.phase.into(),
            current_stage: pipeline::display_name(view.phase).to_owned(),
            progress_percentage: view.progress_percentage,
            estimated_completion_seconds: view.eta.map(|eta| eta.seconds),
            eta: view.eta.map(Into::into),
            attempt: view.attempt,
            last_event_at: ApiTimestamp(view.last_event_at),
            error: view.error.map(Into::into),
            retry_state: view.retry_state.map(Into::into),
            retry: view.retry.map(Into::into),
        }
    }
}
