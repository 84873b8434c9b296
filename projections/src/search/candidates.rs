//! The candidates of products: cutouts that may show them.

use std::sync::Arc;

use domain::cutout::index::{Candidate, CandidateSearch, Rank};
use domain::recommend::sources::ListSources;
use event_schemas::ids::{ModelId, Position, ProductId, Tenant};
use event_schemas::model::ModelPurpose;

use super::graphs::VectorsOf;
use super::{Generation, ProductSearch};
use crate::generation::QueryError;

/// The candidates that are asked for.
#[derive(Clone, Debug)]
pub struct CandidateQuery {
    pub product_id: ProductId,
    /// Default: the active model of images.
    pub model_id: Option<ModelId>,
    /// Only cutouts that show a product, or only those that show none.
    pub is_matched: Option<bool>,
    pub after: Option<Rank>,
    pub limit: usize,
}

/// A page of candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    pub model_id: ModelId,
    /// The number of vectors of the product, its images and its cutouts, to which cutouts were compared.
    pub vectors: usize,
    pub items: Vec<Candidate>,
    /// The last candidate of the page, after which the next one starts; none on the last page.
    pub next: Option<Rank>,
    /// The position that the page reflects.
    pub position: Position,
}

/// Why there are no candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCandidates {
    UnknownProduct,
    UnknownModel(ModelId),
    /// No model of images is active.
    NoModel,
}

/// What is known of a product as the target of matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchTarget {
    /// The number of its cutouts.
    pub cutouts: usize,
    /// The number of its vectors of the active model of images.
    pub vectors: usize,
}

fn find(
    live: &Generation,
    tenant: &Tenant,
    fold: &ListSources,
    query: &CandidateQuery,
    position: Position,
) -> Result<Candidates, NoCandidates> {
    let number = fold.products.number(&query.product_id).ok_or(NoCandidates::UnknownProduct)?;
    let active = || fold.models().active(ModelPurpose::Image);
    let model_id = query.model_id.as_ref().or_else(active).ok_or(NoCandidates::NoModel)?.clone();
    if fold.models().model(&model_id).is_none() && fold.products.model_vectors(&model_id).is_none() {
        return Err(NoCandidates::UnknownModel(model_id));
    }
    let own = fold.products.model_vectors(&model_id);
    let own = own.into_iter().flat_map(|vectors| vectors.vectors_of(number));
    let vectors: Vec<&[f32]> = own.chain(fold.cutouts.vectors_of(&model_id, &query.product_id)).collect();
    let search = CandidateSearch {
        model_id: &model_id,
        product_id: &query.product_id,
        vectors: &vectors,
        upc: fold.products.details(number).upc.as_deref(),
        is_matched: query.is_matched,
        after: query.after,
        limit: query.limit + 1,
    };
    let graph = live.graphs.get(&(tenant.clone(), model_id.clone(), VectorsOf::Cutouts));
    let mut items = fold.cutouts.candidates(&search, graph.as_deref());
    let has_more = items.len() > query.limit;
    items.truncate(query.limit);
    let next = items.last().filter(|_| has_more).map(Candidate::rank);
    let vectors = vectors.len();
    Ok(Candidates { model_id, vectors, items, next, position })
}

impl ProductSearch {
    /// The cutouts that are nearest to any vector of a product.
    ///
    /// # Errors
    /// [`QueryError::Building`] until the index is complete for the first time.
    pub async fn candidates(
        &self,
        tenant: &Tenant,
        query: CandidateQuery,
    ) -> Result<Result<Candidates, NoCandidates>, QueryError> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let tenant = tenant.clone();
        let found = move |live: &Generation| {
            let found = live.read(&tenant, |fold, position| find(live, &tenant, fold, &query, position));
            drop(permit);
            found
        };
        self.on_live(found).await
    }

    /// What is known of products as targets of matches, in their order.
    ///
    /// # Errors
    /// As [`Self::candidates`].
    pub async fn match_targets(
        &self,
        tenant: &Tenant,
        products: Vec<ProductId>,
    ) -> Result<Vec<MatchTarget>, QueryError> {
        let target = |fold: &ListSources, product: &ProductId| {
            let model = fold.models().active(ModelPurpose::Image);
            let vectors = model.and_then(|model| fold.products.model_vectors(model));
            let own = vectors.zip(fold.products.number(product));
            let vectors = own.map_or(0, |(vectors, number)| vectors.vectors_of(number).count());
            MatchTarget { cutouts: fold.cutouts.shown_by(product), vectors }
        };
        let all = move |fold: &ListSources, _| products.iter().map(|product| target(fold, product)).collect();
        self.read(tenant, all).await
    }
}
