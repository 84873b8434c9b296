//! Creates, replaces and deactivates products.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::product::view::ProductView;
use domain::product::{self, Action, Command};
use event_schemas::currency::Currency;
use event_schemas::ids::{BrandId, MerchantId, Position, ProductCategoryId, ProductId};
use event_schemas::loose_id::LooseId;
use event_schemas::product::ProductDetails;
use event_schemas::stream::StreamId;
use futures_util::FutureExt;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use web::json::{Json, LenientBatch};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::LooseTextId;

use crate::catalogue::Catalogue;
use crate::catalogue::batches::{BatchOutcome, BatchPart, CheckedItems, hashed};
use crate::engine::problem;
use crate::engine::write_request::{Users, WriteRequest};

/// A product with all of its facts. Missing facts are unknown.
#[derive(Debug, Object)]
#[oai(example)]
struct ProductFacts {
    /// Its id in the catalogue. Required in a batch; in a path, it may be left out.
    id: Option<LooseTextId<ProductId>>,
    #[oai(validator(min_length = 1, max_length = 500))]
    name: String,
    #[oai(validator(max_length = 10_000))]
    description: Option<String>,
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000")))]
    price: Option<f64>,
    /// The code of a currency in ISO 4217, such as EUR.
    #[oai(validator(min_length = 3, max_length = 3))]
    currency: Option<String>,
    /// The recommended retail price.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000")))]
    rrp_price: Option<f64>,
    /// An address, or a path of the server that shows it. The answer has the first image that is there.
    #[oai(validator(max_length = 2048))]
    image_url: Option<String>,
    #[oai(validator(max_length = 2048))]
    merchant_image_url: Option<String>,
    #[oai(validator(max_length = 2048))]
    aw_image_url: Option<String>,
    #[oai(validator(max_length = 2048))]
    large_image: Option<String>,
    /// The addresses of further images, each of at most 2048 characters.
    #[oai(validator(max_items = 100))]
    images: Option<Vec<String>>,
    #[oai(validator(max_length = 2048))]
    product_url: Option<String>,
    merchant_id: Option<LooseTextId<MerchantId>>,
    #[oai(validator(max_length = 500))]
    merchant_name: Option<String>,
    brand_id: Option<LooseTextId<BrandId>>,
    #[oai(validator(max_length = 500))]
    brand_name: Option<String>,
    category_id: Option<LooseTextId<ProductCategoryId>>,
    #[oai(validator(max_length = 500))]
    category_name: Option<String>,
    /// Default: whether `stock_quantity` is above 0; true without one.
    in_stock: Option<bool>,
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000")))]
    stock_quantity: Option<u64>,
    #[oai(validator(max_length = 200))]
    colour: Option<String>,
    #[oai(validator(max_length = 200))]
    fashion_category: Option<String>,
    #[oai(validator(max_length = 200))]
    fashion_size: Option<String>,
    #[oai(validator(minimum(value = "0"), maximum(value = "100")))]
    quality_score: Option<f64>,
    #[oai(validator(minimum(value = "0"), maximum(value = "5")))]
    average_rating: Option<f64>,
    /// The number of reviews.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000")))]
    reviews: Option<u64>,
    #[oai(validator(max_length = 64))]
    upc: Option<String>,
    /// The same for all variants of a product, of which a list shows one.
    family_id: Option<LooseTextId<ProductId>>,
    /// Whether lists may show it. Default: true.
    is_active: Option<bool>,
    /// The caller's own attributes, such as a material.
    attributes: Option<BTreeMap<String, Value>>,
}

