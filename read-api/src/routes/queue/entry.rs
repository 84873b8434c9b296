//! The response object of a queue entry.

use domain::job::view::Parked;
use domain::matchmaking::pool_status::{PoolStatus, SearchStatus, best};
use domain::matchmaking::statistics::Estimate;
use event_schemas::game_match::Side;
use event_schemas::ids::{EntryId, GameMatchId, PoolKey, Position, UserId};
use event_schemas::rating::RatingSource;
use event_schemas::time::Timestamp;
use projections::queue::{EntryStatus, EntryView};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// The estimated waiting time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct EstimatedWait {
    pub p50_seconds: f64,
    pub p90_seconds: f64,
    /// The number of the pool's latest waits that it is based on.
    pub samples: u64,
    /// Only waits of ratings within this many points were used; null if all of the pool's were.
    pub within: Option<u16>,
}

/// Why no match was found in a pool yet: the number of waiting players by reason.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NoMatchReason {
    pub sentence: String,
    /// Compatible now; the pairing is in progress.
    pub ready: u64,
    /// Outside the window, until it widens.
    pub out_of_window: u64,
    /// The previous opponent, who is paired again only after a while.
    pub rematch: u64,
    /// One of the two is in the cooldown after a game that could not be created.
    pub cooldown: u64,
    /// One of the two has blocked the other.
    pub blocked: u64,
    /// The rating gap is above the limit of one of the two.
    pub rating_gap: u64,
    /// No window reaches them before one of the two entries expires.
    pub unreachable: u64,
}

/// An entry in one of its pools. The members about the search are null unless the entry is searching.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct QueueEntryPool {
    pub pool_key: PoolKey,
    /// The rating from which windows and gaps are measured.
    pub rating: u16,
    pub rating_source: RatingSource,
    /// The current width of the window, in points to either side.
    pub window: Option<u16>,
    /// When the window widens next; null if it does not widen any more.
    pub widens_at: Option<Timestamp>,
    /// The number of players waiting within the window.
    pub candidates: Option<u64>,
    /// The place in the queue, from 1.
    pub place_in_line: Option<u64>,
    /// The number of entries waiting in the pool, this one included.
    pub waiting: Option<u64>,
    /// The earliest possible pairing with an entry that is waiting now.
    pub next_pairing_at: Option<Timestamp>,
    /// Null also before the first match of the pool.
    pub estimated_wait: Option<EstimatedWait>,
    pub no_match_reason: Option<NoMatchReason>,
}

/// A player's entry in the queue.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct QueueEntry {
    pub id: EntryId,
    pub entry_id: EntryId,
    pub status: EntryStatus,
    /// The time from queueing to now or to the end of the entry, failed matches in between included.
    pub waited_seconds: f64,
    pub queued_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub max_rating_gap: Option<u16>,
    /// The pool with the earliest possible pairing; the next four members and the explanation refer to it. Null
    /// unless the entry is searching.
    pub pool_key: Option<PoolKey>,
    pub window: Option<u16>,
    pub candidates: Option<u64>,
    pub place_in_line: Option<u64>,
    pub estimated_wait: Option<EstimatedWait>,
    /// A sentence about why no match was found yet.
    pub explanation: Option<String>,
    /// Why no matches are made at present; null while they are.
    pub parked: Option<Parked>,
    pub pools: Vec<QueueEntryPool>,
    /// The match that the entry is reserved for.
    pub match_id: Option<GameMatchId>,
    /// The pool of that match.
    pub matched_pool_key: Option<PoolKey>,
    /// Null also if the player was reserved by a challenge; see the match then.
    pub side: Option<Side>,
    /// Once matched; null also for an erased user.
    pub opponent_id: Option<UserId>,
    /// The metadata that the caller passed when joining.
    pub metadata: Option<Map<String, Value>>,
    /// The log position that the response reflects.
    pub position: Position,
}

