//! A product as answers show it.

use event_schemas::currency::Currency;
use event_schemas::ids::{BrandId, MerchantId, ProductCategoryId, ProductId};
use event_schemas::json_text::JsonText;
use event_schemas::loose_id::LooseId;
use event_schemas::product::ProductDetails;
use schemars::JsonSchema;
use serde::Serialize;

/// All facts of a product. Its ids are answered as numbers where they are plain decimals.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ProductView {
    pub id: LooseId,
    pub product_id: LooseId,
    pub name: String,
    pub description: Option<String>,
    pub price: Option<f64>,
    /// Its code in ISO 4217.
    pub currency: Option<Currency>,
    /// The recommended retail price.
    pub rrp_price: Option<f64>,
    /// The first of its own, the merchant's, the feed's, the large and the further images that is there.
    pub image_url: Option<String>,
    pub merchant_image_url: Option<String>,
    pub aw_image_url: Option<String>,
    pub large_image: Option<String>,
    /// Further images.
    pub images: Vec<String>,
    pub product_url: Option<String>,
    pub merchant_id: Option<MerchantId>,
    pub merchant_name: Option<String>,
    pub brand_id: Option<BrandId>,
    pub brand_name: Option<String>,
    pub category_id: Option<ProductCategoryId>,
    pub category_name: Option<String>,
    pub in_stock: bool,
    pub stock_quantity: Option<u64>,
    pub colour: Option<String>,
    pub fashion_category: Option<String>,
    pub fashion_size: Option<String>,
    pub quality_score: Option<f64>,
    pub average_rating: Option<f64>,
    /// The number of reviews.
    pub reviews: Option<u64>,
    pub upc: Option<String>,
    /// What its variants share.
    pub family_id: Option<LooseId>,
    /// Whether lists may show it.
    pub is_active: bool,
    /// The caller's own attributes.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub attributes: JsonText,
}

impl ProductView {
    pub fn new(product_id: &ProductId, details: ProductDetails) -> Self {
        let image_url = image_url(&details).map(str::to_owned);
        Self {
            id: product_id.into(),
            product_id: product_id.into(),
            name: details.name,
            description: details.description,
            price: details.price,
            currency: details.currency,
            rrp_price: details.rrp_price,
            image_url,
            merchant_image_url: details.merchant_image_url,
            aw_image_url: details.aw_image_url,
            large_image: details.large_image,
            images: details.images,
            product_url: details.product_url,
            merchant_id: details.merchant_id,
            merchant_name: details.merchant_name,
            brand_id: details.brand_id,
            brand_name: details.brand_name,
            category_id: details.category_id,
            category_name: details.category_name,
            in_stock: details.in_stock,
            stock_quantity: details.stock_quantity,
            colour: details.colour,
            fashion_category: details.fashion_category,
            fashion_size: details.fashion_size,
            quality_score: details.quality_score,
            average_rating: details.average_rating,
            reviews: details.reviews,
            upc: details.upc,
            family_id: details.family_id.as_ref().map(Into::into),
            is_active: details.is_active,
            attributes: details.attributes,
        }
    }
}

/// The image that represents the product: the first one that is there.
pub fn image_url(details: &ProductDetails) -> Option<&str> {
    let named =
        [&details.image_url, &details.merchant_image_url, &details.aw_image_url, &details.large_image];
    named.into_iter().flatten().chain(&details.images).next().map(String::as_str)
}

/// The memory of the texts of a product.
pub fn heap_bytes(details: &ProductDetails) -> usize {
    let long = [
        &details.description,
        &details.image_url,
        &details.merchant_image_url,
        &details.aw_image_url,
        &details.large_image,
        &details.product_url,
    ];
    let short = [
        &details.merchant_name,
        &details.brand_name,
        &details.category_name,
        &details.colour,
        &details.fashion_category,
        &details.fashion_size,
        &details.upc,
    ];
    let texts: usize = long.into_iter().chain(short).flatten().map(String::len).sum();
    let images: usize = details.images.iter().map(|image| image.len() + size_of::<String>()).sum();
    size_of::<ProductDetails>() + details.name.len() + texts + images + details.attributes.as_str().len()
}
