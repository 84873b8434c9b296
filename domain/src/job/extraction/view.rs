//! The public view of an extraction.

use event_schemas::ids::{JobId, ModelId, Position, ProductId};
use event_schemas::job::{ItemFailure, JobKind, JobSource};
use event_schemas::json_text::JsonText;
use event_schemas::loose_id::LooseId;
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::TargetType;
use crate::job::history::{History, LastActivity, Status};

/// A job that makes vectors of images.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Extraction")]
pub struct ExtractionView {
    pub id: JobId,
    pub job_type: JobKind,
    /// The model whose vectors are made; null if the job was created with this kind, but without a model.
    pub model_id: Option<ModelId>,
    pub target_type: TargetType,
    /// Only images of these products; null for all active ones, and missing in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_ids: Option<Option<Vec<LooseId>>>,
    /// The products that it names, none for all active ones: not part of the answer.
    #[serde(skip)]
    pub named_products: Vec<ProductId>,
    /// Whether images that had a vector of the model are left out.
    pub only_missing: bool,
    pub status: Status,
    /// The number of images; null until a worker has counted them.
    pub total_items: Option<u64>,
    pub processed_items: u64,
    /// The number of images that could not be embedded.
    pub failed_items: u64,
    /// The first 50 of them, with the reasons; missing in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Vec<ItemFailure>>,
    /// The caller's settings; missing in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub config: Option<JsonText>,
    /// The worker's result, or null; missing in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub result: Option<Option<JsonText>>,
    /// A sentence for the user; null unless the job has failed.
    pub error_message: Option<String>,
    pub created_at: Timestamp,
    /// When work on the first attempt started.
    pub started_at: Option<Timestamp>,
    /// When it completed, failed permanently or was cancelled.
    pub completed_at: Option<Timestamp>,
    /// Log position of the last event that changed it.
    pub position: Position,
}

impl ExtractionView {
    /// Without what lists leave out.
    pub fn in_list(self) -> Self {
        Self { product_ids: None, failures: None, config: None, result: None, ..self }
    }
}

/// The view of a job; none if it extracts nothing.
pub fn view(history: &History, latest: &LastActivity) -> Option<ExtractionView> {
    let target_type = TargetType::of(history.kind())?;
    let (model_id, named_products, only_missing, config) = match &history.created.source {
        Some(JobSource::Extraction { model_id, product_ids, only_missing, config }) => {
            (Some(model_id.clone()), product_ids.clone(), *only_missing, config.clone())
        }
        Some(JobSource::Video { .. } | JobSource::ServerWork { .. }) | None => {
            (None, Vec::new(), true, JsonText::default())
        }
    };
    let product_ids: Vec<LooseId> = named_products.iter().map(LooseId::from).collect();
    let items = &history.items;
    Some(ExtractionView {
        id: history.job_id(),
        job_type: history.kind(),
        model_id,
        target_type,
        product_ids: Some(Some(product_ids).filter(|ids| !ids.is_empty())),
        named_products,
        only_missing,
        status: history.status(),
        total_items: items.total,
        processed_items: items.done,
        failed_items: items.failed,
        failures: Some(items.failures.clone()),
        config: Some(config),
        result: Some(history.result.clone()),
        error_message: history.failure.as_ref().map(|failure| failure.error.user_message.clone()),
        created_at: history.created_at,
        started_at: history.attempts.first().and_then(|attempt| attempt.started_at),
        completed_at: history.ended_at(),
        position: latest.position,
    })
}
