//! A model as answers show it.

use event_schemas::ids::{JobId, ModelId};
use event_schemas::json_text::JsonText;
use event_schemas::model::{ModelPurpose, VectorDistance};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::State;

/// An embedding model, which makes vectors of texts or of images.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ModelView {
    pub id: ModelId,
    pub model_id: ModelId,
    /// Its id, if its first vector registered it.
    pub name: String,
    /// The family of the model; null if its first vector registered it.
    pub model_type: Option<String>,
    /// What it makes vectors of; null if its first vector registered it.
    pub purpose: Option<ModelPurpose>,
    pub model_path: Option<String>,
    pub checkpoint_url: Option<String>,
    /// The length of its vectors.
    pub embedding_dim: u32,
    pub distance: VectorDistance,
    /// The caller's own settings.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub config: JsonText,
    /// Whether it is the model that is used for its purpose.
    pub is_matching_active: bool,
    /// The job that trained it.
    pub training_job_id: Option<JobId>,
    /// Null if it was there from the start.
    pub created_at: Option<Timestamp>,
    /// Null if it never changed since the start.
    pub updated_at: Option<Timestamp>,
}

impl ModelView {
    /// None if there is no such model, or not any more.
    pub fn new(state: &State, id: &ModelId) -> Option<Self> {
        let model = state.model(id)?;
        let details = model.details.as_deref();
        Some(Self {
            id: id.clone(),
            model_id: id.clone(),
            name: details.map_or_else(|| id.to_string(), |details| details.name.clone()),
            model_type: details.map(|details| details.model_type.clone()),
            purpose: details.map(|details| details.purpose),
            model_path: details.and_then(|details| details.model_path.clone()),
            checkpoint_url: details.and_then(|details| details.checkpoint_url.clone()),
            embedding_dim: model.dimension,
            distance: details.map_or(VectorDistance::Cosine, |details| details.distance),
            config: details.map(|details| details.config.clone()).unwrap_or_default(),
            is_matching_active: state.used_for(id).is_some(),
            training_job_id: details.and_then(|details| details.training_job_id),
            created_at: model.created_at,
            updated_at: model.updated_at,
        })
    }
}
