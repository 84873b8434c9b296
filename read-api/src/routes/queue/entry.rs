//! A queue entry as it is shown to its player.

use domain::matchmaking::standing::{Search, Standing, best};
use domain::matchmaking::statistics::Estimate;
use event_schemas::ids::{EntryId, MatchRecordId, PoolKey, UserId};
use poem_openapi::Object;
use poem_openapi::types::Any;
use projections::queue::{EntryStatus as Stored, EntryView};
use serde_json::{Map, Value};
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{EntryStatus, RatingSource, Side};

/// How long a wait is likely to be.
#[derive(Clone, Copy, Debug, PartialEq, Object)]
pub struct EstimatedWait {
    pub p50_seconds: f64,
    pub p90_seconds: f64,
    /// On how many of the pool's latest waits it rests.
    pub samples: u64,
    /// Within how many points of the rating those were; null if all of the pool's count.
    pub within: Option<u16>,
}

/// Why nobody was found in a pool yet: how many of those who wait there are in each case.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct NobodyYet {
    pub sentence: String,
    /// They can be met now; a match is being made.
    pub ready: u64,
    /// A window that counts will reach them.
    pub out_of_window: u64,
    /// The last opponent, who is met again only after some waiting.
    pub rematch: u64,
    /// A game could not be made just now, for one of the two.
    pub held_back: u64,
    pub blocked: u64,
    /// They are farther away than one of the two wants.
    pub gap: u64,
    /// No window reaches them before somebody's time is over.
    pub never: u64,
}

/// An entry in one of its pools. What is about the search is null unless the entry searches.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct QueueEntryPool {
    pub pool_key: Text<PoolKey>,
    /// What windows and distances are measured from.
    pub rating: u16,
    pub rating_source: RatingSource,
    /// How far the window reaches now, in points to either side.
    pub window: Option<u16>,
    /// When it next reaches farther; null if it never does.
    pub widens_at: Option<At>,
    /// How many wait within the window.
    pub candidates: Option<u64>,
    /// From 1.
    pub place_in_line: Option<u64>,
    /// How many wait in the pool, this entry included.
    pub waiting: Option<u64>,
    /// When the entry may first meet somebody of those who wait now.
    pub next_meeting_at: Option<At>,
    /// Null also while nobody was matched in the pool.
    pub estimated_wait: Option<EstimatedWait>,
    pub nobody_yet: Option<NobodyYet>,
}

/// A player's wish to be matched.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct QueueEntry {
    pub id: Uid<EntryId>,
    pub entry_id: Uid<EntryId>,
    pub status: EntryStatus,
    /// Since it was queued, also if it was taken for a match meanwhile that came to nothing; until it ended.
    pub waited_seconds: f64,
    pub queued_at: At,
    pub expires_at: At,
    pub ended_at: Option<At>,
    pub max_rating_gap: Option<u16>,
    /// The pool in which somebody is likely to be found first; the next four, and the explanation, are as of it. Null
    /// unless the entry searches.
    pub pool_key: Option<Text<PoolKey>>,
    pub window: Option<u16>,
    pub candidates: Option<u64>,
    pub place_in_line: Option<u64>,
    pub estimated_wait: Option<EstimatedWait>,
    /// Why nobody was found yet, in a sentence.
    pub explanation: Option<String>,
    pub pools: Vec<QueueEntryPool>,
    /// The match that the entry is taken for.
    pub match_id: Option<Uid<MatchRecordId>>,
    /// The pool of that match.
    pub matched_pool_key: Option<Text<PoolKey>>,
    /// Null also where a challenge took the player out of the queue: then the match says it.
    pub side: Option<Side>,
    /// Once matched; null also for somebody who was erased.
    pub opponent_id: Option<Text<UserId>>,
    /// The caller's own notes, as they joined with them.
    pub metadata: Option<Any<Map<String, Value>>>,
    /// The log position that the answer reflects.
    pub position: Pos,
}

/// What passes without anything happening, and is left out of `ETag`.
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

impl From<&Search> for NobodyYet {
    fn from(search: &Search) -> Self {
        let found = &search.explanation;
        Self {
            sentence: found.sentence(),
            ready: count(found.ready),
            out_of_window: count(found.out_of_window),
            rematch: count(found.rematch),
            held_back: count(found.held_back),
            blocked: count(found.blocked),
            gap: count(found.gap),
            never: count(found.never),
        }
    }
}

impl From<&Standing> for QueueEntryPool {
    fn from(standing: &Standing) -> Self {
        let search = standing.search.as_ref();
        let found = search.map(|search| &search.explanation);
        Self {
            pool_key: Text(standing.pool_key.clone()),
            rating: standing.rating.points(),
            rating_source: standing.rating_source.into(),
            window: found.map(|found| found.window),
            widens_at: found.and_then(|found| found.widens_at).map(At),
            candidates: found.map(|found| count(found.in_window)),
            place_in_line: found.map(|found| count(found.place_in_line)),
            waiting: found.map(|found| count(found.others + 1)),
            next_meeting_at: found.and_then(|found| found.next_meeting_at).map(At),
            estimated_wait: search.and_then(|search| search.estimate).map(Into::into),
            nobody_yet: search.map(Into::into),
        }
    }
}

fn status(stored: Stored) -> EntryStatus {
    match stored {
        Stored::Searching => EntryStatus::Searching,
        Stored::Placing => EntryStatus::Placing,
        Stored::Matched => EntryStatus::Matched,
        Stored::Cancelled => EntryStatus::Cancelled,
        Stored::Expired => EntryStatus::Expired,
    }
}

impl QueueEntry {
    /// The entry with its opponent's name and its player's notes, as far as they are known.
    pub(super) fn new(
        view: &EntryView,
        opponent: Option<UserId>,
        metadata: Option<Map<String, Value>>,
    ) -> Self {
        let (entry, queued) = (&view.entry, &view.entry.entry.queued);
        let best = best(&view.standings);
        let found = best.map(|(_, search)| &search.explanation);
        let waited = entry.ended_at.unwrap_or(view.at).since(entry.entry.queued_at);
        let taken = entry.taken.as_ref();
        Self {
            id: Uid(queued.entry_id),
            entry_id: Uid(queued.entry_id),
            status: status(entry.status),
            waited_seconds: waited.as_secs_f64(),
            queued_at: At(entry.entry.queued_at),
            expires_at: At(queued.expires_at),
            ended_at: entry.ended_at.map(At),
            max_rating_gap: queued.max_rating_gap,
            pool_key: best.map(|(standing, _)| Text(standing.pool_key.clone())),
            window: found.map(|found| found.window),
            candidates: found.map(|found| count(found.in_window)),
            place_in_line: found.map(|found| count(found.place_in_line)),
            estimated_wait: best.and_then(|(_, search)| search.estimate).map(Into::into),
            explanation: found.map(|found| found.sentence()),
            pools: view.standings.iter().map(Into::into).collect(),
            match_id: taken.map(|taken| Uid(taken.match_id)),
            matched_pool_key: taken.map(|taken| Text(taken.pool_key.clone())),
            side: taken.and_then(|taken| taken.side).map(Into::into),
            opponent_id: opponent.map(Text),
            metadata: metadata.map(Any),
            position: Pos(view.position),
        }
    }
}
