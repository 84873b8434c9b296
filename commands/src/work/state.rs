//! The board's fold: one step an event.

mod hold;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use domain::job::pipeline;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, LeaseId, Position, RequestId, Tenant, WorkerId};
use event_schemas::job::{JobEvent, Phase};
use event_schemas::matching::MatchingEvent;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;

use super::analyses::Analyses;
use super::created::Created;
use super::doors::Doors;
use super::leases::{How, Lease, Leases};
use super::line::{Line, Since};
use super::priors::Priors;
use super::workers::{Orphans, Workers};
use super::{Origin, Work};

/// A job that was taken up again, while match requests in it still stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    pub job_id: JobId,
    pub tenant: Tenant,
    /// The event that took it up.
    pub origin: Origin,
}

#[derive(Debug)]
pub(super) struct State {
    jobs: HashMap<JobId, Job>,
    items: HashMap<Work, Item>,
    pub(super) line: Line,
    /// Work that must not be claimed before an instant.
    later: BTreeSet<(Timestamp, Work)>,
    pub(super) leases: Leases,
    /// Work that is offered to nobody until the board has reached a position.
    holds: BTreeMap<Position, Vec<Work>>,
    /// How far it is. Known here and not only to who waits for it, so that a hold cannot come too late to be ended.
    reached: Position,
    retries: BTreeMap<JobId, Retry>,
    pub(super) workers: Workers,
    pub(super) created: Created,
    pub(super) priors: Priors,
    pub(super) analyses: Analyses,
    pub(super) doors: Doors,
}

#[derive(Debug)]
struct Job {
    tenant: Tenant,
    /// Failed, for a completed or cancelled job leaves the board.
    stands_still: bool,
    requests: BTreeSet<RequestId>,
}

#[derive(Debug)]
struct Item {
    tenant: Tenant,
    kind: WorkKind,
    since: Since,
    status: Status,
    /// Whether a claim is deciding about it.
    held: bool,
    due: Timestamp,
}

#[derive(Debug, PartialEq)]
enum Status {
    Open,
    Leased(LeaseId),
    /// Failed for good. `retry` says that its job was taken up again since, which takes it up, too.
    Parked {
        retry: bool,
    },
}

/// What the two events of a claim have in common.
struct Claim<'a> {
    lease_id: LeaseId,
    worker_id: &'a WorkerId,
    attempt: u32,
    until: Timestamp,
}

/// Of work that leaves the board: nobody is woken for it on its way out.
const GONE: Status = Status::Parked { retry: false };

impl State {
    pub(super) fn new(term: Duration) -> Self {
        Self {
            jobs: HashMap::new(),
            items: HashMap::new(),
            line: Line::default(),
            later: BTreeSet::new(),
            leases: Leases::new(term),
            holds: BTreeMap::new(),
            reached: Position::START,
            retries: BTreeMap::new(),
            workers: Workers::new(term),
            created: Created::default(),
            priors: Priors::default(),
            analyses: Analyses::default(),
            doors: Doors::default(),
        }
    }

