//! `match_record-<uuid>`: two players who meet, from the proposal to the result. Not to be mixed up with
//! [`MatchFound`](crate::matching::MatchFound), a picture found in a frame.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ChallengeId, EntryId, GameId, MatchRecordId, PoolKey, SubjectId};
use crate::rating::{Rating, Skill};
use crate::registry::events;
use crate::time::Timestamp;

/// Who moves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    First,
    Second,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// How a game ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GameResult {
    /// The first player won.
    First,
    /// The second player won.
    Second,
    Draw,
    /// It was not played to an end; no rating moves.
    Aborted,
}

/// Why no game came of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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

/// One of the two, as known when they were put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatchPlayer {
    pub subject_id: SubjectId,
    /// The queue entry that was matched; none in a challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_id: Option<EntryId>,
    /// Since when the player had waited; none in a challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_at: Option<Timestamp>,
    /// How often the entry had been released before, so that a late command finds that its moment has passed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u32,
    pub rating: Rating,
    pub skill: Skill,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(round: &u32) -> bool {
    *round == 0
}

/// These two are to play, if both are still there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatchProposed {
    pub match_id: MatchRecordId,
    pub pool_key: PoolKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge_id: Option<ChallengeId>,
    /// Who moves first.
    pub first: MatchPlayer,
    pub second: MatchPlayer,
}

/// The game is there, or none is needed because no game service is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchConfirmed {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub game_id: Option<GameId>,
    /// When the match ends by itself if no result comes.
    pub result_due_at: Timestamp,
}

/// No game came of it, and none will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchAbandoned {
    pub reason: AbandonReason,
    /// What the game service said, or who was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Before this instant its players are not matched again.
    pub eligible_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchResultReported {
    pub result: GameResult,
}

/// No result came in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchExpired {}

events! {
    /// What can happen to a match.
    MatchRecordEvent {
        MatchProposed = 1,
        MatchConfirmed = 1,
        MatchAbandoned = 1,
        MatchResultReported = 1,
        MatchExpired = 1,
    }
}
