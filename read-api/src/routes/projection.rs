//! The status and control of the projections.

pub mod dto;

use std::sync::Arc;
use std::time::Duration;

use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path};
use projections::status::ProjectionStatus;
use projections::{ControlError, Name, NoSuchProjection};
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;

use super::Tag;
use crate::ReadApi;
use dto::{ProjectionCommandAccepted, ProjectionList, RebuildAccepted};

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
        Ok(Cached::without(
            &ProjectionList { items: self.api.projections() },
            &["lag_seconds"],
            if_none_match.as_deref(),
        ))
    }

    /// Rebuild a read model from the log
    ///
    /// A new generation is built alongside the live one (blue/green), and replaces it once it has caught up. All
    /// tenants share it: needs the role `admin` in the tenant `*`.
    #[oai(path = "/internal/projections/:name/rebuild", method = "post", operation_id = "rebuild_projection")]
    async fn rebuild(
        &self,
        caller: Caller,
        name: Path<String>,
    ) -> Result<Json<Api<RebuildAccepted>>, Problem> {
        let name = authorize(&caller, &name)?;
        let generation = self.api.models.rebuild(name).await.map_err(|error| from_control_error(&error))?;
        tracing::info!(projection = %name, generation, tenant = %caller.tenant, "rebuild requested");
        Ok(Json(Api(RebuildAccepted {
            name: name.to_string(),
            generation,
            detail: format!("generation {generation} is being built alongside the live one"),
        })))
    }

    /// Pause a projection
    ///
    /// Reads continue. All tenants share it: needs the role `admin` in the tenant `*`.
    #[oai(path = "/internal/projections/:name/pause", method = "post", operation_id = "pause_projection")]
    async fn pause(
        &self,
        caller: Caller,
        name: Path<String>,
    ) -> Result<Json<Api<ProjectionCommandAccepted>>, Problem> {
        let name = authorize(&caller, &name)?;
        self.api.models.pause(name).await.map_err(|error| from_control_error(&error))?;
        tracing::info!(projection = %name, tenant = %caller.tenant, "projection paused");
        Ok(accepted(name, "it is paused until it is resumed; reads continue".to_owned()))
    }

    /// Resume a projection
    ///
    /// After a pause, or to retry the event at which it stopped. All tenants share it: needs the role `admin` in the
    /// tenant `*`.
    #[oai(path = "/internal/projections/:name/resume", method = "post", operation_id = "resume_projection")]
    async fn resume(
        &self,
        caller: Caller,
        name: Path<String>,
    ) -> Result<Json<Api<ProjectionCommandAccepted>>, Problem> {
        let name = authorize(&caller, &name)?;
        self.api.models.resume(name).await.map_err(|error| from_control_error(&error))?;
        tracing::info!(projection = %name, tenant = %caller.tenant, "projection resumed");
        Ok(accepted(name, "it resumes from its position".to_owned()))
    }
}

impl ReadApi {
    /// The status of each read model, judged by the settings.
    pub(crate) fn projections(&self) -> Vec<ProjectionStatus> {
        let limits = self.server.lag_limits;
        self.models.status().into_iter().map(|status| dto::judge(status, limits)).collect()
    }
}

fn authorize(caller: &Caller, name: &str) -> Result<Name, Problem> {
    caller.require_admin_of_all_tenants()?;
    name.parse().map_err(|error: NoSuchProjection| Problem::not_found(error.to_string()))
}

fn from_control_error(error: &ControlError) -> Problem {
    match error {
        ControlError::ReadOnly => Problem::conflict(error.to_string()),
        ControlError::NotRunning(_) => Problem::unavailable(error.to_string(), Duration::from_secs(5)),
        ControlError::Store(store) if store.is_full() => Problem::insufficient_storage(
            "the disk is too full for a new generation; free some space and retry; the live one is not affected",
        ),
        ControlError::Store(store) if store.is_temporary() => Problem::unavailable(
            "the database is unavailable at present; retry when it is running",
            Duration::from_secs(5),
        ),
        ControlError::Store(_) => Problem::internal(error),
    }
}

fn accepted(name: Name, detail: String) -> Json<Api<ProjectionCommandAccepted>> {
    Json(Api(ProjectionCommandAccepted { name: name.to_string(), detail }))
}
