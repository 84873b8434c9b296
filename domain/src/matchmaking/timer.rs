//! The next time at which two entries can be paired, if no event changes it.

use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;

use super::compatibility::earliest_pairing;
use super::rating_index::RatingIndex;
use super::{Blocks, WaitingEntry};
use crate::pool;

/// The earliest time at which any two of these entries of one pool, in queue order, can be paired; none if no
/// two ever can. A pass at that time finds a pairing, and a pass before it finds none.
///
/// An entry that is expired at `now` is ignored, even if its expiry is not recorded yet: a pairing that it
/// missed must not set the timer.
///
/// Each entry searches outwards among the entries that joined after it, only as far as an earlier pairing is
/// still possible: usually one or two neighbours.
pub fn next_pairing<'a>(
    entries: impl IntoIterator<Item = &'a WaitingEntry>,
    settings: &PoolSettings,
    blocks: &Blocks,
    now: Timestamp,
) -> Option<Timestamp> {
    let waits = |waiting: &&WaitingEntry| now < waiting.expires_at;
    let mut by_rating = RatingIndex::new(entries.into_iter().filter(waits).collect());
    let mut first: Option<Timestamp> = None;
    for index in 0..by_rating.len() {
        by_rating.remove(index);
        first = earliest(&by_rating, by_rating.get(index), settings, blocks, first);
    }
    first
}

fn earliest(
    by_rating: &RatingIndex<'_>,
    seed: &WaitingEntry,
    settings: &PoolSettings,
    blocks: &Blocks,
    mut first: Option<Timestamp>,
) -> Option<Timestamp> {
    for ring in by_rating.outwards(seed.rating.points()) {
        if seed.max_rating_gap.is_some_and(|gap| ring.distance > gap) {
            break;
        }
        // No entry at this distance or farther can be paired earlier than the window and eligibility of
        // `seed` allow.
        let Some(wait) = pool::wait_for(settings, ring.distance) else { break };
        let bound = seed.queued_at.after(wait).max(seed.eligible_at);
        let is_late = |first: Option<Timestamp>| first.is_some_and(|first| first <= bound);
        if is_late(first) {
            break;
        }
        for index in ring.ratings.into_iter().flatten().flat_map(|rating| by_rating.row(rating)) {
            if let Ok(pairing) = earliest_pairing(seed, by_rating.get(index), settings, blocks) {
                first = Some(first.map_or(pairing.at, |first| first.min(pairing.at)));
                if is_late(first) {
                    return first;
                }
            }
        }
    }
    first
}
