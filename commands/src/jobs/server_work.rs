//! Jobs that the server itself performs: an async function for each kind, under the rules of all jobs.
//!
//! The work is claimed under a lease, kept alive by heartbeats, and ends with a result or a failure, which is classified and
//! retried as that of any worker. After a crash the lease expires, and the next attempt continues at the checkpoint that was
//! reported last. A server that stops gives its work back at once. A function that is no longer wanted, because the job was
//! cancelled or its lease is lost, is dropped.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::job::failure::classify;
use domain::job::{self, Action, JobDecider};
use event_schemas::envelope::{Actor, Cause, Metadata};
use event_schemas::ids::{CommandId, EventId, JobId, LeaseId, Tenant, WorkerId};
use event_schemas::job::{JobCreated, JobProgressReported, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::worker::{WorkKind, WorkerEnd};
use serde_json::Value;
use tokio::task::{Id, JoinError, JoinSet};
use web::problem::Problem;

use super::Jobs;
use super::creation::Creation;
use super::scheduler::{HeartbeatResult, LeaseLookup, Reservation, WaitTicket};
use crate::engine::execute::{CachedStream, ExecuteError};
use crate::engine::problem::{from_execute_error, from_load_error};

/// The name of the worker in claims, and of the actor of its commands.
pub(super) const NAME: &str = "server";

/// The most jobs of a kind that this process performs at a time, each of another tenant.
const AT_ONCE_MAX: usize = 4;

/// The delay before a command is sent again that could not be recorded.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The most letters of a failure's message.
const MESSAGE_MAX: usize = 10_000;

/// The shortest interval between two heartbeats, however short a lease is.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// The reason why an attempt failed. The message is classified like that of any worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkFailure {
    pub message: String,
    /// The retry delay, in seconds, that a service has requested.
    pub retry_after_seconds: Option<u32>,
    /// The time until which the circuit breaker of the service that failed is open, if it is.
    pub circuit_open_until: Option<Timestamp>,
}

impl WorkFailure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }
}

/// The job is no longer this attempt's: it was cancelled, or its lease is lost. The function should return; it is dropped in any
/// case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job has ended, or its lease is lost")]
pub struct WorkLost;

impl From<WorkLost> for WorkFailure {
    fn from(lost: WorkLost) -> Self {
        Self::new(lost.to_string())
    }
}

/// The progress of an attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkProgress {
    pub items_done: u64,
    /// None while it is not known.
    pub items_total: Option<u64>,
    /// Where the next attempt continues; at most [`job::CHECKPOINT_BYTES_MAX`] of JSON. None keeps the last one.
    pub checkpoint: Option<Value>,
}

/// A job under a lease of this process. Cheap to clone.
#[derive(Clone)]
pub struct ServerJob(Arc<Claimed>);

struct Claimed {
    jobs: Arc<Jobs>,
    lease_id: LeaseId,
    attempt: u32,
    created: JobCreated,
    created_at: Timestamp,
    metadata: Metadata,
    event_id: EventId,
    checkpoint: Option<JsonText>,
}

impl fmt::Debug for ServerJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claimed { lease_id, attempt, created, .. } = &*self.0;
        f.debug_struct("ServerJob")
            .field("job_id", &created.job_id)
            .field("lease_id", lease_id)
            .field("attempt", attempt)
            .finish_non_exhaustive()
    }
}

impl ServerJob {
    pub fn job_id(&self) -> JobId {
        self.0.created.job_id
    }

    pub fn tenant(&self) -> &Tenant {
        &self.0.metadata.tenant
    }

    /// The current attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Who created the job.
    pub fn created_by(&self) -> &Actor {
        &self.0.metadata.actor
    }

    pub fn created_at(&self) -> Timestamp {
        self.0.created_at
    }

    /// The options with which the job was created.
    pub fn options(&self) -> Value {
        self.0.created.source.as_ref().map(|source| source.options().to_value()).unwrap_or_default()
    }

    /// The checkpoint that an earlier attempt has reported last.
    pub fn checkpoint(&self) -> Option<Value> {
        self.0.checkpoint.as_ref().map(JsonText::to_value)
    }

    /// Whether the attempt is over: the job was cancelled, or its lease is lost. For code that is not async; an async
    /// function is dropped then.
    pub fn is_over(&self) -> bool {
        !matches!(self.0.jobs.board.lease(self.tenant(), self.0.lease_id), LeaseLookup::Open(_))
    }

