//! The queues in memory, and the ended entries that are not stored.

use std::collections::{BTreeMap, HashMap};

use domain::matchmaking::queues::snapshot::DirtyKey;
use domain::matchmaking::queues::{Entry, PoolId, Queues};
pub use domain::matchmaking::status::EntryStatus;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::Side;
use event_schemas::ids::{ChallengeId, EntryId, GameMatchId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::player::PlayerEvent;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The match that a queue entry is reserved for, or was when it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    pub match_id: GameMatchId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
    /// None in the match of a challenge: its match proposal contains the sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// The challenge for which the player left the queue, if that was the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge_id: Option<ChallengeId>,
}

/// A queue entry in its current or last state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueEntry {
    pub entry: Entry,
    pub status: EntryStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// The total numbers of ended entries of a pool, by outcome. A matched entry counts in the pool of its match, another
/// one in all its pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryOutcomes {
    pub matched: u64,
    pub cancelled: u64,
    pub expired: u64,
}

/// The fold of the queues, shared by readers and projector.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct LiveQueues {
    pub(super) position: Position,
    pub(super) queues: Queues,
    reservations: HashMap<EntryId, Reservation>,
    outcomes: BTreeMap<PoolId, EntryOutcomes>,
    /// Ended entries whose rows are not stored yet.
    ended: HashMap<EntryId, QueueEntry>,
    /// The position of the last change of each tenant's queues since this process started.
    changed_at: BTreeMap<Tenant, Position>,
}

impl LiveQueues {
    pub(super) fn new(
        position: Position,
        queues: Queues,
        reservations: HashMap<EntryId, Reservation>,
        outcomes: BTreeMap<PoolId, EntryOutcomes>,
    ) -> Self {
        Self { position, queues, reservations, outcomes, ..Self::default() }
    }

    /// Folds the next event, and returns the keys of the rows that it changes.
    pub(super) fn fold(&mut self, envelope: &Envelope) -> Vec<DirtyKey> {
        let affected = self.queues.affected_keys(envelope);
        let before: Vec<Option<Entry>> = affected.iter().map(|key| self.entry_of(key)).collect();
        self.queues.apply(envelope);
        self.queues.take_changed();
        let mut changed = Vec::with_capacity(affected.len());
        for (key, before) in affected.into_iter().zip(before) {
            match key {
                DirtyKey::Entry(id) => changed.extend(self.entry_changed(id, before, envelope)),
                other => changed.push(other),
            }
        }
        if !changed.is_empty() {
            self.changed_at.insert(envelope.metadata.tenant.clone(), envelope.position);
        }
        changed
    }

    fn entry_of(&self, key: &DirtyKey) -> Option<Entry> {
        match key {
            DirtyKey::Entry(id) => self.queues.entry(*id).cloned(),
            DirtyKey::Pool(_) | DirtyKey::Block(..) | DirtyKey::Proposed(_) => None,
        }
    }

    fn entry_changed(&mut self, id: EntryId, before: Option<Entry>, envelope: &Envelope) -> Vec<DirtyKey> {
        if let Some(now) = self.queues.entry(id) {
            if now.reserved_for.is_none() {
                self.reservations.remove(&id);
            } else if let Some(reservation) = reservation(envelope) {
                self.reservations.insert(id, reservation);
            }
            return vec![DirtyKey::Entry(id)];
        }
        // An event of an unknown entry is ignored.
        let Some(entry) = before else { return Vec::new() };
        let (status, reservation) = (end_status(&envelope.event), self.reservations.remove(&id));
        let mut changed = self.count_outcome(&entry, status, reservation.as_ref());
        changed.push(DirtyKey::Entry(id));
        let ended_at = Some(envelope.metadata.occurred_at);
        self.ended.insert(id, QueueEntry { entry, status, reservation, ended_at });
        changed
    }

    fn count_outcome(
        &mut self,
        entry: &Entry,
        status: EntryStatus,
        reservation: Option<&Reservation>,
    ) -> Vec<DirtyKey> {
        let keys: Vec<&PoolKey> = match reservation {
            Some(reservation) => vec![&reservation.pool_key],
            None => entry.queued.pools.iter().map(|pool| &pool.pool_key).collect(),
        };
        let pools = keys.into_iter().map(|key| (entry.tenant.clone(), key.clone()));
        // A challenge may name a pool that no player has ever joined.
        let pools: Vec<PoolId> = pools.filter(|pool| self.queues.pool(pool).is_some()).collect();
        for pool in &pools {
            let outcomes = self.outcomes.entry(pool.clone()).or_default();
            match status {
                EntryStatus::Cancelled => outcomes.cancelled += 1,
                EntryStatus::Expired => outcomes.expired += 1,
                EntryStatus::Matched | EntryStatus::Searching | EntryStatus::Placing => {
                    outcomes.matched += 1;
                }
            }
        }
        pools.into_iter().map(DirtyKey::Pool).collect()
    }

    /// The entry, unless it has ended and its row is stored.
    pub(super) fn entry(&self, id: EntryId) -> Option<QueueEntry> {
        let Some(entry) = self.queues.entry(id) else { return self.ended.get(&id).cloned() };
        let status = if entry.reserved_for.is_some() { EntryStatus::Placing } else { EntryStatus::Searching };
        let reservation = self.reservations.get(&id).cloned();
        Some(QueueEntry { entry: entry.clone(), status, reservation, ended_at: None })
    }

    pub(super) fn outcomes(&self, pool: &PoolId) -> EntryOutcomes {
        self.outcomes.get(pool).copied().unwrap_or_default()
    }

    /// The position of the last event that changed the tenant's queues, or any queue, since this process started.
    pub(super) fn changed_at(&self, tenant: Option<&Tenant>) -> Option<Position> {
        match tenant {
            Some(tenant) => self.changed_at.get(tenant).copied(),
            None => self.changed_at.values().max().copied(),
        }
    }

    /// All ended entries are stored.
    pub(super) fn mark_stored(&mut self) {
        self.ended.clear();
    }
}

/// The match that the event reserves its player for.
fn reservation(envelope: &Envelope) -> Option<Reservation> {
    match &envelope.event {
        Event::Player(PlayerEvent::QueueEntryMatched(event)) => Some(Reservation {
            match_id: event.match_id,
            pool_key: event.pool_key.clone(),
            opponent: event.opponent,
            side: Some(event.side),
            challenge_id: None,
        }),
        Event::Player(PlayerEvent::PlayerReserved(event)) => Some(Reservation {
            match_id: event.match_id,
            pool_key: event.pool_key.clone(),
            opponent: event.opponent,
            side: None,
            challenge_id: Some(event.challenge_id),
        }),
        _ => None,
    }
}

/// The last status of an entry that the event removes.
fn end_status(event: &Event) -> EntryStatus {
    match event {
        Event::Player(PlayerEvent::QueueEntryCancelled(_)) => EntryStatus::Cancelled,
        Event::Player(PlayerEvent::QueueEntryExpired(_)) => EntryStatus::Expired,
        // Its match was confirmed, and may already have been played.
        _ => EntryStatus::Matched,
    }
}
