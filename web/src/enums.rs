//! The enums of the contract as poem-openapi enums, shared by the write and the read routes, because each name may occur
//! only once in the OpenAPI document.

use event_schemas::failure::{FailureCategory as StoredCategory, FailureCode};
use event_schemas::game_match::{
    AbandonReason as StoredAbandonment, GameResult as StoredResult, Side as StoredSide,
};
use event_schemas::job::{
    JobKind as StoredKind, Phase as StoredPhase, RetryReason as StoredReason, RetryState as StoredState,
};
use event_schemas::pool::WindowPolicy as StoredPolicy;
use event_schemas::rating::RatingSource as StoredSource;
use event_schemas::worker::WorkKind as StoredWork;
use poem_openapi::{Enum, Tags};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kind of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredKind")]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    ProductVideoMatching,
    VideoAnalysis,
    ExtractCutouts,
    ExtractProducts,
    ExtractSingleProduct,
    ModelTraining,
}

/// The phase of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredPhase")]
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
    Processing,
    Completed,
    Failed,
    Cancelled,
}

/// The kind of a work item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredWork")]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    MatchRequest,
    VideoAnalysis,
    ExtractCutouts,
    ExtractProducts,
    ExtractSingleProduct,
    ModelTraining,
}

/// The category of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredCategory")]
#[serde(rename_all = "snake_case")]
pub enum FailureCategory {
    Network,
    Input,
    Resource,
    External,
    Processing,
    Unknown,
}

/// Why a failed job is, or is not, retried automatically.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredState")]
#[serde(rename_all = "snake_case")]
pub enum RetryState {
    /// A retry is scheduled.
    InProgress,
    /// A retry would not help.
    NonRetryable,
    /// All retries for errors of this class are used up.
    MaximumAttempts,
    /// Two consecutive attempts ended with a lost worker or out of memory.
    CrashLoop,
    /// The client that controls the job reported the failure, and decides on retries itself.
    NoPolicy,
}

/// The reason of a scheduled retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredReason")]
#[serde(rename_all = "snake_case")]
pub enum RetryReason {
    /// The backoff between attempts. Only this reason uses up an attempt.
    Backoff,
    /// A service sent a retry time.
    RateLimited,
    /// The circuit breaker of a service is open.
    Parked,
    /// The worker was stopped; the retry is immediate.
    Interrupted,
    /// A caller requested the scheduled retry early: it starts now.
    Asked,
}

/// The status of a queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum EntryStatus {
    Searching,
    /// An opponent was found, and the game is being created. If this fails, the entry searches again.
    Placing,
    Matched,
    Cancelled,
    Expired,
}

/// The status of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ChallengeStatus {
    /// Also while the game of an accepted challenge is being created: if this fails, it can be accepted again.
    Pending,
    Accepted,
    Declined,
    Cancelled,
    Expired,
}

/// The status of a match of two players.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum GameMatchStatus {
    /// The game is being created.
    Placing,
    Playing,
    /// A result was reported.
    Finished,
    /// No result was reported in time.
    Expired,
    /// The game was not created.
    Abandoned,
}

/// The side of a player: who moves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredSide")]
#[serde(rename_all = "snake_case")]
pub enum Side {
    First,
    Second,
}

/// The result of a game: the winner, a draw, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredResult")]
#[serde(rename_all = "snake_case")]
pub enum GameResult {
    First,
    Second,
    Draw,
    /// The game was not finished; ratings do not change.
    Aborted,
}

/// Why a match was abandoned without a game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredAbandonment")]
#[serde(rename_all = "snake_case")]
pub enum AbandonReason {
    /// One of the players had left, or was reserved for another match.
    PlayerUnavailable,
    /// The game service could not be reached, or failed.
    GameServiceFailed,
    /// The game service was not called, because its circuit breaker was open.
    GameServiceParked,
    /// The game service refused this match.
    GameRefused,
}

/// The source of a rating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredSource")]
#[serde(rename_all = "snake_case")]
pub enum RatingSource {
    /// A claim of the caller's token.
    Token,
    /// A value in the request of a trusted caller.
    Request,
    /// The response of the tenant's rating service.
    RatingService,
    /// The results of the player's own matches in the pool.
    History,
    /// The default rating: nothing is known yet.
    Default,
}

/// The policy that selects the rating window that two entries must fit to be paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredPolicy")]
#[serde(rename_all = "snake_case")]
pub enum WindowPolicy {
    /// The window of the entry that has waited longer.
    LongestWaiting,
    /// Both windows.
    Both,
}

/// A failure code in its stored form: `network_timeout`. Codes are added over time, so the document does not list them.
pub fn failure_code(code: FailureCode) -> String {
    match serde_json::to_value(code) {
        Ok(Value::String(text)) => text,
        _ => format!("{code:?}"),
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::ToJSON;

    use super::*;

    #[test]
    fn enum_values_are_returned_as_stored() {
        for stored in [StoredPhase::FetchingChat, StoredPhase::Matching, StoredPhase::FindingHighlights] {
            assert_eq!(Phase::from(stored).to_json(), serde_json::to_value(stored).ok());
        }
        assert_eq!(failure_code(FailureCode::SpeechToTextService), "speech_to_text_service");
    }
}

/// The groups of operations in the OpenAPI document.
#[derive(Clone, Copy, Debug, Tags)]
pub enum Tag {
    /// Jobs: create, list and control jobs of any kind
    Jobs,
    /// Analysis: analyse videos, with progress, live streams and highlights
    Analysis,
    /// Matching: find product images in video frames, with summaries and live streams
    Matching,
    /// Matchmaking: queues, challenges, matches and ratings of players
    Matchmaking,
    /// Workers: register workers, and claim and complete work
    Workers,
    /// Audit: read and export the event log
    Audit,
    /// Operations: server health, and management of read models
    Operations,
}
