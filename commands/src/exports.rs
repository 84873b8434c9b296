//! Exports of vectors: jobs that the server itself performs, of models that the catalogue knows.

use std::sync::Arc;
use std::time::Duration;

use domain::model::Refusal;
use domain::search::encoder;
use event_schemas::envelope::Cause;
use event_schemas::export::{ExportFilters, ExportFormat, ExportOptions, ExportTarget};
use event_schemas::ids::{JobId, ModelId, Position, ProductCategoryId, ProductId};
use event_schemas::job::{JobCreated, JobKind, JobSource, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::{Accepted, Json};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::LooseTextId;

use crate::catalogue::Catalogue;
use crate::engine::idempotency::KeyStatus;
use crate::engine::problem::{self, text_of};
use crate::engine::write_request::{Users, WriteRequest};
use crate::jobs::Jobs;
use crate::jobs::creation::JobSnapshot;

/// The time after which a file expires by default.
const EXPIRES_IN: Duration = Duration::from_hours(7 * 24);

/// The most exports of a tenant in progress.
const IN_PROGRESS_MAX: usize = 10;

/// The retry delay of a tenant that has too many.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// Which vectors are exported: those that pass all members that are given.
#[derive(Debug, Default, Object)]
struct NewExportFilters {
    /// What the vectors are of: active products and their images, cutouts, or all of them. Default: `all`
    target: Option<Api<ExportTarget>>,
    /// Of cutouts: only those that show a product, or only those that show none.
    matched: Option<bool>,
    /// Only vectors of these products, their images, and the cutouts that show them.
    #[oai(validator(min_items = 1, max_items = 100))]
    product_ids: Option<Vec<LooseTextId<ProductId>>>,
    /// Only vectors of products of this category, their images, and the cutouts that show them.
    category_id: Option<LooseTextId<ProductCategoryId>>,
}

/// An export to make.
#[derive(Debug, Object)]
#[oai(example)]
struct NewExport {
    /// The model whose vectors are exported; not `lexical`, the built-in one.
    model_id: LooseTextId<ModelId>,
    /// The format of the file: lines of JSON, arrays of NumPy, an index of FAISS, or points of Qdrant.
    format: Api<ExportFormat>,
    filters: Option<NewExportFilters>,
    /// The time after which the file is deleted, in seconds, at most 30 days. Default: 7 days
    #[oai(validator(minimum(value = "1"), maximum(value = "2592000")))]
    expires_in: Option<u32>,
}

impl Example for NewExport {
    fn example() -> Self {
        let target = Some(Api(ExportTarget::Cutouts));
        Self {
            model_id: LooseTextId("clip-vit-b32".parse().expect("an example's ids are short texts")),
            format: Api(ExportFormat::Numpy),
            filters: Some(NewExportFilters { target, matched: Some(false), ..NewExportFilters::default() }),
            expires_in: Some(86_400),
        }
    }
}

impl NewExportFilters {
    fn check(self) -> Result<ExportFilters, Problem> {
        let target = self.target.map_or(ExportTarget::All, |target| target.0);
        if self.matched.is_some() && target == ExportTarget::Products {
            let reason = "is a filter for cutouts; leave it out, or choose another `target`";
            return Err(Problem::invalid("filters.matched", reason));
        }
        let is_of_product = self.product_ids.is_some() || self.category_id.is_some();
        if self.matched == Some(false) && target == ExportTarget::Cutouts && is_of_product {
            let reason =
                "of cutouts that show no product there are none of these products; leave one filter out";
            return Err(Problem::invalid("filters.matched", reason));
        }
        let product_ids = self.product_ids.unwrap_or_default().into_iter().map(|id| id.0).collect();
        let category_id = self.category_id.map(|id| id.0);
        Ok(ExportFilters { target, matched: self.matched, product_ids, category_id })
    }
}

/// An export as it was created.
#[derive(Debug, Serialize, JsonSchema)]
struct StartedExport {
    id: JobId,
    job_id: JobId,
    model_id: ModelId,
    format: ExportFormat,
    filters: ExportFilters,
    phase: Phase,
    /// When the file is deleted.
    expires_at: Timestamp,
    created_at: Timestamp,
    /// Log position of the export's creation. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

impl TryFrom<JobSnapshot> for StartedExport {
    type Error = Problem;

    fn try_from(job: JobSnapshot) -> Result<Self, Problem> {
        let options = job.created.source.as_ref().map(|source| source.options().as_str());
        let options: ExportOptions =
            serde_json::from_str(options.unwrap_or_default()).map_err(|error| Problem::internal(&error))?;
        let ExportOptions { model_id, format, filters, expires_at } = options;
        let (id, created_at, position) = (job.created.job_id, job.created_at, job.position);
        Ok(Self {
            id,
            job_id: id,
            model_id,
            format,
            filters,
            phase: job.phase,
            expires_at,
            created_at,
            position,
        })
    }
}

/// The write route of exports.
#[derive(Clone, Debug)]
pub struct ExportCommands {
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) catalogue: Arc<Catalogue>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl ExportCommands {
    /// Export the vectors of a model
    ///
    /// Returns at once; the server writes the file as a job of the kind `embedding_export`. `location` reports its progress and,
    /// when it is complete, where to download it. `POST /jobs/{job_id}/cancel` cancels it.
    #[oai(path = "/api/v1/export", method = "post", operation_id = "start_export")]
    async fn start(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: Json<NewExport>,
    ) -> Result<Accepted<Api<StartedExport>>, Problem> {
        let cause = request.cause(&self.jobs.engine, "POST /api/v1/export", &body.0).await?;
        let NewExport { model_id, format, filters, expires_in } = body.0;
        let filters = filters.unwrap_or_default().check()?;
        let expires_in = expires_in.map_or(EXPIRES_IN, |seconds| Duration::from_secs(seconds.into()));
        let expires_at = self.jobs.engine.now().after(expires_in);
        let options = ExportOptions { model_id: model_id.0, format: format.0, filters, expires_at };
        // It ends in any case, so that the key stays locked until the job is in the log, even if the caller disconnects.
        let commands = self.clone();
        let starting = async move { commands.create(&cause, &options).await };
        let body = StartedExport::try_from(request.execution.run(starting.boxed()).await?)?;
        Ok(Accepted::New { location: format!("/api/v1/export/{}", body.id), body: Api(body) })
    }
}

impl ExportCommands {
    async fn create(&self, cause: &Cause, options: &ExportOptions) -> Result<JobSnapshot, Problem> {
        // What was accepted stays accepted, even if the model was deleted since.
        if !self.is_repeated(cause).await? {
            self.check_model(cause, &options.model_id).await?;
            self.check_limit(cause).await?;
        }
        let source = Some(JobSource::ServerWork { options: text_of(options)? });
        let created = |job_id| JobCreated {
            job_id,
            kind: JobKind::EmbeddingExport,
            source,
            name: None,
            metadata: JsonText::default(),
        };
        self.jobs.create(cause, None, created).await
    }

    async fn is_repeated(&self, cause: &Cause) -> Result<bool, Problem> {
        let Some(idempotency) = cause.idempotency else { return Ok(false) };
        self.jobs.wait_for_board().await?;
        Ok(self.jobs.board.creation_key_status(idempotency) != KeyStatus::Unused)
    }

    async fn check_model(&self, cause: &Cause, model_id: &ModelId) -> Result<(), Problem> {
        let known =
            |models: &domain::model::State| (models.model(model_id).is_some(), models.is_deleted(model_id));
        let stream = StreamId::models(&cause.tenant);
        let known = self.catalogue.models.query(&stream, |models| known(&models.state)).await;
        match known.map_err(problem::from_load_error)? {
            (true, _) if model_id.as_str() == encoder::MODEL => {
                let reason = "the vectors of the built-in encoder are not exported; choose another model";
                Err(Problem::unprocessable("model_id", reason))
            }
            (true, _) => Ok(()),
            (false, true) => Err(Problem::conflict(Refusal::Deleted(model_id.clone()).to_string())),
            (false, false) => Err(Problem::unprocessable(
                "model_id",
                "no such model; GET /api/v1/embeddings/models lists them",
            )),
        }
    }

    async fn check_limit(&self, cause: &Cause) -> Result<(), Problem> {
        self.jobs.wait_for_board().await?;
        if self.jobs.board.jobs_in_progress(&cause.tenant, JobKind::EmbeddingExport) < IN_PROGRESS_MAX {
            return Ok(());
        }
        let detail = format!(
            "{IN_PROGRESS_MAX} exports are in progress, which is the limit; wait for one to end, or cancel one"
        );
        Err(Problem::rate_limited(detail, RETRY_DELAY))
    }
}
