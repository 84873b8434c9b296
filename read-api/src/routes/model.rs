//! Embedding models: the list, and one model.

use std::sync::Arc;

use domain::model::view::ModelView;
use event_schemas::ids::ModelId;
use event_schemas::model::ModelPurpose;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::search::models::CountedModel;
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;

use super::Tag;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;

/// An embedding model, with the number of its vectors.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EmbeddingModel {
    #[serde(flatten)]
    pub model: ModelView,
    /// The number of its vectors, of products and their images and of cutouts.
    pub vector_count: u64,
    pub product_vector_count: u64,
    pub cutout_vector_count: u64,
}

impl From<CountedModel> for EmbeddingModel {
    fn from(counted: CountedModel) -> Self {
        let CountedModel { view: model, products, cutouts } = counted;
        let (product_vector_count, cutout_vector_count) = (products as u64, cutouts as u64);
        let vector_count = product_vector_count + cutout_vector_count;
        Self { model, vector_count, product_vector_count, cutout_vector_count }
    }
}

/// The numbers of models and vectors.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EmbeddingStats {
    pub model_count: u64,
    pub active_text_model_id: Option<ModelId>,
    pub active_image_model_id: Option<ModelId>,
    /// The number of vectors of all models, of products and their images and of cutouts.
    pub vector_count: u64,
    pub product_vector_count: u64,
    pub cutout_vector_count: u64,
    pub cutout_count: u64,
    pub cutouts_with_embedding: u64,
    pub cutouts_without_embedding: u64,
}

/// Routes for embedding models.
#[derive(Clone, Debug)]
pub struct ModelRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl ModelRoutes {
    /// List embedding models by id
    ///
    /// Each tenant has `lexical`, the built-in encoder of texts, and the image model `dinov2-base` from the start.
    #[oai(path = "/api/v1/embeddings/models", method = "get", operation_id = "list_models")]
    async fn list(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<EmbeddingModel>>, Problem> {
        self.api.wait_for_models(&[Name::Search], min).await?;
        let list = "embedding models";
        let after: Option<String> = cursor.0.map(|cursor| cursor.key(list)).transpose()?;
        let models = self.api.models.search().models(&caller.tenant).await;
        let models = models.map_err(|error| from_query_error(&error))?.into_iter();
        let items =
            models.filter(|model| after.as_deref().is_none_or(|after| model.view.id.as_str() > after));
        let items = items.take(limit.0.get() + 1).map(EmbeddingModel::from).collect();
        let page = Page::of(items, limit.0, list, |model: &EmbeddingModel| model.model.id.to_string());
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }

    /// Get the numbers of models and vectors
    #[oai(path = "/api/v1/embeddings/stats", method = "get", operation_id = "read_embedding_stats")]
    async fn stats(
        &self,
        caller: Caller,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<EmbeddingStats>, Problem> {
        self.api.wait_for_models(&[Name::Search, Name::Cutouts], min).await?;
        let models = self.api.models.search().models(&caller.tenant).await;
        let models = models.map_err(|error| from_query_error(&error))?;
        let cutouts = self.api.models.cutouts().stats(&caller.tenant).await;
        let cutouts = cutouts.map_err(|error| from_query_error(&error))?;
        let active = |purpose| {
            let mut views = models.iter().map(|model| &model.view);
            let active = views.find(|view| view.is_matching_active && view.purpose == Some(purpose));
            active.map(|view| view.id.clone())
        };
        let product_vector_count = models.iter().map(|model| model.products as u64).sum::<u64>();
        let cutout_vector_count = models.iter().map(|model| model.cutouts as u64).sum::<u64>();
        let stats = EmbeddingStats {
            model_count: models.len() as u64,
            active_text_model_id: active(ModelPurpose::Text),
            active_image_model_id: active(ModelPurpose::Image),
            vector_count: product_vector_count + cutout_vector_count,
            product_vector_count,
            cutout_vector_count,
            cutout_count: cutouts.total,
            cutouts_with_embedding: cutouts.embedded,
            cutouts_without_embedding: cutouts.total - cutouts.embedded,
        };
        Ok(Cached::new(&stats, if_none_match.as_deref()))
    }

    /// Get an embedding model
    #[oai(path = "/api/v1/embeddings/models/:model_id", method = "get", operation_id = "read_model")]
    async fn read(
        &self,
        caller: Caller,
        model_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<EmbeddingModel>, Problem> {
        let id = path::model_id(&model_id)?;
        self.api.wait_for_models(&[Name::Search], min).await?;
        let read = || async {
            let found = self.api.models.search().model(&caller.tenant, &id).await;
            found.map_err(|error| from_query_error(&error))
        };
        // All models of a tenant are in one stream.
        let found = self.api.read_by_id(Name::Search, &caller.tenant, Origin::Other, read).await?;
        let model = found.ok_or_else(|| Problem::not_found("no such model"))?;
        Ok(Cached::new(&EmbeddingModel::from(model), if_none_match.as_deref()))
    }
}
