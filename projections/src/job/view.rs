//! A job as lists and its own page show it: a fold of its events that takes the same time for each, however large the
//! job is.

use event_schemas::envelope::Envelope;
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, Position, RequestId, Tenant, VideoId, WorkerId};
use event_schemas::job::{JobEvent, JobKind, JobSource, Phase, QuarantineReason};
use event_schemas::matching::{Frames, MatchingEvent, Totals};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a job stands, in the words that all kinds share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl JobStatus {
    pub fn of(kind: JobKind, phase: Phase) -> Self {
        match (phase, kind) {
            (Phase::Completed | Phase::Evidence, _) => Self::Completed,
            (Phase::Failed, _) => Self::Failed,
            (Phase::Cancelled, _) => Self::Cancelled,
            (Phase::Queued, _) => Self::Pending,
            // What comes before matching only prepares it.
            (Phase::Collecting | Phase::Extracting, JobKind::ProductVideoMatching) => Self::Pending,
            _ => Self::Running,
        }
    }
}

/// What has been counted of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounters {
    pub product_images: u64,
    pub video_frames: u64,
    pub match_requests: u64,
    pub match_requests_completed: u64,
    /// Pairs of image and frame that workers reported as processed.
    pub candidates_processed: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
}

impl JobCounters {
    /// Pairs of image and frame that there are.
    pub fn candidates_total(&self) -> u64 {
        self.product_images.saturating_mul(self.video_frames)
    }
}

/// How far the phase is that the job is in, as its worker said last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageProgress {
    pub stage: Phase,
    /// From 0 to 1; it never goes down within an attempt.
    pub fraction: f64,
    pub items_done: Option<u64>,
    pub items_total: Option<u64>,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    pub attempt: u32,
    pub at: Timestamp,
    pub error: ClassifiedError,
}

/// How many of a job's errors are shown: the last ones.
const ERRORS_MAX: usize = 20;

/// A job as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub job_id: JobId,
    pub tenant: Tenant,
    pub kind: JobKind,
    pub name: Option<String>,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub source: Option<JobSource>,
    pub phase: Phase,
    pub status: JobStatus,
    /// From 1.
    pub attempt: u32,
    pub created_at: Timestamp,
    /// When the work itself last began: matching, or the first stage of another kind.
    pub started_at: Option<Timestamp>,
    /// When it completed, failed or was cancelled.
    pub ended_at: Option<Timestamp>,
    /// The greatest instant that any of its events gives.
    pub last_event_at: Timestamp,
    /// The next attempt does not start before.
    pub retry_due_at: Option<Timestamp>,
    pub quarantined: Option<QuarantineReason>,
    /// Who has the job as a whole.
    pub worker_id: Option<WorkerId>,
    pub progress: Option<StageProgress>,
    pub result: Option<serde_json::Value>,
    /// The latest failures, oldest first.
    pub errors: Vec<JobError>,
    pub counters: JobCounters,
    /// Of the latest event.
    pub position: Position,
}

/// What is said of one part of a job, so that the sum grows only by what is new.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Part {
    /// Frames of a video.
    Frames(VideoId),
    /// Processed candidates of a match request.
    Processed(RequestId),
}

impl Part {
    /// The name it is stored under.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Frames(video) => format!("frames:{video}"),
            Self::Processed(request) => format!("processed:{request}"),
        }
    }

    /// The part whose amount so far must be known to fold the event.
    pub(super) fn of(event: &MatchingEvent) -> Option<Self> {
        match event {
            MatchingEvent::VideoFramesRegistered(registered) => match registered.frames {
                Frames::Counted(_) => Some(Self::Frames(registered.video_id.clone())),
                Frames::Listed(_) => None,
            },
            MatchingEvent::MatchProgressReported(reported) => {
                Some(Self::Processed(reported.request_id.clone()))
            }
            MatchingEvent::MatchRequestCompleted(completed) => {
                Some(Self::Processed(completed.request_id.clone()))
            }
            _ => None,
        }
    }
}

impl JobView {
    /// The job that the event creates; none if it is another event.
    pub(super) fn create(envelope: &Envelope, event: &JobEvent) -> Option<Self> {
        let JobEvent::JobCreated(created) = event else { return None };
        let at = envelope.metadata.occurred_at;
        Some(Self {
            job_id: created.job_id,
            tenant: envelope.metadata.tenant.clone(),
            kind: created.kind,
            name: created.name.clone(),
            metadata: created.metadata.clone(),
            source: created.source.clone(),
            phase: Phase::Queued,
            status: JobStatus::of(created.kind, Phase::Queued),
            attempt: 1,
            created_at: at,
            started_at: None,
            ended_at: None,
            last_event_at: at,
            retry_due_at: None,
            quarantined: None,
            worker_id: None,
            progress: None,
            result: None,
            errors: Vec::new(),
            counters: JobCounters::default(),
            position: envelope.position,
        })
    }

