//! Cutouts: the list, their numbers, and one cutout.

use std::sync::Arc;

use domain::cutout::view::Cutout as StoredCutout;
use event_schemas::cutout::CutoutId;
use event_schemas::envelope::Actor;
use event_schemas::ids::{ModelId, Position};
use event_schemas::loose_id::LooseId;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::cutout::{CutoutFilter, CutoutsAfter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::schema::Api;

use super::Tag;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;
use crate::subjects::UserIds;

/// A part of an image that shows one product.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Cutout {
    pub id: CutoutId,
    /// Its number in the system that it comes from.
    pub external_id: CutoutId,
    pub image_url: String,
    /// The product code that a model read from the image: a hint, which can be wrong.
    pub predicted_upc: Option<String>,
    /// Whether it has a vector of `embedding_model_id`.
    pub has_embedding: bool,
    /// The model of its newest vector; null without one, or if the model was deleted.
    pub embedding_model_id: Option<ModelId>,
    /// The product that it shows.
    pub matched_product_id: Option<LooseId>,
    /// The similarity that was sent with the match.
    pub match_similarity: Option<f64>,
    /// The user or the program that matched it; null for an erased user.
    pub matched_by: Option<String>,
    pub matched_at: Option<Timestamp>,
    /// The time at which the system that it comes from last sent a change.
    pub synced_at: Timestamp,
    pub created_at: Timestamp,
    /// Log position of the last event that changed this resource.
    pub position: Position,
}

impl Cutout {
    fn new(stored: StoredCutout, user_ids: &UserIds) -> Self {
        let matched = stored.matched;
        let by = |actor: &Actor| match actor {
            Actor::Subject(subject) => user_ids.user_id(*subject).map(|user| user.to_string()),
            Actor::Worker(program) => Some(program.to_string()),
            Actor::Service(program) => Some(program.to_string()),
            Actor::System(process) => Some(process.to_string()),
        };
        Self {
            id: stored.cutout_id,
            external_id: stored.cutout_id,
            image_url: stored.image_url,
            predicted_upc: stored.predicted_upc,
            has_embedding: stored.model_id.is_some(),
            embedding_model_id: stored.model_id,
            matched_product_id: matched.as_ref().map(|matched| LooseId::from(&matched.product_id)),
            match_similarity: matched.as_ref().and_then(|matched| matched.similarity),
            matched_by: matched.as_ref().and_then(|matched| by(&matched.by)),
            matched_at: matched.map(|matched| matched.at),
            synced_at: stored.synced_at,
            created_at: stored.created_at,
            position: stored.position,
        }
    }
}

/// The numbers of the cutouts.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CutoutStats {
    pub total: u64,
    /// Those that show a product of the catalogue.
    pub matched: u64,
    pub unmatched: u64,
    pub with_embedding: u64,
    pub without_embedding: u64,
    pub with_predicted_upc: u64,
    /// The time of the last change; null without cutouts.
    pub last_synced_at: Option<Timestamp>,
}

/// The order of a list of cutouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CutoutOrder {
    Id,
    /// The last one that arrived first.
    Newest,
}

