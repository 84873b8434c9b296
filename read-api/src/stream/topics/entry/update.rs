//! The data of a queue entry's updates.

use domain::matchmaking::status::EntryStatus;
use event_schemas::game_match::{AbandonReason, Side};
use event_schemas::ids::{ChallengeId, EntryId, GameId, GameMatchId, PoolKey, Position, UserId};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

/// An update of a queue entry, in addition to `event`, `connection_id` and `update_count`. Members that do not apply
/// to an update are omitted.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "QueueEntryUpdate")]
pub(crate) struct QueueEntryUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<EntryId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_id: Option<EntryId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<EntryStatus>,
    /// The log position of the update's event, which is also the update's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The time from queueing to this update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_seconds: Option<f64>,
    /// While searching: the pools of the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_keys: Option<Vec<PoolKey>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Why the previous match failed, if the entry searches again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<AbandonReason>,
    /// If the entry searches again: the end of its cooldown, before which it is not paired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eligible_at: Option<Timestamp>,
    /// While searching, in updates without an id: the width of the window, in points to either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u16>,
    /// The number of players waiting within the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates: Option<u64>,
    /// The place in the queue, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_in_line: Option<u64>,
    /// When the window widens next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub widens_at: Option<Timestamp>,
    /// Since `placing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_id: Option<GameMatchId>,
    /// The pool of the match, or, while searching, the pool with the earliest possible pairing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_key: Option<PoolKey>,
    /// The challenge that reserved the player, if it was not the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge_id: Option<ChallengeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub game_id: Option<GameId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// Once matched; omitted for an erased user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opponent_id: Option<UserId>,
    /// When the match ends automatically if no result is reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_due_at: Option<Timestamp>,
}
