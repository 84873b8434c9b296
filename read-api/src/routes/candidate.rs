//! Products as targets of matches, and the cutouts that may show them.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::cutout::index::Rank;
use event_schemas::cutout::CutoutId;
use event_schemas::ids::{ModelId, Position, ProductId};
use event_schemas::loose_id::LooseId;
use event_schemas::stream::StreamId;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::cutout::{CutoutFilter, CutoutsAfter};
use projections::product::{ProductFilter, StoredProduct};
use projections::search::candidates::{CandidateQuery, Candidates, NoCandidates};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, LIMIT_MAX, Limit, Page};
use web::path;
use web::problem::Problem;
use web::value::TextId;

use super::Tag;
use super::cutout::Cutout;
use super::product::Product;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;

/// A product as the target of matches.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MatchTarget {
    #[serde(flatten)]
    pub product: Product,
    /// The number of cutouts that show it.
    pub matched_count: u64,
    /// The number of its vectors, and those of its images, of the active model of images.
    pub image_vector_count: u64,
}

/// A product, and the cutouts that show it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MatchedProduct {
    #[serde(flatten)]
    pub target: MatchTarget,
    /// The first 500 cutouts that show it, by id.
    pub matches: Vec<Cutout>,
}

/// A cutout that may show the product.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Candidate {
    #[serde(flatten)]
    pub cutout: Cutout,
    /// The cosine similarity of the product's nearest vector.
    #[serde(serialize_with = "event_schemas::decimal::serialize")]
    pub similarity: f32,
    /// Whether its predicted product code is the product's.
    pub upc_agrees: bool,
    /// The similarity, and a boost if the product codes agree: candidates are in its order.
    #[serde(serialize_with = "event_schemas::decimal::serialize")]
    pub score: f32,
}

/// A page of candidates.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CandidatePage {
    pub items: Vec<Candidate>,
    /// Send it as `cursor` for the next page; null at the end of the list.
    pub next_cursor: Option<String>,
    /// The model whose vectors were compared.
    pub model_id: ModelId,
    /// The number of vectors of the product, its images and its cutouts; without one there are no candidates.
    pub vector_count: u64,
    /// Log position that the candidates reflect.
    pub position: Position,
}

/// Routes for the candidates of products.
#[derive(Clone, Debug)]
pub struct CandidateRoutes {
    pub(crate) api: Arc<ReadApi>,
}

const READ_MODELS: [Name; 3] = [Name::Products, Name::Cutouts, Name::Search];

