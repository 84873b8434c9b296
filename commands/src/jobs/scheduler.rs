//! The work board: the ready queue, the leases and the present workers.
//!
//! It is a fold over the log, kept in memory; a start continues from a snapshot. It only proposes work: the work's own stream
//! decides about a claim. Heartbeats are not events and exist only here, so a restart grants every open lease and every
//! worker one full term.

mod admission;
mod concurrency_limit;
mod creation_keys;
mod follow;
mod leases;
mod priors;
mod ready_queue;
mod state;
mod trainings;
mod workers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::breaker::CircuitState;
use domain::job::service::Service;
use event_log::clock::Clock;
use event_schemas::envelope::{Envelope, Idempotency};
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{CorrelationId, EventId, JobId, LeaseId, Position, RequestId, Tenant, WorkerId};
use event_schemas::job::{JobKind, PhasePrior};
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerEnd};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

pub(crate) use follow::run as follow;
pub use leases::{HeartbeatResult, Lease, LeaseLookup};
pub use state::JobRetry;
use state::State;
pub use trainings::FinishedTraining;
pub(crate) use trainings::MODEL_MEMBER;
pub use workers::{OrphanedLeases, TimedOutWorker};

use crate::engine::idempotency::KeyStatus;

/// The identity of a work item, which can be claimed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Work {
    /// A job as a whole.
    Job(JobId),
    Request(JobId, RequestId),
}

impl Work {
    /// The job that it is, or that it belongs to.
    pub fn job_id(&self) -> JobId {
        match self {
            Self::Job(job) | Self::Request(job, _) => *job,
        }
    }
}

/// The readiness of the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is reading the events from before the start.
    CatchingUp,
    Ready,
    /// It met an event that it cannot read, and has stopped.
    Stopped(String),
    /// The server is shutting down.
    Closing,
}

/// The status of the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkBoardStatus {
    pub readiness: Readiness,
    /// The position up to which events are applied.
    pub position: Position,
    /// The number of ready work items of each kind, over all tenants.
    pub waiting: BTreeMap<WorkKind, usize>,
    pub leases: usize,
    pub workers_present: usize,
}

/// A handle of the work board. Cheap to clone; all clones are the same board.
#[derive(Clone, Debug)]
pub struct WorkBoard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    position: watch::Sender<Position>,
    readiness: watch::Sender<Readiness>,
    clock: Clock,
}

/// The outcome of an attempt to reserve work.
#[derive(Debug)]
pub enum ReserveOutcome {
    /// The oldest first. No other claim is offered them while they are reserved.
    Reserved(Vec<Reservation>),
    /// No work is ready.
    Empty(WaitTicket),
}

