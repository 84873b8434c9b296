//! Video analyses: the supported videos, the job of each analysis, and its public view.
//!
//! A video is analysed by one job at a time. Its first analysis has number 0, and another one can start when
//! the previous one has ended. The job's id is derived from tenant, video and number, so that concurrent
//! callers name the same job.

pub mod url;

use std::time::Duration;

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, Tenant, VideoId};
use event_schemas::job::{JobKind, JobSource, Phase, RetryState};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::history::{History, LastActivity, Progress, Status};
use super::view::{AttemptView, ErrorView, Parked, RetryView, attempt_view};
use super::{pipeline, view};
use crate::image_matching::counters::Counters;
use crate::image_matching::eta::Eta;
use crate::image_matching::eta::stages::{self, StageProgress};

/// The namespace of the ids of all analyses.
const ANALYSES: Uuid = Uuid::from_u128(0x5f0c_8d6e_94b1_4c53_9a3e_7b21_60d4_e8f7);

/// The job that is the tenant's `number`th analysis of the video, from 0.
pub fn job_id(tenant: &Tenant, video: &VideoId, number: u64) -> JobId {
    let of_tenant = Uuid::new_v5(&ANALYSES, tenant.as_str().as_bytes());
    let of_video = Uuid::new_v5(&of_tenant, video.as_str().as_bytes());
    JobId(Uuid::new_v5(&of_video, &number.to_be_bytes()))
}

/// The status of an analysis.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AnalysisStatus {
    pub id: JobId,
    pub job_id: JobId,
    /// Null if the job was created with this kind, but without a video.
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
    /// From 1; incremented by each retry.
    pub attempt: u32,
    /// The latest instant of any of its events.
    pub last_event_at: Timestamp,
    /// The latest error, while the job is failed or waits for a retry.
    pub error: Option<ErrorView>,
    /// Why it is or is not retried automatically; null if it never failed, was resumed manually since, or has completed or
    /// been cancelled.
    pub retry_state: Option<RetryState>,
    /// The scheduled retry.
    pub retry: Option<RetryView>,
    /// Why it does not start although it is due; null if only a worker is missing.
    pub parked: Option<Parked>,
}

/// An analysis of a video.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Analysis")]
pub struct AnalysisView {
    #[serde(flatten)]
    pub current: AnalysisStatus,
    pub kind: JobKind,
    pub url: Option<String>,
    /// The options that the caller passed; missing in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub options: Option<JsonText>,
    pub created_at: Timestamp,
    /// When work on the first attempt started.
    pub started_at: Option<Timestamp>,
    /// When it completed, failed permanently or was cancelled.
    pub ended_at: Option<Timestamp>,
    /// The time that its attempts have waited for a worker.
    pub queue_seconds: f64,
    /// The time that workers have spent on its attempts.
    pub run_seconds: f64,
    /// The stages of the current attempt, in order, without `queued` and the end.
    pub stages: Vec<StageView>,
    pub attempts: Vec<AttemptView>,
    /// The result of the work, or null; missing in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub result: Option<Option<JsonText>>,
}

impl AnalysisView {
    /// All errors that it contains.
    pub fn errors_mut(&mut self) -> impl Iterator<Item = &mut ErrorView> {
        self.current.error.iter_mut().chain(view::errors_of(&mut self.attempts))
    }
}

