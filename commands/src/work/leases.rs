//! The leases that are open, when they run out, and how the others ended.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use event_schemas::envelope::Idempotency;
use event_schemas::ids::{LeaseId, Position, Tenant, WorkerId};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;

use super::{Origin, Work};

/// How many leases that have ended are remembered, so that a late report is told from one that makes no sense.
const ENDED_MAX: usize = 20_000;

/// The right of a worker to a piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub tenant: Tenant,
    pub work: Work,
    pub kind: WorkKind,
    pub worker_id: WorkerId,
    /// The event that opened it.
    pub origin: Origin,
    /// What it was claimed under, for a claim that is repeated.
    pub idempotency: Option<Idempotency>,
    /// Until when it ran at first, as its claim said.
    pub claimed_until: Timestamp,
    pub attempt: u32,
    /// Of its claim.
    pub position: Position,
}

/// What is known of a lease id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Open(Lease),
    /// It has ended, one way or another.
    Ended(Lease),
    Unknown,
}

/// What a heartbeat comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    Until(Timestamp),
    /// The work was reported as done or failed under this lease, so there is nothing to keep alive.
    Reported,
    /// It ran out, or its job ended.
    Lost,
    Unknown,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Reported,
    Lost,
}

#[derive(Debug)]
pub(super) struct Leases {
    term: Duration,
    open: HashMap<LeaseId, Open>,
    deadlines: BTreeSet<(Timestamp, LeaseId)>,
    ended: HashMap<LeaseId, (Lease, How)>,
    ended_order: VecDeque<LeaseId>,
}

#[derive(Debug)]
struct Open {
    lease: Lease,
    /// None while its end is being recorded, and while its job stands still.
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

    pub(super) fn open(&mut self, id: LeaseId, lease: Lease) {
        let deadline = lease.claimed_until;
        self.open.insert(id, Open { lease, deadline: None });
        self.arm(id, deadline);
    }

    /// Ends the lease, if it is open, and answers what it was.
    pub(super) fn end(&mut self, id: LeaseId, how: How) -> Option<&Lease> {
        self.disarm(id);
        let Open { lease, .. } = self.open.remove(&id)?;
        self.ended_order.push_back(id);
        if self.ended_order.len() > ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        let (lease, _) = self.ended.entry(id).insert_entry((lease, how)).into_mut();
        Some(lease)
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.open.get(&id).map(|open| &open.lease)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn find(&self, tenant: &Tenant, id: LeaseId) -> Found {
        if let Some(open) = self.open.get(&id).filter(|open| open.lease.tenant == *tenant) {
            return Found::Open(open.lease.clone());
        }
        let ended = self.ended.get(&id).filter(|(lease, _)| lease.tenant == *tenant);
        ended.map_or(Found::Unknown, |(lease, _)| Found::Ended(lease.clone()))
    }

    pub(super) fn heartbeat(&mut self, tenant: &Tenant, id: LeaseId, now: Timestamp) -> Beat {
        if let Some(open) = self.open.get(&id).filter(|open| open.lease.tenant == *tenant) {
            let Some(deadline) = open.deadline else { return Beat::Lost };
            let until = deadline.max(now.after(self.term));
            self.arm(id, until);
            return Beat::Until(until);
        }
        match self.ended.get(&id) {
            Some((lease, how)) if lease.tenant == *tenant => match how {
                How::Reported => Beat::Reported,
                How::Lost => Beat::Lost,
            },
            _ => Beat::Unknown,
        }
    }

    /// Lets the lease run out at `deadline`.
    pub(super) fn arm(&mut self, id: LeaseId, deadline: Timestamp) {
        self.disarm(id);
        if let Some(open) = self.open.get_mut(&id) {
            open.deadline = Some(deadline);
            self.deadlines.insert((deadline, id));
        }
    }

    /// Gives the lease one full term from now.
    pub(super) fn renew(&mut self, id: LeaseId, now: Timestamp) {
        self.arm(id, now.after(self.term));
    }

    /// Lets the lease neither run out nor be kept alive.
    pub(super) fn disarm(&mut self, id: LeaseId) {
        if let Some(open) = self.open.get_mut(&id)
            && let Some(deadline) = open.deadline.take()
        {
            self.deadlines.remove(&(deadline, id));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The leases that have run out. None of them is handed out again before it is armed.
    pub(super) fn run_out(&mut self, now: Timestamp) -> Vec<(LeaseId, Lease)> {
        let mut run_out = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.disarm(id);
            run_out.extend(self.get(id).map(|lease| (id, lease.clone())));
        }
        run_out
    }

    /// Lets every lease run one full term from now, even one whose claim saw a clock that was ahead.
    pub(super) fn grant_full_terms(&mut self, now: Timestamp) {
        let armed: Vec<_> = self.deadlines.iter().map(|(_, id)| *id).collect();
        armed.into_iter().for_each(|id| self.renew(id, now));
    }
}