/// Routes for cutouts.
#[derive(Clone, Debug)]
pub struct CutoutRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl CutoutRoutes {
    /// List cutouts
    ///
    /// With a `page`, cutouts that arrive meanwhile can move others to the next one; with a `cursor`, none is missed or
    /// repeated.
    #[oai(path = "/api/v1/cutouts", method = "get", operation_id = "list_cutouts")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        /// Whether they show a product of the catalogue
        matched: Query<Option<bool>>,
        has_embedding: Query<Option<bool>>,
        #[oai(validator(min_length = 1, max_length = 64))] predicted_upc: Query<Option<String>>,
        /// Default: `id`
        order: Query<Option<Api<CutoutOrder>>>,
        /// The number of the page, from 1; only without a cursor
        #[oai(validator(minimum(value = "1"), maximum(value = "1000000")))]
        page: Query<Option<u32>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Cutout>>, Problem> {
        self.api.wait_for_models(&[Name::Cutouts], min).await?;
        if page.0.is_some() && cursor.0.is_some() {
            return Err(Problem::invalid("page", "cannot be combined with a cursor; leave one of them out"));
        }
        let is_newest = order.0.is_some_and(|order| order.0 == CutoutOrder::Newest);
        let (is_matched, has_embedding) = (matched.0, has_embedding.0);
        let filter =
            CutoutFilter { is_matched, has_embedding, predicted_upc: predicted_upc.0, product_id: None };
        let limit = limit.0.get() as u32;
        let skipped = u64::from(page.0.map_or(0, |page| page - 1)) * u64::from(limit);
        // A cursor is valid only for the list that it was issued for.
        let list = format!("cutouts {is_newest} {filter:?}");
        let after = match (is_newest, cursor.0) {
            (true, cursor) => CutoutsAfter::Newest(cursor.map(|cursor| cursor.key(&list)).transpose()?),
            (false, cursor) => CutoutsAfter::Id(cursor.map(|cursor| cursor.key(&list)).transpose()?),
        };
        let found = self.api.models.cutouts().list(&caller.tenant, &filter, after, skipped, limit).await;
        let (found, has_more) = found.map_err(|error| from_query_error(&error))?;
        let last = found.last().filter(|_| has_more);
        let next_cursor = last.map(|last| {
            if is_newest {
                Cursor::new(&list, &last.created_position)
            } else {
                Cursor::new(&list, &last.cutout_id)
            }
        });
        let next_cursor = next_cursor.map(|cursor| cursor.to_string());
        let items = self.api.render_cutouts(&caller, found).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// Get the numbers of cutouts
    #[oai(path = "/api/v1/cutouts/stats", method = "get", operation_id = "read_cutout_stats")]
    async fn stats(
        &self,
        caller: Caller,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<CutoutStats>, Problem> {
        self.api.wait_for_models(&[Name::Cutouts], min).await?;
        let stats = self.api.models.cutouts().stats(&caller.tenant).await;
        let stats = stats.map_err(|error| from_query_error(&error))?;
        let answer = CutoutStats {
            total: stats.total,
            matched: stats.matched,
            unmatched: stats.total - stats.matched,
            with_embedding: stats.embedded,
            without_embedding: stats.total - stats.embedded,
            with_predicted_upc: stats.with_upc,
            last_synced_at: stats.last_synced_at,
        };
        Ok(Cached::new(&answer, if_none_match.as_deref()))
    }

    /// Get a cutout
    #[oai(path = "/api/v1/cutouts/:cutout_id", method = "get", operation_id = "read_cutout")]
    async fn read(
        &self,
        caller: Caller,
        cutout_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Cutout>, Problem> {
        let id = path::cutout_id(&cutout_id)?;
        self.api.wait_for_models(&[Name::Cutouts], min).await?;
        let read = || async {
            let found = self.api.models.cutouts().get(&caller.tenant, id).await;
            found.map_err(|error| from_query_error(&error))
        };
        let origin = Origin::Stream(StreamId::cutout(&caller.tenant, id));
        let found = self.api.read_by_id(Name::Cutouts, &caller.tenant, origin, read).await?;
        let rendered = self.api.render_cutouts(&caller, found.into_iter().collect()).await?;
        let cutout = rendered.first().ok_or_else(|| Problem::not_found("no such cutout"))?;
        Ok(Cached::new(cutout, if_none_match.as_deref()))
    }
}

impl ReadApi {
    /// Cutouts as answers show them, with the names of the people who matched them.
    pub(crate) async fn render_cutouts(
        &self,
        caller: &Caller,
        cutouts: Vec<StoredCutout>,
    ) -> Result<Vec<Cutout>, Problem> {
        let people = cutouts.iter().filter_map(|cutout| match cutout.matched.as_ref()?.by {
            Actor::Subject(subject) => Some(subject),
            _ => None,
        });
        let user_ids = self.server.subjects.user_ids(&caller.tenant, people).await?;
        Ok(cutouts.into_iter().map(|cutout| Cutout::new(cutout, &user_ids)).collect())
    }
}
