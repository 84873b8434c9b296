//! Explains why an entry has no opponent yet, and when it may get one.

use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;

use super::compatibility::{
    DelayedBy, EarliestPairing, Incompatible, earliest_pairing, earliest_pairing_of_strangers,
};
use super::waiting_queue::{EntryView, WaitingQueue};
use super::{Blocks, WaitingEntry};
use crate::pool;

/// One entry's view of its pool at a point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The current rating window of the entry, to either side.
    pub window: u16,
    /// The next time at which the window widens, if it ever does.
    pub widens_at: Option<Timestamp>,
    /// The entry's position in the queue of the pool, from 1.
    pub place_in_line: usize,
    /// The number of other entries in the pool.
    pub others: usize,
    /// The number of entries within the rating window, even if something else rules them out.
    pub in_window: usize,
    /// The number of entries that it can be paired with now; the next pass will do it.
    pub ready: usize,
    /// The number of entries that a rating window does not cover yet, but will.
    pub out_of_window: usize,
    /// The last opponent, with whom a rematch is possible later.
    pub rematch: usize,
    /// The number of pairings delayed by a cooldown, after a game that could not be created.
    pub cooldown: usize,
    pub blocked: usize,
    /// The number of entries beyond the rating limit of either entry.
    pub rating_gap: usize,
    /// The number of entries that no rating window will cover before one of the two expires.
    pub unreachable: usize,
    /// The earliest time at which it can be paired with a queued entry.
    pub next_pairing_at: Option<Timestamp>,
}

impl Explanation {
    /// A sentence that explains why there is no opponent yet. It contains no times, so that it stays the same
    /// while nothing changes.
    pub fn sentence(&self) -> String {
        let later = self.out_of_window + self.rematch + self.cooldown;
        if self.others == 0 {
            return "no other player is waiting in this pool".to_owned();
        }
        if self.ready > 0 {
            return format!("{} can be paired now, and a match is being made", players(self.ready));
        }
        let reasons = self.reasons();
        if later > 0 {
            format!("no player can be paired yet, but {} later: {reasons}", players(later))
        } else {
            format!(
                "none of the waiting players can be paired with this entry, so another player has to join: {reasons}"
            )
        }
    }

    fn reasons(&self) -> String {
        let reasons = [
            (self.out_of_window, "outside the rating window for now"),
            (self.rematch, "in the rematch delay"),
            (self.cooldown, "in the cooldown after a failed game"),
            (self.rating_gap, "beyond the maximum rating distance"),
            (self.blocked, "blocked"),
            (self.unreachable, "out of reach before an entry expires"),
        ];
        let reasons = reasons.into_iter().filter(|(count, _)| *count > 0);
        reasons.map(|(count, reason)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
    }
}

fn players(count: usize) -> String {
    if count == 1 { "1 player".to_owned() } else { format!("{count} players") }
}

/// Evaluates the queue of a pool for one of its entries. O(queue), a few nanoseconds per stranger.
pub(super) fn explain(
    of: &WaitingEntry,
    queue: &WaitingQueue,
    settings: &PoolSettings,
    blocks: &Blocks,
    now: Timestamp,
) -> Explanation {
    let waited = now.since(of.queued_at);
    let window = pool::window_after(settings, waited);
    let widens_at = (window < settings.window_max && settings.widen_by > 0).then(|| {
        let next = pool::wait_for(settings, window.saturating_add(1)).unwrap_or(waited);
        of.queued_at.after(next)
    });
    let mut explanation = Explanation { window, widens_at, place_in_line: 1, ..Explanation::default() };
    let (own, waits) = (of.terms(), pool::waits(settings));
    for (other, is_before) in queue.views_for(of, blocks) {
        explanation.place_in_line += usize::from(is_before);
        match other {
            EntryView::Compact(terms) => {
                let earliest = earliest_pairing_of_strangers(&own, terms, settings.window_policy, &waits);
                explanation.count(of.rating.distance(terms.rating), earliest, now);
            }
            EntryView::Full(other) if other.entry_id == of.entry_id => {}
            EntryView::Full(other) => {
                let earliest = earliest_pairing(of, other, settings, blocks);
                explanation.count(of.rating.distance(other.rating), earliest, now);
            }
        }
    }
    explanation
}

impl Explanation {
    fn count(&mut self, distance: u16, earliest: Result<EarliestPairing, Incompatible>, now: Timestamp) {
        self.others += 1;
        self.in_window += usize::from(distance <= self.window);
        match earliest {
            Ok(earliest) => {
                let next = self.next_pairing_at.map_or(earliest.at, |next| next.min(earliest.at));
                self.next_pairing_at = Some(next);
                match earliest.delayed_by {
                    _ if earliest.at <= now => self.ready += 1,
                    DelayedBy::Arrival | DelayedBy::Window => self.out_of_window += 1,
                    DelayedBy::Rematch => self.rematch += 1,
                    DelayedBy::Eligibility => self.cooldown += 1,
                }
            }
            Err(Incompatible::Blocked) => self.blocked += 1,
            Err(Incompatible::Gap) => self.rating_gap += 1,
            Err(Incompatible::SamePlayer | Incompatible::Window | Incompatible::Expiry) => {
                self.unreachable += 1;
            }
        }
    }
}
