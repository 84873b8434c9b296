//! The open leases with their deadlines, and the latest ended leases.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use event_schemas::envelope::Idempotency;
use event_schemas::ids::{LeaseId, Position, Tenant, WorkerId};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use serde::{Deserialize, Serialize};

use super::{Origin, Work};

/// The number of ended leases that are kept, to distinguish a late report from an unknown lease.
const ENDED_MAX: usize = 20_000;

/// A worker's lease on a work item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub tenant: Tenant,
    pub work: Work,
    pub kind: WorkKind,
    pub worker_id: WorkerId,
    /// The event that opened it.
    pub origin: Origin,
    /// The idempotency key of its claim, to recognise a repeated claim.
    pub idempotency: Option<Idempotency>,
    /// The first deadline, from its claim.
    pub claimed_until: Timestamp,
    pub attempt: u32,
    /// The position of its claim.
    pub position: Position,
}

/// The result of a lookup by lease id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseLookup {
    Open(Lease),
    /// It has ended in some way.
    Ended(Lease),
    Unknown,
}

/// The result of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatResult {
    Until(Timestamp),
    /// The work was reported as completed or failed under this lease, so there is nothing to extend.
    Reported,
    /// It expired, or its job ended.
    Lost,
    Unknown,
}

/// The way in which a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LeaseEnd {
    Reported,
    Lost,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Leases {
    #[serde(skip)]
    term: Duration,
    open: HashMap<LeaseId, Open>,
    deadlines: BTreeSet<(Timestamp, LeaseId)>,
    ended: HashMap<LeaseId, (Lease, LeaseEnd)>,
    ended_order: VecDeque<LeaseId>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Open {
    lease: Lease,
    /// None while its end is being recorded, and while its job is suspended.
    deadline: Option<Timestamp>,
}

impl Leases {
    pub(super) fn new(term: Duration) -> Self {
        Self {
            term,
            open: HashMap::new(),
            deadlines: BTreeSet::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
        }
    }

    pub(super) fn term(&self) -> Duration {
        self.term
    }

    /// The same leases with this term.
    pub(super) fn with_term(self, term: Duration) -> Self {
        Self { term, ..self }
    }

    pub(super) fn open(&mut self, id: LeaseId, lease: Lease) {
        let deadline = lease.claimed_until;
        self.open.insert(id, Open { lease, deadline: None });
        self.set_deadline(id, deadline);
    }

    /// Ends the lease, if it is open, and returns it.
    pub(super) fn end(&mut self, id: LeaseId, end: LeaseEnd) -> Option<&Lease> {
        self.clear_deadline(id);
        let Open { lease, .. } = self.open.remove(&id)?;
        self.ended_order.push_back(id);
        if self.ended_order.len() > ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        let (lease, _) = self.ended.entry(id).insert_entry((lease, end)).into_mut();
        Some(lease)
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.open.get(&id).map(|open| &open.lease)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn find(&self, tenant: &Tenant, id: LeaseId) -> LeaseLookup {
        if let Some(open) = self.open.get(&id).filter(|open| open.lease.tenant == *tenant) {
            return LeaseLookup::Open(open.lease.clone());
        }
        let ended = self.ended.get(&id).filter(|(lease, _)| lease.tenant == *tenant);
        ended.map_or(LeaseLookup::Unknown, |(lease, _)| LeaseLookup::Ended(lease.clone()))
    }

    pub(super) fn heartbeat(&mut self, tenant: &Tenant, id: LeaseId, now: Timestamp) -> HeartbeatResult {
        if let Some(open) = self.open.get(&id).filter(|open| open.lease.tenant == *tenant) {
            let Some(deadline) = open.deadline else { return HeartbeatResult::Lost };
            let until = deadline.max(now.after(self.term));
            self.set_deadline(id, until);
            return HeartbeatResult::Until(until);
        }
        match self.ended.get(&id) {
            Some((lease, end)) if lease.tenant == *tenant => match end {
                LeaseEnd::Reported => HeartbeatResult::Reported,
                LeaseEnd::Lost => HeartbeatResult::Lost,
            },
            _ => HeartbeatResult::Unknown,
        }
    }

    /// Sets the time at which the lease expires.
    pub(super) fn set_deadline(&mut self, id: LeaseId, deadline: Timestamp) {
        self.clear_deadline(id);
        if let Some(open) = self.open.get_mut(&id) {
            open.deadline = Some(deadline);
            self.deadlines.insert((deadline, id));
        }
    }

    /// Gives the lease one full term from now.
    pub(super) fn renew(&mut self, id: LeaseId, now: Timestamp) {
        self.set_deadline(id, now.after(self.term));
    }

    /// Clears the deadline, so that the lease neither expires nor accepts heartbeats.
    pub(super) fn clear_deadline(&mut self, id: LeaseId) {
        if let Some(open) = self.open.get_mut(&id)
            && let Some(deadline) = open.deadline.take()
        {
            self.deadlines.remove(&(deadline, id));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes the expired leases. Each is returned once, unless its deadline is set again.
    pub(super) fn take_expired(&mut self, now: Timestamp) -> Vec<(LeaseId, Lease)> {
        let mut expired = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.clear_deadline(id);
            expired.extend(self.get(id).map(|lease| (id, lease.clone())));
        }
        expired
    }

    /// Gives every lease one full term from now, even one whose claim saw a clock that was ahead.
    pub(super) fn grant_full_terms(&mut self, now: Timestamp) {
        let ids: Vec<_> = self.deadlines.iter().map(|(_, id)| *id).collect();
        ids.into_iter().for_each(|id| self.renew(id, now));
    }
}
