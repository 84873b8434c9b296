//! A pass over a pool: takes everyone that may meet now.
//!
//! The longest waiting picks first: of those within the window and not ruled out, the one with the least rating distance,
//! ties to the longest waiting, then by entry id. Who finds nobody is nobody's partner either, because meeting is
//! symmetric, so each entry is looked at once.

use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;

use super::meeting::may_meet;
use super::seats::{Ring, Seats};
use super::{Blocks, Waiting};
use crate::pool;

/// Two who are to play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair<'a> {
    /// The longer waiting, who picked.
    pub seed: &'a Waiting,
    pub partner: &'a Waiting,
}

/// A pass in course. It decides about everyone in steps, so that a large pool leaves room for others in between; all
/// steps decide about the same instant.
#[derive(Debug)]
pub struct Pass<'a> {
    seats: Seats<'a>,
    settings: &'a PoolSettings,
    blocks: &'a Blocks,
    now: Timestamp,
    next: usize,
}

impl<'a> Pass<'a> {
    /// Over entries of one pool, in line order.
    pub fn new(
        line: impl IntoIterator<Item = &'a Waiting>,
        settings: &'a PoolSettings,
        blocks: &'a Blocks,
        now: Timestamp,
    ) -> Self {
        let seats = Seats::new(line.into_iter().collect());
        Self { seats, settings, blocks, now, next: 0 }
    }

    /// Whether everyone had their turn.
    pub fn is_done(&self) -> bool {
        self.next >= self.seats.len()
    }

    /// Lets the next so many entries pick. O(entries · those within the windows that are ruled out).
    pub fn step(&mut self, entries_max: usize) -> Vec<Pair<'a>> {
        let mut pairs = Vec::new();
        for _ in 0..entries_max {
            if self.is_done() {
                break;
            }
            let index = self.next;
            self.next += 1;
            if self.seats.is_gone(index) {
                continue;
            }
            self.seats.leave(index);
            let seed = self.seats.get(index);
            if let Some(partner) = self.partner(seed) {
                self.seats.leave(partner);
                pairs.push(Pair { seed, partner: self.seats.get(partner) });
            }
        }
        pairs
    }

    /// All pairs at once.
    pub fn finish(mut self) -> Vec<Pair<'a>> {
        self.step(usize::MAX)
    }

    fn partner(&self, seed: &Waiting) -> Option<usize> {
        if self.now < seed.eligible_at || self.now >= seed.expires_at {
            return None;
        }
        // Whose window counts, the seed's does: it has waited longer, so under either policy nobody beyond it may meet it.
        let window = pool::window_after(self.settings, self.now.since(seed.queued_at));
        let reach = seed.max_rating_gap.map_or(window, |gap| gap.min(window));
        let rings = self.seats.outwards(seed.rating.points());
        rings.take_while(|ring| ring.distance <= reach).find_map(|ring| self.first_of(ring, seed))
    }

    fn first_of(&self, ring: Ring, seed: &Waiting) -> Option<usize> {
        let rows = ring.ratings.into_iter().flatten();
        let may_meet =
            |index: &usize| may_meet(seed, self.seats.get(*index), self.settings, self.blocks, self.now);
        rows.filter_map(|rating| self.seats.row(rating).find(may_meet)).min()
    }
}
