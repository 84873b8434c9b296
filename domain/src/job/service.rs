//! The external services that jobs need, each with a circuit breaker.
//!
//! Workers do not report single calls. Instead, an attempt counts as a call of the service that its current
//! stage needs: the call succeeds when the attempt leaves the stage, and fails when the attempt fails because
//! of the service. All of this is in the job's events, so a replay computes the same breakers. Each tenant has
//! breakers of its own: the failures of one, as of its credentials or its network, do not stop the work of another.

use std::collections::{BTreeSet, HashMap};

pub use event_schemas::failure::Service;
use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::{JobEvent, JobKind, Phase};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::pipeline;
use crate::breaker::{Breaker, CircuitState, Outcome, Permit, Settings};

/// The service that a stage needs.
fn of_stage(stage: Phase) -> Option<Service> {
    match stage {
        Phase::Downloading => Some(Service::VideoSource),
        Phase::FetchingChat => Some(Service::Chat),
        Phase::Transcribing => Some(Service::SpeechToText),
        _ => None,
    }
}

/// The services that jobs of a kind need.
pub fn needed_by(kind: JobKind) -> &'static [Service] {
    match kind {
        JobKind::VideoAnalysis => Service::ALL,
        // Its requests are claimed one by one, and are retried on their own.
        JobKind::ProductVideoMatching => &[],
        // The server does these itself, with circuit breakers of its own.
        JobKind::CutoutSync | JobKind::EmbeddingExport => &[],
        JobKind::ExtractCutouts
        | JobKind::ExtractProducts
        | JobKind::ExtractSingleProduct
        | JobKind::ModelTraining => &[Service::Database, Service::ObjectStorage],
    }
}

/// The service that caused the failure of an attempt, and how its call ended. The service that the error names
/// was called, else the one of the stage.
pub(super) fn blamed(stage: Phase, error: &ClassifiedError) -> Option<(Service, Outcome)> {
    let called = error.service.or(of_stage(stage));
    match error.code {
        FailureCode::SpeechToTextService => Some((Service::SpeechToText, Outcome::Failed)),
        FailureCode::DatabaseService => Some((Service::Database, Outcome::Failed)),
        FailureCode::ObjectStorageService => Some((Service::ObjectStorage, Outcome::Failed)),
        FailureCode::RateLimited | FailureCode::ServiceAuthentication => Some((called?, Outcome::Refused)),
        _ if error.category == FailureCategory::Network => Some((called?, Outcome::Failed)),
        _ => None,
    }
}

/// How many jobs of a kind may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    All,
    /// The circuit of a service is half-open: only this many jobs may probe it.
    Probes(usize),
    /// None before this time, because this service's circuit breaker is open.
    CircuitOpen {
        service: Service,
        until: Timestamp,
    },
}

/// The breakers of all services, and the calls in progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Services {
    settings: Settings,
    /// A service that a tenant's jobs have never called has none.
    #[serde(with = "crate::map_as_list")]
    breakers: HashMap<(Tenant, Service), Breaker>,
    /// The breakers that are open or half-open.
    unclosed: BTreeSet<(Tenant, Service)>,
    jobs: HashMap<JobId, TrackedJob>,
}

/// A job that is claimed as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TrackedJob {
    tenant: Tenant,
    kind: JobKind,
    stage: Phase,
    /// The pending calls of its current attempt.
    calls: Vec<(Service, Permit)>,
}

impl Default for Services {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Services {
    pub fn new(settings: Settings) -> Self {
        Self { settings, breakers: HashMap::new(), unclosed: BTreeSet::new(), jobs: HashMap::new() }
    }

