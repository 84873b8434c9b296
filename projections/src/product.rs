//! `products`: one row for each product of a catalogue, inactive ones too, and its popularity.

use std::sync::Arc;

use domain::product::popularity::Popularity;
use domain::user::interactions::Interactions;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{BrandId, MerchantId, Position, ProductCategoryId, ProductId, Tenant};
use event_schemas::product::{ProductDetails, ProductEvent};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use event_schemas::user::{InteractionRecorded, UserEvent};
use serde::{Deserialize, Serialize};

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::{like, to_json};
use crate::rows::{RowModel, Rows, Table, json};
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT: &str = "INSERT INTO products \
     (tenant, product_id, category_id, brand_id, merchant_id, in_stock, is_active, price, search, view, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
     ON CONFLICT (tenant, product_id) DO UPDATE SET category_id = excluded.category_id, \
     brand_id = excluded.brand_id, merchant_id = excluded.merchant_id, in_stock = excluded.in_stock, \
     is_active = excluded.is_active, price = excluded.price, search = excluded.search, view = excluded.view, \
     position = excluded.position";
pub(crate) const ONE: &str = "SELECT view FROM products WHERE tenant = $1 AND product_id = $2";

/// The conditions of a [`ProductFilter`], whose parameters follow that of the tenant.
macro_rules! filtered {
    ($query:literal, $order:literal) => {
        concat!(
            $query,
            " AND ($2 IS NULL OR products.category_id = $2) AND ($3 IS NULL OR products.brand_id = $3) \
             AND ($4 IS NULL OR products.merchant_id = $4) AND ($5 IS NULL OR products.in_stock = $5) \
             AND ($6 IS NULL OR products.is_active = $6) AND ($7 IS NULL OR products.price >= $7) \
             AND ($8 IS NULL OR products.price <= $8) AND ($9 IS NULL OR products.search LIKE $9 ESCAPE '\\') ",
            $order
        )
    };
}

pub(crate) const LIST: &str = filtered!(
    "SELECT products.view FROM products WHERE products.tenant = $1",
    "AND products.product_id > $10 ORDER BY products.product_id LIMIT $11"
);
pub(crate) const MOST_POPULAR: &str = filtered!(
    "SELECT products.view, product_popularity.weight_rank FROM product_popularity JOIN products \
     ON products.tenant = product_popularity.tenant AND products.product_id = product_popularity.product_id \
     WHERE product_popularity.tenant = $1",
    "AND (product_popularity.weight_rank < $10 \
     OR (product_popularity.weight_rank = $11 AND product_popularity.product_id > $12)) \
     ORDER BY product_popularity.weight_rank DESC, product_popularity.product_id LIMIT $13"
);
pub(crate) const UPSERT_POPULARITY: &str = "INSERT INTO product_popularity \
     (tenant, product_id, weight_rank, popularity, position) VALUES ($1, $2, $3, $4, $5) \
     ON CONFLICT (tenant, product_id) DO UPDATE SET weight_rank = excluded.weight_rank, \
     popularity = excluded.popularity, position = excluded.position";
pub(crate) const DELETE_POPULARITY: &str =
    "DELETE FROM product_popularity WHERE tenant = $1 AND product_id = $2";
pub(crate) const ONE_POPULARITY: &str =
    "SELECT popularity FROM product_popularity WHERE tenant = $1 AND product_id = $2";
pub(crate) const SOME: &str = "SELECT view FROM products WHERE tenant = $1 AND product_id IN \
     ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)";

/// The number of products that [`SOME`] looks for.
const SOME_MAX: usize = 20;

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, ONE, LIST, SOME, UPSERT_POPULARITY, DELETE_POPULARITY, ONE_POPULARITY, MOST_POPULAR]
        .map(str::to_owned)
        .into()
}

/// A product as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredProduct {
    pub product_id: ProductId,
    pub details: ProductDetails,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The position of the last event that changed it.
    pub position: Position,
}

