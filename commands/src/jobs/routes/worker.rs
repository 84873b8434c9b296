//! Registers workers, and records their heartbeats and exits.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::worker::{Action, end_of};
use event_schemas::envelope::Cause;
use event_schemas::ids::{Position, WorkerId};
use event_schemas::stream::StreamId;
use event_schemas::worker::{WorkKind, WorkerEnd};
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;

use crate::engine::execute::Executed;
use crate::engine::problem::{self, Step, after_step};
use crate::engine::write_request::{CallerOf, Workers, WriteRequest};
use crate::jobs::Jobs;
use crate::jobs::problem::{check_kinds, check_worker};

/// The registration of a worker.
#[derive(Debug, Object)]
#[oai(example)]
struct RegisterWorker {
    /// The kinds of work that it can do.
    #[oai(validator(min_items = 1, max_items = 20))]
    kinds: Vec<Api<WorkKind>>,
    /// The version of the worker's program.
    #[oai(validator(min_length = 1, max_length = 100))]
    version: Option<String>,
}

impl Example for RegisterWorker {
    fn example() -> Self {
        Self { kinds: vec![Api(WorkKind::MatchRequest)], version: Some("1.0.0".to_owned()) }
    }
}

/// A registered worker.
#[derive(Debug, Serialize, JsonSchema)]
struct RegisteredWorker {
    worker_id: WorkerId,
    kinds: Vec<WorkKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    position: Position,
}

/// An accepted heartbeat.
#[derive(Debug, Serialize, JsonSchema)]
struct HeartbeatAccepted {
    worker_id: WorkerId,
    position: Position,
}

/// The exit of a worker, as its supervisor saw it.
#[derive(Debug, Object)]
#[oai(example)]
struct ReportExit {
    /// A signed or an unsigned number of 32 bits. 137 counts as out of memory.
    #[oai(validator(minimum(value = "-2147483648"), maximum(value = "4294967295")))]
    exit_code: Option<i64>,
    signal: Option<i32>,
    /// `oom` counts as out of memory, `shutdown` as a requested stop.
    #[oai(validator(min_length = 1, max_length = 2000))]
    reason: Option<String>,
}

impl Example for ReportExit {
    fn example() -> Self {
        Self { exit_code: Some(137), signal: None, reason: None }
    }
}

/// An exited worker. Its leases end with it.
#[derive(Debug, Serialize, JsonSchema)]
struct ExitedWorker {
    worker_id: WorkerId,
    end: WorkerEnd,
    position: Position,
}

/// The write routes of workers.
#[derive(Clone, Debug)]
pub struct WorkerCommands(pub(super) Arc<Jobs>);

#[OpenApi(tag = "Tag::Workers")]
impl WorkerCommands {
    /// Register a worker
    ///
    /// A claim registers its worker, too. Register when the worker starts: leases that an earlier process with the same
    /// id still has end, so that their work can be claimed at once.
    #[oai(path = "/internal/workers/:worker_id", method = "put", operation_id = "register_worker")]
    async fn register(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        worker_id: Path<String>,
        body: Json<RegisterWorker>,
    ) -> Result<Json<Api<RegisteredWorker>>, Problem> {
        let worker_id = named(&worker_id)?;
        let route = format!("PUT /internal/workers/{worker_id}");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let kinds: BTreeSet<WorkKind> = body.0.kinds.into_iter().map(|kind| kind.0).collect();
        check_kinds(&kinds)?;
        let version = body.0.version;
        let action = Action::Register { kinds: kinds.iter().copied().collect(), version: version.clone() };
        let stream = StreamId::worker(&cause.tenant, &worker_id);
        let earlier = self.0.workers.repeated(&stream, &cause).await.map_err(problem::from_execute_error)?;
        let ended = match earlier {
            None => self.0.end_earlier_process(&cause, &worker_id).await?,
            Some(_) => None,
        };
        let registered = self.execute(&worker_id, &cause, action).await;
        let registered = registered.map_err(|problem| match ended {
            Some(position) => after_step(Step { name: "earlier_exit", position }, "registration", problem),
            None => problem,
        });
        let position = registered?.position;
        self.0.board.worker_heartbeat(&request.caller.tenant, &worker_id);
        let kinds = kinds.into_iter().collect();
        Ok(Json(Api(RegisteredWorker { worker_id, kinds, version, position })))
    }

    /// Send a worker heartbeat
    #[oai(
        path = "/internal/workers/:worker_id/heartbeat",
        method = "post",
        operation_id = "worker_heartbeat"
    )]
    async fn heartbeat(
        &self,
        request: CallerOf<Workers>,
        worker_id: Path<String>,
    ) -> Result<Json<Api<HeartbeatAccepted>>, Problem> {
        let worker_id = named(&worker_id)?;
        let position = if self.0.board.worker_heartbeat(&request.caller.tenant, &worker_id) {
            let stream = StreamId::worker(&request.caller.tenant, &worker_id);
            let position = self.0.workers.query(&stream, |folded| folded.position()).await;
            position.map_err(problem::from_load_error)?
        } else {
            let cause = request.cause(&self.0.engine).await?;
            self.execute(&worker_id, &cause, Action::Seen).await?.position
        };
        Ok(Json(Api(HeartbeatAccepted { worker_id, position })))
    }

    /// Report a worker's exit
    ///
    /// Its claimed work is ready for another worker at once: the position covers the ends of its leases.
    #[oai(path = "/internal/workers/:worker_id/exit", method = "post", operation_id = "worker_exit")]
    async fn exit(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        worker_id: Path<String>,
        body: Json<ReportExit>,
    ) -> Result<Json<Api<ExitedWorker>>, Problem> {
        let worker_id = named(&worker_id)?;
        let route = format!("POST /internal/workers/{worker_id}/exit");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let ReportExit { exit_code, signal, reason } = body.0;
        let end = end_of(exit_code, signal, reason.as_deref());
        let action = Action::Exit { exit_code, signal, reason };
        let exited = self.execute(&worker_id, &cause, action).await?;
        let position = self.0.position_after_exit(&cause, &worker_id, exited).await?;
        Ok(Json(Api(ExitedWorker { worker_id, end, position })))
    }
}

/// The worker in the path.
fn named(worker_id: &str) -> Result<WorkerId, Problem> {
    let worker_id = web::path::worker_id(worker_id)?;
    check_worker(&worker_id)?;
    Ok(worker_id)
}

impl WorkerCommands {
    async fn execute(
        &self,
        worker_id: &WorkerId,
        cause: &Cause,
        action: Action,
    ) -> Result<Executed, Problem> {
        let executed = self.0.execute_worker(worker_id, cause, action).await;
        executed.map_err(problem::from_execute_error)
    }
}
