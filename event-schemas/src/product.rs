//! `product-<tenant>.<id>`: a product of a tenant's catalogue.
//!
//! These types and names are the stored form: add optional fields, never change or remove one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::currency::Currency;
use crate::ids::{BrandId, ImageId, MerchantId, ModelId, ProductCategoryId, ProductId, Tenant};
use crate::json_text::JsonText;
use crate::registry::events;
use crate::stream::{Category, StreamId, escape};
use crate::vector::Vector;

/// All facts of a product, as its catalogue has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProductDetails {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// The recommended retail price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rrp_price: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant_image_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aw_image_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_image: Option<String>,
    /// The addresses of further images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant_id: Option<MerchantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand_id: Option<BrandId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_id: Option<ProductCategoryId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_name: Option<String>,
    pub in_stock: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stock_quantity: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fashion_category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fashion_size: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality_score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_rating: Option<f64>,
    /// The number of reviews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviews: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upc: Option<String>,
    /// The product of which this is a variant, or the name of the family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family_id: Option<ProductId>,
    /// An inactive product is not shown in lists.
    pub is_active: bool,
    /// The caller's own attributes, such as a material.
    #[serde(default, skip_serializing_if = "JsonText::is_empty_object")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub attributes: JsonText,
}

/// The product was added to the catalogue, or all of its facts were replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProductUpserted {
    pub product_id: ProductId,
    // Boxed, so that the events of other categories stay small.
    pub details: Box<ProductDetails>,
}

/// The product left the catalogue. Its facts are kept, because earlier lists and interactions name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProductDeactivated {
    pub product_id: ProductId,
}

/// The product, or one of its images, has this vector of a model from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProductEmbedded {
    pub product_id: ProductId,
    pub model_id: ModelId,
    /// The image that the vector represents; the product as a whole if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<ImageId>,
    pub vector: Vector,
}

impl StreamId {
    pub fn product(tenant: &Tenant, id: &ProductId) -> Self {
        Self::of_tenant(Category::Product, tenant, &escape(id.as_str()))
    }

    /// The common prefix of all product streams of a tenant, which no other stream has.
    pub fn products_prefix(tenant: &Tenant) -> String {
        Self::of_tenant(Category::Product, tenant, "").to_string()
    }
}

events! {
    /// The events of a product.
    ProductEvent {
        ProductUpserted = 1,
        ProductDeactivated = 1,
        ProductEmbedded = 1,
    }
}

impl ProductEvent {
    pub fn product_id(&self) -> &ProductId {
        match self {
            Self::ProductUpserted(upserted) => &upserted.product_id,
            Self::ProductDeactivated(deactivated) => &deactivated.product_id,
            Self::ProductEmbedded(embedded) => &embedded.product_id,
        }
    }
}
