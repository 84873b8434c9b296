//! The response objects of the matching summary.

use domain::image_matching::blockers::{Blocker as DomainBlocker, BlockerCode};
use domain::image_matching::eta::{Basis as DomainBasis, Eta as DomainEta};
use domain::image_matching::summary::Summary as DomainSummary;
use event_schemas::ids::{JobId, Position, WorkerId};
use event_schemas::time::Timestamp;
use poem_openapi::{Enum, Object};
use web::enums::Phase;
use web::value::{ApiPosition, ApiTimestamp, TextId, UuidParam};

use crate::routes::job::Status;

/// The basis of an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "EtaBasis", rename_all = "snake_case", remote = "DomainBasis")]
pub enum Basis {
    /// The rate of the current stage so far.
    Rate,
    /// The duration of stages in earlier jobs, scaled to this job.
    StageHistory,
}

/// The estimated remaining time.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct Eta {
    /// The most likely time.
    pub seconds: u64,
    /// The lower bound of the 80 % interval.
    pub low: u64,
    /// The upper bound of the 80 % interval.
    pub high: u64,
    pub basis: Basis,
    /// The number of reports, or earlier jobs, that it is based on.
    pub samples: u32,
}

/// The kind of a blocker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "BlockerCode", rename_all = "snake_case", remote = "BlockerCode")]
pub enum BlockerCodeDto {
    Failed,
    Stalled,
    NoConsumers,
    WorkerOom,
    WorkerCrashed,
    WorkerLost,
    QueueLag,
}

/// A condition that prevents a job from continuing.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct Blocker {
    pub code: BlockerCodeDto,
    /// A sentence for the user who waits for the job.
    pub message: String,
    pub since: ApiTimestamp,
    #[oai(skip_serializing_if_is_none)]
    pub worker_id: Option<TextId<WorkerId>>,
}

/// The statistics and blockers of a matching job.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "MatchingSummary")]
pub struct Summary {
    pub job_id: UuidParam<JobId>,
    pub phase: Phase,
    /// From 1; incremented by each retry.
    pub attempt: u32,
    pub status: Status,
    pub created_at: ApiTimestamp,
    /// When matching started most recently; null before.
    pub started_at: Option<ApiTimestamp>,
    /// When matching ended; null before, and after a failure.
    pub completed_at: Option<ApiTimestamp>,
    /// The latest instant of any event of the job.
    pub last_event_at: ApiTimestamp,
    /// Product images × video frames registered for the job.
    pub candidates_total: u64,
    /// The candidates that workers reported as processed.
    pub candidates_processed: u64,
    pub candidates_unprocessed: u64,
    /// The sum of the match requests' candidates.
    pub vector_pass_total: u64,
    pub vector_pass_done: u64,
    /// The candidates that workers have verified geometrically.
    pub ransac_checked: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
    /// Exact, rounded to two decimals; null without matches.
    pub avg_score: Option<f64>,
    /// Exact, by linear interpolation, rounded to two decimals; null without matches.
    pub p90_score: Option<f64>,
    /// Match requests issued and not yet completed.
    pub queue_depth: u64,
    /// Null unless running with progress, and while stalled.
    pub eta_seconds: Option<u64>,
    pub eta: Option<Eta>,
    /// Each as `code: sentence`.
    pub blockers: Vec<String>,
    pub blocker_details: Vec<Blocker>,
    /// The log position that the response reflects.
    pub position: ApiPosition,
    /// The requested instant, if there was one.
    pub as_of: Option<ApiTimestamp>,
}

impl From<DomainEta> for Eta {
    fn from(eta: DomainEta) -> Self {
        Self {
            seconds: eta.seconds,
            low: eta.low,
            high: eta.high,
            basis: eta.basis.into(),
            samples: eta.samples,
        }
    }
}

impl From<DomainBlocker> for Blocker {
    fn from(blocker: DomainBlocker) -> Self {
        Self {
            code: blocker.code.into(),
            message: blocker.message,
            since: ApiTimestamp(blocker.since),
            worker_id: blocker.worker_id.map(TextId),
        }
    }
}

impl Summary {
    pub(crate) fn new(summary: DomainSummary, position: Position, as_of: Option<Timestamp>) -> Self {
        Self {
            job_id: UuidParam(summary.job_id),
            phase: summary.phase.into(),
            attempt: summary.attempt,
            status: summary.status.into(),
            created_at: ApiTimestamp(summary.created_at),
            started_at: summary.started_at.map(ApiTimestamp),
            completed_at: summary.completed_at.map(ApiTimestamp),
            last_event_at: ApiTimestamp(summary.last_event_at),
            candidates_total: summary.candidates_total,
            candidates_processed: summary.candidates_processed,
            candidates_unprocessed: summary.candidates_unprocessed,
            vector_pass_total: summary.vector_pass_total,
            vector_pass_done: summary.vector_pass_done,
            ransac_checked: summary.ransac_checked,
            matches_found: summary.matches_found,
            matches_with_evidence: summary.matches_with_evidence,
            avg_score: summary.avg_score,
            p90_score: summary.p90_score,
            queue_depth: summary.queue_depth,
            eta_seconds: summary.eta_seconds,
            eta: summary.eta.map(Into::into),
            blockers: summary.blockers,
            blocker_details: summary.blocker_details.into_iter().map(Into::into).collect(),
            position: ApiPosition(position),
            as_of: as_of.map(ApiTimestamp),
        }
    }
}
