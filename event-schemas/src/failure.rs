//! Errors of work, for machines and for people.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::VariantArray;

/// The category of an error; it decides how the work is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCategory {
    /// The connection to another machine.
    Network,
    /// The request cannot be fulfilled.
    Input,
    /// Out of memory or disk space.
    Resource,
    /// An external service refused or failed.
    External,
    /// Files and media on our side.
    Processing,
    /// Not recognised.
    Unknown,
}

/// The recognised errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    NetworkTimeout,
    ConnectionFailed,
    DnsFailure,
    InvalidUrl,
    VideoNotFound,
    PrivateVideo,
    UnsupportedVideo,
    OutOfMemory,
    InsufficientStorage,
    SpeechToTextService,
    DatabaseService,
    ObjectStorageService,
    RateLimited,
    ServiceAuthentication,
    FileNotFound,
    PermissionDenied,
    CorruptMedia,
    WorkerLost,
    WorkerStopped,
    Unknown,
}

/// An external service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[derive(strum::IntoStaticStr, strum::VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Service {
    /// The source of the videos.
    VideoSource,
    Chat,
    SpeechToText,
    Database,
    ObjectStorage,
}

impl Service {
    pub const ALL: &[Self] = Self::VARIANTS;
}

/// A classified error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClassifiedError {
    pub code: FailureCode,
    pub category: FailureCategory,
    /// The service that the message names, whatever went wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// The worker's error message, unchanged.
    pub message: String,
    /// A sentence for the requester of the work.
    pub user_message: String,
    /// What the requester can do about it.
    pub suggested_actions: Vec<String>,
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
    /// Whether the worker or a service asked for this delay; otherwise it is the usual one of the code.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_after_requested: bool,
    /// The reference to quote in a support request; the same for the same job and attempt.
    pub support_reference: String,
}
