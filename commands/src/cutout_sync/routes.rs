//! Starts syncs of cutouts from the configured upstream.

use domain::job::pipeline;
use domain::job::series::Series;
use event_schemas::ids::{JobId, Position};
use event_schemas::job::{JobCreated, JobKind, JobSource, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::{Accepted, Json};
use web::problem::{Code, Problem};
use web::schema::Api;
use web::tag::Tag;

use super::CutoutSync;
use super::run::SyncOptions;
use crate::engine::problem::text_of;
use crate::engine::write_request::{Services, WriteRequest};
use crate::jobs::creation::JobSnapshot;
use crate::jobs::series::{self, Latest};

/// A sync of cutouts.
#[derive(Debug, Object)]
#[oai(example)]
struct StartSync {
    /// Whether it starts at the first cutout, even if an earlier sync has stopped before its end. Default: false.
    from_start: Option<bool>,
}

impl Example for StartSync {
    fn example() -> Self {
        Self { from_start: Some(false) }
    }
}

/// A sync of cutouts, which is a job of the kind `cutout_sync`.
#[derive(Debug, Serialize, JsonSchema)]
struct SyncStarted {
    id: JobId,
    job_id: JobId,
    kind: JobKind,
    phase: Phase,
    /// From 0 to 100.
    progress_percentage: f64,
    attempt: u32,
    created_at: Timestamp,
    /// Log position of this state. Send it as `X-Min-Position` to read at least this state.
    position: Position,
}

impl From<JobSnapshot> for SyncStarted {
    fn from(job: JobSnapshot) -> Self {
        Self {
            id: job.created.job_id,
            job_id: job.created.job_id,
            kind: job.created.kind,
            phase: job.phase,
            progress_percentage: job.progress_percentage,
            attempt: job.attempt,
            created_at: job.created_at,
            position: job.position,
        }
    }
}

/// The write routes of syncs, as they are served.
#[derive(Clone, Debug)]
pub struct CutoutSyncCommands(CutoutSync);

/// The write routes of syncs.
pub type Routes = CutoutSyncCommands;

pub(crate) fn routes(syncs: &CutoutSync) -> Routes {
    CutoutSyncCommands(syncs.clone())
}

#[OpenApi(tag = "Tag::Catalogue")]
impl CutoutSyncCommands {
    /// Sync cutouts from the upstream
    ///
    /// Returns at once; the server itself does the job. While one is in progress, that job is returned and no second one is
    /// started. After a sync that failed or was cancelled, the next one continues where it stopped. Requires a configured
    /// upstream.
    #[oai(path = "/api/v1/cutouts/sync", method = "post", operation_id = "sync_cutouts")]
    async fn start(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Services>,
        body: Json<Option<StartSync>>,
    ) -> Result<Accepted<Api<SyncStarted>>, Problem> {
        let cause = request.cause(&self.0.jobs.engine, "POST /api/v1/cutouts/sync", &body.0).await?;
        let from_start = body.0.and_then(|body| body.from_start).unwrap_or(false);
        let syncs = self.0.clone();
        let starting = async move {
            let create = |job_id, latest| std::future::ready(new_job(&syncs, job_id, latest, from_start));
            series::start(&syncs.jobs, &cause, &Series::CutoutSyncs, create).await
        };
        // It ends in any case, so that the key stays locked until the job is in the log, even if the caller disconnects.
        let (is_new, job) = request.execution.run(starting.boxed()).await?;
        let body = SyncStarted::from(job);
        let (location, body) = (format!("/jobs/{}", body.id), Api(body));
        Ok(if is_new { Accepted::New { location, body } } else { Accepted::Existing { location, body } })
    }
}

/// The job that follows the latest one.
fn new_job(
    syncs: &CutoutSync,
    job_id: JobId,
    latest: Option<Latest>,
    from_start: bool,
) -> Result<JobCreated, Problem> {
    if syncs.source.is_none() {
        let detail = "no upstream of cutouts is configured; start the server with --cutouts-upstream, or push the cutouts";
        return Err(Problem::new(Code::Unprocessable, detail));
    }
    let stopped = latest.filter(|latest| !from_start && pipeline::is_end(latest.phase));
    let checkpoint = stopped.and_then(|stopped| stopped.checkpoint).map(|checkpoint| checkpoint.to_value());
    let options = text_of(&SyncOptions::after(checkpoint))?;
    let (kind, source) = (JobKind::CutoutSync, Some(JobSource::ServerWork { options }));
    Ok(JobCreated { job_id, kind, source, name: None, metadata: JsonText::default() })
}