impl StoredProduct {
    /// The product after an event; none if it was never created.
    fn evolve(before: Option<Self>, envelope: &Envelope, event: &ProductEvent) -> Option<Self> {
        let at = envelope.metadata.occurred_at;
        let created_at = before.as_ref().map_or(at, |before| before.created_at);
        let details = match event {
            ProductEvent::ProductUpserted(upserted) => ProductDetails::clone(&upserted.details),
            ProductEvent::ProductDeactivated(_) => ProductDetails { is_active: false, ..before?.details },
            // Its vectors are in the search index only.
            ProductEvent::ProductEmbedded(_) => return before,
        };
        let product_id = event.product_id().clone();
        Some(Self { product_id, details, created_at, updated_at: at, position: envelope.position })
    }

    /// The name, the brand and the id in lower case; the databases do not accept every control character.
    fn search_text(&self) -> String {
        let brand = self.details.brand_name.as_deref().unwrap_or_default();
        let text = format!("{} {brand} {}", self.details.name, self.product_id).to_lowercase();
        text.replace(char::is_control, " ")
    }
}

/// A price in ten-thousandths, so that both databases compare prices exactly.
fn price(amount: f64) -> i64 {
    (amount * 10_000.0).round() as i64
}

type ProductKey = (Tenant, ProductId);

/// The rows by product.
#[derive(Debug)]
struct Catalogue;

impl Table for Catalogue {
    type Key = ProductKey;
    type Value = StoredProduct;
    const ONE: &'static str = ONE;

    fn key((tenant, product): &ProductKey) -> Vec<Value> {
        vec![tenant.as_str().into(), product.as_str().into()]
    }

    fn text_bytes(product: &StoredProduct) -> usize {
        let details = &product.details;
        details.description.as_ref().map_or(0, String::len)
            + details.attributes.as_str().len()
            + details.images.iter().map(String::len).sum::<usize>()
    }

    fn write((tenant, id): &ProductKey, product: Option<&StoredProduct>) -> Option<Statement> {
        let product = product?;
        let details = &product.details;
        let statement = Statement::new(UPSERT)
            .bind(tenant.as_str())
            .bind(id.as_str())
            .bind(details.category_id.as_ref().map(ProductCategoryId::as_str))
            .bind(details.brand_id.as_ref().map(BrandId::as_str))
            .bind(details.merchant_id.as_ref().map(MerchantId::as_str))
            .bind(i64::from(details.in_stock))
            .bind(i64::from(details.is_active))
            .bind(details.price.map(price))
            .bind(product.search_text())
            .bind(to_json(product))
            .bind(product.position.to_i64());
        Some(statement)
    }
}

/// A popularity, and the position of its last interaction.
type PlacedPopularity = (Popularity, Position);

/// The popularity by product; interactions can name products that are not in the catalogue yet.
#[derive(Debug)]
struct Popularities;

impl Table for Popularities {
    type Key = ProductKey;
    type Value = PlacedPopularity;
    const ONE: &'static str = ONE_POPULARITY;

    fn key(key: &ProductKey) -> Vec<Value> {
        Catalogue::key(key)
    }

    fn write((tenant, id): &ProductKey, value: Option<&PlacedPopularity>) -> Option<Statement> {
        let key = |sql| Statement::new(sql).bind(tenant.as_str()).bind(id.as_str());
        let Some((popularity, position)) = value else { return Some(key(DELETE_POPULARITY)) };
        let statement =
            key(UPSERT_POPULARITY).bind(popularity.rank()).bind(to_json(&value)).bind(position.to_i64());
        Some(statement)
    }
}

/// The products, and their popularity.
#[derive(Debug, Default)]
pub(crate) struct ProductRows {
    products: Rows<Catalogue>,
    popularities: Rows<Popularities>,
    settings: Interactions,
}

