//! Faults on request: each makes a job fail like a real error, to test how a server handles it.

use serde::{Deserialize, Serialize};

/// A fault of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
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
    WorkerStopped,
    Unknown,
    /// The worker vanishes without a report.
    WorkerLost,
}

/// A stage of a job, with its name in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Downloading,
    Transcribing,
    Analyzing,
    FindingHighlights,
}

/// The report of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureReport {
    pub message: &'static str,
    pub exit_code: Option<i32>,
    pub retry_after_seconds: Option<u32>,
}

impl Fault {
    /// The stage in which it occurs.
    pub fn stage(self) -> Stage {
        match self {
            Self::SpeechToTextService => Stage::Transcribing,
            Self::DatabaseService | Self::ObjectStorageService => Stage::FindingHighlights,
            Self::OutOfMemory
            | Self::CorruptMedia
            | Self::WorkerLost
            | Self::WorkerStopped
            | Self::Unknown => Stage::Analyzing,
            _ => Stage::Downloading,
        }
    }

    /// The report, with error messages of real programs; none for a worker that vanishes.
    pub fn report(self) -> Option<FailureReport> {
        let message = match self {
            Self::NetworkTimeout => "error sending request for url: operation timed out",
            Self::ConnectionFailed => "[Errno 111] Connection refused",
            Self::DnsFailure => "curl: (6) Could not resolve host: usher.ttvnw.net",
            Self::InvalidUrl => "ERROR: Unsupported URL: https://www.twitch.tv/",
            Self::VideoNotFound => "ERROR: [twitch:vod] v2039: Video 2039 not found",
            Self::PrivateVideo => "This VOD is only available to subscribers",
            Self::UnsupportedVideo => "unsupported codec hev1",
            Self::OutOfMemory => "memory allocation of 1073741824 bytes failed",
            Self::InsufficientStorage => "write error: No space left on device (os error 28)",
            Self::SpeechToTextService => "deepgram: 503 Service Unavailable",
            Self::DatabaseService => "postgres: the database system is starting up",
            Self::ObjectStorageService => "minio: internal error",
            Self::RateLimited => "HTTP 429: Too Many Requests",
            Self::ServiceAuthentication => "401 Unauthorized: invalid api key",
            Self::FileNotFound => "[Errno 2] No such file or directory: 'audio.wav'",
            Self::PermissionDenied => "Permission denied (os error 13)",
            Self::CorruptMedia => "Invalid data found when processing input",
            Self::WorkerStopped => "the worker is shutting down",
            Self::Unknown => "index out of range: the len is 3 but the index is 7",
            Self::WorkerLost => return None,
        };
        Some(FailureReport {
            message,
            exit_code: (self == Self::OutOfMemory).then_some(137),
            retry_after_seconds: (self == Self::RateLimited).then_some(2),
        })
    }
}

/// A fault in a job's options, for a worker with `--faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct FaultRequest {
    pub fault: Fault,
    /// The number of attempts, from the first, in which it occurs; all by default.
    pub fault_attempts: Option<u32>,
}

impl FaultRequest {
    /// The fault in a job's options, if there is one.
    pub fn of(options: &serde_json::Value) -> Option<Self> {
        Self::deserialize(options).ok()
    }

    pub fn applies_to(self, attempt: u32, stage: Stage) -> bool {
        self.fault.stage() == stage && self.fault_attempts.is_none_or(|attempts| attempt <= attempts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use strum::VariantArray;

    use super::*;

    #[test]
    fn fault_occurs_in_its_stage_and_attempts() {
        let request =
            FaultRequest::of(&json!({"fault": "speech_to_text_service", "fault_attempts": 2, "other": 1}))
                .unwrap();
        assert!(request.applies_to(2, Stage::Transcribing));
        assert!(!request.applies_to(3, Stage::Transcribing) && !request.applies_to(1, Stage::Downloading));
        let always = FaultRequest::of(&json!({"fault": "out_of_memory"})).unwrap();
        assert!(always.applies_to(99, Stage::Analyzing));
        for options in [json!({}), json!({"fault": "flat_tyre"}), json!(null)] {
            assert_eq!(FaultRequest::of(&options), None);
        }
    }

    #[test]
    fn every_fault_but_a_lost_worker_has_a_report() {
        for &fault in Fault::VARIANTS {
            assert_eq!(fault.report().is_none(), fault == Fault::WorkerLost);
        }
    }
}