    /// What every event of the job says.
    pub(super) fn seen(&mut self, envelope: &Envelope) {
        self.last_event_at = self.last_event_at.max(envelope.metadata.occurred_at);
        self.position = envelope.position;
    }

    pub(super) fn evolve(&mut self, event: &JobEvent, at: Timestamp) {
        match event {
            JobEvent::JobCreated(_) => {}
            JobEvent::JobPhaseChanged(changed) => {
                if changed.from == Phase::Failed {
                    self.start_attempt(self.attempt + 1, None);
                }
                self.enter(changed.to, at);
            }
            JobEvent::JobRetryScheduled(retry) => {
                self.start_attempt(retry.attempt, Some(retry.due_at));
                self.enter(Phase::Queued, at);
            }
            JobEvent::JobProgressReported(report) => {
                let known = self.progress.filter(|known| known.stage == report.stage);
                self.progress = Some(StageProgress {
                    stage: report.stage,
                    fraction: known.map_or(0.0, |known| known.fraction).max(report.fraction),
                    items_done: known.and_then(|known| known.items_done).max(report.items_done),
                    items_total: known.and_then(|known| known.items_total).max(report.items_total),
                });
            }
            JobEvent::JobClaimed(claimed) => {
                self.worker_id = Some(claimed.worker_id.clone());
                self.retry_due_at = None;
            }
            JobEvent::JobLeaseExpired(_) => self.worker_id = None,
            JobEvent::JobFailed(failed) => {
                if self.errors.len() == ERRORS_MAX {
                    self.errors.remove(0);
                }
                self.errors.push(JobError { attempt: failed.attempt, at, error: failed.error.clone() });
                self.enter(Phase::Failed, at);
            }
            JobEvent::JobQuarantined(quarantined) => self.quarantined = Some(quarantined.reason),
            JobEvent::JobCompleted(completed) => {
                self.result.clone_from(&completed.result);
                self.enter(Phase::Completed, at);
            }
            JobEvent::JobCancelled(_) => self.enter(Phase::Cancelled, at),
            JobEvent::JobResultExpired(_) => self.result = None,
        }
    }

    fn enter(&mut self, phase: Phase, at: Timestamp) {
        let status = JobStatus::of(self.kind, phase);
        if status == JobStatus::Running && self.status != JobStatus::Running {
            self.started_at = Some(at);
        }
        self.ended_at = domain::job::pipeline::is_end(phase).then_some(at);
        if self.ended_at.is_some() {
            self.worker_id = None;
        }
        self.phase = phase;
        self.status = status;
    }

    fn start_attempt(&mut self, attempt: u32, due_at: Option<Timestamp>) {
        self.attempt = attempt;
        self.retry_due_at = due_at;
        self.quarantined = None;
        self.worker_id = None;
        self.progress = None;
    }

    /// `amount` is what has been known so far of the event's [`Part`], if it has one.
    pub(super) fn evolve_matching(&mut self, event: &MatchingEvent, amount: &mut u64) {
        let counters = &mut self.counters;
        match event {
            MatchingEvent::ProductImagesRegistered(registered) => {
                counters.product_images += registered.images.len() as u64;
            }
            MatchingEvent::VideoFramesRegistered(registered) => match &registered.frames {
                Frames::Listed(frames) => counters.video_frames += frames.len() as u64,
                Frames::Counted(count) => raise(amount, *count, &mut counters.video_frames),
            },
            MatchingEvent::MatchRequested(_) => counters.match_requests += 1,
            MatchingEvent::MatchProgressReported(reported) => {
                processed(&reported.totals, amount, counters);
            }
            MatchingEvent::MatchRequestCompleted(completed) => {
                processed(&completed.totals, amount, counters);
                counters.match_requests_completed += 1;
            }
            MatchingEvent::MatchFound(found) => {
                counters.matches_found += 1;
                counters.matches_with_evidence += u64::from(found.evidence_path.is_some());
            }
            MatchingEvent::MatchEvidenceAttached(attached) => {
                counters.matches_with_evidence += u64::from(!attached.replaces);
            }
            MatchingEvent::MatchRequestClaimed(_)
            | MatchingEvent::MatchRequestLeaseExpired(_)
            | MatchingEvent::MatchRequestFailed(_)
            | MatchingEvent::MatchRequestRetried(_)
            | MatchingEvent::JobWorkerLost(_) => {}
        }
    }
}

fn processed(totals: &Totals, amount: &mut u64, counters: &mut JobCounters) {
    raise(amount, totals.candidates_processed, &mut counters.candidates_processed);
}

/// Totals only grow: a late report of less says nothing.
fn raise(known: &mut u64, reported: u64, sum: &mut u64) {
    *sum += reported.saturating_sub(*known);
    *known = reported.max(*known);
}