/// The members that change with time alone and are excluded from the `ETag`.
pub(super) const RUNNING_TIMES: &[&str] = &["waited_seconds", "position"];

fn count(count: usize) -> u64 {
    count as u64
}

impl From<Estimate> for EstimatedWait {
    fn from(estimate: Estimate) -> Self {
        Self {
            p50_seconds: estimate.p50_seconds,
            p90_seconds: estimate.p90_seconds,
            samples: count(estimate.samples),
            within: estimate.within,
        }
    }
}

impl From<&SearchStatus> for NoMatchReason {
    fn from(search: &SearchStatus) -> Self {
        let found = &search.explanation;
        Self {
            sentence: found.sentence(),
            ready: count(found.ready),
            out_of_window: count(found.out_of_window),
            rematch: count(found.rematch),
            cooldown: count(found.cooldown),
            blocked: count(found.blocked),
            rating_gap: count(found.rating_gap),
            unreachable: count(found.unreachable),
        }
    }
}

impl From<&PoolStatus> for QueueEntryPool {
    fn from(status: &PoolStatus) -> Self {
        let search = status.search.as_ref();
        let found = search.map(|search| &search.explanation);
        Self {
            pool_key: status.pool_key.clone(),
            rating: status.rating.points(),
            rating_source: status.rating_source,
            window: found.map(|found| found.window),
            widens_at: found.and_then(|found| found.widens_at),
            candidates: found.map(|found| count(found.in_window)),
            place_in_line: found.map(|found| count(found.place_in_line)),
            waiting: found.map(|found| count(found.others + 1)),
            next_pairing_at: found.and_then(|found| found.next_pairing_at),
            estimated_wait: search.and_then(|search| search.estimate).map(Into::into),
            no_match_reason: search.map(Into::into),
        }
    }
}

/// The entry in one of its pools. While it is parked, no match is made, although one may be possible.
fn pool(status: &PoolStatus, parked: Option<&Parked>) -> QueueEntryPool {
    let mut pool = QueueEntryPool::from(status);
    if let (Some(parked), Some(reason)) = (parked, &mut pool.no_match_reason) {
        reason.sentence.clone_from(&parked.reason);
    }
    pool
}

impl QueueEntry {
    /// The entry with its opponent's user id and its player's metadata, if known.
    pub(super) fn new(
        view: &EntryView,
        opponent: Option<UserId>,
        metadata: Option<Map<String, Value>>,
        parked: Option<Parked>,
    ) -> Self {
        let (entry, queued) = (&view.entry, &view.entry.entry.queued);
        let best = best(&view.pool_statuses);
        let found = best.map(|(_, search)| &search.explanation);
        let waited = entry.ended_at.unwrap_or(view.at).since(entry.entry.queued_at);
        let reservation = entry.reservation.as_ref();
        Self {
            id: queued.entry_id,
            entry_id: queued.entry_id,
            status: entry.status,
            waited_seconds: waited.as_secs_f64(),
            queued_at: entry.entry.queued_at,
            expires_at: queued.expires_at,
            ended_at: entry.ended_at,
            max_rating_gap: queued.max_rating_gap,
            pool_key: best.map(|(status, _)| status.pool_key.clone()),
            window: found.map(|found| found.window),
            candidates: found.map(|found| count(found.in_window)),
            place_in_line: found.map(|found| count(found.place_in_line)),
            estimated_wait: best.and_then(|(_, search)| search.estimate).map(Into::into),
            explanation: match &parked {
                Some(parked) => Some(parked.reason.clone()),
                None => found.map(|found| found.sentence()),
            },
            pools: view.pool_statuses.iter().map(|status| pool(status, parked.as_ref())).collect(),
            parked,
            match_id: reservation.map(|held| held.match_id),
            matched_pool_key: reservation.map(|held| held.pool_key.clone()),
            side: reservation.and_then(|held| held.side),
            opponent_id: opponent,
            metadata,
            position: view.position,
        }
    }
}
