//! The work board: what waits to be claimed, who holds which lease, and which workers are there.
//!
//! A fold over the log that lives in memory and is made anew at every start. It is a hint, never a judge: whether a claim
//! holds is decided on the work's own stream. What it alone knows are heartbeats, which are no events; so a restart grants
//! every open lease, and every worker, one full term.

mod analyses;
mod created;
mod doors;
mod follow;
mod leases;
mod line;
mod priors;
mod state;
mod workers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::breaker::Phase;
use domain::job::service::Service;
use event_log::clock::Clock;
use event_schemas::envelope::{Envelope, Idempotency};
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{CorrelationId, EventId, JobId, LeaseId, Position, RequestId, Tenant, WorkerId};
use event_schemas::job::{JobKind, PhasePrior};
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerEnd};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::idempotency::Seen;
pub(crate) use follow::run as follow;
pub use leases::{Beat, Found, Lease};
pub use state::Retry;
use state::State;
pub use workers::{Orphans, Overdue};

/// A piece of work that can be claimed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// A job as a whole.
    Job(JobId),
    Request(JobId, RequestId),
}

impl Work {
    /// The job that it is, or is a part of.
    pub fn job_id(&self) -> JobId {
        match self {
            Self::Job(job) | Self::Request(job, _) => *job,
        }
    }
}

/// Whether the board can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It reads what happened before the start.
    CatchingUp,
    Ready,
    /// It met something that it cannot read, and stands still.
    Stopped(String),
    /// The server shuts down.
    Closing,
}

/// What the board is, in figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardStatus {
    pub readiness: Readiness,
    /// Everything up to here is in it.
    pub position: Position,
    /// How much work of each kind waits, over all tenants.
    pub waiting: BTreeMap<WorkKind, usize>,
    pub leases: usize,
    pub workers_present: usize,
}

/// Cheap to clone; clones are the same board.
#[derive(Clone, Debug)]
pub struct Board(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    position: watch::Sender<Position>,
    readiness: watch::Sender<Readiness>,
    clock: Clock,
}

/// What a search for work comes to.
#[derive(Debug)]
pub enum Pick {
    /// The longest waiting first. Nobody else is offered them while they are held.
    Work(Vec<Picked>),
    Nothing(Waiting),
}

impl Board {
    /// An empty board. `term` is how long a lease runs, and how long a worker may be silent.
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

    /// Waits until the board can be relied on. False if it never will.
    pub async fn ready(&self) -> bool {
        let mut readiness = self.0.readiness.subscribe();
        let settled = readiness.wait_for(|readiness| *readiness != Readiness::CatchingUp).await;
        settled.is_ok_and(|readiness| *readiness == Readiness::Ready)
    }

    /// Waits until the server shuts down.
    pub async fn closing(&self) {
        let mut readiness = self.0.readiness.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = readiness.wait_for(|readiness| *readiness == Readiness::Closing).await;
    }

    pub fn status(&self) -> BoardStatus {
        let state = self.locked();
        BoardStatus {
            readiness: self.readiness(),
            position: *self.0.position.borrow(),
            waiting: state.line.lengths(),
            leases: state.leases.len(),
            workers_present: state.workers.present(),
        }
    }

    /// Waits until everything up to `position` is on the board. False if it stopped before.
    pub async fn reached(&self, position: Position) -> bool {
        let mut reached = self.0.position.subscribe();
        let mut readiness = self.0.readiness.subscribe();
        tokio::select! {
            biased;
            reached = reached.wait_for(|reached| *reached >= position) => reached.is_ok(),
            _ = readiness.wait_for(|r| matches!(r, Readiness::Stopped(_) | Readiness::Closing)) => false,
        }
    }

