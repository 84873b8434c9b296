//! The jobs of some kinds that each tenant has in progress, for the limits per tenant.

use std::collections::{HashMap, HashSet};

use domain::job::extraction;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::{JobEvent, JobKind, Phase};
use serde::{Deserialize, Serialize};

/// The jobs in progress with a limit per tenant.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LimitedJobs {
    analyses: JobsInProgress,
    extractions: JobsInProgress,
    exports: JobsInProgress,
}

impl LimitedJobs {
    /// The jobs that share a limit with those of the kind; none if it has no limit.
    pub(super) fn of(&self, kind: JobKind) -> Option<&JobsInProgress> {
        match kind {
            JobKind::VideoAnalysis => Some(&self.analyses),
            JobKind::EmbeddingExport => Some(&self.exports),
            kind if extraction::KINDS.contains(&kind) => Some(&self.extractions),
            _ => None,
        }
    }

    pub(super) fn apply(&mut self, job: JobId, event: &JobEvent, envelope: &Envelope) {
        self.analyses.apply(job, event, envelope, |kind| kind == JobKind::VideoAnalysis);
        self.extractions.apply(job, event, envelope, |kind| extraction::KINDS.contains(&kind));
        self.exports.apply(job, event, envelope, |kind| kind == JobKind::EmbeddingExport);
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct JobsInProgress {
    /// The jobs that are in progress, or have failed and may be resumed.
    known: HashSet<JobId>,
    in_progress: HashMap<Tenant, HashSet<JobId>>,
}

impl JobsInProgress {
    pub(super) fn in_progress(&self, tenant: &Tenant) -> usize {
        self.in_progress.get(tenant).map_or(0, HashSet::len)
    }

    fn apply(
        &mut self,
        job: JobId,
        event: &JobEvent,
        envelope: &Envelope,
        is_limited: impl Fn(JobKind) -> bool,
    ) {
        let tenant = &envelope.metadata.tenant;
        match event {
            JobEvent::JobCreated(created) if is_limited(created.kind) => {
                self.known.insert(job);
                self.in_progress.entry(tenant.clone()).or_default().insert(job);
            }
            JobEvent::JobFailed(_) => self.set(job, tenant, false),
            JobEvent::JobRetryScheduled(_) => self.set(job, tenant, true),
            JobEvent::JobPhaseChanged(changed) if changed.from == Phase::Failed => {
                self.set(job, tenant, true);
            }
            JobEvent::JobCompleted(_) | JobEvent::JobCancelled(_) => {
                self.set(job, tenant, false);
                self.known.remove(&job);
            }
            JobEvent::JobCreated(_)
            | JobEvent::JobPhaseChanged(_)
            | JobEvent::JobProgressReported(_)
            | JobEvent::JobClaimed(_)
            | JobEvent::JobLeaseExpired(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => {}
        }
    }

    fn set(&mut self, job: JobId, tenant: &Tenant, is_running: bool) {
        if !self.known.contains(&job) {
            return;
        }
        let in_progress = self.in_progress.entry(tenant.clone()).or_default();
        if is_running {
            in_progress.insert(job);
        } else {
            in_progress.remove(&job);
        }
        if in_progress.is_empty() {
            self.in_progress.remove(tenant);
        }
    }
}
