//! Incremental snapshots of the queues: the keys that an event affects, and the restoration from the stored
//! values. With them a read model stores only what has changed, and resumes after a restart without replaying
//! earlier events.

use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::{GameMatchEvent, MatchProposed};
use event_schemas::ids::{EntryId, GameMatchId, SubjectId, Tenant};
use event_schemas::player::{PlayerEvent, ReleaseReason};
use event_schemas::pool::{PoolEvent, PoolSettings};
use serde::{Deserialize, Serialize};

use super::{Entry, Pool, PoolId, Queues};
use crate::matchmaking::statistics::RecentMatches;

/// Incremented when the stored form or the meaning of the fold changes; older snapshots are then discarded.
pub const FORMAT: u32 = 3;

/// The key of a part of the queues that is stored on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirtyKey {
    Entry(EntryId),
    /// Its settings and latest matches. Its queue is derived from the entries.
    Pool(PoolId),
    /// Whether the first blocks the second.
    Block(SubjectId, SubjectId),
    /// A match that is neither confirmed nor abandoned yet.
    Proposed(GameMatchId),
}

/// The stored form of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolSnapshot {
    /// None while it has the defaults.
    pub settings: Option<PoolSettings>,
    pub recent: RecentMatches,
}

/// All stored parts of the queues.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub entries: Vec<Entry>,
    pub pools: Vec<(PoolId, PoolSnapshot)>,
    pub blocks: Vec<(SubjectId, SubjectId)>,
    pub proposed: Vec<(Tenant, MatchProposed)>,
}

impl Queues {
    /// The keys that the event may affect; to be called before it is applied. Most events affect one or two.
    pub fn affected_keys(&self, envelope: &Envelope) -> Vec<DirtyKey> {
        match &envelope.event {
            Event::Player(event) => self.affected_by_player(event, envelope),
            Event::Pool(PoolEvent::PoolConfigured(configured)) => {
                vec![DirtyKey::Pool((envelope.metadata.tenant.clone(), configured.pool_key.clone()))]
            }
            Event::GameMatch(event) => self.affected_by_match(event, envelope),
            _ => Vec::new(),
        }
    }

    fn affected_by_player(&self, event: &PlayerEvent, envelope: &Envelope) -> Vec<DirtyKey> {
        match event {
            PlayerEvent::PlayerQueued(queued) => {
                let pools = queued.pools.iter();
                let pools = pools.map(|pool| (envelope.metadata.tenant.clone(), pool.pool_key.clone()));
                // A pool exists from its first entry on.
                let new = pools.filter(|pool| !self.pools.contains_key(pool)).map(DirtyKey::Pool);
                std::iter::once(DirtyKey::Entry(queued.entry_id)).chain(new).collect()
            }
            PlayerEvent::QueueEntryCancelled(event) => vec![DirtyKey::Entry(event.entry_id)],
            PlayerEvent::QueueEntryExpired(event) => vec![DirtyKey::Entry(event.entry_id)],
            PlayerEvent::QueueEntryMatched(event) => vec![DirtyKey::Entry(event.entry_id)],
            PlayerEvent::QueueEntryReleased(event) => vec![DirtyKey::Entry(event.entry_id)],
            PlayerEvent::PlayerReserved(event) => event.left_entry.into_iter().map(DirtyKey::Entry).collect(),
            PlayerEvent::PlayerReleased(event) if event.reason != ReleaseReason::Abandoned => {
                self.players.get(&event.subject_id).copied().into_iter().map(DirtyKey::Entry).collect()
            }
            PlayerEvent::PlayerBlocked(event) => vec![DirtyKey::Block(event.subject_id, event.blocked)],
            PlayerEvent::PlayerUnblocked(event) => vec![DirtyKey::Block(event.subject_id, event.unblocked)],
            PlayerEvent::PlayerReleased(_) | PlayerEvent::PlayerRated(_) => Vec::new(),
        }
    }

    fn affected_by_match(&self, event: &GameMatchEvent, envelope: &Envelope) -> Vec<DirtyKey> {
        let id = envelope.stream.game_match_id();
        match event {
            GameMatchEvent::MatchProposed(proposed) => vec![DirtyKey::Proposed(proposed.match_id)],
            GameMatchEvent::MatchConfirmed(_) => {
                let Some((tenant, proposed)) = id.and_then(|id| self.proposed.get(&id)) else {
                    return Vec::new();
                };
                let pool = DirtyKey::Pool((tenant.clone(), proposed.pool_key.clone()));
                let players = [&proposed.first, &proposed.second].into_iter();
                let entries = players.filter_map(|player| self.entry_in(player)).map(DirtyKey::Entry);
                [DirtyKey::Proposed(proposed.match_id), pool].into_iter().chain(entries).collect()
            }
            GameMatchEvent::MatchAbandoned(_) => id.into_iter().map(DirtyKey::Proposed).collect(),
            GameMatchEvent::MatchResultReported(_) | GameMatchEvent::MatchExpired(_) => Vec::new(),
        }
    }

    /// The stored form of a pool; none if it was never joined or configured.
    pub fn pool_snapshot(&self, id: &PoolId) -> Option<PoolSnapshot> {
        let pool = self.pools.get(id)?;
        Some(PoolSnapshot { settings: pool.settings, recent: pool.recent.clone() })
    }

    /// A match that is neither confirmed nor abandoned yet, with its tenant.
    pub fn proposed(&self, id: GameMatchId) -> Option<&(Tenant, MatchProposed)> {
        self.proposed.get(&id)
    }

    /// All stored parts.
    pub fn snapshot(&self) -> Snapshot {
        let pool = |id: &PoolId| Some((id.clone(), self.pool_snapshot(id)?));
        Snapshot {
            entries: self.entries.values().cloned().collect(),
            pools: self.pools.keys().filter_map(pool).collect(),
            blocks: self.blocks.iter().collect(),
            proposed: self.proposed.values().cloned().collect(),
        }
    }

    /// Restores the queues from a snapshot. No pool counts as changed: see [`Queues::take_changed`].
    pub fn restore(snapshot: Snapshot) -> Self {
        let mut queues = Self::default();
        for (id, pool) in snapshot.pools {
            let restored = Pool { settings: pool.settings, recent: pool.recent, ..Pool::default() };
            queues.pools.insert(id, restored);
        }
        let mut entries = snapshot.entries;
        entries.sort_by_key(|entry| (entry.queued_at, entry.queued.entry_id));
        for entry in entries {
            match entry.reserved_for {
                Some(_) => queues.count_placing(&entry, 1),
                None => queues.enqueue(&entry),
            }
            queues.players.insert(entry.queued.subject_id, entry.queued.entry_id);
            queues.entries.insert(entry.queued.entry_id, entry);
        }
        for (by, other) in snapshot.blocks {
            queues.blocks.add(by, other);
        }
        let proposed = snapshot.proposed.into_iter();
        queues.proposed =
            proposed.map(|(tenant, proposed)| (proposed.match_id, (tenant, proposed))).collect();
        queues.changed.clear();
        queues
    }
}
