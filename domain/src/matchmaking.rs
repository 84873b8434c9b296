//! Pairing of queued players: the pure part of the matchmaker, shared by its process, the read models and
//! time travel.
//!
//! Nothing here polls. For every two queued players, their events determine the earliest time at which they
//! can be paired ([`compatibility`]); a [`pass`] pairs all who can be paired now, and a [`timer`] computes
//! the next time at which two can. So an idle pool costs nothing, and a replay decides the same. Start
//! reading at [`compatibility`], then at [`queues`].

pub mod compatibility;
pub mod explanation;
pub mod pass;
pub mod pending_work;
pub mod pool_stats;
pub mod pool_status;
pub mod queues;
mod rating_index;
pub mod statistics;
pub mod status;
pub mod timer;
mod waiting_queue;

use std::collections::{BTreeSet, HashMap};

use event_schemas::ids::{EntryId, EventId, SubjectId};
use event_schemas::rating::{Rating, Skill};
use event_schemas::time::Timestamp;

/// An entry in the queue of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingEntry {
    pub entry_id: EntryId,
    pub player: SubjectId,
    pub queued_at: Timestamp,
    /// Not matched before this time: the time of joining, or a later one after a game could not be created.
    pub eligible_at: Timestamp,
    /// Not matched from this time on.
    pub expires_at: Timestamp,
    pub rating: Rating,
    pub skill: Skill,
    /// The entry's own limit of the rating distance to an opponent.
    pub max_rating_gap: Option<u16>,
    pub last_opponent: Option<SubjectId>,
    pub side_balance: i8,
    /// The number of times the entry was released.
    pub release_count: u32,
    /// The event since which it searches: its joining, or its latest release. It identifies the entry and its
    /// release count globally.
    pub searching_since_event: EventId,
}

/// The position of an entry in the queue: by waiting time, longest first, then by id.
pub type QueueKey = (Timestamp, EntryId);

impl WaitingEntry {
    pub fn key(&self) -> QueueKey {
        (self.queued_at, self.entry_id)
    }
}

/// The blocks between players.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    blocked: HashMap<SubjectId, BTreeSet<SubjectId>>,
    /// The reverse direction.
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

    /// All blocks: the blocking player, and the blocked one.
    pub fn iter(&self) -> impl Iterator<Item = (SubjectId, SubjectId)> {
        self.blocked.iter().flat_map(|(by, others)| others.iter().map(|other| (*by, *other)))
    }

    /// Whether the first blocks the second.
    pub fn has(&self, by: SubjectId, other: SubjectId) -> bool {
        self.blocked.get(&by).is_some_and(|blocked| blocked.contains(&other))
    }

    /// Whether one of the two blocks the other.
    pub fn between(&self, a: SubjectId, b: SubjectId) -> bool {
        !self.blocked.is_empty() && (self.has(a, b) || self.has(b, a))
    }

    /// The players whom the player blocks, then the players who block the player.
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
