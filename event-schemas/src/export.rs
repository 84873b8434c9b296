//! What an export of vectors contains, and how it is written.
//!
//! These types and names are part of the stored form of the job that makes the export: add optional fields, never change or
//! remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ModelId, Position, ProductCategoryId, ProductId};
use crate::time::Timestamp;

/// The format of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[derive(strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum ExportFormat {
    /// A line of JSON for each vector.
    Json,
    /// Arrays of NumPy in one archive (`.npz`).
    Numpy,
    /// An index that `faiss.read_index` opens, with the ids of its vectors, in one archive.
    Faiss,
    /// Request bodies that create a collection of Qdrant and its points, in one archive.
    Qdrant,
}

/// What the exported vectors are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportTarget {
    #[default]
    All,
    /// Active products and their images.
    Products,
    Cutouts,
}

/// Which vectors are exported. Every one that passes all members that are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportFilters {
    #[serde(default)]
    pub target: ExportTarget,
    /// Of cutouts: only those that show a product, or only those that show none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<bool>,
    /// Only vectors of these products, their images, and the cutouts that show them; of all products if it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub product_ids: Vec<ProductId>,
    /// Only vectors of products of this category, their images, and the cutouts that show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_id: Option<ProductCategoryId>,
}

/// The options of a job that makes an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportOptions {
    pub model_id: ModelId,
    pub format: ExportFormat,
    #[serde(default)]
    pub filters: ExportFilters,
    /// When the file is deleted.
    pub expires_at: Timestamp,
}

/// The result of a job that made an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportResult {
    /// The name of the file in the store of exports.
    pub file: String,
    pub file_size_bytes: u64,
    pub vector_count: u64,
    /// The number of different products that the vectors belong to.
    pub product_count: u64,
    pub embedding_dim: u32,
    /// The position of the log that all of its vectors are as of.
    pub as_of: Position,
}
