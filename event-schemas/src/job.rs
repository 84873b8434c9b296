//! `job-<uuid>`: the life of a job of any kind.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::ClassifiedError;
use crate::ids::{JobId, LeaseId, VideoId, WorkerId};
use crate::registry::events;
use crate::time::Timestamp;
use crate::worker::WorkerEnd;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    ProductVideoMatching,
    VideoAnalysis,
    ExtractCutouts,
    ExtractProducts,
    ExtractSingleProduct,
    ModelTraining,
}

/// Where a job stands. Which phases a job goes through, and in which order, depends on its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Queued,
    Collecting,
    Extracting,
    Matching,
    Evidence,
    Downloading,
    FetchingChat,
    Transcribing,
    Analyzing,
    FindingHighlights,
    /// The one stage of a job whose kind has no finer ones.
    Processing,
    Completed,
    Failed,
    Cancelled,
}

impl JobKind {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProductVideoMatching => "product_video_matching",
            Self::VideoAnalysis => "video_analysis",
            Self::ExtractCutouts => "extract_cutouts",
            Self::ExtractProducts => "extract_products",
            Self::ExtractSingleProduct => "extract_single_product",
            Self::ModelTraining => "model_training",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Phase {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Collecting => "collecting",
            Self::Extracting => "extracting",
            Self::Matching => "matching",
            Self::Evidence => "evidence",
            Self::Downloading => "downloading",
            Self::FetchingChat => "fetching_chat",
            Self::Transcribing => "transcribing",
            Self::Analyzing => "analyzing",
            Self::FindingHighlights => "finding_highlights",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a job is about, where that is not said by later events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobSource {
    Video {
        video_id: VideoId,
        url: String,
        /// The caller's wishes about the work, for its worker; Matchbook reads nothing in them.
        #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
        options: serde_json::Map<String, serde_json::Value>,
    },
}

/// What a phase cost in earlier jobs of the kind, in seconds for each unit of size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhasePrior {
    pub phase: Phase,
    /// Mean of the natural logarithm of seconds per unit.
    pub log_seconds_per_unit: f64,
    /// Variance of that logarithm.
    pub variance: f64,
    /// How many jobs it rests on.
    pub samples: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobCreated {
    pub job_id: JobId,
    pub kind: JobKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<JobSource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The caller's own notes on the job; Matchbook keeps them and reads nothing in them.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobPhaseChanged {
    pub from: Phase,
    pub to: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was known at this moment about how long phases take, so that a replay estimates as the server did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eta_priors: Vec<PhasePrior>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgressReported {
    pub lease_id: LeaseId,
    pub stage: Phase,
    /// How much of the stage is done, from 0 to 1.
    pub fraction: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_done: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_total: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobClaimed {
    pub lease_id: LeaseId,
    pub worker_id: WorkerId,
    pub attempt: u32,
    /// Until when the lease runs if no heartbeat extends it.
    pub lease_until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobLeaseExpired {
    pub lease_id: LeaseId,
    pub worker_id: WorkerId,
    /// What became of the worker; not there in what was recorded before it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<WorkerEnd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobFailed {
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    pub error: ClassifiedError,
    /// Whether the job is tried again by itself, and if not, why; not there in what was recorded before it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_state: Option<RetryState>,
}

/// Why a job that failed is, or is not, tried again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryState {
    /// It is; the retry is scheduled.
    InProgress,
    /// Trying again would not help.
    NonRetryable,
    /// As often as errors of this class are tried again, it was.
    MaximumAttempts,
    /// Two attempts in a row ended with a lost worker or out of memory.
    CrashLoop,
    /// Whoever leads the job said that it failed, and says whether it is tried again.
    NoPolicy,
}

/// What a scheduled retry waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryReason {
    /// The pause between tries. Of the reasons, this one alone uses up one of the tries.
    Backoff,
    /// A service said when to come back.
    RateLimited,
    /// A service that failed too often is left alone.
    Parked,
    /// The worker was stopped; there is nothing to wait for.
    Interrupted,
    /// Somebody did not want to wait for a retry that was scheduled: it begins now.
    Asked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobRetryScheduled {
    /// The attempt that will start.
    pub attempt: u32,
    pub due_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RetryReason>,
}

/// Why a job is not tried again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineReason {
    /// Two attempts in a row ended with a lost worker or out of memory.
    CrashLoop,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobQuarantined {
    pub reason: QuarantineReason,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobCompleted {
    pub from: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobCancelled {
    pub from: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobResultExpired {}

events! {
    /// What can happen to a job.
    JobEvent {
        JobCreated = 1,
        JobPhaseChanged = 1,
        JobProgressReported = 1,
        JobClaimed = 1,
        JobLeaseExpired = 1,
        JobFailed = 1,
        JobRetryScheduled = 1,
        JobQuarantined = 1,
        JobCompleted = 1,
        JobCancelled = 1,
        JobResultExpired = 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_kinds_are_shown_as_they_are_stored() {
        use JobKind as K;
        use Phase as P;
        let phases = [
            P::Queued,
            P::Collecting,
            P::Extracting,
            P::Matching,
            P::Evidence,
            P::Downloading,
            P::FetchingChat,
            P::Transcribing,
            P::Analyzing,
            P::FindingHighlights,
            P::Processing,
            P::Completed,
            P::Failed,
            P::Cancelled,
        ];
        for phase in phases {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.to_string());
        }
        let kinds = [
            K::ProductVideoMatching,
            K::VideoAnalysis,
            K::ExtractCutouts,
            K::ExtractProducts,
            K::ExtractSingleProduct,
            K::ModelTraining,
        ];
        for kind in kinds {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
        }
    }
}
