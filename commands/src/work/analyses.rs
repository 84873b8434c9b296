//! How many analyses each tenant has under way.

use std::collections::{HashMap, HashSet};

use event_schemas::envelope::Envelope;
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::{JobEvent, JobKind, Phase};

#[derive(Debug, Default)]
pub(super) struct Analyses {
    /// Those that go on, or have failed and may be taken up again.
    known: HashSet<JobId>,
    under_way: HashMap<Tenant, HashSet<JobId>>,
}

impl Analyses {
    pub(super) fn under_way(&self, tenant: &Tenant) -> usize {
        self.under_way.get(tenant).map_or(0, HashSet::len)
    }

    pub(super) fn apply(&mut self, job: JobId, event: &JobEvent, envelope: &Envelope) {
        let tenant = &envelope.metadata.tenant;
        match event {
            JobEvent::JobCreated(created) if created.kind == JobKind::VideoAnalysis => {
                self.known.insert(job);
                self.under_way.entry(tenant.clone()).or_default().insert(job);
            }
            JobEvent::JobFailed(_) => self.turn(job, tenant, false),
            JobEvent::JobRetryScheduled(_) => self.turn(job, tenant, true),
            JobEvent::JobPhaseChanged(changed) if changed.from == Phase::Failed => {
                self.turn(job, tenant, true);
            }
            JobEvent::JobCompleted(_) | JobEvent::JobCancelled(_) => {
                self.turn(job, tenant, false);
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

    fn turn(&mut self, job: JobId, tenant: &Tenant, goes_on: bool) {
        if !self.known.contains(&job) {
            return;
        }
        let under_way = self.under_way.entry(tenant.clone()).or_default();
        if goes_on {
            under_way.insert(job);
        } else {
            under_way.remove(&job);
        }
        if under_way.is_empty() {
            self.under_way.remove(tenant);
        }
    }
}
