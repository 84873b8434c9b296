//! Exports of vectors: the list, one export, and its file.

use std::sync::Arc;

use domain::job::history::Status;
use domain::job::view::ErrorView;
use event_schemas::envelope::Actor;
use event_schemas::export::{ExportFilters, ExportFormat, ExportResult};
use event_schemas::ids::{JobId, ModelId, Position};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::export::files::FileName;
use projections::job::{ExportJob, JobCursor};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;

use super::Tag;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::{RETRY_AFTER, from_query_error};
use crate::file_response::{FileResponse, RequestedPart, StoredFile};
use crate::job_access::hide_messages;
use crate::min_position::MinPosition;
use crate::subjects::UserIds;

/// An export of the vectors of a model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EmbeddingExport {
    pub id: JobId,
    pub job_id: JobId,
    pub model_id: ModelId,
    pub format: ExportFormat,
    pub filters: ExportFilters,
    pub status: Status,
    /// From 0 to 100.
    pub progress: f64,
    /// Where the file is read; null before it is complete, and after it has expired.
    pub download_url: Option<String>,
    /// Null before the file is complete, as the following numbers.
    pub file_size_bytes: Option<u64>,
    pub vector_count: Option<u64>,
    /// The number of different products that the vectors belong to.
    pub product_count: Option<u64>,
    pub embedding_dim: Option<u32>,
    /// The log position that all of its vectors are as of.
    pub as_of: Option<Position>,
    /// The user or the program that asked for it; null for an erased user.
    pub exported_by: Option<String>,
    /// When the file is deleted.
    pub expires_at: Timestamp,
    pub created_at: Timestamp,
    pub completed_at: Option<Timestamp>,
    /// The error of a failed export.
    pub error: Option<ErrorView>,
}

/// The result of the job, once it is complete.
fn result_of(export: &ExportJob) -> Option<ExportResult> {
    let result = export.job.result.as_ref()?.as_ref()?;
    serde_json::from_str(result.as_str()).ok()
}

impl EmbeddingExport {
    fn new(export: ExportJob, user_ids: &UserIds, now: Timestamp) -> Self {
        let result = result_of(&export);
        let ExportJob { job, options, created_by } = export;
        let is_there = result.is_some() && options.expires_at > now;
        let exported_by = match &created_by {
            Actor::Subject(subject) => user_ids.user_id(*subject).map(|user| user.to_string()),
            Actor::Worker(program) => Some(program.to_string()),
            Actor::Service(program) => Some(program.to_string()),
            Actor::System(process) => Some(process.to_string()),
        };
        Self {
            id: job.id,
            job_id: job.id,
            model_id: options.model_id,
            format: options.format,
            filters: options.filters,
            status: job.status,
            progress: job.progress_percentage,
            download_url: is_there.then(|| format!("/api/v1/export/{}/download", job.id)),
            file_size_bytes: result.as_ref().map(|result| result.file_size_bytes),
            vector_count: result.as_ref().map(|result| result.vector_count),
            product_count: result.as_ref().map(|result| result.product_count),
            embedding_dim: result.as_ref().map(|result| result.embedding_dim),
            as_of: result.as_ref().map(|result| result.as_of),
            exported_by,
            expires_at: options.expires_at,
            created_at: job.created_at,
            completed_at: job.ended_at.filter(|_| result.is_some()),
            error: job.error,
        }
    }
}

fn no_such_export() -> Problem {
    Problem::not_found("no such export")
}

/// The roles that may read exports: they contain the vectors of the whole catalogue.
fn require_user(caller: &Caller) -> Result<(), Problem> {
    caller.require(Role::User | Role::Service | Role::Admin)
}