/// The product that an event changes.
fn changed(envelope: &Envelope) -> Option<(ProductKey, &ProductEvent)> {
    let Event::Product(event) = &envelope.event else { return None };
    Some(((envelope.metadata.tenant.clone(), event.product_id().clone()), event))
}

/// The product that an interaction is about.
fn interacted(envelope: &Envelope) -> Option<(ProductKey, &InteractionRecorded)> {
    let Event::User(UserEvent::InteractionRecorded(interaction)) = &envelope.event else { return None };
    Some(((envelope.metadata.tenant.clone(), interaction.product_id.clone()), interaction))
}

impl RowModel for ProductRows {
    const NAME: Name = Name::Products;
    const REVISION: u32 = 1;
    const DDL: Ddl = ddl!("products");
    const CATEGORIES: &'static [Category] = &[Category::Product, Category::User];
    const COUNTS_INTERACTIONS: bool = true;

    fn configure(&mut self, settings: &Interactions) {
        self.settings = *settings;
    }

    async fn fold(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        let products = events.iter().filter_map(|envelope| Some(changed(envelope)?.0));
        self.products.load(db, products).await?;
        let interactions = events.iter().filter_map(|envelope| Some(interacted(envelope)?.0));
        self.popularities.load(db, interactions).await?;
        for envelope in events {
            if let Some((key, event)) = changed(envelope) {
                let before = self.products.get(&key).cloned();
                if let Some(product) = StoredProduct::evolve(before, envelope, event) {
                    self.products.set(key, Some(product));
                }
            }
            if let Some((key, interaction)) = interacted(envelope) {
                let weight = self.settings.weight(interaction.interaction_type, interaction.value);
                if self.popularities.get(&key).is_none() {
                    self.popularities.set(key.clone(), Some((Popularity::default(), envelope.position)));
                }
                if let Some((popularity, position)) = self.popularities.change(&key) {
                    popularity.add(weight, envelope.metadata.occurred_at);
                    *position = envelope.position;
                }
            }
        }
        Ok(())
    }

    /// The weights are subtracted again. A product that was only interacted with by this user has no popularity then.
    async fn forget(&mut self, db: &Db, erasure: &Envelope, earlier: &[Envelope]) -> Result<(), SqlError> {
        self.popularities
            .load(db, earlier.iter().filter_map(|envelope| Some(interacted(envelope)?.0)))
            .await?;
        for envelope in earlier {
            let Some((key, interaction)) = interacted(envelope) else { continue };
            let Some((popularity, position)) = self.popularities.change(&key) else { continue };
            let weight = self.settings.weight(interaction.interaction_type, interaction.value);
            popularity.add(-weight, envelope.metadata.occurred_at);
            *position = erasure.position;
            if *popularity == Popularity::default() {
                self.popularities.set(key, None);
            }
        }
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        self.products.store(batch);
        self.popularities.store(batch);
    }

    fn has_changes(&self) -> bool {
        self.products.has_changes() || self.popularities.has_changes()
    }

    fn on_stored(&mut self) {
        self.products.on_stored();
        self.popularities.on_stored();
    }

    fn on_published(&mut self) {
        self.products.on_published();
        self.popularities.on_published();
    }
}

/// A filter for a tenant's products.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProductFilter {
    pub category_id: Option<ProductCategoryId>,
    pub brand_id: Option<BrandId>,
    pub merchant_id: Option<MerchantId>,
    pub in_stock: Option<bool>,
    pub is_active: Option<bool>,
    /// Both prices are inclusive. A product without a price has none of them.
    pub min_price: Option<f64>,
    pub max_price: Option<f64>,
    /// A part of the name, the brand or the id, case-insensitive.
    pub search: Option<String>,
}

