//! The queues in memory, and what became of the entries that left them.

use std::collections::{BTreeMap, HashMap};

use domain::matchmaking::queues::pieces::Piece;
use domain::matchmaking::queues::{Entry, PoolId, Queues};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ChallengeId, EntryId, MatchRecordId, PoolKey, Position, SubjectId, Tenant};
use event_schemas::match_record::Side;
use event_schemas::player::PlayerEvent;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryStatus {
    Searching,
    /// Taken for a match whose game is being made.
    Placing,
    Matched,
    Cancelled,
    Expired,
}

/// For which match an entry is taken, or was when it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub match_id: MatchRecordId,
    pub pool_key: PoolKey,
    pub opponent: SubjectId,
    /// None in the match of a challenge, which says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// The challenge that the entry was left for, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge_id: Option<ChallengeId>,
}

/// An entry as it is, or as it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueEntry {
    pub entry: Entry,
    pub status: EntryStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// How the entries of a pool ended since ever. An entry that was matched counts where it was matched, others in all their
/// pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    pub matched: u64,
    pub cancelled: u64,
    pub expired: u64,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Hot {
    pub(super) position: Position,
    pub(super) queues: Queues,
    /// The matches of those who are taken for one.
    taken: HashMap<EntryId, Taken>,
    ends: BTreeMap<PoolId, Ends>,
    /// Entries whose end no row tells yet.
    ended: HashMap<EntryId, QueueEntry>,
    /// Where a tenant's queues changed last, since this process began.
    changed_at: BTreeMap<Tenant, Position>,
}

impl Hot {
    pub(super) fn new(
        position: Position,
        queues: Queues,
        taken: HashMap<EntryId, Taken>,
        ends: BTreeMap<PoolId, Ends>,
    ) -> Self {
        Self { position, queues, taken, ends, ..Self::default() }
    }

    /// Folds the next event, and answers the pieces whose rows do not tell the truth any more.
    pub(super) fn fold(&mut self, envelope: &Envelope) -> Vec<Piece> {
        let concerned = self.queues.concerned(envelope);
        let before: Vec<Option<Entry>> = concerned.iter().map(|piece| self.entry_of(piece)).collect();
        self.queues.apply(envelope);
        self.queues.take_changed();
        let mut changed = Vec::with_capacity(concerned.len());
        for (piece, before) in concerned.into_iter().zip(before) {
            match piece {
                Piece::Entry(id) => changed.extend(self.entry_changed(id, before, envelope)),
                other => changed.push(other),
            }
        }
        if !changed.is_empty() {
            self.changed_at.insert(envelope.metadata.tenant.clone(), envelope.position);
        }
        changed
    }

    fn entry_of(&self, piece: &Piece) -> Option<Entry> {
        match piece {
            Piece::Entry(id) => self.queues.entry(*id).cloned(),
            Piece::Pool(_) | Piece::Block(..) | Piece::Proposed(_) => None,
        }
    }

    fn entry_changed(&mut self, id: EntryId, before: Option<Entry>, envelope: &Envelope) -> Vec<Piece> {
        if let Some(now) = self.queues.entry(id) {
            if now.taken_for.is_none() {
                self.taken.remove(&id);
            } else if let Some(taken) = taken(envelope) {
                self.taken.insert(id, taken);
            }
            return vec![Piece::Entry(id)];
        }
        // An event about an entry that is not there changes nothing.
        let Some(entry) = before else { return Vec::new() };
        let (status, taken) = (end(&envelope.event), self.taken.remove(&id));
        let mut changed = self.count_end(&entry, status, taken.as_ref());
        changed.push(Piece::Entry(id));
        let ended_at = Some(envelope.metadata.occurred_at);
        self.ended.insert(id, QueueEntry { entry, status, taken, ended_at });
        changed
    }

    fn count_end(&mut self, entry: &Entry, status: EntryStatus, taken: Option<&Taken>) -> Vec<Piece> {
        let keys: Vec<&PoolKey> = match taken {
            Some(taken) => vec![&taken.pool_key],
            None => entry.queued.pools.iter().map(|pool| &pool.pool_key).collect(),
        };
        let pools = keys.into_iter().map(|key| (entry.tenant.clone(), key.clone()));
        // A challenge may be for a pool in which nobody ever waited.
        let pools: Vec<PoolId> = pools.filter(|pool| self.queues.pool(pool).is_some()).collect();
        for pool in &pools {
            let ends = self.ends.entry(pool.clone()).or_default();
            match status {
                EntryStatus::Cancelled => ends.cancelled += 1,
                EntryStatus::Expired => ends.expired += 1,
                EntryStatus::Matched | EntryStatus::Searching | EntryStatus::Placing => ends.matched += 1,
            }
        }
        pools.into_iter().map(Piece::Pool).collect()
    }

    /// The entry, unless its end is told by its row alone.
    pub(super) fn entry(&self, id: EntryId) -> Option<QueueEntry> {
        let Some(entry) = self.queues.entry(id) else { return self.ended.get(&id).cloned() };
        let status = if entry.taken_for.is_some() { EntryStatus::Placing } else { EntryStatus::Searching };
        let taken = self.taken.get(&id).cloned();
        Some(QueueEntry { entry: entry.clone(), status, taken, ended_at: None })
    }

    pub(super) fn ends(&self, pool: &PoolId) -> Ends {
        self.ends.get(pool).copied().unwrap_or_default()
    }

    /// The position of the last event that changed the queues of a tenant, or of any, since this process began.
    pub(super) fn changed_at(&self, tenant: Option<&Tenant>) -> Option<Position> {
        match tenant {
            Some(tenant) => self.changed_at.get(tenant).copied(),
            None => self.changed_at.values().max().copied(),
        }
    }

    /// The rows tell all there is to tell.
    pub(super) fn stored(&mut self) {
        self.ended.clear();
    }
}

/// For which match the event takes its player.
fn taken(envelope: &Envelope) -> Option<Taken> {
    match &envelope.event {
        Event::Player(PlayerEvent::QueueEntryMatched(event)) => Some(Taken {
            match_id: event.match_id,
            pool_key: event.pool_key.clone(),
            opponent: event.opponent,
            side: Some(event.side),
            challenge_id: None,
        }),
        Event::Player(PlayerEvent::PlayerEngaged(event)) => Some(Taken {
            match_id: event.match_id,
            pool_key: event.pool_key.clone(),
            opponent: event.opponent,
            side: None,
            challenge_id: Some(event.challenge_id),
        }),
        _ => None,
    }
}

/// How an entry has ended that is gone since the event.
fn end(event: &Event) -> EntryStatus {
    match event {
        Event::Player(PlayerEvent::QueueEntryCancelled(_)) => EntryStatus::Cancelled,
        Event::Player(PlayerEvent::QueueEntryExpired(_)) => EntryStatus::Expired,
        // Its match was confirmed, or even played.
        _ => EntryStatus::Matched,
    }
}
