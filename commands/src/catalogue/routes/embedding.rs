//! Records the vectors of products, which callers compute with models of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::model::{self, Dimensions};
use domain::product::{Action, Command, Place};
use domain::search::encoder::{MODEL, normalised};
use event_schemas::envelope::Cause;
use event_schemas::ids::{ImageId, ModelId, Position, ProductId};
use event_schemas::loose_id::LooseId;
use event_schemas::stream::StreamId;
use event_schemas::vector::Vector;
use futures_util::{FutureExt, StreamExt, stream};
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::{Json, LenientBatch};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::LooseTextId;

use crate::catalogue::Catalogue;
use crate::catalogue::batches::{BatchOutcome, BatchPart, CheckedItems, hashed};
use crate::engine::problem;
use crate::engine::write_request::{Services, WriteRequest};

/// The most products of a batch that are looked up at a time.
const PRODUCTS_AT_ONCE: usize = 256;

/// The places in a batch of a product's vectors, and the vectors.
type Embedded = (Vec<u32>, Vec<(Place, Vector)>);

/// A vector of a product, or of one of its images.
#[derive(Debug, Object)]
#[oai(example)]
struct NewEmbedding {
    /// Required in a batch; in a path, it may be left out.
    product_id: Option<LooseTextId<ProductId>>,
    /// The model that computed the vector. Its first vector registers it, and sets the length of all others.
    model_id: LooseTextId<ModelId>,
    /// The image that the vector represents. Default: the vector is of the product as a whole.
    image_id: Option<LooseTextId<ImageId>>,
    /// Any length above 0 is allowed: only the direction of a vector is compared. Stored with the precision of `f32`.
    #[oai(validator(min_items = 1, max_items = 4096))]
    vector: Vec<f64>,
}

impl Example for NewEmbedding {
    fn example() -> Self {
        let text = "an example's ids are short texts";
        Self {
            product_id: Some(LooseTextId("456".parse().expect(text))),
            model_id: LooseTextId("clip-vit-b32".parse().expect(text)),
            image_id: None,
            vector: vec![0.25, -0.5, 0.125],
        }
    }
}

impl NewEmbedding {
    /// The vector and its place, if the model can have it. `models` are those known so far, to which its model is added.
    fn check(self, models: &mut Dimensions) -> Result<(Place, Vector), Problem> {
        let (model_id, image_id) = (self.model_id.0, self.image_id.map(|id| id.0));
        let vector = checked(&model_id, self.vector, models)?;
        Ok((Place { model_id, image_id }, vector))
    }
}

/// The vector, if the model can have it. `models` are those known so far, to which its model is added.
pub(super) fn checked(
    model_id: &ModelId,
    vector: Vec<f64>,
    models: &mut Dimensions,
) -> Result<Vector, Problem> {
    if model_id.as_str() == MODEL {
        let reason = "is the built-in model, whose vectors the server computes; name another one";
        return Err(Problem::unprocessable("model_id", reason));
    }
    let dimension = vector.len() as u32;
    model::check(models, model_id, dimension).map_err(|refusal| {
        let field = if matches!(refusal, model::Refusal::Dimension { .. }) { "vector" } else { "model_id" };
        Problem::unprocessable(field, refusal.to_string())
    })?;
    let values: Vec<f32> = vector.into_iter().map(|value| value as f32).collect();
    if normalised(values.clone()).is_none() {
        let reason = "has no direction: all of its numbers are 0, or one of them is too large";
        return Err(Problem::unprocessable("vector", reason));
    }
    models.insert(model_id.clone(), Some(dimension));
    Ok(Vector::new(values))
}

/// The vector of a product as it was recorded.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct EmbeddedProduct {
    product_id: LooseId,
    model_id: ModelId,
    image_id: Option<ImageId>,
    /// The length of the model's vectors.
    dimension: u32,
    /// Log position of the change. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// The write routes of embeddings.
