//! The embedding models of a tenant.

use domain::model::view::ModelView;
use domain::recommend::sources::ListSources;
use domain::search::encoder::MODEL;
use domain::search::model_vectors::ModelVectors;
use event_schemas::ids::{ModelId, Tenant};

use super::ProductSearch;
use crate::generation::QueryError;

/// A model, and the number of its vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct CountedModel {
    pub view: ModelView,
    /// Vectors of products and their images.
    pub products: usize,
    pub cutouts: usize,
}

fn counted(fold: &ListSources, id: &ModelId) -> Option<CountedModel> {
    let view = ModelView::new(fold.models(), id)?;
    let products = match fold.products.model_vectors(id) {
        Some(vectors) => vectors.len(),
        None if id.as_str() == MODEL => fold.products.vector_count(),
        None => 0,
    };
    let cutouts = fold.cutouts.model_vectors(id).map_or(0, ModelVectors::len);
    Some(CountedModel { view, products, cutouts })
}

impl ProductSearch {
    /// The models of a tenant, by their ids.
    ///
    /// # Errors
    /// [`QueryError::Building`] until the index is complete for the first time.
    pub async fn models(&self, tenant: &Tenant) -> Result<Vec<CountedModel>, QueryError> {
        let all =
            |fold: &ListSources, _| fold.models().models().filter_map(|(id, _)| counted(fold, id)).collect();
        self.read(tenant, all).await
    }

    /// A model of a tenant.
    ///
    /// # Errors
    /// As [`Self::models`].
    pub async fn model(&self, tenant: &Tenant, id: &ModelId) -> Result<Option<CountedModel>, QueryError> {
        let id = id.clone();
        self.read(tenant, move |fold, _| counted(fold, &id)).await
    }
}
