//! The status and control of the projections.

use std::sync::Arc;
use std::time::Duration;

use poem_openapi::param::{Header, Path};
use poem_openapi::{Enum, Object, OpenApi};
use projections::status::{Failure, Progress, ProjectionStatus, RebuildStatus, ReportedState};
use projections::{ControlError, Name, NoSuchProjection};
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::json::Json;
use web::problem::Problem;
use web::value::ApiPosition;

use super::Tag;
use crate::ReadApi;

/// The state of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ProjectionState", rename_all = "snake_case")]
pub enum ProjectionStateDto {
    CatchingUp,
    Live,
    Paused,
    /// It failed and does not continue automatically.
    Stopped,
    /// Its store failed; it is retried automatically.
    Retrying,
}

/// The progress towards a position.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Progress")]
pub struct ProgressDto {
    pub at: ApiPosition,
    pub target: ApiPosition,
    /// From 0 to 1.
    pub fraction: f64,
    /// Null until there is progress.
    pub eta_seconds: Option<f64>,
}

/// The failure of a projection.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ProjectionFailure")]
pub struct ProjectionFailureDto {
    /// The position of the event that it could not apply, or the last position that it reached.
    pub position: ApiPosition,
    pub event_type: Option<String>,
    pub error: String,
    /// The remedy for an operator.
    pub remedy: String,
}

/// A generation under construction.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ProjectionRebuild")]
pub struct RebuildDto {
    pub generation: u64,
    pub progress: ProgressDto,
    /// Why the rebuild failed, if it did; the live generation is not affected.
    pub failed: Option<ProjectionFailureDto>,
}

/// One projection.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Projection")]
pub struct ProjectionDto {
    pub name: String,
    /// The revision of the projection's code; a higher one triggers a rebuild.
    pub revision: u32,
    /// The live generation; null while the first is being built.
    pub generation: Option<u64>,
    pub state: ProjectionStateDto,
    /// The position that reads reflect.
    pub position: ApiPosition,
    /// The durable head of the log.
    pub head: ApiPosition,
    /// The number of positions that it is behind.
    pub lag_events: u64,
    /// The time since the last reflected event was recorded; 0 at the head.
    pub lag_seconds: f64,
    pub events_per_second: f64,
    /// The progress of the catch-up, while it catches up.
    pub progress: Option<ProgressDto>,
    /// Why it stopped or is retried.
    pub stop: Option<ProjectionFailureDto>,
    pub rebuild: Option<RebuildDto>,
}

/// All projections.
#[derive(Clone, Debug, Object)]
pub struct ProjectionList {
    pub items: Vec<ProjectionDto>,
}

/// The acceptance of a command to a projection.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ProjectionCommandAccepted")]
pub struct ProjectionCommandAccepted {
    pub name: String,
    /// A sentence that describes what happens next.
    pub detail: String,
}

impl From<Progress> for ProgressDto {
    fn from(progress: Progress) -> Self {
        Self {
            at: ApiPosition(progress.at),
            target: ApiPosition(progress.target),
            fraction: progress.fraction,
            eta_seconds: progress.eta_seconds,
        }
    }
}

impl From<Failure> for ProjectionFailureDto {
    fn from(failure: Failure) -> Self {
        Self {
            position: ApiPosition(failure.position),
            event_type: failure.event_type.map(|name| name.to_string()),
            error: failure.error,
            remedy: failure.remedy.to_owned(),
        }
    }
}

impl From<RebuildStatus> for RebuildDto {
    fn from(rebuild: RebuildStatus) -> Self {
        Self {
            generation: rebuild.generation,
            progress: rebuild.progress.into(),
            failed: rebuild.failed.map(Into::into),
        }
    }
}

