//! The admission of work by kind: none while the circuit breaker of a service that it needs is open, and a few probes
//! while it is half-open.

use std::collections::HashMap;

use domain::job::service::{Admission, Services};
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::JobId;
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
    reserved: HashMap<WorkKind, usize>,
    /// The capacities at the last check.
    #[serde(skip)]
    last_capacity: HashMap<WorkKind, usize>,
}

impl AdmissionControl {
    pub(super) fn apply(&mut self, job: JobId, event: &JobEvent, at: Timestamp) {
        self.services.apply(job, event, at);
    }

    /// The number of work items of the kind that may start now.
    pub(super) fn capacity(&self, kind: WorkKind, now: Timestamp) -> usize {
        let Some((_, job_kind)) = KINDS.iter().find(|(known, _)| *known == kind) else { return usize::MAX };
        match self.services.admission(*job_kind, now) {
            Admission::All => usize::MAX,
            Admission::Probes(probes) => {
                probes.saturating_sub(self.reserved.get(&kind).copied().unwrap_or_default())
            }
            Admission::CircuitOpen { .. } => 0,
        }
    }

    pub(super) fn reserve(&mut self, kind: WorkKind) {
        *self.reserved.entry(kind).or_default() += 1;
    }

    pub(super) fn release(&mut self, kind: WorkKind) {
        if let Some(reserved) = self.reserved.get_mut(&kind) {
            *reserved = reserved.saturating_sub(1);
        }
    }

    /// The kinds whose capacity has grown since the last check, with the capacity.
    pub(super) fn newly_available(&mut self, now: Timestamp) -> Vec<(WorkKind, usize)> {
        let mut newly_available = Vec::new();
        for (kind, _) in KINDS {
            let capacity = self.capacity(kind, now);
            let last = self.last_capacity.insert(kind, capacity).unwrap_or(usize::MAX);
            if capacity > last {
                newly_available.push((kind, capacity));
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
