//! The state of the work board, updated event by event.

mod reservations;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use domain::job::pipeline;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, LeaseId, Position, RequestId, Tenant, WorkerId};
use event_schemas::image_match::ImageMatchEvent;
use event_schemas::job::{JobEvent, Phase};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use serde::{Deserialize, Serialize};

use super::admission::AdmissionControl;
use super::concurrency_limit::LimitedJobs;
use super::creation_keys::CreationKeys;
use super::leases::{Lease, LeaseEnd, Leases};
use super::priors::Priors;
use super::ready_queue::{ReadyQueue, Since};
use super::trainings::Trainings;
use super::workers::{OrphanedLeases, Workers};
use super::{Origin, Work};

/// A resumed job with match requests that are still suspended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRetry {
    pub job_id: JobId,
    pub tenant: Tenant,
    /// The event that resumed it.
    pub origin: Origin,
}

/// Its stored form is a snapshot, without what follows from the rest and what a restart ends: queues, and reservations.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    jobs: HashMap<JobId, Job>,
    #[serde(with = "domain::map_as_list")]
    items: HashMap<Work, WorkItem>,
    #[serde(skip)]
    pub(super) ready_queue: ReadyQueue,
    /// Work that must not be claimed before its due time.
    #[serde(skip)]
    scheduled: BTreeSet<(Timestamp, Work)>,
    pub(super) leases: Leases,
    /// Work that is not offered until the board has applied a position.
    #[serde(skip)]
    suppressed: BTreeMap<Position, Vec<Work>>,
    /// The position up to which events are applied. It is kept here, too, so that a suppression for an applied position
    /// ends at once.
    #[serde(skip)]
    applied: Position,
    retries: BTreeMap<JobId, JobRetry>,
    pub(super) trainings: Trainings,
    pub(super) workers: Workers,
    pub(super) creation_keys: CreationKeys,
    pub(super) priors: Priors,
    pub(super) limited_jobs: LimitedJobs,
    pub(super) admission: AdmissionControl,
}

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    tenant: Tenant,
    /// True if the job has failed; a completed or cancelled job leaves the board.
    is_suspended: bool,
    requests: BTreeSet<RequestId>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WorkItem {
    tenant: Tenant,
    kind: WorkKind,
    since: Since,
    status: ItemStatus,
    /// True while a claim has reserved it.
    #[serde(skip)]
    reserved: bool,
    due: Timestamp,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum ItemStatus {
    Open,
    Leased(LeaseId),
    /// Failed permanently. `retry` is true if its job was resumed since, which resumes the request, too.
    Suspended {
        retry: bool,
    },
}

/// The common fields of the two claim events.
struct Claim<'a> {
    lease_id: LeaseId,
    worker_id: &'a WorkerId,
    attempt: u32,
    until: Timestamp,
}

/// The status of work that leaves the board, so that no worker is woken for it.
const REMOVED: ItemStatus = ItemStatus::Suspended { retry: false };

impl State {
    pub(super) fn new(term: Duration) -> Self {
        Self {
            jobs: HashMap::new(),
            items: HashMap::new(),
            ready_queue: ReadyQueue::default(),
            scheduled: BTreeSet::new(),
            leases: Leases::new(term),
            suppressed: BTreeMap::new(),
            applied: Position::START,
            retries: BTreeMap::new(),
            trainings: Trainings::default(),
            workers: Workers::new(term),
            creation_keys: CreationKeys::default(),
            priors: Priors::default(),
            limited_jobs: LimitedJobs::default(),
            admission: AdmissionControl::default(),
        }
    }

    pub(super) fn term(&self) -> Duration {
        self.leases.term()
    }

    /// Completes a state that was read from a snapshot of all events up to `position`.
    pub(super) fn restored(self, term: Duration, position: Position, now: Timestamp) -> Self {
        let (leases, workers) = (self.leases.with_term(term), self.workers.restored(term, now));
        let mut state = Self { leases, workers, applied: position, ..self };
        let items: Vec<Work> = state.items.keys().cloned().collect();
        items.iter().for_each(|work| state.enqueue(work, now));
        state
    }