#[derive(Clone, Debug)]
pub struct EmbeddingCommands(pub(super) Arc<Catalogue>);

#[OpenApi(tag = "Tag::Catalogue")]
impl EmbeddingCommands {
    /// Set a vector of a product
    ///
    /// It replaces the product's earlier vector of the model, or that of the same image; the same vector again changes
    /// nothing. Searches with the `model_id` compare it. Requires the role `service` or `admin`.
    #[oai(path = "/api/v1/products/:product_id/embeddings", method = "post", operation_id = "embed_product")]
    async fn embed(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Services>,
        product_id: Path<String>,
        body: Json<NewEmbedding>,
    ) -> Result<Json<Api<EmbeddedProduct>>, Problem> {
        let product_id = web::path::product_id(&product_id)?;
        if body.0.product_id.as_ref().is_some_and(|id| id.0 != product_id) {
            return Err(Problem::invalid("product_id", "differs from the id in the path; leave it out"));
        }
        let catalogue = &self.0;
        let route = format!("POST /api/v1/products/{product_id}/embeddings");
        let cause = request.cause(&catalogue.engine, &route, &body.0).await?;
        let stream = StreamId::product(&cause.tenant, &product_id);
        let repeated = catalogue.products.repeated(&stream, &cause).await;
        let repeated = repeated.map_err(problem::from_execute_error)?;
        let (model_id, image_id) =
            (body.0.model_id.0.clone(), body.0.image_id.as_ref().map(|id| id.0.clone()));
        let dimension = body.0.vector.len() as u32;
        let position = match repeated {
            Some(repeated) => repeated.position,
            None => {
                let mut models = catalogue.dimensions(&cause).await?;
                let embedded = body.0.check(&mut models)?;
                if !catalogue.has_product(&stream).await? {
                    return Err(Problem::not_found("no such product"));
                }
                catalogue.register(&cause, [(&model_id, dimension)].into()).await?;
                let (at, action) = (catalogue.engine.now(), Action::Embed(vec![embedded]));
                let command = Command { product_id: product_id.clone(), at, action };
                let executed = catalogue.products.execute(&stream, &cause, command).await;
                executed.map_err(problem::from_execute_error)?.position
            }
        };
        let product_id = LooseId::from(&product_id);
        Ok(Json(Api(EmbeddedProduct { product_id, model_id, image_id, dimension, position })))
    }

    /// Set vectors of products
    ///
    /// Up to 1,000 in a JSON array, or one per line as NDJSON. Each is taken or rejected for itself, and the answer says
    /// what happened to it. If a product has two vectors of one model, the last one counts. Requires the role `service` or
    /// `admin`.
    #[oai(path = "/api/v1/products/embeddings/batch", method = "post", operation_id = "embed_products")]
    async fn embed_batch(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Services>,
        body: LenientBatch<NewEmbedding, 1_000>,
    ) -> Result<Json<Api<BatchOutcome>>, Problem> {
        let (commands, execution) = (self.clone(), request.execution.clone());
        let embedding = async move { commands.embed_all(&request, body).await }.boxed();
        // It ends in any case, so that the key stays locked until all vectors are in the log, even if the caller
        // disconnects.
        let outcome = execution.run(embedding).await;
        outcome.map(|outcome| Json(Api(outcome)))
    }
}

