//! Faults on request: each makes a job fail as the real trouble would, so that a server's handling of it can be seen.

use serde::{Deserialize, Serialize};

/// A trouble, and where in a job it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The worker goes away without a word.
    WorkerLost,
}

/// A stage that a fault can strike in, as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Downloading,
    Transcribing,
    Analyzing,
    FindingHighlights,
}

/// What a worker reports of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub message: &'static str,
    pub exit_code: Option<i32>,
    pub retry_after_seconds: Option<u32>,
}

impl Fault {
    pub const ALL: [Self; 20] = [
        Self::NetworkTimeout,
        Self::ConnectionFailed,
        Self::DnsFailure,
        Self::InvalidUrl,
        Self::VideoNotFound,
        Self::PrivateVideo,
        Self::UnsupportedVideo,
        Self::OutOfMemory,
        Self::InsufficientStorage,
        Self::SpeechToTextService,
        Self::DatabaseService,
        Self::ObjectStorageService,
        Self::RateLimited,
        Self::ServiceAuthentication,
        Self::FileNotFound,
        Self::PermissionDenied,
        Self::CorruptMedia,
        Self::WorkerStopped,
        Self::Unknown,
        Self::WorkerLost,
    ];

    /// Where it strikes.
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

    /// What is reported, in the words of real programs; none for a worker that says nothing any more.
    pub fn trouble(self) -> Option<Trouble> {
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
        Some(Trouble {
            message,
            exit_code: (self == Self::OutOfMemory).then_some(137),
            retry_after_seconds: (self == Self::RateLimited).then_some(2),
        })
    }
}

/// What a job's options ask of a worker that lets faults be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Wish {
    pub fault: Fault,
    /// In how many attempts it strikes, the first ones; in all of them, unless said otherwise.
    pub fault_attempts: Option<u32>,
}

impl Wish {
    /// The wish in a job's options, if there is one.
    pub fn of(options: &serde_json::Value) -> Option<Self> {
        Self::deserialize(options).ok()
    }

    pub fn strikes(self, attempt: u32, stage: Stage) -> bool {
        self.fault.stage() == stage && self.fault_attempts.is_none_or(|attempts| attempt <= attempts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wish_strikes_in_its_stage_and_in_as_many_attempts_as_asked_for() {
        let wish =
            Wish::of(&json!({"fault": "speech_to_text_service", "fault_attempts": 2, "other": 1})).unwrap();
        assert!(wish.strikes(2, Stage::Transcribing));
        assert!(!wish.strikes(3, Stage::Transcribing) && !wish.strikes(1, Stage::Downloading));
        let always = Wish::of(&json!({"fault": "out_of_memory"})).unwrap();
        assert!(always.strikes(99, Stage::Analyzing));
        for options in [json!({}), json!({"fault": "flat_tyre"}), json!(null)] {
            assert_eq!(Wish::of(&options), None);
        }
    }

    #[test]
    fn each_fault_but_a_silent_end_says_something() {
        for fault in Fault::ALL {
            assert_eq!(fault.trouble().is_none(), fault == Fault::WorkerLost);
        }
    }
}
