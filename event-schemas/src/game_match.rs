//! `match_record-<uuid>`: a match of two players, from the proposal to the result. Not to be confused with
//! [`MatchFound`](crate::image_match::MatchFound), a product image found in a video frame.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ChallengeId, EntryId, GameId, GameMatchId, PoolKey, SubjectId};
use crate::rating::{Rating, Skill};
use crate::registry::events;
use crate::stream::{Category, StreamId};
use crate::time::Timestamp;

/// The side of a player: who moves first.
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

/// The result of a game: the winner, a draw, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GameResult {
    /// The first player won.
    First,
    /// The second player won.
    Second,
    Draw,
    /// It was not played to the end; no rating changes.
    Aborted,
}

/// Why a match was abandoned without a game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbandonReason {
    /// A player had left, or was reserved for another match.
    PlayerUnavailable,
    /// The game service could not be reached, or failed.
    GameServiceFailed,
    /// The game service was not called, because its circuit breaker was open.
    GameServiceParked,
    /// The game service refused this match.
    GameRefused,
}

/// A player of a match, as known when the two were paired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatchPlayer {
    pub subject_id: SubjectId,
    /// The queue entry that was matched; none for a challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_id: Option<EntryId>,
    /// The time since which the player had waited; none for a challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_at: Option<Timestamp>,
    /// The number of times the entry had been released before, so that a late command can be recognised as
    /// stale.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub release_count: u32,
    pub rating: Rating,
    pub skill: Skill,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Two players were paired; the match is confirmed or abandoned next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatchProposed {
    pub match_id: GameMatchId,
    pub pool_key: PoolKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge_id: Option<ChallengeId>,
    /// The player who moves first.
    pub first: MatchPlayer,
    pub second: MatchPlayer,
}

/// The game exists, or none is needed because no game service is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchConfirmed {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub game_id: Option<GameId>,
    /// The time at which the match expires if no result is reported.
    pub result_due_at: Timestamp,
}

/// The game was not created, and never will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchAbandoned {
    pub reason: AbandonReason,
    /// The game service's answer, or the player who was not available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Before this time its players are not matched again.
    pub eligible_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchResultReported {
    pub result: GameResult,
}

/// No result was reported in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MatchExpired {}

impl StreamId {
    pub fn game_match(id: GameMatchId) -> Self {
        Self::of_uuid(Category::GameMatch, id.0)
    }

    /// The id of the match, if this is the stream of a match.
    pub fn game_match_id(&self) -> Option<GameMatchId> {
        self.id_in(Category::GameMatch)
    }
}

events! {
    /// The events of a match of two players.
    GameMatchEvent {
        MatchProposed = 1,
        MatchConfirmed = 1,
        MatchAbandoned = 1,
        MatchResultReported = 1,
        MatchExpired = 1,
    }
}
