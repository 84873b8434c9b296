//! `model-<tenant>`: the embedding models of a tenant.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{JobId, ModelId, Tenant};
use crate::json_text::JsonText;
use crate::registry::events;
use crate::stream::{Category, StreamId, escape};

/// What a model makes vectors of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelPurpose {
    Text,
    Image,
}

/// How the vectors of a model are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VectorDistance {
    /// By their directions.
    Cosine,
}

/// The facts of a model, which do not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelDetails {
    pub name: String,
    /// The family of the model, such as `dinov2`.
    pub model_type: String,
    pub purpose: ModelPurpose,
    pub distance: VectorDistance,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_url: Option<String>,
    /// The caller's own settings of the model.
    #[serde(default, skip_serializing_if = "JsonText::is_empty_object")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub config: JsonText,
    /// The job that trained it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_job_id: Option<JobId>,
}

/// The model exists from now on, and each of its vectors has this length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingModelRegistered {
    pub model_id: ModelId,
    pub dimension: u32,
    /// Absent if its first vector registered it; a further event can add them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<ModelDetails>>,
}

/// The model is the one that is used for its purpose from now on, instead of the earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingModelActivated {
    pub model_id: ModelId,
    pub purpose: ModelPurpose,
}

/// The model and its vectors are not used any more. Its id is never used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingModelDeleted {
    pub model_id: ModelId,
}

impl StreamId {
    /// The stream of all models of a tenant.
    pub fn models(tenant: &Tenant) -> Self {
        Self(format!("{}{}", Category::Model.stream_prefix(), escape(tenant.as_str())).into())
    }
}

events! {
    /// The events of a tenant's embedding models.
    ModelEvent {
        EmbeddingModelRegistered = 1,
        EmbeddingModelActivated = 1,
        EmbeddingModelDeleted = 1,
    }
}
