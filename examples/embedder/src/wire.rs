//! The request and response bodies of Matchbook's HTTP API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The source of an extraction.
#[derive(Debug, Deserialize)]
pub struct Source {
    pub model_id: String,
}

/// What earlier workers have reported of an extraction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Reported {
    pub items_done: u64,
    pub items_failed: u64,
    pub items_total: Option<u64>,
    pub checkpoint: Option<String>,
}

/// A page of the images that are still to do.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub items: Vec<Item>,
    pub next_cursor: Option<String>,
    pub total: Option<u64>,
}

/// An image: a cutout, or one of a product.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    pub cutout_id: Option<u64>,
    /// A number or a text.
    pub product_id: Option<Value>,
    pub image_id: Option<String>,
    pub image_url: String,
    pub checkpoint: String,
}

impl Item {
    /// The id of the cutout or product, as text.
    pub fn id(&self) -> String {
        match (self.cutout_id, &self.product_id) {
            (Some(id), _) => id.to_string(),
            (None, Some(Value::String(id))) => id.clone(),
            (None, id) => id.as_ref().map(Value::to_string).unwrap_or_default(),
        }
    }
}

/// A vector to record.
#[derive(Debug, Serialize)]
pub struct Embedding<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutout_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_id: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<&'a str>,
    pub model_id: &'a str,
    pub vector: &'a [f32],
}

/// What became of the vectors of a batch.
#[derive(Debug, Deserialize)]
pub struct Recorded {
    pub results: Vec<ItemResult>,
}

#[derive(Debug, Deserialize)]
pub struct ItemResult {
    pub index: usize,
    pub status: String,
    #[serde(default)]
    pub errors: Vec<Value>,
}

/// An image without a vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedItem {
    pub item_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    pub reason: String,
}

/// The progress of an extraction: totals so far, and the failures since the last report.
#[derive(Debug, Serialize)]
pub struct Progress<'a> {
    pub stage: &'static str,
    pub fraction: f64,
    pub items_done: u64,
    pub items_total: u64,
    pub items_failed: u64,
    pub failures: &'a [FailedItem],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<&'a str>,
}
