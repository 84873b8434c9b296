//! The finished trainings whose results name models, until these are registered.

use std::collections::BTreeMap;

use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::JobCompleted;
use serde::{Deserialize, Serialize};

use super::{Origin, WorkBoard};

/// The member of a training's result that describes its model.
pub(crate) const MODEL_MEMBER: &str = "model";

/// A finished training whose result names a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedTraining {
    pub job_id: JobId,
    pub tenant: Tenant,
    /// The event that completed it.
    pub origin: Origin,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Trainings(BTreeMap<JobId, FinishedTraining>);

impl Trainings {
    /// Notes a training that has completed, if its result names a model.
    pub(super) fn complete(&mut self, job_id: JobId, completed: &JobCompleted, envelope: &Envelope) {
        let result = completed.result.as_ref();
        if result.is_some_and(|result| result.to_value().get(MODEL_MEMBER).is_some()) {
            let (tenant, origin) = (envelope.metadata.tenant.clone(), Origin::of(envelope));
            self.0.insert(job_id, FinishedTraining { job_id, tenant, origin });
        }
    }
}

impl WorkBoard {
    /// The finished trainings whose model may not be registered yet.
    pub(crate) fn finished_trainings(&self) -> Vec<FinishedTraining> {
        self.locked().trainings.0.values().cloned().collect()
    }

    /// Forgets a finished training whose model is registered.
    pub(crate) fn training_is_registered(&self, job: JobId) {
        self.locked().trainings.0.remove(&job);
    }
}