    /// How far the board is, as it moves.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.0.position.subscribe()
    }

    /// Up to `max` pieces of waiting work of the tenant's, the longest waiting first; or a place in the line of those who
    /// wait for some. A `place` that was held before is taken again.
    pub fn pick(&self, tenant: &Tenant, kinds: &[WorkKind], max: usize, place: Option<u64>) -> Pick {
        let now = self.0.clock.now();
        let mut state = self.locked();
        let picked = state.pick(tenant, kinds, max, now);
        if picked.is_empty() {
            let (wake, woken) = oneshot::channel();
            let place = state.line.wait(tenant.clone(), kinds.to_vec(), wake, place);
            return Pick::Nothing(Waiting { board: self.clone(), place, woken, done: false });
        }
        drop(state);
        let guard = |(work, kind)| Picked { board: self.clone(), work, kind, settled: false };
        Pick::Work(picked.into_iter().map(guard).collect())
    }

    /// The lease of this id, if it is the tenant's.
    pub fn lease(&self, tenant: &Tenant, lease_id: LeaseId) -> Found {
        self.locked().leases.find(tenant, lease_id)
    }

    /// The lease's worker is alive.
    pub fn heartbeat(&self, tenant: &Tenant, lease_id: LeaseId) -> Beat {
        let now = self.0.clock.now();
        self.locked().leases.heartbeat(tenant, lease_id, now)
    }

    /// The worker was heard of. False if the log has to be told, because it counts as gone, or is not known.
    pub fn seen(&self, tenant: &Tenant, worker: &WorkerId) -> bool {
        let now = self.0.clock.now();
        self.locked().workers.seen(tenant, worker, now)
    }

    /// What is known of a key under which a job is to be created, whatever the job's id.
    pub fn created(&self, asked: Idempotency) -> Seen {
        self.locked().created.find(asked, self.0.clock.now())
    }

    /// The job that was created under this key, whatever was asked for with it.
    pub fn created_job(&self, key: Uuid) -> Option<JobId> {
        self.locked().created.job(key)
    }

    /// When what failed would be tried again, if the service that it failed of is left alone.
    pub(crate) fn left_alone_until(&self, job: JobId, error: &ClassifiedError) -> Option<Timestamp> {
        self.locked().doors.left_alone_until(job, error, self.0.clock.now())
    }

    /// How the services stand that are not ours, with how often each was left alone in a row.
    pub fn services(&self) -> Vec<(Service, Phase, u32)> {
        self.locked().doors.services.standing(self.0.clock.now()).collect()
    }

    /// How many analyses of the tenant's go on.
    pub fn analyses_under_way(&self, tenant: &Tenant) -> usize {
        self.locked().analyses.under_way(tenant)
    }

    /// What is known by now about how long the phases of the tenant's jobs of a kind take.
    pub fn eta_priors(&self, tenant: &Tenant, kind: JobKind) -> Vec<PhasePrior> {
        self.locked().priors.of(tenant, kind)
    }

    /// When the next lease runs out, the next retry falls due, or a service that is left alone is asked again.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.locked().next_deadline(self.0.clock.now())
    }

    /// Lines up what has fallen due, and hands out the leases that have run out: each once, unless
    /// [`Self::expire_later`] gives it back.
    pub(crate) fn run_out(&self) -> Vec<(LeaseId, Lease)> {
        let now = self.0.clock.now();
        let mut state = self.locked();
        state.line_up_due(now);
        state.leases.run_out(now)
    }

    /// The end of this lease could not be recorded now.
    pub(crate) fn expire_later(&self, lease_id: LeaseId, at: Timestamp) {
        self.locked().leases.arm(lease_id, at);
    }

    /// When the next worker counts as lost, if it is not heard of before.
    pub(crate) fn next_silence(&self) -> Option<Timestamp> {
        self.locked().workers.next_silence()
    }

    /// The workers that were not heard of for a whole term.
    pub(crate) fn overdue(&self) -> Vec<Overdue> {
        let now = self.0.clock.now();
        self.locked().workers.overdue(now)
    }

    /// The jobs that were taken up again, but not yet the requests in them that had failed for good.
    pub(crate) fn unretried(&self) -> Vec<Retry> {
        self.locked().unretried()
    }

    /// The leases, by job, of workers that are gone.
    pub(crate) fn orphans(&self) -> Vec<Orphans> {
        self.locked().orphans()
    }

    fn apply(&self, events: &[Envelope], next: Position) {
        let now = self.0.clock.now();
        let mut state = self.locked();
        for envelope in events {
            state.apply(envelope, now);
        }
        state.reach(next, now);
        drop(state);
        self.0.position.send_replace(next);
    }

    fn go_live(&self) {
        let now = self.0.clock.now();
        self.locked().grant_full_terms(now);
        self.turn(Readiness::Ready);
    }

    fn stop(&self, reason: String) {
        self.turn(Readiness::Stopped(reason));
    }

    /// What is closing stays so.
    fn turn(&self, to: Readiness) {
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

/// A piece of work that was picked and is offered to nobody else. Dropped without [`Self::settle`], it is offered again.
#[derive(Debug)]
pub struct Picked {
    board: Board,
    pub work: Work,
    pub kind: WorkKind,
    settled: bool,
}

impl Picked {
    /// What was decided about the work is in the log up to `position`. Until the board has got there, its own idea of the
    /// work is old, and it is offered to nobody.
    pub fn settle(mut self, position: Position) {
        self.settled = true;
        let now = self.board.0.clock.now();
        self.board.locked().hold_until(&self.work, position, now);
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if !self.settled {
            let now = self.board.0.clock.now();
            self.board.locked().release(&self.work, now);
        }
    }
}

/// A place in the line of those who wait for work.
#[derive(Debug)]
pub struct Waiting {
    board: Board,
    place: u64,
    woken: oneshot::Receiver<()>,
    done: bool,
}

impl Waiting {
    /// Waits until there may be work. Answers the place, to be taken again if somebody was faster. Whoever is woken must
    /// pick at once.
    pub async fn woken(mut self) -> u64 {
        // The sender is dropped only when it is used, or with this place.
        let _ = (&mut self.woken).await;
        self.done = true;
        self.place
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done {
            self.board.locked().line.leave(self.place, &mut self.woken);
        }
    }
}

/// A worker's end, as the leases that it held are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    pub end: WorkerEnd,
    /// The event that says so.
    pub origin: Origin,
}

/// The event that makes a process act, and the chain of causes that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
mod timer_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(Clock::manual(Timestamp::EPOCH), Duration::from_secs(45))
    }

    #[test]
    fn a_board_that_is_closing_does_not_open_any_more() {
        let board = board();
        board.close();
        board.go_live();
        board.stop("the log has stopped".to_owned());
        assert_eq!(board.readiness(), Readiness::Closing);
    }

    #[test]
    fn work_is_not_held_for_a_position_that_the_board_has_reached_but_not_told_of_yet() {
        let board = board();
        let (work, now) = (Work::Job(JobId(uuid::Uuid::nil())), Timestamp::EPOCH);
        let mut state = board.locked();
        state.reach(Position(5), now);
        state.hold_until(&work, Position(5), now);
        assert!(state.holds_nothing());
        state.hold_until(&work, Position(6), now);
        assert!(!state.holds_nothing());
    }
}