    /// Records the progress. A report that says nothing new records nothing.
    ///
    /// # Errors
    /// [`WorkLost`]; while the log cannot be written, the report waits.
    pub async fn report(&self, progress: WorkProgress) -> Result<(), WorkLost> {
        let Claimed { jobs, lease_id, created, .. } = &*self.0;
        let WorkProgress { items_done, items_total, checkpoint } = progress;
        let items_total = items_total.map(|total| total.max(items_done));
        let fraction = match items_total {
            Some(total) if total > 0 => items_done as f64 / total as f64,
            _ => 0.0,
        };
        let report = JobProgressReported {
            lease_id: *lease_id,
            stage: Phase::Processing,
            fraction,
            items_done: Some(items_done),
            items_total,
            checkpoint: checkpoint.map(Into::into),
            items: None,
        };
        let eta_priors = jobs.board.eta_priors(self.tenant(), created.kind);
        self.record(Action::ReportProgress { report, eta_priors }).await
    }

    /// The cause of a further command of the work. It has the job's correlation id.
    pub(crate) fn cause(&self) -> Cause {
        cause(&self.0.jobs, &self.0.metadata, self.0.event_id)
    }

    /// Records what the work leads to, however long the log cannot be written.
    async fn record(&self, action: Action) -> Result<(), WorkLost> {
        let Claimed { jobs, lease_id, .. } = &*self.0;
        let cause = self.cause();
        loop {
            let Err(problem) = jobs.report(self.job_id(), *lease_id, &cause, action.clone()).await else {
                return Ok(());
            };
            if !problem.status().is_server_error() {
                tracing::debug!(job_id = %self.job_id(), reason = %problem.detail, "a report of the server's work was refused");
                return Err(WorkLost);
            }
            tracing::warn!(job_id = %self.job_id(), reason = %problem.detail, "the server's work cannot be recorded; retrying");
            jobs.engine.clock.sleep(RETRY_DELAY).await;
        }
    }

    /// Sends heartbeats until the attempt is over.
    async fn keep_alive(&self) {
        let Claimed { jobs, lease_id, .. } = &*self.0;
        let interval = jobs.leases.heartbeat.max(HEARTBEAT_MIN);
        let mut position = jobs.board.position();
        loop {
            position.mark_unchanged();
            if !matches!(jobs.board.heartbeat(self.tenant(), *lease_id), HeartbeatResult::Until(_)) {
                return;
            }
            let beat = jobs.engine.clock.sleep(interval);
            tokio::pin!(beat);
            loop {
                tokio::select! {
                    biased;
                    _ = position.changed() => if self.is_over() { return },
                    () = &mut beat => break,
                }
            }
        }
    }
}

fn cause(jobs: &Jobs, metadata: &Metadata, event_id: EventId) -> Cause {
    Cause {
        command_id: CommandId(jobs.engine.ids.next()),
        correlation_id: metadata.correlation_id,
        event_id: Some(event_id),
        tenant: metadata.tenant.clone(),
        actor: Actor::System(NAME.parse().expect("a process name is a short text")),
        subject: None,
        idempotency: None,
        traceparent: metadata.traceparent.clone(),
    }
}