    /// Applies the next event of a tenant's job, which the log accepted at `at`.
    pub fn apply(&mut self, tenant: &Tenant, job: JobId, event: &JobEvent, at: Timestamp) {
        match event {
            JobEvent::JobCreated(created) if pipeline::is_claimed_whole(created.kind) => {
                let (tenant, kind) = (tenant.clone(), created.kind);
                let tracked = TrackedJob { tenant, kind, stage: Phase::Queued, calls: Vec::new() };
                self.jobs.insert(job, tracked);
            }
            JobEvent::JobClaimed(_) => self.begin(job, at),
            JobEvent::JobPhaseChanged(changed) => {
                if let Some(service) = of_stage(changed.from) {
                    self.report(job, service, Outcome::Succeeded, at);
                }
                self.enter(job, changed.to);
            }
            JobEvent::JobRetryScheduled(_) => self.enter(job, Phase::Queued),
            JobEvent::JobFailed(failed) => {
                if let Some(tracked) = self.jobs.get(&job)
                    && let Some((service, outcome)) = blamed(tracked.stage, &failed.error)
                {
                    self.report(job, service, outcome, at);
                }
                self.end(job, at);
            }
            JobEvent::JobLeaseExpired(_) => self.end(job, at),
            JobEvent::JobCompleted(completed) => {
                let used = [Some(Service::Database), Some(Service::ObjectStorage), of_stage(completed.from)];
                for service in used.into_iter().flatten() {
                    self.report(job, service, Outcome::Succeeded, at);
                }
                self.end(job, at);
                self.jobs.remove(&job);
            }
            JobEvent::JobCancelled(_) => {
                self.end(job, at);
                self.jobs.remove(&job);
            }
            JobEvent::JobCreated(_)
            | JobEvent::JobProgressReported(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => {}
        }
    }

    /// Acquires permits for the services that an attempt needs, as far as their breakers allow.
    fn begin(&mut self, job: JobId, at: Timestamp) {
        let Some(tracked) = self.jobs.get(&job) else { return };
        let (tenant, needed) = (tracked.tenant.clone(), needed_by(tracked.kind));
        for service in needed {
            let key = (tenant.clone(), *service);
            let breaker = self.breakers.entry(key).or_insert_with(|| Breaker::new(self.settings));
            if let (Ok(permit), Some(tracked)) = (breaker.acquire(at), self.jobs.get_mut(&job)) {
                tracked.calls.push((*service, permit));
            }
        }
    }

    fn enter(&mut self, job: JobId, stage: Phase) {
        if let Some(tracked) = self.jobs.get_mut(&job) {
            tracked.stage = stage;
        }
    }

    fn report(&mut self, job: JobId, service: Service, outcome: Outcome, at: Timestamp) {
        let Some(tracked) = self.jobs.get_mut(&job) else { return };
        let Some(index) = tracked.calls.iter().position(|(called, _)| *called == service) else { return };
        let (_, permit) = tracked.calls.swap_remove(index);
        let tenant = tracked.tenant.clone();
        self.report_call(tenant, service, permit, outcome, at);
    }

    fn report_call(
        &mut self,
        tenant: Tenant,
        service: Service,
        permit: Permit,
        outcome: Outcome,
        at: Timestamp,
    ) {
        let key = (tenant, service);
        let Some(breaker) = self.breakers.get_mut(&key) else { return };
        breaker.report(permit, outcome, at);
        if breaker.openings() == 0 {
            self.unclosed.remove(&key);
        } else {
            self.unclosed.insert(key);
        }
    }

    /// The outcome of the attempt's pending calls stays unknown.
    fn end(&mut self, job: JobId, at: Timestamp) {
        let Some(tracked) = self.jobs.get_mut(&job) else { return };
        let (tenant, calls) = (tracked.tenant.clone(), std::mem::take(&mut tracked.calls));
        for (service, permit) in calls {
            self.report_call(tenant.clone(), service, permit, Outcome::Unknown, at);
        }
    }

    fn breaker(&self, tenant: &Tenant, service: Service) -> Option<&Breaker> {
        self.breakers.get(&(tenant.clone(), service))
    }

    /// The tenants of which a breaker is open or half-open.
    pub fn limited_tenants(&self) -> BTreeSet<&Tenant> {
        self.unclosed.iter().map(|(tenant, _)| tenant).collect()
    }

    /// How many of the tenant's jobs of the kind may be started at `now`. The service whose breaker is open the longest
    /// decides.
    pub fn admission(&self, tenant: &Tenant, kind: JobKind, now: Timestamp) -> Admission {
        let mut probes = None;
        let mut parked = None;
        for service in needed_by(kind) {
            match self.breaker(tenant, *service).map(|breaker| breaker.state(now)) {
                Some(CircuitState::Open { until }) => parked = parked.max(Some((until, *service))),
                Some(CircuitState::HalfOpen) => {
                    let free = self.free_probes(tenant, *service, now);
                    probes = Some(probes.map_or(free, |probes: usize| probes.min(free)));
                }
                Some(CircuitState::Closed) | None => {}
            }
        }
        match (parked, probes) {
            (Some((until, service)), _) => Admission::CircuitOpen { service, until },
            (None, Some(probes)) => Admission::Probes(probes),
            (None, None) => Admission::All,
        }
    }

    fn free_probes(&self, tenant: &Tenant, service: Service, now: Timestamp) -> usize {
        let Some(mut breaker) = self.breaker(tenant, service).cloned() else { return 0 };
        (0..self.settings.probes).take_while(|_| breaker.acquire(now).is_ok()).count()
    }

    /// The time until which the breaker of the failed service is open, taking this failure into account: so
    /// that the failed work is postponed instead of retried in vain.
    pub fn circuit_open_until(
        &self,
        job: JobId,
        error: &ClassifiedError,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let tracked = self.jobs.get(&job)?;
        let (service, outcome) = blamed(tracked.stage, error)?;
        let mut breaker = self.breaker(&tracked.tenant, service)?.clone();
        if let Some((_, permit)) = tracked.calls.iter().find(|(called, _)| *called == service) {
            breaker.report(*permit, outcome, now);
        }
        match breaker.state(now) {
            CircuitState::Open { until } => Some(until),
            CircuitState::Closed | CircuitState::HalfOpen => None,
        }
    }

    /// The next time at which an open breaker becomes half-open.
    pub fn next_probe(&self, now: Timestamp) -> Option<Timestamp> {
        let unclosed = self.unclosed.iter().filter_map(|key| self.breakers.get(key));
        let open = unclosed.filter_map(|breaker| match breaker.state(now) {
            CircuitState::Open { until } => Some(until),
            CircuitState::Closed | CircuitState::HalfOpen => None,
        });
        open.min()
    }

    /// The state of the tenant's circuit breaker of each service, with its number of consecutive openings.
    pub fn circuits(
        &self,
        tenant: &Tenant,
        now: Timestamp,
    ) -> impl Iterator<Item = (Service, CircuitState, u32)> {
        Service::ALL.iter().map(move |service| match self.breaker(tenant, *service) {
            Some(breaker) => (*service, breaker.state(now), breaker.openings()),
            None => (*service, CircuitState::Closed, 0),
        })
    }
}

#[cfg(test)]
mod tests;
