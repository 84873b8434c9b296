//! Extractions: the list, one of them, and the items that one has still to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::job::extraction::items::{Item, ItemsQuery, Place};
use domain::job::extraction::{self, ExtractionView, KINDS};
use domain::job::history::Status;
use event_schemas::cutout::CutoutId;
use event_schemas::ids::{ImageId, JobId, ModelId, Position, Tenant};
use event_schemas::job::JobKind;
use event_schemas::loose_id::LooseId;
use event_schemas::stream::StreamId;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::job::JobCursor;
use projections::matching_summary::Replayed;
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{Caller, CostlyReads};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::schema::Api;

use super::Tag;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::{from_query_error, no_such_job};
use crate::min_position::MinPosition;

/// An image of which a vector is to be made: a cutout, or an image of a product.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExtractionItem {
    /// The cutout, if it is one.
    pub cutout_id: Option<CutoutId>,
    /// The product of the image.
    pub product_id: Option<LooseId>,
    /// The image of the product: follows from its address.
    pub image_id: Option<ImageId>,
    pub image_url: String,
    /// The place after it: as `cursor` it continues the list there.
    pub checkpoint: String,
}

/// A page of items.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExtractionItems {
    /// The model whose vectors are made.
    pub model_id: ModelId,
    pub items: Vec<ExtractionItem>,
    /// Send it as `cursor` for the next page; null at the end of the list. A page can be shorter than `limit`, and not the last one.
    pub next_cursor: Option<String>,
    /// The number of items after the cursor; null unless `count` is asked for.
    pub total: Option<u64>,
    /// Log position that the items reflect.
    pub position: Position,
}

/// Routes for extractions.
#[derive(Clone, Debug)]
pub struct ExtractionRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl ExtractionRoutes {
    /// List extractions, newest first
    #[oai(path = "/api/v1/embeddings/jobs", method = "get", operation_id = "list_extractions")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        status: Query<Option<Api<Status>>>,
        job_type: Query<Option<Api<JobKind>>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<ExtractionView>>, Problem> {
        self.api.wait_for_models(&[Name::Jobs], min).await?;
        let (status, kind) = (status.0.map(|status| status.0), job_type.0.map(|kind| kind.0));
        if kind.is_some_and(|kind| !KINDS.contains(&kind)) {
            return Err(Problem::invalid("job_type", "is not a kind of extraction; leave it out"));
        }
        let list = format!("extractions {status:?} {kind:?}");
        let after: Option<JobCursor> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        let limit = limit.0.get() as u32;
        let page = self.api.models.jobs().extractions(&caller.tenant, status, kind, after, limit).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(&list, &next).to_string());
        Ok(Cached::new(&Page { items: page.items, next_cursor }, if_none_match.as_deref()))
    }

    /// Get an extraction
    #[oai(path = "/api/v1/embeddings/jobs/:job_id", method = "get", operation_id = "read_extraction")]
    async fn read(
        &self,
        caller: Caller,
        job_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
        budget: CostlyReads,
    ) -> Result<Cached<ExtractionView>, Problem> {
        let id = path::job_id(&job_id)?;
        self.api.wait_for_models_or_log(&[Name::Jobs], min).await?;
        let view = self.view(&caller.tenant, id, &budget).await?;
        Ok(Cached::new(&view, if_none_match.as_deref()))
    }

    /// List the items that an extraction has still to do
    ///
    /// For its worker: images after the cursor, without those that have a vector of the model already, unless the job makes them
    /// again. They are in the order in which cutouts and products came, so that what comes later is behind every cursor.
    #[oai(
        path = "/api/v1/embeddings/jobs/:job_id/items",
        method = "get",
        operation_id = "list_extraction_items"
    )]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn items(
        &self,
        caller: Caller,
        job_id: Path<String>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        /// Whether to count the items after the cursor, which takes longer
        #[oai(default)]
        count: Query<bool>,
        min: MinPosition,
        budget: CostlyReads,
    ) -> Result<Cached<ExtractionItems>, Problem> {
        let id = path::job_id(&job_id)?;
        self.api.wait_for_models(&[Name::Jobs, Name::Search], min).await?;
        let job = self.view(&caller.tenant, id, &budget).await?;
        let Some(model_id) = job.model_id else {
            let detail = "the job has no model; start it by POST /api/v1/embeddings/extract";
            return Err(Problem::conflict(detail));
        };
        let list = format!("items of the extraction {id}");
        let after: Option<Place> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        let query = ItemsQuery {
            target: job.target_type,
            model_id: model_id.clone(),
            product_ids: job.named_products,
            only_missing: job.only_missing,
            after: after.unwrap_or_default(),
            limit: limit.0.get(),
        };
        let found = self.api.models.search().extraction_items(&caller.tenant, query, count.0).await;
        let (found, total, position) = found.map_err(|error| from_query_error(&error))?;
        let items = self.render(&caller.tenant, &list, found.items, position).await?;
        let next_cursor = found.next.map(|next| Cursor::new(&list, &next).to_string());
        Ok(Cached::new(&ExtractionItems { model_id, items, next_cursor, total, position }, None))
    }
}

impl ExtractionRoutes {
    async fn view(
        &self,
        tenant: &Tenant,
        id: JobId,
        budget: &CostlyReads,
    ) -> Result<ExtractionView, Problem> {
        let of_log = |Replayed { folded, .. }: Replayed| {
            extraction::view(folded.fold.history.as_ref()?, &folded.fold.latest)
        };
        let read = || async {
            match self.api.models.jobs().extraction(tenant, id).await {
                Ok(found) => Ok(found),
                Err(error) => {
                    let replayed = self.api.replay_instead(&error, tenant, id, budget).await?;
                    Ok(replayed.and_then(of_log))
                }
            }
        };
        let origin = Origin::Stream(StreamId::job(id));
        let found = self.api.read_by_id(Name::Jobs, tenant, origin, read).await?;
        found.ok_or_else(no_such_job)
    }

    /// The items with their addresses. Those of cutouts are in rows, which must have reached the position of the index.
    async fn render(
        &self,
        tenant: &Tenant,
        list: &str,
        items: Vec<(Item, Place)>,
        position: Position,
    ) -> Result<Vec<ExtractionItem>, Problem> {
        let cutout = |(item, _): &(Item, Place)| match item {
            Item::Cutout(id) => Some(*id),
            Item::ProductImage { .. } => None,
        };
        let cutouts: Vec<CutoutId> = items.iter().filter_map(cutout).collect();
        let mut urls = BTreeMap::new();
        if !cutouts.is_empty() {
            self.api.wait_for_models(&[Name::Cutouts], MinPosition(Some(position))).await?;
            let stored = self.api.models.cutouts().some(tenant, &cutouts).await;
            let stored = stored.map_err(|error| from_query_error(&error))?;
            urls.extend(stored.into_iter().map(|cutout| (cutout.cutout_id, cutout.image_url)));
        }
        let rendered = items.into_iter().filter_map(|(item, place)| {
            let checkpoint = Cursor::new(list, &place).to_string();
            Some(match item {
                Item::Cutout(id) => ExtractionItem {
                    cutout_id: Some(id),
                    product_id: None,
                    image_id: None,
                    image_url: urls.remove(&id)?,
                    checkpoint,
                },
                Item::ProductImage { product_id, image_id, image_url } => ExtractionItem {
                    cutout_id: None,
                    product_id: Some(LooseId::from(&product_id)),
                    image_id: Some(image_id),
                    image_url,
                    checkpoint,
                },
            })
        });
        Ok(rendered.collect())
    }
}
