//! The contract's closed sets of words as poem-openapi enums, once for both sides: the OpenAPI document knows each name
//! once.

use event_schemas::failure::{FailureCategory as StoredCategory, FailureCode};
use event_schemas::job::{
    JobKind as StoredKind, Phase as StoredPhase, RetryReason as StoredReason, RetryState as StoredState,
};
use event_schemas::match_record::{
    AbandonReason as StoredAbandonment, GameResult as StoredResult, Side as StoredSide,
};
use event_schemas::pool::WindowPolicy as StoredPolicy;
use event_schemas::rating::RatingSource as StoredSource;
use event_schemas::worker::WorkKind as StoredWork;
use poem_openapi::{Enum, Tags};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a job does.
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

/// Where a job stands.
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

/// What a worker can claim.
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

/// What kind of trouble an error was.
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

/// Why a job that failed is, or is not, tried again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredState")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredReason")]
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

/// Where a queue entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum EntryStatus {
    Searching,
    /// Somebody was found, and the game is being made. If that fails, the entry searches again.
    Placing,
    Matched,
    Cancelled,
    Expired,
}

/// Where a challenge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ChallengeStatus {
    /// Also while the game of an accepted one is being made: if that fails, it can be accepted again.
    Pending,
    Accepted,
    Declined,
    Cancelled,
    Expired,
}

/// Where a match of two players stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum MatchStatus {
    /// Its game is being made.
    Placing,
    Playing,
    /// A result was reported.
    Finished,
    /// No result came in time.
    Expired,
    /// No game came of it.
    Abandoned,
}

/// Who moves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredSide")]
#[serde(rename_all = "snake_case")]
pub enum Side {
    First,
    Second,
}

/// How a game ended: who won, or that nobody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredResult")]
#[serde(rename_all = "snake_case")]
pub enum GameResult {
    First,
    Second,
    Draw,
    /// It was not played to an end; no rating moves.
    Aborted,
}

/// Why no game came of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredAbandonment")]
#[serde(rename_all = "snake_case")]
pub enum AbandonReason {
    /// One of the players had left, or was taken for another match.
    PlayerUnavailable,
    /// The game service could not be reached, or failed.
    GameServiceFailed,
    /// The game service was not asked, because it failed too often.
    GameServiceParked,
    /// The game service refused this match.
    GameRefused,
}

/// Where a rating comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredSource")]
#[serde(rename_all = "snake_case")]
pub enum RatingSource {
    /// The caller's token claims it.
    Token,
    /// A trusted caller said it with the request.
    Request,
    /// The tenant's rating service answered it.
    RatingService,
    /// The results of the player's own matches in the pool.
    History,
    /// Nothing is known yet.
    Default,
}

/// Whose window decides whether two may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case", remote = "StoredPolicy")]
#[serde(rename_all = "snake_case")]
pub enum WindowPolicy {
    /// That of the one who has waited longer.
    LongestWaiting,
    Both,
}

/// A code of failure as it is stored: `network_timeout`. Codes are added, so the document does not list them.
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
    fn a_word_is_answered_as_it_is_stored() {
        for stored in [StoredPhase::FetchingChat, StoredPhase::Matching, StoredPhase::FindingHighlights] {
            assert_eq!(Phase::from(stored).to_json(), serde_json::to_value(stored).ok());
        }
        assert_eq!(failure_code(FailureCode::SpeechToTextService), "speech_to_text_service");
    }
}

/// How the OpenAPI document groups the operations.
#[derive(Clone, Copy, Debug, Tags)]
pub enum Tag {
    /// Jobs of any kind, and what happened to them.
    Jobs,
    /// Videos, stage by stage: progress, live streams, highlights.
    Analysis,
    /// Product images against video frames: summaries, live streams, matches.
    Matching,
    /// Players who wait for each other: queues, challenges, matches, ratings.
    Matchmaking,
    /// Those who take work.
    Workers,
    /// The whole log, for those who check it.
    Audit,
    /// How the server is, and steering its read models.
    Operations,
}
