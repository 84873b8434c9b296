//! `worker-<tenant>.<id>`: the presence of a process that executes work. Heartbeats are not events; changes
//! of presence are.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{Tenant, WorkerId};
use crate::job::JobKind;
use crate::registry::events;
use crate::stream::{Category, StreamId, escape};
use crate::time::Timestamp;

/// The kind of a work item, which a worker can claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    MatchRequest,
    VideoAnalysis,
    ExtractCutouts,
    ExtractProducts,
    ExtractSingleProduct,
    ModelTraining,
    CutoutSync,
    EmbeddingExport,
}

impl WorkKind {
    /// The kind of work that is claimed for a job of this kind: the job itself, or its match requests.
    pub fn of(kind: JobKind) -> Self {
        match kind {
            JobKind::ProductVideoMatching => Self::MatchRequest,
            JobKind::VideoAnalysis => Self::VideoAnalysis,
            JobKind::ExtractCutouts => Self::ExtractCutouts,
            JobKind::ExtractProducts => Self::ExtractProducts,
            JobKind::ExtractSingleProduct => Self::ExtractSingleProduct,
            JobKind::ModelTraining => Self::ModelTraining,
            JobKind::CutoutSync => Self::CutoutSync,
            JobKind::EmbeddingExport => Self::EmbeddingExport,
        }
    }

    /// Whether the server itself does this work, so that no other worker may claim it.
    pub fn is_of_server(self) -> bool {
        match self {
            Self::CutoutSync | Self::EmbeddingExport => true,
            Self::MatchRequest
            | Self::VideoAnalysis
            | Self::ExtractCutouts
            | Self::ExtractProducts
            | Self::ExtractSingleProduct
            | Self::ModelTraining => false,
        }
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerEnd {
    /// Its heartbeats stopped.
    Lost,
    /// It stopped with exit code 0, or was asked to stop.
    Stopped,
    /// Exit code 137, or the reason `oom`.
    OutOfMemory,
    /// Any other exit.
    Crashed,
}

/// Seen for the first time, or with other kinds or another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerRegistered {
    pub worker_id: WorkerId,
    /// Sorted, without duplicates.
    pub kinds: Vec<WorkKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerLost {
    pub worker_id: WorkerId,
    pub last_seen_at: Timestamp,
}

/// Seen again after it was lost or had exited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerReturned {
    pub worker_id: WorkerId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerExited {
    pub worker_id: WorkerId,
    pub end: WorkerEnd,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl StreamId {
    pub fn worker(tenant: &Tenant, worker: &WorkerId) -> Self {
        Self(format!("{}{}", Self::workers_prefix(tenant), escape(worker.as_str())).into())
    }

    /// The common prefix of all worker streams of a tenant, which no other stream has.
    pub fn workers_prefix(tenant: &Tenant) -> String {
        format!("{}{}.", Category::Worker.stream_prefix(), escape(tenant.as_str()))
    }
}

events! {
    /// The events of a worker.
    WorkerEvent {
        WorkerRegistered = 1,
        WorkerLost = 1,
        WorkerReturned = 1,
        WorkerExited = 1,
    }
}
