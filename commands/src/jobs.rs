//! Jobs: creating them, assigning their work to workers, and recording what the workers report.

pub(crate) mod analyses;
pub(crate) mod claim;
pub(crate) mod creation;
mod effects;
mod extractions;
pub(crate) mod problem;
pub(crate) mod processes;
pub mod routes;
pub mod scheduler;
pub(crate) mod series;
pub mod server_work;

use std::sync::Arc;

use domain::image_matching::shard::ImageMatchShardDecider;
use domain::image_matching::{self, ImageMatchingDecider};
use domain::job::{self, JobAvailability, JobDecider};
use domain::lease::LeaseTerms;
use domain::model::ModelDecider;
use domain::product::ProductDecider;
use domain::worker::{self, WorkerDecider};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, LeaseId, Position, Tenant, WorkerId};
use event_schemas::job::JobKind;
use event_schemas::stream::StreamId;
use web::problem::Problem;

use crate::engine::Engine;
use crate::engine::execute::{CachedStream, ExecuteError, Executed, Streams};
use crate::engine::problem::{from_execute_error, from_load_error};
use crate::engine::snapshot::Snapshots;
use scheduler::{LeaseLookup, WorkBoard};

/// The write side of jobs.
#[derive(Debug)]
pub struct Jobs {
    pub(crate) engine: Arc<Engine>,
    leases: LeaseTerms,
    /// The most video analyses that a tenant may have in progress.
    analyses_max: usize,
    pub(crate) jobs: Streams<JobDecider>,
    image_matchings: Streams<ImageMatchingDecider>,
    image_matches: Streams<ImageMatchShardDecider>,
    workers: Streams<WorkerDecider>,
    /// What extractions refer to.
    models: Streams<ModelDecider>,
    products: Streams<ProductDecider>,
    pub(crate) board: WorkBoard,
    pub(crate) snapshots: Snapshots,
}

/// The facts about a job that commands on its parts need.
#[derive(Clone, Copy, Debug)]
struct JobRef {
    availability: JobAvailability,
    /// The position of its latest event.
    position: Position,
}

impl Jobs {
    pub(crate) fn new(engine: Arc<Engine>, leases: LeaseTerms, analyses_max: usize) -> Self {
        Self {
            leases,
            analyses_max,
            jobs: engine.streams(),
            image_matchings: engine.streams(),
            image_matches: engine.streams(),
            workers: engine.streams(),
            models: engine.streams(),
            products: engine.streams(),
            board: WorkBoard::new(engine.clock.clone(), leases.term),
            snapshots: engine.snapshots("work-board"),
            engine,
        }
    }

    /// The facts about a job of the tenant.
    ///
    /// # Errors
    /// 404 if there is no such job, or it is another tenant's.
    async fn job(&self, tenant: &Tenant, job: JobId) -> Result<JobRef, Problem> {
        let project = |stream: &CachedStream<JobDecider>| {
            stream.state.details().filter(|_| stream.tenant() == Some(tenant))?;
            let availability = stream.state.availability();
            Some(JobRef { availability, position: stream.position() })
        };
        let found = self.jobs.query(&StreamId::job(job), project).await.map_err(from_load_error)?;
        found.ok_or_else(problem::no_such_job)
    }

    /// The kind of a job of the tenant, which never changes.
    ///
    /// # Errors
    /// As [`Self::job`].
    async fn job_kind(&self, tenant: &Tenant, job: JobId) -> Result<JobKind, Problem> {
        let project = |stream: &CachedStream<JobDecider>| {
            let details = stream.state.details().filter(|_| stream.tenant() == Some(tenant));
            details.map(job::Job::kind)
        };
        let found = self.jobs.query_first(&StreamId::job(job), project).await.map_err(from_load_error)?;
        found.ok_or_else(problem::no_such_job)
    }

    /// Executes a command on a job now.
    ///
    /// # Errors
    /// As [`Streams::execute`].
    pub(crate) async fn execute_job(
        &self,
        job: JobId,
        cause: &Cause,
        action: job::Action,
    ) -> Result<Executed, ExecuteError<job::Refusal>> {
        let command = job::Command { at: self.engine.now(), action };
        self.jobs.execute(&StreamId::job(job), cause, command).await
    }

    /// Executes a command on the matching of a job now.
    ///
    /// # Errors
    /// As [`Streams::execute`].
    async fn execute_matching(
        &self,
        job: JobId,
        availability: JobAvailability,
        cause: &Cause,
        action: image_matching::Action,
    ) -> Result<Executed, ExecuteError<image_matching::Refusal>> {
        let command = image_matching::Command { job: availability, at: self.engine.now(), action };
        self.image_matchings.execute(&StreamId::image_matching(job), cause, command).await
    }

    /// Executes a command on a worker now.
    ///
    /// # Errors
    /// As [`Streams::execute`].
    async fn execute_worker(
        &self,
        worker_id: &WorkerId,
        cause: &Cause,
        action: worker::Action,
    ) -> Result<Executed, ExecuteError<worker::Refusal>> {
        let command = worker::Command { worker_id: worker_id.clone(), at: self.engine.now(), action };
        self.workers.execute(&StreamId::worker(&cause.tenant, worker_id), cause, command).await
    }

    /// Executes a report of a job's worker under a lease. Returns its position.
    pub(crate) async fn report(
        &self,
        job: JobId,
        lease_id: LeaseId,
        cause: &Cause,
        action: job::Action,
    ) -> Result<Position, Problem> {
        Ok(self.execute_report(job, lease_id, cause, action).await?.position)
    }

    /// Executes a report of a job's worker under a lease.
    async fn execute_report(
        &self,
        job: JobId,
        lease_id: LeaseId,
        cause: &Cause,
        action: job::Action,
    ) -> Result<Executed, Problem> {
        let executed = self.execute_job(job, cause, action).await.map_err(from_execute_error)?;
        self.heartbeat_by_report(&cause.tenant, lease_id);
        Ok(executed)
    }

    /// Executes a report of a match request's worker under a lease. Returns its position.
    async fn report_request(
        &self,
        job: JobId,
        lease_id: LeaseId,
        cause: &Cause,
        action: image_matching::Action,
    ) -> Result<Position, Problem> {
        let availability = self.job(&cause.tenant, job).await?.availability;
        let executed = self.execute_matching(job, availability, cause, action).await;
        let position = executed.map_err(from_execute_error)?.position;
        self.heartbeat_by_report(&cause.tenant, lease_id);
        Ok(position)
    }

    /// Counts a report under this lease as a heartbeat.
    fn heartbeat_by_report(&self, tenant: &Tenant, id: LeaseId) {
        if let LeaseLookup::Open(lease) = self.board.lease(tenant, id) {
            self.board.worker_heartbeat(tenant, &lease.worker_id);
            self.board.heartbeat(tenant, id);
        }
    }

    /// Waits until the board has applied all events that are in the log now.
    ///
    /// # Errors
    /// 503 if the board has stopped.
    pub(crate) async fn wait_for_board(&self) -> Result<(), Problem> {
        if self.board.wait_for_position(self.engine.head()).await {
            return Ok(());
        }
        Err(problem::board_not_ready(&self.board.readiness()))
    }
}
