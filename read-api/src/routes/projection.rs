//! The read models as an operator sees and steers them.

use std::sync::Arc;
use std::time::Duration;

use poem_openapi::param::{Header, Path};
use poem_openapi::{Enum, Object, OpenApi};
use projections::status::{Progress, ProjectionStatus, RebuildStatus, State, Stop};
use projections::{ControlError, Name, NoSuchProjection};
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::json::Json;
use web::problem::Problem;
use web::value::Pos;

use super::Tag;
use crate::ReadApi;

/// What a projection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ProjectionState", rename_all = "snake_case")]
pub enum StateWord {
    CatchingUp,
    Live,
    Paused,
    /// It goes no further by itself.
    Stopped,
    /// Its store failed; it is tried again by itself.
    Retrying,
}

/// How far something long is.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Progress")]
pub struct ProgressObject {
    pub at: Pos,
    pub target: Pos,
    /// From 0 to 1.
    pub fraction: f64,
    /// Null until something has been done.
    pub eta_seconds: Option<f64>,
}

/// Why a projection went no further.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ProjectionStop")]
pub struct StopObject {
    /// Of the event that it could not apply, or the last that it reached.
    pub position: Pos,
    pub event_type: Option<String>,
    pub error: String,
    /// What an operator can do.
    pub way_out: String,
}

/// A making that is built beside the one that is read.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ProjectionRebuild")]
pub struct RebuildObject {
    pub generation: u64,
    pub progress: ProgressObject,
    /// Why it was given up, if it was; the one that is read is untouched.
    pub failed: Option<StopObject>,
}

/// One read model.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Projection")]
pub struct ProjectionObject {
    pub name: String,
    /// Of the code that makes it; raising it makes it anew.
    pub revision: u32,
    /// Which making of it is read; null while the first is being built.
    pub generation: Option<u64>,
    pub state: StateWord,
    /// Reads reflect everything up to here.
    pub position: Pos,
    /// The durable end of the log.
    pub head: Pos,
    /// How many positions it is behind.
    pub lag_events: u64,
    /// How long ago the event was recorded that it reflects last; 0 at the head.
    pub lag_seconds: f64,
    pub events_per_second: f64,
    /// While it catches up.
    pub progress: Option<ProgressObject>,
    /// Why it stopped, or is being retried.
    pub stop: Option<StopObject>,
    pub rebuild: Option<RebuildObject>,
}

/// All read models.
#[derive(Clone, Debug, Object)]
pub struct ProjectionList {
    pub items: Vec<ProjectionObject>,
}

/// What was asked of a projection, and that it was taken.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ProjectionAnswer")]
pub struct Steered {
    pub name: String,
    /// A sentence: what happens now.
    pub detail: String,
}

impl From<Progress> for ProgressObject {
    fn from(progress: Progress) -> Self {
        Self {
            at: Pos(progress.at),
            target: Pos(progress.target),
            fraction: progress.fraction,
            eta_seconds: progress.eta_seconds,
        }
    }
}

impl From<Stop> for StopObject {
    fn from(stop: Stop) -> Self {
        Self {
            position: Pos(stop.position),
            event_type: stop.event_type.map(|name| name.to_string()),
            error: stop.error,
            way_out: stop.way_out.to_owned(),
        }
    }
}

impl From<RebuildStatus> for RebuildObject {
    fn from(rebuild: RebuildStatus) -> Self {
        Self {
            generation: rebuild.generation,
            progress: rebuild.progress.into(),
            failed: rebuild.failed.map(Into::into),
        }
    }
}

impl From<ProjectionStatus> for ProjectionObject {
    fn from(status: ProjectionStatus) -> Self {
        let (state, progress, stop) = match status.state {
            State::CatchingUp(progress) => (StateWord::CatchingUp, Some(progress), None),
            State::Live => (StateWord::Live, None, None),
            State::Paused => (StateWord::Paused, None, None),
            State::Stopped(stop) => (StateWord::Stopped, None, Some(stop)),
            State::Retrying(stop) => (StateWord::Retrying, None, Some(stop)),
        };
        Self {
            name: status.name.to_owned(),
            revision: status.revision,
            generation: status.generation,
            state,
            position: Pos(status.position),
            head: Pos(status.head),
            lag_events: status.lag_events,
            lag_seconds: status.lag_seconds,
            events_per_second: status.events_per_second,
            progress: progress.map(Into::into),
            stop: stop.map(Into::into),
            rebuild: status.rebuild.map(Into::into),
        }
    }
}

/// Routes over read models.
#[derive(Clone, Debug)]
pub struct ProjectionRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Operations")]
impl ProjectionRoutes {
    /// All read models, with how far they are
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

    /// Make a read model anew from the log
    ///
    /// It is built beside the one that is read, which is replaced once the new one has caught up. Needs the role `admin`.
    #[oai(path = "/internal/projections/:name/rebuild", method = "post", operation_id = "rebuild_projection")]
    async fn rebuild(&self, caller: Caller, name: Path<String>) -> Result<Json<Steered>, Problem> {
        let name = admitted(&caller, &name)?;
        let generation = self.api.models.rebuild(name).await.map_err(|error| refused(&error))?;
        tracing::info!(projection = %name, generation, tenant = %caller.tenant, "a rebuild was asked for");
        Ok(steered(name, format!("generation {generation} is being built beside the live one")))
    }

    /// Let a projection rest where it is
    ///
    /// Reads go on. Needs the role `admin`.
    #[oai(path = "/internal/projections/:name/pause", method = "post", operation_id = "pause_projection")]
    async fn pause(&self, caller: Caller, name: Path<String>) -> Result<Json<Steered>, Problem> {
        let name = admitted(&caller, &name)?;
        self.api.models.pause(name).await.map_err(|error| refused(&error))?;
        tracing::info!(projection = %name, tenant = %caller.tenant, "a projection was paused");
        Ok(steered(name, "it rests where it is until it is resumed; reads go on".to_owned()))
    }

    /// Let a projection go on
    ///
    /// After a pause, or to try again what it stopped at. Needs the role `admin`.
    #[oai(path = "/internal/projections/:name/resume", method = "post", operation_id = "resume_projection")]
    async fn resume(&self, caller: Caller, name: Path<String>) -> Result<Json<Steered>, Problem> {
        let name = admitted(&caller, &name)?;
        self.api.models.resume(name).await.map_err(|error| refused(&error))?;
        tracing::info!(projection = %name, tenant = %caller.tenant, "a projection was resumed");
        Ok(steered(name, "it goes on from where it was".to_owned()))
    }
}

fn admitted(caller: &Caller, name: &str) -> Result<Name, Problem> {
    caller.require(Role::Admin)?;
    name.parse().map_err(|error: NoSuchProjection| Problem::not_found(error.to_string()))
}

fn refused(error: &ControlError) -> Problem {
    match error {
        ControlError::Gone(_) => Problem::unavailable(error.to_string(), Duration::from_secs(5)),
        ControlError::Files(files) if files.is_full() => Problem::insufficient_storage(
            "there is no room to build it beside the live one, which is untouched",
        ),
        ControlError::Files(_) => Problem::internal(error),
    }
}

fn steered(name: Name, detail: String) -> Json<Steered> {
    Json(Steered { name: name.to_string(), detail })
}
