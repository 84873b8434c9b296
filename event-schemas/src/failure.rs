//! What went wrong, in words for machines and for people.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of trouble it was; decides how it is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCategory {
    /// The way to another machine.
    Network,
    /// What was asked for cannot be done.
    Input,
    /// Memory or disk ran out.
    Resource,
    /// A service that is not ours refused or failed.
    External,
    /// Files and media on our side.
    Processing,
    /// Nothing that is known.
    Unknown,
}

/// The recognised troubles.
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

/// An error after it has been recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClassifiedError {
    pub code: FailureCode,
    pub category: FailureCategory,
    /// What the worker reported, word for word.
    pub message: String,
    /// A sentence for whoever asked for the work.
    pub user_message: String,
    /// What they can do about it.
    pub suggested_actions: Vec<String>,
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
    /// What to quote when asking for help; the same for the same job and attempt.
    pub support_reference: String,
}
