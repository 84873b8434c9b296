//! `cutouts`: one row for each cutout.

use std::sync::Arc;

use domain::cutout::view::Cutout;
use event_schemas::cutout::{CutoutEvent, CutoutId};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{ModelId, Position, ProductId, Tenant};
use event_schemas::model::ModelEvent;
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::to_json;
use crate::rows::{RowModel, Rows, Table, json};
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT: &str = "INSERT INTO cutouts \
     (tenant, cutout_id, is_matched, product_id, model_id, predicted_upc, synced_at, created_position, view, position) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
     ON CONFLICT (tenant, cutout_id) DO UPDATE SET is_matched = excluded.is_matched, \
     product_id = excluded.product_id, model_id = excluded.model_id, predicted_upc = excluded.predicted_upc, \
     synced_at = excluded.synced_at, view = excluded.view, position = excluded.position";
pub(crate) const STORED: &str = "SELECT view FROM cutouts WHERE tenant = $1 AND cutout_id = $2";
pub(crate) const UPSERT_DELETED: &str = "INSERT INTO deleted_models (tenant, model_id, view, position) \
     VALUES ($1, $2, $3, $4) \
     ON CONFLICT (tenant, model_id) DO UPDATE SET view = excluded.view, position = excluded.position";
pub(crate) const STORED_DELETED: &str = "SELECT view FROM deleted_models WHERE tenant = $1 AND model_id = $2";

/// The query of cutouts, with 1 for those whose newest vector is not of a deleted model.
macro_rules! cutouts {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "CASE WHEN cutouts.model_id IS NULL OR EXISTS (SELECT 1 FROM deleted_models \
             WHERE deleted_models.tenant = cutouts.tenant AND deleted_models.model_id = cutouts.model_id) \
             THEN 0 ELSE 1 END",
            $after
        )
    };
}

/// The conditions of a [`CutoutFilter`], whose parameters follow that of the tenant.
macro_rules! filtered {
    ($order:literal) => {
        concat!(
            cutouts!("SELECT cutouts.view, CAST(", " AS BIGINT) FROM cutouts WHERE cutouts.tenant = $1 "),
            "AND ($2 IS NULL OR cutouts.is_matched = $2) ",
            cutouts!("AND ($3 IS NULL OR CAST(", " AS BIGINT) = $3) "),
            "AND ($4 IS NULL OR cutouts.predicted_upc = $4) AND ($5 IS NULL OR cutouts.product_id = $5) ",
            $order
        )
    };
}

pub(crate) const BY_ID: &str =
    filtered!("AND cutouts.cutout_id > $6 ORDER BY cutouts.cutout_id LIMIT $8 OFFSET $7");
pub(crate) const NEWEST: &str =
    filtered!("AND cutouts.created_position < $6 ORDER BY cutouts.created_position DESC LIMIT $8 OFFSET $7");
pub(crate) const ONE: &str = cutouts!(
    "SELECT cutouts.view, CAST(",
    " AS BIGINT) FROM cutouts WHERE cutouts.tenant = $1 AND cutouts.cutout_id = $2"
);
pub(crate) const SOME: &str = cutouts!(
    "SELECT cutouts.view, CAST(",
    " AS BIGINT) FROM cutouts WHERE cutouts.tenant = $1 AND cutouts.cutout_id IN \
     ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)"
);
pub(crate) const STATS: &str = cutouts!(
    "SELECT COUNT(*), CAST(SUM(cutouts.is_matched) AS BIGINT), COUNT(cutouts.predicted_upc), \
     MAX(cutouts.synced_at), CAST(SUM(",
    ") AS BIGINT) FROM cutouts WHERE cutouts.tenant = $1"
);

/// The number of cutouts that [`SOME`] looks for.
const SOME_MAX: usize = 20;

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, STORED, UPSERT_DELETED, STORED_DELETED, BY_ID, NEWEST, ONE, SOME, STATS]
        .map(str::to_owned)
        .into()
}

type CutoutKey = (Tenant, CutoutId);

/// The rows by cutout.
#[derive(Debug)]
struct StoredCutouts;