impl WorkBoard {
    /// An empty board. `term` is the term of a lease, and the timeout of a silent worker.
    pub fn new(clock: Clock, term: Duration) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(term)),
            position: watch::Sender::new(Position::START),
            readiness: watch::Sender::new(Readiness::CatchingUp),
            clock,
        }))
    }

    pub fn readiness(&self) -> Readiness {
        self.0.readiness.borrow().clone()
    }

    pub fn is_ready(&self) -> bool {
        *self.0.readiness.borrow() == Readiness::Ready
    }

    /// Waits until the board is ready. False if it never will be.
    pub async fn ready(&self) -> bool {
        let mut readiness = self.0.readiness.subscribe();
        let outcome = readiness.wait_for(|readiness| *readiness != Readiness::CatchingUp).await;
        outcome.is_ok_and(|readiness| *readiness == Readiness::Ready)
    }

    /// Waits until the server shuts down.
    pub async fn closing(&self) {
        let mut readiness = self.0.readiness.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = readiness.wait_for(|readiness| *readiness == Readiness::Closing).await;
    }

    pub fn status(&self) -> WorkBoardStatus {
        let state = self.locked();
        WorkBoardStatus {
            readiness: self.readiness(),
            position: *self.0.position.borrow(),
            waiting: state.ready_queue.lengths(),
            leases: state.leases.len(),
            workers_present: state.workers.present(),
        }
    }

    /// Waits until all events up to `position` are applied. False if the board stopped before.
    pub async fn wait_for_position(&self, position: Position) -> bool {
        let mut reached = self.0.position.subscribe();
        let mut readiness = self.0.readiness.subscribe();
        tokio::select! {
            biased;
            reached = reached.wait_for(|reached| *reached >= position) => reached.is_ok(),
            _ = readiness.wait_for(|r| matches!(r, Readiness::Stopped(_) | Readiness::Closing)) => false,
        }
    }

    /// A receiver of the position up to which events are applied.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.0.position.subscribe()
    }

    /// Reserves up to `max` ready work items of the tenant, oldest first; or returns a ticket to wait for some. A
    /// `ticket` of an earlier wait keeps its place.
    pub fn reserve(
        &self,
        tenant: &Tenant,
        kinds: &[WorkKind],
        max: usize,
        ticket: Option<u64>,
    ) -> ReserveOutcome {
        let now = self.0.clock.now();
        let mut state = self.locked();
        let reserved = state.reserve(tenant, kinds, max, now);
        if reserved.is_empty() {
            let (wake, woken) = oneshot::channel();
            let tenant = Some(tenant.clone());
            let ticket = state.ready_queue.add_waiter(tenant, kinds.to_vec(), wake, ticket);
            return ReserveOutcome::Empty(WaitTicket { board: self.clone(), ticket, woken, is_done: false });
        }
        drop(state);
        let guard = |(work, kind)| Reservation { board: self.clone(), work, kind, confirmed: false };
        ReserveOutcome::Reserved(reserved.into_iter().map(guard).collect())
    }

    /// Finds the lease with this id, if it is the tenant's.
    pub fn lease(&self, tenant: &Tenant, lease_id: LeaseId) -> LeaseLookup {
        self.locked().leases.find(tenant, lease_id)
    }

    /// Extends the lease after a heartbeat.
    pub fn heartbeat(&self, tenant: &Tenant, lease_id: LeaseId) -> HeartbeatResult {
        let now = self.0.clock.now();
        self.locked().leases.heartbeat(tenant, lease_id, now)
    }

    /// Records a heartbeat of the worker. False if an event must be recorded, because the worker is unknown or counts
    /// as gone.
    pub fn worker_heartbeat(&self, tenant: &Tenant, worker: &WorkerId) -> bool {
        let now = self.0.clock.now();
        self.locked().workers.heartbeat(tenant, worker, now)
    }

    /// The status of a key for the creation of a job, whatever the job's id.
    pub fn creation_key_status(&self, idempotency: Idempotency) -> KeyStatus {
        self.locked().creation_keys.find(idempotency, self.0.clock.now())
    }

    /// The job that was created with this key, whatever the body was.
    pub fn job_created_with(&self, key: Uuid) -> Option<JobId> {
        self.locked().creation_keys.job(key)
    }

    /// The time of the retry, if the circuit breaker of the service that failed is open.
    pub(crate) fn circuit_open_until(&self, job: JobId, error: &ClassifiedError) -> Option<Timestamp> {
        self.locked().admission.circuit_open_until(job, error, self.0.clock.now())
    }

    /// The external services with the state of the tenant's circuit breaker, and the number of times in a row that it
    /// opened.
    pub fn services(&self, tenant: &Tenant) -> Vec<(Service, CircuitState, u32)> {
        self.locked().admission.services.circuits(tenant, self.0.clock.now()).collect()
    }

    /// The number of the tenant's jobs in progress of a kind with a limit per tenant; all extractions count together.
    pub fn jobs_in_progress(&self, tenant: &Tenant, kind: JobKind) -> usize {
        self.locked().limited_jobs.of(kind).map_or(0, |jobs| jobs.in_progress(tenant))
    }

    /// The current priors for the duration of the phases of the tenant's jobs of a kind.
    pub fn eta_priors(&self, tenant: &Tenant, kind: JobKind) -> Vec<PhasePrior> {
        self.locked().priors.of(tenant, kind)
    }

    /// The time at which the next lease expires, the next retry is due, or an open circuit breaker becomes half-open.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.locked().next_deadline(self.0.clock.now())
    }

    /// Enqueues the work that is due, and returns the expired leases: each once, unless [`Self::reschedule_expiry`]
    /// sets its deadline again.
    pub(crate) fn take_expired(&self) -> Vec<(LeaseId, Lease)> {
        let now = self.0.clock.now();
        let mut state = self.locked();
        state.enqueue_due(now);
        state.leases.take_expired(now)
    }

    /// Sets the deadline of a lease again whose end could not be recorded.
    pub(crate) fn reschedule_expiry(&self, lease_id: LeaseId, at: Timestamp) {
        self.locked().leases.set_deadline(lease_id, at);
    }

    /// The time at which the next worker times out, unless it sends a heartbeat before.
    pub(crate) fn next_worker_timeout(&self) -> Option<Timestamp> {
        self.locked().workers.next_timeout()
    }

    /// The workers without a heartbeat for a whole term.
    pub(crate) fn timed_out_workers(&self) -> Vec<TimedOutWorker> {
        let now = self.0.clock.now();
        self.locked().workers.timed_out(now)
    }

    /// The resumed jobs whose permanently failed requests are not resumed yet.
    pub(crate) fn pending_retries(&self) -> Vec<JobRetry> {
        self.locked().pending_retries()
    }

    /// The leases of gone workers, by job.
    pub(crate) fn orphaned_leases(&self) -> Vec<OrphanedLeases> {
        self.locked().orphaned_leases()
    }

    /// Continues from a snapshot, before the first event is applied.
    fn restore(&self, snapshot: State, position: Position) {
        let now = self.0.clock.now();
        let mut state = self.locked();
        *state = snapshot.restored(state.term(), position, now);
        drop(state);
        self.0.position.send_replace(position);
    }

    /// The stored form of the fold.
    fn snapshot(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&*self.locked())
    }

    fn apply(&self, events: &[Envelope], next: Position) {
        let now = self.0.clock.now();
        let mut state = self.locked();
        for envelope in events {
            state.apply(envelope, now);
        }
        state.advance_to(next, now);
        drop(state);
        self.0.position.send_replace(next);
    }

    fn go_live(&self) {
        let now = self.0.clock.now();
        self.locked().grant_full_terms(now);
        self.set_readiness(Readiness::Ready);
    }

    fn stop(&self, reason: String) {
        self.set_readiness(Readiness::Stopped(reason));
    }

    /// A closing board stays closing.
    fn set_readiness(&self, to: Readiness) {
        self.0.readiness.send_if_modified(|readiness| {
            let changes = *readiness != Readiness::Closing;
            if changes {
                *readiness = to;
            }
            changes
        });
    }

    pub(crate) fn close(&self) {
        self.0.readiness.send_replace(Readiness::Closing);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Each change is one step that cannot panic half-way.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reserved work item, which is offered to no other claim. If it is dropped without [`Self::confirm`], it is offered
/// again.
#[derive(Debug)]
pub struct Reservation {
    board: WorkBoard,
    pub work: Work,
    pub kind: WorkKind,
    confirmed: bool,
}

impl Reservation {
    /// Confirms that the decision about the work is in the log at `position`. Until the board has applied that
    /// position, its state of the work is stale, and the work is not offered.
    pub fn confirm(mut self, position: Position) {
        self.confirmed = true;
        let now = self.board.0.clock.now();
        self.board.locked().suppress_until(&self.work, position, now);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.confirmed {
            let now = self.board.0.clock.now();
            self.board.locked().release(&self.work, now);
        }
    }
}

/// The ticket of a worker that waits for work.
#[derive(Debug)]
pub struct WaitTicket {
    board: WorkBoard,
    ticket: u64,
    woken: oneshot::Receiver<()>,
    is_done: bool,
}

impl WaitTicket {
    /// Waits until there may be work. Returns the ticket, which keeps the place if another claim was faster. A woken
    /// worker must reserve at once.
    pub async fn woken(mut self) -> u64 {
        // The sender is dropped only when it is used, or with this ticket.
        let _ = (&mut self.woken).await;
        self.is_done = true;
        self.ticket
    }
}

impl Drop for WaitTicket {
    fn drop(&mut self) {
        if !self.is_done {
            self.board.locked().ready_queue.remove_waiter(self.ticket, &mut self.woken);
        }
    }
}

/// The end of a worker, which ends its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerGone {
    pub end: WorkerEnd,
    /// The event that recorded it.
    pub origin: Origin,
}

/// The event that a process reacts to, and its correlation id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub event_id: EventId,
    pub correlation_id: CorrelationId,
}

impl Origin {
    fn of(envelope: &Envelope) -> Self {
        Self { event_id: envelope.id, correlation_id: envelope.metadata.correlation_id }
    }
}

#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod timer_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> WorkBoard {
        WorkBoard::new(Clock::manual(Timestamp::EPOCH), Duration::from_secs(45))
    }

    #[test]
    fn closing_board_stays_closing() {
        let board = board();
        board.close();
        board.go_live();
        board.stop("the log has stopped".to_owned());
        assert_eq!(board.readiness(), Readiness::Closing);
    }

    #[test]
    fn work_is_not_suppressed_for_an_applied_position() {
        let board = board();
        let (work, now) = (Work::Job(JobId(uuid::Uuid::nil())), Timestamp::EPOCH);
        let mut state = board.locked();
        state.advance_to(Position(5), now);
        state.suppress_until(&work, Position(5), now);
        assert!(state.suppresses_nothing());
        state.suppress_until(&work, Position(6), now);
        assert!(!state.suppresses_nothing());
    }
}
