//! `job-<uuid>`: a job of any kind.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::ClassifiedError;
use crate::ids::{ImageId, JobId, LeaseId, ModelId, ProductId, VideoId, WorkerId};
use crate::json_text::JsonText;
use crate::registry::events;
use crate::stream::{Category, StreamId};
use crate::time::Timestamp;
use crate::worker::WorkerEnd;

/// The kind of a job, which is the work that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[derive(strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum JobKind {
    ProductVideoMatching,
    VideoAnalysis,
    ExtractCutouts,
    ExtractProducts,
    ExtractSingleProduct,
    ModelTraining,
    CutoutSync,
    EmbeddingExport,
}

/// The phase of a job. The phases and their order depend on the job's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[derive(strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
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
    /// The only stage of a job whose kind has no finer ones.
    Processing,
    Completed,
    Failed,
    Cancelled,
}

/// The input of a job, where later events do not contain it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobSource {
    Video {
        video_id: VideoId,
        url: String,
        /// The caller's options for the worker; Matchbook does not interpret them.
        #[serde(default, skip_serializing_if = "JsonText::is_empty_object")]
        #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
        options: JsonText,
    },
    /// The input of a job that the server itself performs.
    ServerWork {
        /// The options of the work; their members depend on the job's kind.
        #[serde(default, skip_serializing_if = "JsonText::is_empty_object")]
        #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
        options: JsonText,
    },
    /// Images of which vectors are made: of all cutouts, or of products, as the kind says.
    Extraction {
        /// The model whose vectors are made.
        model_id: ModelId,
        /// Only these products; all active ones if it is empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        product_ids: Vec<ProductId>,
        /// Whether images that have a vector of the model are left out.
        only_missing: bool,
        /// The caller's settings for the worker.
        #[serde(default, skip_serializing_if = "JsonText::is_empty_object")]
        #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
        config: JsonText,
    },
}

impl JobSource {
    /// The options of the work.
    pub fn options(&self) -> &JsonText {
        match self {
            Self::Video { options, .. } | Self::ServerWork { options } => options,
            Self::Extraction { config, .. } => config,
        }
    }

    /// The options of the work, to be changed.
    pub fn options_mut(&mut self) -> &mut JsonText {
        match self {
            Self::Video { options, .. } | Self::ServerWork { options } => options,
            Self::Extraction { config, .. } => config,
        }
    }
}

/// The duration of a phase in earlier jobs of the kind, in seconds per unit of size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhasePrior {
    pub phase: Phase,
    /// The mean of the natural logarithm of seconds per unit.
    pub log_seconds_per_unit: f64,
    /// The variance of that logarithm.
    pub variance: f64,
    /// The number of jobs that the estimate is based on.
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
    /// The caller's own metadata; Matchbook stores it without interpreting it.
    #[serde(default, skip_serializing_if = "JsonText::is_empty_object")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub metadata: JsonText,
}

impl JobCreated {
    /// The memory of its texts.
    pub fn text_bytes(&self) -> usize {
        let source = match &self.source {
            Some(JobSource::Video { url, options, .. }) => url.len() + options.as_str().len(),
            Some(JobSource::ServerWork { options }) => options.as_str().len(),
            Some(JobSource::Extraction { product_ids, config, .. }) => {
                let ids = product_ids.iter().map(|id| id.as_str().len() + size_of::<ProductId>());
                ids.sum::<usize>() + config.as_str().len()
            }
            None => 0,
        };
        self.name.as_ref().map_or(0, String::len) + self.metadata.as_str().len() + source
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobPhaseChanged {
    pub from: Phase,
    pub to: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The phase durations known at this time, so that a replay computes the same estimates as the server
    /// did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eta_priors: Vec<PhasePrior>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgressReported {
    pub lease_id: LeaseId,
    pub stage: Phase,
    /// The completed fraction of the stage, from 0 to 1.
    pub fraction: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_done: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_total: Option<u64>,
    /// Where the next attempt continues if this one ends early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub checkpoint: Option<JsonText>,
    /// Only of a job that does its items in their order. Boxed, because few reports have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Box<ItemsReport>>,
}

/// How far a job is that does its items in their order, and which of them failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ItemsReport {
    /// The number of failed items so far; they are not among the done ones.
    #[serde(default)]
    pub items_failed: u64,
    /// The items that failed since the last report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<ItemFailure>,
}

/// An item that failed, and is not tried again by its job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ItemFailure {
    /// The cutout or the product.
    pub item_id: String,
    /// The image of the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<ImageId>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobClaimed {
    pub lease_id: LeaseId,
    pub worker_id: WorkerId,
    pub attempt: u32,
    /// The time at which the lease expires unless a heartbeat extends it.
    pub lease_until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobLeaseExpired {
    pub lease_id: LeaseId,
    pub worker_id: WorkerId,
    /// How the worker ended; absent in events that were recorded before this field existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<WorkerEnd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobFailed {
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    pub error: ClassifiedError,
    /// Whether the job is retried automatically, and if not, why; absent in events that were recorded before
    /// this field existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_state: Option<RetryState>,
}

/// Why a failed job is or is not retried automatically.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryState {
    /// A retry is scheduled.
    InProgress,
    /// A retry would not help.
    NonRetryable,
    /// The maximum number of retries for errors of this category is used up.
    MaximumAttempts,
    /// Two attempts in a row ended with a lost worker or out of memory.
    CrashLoop,
    /// The owner of the job reported the failure, and decides whether it is retried.
    NoPolicy,
}

/// The reason for the delay of a scheduled retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryReason {
    /// The backoff between attempts. Only this reason uses up one of the retries.
    Backoff,
    /// A service returned the time after which it may be called again.
    RateLimited,
    /// The circuit breaker of a service is open.
    Parked,
    /// The worker was stopped; there is no delay.
    Interrupted,
    /// A caller asked to start a scheduled retry now.
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

/// The reason why a job is not retried automatically.
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
    #[schemars(with = "Option<serde_json::Value>")]
    pub result: Option<JsonText>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobCancelled {
    pub from: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobResultExpired {}

impl StreamId {
    pub fn job(job: JobId) -> Self {
        Self::of_uuid(Category::Job, job.0)
    }

    /// The job that a `job` or `matching` stream belongs to.
    pub fn job_id(&self) -> Option<JobId> {
        let (category, rest) = self.0.split_once('-')?;
        if category != Category::Job.as_str() && category != Category::ImageMatch.as_str() {
            return None;
        }
        rest.split('.').next()?.parse().ok()
    }
}

events! {
    /// The events of a job.
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
    fn phases_and_kinds_display_as_they_are_stored() {
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
            K::CutoutSync,
            K::EmbeddingExport,
        ];
        for kind in kinds {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
        }
    }
}