    pub(super) fn apply(&mut self, envelope: &Envelope, now: Timestamp) {
        match (&envelope.event, envelope.stream.job_id()) {
            (Event::Job(event), Some(job)) => {
                self.priors.apply_job(job, event, envelope);
                self.limited_jobs.apply(job, event, envelope);
                self.admission.apply(&envelope.metadata.tenant, job, event, envelope.recorded_at);
                self.apply_job(job, event, envelope, now);
            }
            (Event::ImageMatch(event), Some(job)) => {
                self.priors.apply_matching(job, event);
                self.apply_matching(job, event, envelope, now);
            }
            (Event::Worker(event), _) => self.workers.apply(event, envelope, now),
            _ => {}
        }
    }

    fn apply_job(&mut self, id: JobId, event: &JobEvent, envelope: &Envelope, now: Timestamp) {
        let work = Work::Job(id);
        match event {
            JobEvent::JobCreated(created) => {
                let tenant = envelope.metadata.tenant.clone();
                if let Some(carried) = envelope.metadata.idempotency {
                    self.creation_keys.record(carried, id, envelope.position, envelope.recorded_at);
                }
                let job = Job { tenant: tenant.clone(), is_suspended: false, requests: BTreeSet::new() };
                self.jobs.insert(id, job);
                if pipeline::is_claimed_whole(created.kind) {
                    self.add(&work, tenant, WorkKind::of(created.kind), envelope, now);
                }
            }
            JobEvent::JobPhaseChanged(changed) if changed.from == Phase::Failed => {
                self.resume(id, envelope, None, now);
            }
            JobEvent::JobRetryScheduled(retry) => self.resume(id, envelope, Some(retry.due_at), now),
            JobEvent::JobClaimed(claimed) => {
                let claim = Claim {
                    lease_id: claimed.lease_id,
                    worker_id: &claimed.worker_id,
                    attempt: claimed.attempt,
                    until: claimed.lease_until,
                };
                self.lease(&work, &claim, envelope, now);
            }
            JobEvent::JobLeaseExpired(expired) => {
                self.end_lease(expired.lease_id, LeaseEnd::Lost, ItemStatus::Open, now);
            }
            JobEvent::JobFailed(failed) => {
                self.suspend(id, now);
                self.end_reported(&work, failed.lease_id, ItemStatus::Open, now);
            }
            JobEvent::JobCompleted(completed) => {
                if self.items.get(&work).is_some_and(|item| item.kind == WorkKind::ModelTraining) {
                    self.trainings.complete(id, completed, envelope);
                }
                self.end_reported(&work, completed.lease_id, REMOVED, now);
                self.remove_job(id, now);
            }
            JobEvent::JobCancelled(_) => self.remove_job(id, now),
            JobEvent::JobPhaseChanged(_)
            | JobEvent::JobProgressReported(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => {}
        }
    }

    fn apply_matching(&mut self, id: JobId, event: &ImageMatchEvent, envelope: &Envelope, now: Timestamp) {
        let work = |request: &RequestId| Work::Request(id, request.clone());
        match event {
            ImageMatchEvent::MatchRequested(requested) => {
                let Some(job) = self.jobs.get_mut(&id) else { return };
                job.requests.insert(requested.request_id.clone());
                let tenant = job.tenant.clone();
                self.add(&work(&requested.request_id), tenant, WorkKind::MatchRequest, envelope, now);
            }
            ImageMatchEvent::MatchRequestClaimed(claimed) => {
                let claim = Claim {
                    lease_id: claimed.lease_id,
                    worker_id: &claimed.worker_id,
                    attempt: claimed.attempt,
                    until: claimed.lease_until,
                };
                self.lease(&work(&claimed.request_id), &claim, envelope, now);
            }
            ImageMatchEvent::MatchRequestLeaseExpired(expired) => {
                self.end_lease(expired.lease_id, LeaseEnd::Lost, ItemStatus::Open, now);
            }
            ImageMatchEvent::JobWorkerLost(lost) => {
                lost.lease_ids
                    .iter()
                    .for_each(|id| self.end_lease(*id, LeaseEnd::Lost, ItemStatus::Open, now));
            }
            ImageMatchEvent::MatchRequestFailed(failed) => {
                let status =
                    if failed.claimable { ItemStatus::Open } else { ItemStatus::Suspended { retry: false } };
                self.end_lease(failed.lease_id, LeaseEnd::Reported, status, now);
            }
            ImageMatchEvent::MatchRequestCompleted(completed) => {
                let work = work(&completed.request_id);
                self.end_reported(&work, completed.lease_id, REMOVED, now);
                self.remove(&work, now);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.requests.remove(&completed.request_id);
                }
            }
            ImageMatchEvent::MatchRequestRetried(retried) => {
                self.set_status(&work(&retried.request_id), ItemStatus::Open, now);
            }
            ImageMatchEvent::ProductImagesRegistered(_)
            | ImageMatchEvent::VideoFramesRegistered(_)
            | ImageMatchEvent::MatchProgressReported(_)
            | ImageMatchEvent::MatchFound(_)
            | ImageMatchEvent::MatchEvidenceAttached(_) => {}
        }
    }

