//! Starts and cancels extractions, which make vectors of images.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::job::extraction::{PRODUCTS_MAX, TargetType};
use domain::job::history::Status;
use event_schemas::ids::{JobId, ModelId, Position, ProductId};
use event_schemas::job::{JobKind, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::loose_id::LooseId;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use web::json::{Accepted, Json};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::LooseTextId;

use crate::engine::problem::text_of;
use crate::engine::write_request::{Users, WriteRequest};
use crate::jobs::Jobs;
use crate::jobs::extractions::{self, CreatedExtraction, ExtractionRequest};

/// The images of which vectors are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum ExtractionKind {
    /// All cutouts.
    #[serde(rename = "extract_cutouts")]
    Cutouts,
    /// The images of all active products, or of those that are named.
    #[serde(rename = "extract_products")]
    Products,
    /// The images of the one product that is named.
    #[serde(rename = "extract_single_product")]
    SingleProduct,
}

impl From<ExtractionKind> for JobKind {
    fn from(kind: ExtractionKind) -> Self {
        match kind {
            ExtractionKind::Cutouts => Self::ExtractCutouts,
            ExtractionKind::Products => Self::ExtractProducts,
            ExtractionKind::SingleProduct => Self::ExtractSingleProduct,
        }
    }
}

/// An extraction to start.
#[derive(Debug, Object)]
#[oai(example)]
struct StartExtraction {
    job_type: Api<ExtractionKind>,
    /// Default: the active model of images.
    model_id: Option<LooseTextId<ModelId>>,
    /// Follows from `job_type`; another one is refused.
    target_type: Option<Api<TargetType>>,
    /// Only of products: those whose images are embedded. Required for `extract_single_product`.
    #[oai(validator(min_items = 1, max_items = 100))]
    product_ids: Option<Vec<LooseTextId<ProductId>>>,
    /// Settings, at most 16,384 bytes of JSON. With `"only_missing": false`, images that have a vector of the model get another one;
    /// the server does not interpret the others, and passes them to the worker.
    config: Option<BTreeMap<String, Value>>,
}

impl Example for StartExtraction {
    fn example() -> Self {
        let config = BTreeMap::from([("only_missing".to_owned(), true.into())]);
        Self {
            job_type: Api(ExtractionKind::Cutouts),
            model_id: None,
            target_type: Some(Api(TargetType::Cutouts)),
            product_ids: None,
            config: Some(config),
        }
    }
}

impl StartExtraction {
    /// The request, if its members agree.
    fn check(self) -> Result<ExtractionRequest, Problem> {
        let kind = JobKind::from(self.job_type.0);
        let target = extractions::target_type(kind);
        if self.target_type.is_some_and(|given| given.0 != target) {
            let reason = "does not belong to the job_type; leave it out";
            return Err(Problem::unprocessable("target_type", reason));
        }
        let product_ids: Vec<ProductId> =
            self.product_ids.unwrap_or_default().into_iter().map(|id| id.0).collect();
        let refused = |reason: &str| Err(Problem::unprocessable("product_ids", reason));
        match (self.job_type.0, product_ids.len()) {
            (ExtractionKind::Cutouts, 1..) => {
                return refused("cutouts are no products; leave it out, or choose another job_type");
            }
            (ExtractionKind::SingleProduct, 0 | 2..) => {
                return refused("must name one product; use `extract_products` for several");
            }
            (_, 0..=PRODUCTS_MAX) => {}
            _ => return refused("names too many products; start several jobs"),
        }
        let config = self.config.unwrap_or_default();
        let only_missing = match config.get("only_missing") {
            None => true,
            Some(Value::Bool(only_missing)) => *only_missing,
            Some(_) => return Err(Problem::invalid("config.only_missing", "must be true or false")),
        };
        let model_id = self.model_id.map(|id| id.0);
        Ok(ExtractionRequest { kind, model_id, product_ids, only_missing, config: text_of(&config)? })
    }
}

/// An extraction as it was created.
#[derive(Debug, Serialize, JsonSchema)]
struct ExtractionStarted {
    id: JobId,
    job_type: JobKind,
    model_id: ModelId,
    target_type: TargetType,
    /// Null for all active products.
    product_ids: Option<Vec<LooseId>>,
    only_missing: bool,
    status: Status,
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    config: JsonText,
    created_at: Timestamp,
    /// Log position of this state. Send it as `X-Min-Position` to read at least this state.
    position: Position,
}

impl From<CreatedExtraction> for ExtractionStarted {
    fn from(created: CreatedExtraction) -> Self {
        let product_ids: Vec<LooseId> = created.product_ids.iter().map(LooseId::from).collect();
        Self {
            id: created.job_id,
            job_type: created.kind,
            model_id: created.model_id,
            target_type: extractions::target_type(created.kind),
            product_ids: Some(product_ids).filter(|ids| !ids.is_empty()),
            only_missing: created.only_missing,
            status: Status::of(created.kind, Phase::Queued),
            config: created.config,
            created_at: created.created_at,
            position: created.position,
        }
    }
}

/// A cancelled extraction.
#[derive(Debug, Serialize, JsonSchema)]
struct ExtractionCancelled {
    id: JobId,
    status: Status,
    position: Position,
}

/// The write routes of extractions.
#[derive(Clone, Debug)]
pub struct ExtractionCommands(pub(super) Arc<Jobs>);

#[OpenApi(tag = "Tag::Catalogue")]
impl ExtractionCommands {
    /// Extract vectors of images
    ///
    /// Returns at once; a worker claims the work. The number of extractions that a tenant may have in progress is limited.
    #[oai(path = "/api/v1/embeddings/extract", method = "post", operation_id = "start_extraction")]
    async fn start(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: Json<StartExtraction>,
    ) -> Result<Accepted<Api<ExtractionStarted>>, Problem> {
        let cause = request.cause(&self.0.engine, "POST /api/v1/embeddings/extract", &body.0).await?;
        let wanted = body.0.check()?;
        // It ends in any case, so that the key stays locked until the job is in the log, even if the caller disconnects.
        let jobs = self.0.clone();
        let starting = async move { extractions::start(&jobs, &cause, wanted).await };
        let started = ExtractionStarted::from(request.execution.run(starting.boxed()).await?);
        let location = format!("/api/v1/embeddings/jobs/{}", started.id);
        Ok(Accepted::New { location, body: Api(started) })
    }

    /// Cancel an extraction
    #[oai(
        path = "/api/v1/embeddings/jobs/:job_id/cancel",
        method = "post",
        operation_id = "cancel_extraction"
    )]
    async fn cancel(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        job_id: Path<String>,
    ) -> Result<Json<Api<ExtractionCancelled>>, Problem> {
        let job = web::path::job_id(&job_id)?;
        extractions::check_kind(&self.0, &request.caller.tenant, job).await?;
        let route = format!("POST /api/v1/embeddings/jobs/{job}/cancel");
        let cause = request.cause(&self.0.engine, &route, &Value::Null).await?;
        let position = extractions::cancel(&self.0, &cause, job).await?;
        Ok(Json(Api(ExtractionCancelled { id: job, status: Status::Cancelled, position })))
    }
}