impl Example for ProductFacts {
    fn example() -> Self {
        let text = "an example's ids are short texts";
        Self {
            id: None,
            name: "Trail shoe".to_owned(),
            description: Some("A light shoe for rocky trails.".to_owned()),
            price: Some(89.95),
            currency: Some("EUR".to_owned()),
            rrp_price: None,
            image_url: Some("https://shop.example/images/1.jpg".to_owned()),
            merchant_image_url: None,
            aw_image_url: None,
            large_image: None,
            images: None,
            product_url: None,
            merchant_id: None,
            merchant_name: None,
            brand_id: Some(LooseTextId("12".parse().expect(text))),
            brand_name: Some("Fell".to_owned()),
            category_id: Some(LooseTextId("shoes".parse().expect(text))),
            category_name: Some("Shoes".to_owned()),
            in_stock: Some(true),
            stock_quantity: Some(12),
            colour: Some("red".to_owned()),
            fashion_category: None,
            fashion_size: None,
            quality_score: None,
            average_rating: Some(4.5),
            reviews: Some(17),
            upc: None,
            family_id: None,
            is_active: None,
            attributes: None,
        }
    }
}

impl ProductFacts {
    fn details(self) -> Result<ProductDetails, Problem> {
        if self.name.trim().is_empty() {
            return Err(Problem::invalid("name", "must not consist of spaces"));
        }
        let currency = self.currency.map(|code| code.parse::<Currency>()).transpose();
        let currency = currency.map_err(|error| Problem::invalid("currency", error.to_string()))?;
        let images = self.images.unwrap_or_default();
        if let Some(index) = images.iter().position(|image| image.chars().count() > 2048) {
            return Err(Problem::invalid(format!("images[{index}]"), "must have at most 2048 characters"));
        }
        let attributes = problem::text_of(&self.attributes.unwrap_or_default())?;
        let details = ProductDetails {
            name: self.name,
            description: self.description,
            price: self.price,
            currency,
            rrp_price: self.rrp_price,
            image_url: self.image_url,
            merchant_image_url: self.merchant_image_url,
            aw_image_url: self.aw_image_url,
            large_image: self.large_image,
            images,
            product_url: self.product_url,
            merchant_id: self.merchant_id.map(|id| id.0),
            merchant_name: self.merchant_name,
            brand_id: self.brand_id.map(|id| id.0),
            brand_name: self.brand_name,
            category_id: self.category_id.map(|id| id.0),
            category_name: self.category_name,
            in_stock: self.in_stock.unwrap_or(self.stock_quantity != Some(0)),
            stock_quantity: self.stock_quantity,
            colour: self.colour,
            fashion_category: self.fashion_category,
            fashion_size: self.fashion_size,
            quality_score: self.quality_score,
            average_rating: self.average_rating,
            reviews: self.reviews,
            upc: self.upc,
            family_id: self.family_id.map(|id| id.0),
            is_active: self.is_active.unwrap_or(true),
            attributes,
        };
        match product::check(&details) {
            Ok(()) => Ok(details),
            Err(refusal) => {
                Err(Problem::unprocessable(refusal.field().unwrap_or("body"), refusal.to_string()))
            }
        }
    }

    /// The product of a batch, which must name it.
    fn identified(self) -> Result<(ProductId, ProductDetails), Problem> {
        let id = self.id.as_ref().map(|id| id.0.clone());
        let id = id.ok_or_else(|| Problem::invalid("id", "is missing"))?;
        Ok((id, self.details()?))
    }
}

/// A product as it was recorded.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct UpsertedProduct {
    #[serde(flatten)]
    product: ProductView,
    /// Log position of the change. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// A deactivated product.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct DeactivatedProduct {
    id: LooseId,
    product_id: LooseId,
    is_active: bool,
    position: Position,
}

/// The write routes of products.
#[derive(Clone, Debug)]
pub struct ProductCommands(pub(super) Arc<Catalogue>);

