//! A pass over a pool: pairs all entries that can be paired now.
//!
//! The longest waiting entry picks first: among the entries within its window that nothing rules out, the one
//! with the smallest rating distance, then the longest waiting, then the lowest entry id. An entry that finds
//! no partner is not a partner of a later entry either, because compatibility is symmetric; so each entry is
//! visited once.

use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;

use super::compatibility::can_pair;
use super::rating_index::{RatingIndex, Ring};
use super::{Blocks, WaitingEntry};
use crate::pool;

/// Two paired entries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pairing<'a> {
    /// The longer waiting entry, which picked the other.
    pub first: &'a WaitingEntry,
    pub second: &'a WaitingEntry,
}

/// A pass in progress. It runs in steps, so that a large pool does not block other tasks; all steps decide
/// for the same point in time.
#[derive(Debug)]
pub struct PairingPass<'a> {
    by_rating: RatingIndex<'a>,
    settings: &'a PoolSettings,
    blocks: &'a Blocks,
    now: Timestamp,
    next: usize,
}

impl<'a> PairingPass<'a> {
    /// A pass over entries of one pool, in queue order.
    pub fn new(
        entries: impl IntoIterator<Item = &'a WaitingEntry>,
        settings: &'a PoolSettings,
        blocks: &'a Blocks,
        now: Timestamp,
    ) -> Self {
        let by_rating = RatingIndex::new(entries.into_iter().collect());
        Self { by_rating, settings, blocks, now, next: 0 }
    }

    /// Whether all entries had their turn.
    pub fn is_done(&self) -> bool {
        self.next >= self.by_rating.len()
    }

    /// Lets the next `entries_max` entries pick. O(entries · entries within the windows that are ruled out).
    pub fn step(&mut self, entries_max: usize) -> Vec<Pairing<'a>> {
        let mut pairs = Vec::new();
        for _ in 0..entries_max {
            if self.is_done() {
                break;
            }
            let index = self.next;
            self.next += 1;
            if self.by_rating.is_removed(index) {
                continue;
            }
            self.by_rating.remove(index);
            let seed = self.by_rating.get(index);
            if let Some(partner) = self.partner(seed) {
                self.by_rating.remove(partner);
                pairs.push(Pairing { first: seed, second: self.by_rating.get(partner) });
            }
        }
        pairs
    }

    /// Runs the remaining steps at once.
    pub fn finish(mut self) -> Vec<Pairing<'a>> {
        self.step(usize::MAX)
    }

    fn partner(&self, seed: &WaitingEntry) -> Option<usize> {
        if self.now < seed.eligible_at || self.now >= seed.expires_at {
            return None;
        }
        // The window of `seed` is the one that counts: it has waited longer, so under either policy no entry
        // beyond it is compatible.
        let window = pool::window_after(self.settings, self.now.since(seed.queued_at));
        let reach = seed.max_rating_gap.map_or(window, |gap| gap.min(window));
        let rings = self.by_rating.outwards(seed.rating.points());
        rings.take_while(|ring| ring.distance <= reach).find_map(|ring| self.first_of(ring, seed))
    }

    fn first_of(&self, ring: Ring, seed: &WaitingEntry) -> Option<usize> {
        let rows = ring.ratings.into_iter().flatten();
        let can_pair =
            |index: &usize| can_pair(seed, self.by_rating.get(*index), self.settings, self.blocks, self.now);
        rows.filter_map(|rating| self.by_rating.row(rating).find(can_pair)).min()
    }
}
