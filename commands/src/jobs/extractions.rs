//! Extractions: jobs that make vectors of images with a model.

use std::time::Duration;

use domain::job::Action;
use domain::job::extraction::{KINDS, TargetType};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, ModelId, Position, ProductId, Tenant};
use event_schemas::job::{JobCreated, JobKind, JobSource};
use event_schemas::json_text::JsonText;
use event_schemas::model::ModelPurpose;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use web::problem::Problem;

use super::Jobs;
use super::creation::JobSnapshot;
use crate::engine::problem::{from_execute_error, from_load_error};

/// The most extractions of a tenant in progress.
const IN_PROGRESS_MAX: usize = 100;

/// The retry delay of a tenant that has too many extractions in progress.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// The extraction that a caller asks for.
#[derive(Clone, Debug)]
pub(super) struct ExtractionRequest {
    pub(super) kind: JobKind,
    /// None for the active model of images.
    pub(super) model_id: Option<ModelId>,
    pub(super) product_ids: Vec<ProductId>,
    pub(super) only_missing: bool,
    pub(super) config: JsonText,
}

/// An extraction as it was created.
#[derive(Clone, Debug)]
pub(super) struct CreatedExtraction {
    pub(super) job_id: JobId,
    pub(super) kind: JobKind,
    pub(super) model_id: ModelId,
    pub(super) product_ids: Vec<ProductId>,
    pub(super) only_missing: bool,
    pub(super) config: JsonText,
    pub(super) created_at: Timestamp,
    pub(super) position: Position,
}

/// Creates the extraction, or finds the one that an earlier command with the same key created.
///
/// # Errors
/// 422 for an unknown, a deleted or another tenant's model, one of texts, and an unknown product; 429 if the tenant has as many
/// extractions in progress as it may have.
pub(super) async fn start(
    jobs: &Jobs,
    cause: &Cause,
    request: ExtractionRequest,
) -> Result<CreatedExtraction, Problem> {
    let job_id = jobs.new_job_id(cause);
    let earlier = jobs.jobs.repeated(&StreamId::job(job_id), cause).await.map_err(from_execute_error)?;
    if earlier.is_some() {
        return created(jobs.as_created(job_id).await?);
    }
    let model_id = model(jobs, cause, request.model_id).await?;
    check_products(jobs, cause, &request.product_ids).await?;
    check_limit(jobs, cause).await?;
    let source = JobSource::Extraction {
        model_id,
        product_ids: request.product_ids,
        only_missing: request.only_missing,
        config: request.config,
    };
    let (kind, metadata) = (request.kind, JsonText::default());
    let create = |job_id| JobCreated { job_id, kind, source: Some(source), name: None, metadata };
    created(jobs.create(cause, Some(job_id), create).await?)
}

/// Cancels an extraction, and returns the position of that.
///
/// # Errors
/// 409 if it has ended otherwise.
pub(super) async fn cancel(jobs: &Jobs, cause: &Cause, job: JobId) -> Result<Position, Problem> {
    let executed = jobs.execute_job(job, cause, Action::Cancel { reason: None }).await;
    Ok(executed.map_err(from_execute_error)?.position)
}

/// # Errors
/// 404 if the tenant has no such extraction.
pub(super) async fn check_kind(jobs: &Jobs, tenant: &Tenant, job: JobId) -> Result<(), Problem> {
    let kind = jobs.job_kind(tenant, job).await?;
    if KINDS.contains(&kind) { Ok(()) } else { Err(super::problem::no_such_job()) }
}

/// The model that is asked for, or the active one of images.
async fn model(jobs: &Jobs, cause: &Cause, wanted: Option<ModelId>) -> Result<ModelId, Problem> {
    let refused = |reason: String| Err(Problem::unprocessable("model_id", reason));
    let stream = StreamId::models(&cause.tenant);
    let models = jobs.models.query(&stream, |models| models.state.clone()).await.map_err(from_load_error)?;
    let Some(id) = wanted.or_else(|| models.active(ModelPurpose::Image).cloned()) else {
        return refused("is missing, because no model of images is active".to_owned());
    };
    if models.is_deleted(&id) {
        return refused(format!("the model `{id}` was deleted; use another one"));
    }
    let Some(model) = models.model(&id) else {
        return refused(format!("there is no model `{id}`; register it first"));
    };
    if model.details.as_ref().is_some_and(|details| details.purpose == ModelPurpose::Text) {
        return refused(format!("the model `{id}` is one of texts; use one of images"));
    }
    Ok(id)
}

async fn check_products(jobs: &Jobs, cause: &Cause, products: &[ProductId]) -> Result<(), Problem> {
    for (index, id) in products.iter().enumerate() {
        let stream = StreamId::product(&cause.tenant, id);
        let exists = jobs.products.query(&stream, |product| product.state.details().is_some()).await;
        if !exists.map_err(from_load_error)? {
            let reason = format!("there is no product `{id}`; create it first");
            return Err(Problem::unprocessable(format!("product_ids[{index}]"), reason));
        }
    }
    Ok(())
}

async fn check_limit(jobs: &Jobs, cause: &Cause) -> Result<(), Problem> {
    jobs.wait_for_board().await?;
    if jobs.board.jobs_in_progress(&cause.tenant, JobKind::ExtractCutouts) < IN_PROGRESS_MAX {
        return Ok(());
    }
    let detail = format!(
        "{IN_PROGRESS_MAX} extractions are in progress, which is the limit; wait for one to end, or cancel one"
    );
    Err(Problem::rate_limited(detail, RETRY_DELAY))
}

fn created(job: JobSnapshot) -> Result<CreatedExtraction, Problem> {
    let JobSnapshot { created, created_at, position, .. } = job;
    let (job_id, kind) = (created.job_id, created.kind);
    match created.source {
        Some(JobSource::Extraction { model_id, product_ids, only_missing, config }) => {
            Ok(CreatedExtraction {
                job_id,
                kind,
                model_id,
                product_ids,
                only_missing,
                config,
                created_at,
                position,
            })
        }
        _ => Err(Problem::internal(&"an extraction was created without a model")),
    }
}

/// The targets of an extraction.
pub(super) fn target_type(kind: JobKind) -> TargetType {
    TargetType::of(kind).unwrap_or(TargetType::Cutouts)
}
