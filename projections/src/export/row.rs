//! What an exported vector is of.

use serde::Serialize;
use uuid::Uuid;

/// The namespace of the ids of points.
const NAMESPACE: Uuid = Uuid::from_u128(0x0d1c_74d5_33cf_5a39_9e0b_1a56_5d32_4e7a);

/// The kind of thing that a vector is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum ExportedKind {
    Product,
    /// An image of a product.
    Image,
    Cutout,
}

/// A vector's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedRow {
    pub kind: ExportedKind,
    /// The id of the product, of the image in its product, or of the cutout.
    pub id: String,
    /// The product itself, that of the image, or the one that the cutout shows.
    pub product_id: Option<String>,
}

impl ExportedRow {
    /// An id that is the same in each export: another export replaces the point instead of adding one.
    pub(super) fn point_id(&self) -> Uuid {
        // The product of a cutout can change.
        let product = self.product_id.as_ref().filter(|_| self.kind == ExportedKind::Image);
        let name = serde_json::json!([self.kind, self.id, product]).to_string();
        Uuid::new_v5(&NAMESPACE, name.as_bytes())
    }
}