/// Performs the jobs of a kind, of each tenant at most one at a time, until the server shuts down.
pub(crate) async fn run<Perform, Performing>(jobs: Arc<Jobs>, kind: WorkKind, perform: Perform)
where
    Perform: Fn(ServerJob) -> Performing,
    Performing: Future<Output = Result<Value, WorkFailure>> + Send + 'static,
{
    if !jobs.board.ready().await {
        return;
    }
    let mut running = JoinSet::new();
    let mut tenants: HashMap<Id, Tenant> = HashMap::new();
    loop {
        let mut ticket = None;
        if tenants.len() < AT_ONCE_MAX {
            match jobs.board.reserve_of_any_tenant(kind, &tenants.values().cloned().collect()) {
                Ok((tenant, reservation)) => {
                    if let Some(job) = claim_or_wait(&jobs, reservation).await {
                        let work = perform(job.clone());
                        let task = running.spawn(async move { supervise(&job, work).await });
                        tenants.insert(task.id(), tenant);
                    }
                    continue;
                }
                Err(empty) => ticket = Some(empty),
            }
        }
        tokio::select! {
            biased;
            () = jobs.board.closing() => break,
            Some(ended) = running.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                tenants.remove(&id);
            }
            () = woken(ticket) => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// Waits until there may be work; for ever without a ticket.
async fn woken(ticket: Option<WaitTicket>) {
    match ticket {
        Some(ticket) => drop(ticket.woken().await),
        None => std::future::pending().await,
    }
}

/// Claims a job; none if another claim was faster, or if it could not be claimed yet.
async fn claim_or_wait(jobs: &Arc<Jobs>, reservation: Reservation) -> Option<ServerJob> {
    match claim(jobs, reservation).await {
        Ok(claimed) => claimed,
        Err(problem) => {
            tracing::warn!(reason = %problem.detail, "the server cannot claim its own work; retrying");
            tokio::select! {
                () = jobs.engine.clock.sleep(RETRY_DELAY) => {}
                () = jobs.board.closing() => {}
            }
            None
        }
    }
}

async fn claim(jobs: &Arc<Jobs>, reservation: Reservation) -> Result<Option<ServerJob>, Problem> {
    let job_id = reservation.work.job_id();
    let Creation { created, at: created_at, metadata, event_id, .. } = jobs.creation(job_id).await?;
    let (now, lease_id) = (jobs.engine.now(), LeaseId(jobs.engine.ids.next()));
    let worker_id: WorkerId = NAME.parse().expect("a worker's name is a short text");
    let action = Action::Claim { lease_id, worker_id, lease_until: jobs.leases.until(now) };
    let command = job::Command { at: now, action };
    let stream = StreamId::job(job_id);
    let claimed = match jobs.jobs.execute(&stream, &cause(jobs, &metadata, event_id), command).await {
        Ok(executed) => executed.position,
        // Another claim was faster, or the job has ended.
        Err(ExecuteError::Refused(_)) => {
            reservation.confirm(jobs.engine.head());
            return Ok(None);
        }
        Err(error) => return Err(from_execute_error(error)),
    };
    reservation.confirm(claimed);
    let now = |folded: &CachedStream<JobDecider>| {
        folded.state.details().map(|details| (details.attempt, details.checkpoint.clone()))
    };
    let now = jobs.jobs.query(&stream, now).await.map_err(from_load_error)?;
    let Some((attempt, checkpoint)) = now else { return Ok(None) };
    // From here on, the board says whether the lease is in force.
    if !jobs.board.wait_for_position(claimed).await {
        return Ok(None);
    }
    let jobs = jobs.clone();
    let claimed = Claimed { jobs, lease_id, attempt, created, created_at, metadata, event_id, checkpoint };
    Ok(Some(ServerJob(Arc::new(claimed))))
}

/// Does the work of a job until it ends, and records how it ended.
async fn supervise(job: &ServerJob, work: impl Future<Output = Result<Value, WorkFailure>> + Send + 'static) {
    let lease_id = job.0.lease_id;
    // A task of its own, so that a panic ends this attempt only.
    let mut working = JoinSet::new();
    working.spawn(work);
    let end = tokio::select! {
        biased;
        Some(ended) = working.join_next() => job.end(ended),
        () = job.0.jobs.board.closing() => Action::ExpireLease { lease_id, end: WorkerEnd::Stopped },
        () = job.keep_alive() => return,
    };
    drop(working);
    tokio::select! {
        biased;
        _ = job.record(end) => {}
        () = job.keep_alive() => {}
    }
}

impl ServerJob {
    /// The end of the attempt.
    fn end(&self, ended: Result<Result<Value, WorkFailure>, JoinError>) -> Action {
        let lease_id = Some(self.0.lease_id);
        let failure = match ended {
            Ok(Ok(result)) => return Action::Complete { lease_id, result: Some(result.into()) },
            Ok(Err(failure)) => failure,
            Err(error) => {
                tracing::error!(job_id = %self.job_id(), %error, "the server's work ended unexpectedly");
                WorkFailure::new("the server's work ended unexpectedly; its log has the cause")
            }
        };
        let message: String = failure.message.chars().take(MESSAGE_MAX).collect();
        let error = classify(&message, None, failure.retry_after_seconds, self.job_id(), self.attempt());
        let open_until = || self.0.jobs.board.circuit_open_until(self.job_id(), &error);
        let circuit_open_until = failure.circuit_open_until.or_else(open_until);
        Action::Fail { lease_id, error, circuit_open_until }
    }
}

#[cfg(test)]
mod tests;
