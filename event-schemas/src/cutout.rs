//! `cutout-<tenant>.<id>`: a cutout, a part of an image that shows one product.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{InvalidId, ModelId, ProductId, Tenant};
use crate::loose_id::EXACT_MAX;
use crate::registry::events;
use crate::stream::{Category, StreamId};
use crate::vector::Vector;

/// A cutout, by its number in the system that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct CutoutId(#[schemars(extend("format" = "int64", "maximum" = 9_007_199_254_740_991_u64))] u64);

impl CutoutId {
    /// None if the number is not exact in every JSON parser.
    pub fn new(number: u64) -> Option<Self> {
        (number < EXACT_MAX).then_some(Self(number))
    }

    pub fn get(self) -> u64 {
        self.0
    }

    /// The number as stored in SQL.
    pub fn to_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for CutoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CutoutId {
    type Err = InvalidId;

    /// A number is written in one way only, without a sign and without leading zeros.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let number = text.parse().ok().filter(|number: &u64| number.to_string() == text);
        number.and_then(Self::new).ok_or(InvalidId::NotANumber)
    }
}

/// The cutout arrived from its system, or what is known of it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CutoutSynced {
    pub cutout_id: CutoutId,
    pub image_url: String,
    /// The product code that a model read from the image: a hint, which can be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_upc: Option<String>,
}

/// The cutout has this vector of a model from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CutoutEmbedded {
    pub cutout_id: CutoutId,
    pub model_id: ModelId,
    pub vector: Vector,
}

/// The cutout shows this product, and is one of its images from now on; not one of an earlier product any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CutoutMatched {
    pub cutout_id: CutoutId,
    pub product_id: ProductId,
    /// The similarity that the originator saw, from -1 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f64>,
}

/// The cutout does not show the product, and is not one of its images any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CutoutUnmatched {
    pub cutout_id: CutoutId,
    pub product_id: ProductId,
}

impl StreamId {
    pub fn cutout(tenant: &Tenant, id: CutoutId) -> Self {
        Self::of_tenant(Category::Cutout, tenant, &id.to_string())
    }

    /// The common prefix of all cutout streams of a tenant, which no other stream has.
    pub fn cutouts_prefix(tenant: &Tenant) -> String {
        Self::of_tenant(Category::Cutout, tenant, "").to_string()
    }
}

events! {
    /// The events of a cutout.
    CutoutEvent {
        CutoutSynced = 1,
        CutoutEmbedded = 1,
        CutoutMatched = 1,
        CutoutUnmatched = 1,
    }
}

impl CutoutEvent {
    pub fn cutout_id(&self) -> CutoutId {
        match self {
            Self::CutoutSynced(synced) => synced.cutout_id,
            Self::CutoutEmbedded(embedded) => embedded.cutout_id,
            Self::CutoutMatched(matched) => matched.cutout_id,
            Self::CutoutUnmatched(unmatched) => unmatched.cutout_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutout_id_is_an_exact_number_in_one_form() {
        for text in ["0", "7", "9007199254740991"] {
            assert_eq!(text.parse::<CutoutId>().unwrap().to_string(), text);
        }
        for text in ["", "-1", "+1", "007", "1.0", "9007199254740992", "a"] {
            assert_eq!(text.parse::<CutoutId>(), Err(InvalidId::NotANumber), "{text}");
        }
    }
}