#[OpenApi(tag = "Tag::Catalogue")]
impl CandidateRoutes {
    /// List products with their matches
    ///
    /// By id, with the number of cutouts that show them.
    #[oai(path = "/api/v1/matching/products", method = "get", operation_id = "list_match_targets")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        /// A part of the name, the brand or the id; case-insensitive
        #[oai(validator(max_length = 200))]
        q: Query<Option<String>>,
        /// Whether lists may show it
        is_active: Query<Option<bool>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<MatchTarget>>, Problem> {
        self.api.wait_for_models(&READ_MODELS, min).await?;
        let search = q.0.filter(|q| !q.is_empty());
        let filter = ProductFilter { search, is_active: is_active.0, ..ProductFilter::default() };
        let list = format!("match targets {filter:?}");
        let after: Option<ProductId> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        let products = self.api.models.products();
        let page = products.list(&caller.tenant, &filter, after.as_ref(), limit.0.get() as u32).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(&list, &next).to_string());
        let items = self.targets(&caller, page.items).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// Get a product with its matches
    #[oai(path = "/api/v1/matching/products/:product_id", method = "get", operation_id = "read_match_target")]
    async fn read(
        &self,
        caller: Caller,
        product_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<MatchedProduct>, Problem> {
        let id = path::product_id(&product_id)?;
        self.api.wait_for_models(&READ_MODELS, min).await?;
        let read = || async {
            let found = self.api.models.products().get(&caller.tenant, &id).await;
            found.map_err(|error| from_query_error(&error))
        };
        let origin = Origin::Stream(StreamId::product(&caller.tenant, &id));
        let found = self.api.read_by_id(Name::Products, &caller.tenant, origin, read).await?;
        let target = self.targets(&caller, found.into_iter().collect()).await?.pop();
        let mut target = target.ok_or_else(|| Problem::not_found("no such product"))?;
        let filter = CutoutFilter { product_id: Some(id), ..CutoutFilter::default() };
        let (after, limit) = (CutoutsAfter::Id(None), LIMIT_MAX as u32);
        let matches = self.api.models.cutouts().list(&caller.tenant, &filter, after, 0, limit).await;
        let (matches, _) = matches.map_err(|error| from_query_error(&error))?;
        target.product = target.product.with_cutouts(matches.clone());
        let matches = self.api.render_cutouts(&caller, matches).await?;
        Ok(Cached::new(&MatchedProduct { target, matches }, if_none_match.as_deref()))
    }

    /// List the candidates of a product
    ///
    /// The cutouts that are nearest to any vector of the product, its images, and the cutouts that show it. Those that show
    /// another product come last; its own are no candidates.
    #[oai(
        path = "/api/v1/matching/products/:product_id/candidates",
        method = "get",
        operation_id = "list_candidates"
    )]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn candidates(
        &self,
        caller: Caller,
        product_id: Path<String>,
        /// Default: the active model of images
        model_id: Query<Option<TextId<ModelId>>>,
        /// Whether they show another product
        matched: Query<Option<bool>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<CandidatePage>, Problem> {
        let id = path::product_id(&product_id)?;
        self.api.wait_for_models(&[Name::Cutouts, Name::Search], min).await?;
        let (model_id, is_matched) = (model_id.0.map(|id| id.0), matched.0);
        let list = format!("candidates {id} {model_id:?} {is_matched:?}");
        let after: Option<Rank> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        let limit = limit.0.get();
        let find = || async {
            let query = CandidateQuery {
                product_id: id.clone(),
                model_id: model_id.clone(),
                is_matched,
                after,
                limit,
            };
            match self.api.models.search().candidates(&caller.tenant, query).await {
                Ok(Err(NoCandidates::UnknownProduct)) => Ok(None),
                Ok(Err(NoCandidates::UnknownModel(model))) => {
                    let reason = format!("there is no model `{model}`; register it, or send a vector of it");
                    Err(Problem::not_found(reason))
                }
                Ok(Err(NoCandidates::NoModel)) => {
                    Err(Problem::invalid("model_id", "is missing, because no model of images is active"))
                }
                Ok(Ok(found)) => Ok(Some(found)),
                Err(error) => Err(from_query_error(&error)),
            }
        };
        let origin = Origin::Stream(StreamId::product(&caller.tenant, &id));
        let found = self.api.read_by_id(Name::Search, &caller.tenant, origin, find).await?;
        let found = found.ok_or_else(|| Problem::not_found("no such product"))?;
        let page = self.page(&caller, &list, found).await?;
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}

impl CandidateRoutes {
    async fn targets(
        &self,
        caller: &Caller,
        products: Vec<StoredProduct>,
    ) -> Result<Vec<MatchTarget>, Problem> {
        let ids = products.iter().map(|product| product.product_id.clone()).collect();
        let counts = self.api.models.search().match_targets(&caller.tenant, ids).await;
        let counts = counts.map_err(|error| from_query_error(&error))?;
        let targets = products.into_iter().zip(counts).map(|(product, counts)| MatchTarget {
            product: Product::from(product),
            matched_count: counts.cutouts as u64,
            image_vector_count: counts.vectors as u64,
        });
        Ok(targets.collect())
    }

    /// A page of candidates with all that is known of them. The index in memory may be ahead of the rows: a cutout that they
    /// lack is in the next answer.
    async fn page(&self, caller: &Caller, list: &str, found: Candidates) -> Result<CandidatePage, Problem> {
        let ids: Vec<CutoutId> = found.items.iter().map(|candidate| candidate.cutout_id).collect();
        let stored = self.api.models.cutouts().some(&caller.tenant, &ids).await;
        let stored = stored.map_err(|error| from_query_error(&error))?;
        let rendered = self.api.render_cutouts(caller, stored).await?;
        let mut cutouts: BTreeMap<CutoutId, Cutout> =
            rendered.into_iter().map(|cutout| (cutout.id, cutout)).collect();
        let items = found.items.iter().filter_map(|candidate| {
            let mut cutout = cutouts.remove(&candidate.cutout_id)?;
            cutout.matched_product_id = candidate.product.as_ref().map(LooseId::from);
            let (similarity, upc_agrees, score) =
                (candidate.similarity, candidate.upc_agrees, candidate.score());
            Some(Candidate { cutout, similarity, upc_agrees, score })
        });
        Ok(CandidatePage {
            items: items.collect(),
            next_cursor: found.next.map(|next| Cursor::new(list, &next).to_string()),
            model_id: found.model_id,
            vector_count: found.vectors as u64,
            position: found.position,
        })
    }
}