#[OpenApi(tag = "Tag::Catalogue")]
impl ProductCommands {
    /// Create or replace a product
    ///
    /// All of its facts are replaced; the same facts again change nothing. A deactivated product returns, unless
    /// `is_active` is false.
    #[oai(path = "/api/v1/products/:product_id", method = "put", operation_id = "upsert_product")]
    async fn upsert(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        product_id: Path<String>,
        body: Json<ProductFacts>,
    ) -> Result<Json<Api<UpsertedProduct>>, Problem> {
        let product_id = web::path::product_id(&product_id)?;
        if body.0.id.as_ref().is_some_and(|id| id.0 != product_id) {
            return Err(Problem::invalid("id", "differs from the id in the path; leave it out"));
        }
        let route = format!("PUT /api/v1/products/{product_id}");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let details = body.0.details()?;
        let view = ProductView::new(&product_id, details.clone());
        let stream = StreamId::product(&request.caller.tenant, &product_id);
        let action = Action::Upsert(Box::new(details));
        let command = Command { product_id, at: self.0.engine.now(), action };
        let executed = self.0.products.execute(&stream, &cause, command).await;
        let position = executed.map_err(problem::from_execute_error)?.position;
        Ok(Json(Api(UpsertedProduct { product: view, position })))
    }

    /// Create or replace products
    ///
    /// Up to 10,000 in a JSON array, or one per line as NDJSON. Each is taken or rejected for itself, and the answer says
    /// what happened to it. If a product occurs twice, the last one counts.
    #[oai(path = "/api/v1/products/batch", method = "post", operation_id = "upsert_products")]
    async fn upsert_batch(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: LenientBatch<ProductFacts>,
    ) -> Result<Json<Api<BatchOutcome>>, Problem> {
        let (commands, execution) = (self.clone(), request.execution.clone());
        let upserting = async move { commands.upsert_all(&request, body).await }.boxed();
        // It ends in any case, so that the key stays locked until all products are in the log, even if the caller
        // disconnects.
        let outcome = execution.run(upserting).await;
        outcome.map(|outcome| Json(Api(outcome)))
    }

    /// Deactivate a product
    ///
    /// Lists do not show it any more. Its facts are kept, because earlier lists and interactions name it.
    #[oai(path = "/api/v1/products/:product_id", method = "delete", operation_id = "deactivate_product")]
    async fn deactivate(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        product_id: Path<String>,
    ) -> Result<Json<Api<DeactivatedProduct>>, Problem> {
        let product_id = web::path::product_id(&product_id)?;
        let route = format!("DELETE /api/v1/products/{product_id}");
        let cause = request.cause(&self.0.engine, &route, &Value::Null).await?;
        let stream = StreamId::product(&request.caller.tenant, &product_id);
        let id = LooseId::from(&product_id);
        let command = Command { product_id, at: self.0.engine.now(), action: Action::Deactivate };
        let executed = self.0.products.execute(&stream, &cause, command).await;
        let position = executed.map_err(problem::from_execute_error)?.position;
        Ok(Json(Api(DeactivatedProduct { product_id: id.clone(), id, is_active: false, position })))
    }
}

impl ProductCommands {
    async fn upsert_all(
        &self,
        request: &WriteRequest<Users>,
        LenientBatch(items): LenientBatch<ProductFacts>,
    ) -> Result<BatchOutcome, Problem> {
        let engine = &self.0.engine;
        let values = if request.has_key() { hashed(&items) } else { Vec::new() };
        let cause = request.cause_of_batch(engine, "POST /api/v1/products/batch", &values).await?;
        drop(values);
        let (taken, items) = CheckedItems::check(items, ProductFacts::identified)?;
        let (at, tenant) = (engine.now(), &request.caller.tenant);
        let mut products: BTreeMap<ProductId, (Vec<u32>, ProductDetails)> = BTreeMap::new();
        for (place, (id, details)) in taken {
            let (places, last) = products.entry(id).or_insert((Vec::new(), details.clone()));
            places.push(place);
            *last = details;
        }
        let part = |(product_id, (items, details))| {
            let stream = StreamId::product(tenant, &product_id);
            let command = Command { product_id, at, action: Action::Upsert(Box::new(details)) };
            BatchPart { stream, cause: cause.clone(), command, items }
        };
        let parts = products.into_iter().map(part).collect();
        let recorded =
            self.0.record_batch(&self.0.products, &cause, &items, parts, &request.progress).await?;
        Ok(items.outcome(&recorded))
    }
}
