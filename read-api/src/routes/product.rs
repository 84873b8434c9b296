//! Products: the list, and one product.

use std::sync::Arc;

use domain::cutout::view::Cutout;
use domain::product::view::ProductView;
use event_schemas::ids::{BrandId, MerchantId, Position, ProductCategoryId, ProductId};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::cutout::{CutoutFilter, CutoutsAfter};
use projections::product::{PopularityCursor, ProductFilter, ProductPage, StoredProduct};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::schema::Api;
use web::value::TextId;

use super::Tag;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;

/// A product of the catalogue.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Product {
    #[serde(flatten)]
    pub product: ProductView,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Log position of the last event that changed this resource.
    pub position: Position,
}

impl From<StoredProduct> for Product {
    fn from(stored: StoredProduct) -> Self {
        Self {
            product: ProductView::new(&stored.product_id, stored.details),
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            position: stored.position,
        }
    }
}

impl Product {
    /// Adds the cutouts that show it to its images.
    pub(crate) fn with_cutouts(mut self, cutouts: Vec<Cutout>) -> Self {
        for cutout in cutouts {
            self.position = self.position.max(cutout.position);
            self.product.image_url.get_or_insert_with(|| cutout.image_url.clone());
            self.product.images.push(cutout.image_url);
        }
        self
    }
}

/// The most cutouts among the images of a product.
const CUTOUT_IMAGES_MAX: u32 = 100;

/// The order of a list of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProductOrder {
    Id,
    /// The most popular first: the weight of an interaction with a product halves in two weeks.
    Popularity,
}

/// Routes for products.
#[derive(Clone, Debug)]
pub struct ProductRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl ProductRoutes {
    /// List products
    ///
    /// By id, or by popularity: then the products with interactions only, and a product whose popularity changes meanwhile
    /// may be on two pages or on none.
    #[oai(path = "/api/v1/products", method = "get", operation_id = "list_products")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        category_id: Query<Option<TextId<ProductCategoryId>>>,
        brand_id: Query<Option<TextId<BrandId>>>,
        merchant_id: Query<Option<TextId<MerchantId>>>,
        in_stock: Query<Option<bool>>,
        /// Whether lists may show it
        is_active: Query<Option<bool>>,
        #[oai(validator(minimum(value = "0"), maximum(value = "1000000000")))] min_price: Query<Option<f64>>,
        #[oai(validator(minimum(value = "0"), maximum(value = "1000000000")))] max_price: Query<Option<f64>>,
        /// A part of the name, the brand or the id; case-insensitive
        #[oai(validator(max_length = 200))]
        q: Query<Option<String>>,
        /// Default: `id`
        order: Query<Option<Api<ProductOrder>>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Product>>, Problem> {
        self.api.wait_for_models(&[Name::Products], min).await?;
        let filter = ProductFilter {
            category_id: category_id.0.map(|id| id.0),
            brand_id: brand_id.0.map(|id| id.0),
            merchant_id: merchant_id.0.map(|id| id.0),
            in_stock: in_stock.0,
            is_active: is_active.0,
            min_price: min_price.0,
            max_price: max_price.0,
            search: q.0.filter(|q| !q.is_empty()),
        };
        let by_popularity = order.0.is_some_and(|order| order.0 == ProductOrder::Popularity);
        let (limit, cursor) = (limit.0.get() as u32, cursor.0.as_ref());
        let page = if by_popularity {
            self.popular(&caller, &filter, limit, cursor).await?
        } else {
            self.by_id(&caller, &filter, limit, cursor).await?
        };
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }

    /// Get a product
    ///
    /// A deactivated one, too. Its images include the first 100 cutouts that show it, after its own.
    #[oai(path = "/api/v1/products/:product_id", method = "get", operation_id = "read_product")]
    async fn read(
        &self,
        caller: Caller,
        product_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Product>, Problem> {
        let id = path::product_id(&product_id)?;
        self.api.wait_for_models(&[Name::Products, Name::Cutouts], min).await?;
        let read = || async {
            let found = self.api.models.products().get(&caller.tenant, &id).await;
            found.map_err(|error| from_query_error(&error))
        };
        let origin = Origin::Stream(StreamId::product(&caller.tenant, &id));
        let found = self.api.read_by_id(Name::Products, &caller.tenant, origin, read).await?;
        let product = found.ok_or_else(|| Problem::not_found("no such product"))?;
        let filter = CutoutFilter { product_id: Some(id), ..CutoutFilter::default() };
        let cutouts = self.api.models.cutouts();
        let shown = cutouts.list(&caller.tenant, &filter, CutoutsAfter::Id(None), 0, CUTOUT_IMAGES_MAX).await;
        let (shown, _) = shown.map_err(|error| from_query_error(&error))?;
        Ok(Cached::new(&Product::from(product).with_cutouts(shown), if_none_match.as_deref()))
    }
}

impl ProductRoutes {
    async fn by_id(
        &self,
        caller: &Caller,
        filter: &ProductFilter,
        limit: u32,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Product>, Problem> {
        // A cursor is valid only for the list that it was issued for.
        let list = format!("products {filter:?}");
        let after: Option<ProductId> = cursor.map(|cursor| cursor.key(&list)).transpose()?;
        let page = self.api.models.products().list(&caller.tenant, filter, after.as_ref(), limit).await;
        Ok(render(&list, page.map_err(|error| from_query_error(&error))?))
    }

    async fn popular(
        &self,
        caller: &Caller,
        filter: &ProductFilter,
        limit: u32,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Product>, Problem> {
        let list = format!("popular products {filter:?}");
        let after: Option<PopularityCursor> = cursor.map(|cursor| cursor.key(&list)).transpose()?;
        let products = self.api.models.products();
        let page = products.most_popular(&caller.tenant, filter, after.as_ref(), limit).await;
        Ok(render(&list, page.map_err(|error| from_query_error(&error))?))
    }
}

fn render(list: &str, page: ProductPage<impl Serialize>) -> Page<Product> {
    Page {
        items: page.items.into_iter().map(Product::from).collect(),
        next_cursor: page.next.map(|next| Cursor::new(list, &next).to_string()),
    }
}
