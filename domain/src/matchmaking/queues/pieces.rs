//! The queues in pieces: which of them an event may change, and how they are put together again from what was kept of each.
//! So whoever keeps the fold writes what has changed, and goes on after a restart without the events of before.

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{EntryId, MatchRecordId, SubjectId, Tenant};
use event_schemas::match_record::{MatchProposed, MatchRecordEvent};
use event_schemas::player::{FreedReason, PlayerEvent};
use event_schemas::pool::{PoolEvent, PoolSettings};
use serde::{Deserialize, Serialize};

use super::{Entry, PoolId, PoolLine, Queues};
use crate::matchmaking::statistics::Recent;

/// Rises when the pieces change their form, or the fold its meaning: what was kept before is then of no use.
pub const FORMAT: u32 = 2;

/// A piece of the queues.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Piece {
    Entry(EntryId),
    /// Its settings and latest matches. Who waits there follows from the entries.
    Pool(PoolId),
    /// Whether the first blocks the second.
    Block(SubjectId, SubjectId),
    /// A match of which it is not decided yet whether a game comes.
    Proposed(MatchRecordId),
}

/// What is kept of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptPool {
    /// None while it has the defaults.
    pub settings: Option<PoolSettings>,
    pub recent: Recent,
}

/// All that was kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    pub entries: Vec<Entry>,
    pub pools: Vec<(PoolId, KeptPool)>,
    pub blocks: Vec<(SubjectId, SubjectId)>,
    pub proposed: Vec<(Tenant, MatchProposed)>,
}

impl Queues {
    /// The pieces that the event may change; to be asked before it is applied. Most events concern one or two.
    pub fn concerned(&self, envelope: &Envelope) -> Vec<Piece> {
        match &envelope.event {
            Event::Player(event) => self.concerned_by_player(event, envelope),
            Event::Pool(PoolEvent::PoolConfigured(configured)) => {
                vec![Piece::Pool((envelope.metadata.tenant.clone(), configured.pool_key.clone()))]
            }
            Event::MatchRecord(event) => self.concerned_by_match(event, envelope),
            _ => Vec::new(),
        }
    }

    fn concerned_by_player(&self, event: &PlayerEvent, envelope: &Envelope) -> Vec<Piece> {
        match event {
            PlayerEvent::PlayerQueued(queued) => {
                let pools = queued.pools.iter();
                let pools = pools.map(|pool| (envelope.metadata.tenant.clone(), pool.pool_key.clone()));
                // A pool is there from the first that waits in it.
                let new = pools.filter(|pool| !self.pools.contains_key(pool)).map(Piece::Pool);
                std::iter::once(Piece::Entry(queued.entry_id)).chain(new).collect()
            }
            PlayerEvent::QueueEntryCancelled(event) => vec![Piece::Entry(event.entry_id)],
            PlayerEvent::QueueEntryExpired(event) => vec![Piece::Entry(event.entry_id)],
            PlayerEvent::QueueEntryMatched(event) => vec![Piece::Entry(event.entry_id)],
            PlayerEvent::QueueEntryReleased(event) => vec![Piece::Entry(event.entry_id)],
            PlayerEvent::PlayerEngaged(event) => event.left_entry.into_iter().map(Piece::Entry).collect(),
            PlayerEvent::PlayerFreed(event) if event.reason != FreedReason::Abandoned => {
                self.players.get(&event.subject_id).copied().into_iter().map(Piece::Entry).collect()
            }
            PlayerEvent::PlayerBlocked(event) => vec![Piece::Block(event.subject_id, event.blocked)],
            PlayerEvent::PlayerUnblocked(event) => vec![Piece::Block(event.subject_id, event.unblocked)],
            PlayerEvent::PlayerFreed(_) | PlayerEvent::PlayerRated(_) => Vec::new(),
        }
    }

    fn concerned_by_match(&self, event: &MatchRecordEvent, envelope: &Envelope) -> Vec<Piece> {
        let id = envelope.stream.match_record_id();
        match event {
            MatchRecordEvent::MatchProposed(proposed) => vec![Piece::Proposed(proposed.match_id)],
            MatchRecordEvent::MatchConfirmed(_) => {
                let Some((tenant, proposed)) = id.and_then(|id| self.proposed.get(&id)) else {
                    return Vec::new();
                };
                let pool = Piece::Pool((tenant.clone(), proposed.pool_key.clone()));
                let players = [&proposed.first, &proposed.second].into_iter();
                let entries = players.filter_map(|player| self.entry_in(player)).map(Piece::Entry);
                [Piece::Proposed(proposed.match_id), pool].into_iter().chain(entries).collect()
            }
            MatchRecordEvent::MatchAbandoned(_) => id.into_iter().map(Piece::Proposed).collect(),
            MatchRecordEvent::MatchResultReported(_) | MatchRecordEvent::MatchExpired(_) => Vec::new(),
        }
    }

    /// What there is to keep of a pool; none if nobody ever waited in it or configured it.
    pub fn kept_pool(&self, id: &PoolId) -> Option<KeptPool> {
        let pool = self.pools.get(id)?;
        Some(KeptPool { settings: pool.settings, recent: pool.recent.clone() })
    }

    /// A match of which it is not decided yet whether a game comes, and whose it is.
    pub fn proposed(&self, id: MatchRecordId) -> Option<&(Tenant, MatchProposed)> {
        self.proposed.get(&id)
    }

    /// The queues as they were when all this was kept. No pool counts as changed: see [`Queues::take_changed`].
    pub fn restore(kept: Kept) -> Self {
        let mut queues = Self::default();
        for (id, pool) in kept.pools {
            let line = PoolLine { settings: pool.settings, recent: pool.recent, ..PoolLine::default() };
            queues.pools.insert(id, line);
        }
        let mut entries = kept.entries;
        entries.sort_by_key(|entry| (entry.queued_at, entry.queued.entry_id));
        for entry in entries {
            match entry.taken_for {
                Some(_) => queues.count_placing(&entry, 1),
                None => queues.line_up(&entry),
            }
            queues.players.insert(entry.queued.subject_id, entry.queued.entry_id);
            queues.entries.insert(entry.queued.entry_id, entry);
        }
        for (by, other) in kept.blocks {
            queues.blocks.add(by, other);
        }
        let proposed = kept.proposed.into_iter();
        queues.proposed =
            proposed.map(|(tenant, proposed)| (proposed.match_id, (tenant, proposed))).collect();
        queues.changed.clear();
        queues
    }
}