impl ProductFilter {
    /// Binds the tenant, and the conditions of the filter.
    fn apply(&self, statement: Statement, tenant: &Tenant) -> Statement {
        statement
            .bind(tenant.as_str())
            .bind(self.category_id.as_ref().map(ProductCategoryId::as_str))
            .bind(self.brand_id.as_ref().map(BrandId::as_str))
            .bind(self.merchant_id.as_ref().map(MerchantId::as_str))
            .bind(self.in_stock.map(i64::from))
            .bind(self.is_active.map(i64::from))
            .bind(self.min_price.map(price))
            .bind(self.max_price.map(price))
            .bind(self.search.as_deref().map(like))
    }
}

/// A page of a tenant's products.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductPage<C> {
    pub items: Vec<StoredProduct>,
    /// The last product of the page, after which the next one starts; none on the last page.
    pub next: Option<C>,
}

/// The last product of a page of popular ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PopularityCursor {
    pub weight_rank: f64,
    pub product_id: ProductId,
}

/// The queries of `products`.
#[derive(Clone, Debug)]
pub struct Products {
    pub(crate) slot: Arc<Slot<()>>,
}

impl Products {
    /// Lists at most `limit` of the tenant's products whose ids are greater than `after`.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &ProductFilter,
        after: Option<&ProductId>,
        limit: u32,
    ) -> Result<ProductPage<ProductId>, QueryError> {
        let statement = filter.apply(Statement::new(LIST), tenant).bind(after.map_or("", ProductId::as_str));
        let parse = |row| json(Name::Products, row);
        let cursor = |last: &StoredProduct| last.product_id.clone();
        let (items, next) = self.slot.live()?.page(Name::Products, statement, limit, parse, cursor).await?;
        Ok(ProductPage { items, next })
    }

    /// Lists at most `limit` of the tenant's products after the cursor, the most popular first. Products without an
    /// interaction are not among them.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn most_popular(
        &self,
        tenant: &Tenant,
        filter: &ProductFilter,
        after: Option<&PopularityCursor>,
        limit: u32,
    ) -> Result<ProductPage<PopularityCursor>, QueryError> {
        let rank = after.map_or(f64::MAX, |after| after.weight_rank);
        let statement = filter.apply(Statement::new(MOST_POPULAR), tenant).bind(rank).bind(rank);
        let statement = statement.bind(after.map_or("", |after| after.product_id.as_str()));
        let parse = |(view, rank): (String, f64)| Ok((json::<StoredProduct>(Name::Products, (view,))?, rank));
        let cursor = |(product, rank): &(StoredProduct, f64)| PopularityCursor {
            weight_rank: *rank,
            product_id: product.product_id.clone(),
        };
        let (items, next) = self.slot.live()?.page(Name::Products, statement, limit, parse, cursor).await?;
        Ok(ProductPage { items: items.into_iter().map(|(product, _)| product).collect(), next })
    }

    /// The known products among these, in no order.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn some(&self, tenant: &Tenant, ids: &[ProductId]) -> Result<Vec<StoredProduct>, QueryError> {
        let generation = self.slot.live()?;
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(SOME_MAX) {
            // No product has an empty id.
            let padded = ids.iter().map(ProductId::as_str).chain(std::iter::repeat("")).take(SOME_MAX);
            let statement = Statement::new(SOME).bind(tenant.as_str());
            let statement = padded.fold(statement, |statement, id| statement.bind(id));
            let rows: Vec<(String,)> = generation
                .db
                .all(statement)
                .await
                .map_err(|error| generation.query_error(Name::Products, error))?;
            let products: Result<Vec<StoredProduct>, QueryError> =
                rows.into_iter().map(|row| json(Name::Products, row)).collect();
            found.extend(generation.parsed(products)?);
        }
        Ok(found)
    }

    /// One product of the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, id: &ProductId) -> Result<Option<StoredProduct>, QueryError> {
        let statement = Statement::new(ONE).bind(tenant.as_str()).bind(id.as_str());
        self.slot.live()?.one(Name::Products, statement).await
    }
}
