//! An analysis as it is answered.

use domain::job::analysis::{AnalysisView, StageView};
use domain::job::pipeline;
use event_schemas::ids::{JobId, VideoId};
use poem_openapi::Object;
use poem_openapi::types::Any;
use serde_json::{Map, Value};
use web::value::{At, Text, Uid};
use web::vocabulary::{JobKind, Phase, RetryState};

use crate::routes::job::{Attempt, ErrorObject, Retry, Status};
use crate::routes::matching::Eta;

/// A stage of an analysis, in the present attempt.
#[derive(Clone, Debug, Object)]
#[oai(rename = "AnalysisStage")]
pub struct Stage {
    pub phase: Phase,
    /// As people read it.
    pub name: String,
    /// The percentages of the whole between which the job is while it is in it.
    pub from: f64,
    pub to: f64,
    /// From 0 to 1: 0 of a stage that has not come, 1 of one that is left behind.
    pub fraction: f64,
    pub items_done: Option<u64>,
    pub items_total: Option<u64>,
    /// Null for a stage that has not come, or was skipped.
    pub started_at: Option<At>,
    pub ended_at: Option<At>,
}

/// An analysis of a video.
#[derive(Clone, Debug, Object)]
pub struct Analysis {
    pub id: Uid<JobId>,
    pub job_id: Uid<JobId>,
    pub kind: JobKind,
    pub video_id: Option<Text<VideoId>>,
    pub url: Option<String>,
    pub options: Any<Map<String, Value>>,
    pub status: Status,
    pub phase: Phase,
    /// The phase as people read it: `Transcribing`.
    pub current_stage: String,
    /// From 0 to 100; never going down within an attempt.
    pub progress_percentage: f64,
    /// Null before anything is known, after the end, and while the job is stalled.
    pub estimated_completion_seconds: Option<u64>,
    pub eta: Option<Eta>,
    /// From 1; a retry raises it.
    pub attempt: u32,
    pub created_at: At,
    /// When work on the first attempt began.
    pub started_at: Option<At>,
    /// When it completed, failed for good or was cancelled.
    pub ended_at: Option<At>,
    /// The greatest instant that any of its events gives.
    pub last_event_at: At,
    /// How long its attempts have waited for somebody to begin.
    pub queue_seconds: f64,
    /// How long its attempts have been worked on.
    pub run_seconds: f64,
    pub stages: Vec<Stage>,
    pub attempts: Vec<Attempt>,
    /// The failure that the job stands in or, while it waits to be tried again, the one before.
    pub error: Option<ErrorObject>,
    /// Why it is, or is not, tried again by itself; null if it never failed, or was taken up by hand since.
    pub retry_state: Option<RetryState>,
    /// The retry that is waited for.
    pub retry: Option<Retry>,
    pub result: Option<Any<Value>>,
}

/// How far an analysis is.
#[derive(Clone, Debug, Object)]
pub struct AnalysisStatus {
    pub id: Uid<JobId>,
    pub job_id: Uid<JobId>,
    pub video_id: Option<Text<VideoId>>,
    pub status: Status,
    pub phase: Phase,
    /// The phase as people read it: `Transcribing`.
    pub current_stage: String,
    /// From 0 to 100; never going down within an attempt.
    pub progress_percentage: f64,
    /// Null before anything is known, after the end, and while the job is stalled.
    pub estimated_completion_seconds: Option<u64>,
    pub eta: Option<Eta>,
    pub attempt: u32,
    pub last_event_at: At,
    pub error: Option<ErrorObject>,
    pub retry_state: Option<RetryState>,
    pub retry: Option<Retry>,
}

impl From<StageView> for Stage {
    fn from(stage: StageView) -> Self {
        Self {
            phase: stage.phase.into(),
            name: pipeline::display_name(stage.phase).to_owned(),
            from: stage.from,
            to: stage.to,
            fraction: stage.fraction,
            items_done: stage.items_done,
            items_total: stage.items_total,
            started_at: stage.started_at.map(At),
            ended_at: stage.ended_at.map(At),
        }
    }
}

impl From<AnalysisView> for Analysis {
    fn from(view: AnalysisView) -> Self {
        Self {
            id: Uid(view.job_id),
            job_id: Uid(view.job_id),
            kind: JobKind::VideoAnalysis,
            video_id: view.video_id.map(Text),
            url: view.url,
            options: Any(view.options),
            status: view.status.into(),
            phase: view.phase.into(),
            current_stage: pipeline::display_name(view.phase).to_owned(),
            progress_percentage: view.progress_percentage,
            estimated_completion_seconds: view.eta.map(|eta| eta.seconds),
            eta: view.eta.map(Into::into),
            attempt: view.attempt,
            created_at: At(view.created_at),
            started_at: view.started_at.map(At),
            ended_at: view.ended_at.map(At),
            last_event_at: At(view.last_event_at),
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
            id: Uid(view.job_id),
            job_id: Uid(view.job_id),
            video_id: view.video_id.map(Text),
            status: view.status.into(),
            phase: view.phase.into(),
            current_stage: pipeline::display_name(view.phase).to_owned(),
            progress_percentage: view.progress_percentage,
            estimated_completion_seconds: view.eta.map(|eta| eta.seconds),
            eta: view.eta.map(Into::into),
            attempt: view.attempt,
            last_event_at: At(view.last_event_at),
            error: view.error.map(Into::into),
            retry_state: view.retry_state.map(Into::into),
            retry: view.retry.map(Into::into),
        }
    }
}
