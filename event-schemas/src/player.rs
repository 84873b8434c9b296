//! `player-<tenant>.<subject>`: one player's way through queues and matches, their ratings, and whom they block.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ChallengeId, EntryId, MatchRecordId, PoolKey, SubjectId};
use crate::match_record::{AbandonReason, Side};
use crate::rating::{Rating, RatingSource, Skill};
use crate::registry::events;
use crate::sealed::Sealed;
use crate::time::Timestamp;

/// A pool that an entry waits in, with all that the player's own past says there, so that a pairing can be explained and
/// decided anew from the events of those who wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueuedPool {
    pub pool_key: PoolKey,
    /// What windows and distances are measured from.
    pub rating: Rating,
    pub rating_source: RatingSource,
    /// What a result will be counted from.
    pub skill: Skill,
    /// How much more often the player was the first than the second, from −3 to 5.
    pub side_balance: i8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerQueued {
    pub subject_id: SubjectId,
    pub entry_id: EntryId,
    /// Sorted by key, at least one; matched in one of them, the entry leaves all.
    pub pools: Vec<QueuedPool>,
    /// The player wants nobody farther away than this, in points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rating_gap: Option<u16>,
    /// Whom the player met in their latest match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_opponent: Option<SubjectId>,
    /// When the entry ends if nobody is found.
    pub expires_at: Timestamp,
    /// The caller's own notes; nothing reads them.
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

/// The player is taken for a match, whose game is being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueEntryMatched {
    pub subject_id: SubjectId,
    pub entry_id: EntryId,
    pub match_id: MatchRecordId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
    pub side: Side,
}

/// The match came to nothing: the entry searches again, and has waited since it was queued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueEntryReleased {
    pub subject_id: SubjectId,
    pub entry_id: EntryId,
    pub match_id: MatchRecordId,
    pub reason: AbandonReason,
    /// Before this instant the entry is not matched again, so that a game service that refuses is not asked at once.
    pub eligible_at: Timestamp,
}

/// The player is taken for the match of a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerEngaged {
    pub subject_id: SubjectId,
    pub match_id: MatchRecordId,
    /// Which acceptance of the challenge it is for.
    pub attempt: u32,
    pub challenge_id: ChallengeId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
    /// The queue entry that the player leaves for it, if they had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_entry: Option<EntryId>,
}

/// How a match ended for its players.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FreedReason {
    /// A result was reported, an aborted game included.
    ResultReported,
    /// No result came in time.
    Expired,
    /// The game could not be made.
    Abandoned,
}

/// The match is over; the player may queue again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerFreed {
    pub subject_id: SubjectId,
    pub match_id: MatchRecordId,
    pub reason: FreedReason,
}

/// A result moved the player's rating.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlayerRated {
    pub subject_id: SubjectId,
    pub match_id: MatchRecordId,
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

events! {
    /// What can happen to a player.
    PlayerEvent {
        PlayerQueued = 1,
        QueueEntryCancelled = 1,
        QueueEntryExpired = 1,
        QueueEntryMatched = 1,
        QueueEntryReleased = 1,
        PlayerEngaged = 1,
        PlayerFreed = 1,
        PlayerRated = 1,
        PlayerBlocked = 1,
        PlayerUnblocked = 1,
    }
}