    fn add(&mut self, work: &Work, tenant: Tenant, kind: WorkKind, envelope: &Envelope, now: Timestamp) {
        let since = (envelope.recorded_at, envelope.position);
        let due = Timestamp::EPOCH;
        self.items.insert(
            work.clone(),
            WorkItem { tenant, kind, since, status: ItemStatus::Open, reserved: false, due },
        );
        self.enqueue(work, now);
    }

    /// Resumes the work of a job that is retried.
    fn resume(&mut self, id: JobId, envelope: &Envelope, due: Option<Timestamp>, now: Timestamp) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.is_suspended = false;
        let tenant = job.tenant.clone();
        let mut any_suspended = false;
        for work in self.work_of_job(id) {
            let Some(item) = self.items.get_mut(&work) else { continue };
            match &mut item.status {
                ItemStatus::Suspended { retry } => {
                    *retry = true;
                    any_suspended = true;
                }
                // No heartbeat was accepted while the job was suspended, so the lease gets a full term.
                ItemStatus::Leased(lease) => {
                    self.leases.renew(*lease, now);
                }
                ItemStatus::Open => {}
            }
            if let (Work::Job(_), Some(item)) = (&work, self.items.get_mut(&work)) {
                item.since = (envelope.recorded_at, envelope.position);
                item.due = due.unwrap_or(Timestamp::EPOCH);
            }
            self.enqueue(&work, now);
        }
        if any_suspended {
            self.retries.insert(id, JobRetry { job_id: id, tenant, origin: Origin::of(envelope) });
        }
    }

    fn suspend(&mut self, id: JobId, now: Timestamp) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.is_suspended = true;
        }
        for work in self.work_of_job(id) {
            if let Some(ItemStatus::Leased(lease)) = self.items.get(&work).map(|item| &item.status) {
                self.leases.clear_deadline(*lease);
            }
            self.enqueue(&work, now);
        }
    }

    fn remove_job(&mut self, id: JobId, now: Timestamp) {
        for work in self.work_of_job(id) {
            self.remove(&work, now);
        }
        self.jobs.remove(&id);
    }

    fn work_of_job(&self, id: JobId) -> Vec<Work> {
        let requests = self.jobs.get(&id).into_iter().flat_map(|job| &job.requests);
        std::iter::once(Work::Job(id))
            .chain(requests.map(|request| Work::Request(id, request.clone())))
            .collect()
    }

    fn remove(&mut self, work: &Work, now: Timestamp) {
        self.end_reported(work, None, REMOVED, now);
        self.dequeue(work);
        if let Some(item) = self.items.remove(work).filter(|item| item.reserved) {
            self.admission.release(&item.tenant, item.kind);
        }
    }

    fn lease(&mut self, work: &Work, claim: &Claim<'_>, envelope: &Envelope, now: Timestamp) {
        let Some(item) = self.items.get(work) else { return };
        let lease = Lease {
            tenant: item.tenant.clone(),
            work: work.clone(),
            kind: item.kind,
            worker_id: claim.worker_id.clone(),
            origin: Origin::of(envelope),
            idempotency: envelope.metadata.idempotency,
            claimed_until: claim.until,
            attempt: claim.attempt,
            position: envelope.position,
        };
        let heard = envelope.recorded_at.min(now);
        self.workers.lease_acquired(&lease.tenant, claim.worker_id, claim.lease_id, heard);
        self.leases.open(claim.lease_id, lease);
        self.set_status(work, ItemStatus::Leased(claim.lease_id), now);
    }

    /// Ends the current lease on a work item; by a report, if it is the lease `reported`.
    fn end_reported(&mut self, work: &Work, reported: Option<LeaseId>, then: ItemStatus, now: Timestamp) {
        if let Some(ItemStatus::Leased(lease)) = self.items.get(work).map(|item| &item.status) {
            let end = if reported == Some(*lease) { LeaseEnd::Reported } else { LeaseEnd::Lost };
            self.end_lease(*lease, end, then, now);
        }
    }

    fn end_lease(&mut self, id: LeaseId, end: LeaseEnd, then: ItemStatus, now: Timestamp) {
        let Some(lease) = self.leases.end(id, end) else { return };
        self.workers.lease_released(&lease.tenant, &lease.worker_id, id);
        let work = lease.work.clone();
        self.set_status(&work, then, now);
    }

    fn set_status(&mut self, work: &Work, status: ItemStatus, now: Timestamp) {
        if let Some(item) = self.items.get_mut(work) {
            item.status = status;
        }
        self.enqueue(work, now);
    }

    /// Puts work that is claimable into the ready queue, or into the schedule if it is due later.
    fn enqueue(&mut self, work: &Work, now: Timestamp) {
        let Some(item) = self.items.get(work) else { return };
        let claimable = item.status == ItemStatus::Open
            && !item.reserved
            && self.jobs.get(&work.job_id()).is_some_and(|job| !job.is_suspended);
        if !claimable {
            self.dequeue(work);
        } else if item.due > now {
            self.scheduled.insert((item.due, work.clone()));
        } else {
            self.ready_queue.push(&item.tenant, item.kind, item.since, work.clone());
        }
    }

    fn dequeue(&mut self, work: &Work) {
        if let Some(item) = self.items.get(work) {
            self.ready_queue.remove(&item.tenant, item.kind, item.since, work);
            self.scheduled.remove(&(item.due, work.clone()));
        }
    }

    #[cfg(test)]
    pub(super) fn suppresses_nothing(&self) -> bool {
        self.suppressed.is_empty()
    }

    /// The resumed jobs with requests that are not resumed yet.
    pub(super) fn pending_retries(&mut self) -> Vec<JobRetry> {
        let (jobs, items) = (&self.jobs, &self.items);
        let is_suspended_request = |work| {
            items
                .get(&work)
                .is_some_and(|item: &WorkItem| item.status == ItemStatus::Suspended { retry: true })
        };
        self.retries.retain(|id, _| {
            let requests = jobs.get(id).into_iter().flat_map(|job| &job.requests);
            requests.map(|request| Work::Request(*id, request.clone())).any(is_suspended_request)
        });
        let is_active = |id| jobs.get(id).is_some_and(|job| !job.is_suspended);
        self.retries.iter().filter(|(id, _)| is_active(id)).map(|(_, retry)| retry.clone()).collect()
    }

    pub(super) fn orphaned_leases(&self) -> Vec<OrphanedLeases> {
        let mut orphaned_leases = BTreeMap::new();
        for (tenant, worker_id, gone, leases) in self.workers.gone_with_leases() {
            for (id, lease) in leases.iter().filter_map(|id| Some((*id, self.leases.get(*id)?))) {
                let job_id = lease.work.job_id();
                if self.jobs.get(&job_id).is_none_or(|job| job.is_suspended) {
                    continue;
                }
                let orphaned =
                    orphaned_leases.entry((tenant, worker_id, job_id)).or_insert_with(|| OrphanedLeases {
                        tenant: tenant.clone(),
                        worker_id: worker_id.clone(),
                        gone,
                        job_id,
                        leases: Vec::new(),
                    });
                orphaned.leases.push((id, lease.work.clone()));
            }
        }
        orphaned_leases.into_values().collect()
    }

    /// Heartbeats are not in the log, so every lease and every worker gets a full term at the start.
    pub(super) fn grant_full_terms(&mut self, now: Timestamp) {
        self.leases.grant_full_terms(now);
        self.workers.grant_full_terms(now);
    }
}