impl From<ProjectionStatus> for ProjectionDto {
    fn from(status: ProjectionStatus) -> Self {
        let (state, progress, stop) = match status.state {
            ReportedState::CatchingUp(progress) => (ProjectionStateDto::CatchingUp, Some(progress), None),
            ReportedState::Live => (ProjectionStateDto::Live, None, None),
            ReportedState::Paused => (ProjectionStateDto::Paused, None, None),
            ReportedState::Stopped(stop) => (ProjectionStateDto::Stopped, None, Some(stop)),
            ReportedState::Retrying(stop) => (ProjectionStateDto::Retrying, None, Some(stop)),
        };
        Self {
            name: status.name.to_owned(),
            revision: status.revision,
            generation: status.generation,
            state,
            position: ApiPosition(status.position),
            head: ApiPosition(status.head),
            lag_events: status.lag_events,
            lag_seconds: status.lag_seconds,
            events_per_second: status.events_per_second,
            progress: progress.map(Into::into),
            stop: stop.map(Into::into),
            rebuild: status.rebuild.map(Into::into),
        }
    }
}

/// Routes for projections.
#[derive(Clone, Debug)]
pub struct ProjectionRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Operations")]
impl ProjectionRoutes {
    /// List the projections with their state and lag
    ///
    /// Needs the role `admin`.
    #[oai(path = "/internal/projections", method = "get", operation_id = "list_projections")]
    async fn list(
        &self,
        caller: Caller,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<ProjectionList>, Problem> {
        caller.require(Role::Admin)?;
        let items = self.api.models.status().into_iter().map(Into::into).collect();
        Ok(Cached::without(&ProjectionList { items }, &["lag_seconds"], if_none_match.as_deref()))
    }

    /// Rebuild a read model from the log
    ///
    /// A new generation is built alongside the live one (blue/green), and replaces it once it has caught up. Needs
    /// the role `admin`.
    #[oai(path = "/internal/projections/:name/rebuild", method = "post", operation_id = "rebuild_projection")]
    async fn rebuild(
        &self,
        caller: Caller,
        name: Path<String>,
    ) -> Result<Json<ProjectionCommandAccepted>, Problem> {
        let name = authorize(&caller, &name)?;
        let generation = self.api.models.rebuild(name).await.map_err(|error| from_control_error(&error))?;
        tracing::info!(projection = %name, generation, tenant = %caller.tenant, "rebuild requested");
        Ok(accepted(name, format!("generation {generation} is being built alongside the live one")))
    }

    /// Pause a projection
    ///
    /// Reads continue. Needs the role `admin`.
    #[oai(path = "/internal/projections/:name/pause", method = "post", operation_id = "pause_projection")]
    async fn pause(
        &self,
        caller: Caller,
        name: Path<String>,
    ) -> Result<Json<ProjectionCommandAccepted>, Problem> {
        let name = authorize(&caller, &name)?;
        self.api.models.pause(name).await.map_err(|error| from_control_error(&error))?;
        tracing::info!(projection = %name, tenant = %caller.tenant, "projection paused");
        Ok(accepted(name, "it is paused until it is resumed; reads continue".to_owned()))
    }

    /// Resume a projection
    ///
    /// After a pause, or to retry the event at which it stopped. Needs the role `admin`.
    #[oai(path = "/internal/projections/:name/resume", method = "post", operation_id = "resume_projection")]
    async fn resume(
        &self,
        caller: Caller,
        name: Path<String>,
    ) -> Result<Json<ProjectionCommandAccepted>, Problem> {
        let name = authorize(&caller, &name)?;
        self.api.models.resume(name).await.map_err(|error| from_control_error(&error))?;
        tracing::info!(projection = %name, tenant = %caller.tenant, "projection resumed");
        Ok(accepted(name, "it resumes from its position".to_owned()))
    }
}

fn authorize(caller: &Caller, name: &str) -> Result<Name, Problem> {
    caller.require(Role::Admin)?;
    name.parse().map_err(|error: NoSuchProjection| Problem::not_found(error.to_string()))
}

fn from_control_error(error: &ControlError) -> Problem {
    match error {
        ControlError::NotRunning(_) => Problem::unavailable(error.to_string(), Duration::from_secs(5)),
        ControlError::Files(files) if files.is_full() => Problem::insufficient_storage(
            "the disk is too full for a new generation; free some space and retry; the live one is not affected",
        ),
        ControlError::Files(_) => Problem::internal(error),
    }
}

fn accepted(name: Name, detail: String) -> Json<ProjectionCommandAccepted> {
    Json(ProjectionCommandAccepted { name: name.to_string(), detail })
}
