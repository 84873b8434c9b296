//! `model-<tenant>`: the embedding models of a tenant.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ModelId, Tenant};
use crate::registry::events;
use crate::stream::{Category, StreamId, escape};

/// The model exists from now on, and each of its vectors has this length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingModelRegistered {
    pub model_id: ModelId,
    pub dimension: u32,
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
    }
}
