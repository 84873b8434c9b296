//! `challenge-<uuid>`: one player asks another for a match.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ChallengeId, GameId, MatchRecordId, PoolKey, SubjectId};
use crate::match_record::{AbandonReason, Side};
use crate::rating::{Rating, RatingSource, Skill};
use crate::registry::events;
use crate::sealed::Sealed;
use crate::time::Timestamp;

/// How strong a player was when they challenged, or accepted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Strength {
    pub rating: Rating,
    pub rating_source: RatingSource,
    pub skill: Skill,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeCreated {
    pub challenge_id: ChallengeId,
    pub pool_key: PoolKey,
    pub challenger: SubjectId,
    pub challenged: SubjectId,
    /// The challenger's.
    pub strength: Strength,
    pub expires_at: Timestamp,
    /// From the challenger, under their key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Sealed>,
}

/// It was accepted, and the game is being made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengePlacing {
    pub match_id: MatchRecordId,
    /// From 1; each acceptance of the challenge is one. All have the same match id, so that they make one game.
    pub attempt: u32,
    /// The challenged player's.
    pub strength: Strength,
    pub challenger_side: Side,
}

/// The game could not be made; the challenge is pending again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengePlacingFailed {
    pub match_id: MatchRecordId,
    pub reason: AbandonReason,
    /// What the game service said, or who was not free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeAccepted {
    pub match_id: MatchRecordId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub game_id: Option<GameId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeDeclined {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeCancelled {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeExpired {}

events! {
    /// What can happen to a challenge.
    ChallengeEvent {
        ChallengeCreated = 1,
        ChallengePlacing = 1,
        ChallengePlacingFailed = 1,
        ChallengeAccepted = 1,
        ChallengeDeclined = 1,
        ChallengeCancelled = 1,
        ChallengeExpired = 1,
    }
}
