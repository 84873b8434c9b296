//! Why nobody was found for an entry yet, and when somebody may be.

use event_schemas::pool::PoolSettings;
use event_schemas::time::Timestamp;

use super::line::{Line, Seen};
use super::meeting::{Bar, Behind, Meeting, meeting, meeting_of_strangers};
use super::{Blocks, Waiting};
use crate::pool;

/// One entry's view of its pool at an instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// How far the entry's window reaches now, to either side.
    pub window: u16,
    /// When it next reaches farther, if it ever does.
    pub widens_at: Option<Timestamp>,
    /// From 1: the entry's place among those who wait in the pool.
    pub place_in_line: usize,
    /// How many others wait in the pool.
    pub others: usize,
    /// Those within the entry's window, whatever else rules them out.
    pub in_window: usize,
    /// Those whom it may meet now; a pass is about to take them.
    pub ready: usize,
    /// Those still out of the window that counts, which will reach them.
    pub out_of_window: usize,
    /// The last opponent, whom it meets again later.
    pub rematch: usize,
    /// Those for whom, or it for whom, a game could not be made just now.
    pub held_back: usize,
    pub blocked: usize,
    /// Those farther away than one of the two wants.
    pub gap: usize,
    /// Those whom no window will reach before somebody's time is over.
    pub never: usize,
    /// When the entry may first meet somebody who waits now.
    pub next_meeting_at: Option<Timestamp>,
}

impl Explanation {
    /// In a sentence, why nobody was found yet. Without instants, so that it stays the same while nothing changes.
    pub fn sentence(&self) -> String {
        let later = self.out_of_window + self.rematch + self.held_back;
        if self.others == 0 {
            return "nobody else waits in this pool".to_owned();
        }
        if self.ready > 0 {
            return format!("{} can be met now, and a match is being made", players(self.ready));
        }
        let reasons = self.reasons();
        if later > 0 {
            format!("nobody can be met yet, but {} later on: {reasons}", players(later))
        } else {
            format!("none of those who wait now can ever be met, so somebody else has to come: {reasons}")
        }
    }

    fn reasons(&self) -> String {
        let reasons = [
            (self.out_of_window, "still out of the window"),
            (self.rematch, "met last, and met again only after some waiting"),
            (self.held_back, "held back for a moment after a game that could not be made"),
            (self.gap, "farther away than one of the two wants"),
            (self.blocked, "blocked"),
            (self.never, "out of reach of any window before somebody's time is over"),
        ];
        let reasons = reasons.into_iter().filter(|(count, _)| *count > 0);
        reasons.map(|(count, reason)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
    }
}

fn players(count: usize) -> String {
    if count == 1 { "1 player".to_owned() } else { format!("{count} players") }
}

/// Looks at a pool's line with the eyes of one of those who wait there. O(line), a few nanoseconds for each stranger.
pub(super) fn explain(
    of: &Waiting,
    line: &Line,
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
    for (other, is_before) in line.seen_by(of, blocks) {
        explanation.place_in_line += usize::from(is_before);
        match other {
            Seen::Stranger(terms) => {
                let meeting = meeting_of_strangers(&own, terms, settings.window_policy, &waits);
                explanation.count(of.rating.distance(terms.rating), meeting, now);
            }
            Seen::Known(other) if other.entry_id == of.entry_id => {}
            Seen::Known(other) => {
                let meeting = meeting(of, other, settings, blocks);
                explanation.count(of.rating.distance(other.rating), meeting, now);
            }
        }
    }
    explanation
}

impl Explanation {
    fn count(&mut self, distance: u16, meeting: Result<Meeting, Bar>, now: Timestamp) {
        self.others += 1;
        self.in_window += usize::from(distance <= self.window);
        match meeting {
            Ok(meeting) => {
                let next = self.next_meeting_at.map_or(meeting.at, |next| next.min(meeting.at));
                self.next_meeting_at = Some(next);
                match meeting.behind {
                    _ if meeting.at <= now => self.ready += 1,
                    Behind::Arrival | Behind::Window => self.out_of_window += 1,
                    Behind::Rematch => self.rematch += 1,
                    Behind::Eligibility => self.held_back += 1,
                }
            }
            Err(Bar::Blocked) => self.blocked += 1,
            Err(Bar::Gap) => self.gap += 1,
            Err(Bar::SamePlayer | Bar::Window | Bar::Expiry) => self.never += 1,
        }
    }
}
