//! Who meets whom: the pure part of the matchmaker, which its process, read models and time travel share.
//!
//! Nothing here ticks. From the events of those who wait follows, for every two of them, the instant from which they may
//! meet ([`meeting`]); a [`pass`] takes everyone that may meet now, and a [`timer`] says when the next two may. So an idle
//! pool costs nothing, and a replay decides the same. Start reading at [`meeting`], then at [`queues`].

pub mod census;
pub mod explanation;
mod line;
pub mod meeting;
pub mod obligations;
pub mod pass;
pub mod queues;
mod seats;
pub mod standing;
pub mod statistics;
pub mod timer;

use std::collections::{BTreeSet, HashMap};

use event_schemas::ids::{EntryId, EventId, SubjectId};
use event_schemas::rating::{Rating, Skill};
use event_schemas::time::Timestamp;

/// One entry in the line of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub entry_id: EntryId,
    pub player: SubjectId,
    pub queued_at: Timestamp,
    /// Not matched before this instant: that of joining, or a later one after a game that could not be made.
    pub eligible_at: Timestamp,
    /// Not matched from this instant on.
    pub expires_at: Timestamp,
    pub rating: Rating,
    pub skill: Skill,
    /// The entry's own limit of how far away an opponent may be.
    pub max_rating_gap: Option<u16>,
    pub last_opponent: Option<SubjectId>,
    pub side_balance: i8,
    /// How often the entry was released.
    pub round: u32,
    /// The event since which it searches: its joining, or its latest release. It names the round all over the world.
    pub turn: EventId,
}

/// Where an entry stands in line: those who wait longest first, and who came at once by their ids.
pub type Place = (Timestamp, EntryId);

impl Waiting {
    pub fn place(&self) -> Place {
        (self.queued_at, self.entry_id)
    }
}

/// Who does not want to meet whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    blocked: HashMap<SubjectId, BTreeSet<SubjectId>>,
    /// The same from the other side.
    blocked_by: HashMap<SubjectId, BTreeSet<SubjectId>>,
}

impl Blocks {
    pub fn add(&mut self, by: SubjectId, other: SubjectId) {
        self.blocked.entry(by).or_default().insert(other);
        self.blocked_by.entry(other).or_default().insert(by);
    }

    pub fn remove(&mut self, by: SubjectId, other: SubjectId) {
        remove(&mut self.blocked, by, other);
        remove(&mut self.blocked_by, other, by);
    }

    /// Whether the first blocks the second.
    pub fn has(&self, by: SubjectId, other: SubjectId) -> bool {
        self.blocked.get(&by).is_some_and(|blocked| blocked.contains(&other))
    }

    /// Whether one of the two blocks the other.
    pub fn between(&self, a: SubjectId, b: SubjectId) -> bool {
        !self.blocked.is_empty() && (self.has(a, b) || self.has(b, a))
    }

    /// Those whom the player blocks, then those who block the player.
    fn around(&self, player: SubjectId) -> impl Iterator<Item = SubjectId> {
        let sides = [&self.blocked, &self.blocked_by];
        sides.into_iter().filter_map(move |side| side.get(&player)).flatten().copied()
    }
}

fn remove(from: &mut HashMap<SubjectId, BTreeSet<SubjectId>>, of: SubjectId, other: SubjectId) {
    if let Some(set) = from.get_mut(&of) {
        set.remove(&other);
        if set.is_empty() {
            from.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests;