/// Routes for exports.
#[derive(Clone, Debug)]
pub struct ExportRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl ExportRoutes {
    /// List exports, newest first
    #[oai(path = "/api/v1/export", method = "get", operation_id = "list_exports")]
    async fn list(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<EmbeddingExport>>, Problem> {
        require_user(&caller)?;
        self.api.wait_for_models(&[Name::Jobs], min).await?;
        let list = "exports";
        let after: Option<JobCursor> = cursor.0.map(|cursor| cursor.key(list)).transpose()?;
        let page = self.api.models.jobs().exports(&caller.tenant, after, limit.0.get() as u32).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let items = self.api.render_exports(&caller, page.items).await?;
        let next_cursor = page.next.map(|next| Cursor::new(list, &next).to_string());
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// Get an export
    #[oai(path = "/api/v1/export/:export_id", method = "get", operation_id = "read_export")]
    async fn read(
        &self,
        caller: Caller,
        export_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<EmbeddingExport>, Problem> {
        let export = self.api.export(&caller, &export_id, min).await?;
        let rendered = self.api.render_exports(&caller, vec![export]).await?;
        Ok(Cached::new(rendered.first().ok_or_else(no_such_export)?, if_none_match.as_deref()))
    }

    /// Download the file of an export
    ///
    /// With `Range`, a part of it. A file never changes: a download that broke off continues with `Range` and `If-Range`.
    #[oai(path = "/api/v1/export/:export_id/download", method = "get", operation_id = "download_export")]
    async fn download(
        &self,
        caller: Caller,
        export_id: Path<String>,
        min: MinPosition,
        /// One range of bytes, such as `bytes=1000-1999`; others are ignored
        #[oai(name = "Range")]
        range: Header<Option<String>>,
        /// The `ETag` of the file that the part must be of; otherwise the whole file is answered
        #[oai(name = "If-Range")]
        if_range: Header<Option<String>>,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<FileResponse, Problem> {
        let export = self.api.export(&caller, &export_id, min).await?;
        let expired = || Problem::gone("the file of the export has expired; export again");
        if export.options.expires_at <= self.api.clock.now() {
            return Err(expired());
        }
        let result = result_of(&export).ok_or_else(|| not_ready(&export))?;
        let name: FileName = result.file.parse().map_err(|error| Problem::internal(&error))?;
        let files = self.api.server.exports.as_ref().ok_or_else(|| {
            Problem::unavailable(
                "this server has no store of exports; ask the server that makes them",
                RETRY_AFTER,
            )
        })?;
        let etag = format!("\"{}\"", name.file_id.simple());
        if if_none_match.0.is_some_and(|tags| web::etag::matches(&tags, &etag)) {
            return Ok(FileResponse::Unchanged(etag));
        }
        let part = RequestedPart::new(range.as_deref(), if_range.as_deref(), &etag, result.file_size_bytes)?;
        let found = files.read(name, part.range()).await.map_err(|error| {
            tracing::warn!(%error, file = %name, "the file of an export cannot be read");
            Problem::unavailable(
                "the store of exports cannot be read at present; try again shortly",
                RETRY_AFTER,
            )
        })?;
        let found = found.ok_or_else(|| {
            Problem::gone("the file of the export was removed from the store; export again")
        })?;
        let file_name = result.file.split_once('.').map_or("", |(_, extension)| extension);
        Ok(FileResponse::Content(StoredFile {
            file_name: format!("export-{}.{file_name}", export.job.id),
            etag,
            size: result.file_size_bytes,
            part,
            bytes: found.bytes,
        }))
    }
}

/// Why there is no file.
fn not_ready(export: &ExportJob) -> Problem {
    let id = export.job.id;
    match export.job.status {
        Status::Failed => Problem::conflict(format!(
            "the export failed; GET /api/v1/export/{id} has the reason, and POST /jobs/{id}/retry tries again"
        )),
        Status::Cancelled => Problem::conflict("the export was cancelled; export again"),
        _ => Problem::conflict(format!(
            "the export is not complete; wait until GET /api/v1/export/{id} has a `download_url`"
        )),
    }
}

impl ReadApi {
    async fn export(&self, caller: &Caller, id: &str, min: MinPosition) -> Result<ExportJob, Problem> {
        require_user(caller)?;
        let id = path::uuid("export", id)?;
        self.wait_for_models(&[Name::Jobs], min).await?;
        let read = || async {
            let found = self.models.jobs().export(&caller.tenant, id).await;
            Ok(found.map_err(|error| from_query_error(&error))?.map(|(export, _)| export))
        };
        let origin = Origin::Stream(StreamId::job(id));
        let found = self.read_by_id(Name::Jobs, &caller.tenant, origin, read).await?;
        found.ok_or_else(no_such_export)
    }

    async fn render_exports(
        &self,
        caller: &Caller,
        mut exports: Vec<ExportJob>,
    ) -> Result<Vec<EmbeddingExport>, Problem> {
        for export in &mut exports {
            hide_messages(caller, export.job.errors_mut());
        }
        let people = exports.iter().filter_map(|export| match export.created_by {
            Actor::Subject(subject) => Some(subject),
            _ => None,
        });
        let user_ids = self.server.subjects.user_ids(&caller.tenant, people).await?;
        let now = self.clock.now();
        Ok(exports.into_iter().map(|export| EmbeddingExport::new(export, &user_ids, now)).collect())
    }
}
