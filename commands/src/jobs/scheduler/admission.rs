//! The admission of a tenant's work by kind: none while the tenant's circuit breaker of a service that it needs is open,
//! and a few probes while it is half-open.

use std::collections::{BTreeSet, HashMap};

use domain::job::service::{Admission, Services};
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::{JobEvent, JobKind};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use serde::{Deserialize, Serialize};

/// The kinds that are claimed as whole jobs.
const KINDS: [(WorkKind, JobKind); 5] = [
    (WorkKind::VideoAnalysis, JobKind::VideoAnalysis),
    (WorkKind::ExtractCutouts, JobKind::ExtractCutouts),
    (WorkKind::ExtractProducts, JobKind::ExtractProducts),
    (WorkKind::ExtractSingleProduct, JobKind::ExtractSingleProduct),
    (WorkKind::ModelTraining, JobKind::ModelTraining),
];

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct AdmissionControl {
    pub(super) services: Services,
    /// The number of work items of each kind that claims have reserved, and that no event has recorded yet.
    #[serde(skip)]
    reserved: HashMap<(Tenant, WorkKind), usize>,
    /// The limited capacities at the last check.
    #[serde(skip)]
    last_capacity: HashMap<(Tenant, WorkKind), usize>,
}

impl AdmissionControl {
    pub(super) fn apply(&mut self, tenant: &Tenant, job: JobId, event: &JobEvent, at: Timestamp) {
        self.services.apply(tenant, job, event, at);
    }

    /// The number of the tenant's work items of the kind that may start now.
    pub(super) fn capacity(&self, tenant: &Tenant, kind: WorkKind, now: Timestamp) -> usize {
        let Some((_, job_kind)) = KINDS.iter().find(|(known, _)| *known == kind) else { return usize::MAX };
        match self.services.admission(tenant, *job_kind, now) {
            Admission::All => usize::MAX,
            Admission::Probes(probes) => {
                let reserved = self.reserved.get(&(tenant.clone(), kind)).copied();
                probes.saturating_sub(reserved.unwrap_or_default())
            }
            Admission::CircuitOpen { .. } => 0,
        }
    }

    pub(super) fn reserve(&mut self, tenant: &Tenant, kind: WorkKind) {
        *self.reserved.entry((tenant.clone(), kind)).or_default() += 1;
    }

    pub(super) fn release(&mut self, tenant: &Tenant, kind: WorkKind) {
        let key = (tenant.clone(), kind);
        if let Some(reserved) = self.reserved.get_mut(&key) {
            *reserved = reserved.saturating_sub(1);
            if *reserved == 0 {
                self.reserved.remove(&key);
            }
        }
    }

    /// The kinds of each tenant whose capacity has grown since the last check, with the capacity.
    pub(super) fn newly_available(&mut self, now: Timestamp) -> Vec<(Tenant, WorkKind, usize)> {
        let limited = self.services.limited_tenants().into_iter();
        let tenants: BTreeSet<Tenant> =
            limited.chain(self.last_capacity.keys().map(|(tenant, _)| tenant)).cloned().collect();
        let last = std::mem::take(&mut self.last_capacity);
        let mut newly_available = Vec::new();
        for (tenant, (kind, _)) in tenants.iter().flat_map(|tenant| KINDS.map(|kind| (tenant, kind))) {
            let key = (tenant.clone(), kind);
            let capacity = self.capacity(tenant, kind, now);
            if capacity > last.get(&key).copied().unwrap_or(usize::MAX) {
                newly_available.push((tenant.clone(), kind, capacity));
            }
            if capacity != usize::MAX {
                self.last_capacity.insert(key, capacity);
            }
        }
        newly_available
    }

    /// The time of the retry, if the circuit breaker of the service that failed is open.
    pub(super) fn circuit_open_until(
        &self,
        job: JobId,
        error: &ClassifiedError,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.services.circuit_open_until(job, error, now)
    }
}