/// A stage of the current attempt of an analysis.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "AnalysisStage")]
pub struct StageView {
    pub phase: Phase,
    /// The display name.
    pub name: &'static str,
    /// The range of the overall percentage that the stage covers.
    pub from: f64,
    pub to: f64,
    /// From 0 to 1: 0 for a stage that has not started, 1 for one that is done or skipped.
    pub fraction: f64,
    pub items_done: Option<u64>,
    pub items_total: Option<u64>,
    /// Null for a stage that has not started or was skipped.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

/// The view of the analysis at `now`, with open durations up to then. Without an event for `stalled_after` it
/// counts as stalled, and has no ETA.
pub fn view(
    history: &History,
    latest: &LastActivity,
    now: Timestamp,
    stalled_after: Duration,
) -> AnalysisView {
    let attempts: Vec<AttemptView> =
        history.attempts.iter().map(|attempt| attempt_view(attempt, now)).collect();
    let (video_id, url, options) = match &history.created.source {
        Some(JobSource::Video { video_id, url, options }) => {
            (Some(video_id.clone()), Some(url.clone()), options.clone())
        }
        Some(JobSource::ServerWork { .. } | JobSource::Extraction { .. }) | None => {
            (None, None, JsonText::default())
        }
    };
    let eta = eta(history, latest, now, stalled_after);
    let current = AnalysisStatus {
        id: history.job_id(),
        job_id: history.job_id(),
        video_id,
        status: history.status(),
        phase: history.phase,
        current_stage: pipeline::display_name(history.phase).to_owned(),
        progress_percentage: view::percentage(history, &Counters::default()),
        estimated_completion_seconds: eta.map(|eta| eta.seconds),
        eta,
        attempt: history.attempt,
        last_event_at: latest.occurred_at,
        error: error(history).map(Into::into),
        retry_state: view::retry_state(history),
        retry: view::retry(history),
        parked: view::parked(history),
    };
    AnalysisView {
        current,
        kind: history.kind(),
        url,
        options: Some(options),
        created_at: history.created_at,
        started_at: history.attempts.first().and_then(|attempt| attempt.started_at),
        ended_at: history.ended_at(),
        queue_seconds: attempts.iter().map(|attempt| attempt.queue_seconds).sum(),
        run_seconds: attempts.iter().map(|attempt| attempt.run_seconds).sum(),
        stages: stage_views(history),
        attempts,
        result: Some(history.result.clone()),
    }
}

fn error(history: &History) -> Option<ClassifiedError> {
    let of_last_attempt = || history.attempts.iter().rev().nth(1)?.error.clone();
    match &history.failure {
        Some(failure) => Some(failure.error.clone()),
        None => history.pending_retry().and_then(|_| of_last_attempt()),
    }
}

/// The stages of a job's kind that involve work.
fn working_stages(history: &History) -> impl Iterator<Item = &'static pipeline::Stage> {
    let stages = pipeline::stages(history.kind()).iter();
    stages.filter(|stage| stage.phase != Phase::Queued && !pipeline::is_end(stage.phase))
}

fn stage_views(history: &History) -> Vec<StageView> {
    let kind = history.kind();
    let reached = match history.phase {
        Phase::Completed => pipeline::rank(kind, Phase::Completed),
        _ => spans(history).filter_map(|(phase, ..)| pipeline::rank(kind, phase)).max(),
    };
    let of_stage = |stage: &pipeline::Stage| {
        let span = spans(history).find(|(phase, ..)| *phase == stage.phase);
        let progress = history.progress.filter(|progress| progress.stage == stage.phase);
        let is_behind = pipeline::rank(kind, stage.phase) < reached;
        StageView {
            phase: stage.phase,
            name: pipeline::display_name(stage.phase),
            from: stage.from,
            to: stage.to,
            fraction: if is_behind { 1.0 } else { progress.map_or(0.0, |progress| progress.fraction) },
            items_done: progress.and_then(|progress| progress.items_done),
            items_total: progress.and_then(|progress| progress.items_total),
            started_at: span.map(|(_, started_at, _)| started_at),
            ended_at: span.and_then(|(.., ended_at)| ended_at),
        }
    };
    working_stages(history).map(of_stage).collect()
}

/// The phases of the current attempt, with their starts and ends.
fn spans(history: &History) -> impl Iterator<Item = (Phase, Timestamp, Option<Timestamp>)> {
    let of_attempt = history.spans.iter().filter(|span| span.attempt == history.attempt);
    of_attempt.map(|span| (span.phase, span.started_at, span.ended_at))
}

/// The estimated time to completion; none while nothing is known, after the end, and while the job is
/// stalled. A pending retry starts when it is due.
pub fn eta(history: &History, latest: &LastActivity, now: Timestamp, stalled_after: Duration) -> Option<Eta> {
    if pipeline::is_end(history.phase) {
        return None;
    }
    let done: Vec<(Phase, f64)> = spans(history)
        .filter(|(phase, ..)| *phase != Phase::Queued)
        .filter_map(|(phase, started, ended)| Some((phase, ended?.seconds_since(started))))
        .collect();
    let stage_progress = |present, elapsed, fraction, reported_after| StageProgress {
        kind: history.kind(),
        // The length of a video is unknown before it is downloaded, so all videos count alike.
        size: 1.0,
        done: &done,
        present,
        elapsed,
        fraction,
        reported_after,
    };
    if history.phase == Phase::Queued {
        let first = working_stages(history).next()?.phase;
        let start = history.pending_retry().map_or(now, |retry| retry.due_at.max(now));
        let whole = stages::remaining(&history.eta_priors, &stage_progress(first, 0.0, 0.0, 0.0))?;
        return Some(whole.after(start.seconds_since(now)));
    }
    if latest.occurred_at.after(stalled_after) <= now {
        return None;
    }
    let (present, started, _) = spans(history).last()?;
    let progress = history.progress.filter(|progress| progress.stage == present);
    let fraction = progress.map_or(0.0, |progress| progress.fraction);
    let reported_after = progress.map_or(0.0, |Progress { at, .. }| at.seconds_since(started));
    let elapsed = now.seconds_since(started).max(0.0);
    stages::remaining(&history.eta_priors, &stage_progress(present, elapsed, fraction, reported_after))
}

#[cfg(test)]
mod tests;