    pub(super) fn apply(&mut self, envelope: &Envelope, now: Timestamp) {
        match (&envelope.event, envelope.stream.job_id()) {
            (Event::Job(event), Some(job)) => {
                self.priors.apply_job(job, event, envelope);
                self.analyses.apply(job, event, envelope);
                self.doors.apply(job, event, envelope.recorded_at);
                self.apply_job(job, event, envelope, now);
            }
            (Event::Matching(event), Some(job)) => {
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
                    self.created.note(carried, id, envelope.position, envelope.recorded_at);
                }
                let job = Job { tenant: tenant.clone(), stands_still: false, requests: BTreeSet::new() };
                self.jobs.insert(id, job);
                if pipeline::is_claimed_whole(created.kind) {
                    self.add(&work, tenant, WorkKind::of(created.kind), envelope, now);
                }
            }
            JobEvent::JobPhaseChanged(changed) if changed.from == Phase::Failed => {
                self.take_up(id, envelope, None, now);
            }
            JobEvent::JobRetryScheduled(retry) => self.take_up(id, envelope, Some(retry.due_at), now),
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
                self.end_lease(expired.lease_id, How::Lost, Status::Open, now);
            }
            JobEvent::JobFailed(failed) => {
                self.stand_still(id, now);
                self.end_reported(&work, failed.lease_id, Status::Open, now);
            }
            JobEvent::JobCompleted(completed) => {
                self.end_reported(&work, completed.lease_id, GONE, now);
                self.remove_job(id, now);
            }
            JobEvent::JobCancelled(_) => self.remove_job(id, now),
            JobEvent::JobPhaseChanged(_)
            | JobEvent::JobProgressReported(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => {}
        }
    }

    fn apply_matching(&mut self, id: JobId, event: &MatchingEvent, envelope: &Envelope, now: Timestamp) {
        let work = |request: &RequestId| Work::Request(id, request.clone());
        match event {
            MatchingEvent::MatchRequested(requested) => {
                let Some(job) = self.jobs.get_mut(&id) else { return };
                job.requests.insert(requested.request_id.clone());
                let tenant = job.tenant.clone();
                self.add(&work(&requested.request_id), tenant, WorkKind::MatchRequest, envelope, now);
            }
            MatchingEvent::MatchRequestClaimed(claimed) => {
                let claim = Claim {
                    lease_id: claimed.lease_id,
                    worker_id: &claimed.worker_id,
                    attempt: claimed.attempt,
                    until: claimed.lease_until,
                };
                self.lease(&work(&claimed.request_id), &claim, envelope, now);
            }
            MatchingEvent::MatchRequestLeaseExpired(expired) => {
                self.end_lease(expired.lease_id, How::Lost, Status::Open, now);
            }
            MatchingEvent::JobWorkerLost(lost) => {
                lost.lease_ids.iter().for_each(|id| self.end_lease(*id, How::Lost, Status::Open, now));
            }
            MatchingEvent::MatchRequestFailed(failed) => {
                let status = if failed.claimable { Status::Open } else { Status::Parked { retry: false } };
                self.end_lease(failed.lease_id, How::Reported, status, now);
            }
            MatchingEvent::MatchRequestCompleted(completed) => {
                let work = work(&completed.request_id);
                self.end_reported(&work, completed.lease_id, GONE, now);
                self.remove(&work, now);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.requests.remove(&completed.request_id);
                }
            }
            MatchingEvent::MatchRequestRetried(retried) => {
                self.set_status(&work(&retried.request_id), Status::Open, now);
            }
            MatchingEvent::ProductImagesRegistered(_)
            | MatchingEvent::VideoFramesRegistered(_)
            | MatchingEvent::MatchProgressReported(_)
            | MatchingEvent::MatchFound(_)
            | MatchingEvent::MatchEvidenceAttached(_) => {}
        }
    }

    fn add(&mut self, work: &Work, tenant: Tenant, kind: WorkKind, envelope: &Envelope, now: Timestamp) {
        let since = (envelope.recorded_at, envelope.position);
        let due = Timestamp::EPOCH;
        self.items.insert(work.clone(), Item { tenant, kind, since, status: Status::Open, held: false, due });
        self.line_up(work, now);
    }

    /// The job is tried again: what stood still goes on.
    fn take_up(&mut self, id: JobId, envelope: &Envelope, due: Option<Timestamp>, now: Timestamp) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.stands_still = false;
        let tenant = job.tenant.clone();
        let mut parked = false;
        for work in self.works(id) {
            let Some(item) = self.items.get_mut(&work) else { continue };
            match &mut item.status {
                Status::Parked { retry } => {
                    *retry = true;
                    parked = true;
                }
                // Its worker was not heard while the job stood still, so it gets a full term.
                Status::Leased(lease) => {
                    self.leases.renew(*lease, now);
                }
                Status::Open => {}
            }
            if let (Work::Job(_), Some(item)) = (&work, self.items.get_mut(&work)) {
                item.since = (envelope.recorded_at, envelope.position);
                item.due = due.unwrap_or(Timestamp::EPOCH);
            }
            self.line_up(&work, now);
        }
        if parked {
            self.retries.insert(id, Retry { job_id: id, tenant, origin: Origin::of(envelope) });
        }
    }

    fn stand_still(&mut self, id: JobId, now: Timestamp) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.stands_still = true;
        }
        for work in self.works(id) {
            if let Some(Status::Leased(lease)) = self.items.get(&work).map(|item| &item.status) {
                self.leases.disarm(*lease);
            }
            self.line_up(&work, now);
        }
    }

    fn remove_job(&mut self, id: JobId, now: Timestamp) {
        for work in self.works(id) {
            self.remove(&work, now);
        }
        self.jobs.remove(&id);
    }

    fn works(&self, id: JobId) -> Vec<Work> {
        let requests = self.jobs.get(&id).into_iter().flat_map(|job| &job.requests);
        std::iter::once(Work::Job(id))
            .chain(requests.map(|request| Work::Request(id, request.clone())))
            .collect()
    }

    fn remove(&mut self, work: &Work, now: Timestamp) {
        self.end_reported(work, None, GONE, now);
        self.unlist(work);
        if let Some(item) = self.items.remove(work).filter(|item| item.held) {
            self.doors.let_go(item.kind);
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
        self.workers.took(&lease.tenant, claim.worker_id, claim.lease_id, heard);
        self.leases.open(claim.lease_id, lease);
        self.set_status(work, Status::Leased(claim.lease_id), now);
    }

    /// Ends the lease on a piece of work, whichever it is; by a report, if it came under `reported`.
    fn end_reported(&mut self, work: &Work, reported: Option<LeaseId>, then: Status, now: Timestamp) {
        if let Some(Status::Leased(lease)) = self.items.get(work).map(|item| &item.status) {
            let how = if reported == Some(*lease) { How::Reported } else { How::Lost };
            self.end_lease(*lease, how, then, now);
        }
    }

    fn end_lease(&mut self, id: LeaseId, how: How, then: Status, now: Timestamp) {
        let Some(lease) = self.leases.end(id, how) else { return };
        self.workers.gave_up(&lease.tenant, &lease.worker_id, id);
        let work = lease.work.clone();
        self.set_status(&work, then, now);
    }

    fn set_status(&mut self, work: &Work, status: Status, now: Timestamp) {
        if let Some(item) = self.items.get_mut(work) {
            item.status = status;
        }
        self.line_up(work, now);
    }

    /// Puts the work where it belongs: into the line, among what is due later, or nowhere.
    fn line_up(&mut self, work: &Work, now: Timestamp) {
        let Some(item) = self.items.get(work) else { return };
        let claimable = item.status == Status::Open
            && !item.held
            && self.jobs.get(&work.job_id()).is_some_and(|job| !job.stands_still);
        if !claimable {
            self.unlist(work);
        } else if item.due > now {
            self.later.insert((item.due, work.clone()));
        } else {
            self.line.add(&item.tenant, item.kind, item.since, work.clone());
        }
    }

    fn unlist(&mut self, work: &Work) {
        if let Some(item) = self.items.get(work) {
            self.line.remove(&item.tenant, item.kind, item.since, work);
            self.later.remove(&(item.due, work.clone()));
        }
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.holds.is_empty()
    }

    /// The jobs that were taken up again and hold requests that were not.
    pub(super) fn unretried(&mut self) -> Vec<Retry> {
        let (jobs, items) = (&self.jobs, &self.items);
        let is_parked =
            |work| items.get(&work).is_some_and(|item: &Item| item.status == Status::Parked { retry: true });
        self.retries.retain(|id, _| {
            let requests = jobs.get(id).into_iter().flat_map(|job| &job.requests);
            requests.map(|request| Work::Request(*id, request.clone())).any(is_parked)
        });
        let is_open = |id| jobs.get(id).is_some_and(|job| !job.stands_still);
        self.retries.iter().filter(|(id, _)| is_open(id)).map(|(_, retry)| retry.clone()).collect()
    }

    pub(super) fn orphans(&self) -> Vec<Orphans> {
        let mut orphans = BTreeMap::new();
        for (tenant, worker_id, gone, leases) in self.workers.gone_with_leases() {
            for (id, lease) in leases.iter().filter_map(|id| Some((*id, self.leases.get(*id)?))) {
                let job_id = lease.work.job_id();
                if self.jobs.get(&job_id).is_none_or(|job| job.stands_still) {
                    continue;
                }
                let orphaned = orphans.entry((tenant, worker_id, job_id)).or_insert_with(|| Orphans {
                    tenant: tenant.clone(),
                    worker_id: worker_id.clone(),
                    gone,
                    job_id,
                    leases: Vec::new(),
                });
                orphaned.leases.push((id, lease.work.clone()));
            }
        }
        orphans.into_values().collect()
    }

    /// Heartbeats are not in the log, so whoever may have been alive before the start gets a full term.
    pub(super) fn grant_full_terms(&mut self, now: Timestamp) {
        self.leases.grant_full_terms(now);
        self.workers.all_seen(now);
    }
}
