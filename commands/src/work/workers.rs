//! Which workers are there, and what they hold.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, LeaseId, Tenant, WorkerId};
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkerEnd, WorkerEvent};

use super::{Gone, Origin, Work};

/// A worker that was not heard of for a whole term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    pub tenant: Tenant,
    pub worker_id: WorkerId,
    pub last_seen_at: Timestamp,
    /// The event since which it was present.
    pub origin: Origin,
}

/// The leases of one job that a worker left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphans {
    pub tenant: Tenant,
    pub worker_id: WorkerId,
    pub gone: Gone,
    pub job_id: JobId,
    pub leases: Vec<(LeaseId, Work)>,
}

#[derive(Debug)]
pub(super) struct Workers {
    term: Duration,
    known: HashMap<(Tenant, WorkerId), Worker>,
}

#[derive(Debug)]
struct Worker {
    /// None while it is present.
    gone: Option<Gone>,
    last_seen: Timestamp,
    /// Its last change of presence.
    origin: Origin,
    leases: BTreeSet<LeaseId>,
}

impl Workers {
    pub(super) fn new(term: Duration) -> Self {
        Self { term, known: HashMap::new() }
    }

    pub(super) fn apply(&mut self, event: &WorkerEvent, envelope: &Envelope, now: Timestamp) {
        let (worker_id, end) = match event {
            WorkerEvent::WorkerRegistered(event) => (&event.worker_id, None),
            WorkerEvent::WorkerReturned(event) => (&event.worker_id, None),
            WorkerEvent::WorkerLost(event) => (&event.worker_id, Some(WorkerEnd::Lost)),
            WorkerEvent::WorkerExited(event) => (&event.worker_id, Some(event.end)),
        };
        let origin = Origin::of(envelope);
        // The log's time may be ahead of the clock, if that was set back; a worker is not heard of in the future.
        let heard = envelope.recorded_at.min(now);
        let key = (envelope.metadata.tenant.clone(), worker_id.clone());
        let worker = self.known.entry(key.clone()).or_insert_with(|| Worker {
            gone: None,
            last_seen: heard,
            origin,
            leases: BTreeSet::new(),
        });
        worker.origin = origin;
        worker.gone = end.map(|end| Gone { end, origin });
        if end.is_none() {
            worker.last_seen = worker.last_seen.max(heard);
        }
        self.forget_if_gone(key);
    }

    /// Notes that the worker was heard of. False if it is not known to be present.
    pub(super) fn seen(&mut self, tenant: &Tenant, worker_id: &WorkerId, now: Timestamp) -> bool {
        match self.known.get_mut(&(tenant.clone(), worker_id.clone())) {
            Some(worker) if worker.gone.is_none() => {
                worker.last_seen = worker.last_seen.max(now);
                true
            }
            _ => false,
        }
    }

    pub(super) fn took(&mut self, tenant: &Tenant, worker_id: &WorkerId, lease: LeaseId, at: Timestamp) {
        if let Some(worker) = self.known.get_mut(&(tenant.clone(), worker_id.clone())) {
            worker.leases.insert(lease);
            worker.last_seen = worker.last_seen.max(at);
        }
    }

    pub(super) fn gave_up(&mut self, tenant: &Tenant, worker_id: &WorkerId, lease: LeaseId) {
        if let Some(worker) = self.known.get_mut(&(tenant.clone(), worker_id.clone())) {
            worker.leases.remove(&lease);
        }
        self.forget_if_gone((tenant.clone(), worker_id.clone()));
    }

    /// Of a worker that is gone and holds nothing there is nothing to know.
    fn forget_if_gone(&mut self, key: (Tenant, WorkerId)) {
        if let Entry::Occupied(worker) = self.known.entry(key)
            && worker.get().gone.is_some()
            && worker.get().leases.is_empty()
        {
            worker.remove();
        }
    }

    pub(super) fn all_seen(&mut self, now: Timestamp) {
        self.known.values_mut().for_each(|worker| worker.last_seen = worker.last_seen.max(now));
    }

    pub(super) fn present(&self) -> usize {
        self.known.values().filter(|worker| worker.gone.is_none()).count()
    }

    pub(super) fn next_silence(&self) -> Option<Timestamp> {
        let present = self.known.values().filter(|worker| worker.gone.is_none());
        present.map(|worker| worker.last_seen.after(self.term)).min()
    }

    pub(super) fn overdue(&self, now: Timestamp) -> Vec<Overdue> {
        let overdue = |worker: &Worker| worker.gone.is_none() && worker.last_seen.after(self.term) <= now;
        let mut overdue: Vec<_> = self
            .known
            .iter()
            .filter(|(_, worker)| overdue(worker))
            .map(|((tenant, worker_id), worker)| Overdue {
                tenant: tenant.clone(),
                worker_id: worker_id.clone(),
                last_seen_at: worker.last_seen,
                origin: worker.origin,
            })
            .collect();
        overdue.sort_by(|a, b| (&a.tenant, &a.worker_id).cmp(&(&b.tenant, &b.worker_id)));
        overdue
    }

    /// The workers that are gone and hold leases still.
    pub(super) fn gone_with_leases(
        &self,
    ) -> impl Iterator<Item = (&Tenant, &WorkerId, Gone, &BTreeSet<LeaseId>)> {
        self.known.iter().filter(|(_, worker)| !worker.leases.is_empty()).filter_map(
            |((tenant, worker_id), worker)| Some((tenant, worker_id, worker.gone?, &worker.leases)),
        )
    }
}