impl EmbeddingCommands {
    async fn embed_all(
        &self,
        request: &WriteRequest<Services>,
        LenientBatch(items): LenientBatch<NewEmbedding, 1_000>,
    ) -> Result<BatchOutcome, Problem> {
        let catalogue = &self.0;
        let values = if request.has_key() { hashed(&items) } else { Vec::new() };
        let route = "POST /api/v1/products/embeddings/batch";
        let cause = request.cause_of_batch(&catalogue.engine, route, &values).await?;
        drop(values);
        let named = items.iter().filter_map(|item| item.read.as_ref().ok()?.product_id.as_ref());
        let named: BTreeSet<ProductId> = named.map(|id| id.0.clone()).collect();
        let known = catalogue.known_products(&cause, named).await?;
        let is_repeated = catalogue.engine.earlier_answer(&cause).await?.is_some();
        let mut models = catalogue.dimensions(&cause).await?;
        // What was accepted stays accepted, even if its model was deleted since.
        models.retain(|_, dimension| !is_repeated || dimension.is_some());
        let (taken, items) = CheckedItems::check(items, |mut item: NewEmbedding| {
            let id = item.product_id.take().ok_or_else(|| Problem::invalid("product_id", "is missing"))?;
            if !known.contains(&id.0) {
                return Err(Problem::unprocessable("product_id", "no such product; create it first"));
            }
            Ok((id.0, item.check(&mut models)?))
        })?;
        if !is_repeated {
            let needed =
                taken.iter().map(|(_, (_, (place, vector)))| (&place.model_id, vector.values().len() as u32));
            catalogue.register(&cause, needed.collect()).await?;
        }
        let mut products: BTreeMap<ProductId, Embedded> = BTreeMap::new();
        for (place, (id, embedded)) in taken {
            let (places, vectors) = products.entry(id).or_default();
            places.push(place);
            vectors.push(embedded);
        }
        let at = catalogue.engine.now();
        let part = |(product_id, (items, vectors))| {
            let stream = StreamId::product(&cause.tenant, &product_id);
            let command = Command { product_id, at, action: Action::Embed(vectors) };
            BatchPart { stream, cause: cause.clone(), command, items }
        };
        let parts = products.into_iter().map(part).collect();
        let recorded =
            catalogue.record_batch(&catalogue.products, &cause, &items, parts, &request.progress).await?;
        Ok(items.outcome(&recorded))
    }
}

impl Catalogue {
    /// The tenant's models, and the lengths of their vectors, which never change.
    pub(super) async fn dimensions(&self, cause: &Cause) -> Result<Dimensions, Problem> {
        let stream = StreamId::models(&cause.tenant);
        let models = self.models.query(&stream, |models| models.state.dimensions()).await;
        models.map_err(problem::from_load_error)
    }

    /// Registers the models that are new, before their first vectors.
    pub(super) async fn register(
        &self,
        cause: &Cause,
        models: BTreeMap<&ModelId, u32>,
    ) -> Result<(), Problem> {
        let at = self.engine.now();
        let command = |(model_id, dimension): (&ModelId, u32)| model::Command {
            model_id: model_id.clone(),
            at,
            action: model::Action::Use { dimension },
        };
        let commands: Vec<model::Command> = models.into_iter().map(command).collect();
        // The key belongs to the vectors: to register a model again changes nothing.
        let cause = Cause { idempotency: None, ..cause.clone() };
        let executed = self.models.execute_all(&StreamId::models(&cause.tenant), &cause, &commands).await;
        executed.map(|_| ()).map_err(problem::from_execute_error)
    }

    pub(super) async fn has_product(&self, stream: &StreamId) -> Result<bool, Problem> {
        let exists = self.products.query(stream, |product| product.state.details().is_some()).await;
        exists.map_err(problem::from_load_error)
    }

    /// Those of the products that exist. A product that exists is never removed.
    async fn known_products(
        &self,
        cause: &Cause,
        products: BTreeSet<ProductId>,
    ) -> Result<BTreeSet<ProductId>, Problem> {
        let looking = products.into_iter().map(|id| async move {
            let stream = StreamId::product(&cause.tenant, &id);
            Ok(self.has_product(&stream).await?.then_some(id))
        });
        let found: Vec<Result<Option<ProductId>, Problem>> =
            stream::iter(looking).buffer_unordered(PRODUCTS_AT_ONCE).collect().await;
        found.into_iter().filter_map(Result::transpose).collect()
    }
}
