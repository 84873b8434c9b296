//! `player-<tenant>.<subject>`: a player's queue entries, matches, ratings and blocks.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::game_match::{AbandonReason, Side};
use crate::ids::{ChallengeId, EntryId, GameMatchId, PoolKey, SubjectId, Tenant};
use crate::rating::{Rating, RatingCall, RatingSource, Skill};
use crate::registry::events;
use crate::sealed::Sealed;
use crate::stream::{Category, StreamId};
use crate::time::Timestamp;

/// A pool that an entry waits in, with all of the player's own history that matters there, so that a pairing
/// can be explained and recomputed from the events of the queued players.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueuedPool {
    pub pool_key: PoolKey,
    /// The rating that windows and distances are measured from.
    pub rating: Rating,
    pub rating_source: RatingSource,
    /// The skill from which a result is rated.
    pub skill: Skill,
    /// How many more games the player moved first than second, from −3 to 5.
    pub side_balance: i8,
    /// The outcome of the call of the tenant's rating service; none if it was not called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rating_call: Option<RatingCall>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerQueued {
    pub subject_id: SubjectId,
    pub entry_id: EntryId,
    /// Sorted by key, at least one. Once matched in one pool, the entry leaves all of them.
    pub pools: Vec<QueuedPool>,
    /// The maximum rating distance that the player accepts, in points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rating_gap: Option<u16>,
    /// The player's opponent in their latest match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_opponent: Option<SubjectId>,
    /// The time at which the entry expires if no opponent is found.
    pub expires_at: Timestamp,
    /// The caller's own metadata, sealed; the server does not interpret it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Sealed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueEntryCancelled {
    pub subject_id: SubjectId,
    pub entry_id: EntryId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueEntryExpired {
    pub subject_id: SubjectId,
    pub entry_id: EntryId,
}

/// The player is reserved for a match whose game is being created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueEntryMatched {
    pub subject_id: SubjectId,
    pub entry_id: EntryId,
    pub match_id: GameMatchId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
    pub side: Side,
}

/// The match was abandoned: the entry searches again, and keeps its waiting time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueEntryReleased {
    pub subject_id: SubjectId,
    pub entry_id: EntryId,
    pub match_id: GameMatchId,
    pub reason: AbandonReason,
    /// Before this time the entry is not matched again, so that a failing game service is not called again at
    /// once.
    pub eligible_at: Timestamp,
}

/// The player is reserved for the match of a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerReserved {
    pub subject_id: SubjectId,
    pub match_id: GameMatchId,
    /// The attempt of the challenge that it is for.
    pub attempt: u32,
    pub challenge_id: ChallengeId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
    /// The queue entry that the player leaves for it, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_entry: Option<EntryId>,
}

/// How a match ended for its players.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// A result was reported, including an aborted game.
    ResultReported,
    /// No result was reported in time.
    Expired,
    /// The game could not be created.
    Abandoned,
}

/// The match is over, and the player may queue again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerReleased {
    pub subject_id: SubjectId,
    pub match_id: GameMatchId,
    pub reason: ReleaseReason,
}

/// A result changed the player's rating.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerRated {
    pub subject_id: SubjectId,
    pub match_id: GameMatchId,
    pub pool_key: PoolKey,
    pub before: Skill,
    pub after: Skill,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerBlocked {
    pub subject_id: SubjectId,
    pub blocked: SubjectId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerUnblocked {
    pub subject_id: SubjectId,
    pub unblocked: SubjectId,
}

impl StreamId {
    pub fn player(tenant: &Tenant, subject: SubjectId) -> Self {
        Self::of_tenant(Category::Player, tenant, &subject.to_string())
    }
}

events! {
    /// The events of a player.
    PlayerEvent {
        PlayerQueued = 1,
        QueueEntryCancelled = 1,
        QueueEntryExpired = 1,
        QueueEntryMatched = 1,
        QueueEntryReleased = 1,
        PlayerReserved = 1,
        PlayerReleased = 1,
        PlayerRated = 1,
        PlayerBlocked = 1,
        PlayerUnblocked = 1,
    }
}
