//! The workers and their leases.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, LeaseId, Tenant, WorkerId};
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkerEnd, WorkerEvent};
use serde::{Deserialize, Serialize};

use super::{Origin, Work, WorkBoard, WorkerGone};

/// A worker without a heartbeat for a whole term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedOutWorker {
    pub tenant: Tenant,
    pub worker_id: WorkerId,
    pub last_seen_at: Timestamp,
    /// The event that made it present.
    pub origin: Origin,
}

/// The leases on one job that a gone worker still has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrphanedLeases {
    pub tenant: Tenant,
    pub worker_id: WorkerId,
    pub gone: WorkerGone,
    pub job_id: JobId,
    pub leases: Vec<(LeaseId, Work)>,
}

impl WorkBoard {
    /// The latest sign of life of a present worker.
    pub(crate) fn last_seen(&self, tenant: &Tenant, worker_id: &WorkerId) -> Option<Timestamp> {
        self.locked().workers.last_seen(tenant, worker_id)
    }

    /// True if the worker is present and has open leases.
    pub(crate) fn is_present_with_leases(&self, tenant: &Tenant, worker_id: &WorkerId) -> bool {
        self.locked().workers.is_present_with_leases(tenant, worker_id)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Workers {
    #[serde(skip)]
    term: Duration,
    #[serde(with = "domain::map_as_list")]
    known: HashMap<(Tenant, WorkerId), Worker>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Worker {
    /// None while it is present.
    gone: Option<WorkerGone>,
    last_seen: Timestamp,
    /// The event of its last change of presence.
    origin: Origin,
    leases: BTreeSet<LeaseId>,
}

impl Workers {
    pub(super) fn new(term: Duration) -> Self {
        Self { term, known: HashMap::new() }
    }

    /// The same workers with this term, read from a snapshot: the clock may have been set back since.
    pub(super) fn restored(mut self, term: Duration, now: Timestamp) -> Self {
        self.known.values_mut().for_each(|worker| worker.last_seen = worker.last_seen.min(now));
        Self { term, ..self }
    }

    pub(super) fn apply(&mut self, event: &WorkerEvent, envelope: &Envelope, now: Timestamp) {
        let (worker_id, end) = match event {
            WorkerEvent::WorkerRegistered(event) => (&event.worker_id, None),
            WorkerEvent::WorkerReturned(event) => (&event.worker_id, None),
            WorkerEvent::WorkerLost(event) => (&event.worker_id, Some(WorkerEnd::Lost)),
            WorkerEvent::WorkerExited(event) => (&event.worker_id, Some(event.end)),
        };
        let origin = Origin::of(envelope);
        // The log's time is ahead of a clock that was set back; a heartbeat is never in the future.
        let heard_at = envelope.recorded_at.min(now);
        let key = (envelope.metadata.tenant.clone(), worker_id.clone());
        let worker = self.known.entry(key.clone()).or_insert_with(|| Worker {
            gone: None,
            last_seen: heard_at,
            origin,
            leases: BTreeSet::new(),
        });
        worker.origin = origin;
        worker.gone = end.map(|end| WorkerGone { end, origin });
        if end.is_none() {
            worker.last_seen = worker.last_seen.max(heard_at);
        }
        self.forget_if_gone(key);
    }

    /// Records a heartbeat. False if the worker is not known to be present.
    pub(super) fn heartbeat(&mut self, tenant: &Tenant, worker_id: &WorkerId, now: Timestamp) -> bool {
        match self.known.get_mut(&(tenant.clone(), worker_id.clone())) {
            Some(worker) if worker.gone.is_none() => {
                worker.last_seen = worker.last_seen.max(now);
                true
            }
            _ => false,
        }
    }

    pub(super) fn lease_acquired(
        &mut self,
        tenant: &Tenant,
        worker_id: &WorkerId,
        lease: LeaseId,
        at: Timestamp,
    ) {
        if let Some(worker) = self.known.get_mut(&(tenant.clone(), worker_id.clone())) {
            worker.leases.insert(lease);
            worker.last_seen = worker.last_seen.max(at);
        }
    }

    pub(super) fn lease_released(&mut self, tenant: &Tenant, worker_id: &WorkerId, lease: LeaseId) {
        if let Some(worker) = self.known.get_mut(&(tenant.clone(), worker_id.clone())) {
            worker.leases.remove(&lease);
        }
        self.forget_if_gone((tenant.clone(), worker_id.clone()));
    }

    pub(super) fn last_seen(&self, tenant: &Tenant, worker_id: &WorkerId) -> Option<Timestamp> {
        let worker = self.known.get(&(tenant.clone(), worker_id.clone()))?;
        worker.gone.is_none().then_some(worker.last_seen)
    }

    pub(super) fn is_present_with_leases(&self, tenant: &Tenant, worker_id: &WorkerId) -> bool {
        let worker = self.known.get(&(tenant.clone(), worker_id.clone()));
        worker.is_some_and(|worker| worker.gone.is_none() && !worker.leases.is_empty())
    }

    /// Forgets a worker that is gone and has no leases.
    fn forget_if_gone(&mut self, key: (Tenant, WorkerId)) {
        if let Entry::Occupied(worker) = self.known.entry(key)
            && worker.get().gone.is_some()
            && worker.get().leases.is_empty()
        {
            worker.remove();
        }
    }

    pub(super) fn grant_full_terms(&mut self, now: Timestamp) {
        self.known.values_mut().for_each(|worker| worker.last_seen = worker.last_seen.max(now));
    }

    pub(super) fn present(&self) -> usize {
        self.known.values().filter(|worker| worker.gone.is_none()).count()
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let present = self.known.values().filter(|worker| worker.gone.is_none());
        present.map(|worker| worker.last_seen.after(self.term)).min()
    }

    pub(super) fn timed_out(&self, now: Timestamp) -> Vec<TimedOutWorker> {
        let timed_out = |worker: &Worker| worker.gone.is_none() && worker.last_seen.after(self.term) <= now;
        let mut timed_out: Vec<_> = self
            .known
            .iter()
            .filter(|(_, worker)| timed_out(worker))
            .map(|((tenant, worker_id), worker)| TimedOutWorker {
                tenant: tenant.clone(),
                worker_id: worker_id.clone(),
                last_seen_at: worker.last_seen,
                origin: worker.origin,
            })
            .collect();
        timed_out.sort_by(|a, b| (&a.tenant, &a.worker_id).cmp(&(&b.tenant, &b.worker_id)));
        timed_out
    }

    /// The gone workers that still have leases.
    pub(super) fn gone_with_leases(
        &self,
    ) -> impl Iterator<Item = (&Tenant, &WorkerId, WorkerGone, &BTreeSet<LeaseId>)> {
        self.known.iter().filter(|(_, worker)| !worker.leases.is_empty()).filter_map(
            |((tenant, worker_id), worker)| Some((tenant, worker_id, worker.gone?, &worker.leases)),
        )
    }
}