impl Table for StoredCutouts {
    type Key = CutoutKey;
    type Value = Cutout;
    const ONE: &'static str = STORED;

    fn key((tenant, cutout): &CutoutKey) -> Vec<Value> {
        vec![tenant.as_str().into(), cutout.to_i64().into()]
    }

    fn write((tenant, id): &CutoutKey, cutout: Option<&Cutout>) -> Option<Statement> {
        let cutout = cutout?;
        let matched = cutout.matched.as_ref();
        let statement = Statement::new(UPSERT)
            .bind(tenant.as_str())
            .bind(id.to_i64())
            .bind(i64::from(matched.is_some()))
            .bind(matched.map(|matched| matched.product_id.as_str()))
            .bind(cutout.model_id.as_ref().map(ModelId::as_str))
            .bind(cutout.predicted_upc.as_deref())
            .bind(cutout.synced_at.micros())
            .bind(cutout.created_position.to_i64())
            .bind(to_json(cutout))
            .bind(cutout.position.to_i64());
        Some(statement)
    }
}

/// The deleted models, with the positions of the deletions.
#[derive(Debug)]
struct DeletedModels;

impl Table for DeletedModels {
    type Key = (Tenant, ModelId);
    type Value = Position;
    const ONE: &'static str = STORED_DELETED;

    fn key((tenant, model): &Self::Key) -> Vec<Value> {
        vec![tenant.as_str().into(), model.as_str().into()]
    }

    fn write((tenant, model): &Self::Key, position: Option<&Position>) -> Option<Statement> {
        let position = position?;
        let statement = Statement::new(UPSERT_DELETED).bind(tenant.as_str()).bind(model.as_str());
        Some(statement.bind(to_json(position)).bind(position.to_i64()))
    }
}

/// The cutouts, and what is needed to tell whether they have a vector.
#[derive(Debug, Default)]
pub(crate) struct CutoutRows {
    cutouts: Rows<StoredCutouts>,
    deleted: Rows<DeletedModels>,
}

/// The cutout that an event changes.
fn changed(envelope: &Envelope) -> Option<(CutoutKey, &CutoutEvent)> {
    let Event::Cutout(event) = &envelope.event else { return None };
    Some(((envelope.metadata.tenant.clone(), event.cutout_id()), event))
}

impl RowModel for CutoutRows {
    const NAME: Name = Name::Cutouts;
    const REVISION: u32 = 1;
    const DDL: Ddl = ddl!("cutouts");
    const CATEGORIES: &'static [Category] = &[Category::Cutout, Category::Model];

    async fn fold(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        let cutouts = events.iter().filter_map(|envelope| Some(changed(envelope)?.0));
        self.cutouts.load(db, cutouts).await?;
        for envelope in events {
            if let Some((key, event)) = changed(envelope) {
                let before = self.cutouts.get(&key).cloned();
                if let Some(cutout) = Cutout::evolve(before, envelope, event) {
                    self.cutouts.set(key, Some(cutout));
                }
            }
            if let Event::Model(ModelEvent::EmbeddingModelDeleted(deleted)) = &envelope.event {
                let key = (envelope.metadata.tenant.clone(), deleted.model_id.clone());
                self.deleted.set(key, Some(envelope.position));
            }
        }
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        self.cutouts.store(batch);
        self.deleted.store(batch);
    }

    fn has_changes(&self) -> bool {
        self.cutouts.has_changes() || self.deleted.has_changes()
    }

    fn on_stored(&mut self) {
        self.cutouts.on_stored();
        self.deleted.on_stored();
    }

    fn on_published(&mut self) {
        self.cutouts.on_published();
        self.deleted.on_published();
    }
}

/// A filter for a tenant's cutouts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutoutFilter {
    pub is_matched: Option<bool>,
    pub has_embedding: Option<bool>,
    pub predicted_upc: Option<String>,
    /// The product that they show.
    pub product_id: Option<ProductId>,
}

/// Where a page of cutouts starts, and how they are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutoutsAfter {
    /// By id, after this one.
    Id(Option<CutoutId>),
    /// The newest first, after the one that was created at this position.
    Newest(Option<Position>),
}

