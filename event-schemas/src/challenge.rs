//! `challenge-<uuid>`: one player challenges another to a match.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::game_match::{AbandonReason, Side};
use crate::ids::{ChallengeId, GameId, GameMatchId, PoolKey, SubjectId};
use crate::rating::{Rating, RatingCall, RatingSource, Skill};
use crate::registry::events;
use crate::sealed::Sealed;
use crate::stream::{Category, StreamId};
use crate::time::Timestamp;

/// A player's rating and skill at the time of the challenge or of its acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Strength {
    pub rating: Rating,
    pub rating_source: RatingSource,
    pub skill: Skill,
    /// The outcome of the call of the tenant's rating service; none if it was not called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rating_call: Option<RatingCall>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeCreated {
    pub challenge_id: ChallengeId,
    pub pool_key: PoolKey,
    pub challenger: SubjectId,
    pub challenged: SubjectId,
    /// The challenger's strength.
    pub strength: Strength,
    pub expires_at: Timestamp,
    /// The challenger's message, sealed with the challenger's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Sealed>,
}

/// The challenge was accepted, and its game is being created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengePlacementStarted {
    pub match_id: GameMatchId,
    /// The number of the acceptance, from 1. All attempts share one match id, so that they create one game.
    pub attempt: u32,
    /// The challenged player's strength.
    pub strength: Strength,
    pub challenger_side: Side,
}

/// The game could not be created; the challenge is pending again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengePlacementFailed {
    pub match_id: GameMatchId,
    pub reason: AbandonReason,
    /// The game service's answer, or the player who was not available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeAccepted {
    pub match_id: GameMatchId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub game_id: Option<GameId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeDeclined {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeCancelled {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChallengeExpired {}

impl StreamId {
    pub fn challenge(id: ChallengeId) -> Self {
        Self::of_uuid(Category::Challenge, id.0)
    }

    /// The id of the challenge, if this is the stream of a challenge.
    pub fn challenge_id(&self) -> Option<ChallengeId> {
        self.id_in(Category::Challenge)
    }
}

events! {
    /// The events of a challenge.
    ChallengeEvent {
        ChallengeCreated = 1,
        ChallengePlacementStarted = 1,
        ChallengePlacementFailed = 1,
        ChallengeAccepted = 1,
        ChallengeDeclined = 1,
        ChallengeCancelled = 1,
        ChallengeExpired = 1,
    }
}
