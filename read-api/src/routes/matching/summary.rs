//! The summary as it is answered.

use domain::matching::blockers::{Blocker as DomainBlocker, BlockerCode};
use domain::matching::eta::{Basis as DomainBasis, Eta as DomainEta};
use domain::matching::summary::Summary as Summarised;
use event_schemas::ids::{JobId, Position, WorkerId};
use event_schemas::time::Timestamp;
use poem_openapi::{Enum, Object};
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::Phase;

use crate::routes::job::Status;

/// What an estimate rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "EtaBasis", rename_all = "snake_case", remote = "DomainBasis")]
pub enum Basis {
    /// How fast this stage has gone so far.
    Rate,
    /// What stages cost in earlier jobs, and how this job compares with them.
    StageHistory,
}

/// How long it will still take.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct Eta {
    /// The most likely time.
    pub seconds: u64,
    /// In eight of ten cases it takes at least this long, …
    pub low: u64,
    /// … and at most this long.
    pub high: u64,
    pub basis: Basis,
    /// How many reports, or earlier jobs, it rests on.
    pub samples: u32,
}

/// Kinds of blockers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "BlockerCode", rename_all = "snake_case", remote = "BlockerCode")]
pub enum BlockerWord {
    Failed,
    Stalled,
    NoConsumers,
    WorkerOom,
    WorkerCrashed,
    WorkerLost,
    QueueLag,
}

/// Something that keeps a job from going on.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct Blocker {
    pub code: BlockerWord,
    /// A sentence for whoever waits for the job.
    pub message: String,
    pub since: At,
    #[oai(skip_serializing_if_is_none)]
    pub worker_id: Option<Text<WorkerId>>,
}

/// The statistics and the health of a matching job.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "MatchingSummary")]
pub struct Summary {
    pub job_id: Uid<JobId>,
    pub phase: Phase,
    /// From 1; a retry raises it.
    pub attempt: u32,
    pub status: Status,
    pub created_at: At,
    /// When matching last began; null before.
    pub started_at: Option<At>,
    /// When matching ended; null before, and after a failure.
    pub completed_at: Option<At>,
    /// The greatest instant that an event of the job says it happened at.
    pub last_event_at: At,
    /// Product images × video frames registered for the job.
    pub candidates_total: u64,
    /// Those that workers reported as processed.
    pub candidates_processed: u64,
    pub candidates_unprocessed: u64,
    /// The sum of the match requests' candidates.
    pub vector_pass_total: u64,
    pub vector_pass_done: u64,
    /// Candidates that a worker has verified by geometry.
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
    /// The log position that the answer reflects.
    pub position: Pos,
    /// The instant asked for, if one was.
    pub as_of: Option<At>,
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
            since: At(blocker.since),
            worker_id: blocker.worker_id.map(Text),
        }
    }
}

impl Summary {
    pub(crate) fn new(summary: Summarised, position: Position, as_of: Option<Timestamp>) -> Self {
        Self {
            job_id: Uid(summary.job_id),
            phase: summary.phase.into(),
            attempt: summary.attempt,
            status: summary.status.into(),
            created_at: At(summary.created_at),
            started_at: summary.started_at.map(At),
            completed_at: summary.completed_at.map(At),
            last_event_at: At(summary.last_event_at),
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
            position: Pos(position),
            as_of: as_of.map(At),
        }
    }
}