/// The numbers of a tenant's cutouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutoutStats {
    pub total: u64,
    pub matched: u64,
    pub with_upc: u64,
    pub embedded: u64,
    pub last_synced_at: Option<Timestamp>,
}

/// Parses a row of a cutout. A vector of a deleted model does not count.
fn parse((view, is_embedded): (String, i64)) -> Result<Cutout, QueryError> {
    let cutout: Cutout = json(Name::Cutouts, (view,))?;
    let model_id = cutout.model_id.filter(|_| is_embedded == 1);
    Ok(Cutout { model_id, ..cutout })
}

/// The queries of `cutouts`.
#[derive(Clone, Debug)]
pub struct Cutouts {
    pub(crate) slot: Arc<Slot<()>>,
}

impl Cutouts {
    /// Lists at most `limit` of the tenant's cutouts after those that are skipped, and tells whether there are more.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &CutoutFilter,
        after: CutoutsAfter,
        skipped: u64,
        limit: u32,
    ) -> Result<(Vec<Cutout>, bool), QueryError> {
        let (sql, after) = match after {
            CutoutsAfter::Id(after) => (BY_ID, after.map_or(-1, CutoutId::to_i64)),
            CutoutsAfter::Newest(after) => (NEWEST, after.map_or(i64::MAX, Position::to_i64)),
        };
        let statement = Statement::new(sql)
            .bind(tenant.as_str())
            .bind(filter.is_matched.map(i64::from))
            .bind(filter.has_embedding.map(i64::from))
            .bind(filter.predicted_upc.as_deref())
            .bind(filter.product_id.as_ref().map(ProductId::as_str))
            .bind(after)
            .bind(i64::try_from(skipped).unwrap_or(i64::MAX));
        let (items, next) = self.slot.live()?.page(Name::Cutouts, statement, limit, parse, |_| ()).await?;
        Ok((items, next.is_some()))
    }

    /// One cutout of the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, id: CutoutId) -> Result<Option<Cutout>, QueryError> {
        let statement = Statement::new(ONE).bind(tenant.as_str()).bind(id.to_i64());
        self.slot.live()?.one_row(Name::Cutouts, statement, parse).await
    }

    /// The known cutouts among these, in no order.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn some(&self, tenant: &Tenant, ids: &[CutoutId]) -> Result<Vec<Cutout>, QueryError> {
        let generation = self.slot.live()?;
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(SOME_MAX) {
            // No cutout has a negative id.
            let padded = ids.iter().map(|id| id.to_i64()).chain(std::iter::repeat(-1)).take(SOME_MAX);
            let statement = Statement::new(SOME).bind(tenant.as_str());
            let statement = padded.fold(statement, |statement, id| statement.bind(id));
            let rows: Vec<(String, i64)> = generation
                .db
                .all(statement)
                .await
                .map_err(|error| generation.query_error(Name::Cutouts, error))?;
            let cutouts: Result<Vec<Cutout>, QueryError> = rows.into_iter().map(parse).collect();
            found.extend(generation.parsed(cutouts)?);
        }
        Ok(found)
    }

    /// The numbers of the tenant's cutouts.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn stats(&self, tenant: &Tenant) -> Result<CutoutStats, QueryError> {
        type Counts = (i64, Option<i64>, i64, Option<i64>, Option<i64>);
        let statement = Statement::new(STATS).bind(tenant.as_str());
        let count = |number: i64| u64::try_from(number).unwrap_or_default();
        let parse = |(total, matched, with_upc, last, embedded): Counts| {
            Ok(CutoutStats {
                total: count(total),
                matched: count(matched.unwrap_or_default()),
                with_upc: count(with_upc),
                embedded: count(embedded.unwrap_or_default()),
                last_synced_at: last.map(Timestamp::from_micros),
            })
        };
        let stats = self.slot.live()?.one_row(Name::Cutouts, statement, parse).await?;
        let none = CutoutStats { total: 0, matched: 0, with_upc: 0, embedded: 0, last_synced_at: None };
        Ok(stats.unwrap_or(none))
    }
}
