//! The data of a queue entry's updates.

use event_schemas::ids::{ChallengeId, EntryId, GameId, GameMatchId, PoolKey, UserId};
use poem_openapi::Object;
use web::enums::{AbandonReason, EntryStatus, Side};
use web::value::{ApiPosition, ApiTimestamp, TextId, UuidParam};

/// An update of a queue entry, in addition to `event`, `connection_id` and `update_count`. Members that do not apply
/// to an update are omitted.
#[derive(Clone, Debug, Default, Object)]
#[oai(rename = "QueueEntryUpdate", skip_serializing_if_is_none)]
pub(crate) struct QueueEntryUpdate {
    pub id: Option<UuidParam<EntryId>>,
    pub entry_id: Option<UuidParam<EntryId>>,
    pub status: Option<EntryStatus>,
    /// The log position of the update's event, which is also the update's id.
    pub position: Option<ApiPosition>,
    /// The time from queueing to this update.
    pub waited_seconds: Option<f64>,
    /// While searching: the pools of the entry.
    pub pool_keys: Option<Vec<TextId<PoolKey>>>,
    pub expires_at: Option<ApiTimestamp>,
    /// Why the previous match failed, if the entry searches again.
    pub reason: Option<AbandonReason>,
    /// If the entry searches again: the end of its cooldown, before which it is not paired.
    pub eligible_at: Option<ApiTimestamp>,
    /// While searching, in updates without an id: the width of the window, in points to either side.
    pub window: Option<u16>,
    /// The number of players waiting within the window.
    pub candidates: Option<u64>,
    /// The place in the queue, from 1.
    pub place_in_line: Option<u64>,
    /// When the window widens next.
    pub widens_at: Option<ApiTimestamp>,
    /// Since `placing`.
    pub match_id: Option<UuidParam<GameMatchId>>,
    /// The pool of the match, or, while searching, the pool with the earliest possible pairing.
    pub pool_key: Option<TextId<PoolKey>>,
    /// The challenge that reserved the player, if it was not the queue.
    pub challenge_id: Option<UuidParam<ChallengeId>>,
    pub game_id: Option<TextId<GameId>>,
    pub side: Option<Side>,
    /// Once matched; omitted for an erased user.
    pub opponent_id: Option<TextId<UserId>>,
    /// When the match ends automatically if no result is reported.
    pub result_due_at: Option<ApiTimestamp>,
}
