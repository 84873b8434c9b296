//! Takes over cutouts from the system that makes them, and records their vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::cutout::{Action, Command, Facts};
use domain::model::Dimensions;
use event_schemas::cutout::CutoutId;
use event_schemas::envelope::Cause;
use event_schemas::ids::{ModelId, Position};
use event_schemas::stream::StreamId;
use event_schemas::vector::Vector;
use futures_util::{FutureExt, StreamExt, stream};
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::json::{BatchItem, Json, LenientBatch, OneOrBatch};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::LooseTextId;

use super::embedding::checked;
use crate::catalogue::Catalogue;
use crate::catalogue::batches::{BatchOutcome, BatchPart, CheckedItems, hashed};
use crate::engine::problem;
use crate::engine::write_request::{Users, Workers, WriteRequest};

/// The most cutouts of a batch that are looked up at a time.
const CUTOUTS_AT_ONCE: usize = 256;

/// The number of a cutout: a greater one is not exact in every JSON parser.
fn identified(number: u64) -> Result<CutoutId, Problem> {
    CutoutId::new(number).ok_or_else(|| Problem::invalid("external_id", "must be below 2⁵³"))
}

/// A cutout, which is a part of an image that shows one product.
#[derive(Debug, Object)]
#[oai(example)]
struct NewCutout {
    /// Its number in the system that it comes from, which is its id here.
    #[oai(validator(minimum(value = "0"), maximum(value = "9007199254740991")))]
    external_id: u64,
    /// The address of the image, or a path of the server that shows it.
    #[oai(validator(min_length = 1, max_length = 2048))]
    image_url: String,
    /// The product code that a model read from the image: a hint, which can be wrong.
    #[oai(validator(min_length = 1, max_length = 64))]
    predicted_upc: Option<String>,
}

impl Example for NewCutout {
    fn example() -> Self {
        Self {
            external_id: 4711,
            image_url: "https://shop.example/cutouts/4711.jpg".to_owned(),
            predicted_upc: Some("4006381333931".to_owned()),
        }
    }
}

impl NewCutout {
    fn facts(self) -> Result<(CutoutId, Facts), Problem> {
        let id = identified(self.external_id)?;
        let facts = Facts { image_url: self.image_url, predicted_upc: self.predicted_upc };
        facts.check().map_err(|refusal| Problem::unprocessable("image_url", refusal.to_string()))?;
        Ok((id, facts))
    }
}

/// A vector of a cutout.
#[derive(Debug, Object)]
#[oai(example)]
struct NewCutoutEmbedding {
    /// The cutout. Required in a batch; in a path, it may be left out.
    #[oai(validator(minimum(value = "0"), maximum(value = "9007199254740991")))]
    cutout_id: Option<u64>,
    /// The model that computed the vector. Its first vector registers it, and sets the length of all others.
    model_id: LooseTextId<ModelId>,
    /// Any length above 0 is allowed: only the direction of a vector is compared. Stored with the precision of `f32`.
    #[oai(validator(min_items = 1, max_items = 4096))]
    vector: Vec<f64>,
}

impl Example for NewCutoutEmbedding {
    fn example() -> Self {
        Self {
            cutout_id: Some(4711),
            model_id: LooseTextId("clip-vit-b32".parse().expect("an example's ids are short texts")),
            vector: vec![0.25, -0.5, 0.125],
        }
    }
}

impl NewCutoutEmbedding {
    fn check(self, models: &mut Dimensions) -> Result<(ModelId, Vector), Problem> {
        let model_id = self.model_id.0;
        let vector = checked(&model_id, self.vector, models)?;
        Ok((model_id, vector))
    }
}

/// The vector of a cutout as it was recorded.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct EmbeddedCutout {
    id: CutoutId,
    external_id: CutoutId,
    model_id: ModelId,
    /// The length of the model's vectors.
    dimension: u32,
    /// Log position of the change. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// The write routes of cutouts.
#[derive(Clone, Debug)]
pub struct CutoutCommands(pub(super) Arc<Catalogue>);

#[OpenApi(tag = "Tag::Catalogue")]
impl CutoutCommands {
    /// Create or change cutouts
    ///
    /// One as a JSON object, or up to 10,000 in a JSON array, or one per line as NDJSON. Each is taken or rejected for itself,
    /// and the answer says what happened to it. An unchanged one records nothing; if a cutout occurs twice, the last one
    /// counts.
    #[oai(path = "/api/v1/cutouts", method = "post", operation_id = "push_cutouts")]
    async fn push(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: OneOrBatch<NewCutout>,
    ) -> Result<Json<Api<BatchOutcome>>, Problem> {
        let (commands, execution) = (self.clone(), request.execution.clone());
        let pushing = async move { commands.push_all(&request, body.0).await }.boxed();
        // It ends in any case, so that the key stays locked until all cutouts are in the log, even if the caller
        // disconnects.
        let outcome = execution.run(pushing).await;
        outcome.map(|outcome| Json(Api(outcome)))
    }

    /// Set a vector of a cutout
    ///
    /// It replaces the cutout's earlier vector of the model; the same vector again changes nothing. Requires the role `worker`
    /// or `service`.
    #[oai(path = "/api/v1/cutouts/:cutout_id/embeddings", method = "post", operation_id = "embed_cutout")]
    async fn embed(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        cutout_id: Path<String>,
        body: Json<NewCutoutEmbedding>,
    ) -> Result<Json<Api<EmbeddedCutout>>, Problem> {
        let id = web::path::cutout_id(&cutout_id)?;
        if body.0.cutout_id.is_some_and(|other| other != id.get()) {
            return Err(Problem::invalid("cutout_id", "differs from the id in the path; leave it out"));
        }
        let catalogue = &self.0;
        let route = format!("POST /api/v1/cutouts/{id}/embeddings");
        let cause = request.cause(&catalogue.engine, &route, &body.0).await?;
        let stream = StreamId::cutout(&cause.tenant, id);
        let repeated = catalogue.cutouts.repeated(&stream, &cause).await;
        let (model_id, dimension) = (body.0.model_id.0.clone(), body.0.vector.len() as u32);
        let position = match repeated.map_err(problem::from_execute_error)? {
            Some(repeated) => repeated.position,
            None => {
                let mut models = catalogue.dimensions(&cause).await?;
                let embedded = body.0.check(&mut models)?;
                if !catalogue.has_cutout(&stream).await? {
                    return Err(Problem::not_found("no such cutout"));
                }
                catalogue.register(&cause, [(&model_id, dimension)].into()).await?;
                let (at, action) = (catalogue.engine.now(), Action::Embed(vec![embedded]));
                let executed =
                    catalogue.cutouts.execute(&stream, &cause, Command { cutout_id: id, at, action }).await;
                executed.map_err(problem::from_execute_error)?.position
            }
        };
        Ok(Json(Api(EmbeddedCutout { id, external_id: id, model_id, dimension, position })))
    }

    /// Set vectors of cutouts
    ///
    /// Up to 1,000 in a JSON array, or one per line as NDJSON. Each is taken or rejected for itself, and the answer says
    /// what happened to it. If a cutout has two vectors of one model, the last one counts. Requires the role `worker` or
    /// `service`.
    #[oai(path = "/api/v1/cutouts/embeddings/batch", method = "post", operation_id = "embed_cutouts")]
    async fn embed_batch(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        body: LenientBatch<NewCutoutEmbedding, 1_000>,
    ) -> Result<Json<Api<BatchOutcome>>, Problem> {
        let (commands, execution) = (self.clone(), request.execution.clone());
        let embedding = async move { commands.embed_all(&request, body.0).await }.boxed();
        // As for a batch of cutouts.
        let outcome = execution.run(embedding).await;
        outcome.map(|outcome| Json(Api(outcome)))
    }
}

impl CutoutCommands {
    async fn push_all(
        &self,
        request: &WriteRequest<Users>,
        items: Vec<BatchItem<NewCutout>>,
    ) -> Result<BatchOutcome, Problem> {
        let engine = &self.0.engine;
        let values = if request.has_key() { hashed(&items) } else { Vec::new() };
        let cause = request.cause_of_batch(engine, "POST /api/v1/cutouts", &values).await?;
        drop(values);
        let (taken, items) = CheckedItems::check(items, NewCutout::facts)?;
        let at = engine.now();
        let mut cutouts: BTreeMap<CutoutId, (Vec<u32>, Facts)> = BTreeMap::new();
        for (place, (id, facts)) in taken {
            let (places, last) = cutouts.entry(id).or_insert((Vec::new(), facts.clone()));
            places.push(place);
            *last = facts;
        }
        let part = |(cutout_id, (items, facts))| {
            let stream = StreamId::cutout(&cause.tenant, cutout_id);
            let command = Command { cutout_id, at, action: Action::Sync(facts) };
            BatchPart { stream, cause: cause.clone(), command, items }
        };
        let parts = cutouts.into_iter().map(part).collect();
        let recorded = self.0.record_batch(&self.0.cutouts, &cause, &items, parts, &request.progress).await?;
        Ok(items.outcome(&recorded))
    }

    async fn embed_all(
        &self,
        request: &WriteRequest<Workers>,
        items: Vec<BatchItem<NewCutoutEmbedding>>,
    ) -> Result<BatchOutcome, Problem> {
        let catalogue = &self.0;
        let values = if request.has_key() { hashed(&items) } else { Vec::new() };
        let route = "POST /api/v1/cutouts/embeddings/batch";
        let cause = request.cause_of_batch(&catalogue.engine, route, &values).await?;
        drop(values);
        let named = items.iter().filter_map(|item| CutoutId::new(item.read.as_ref().ok()?.cutout_id?));
        let known = catalogue.known_cutouts(&cause, named.collect()).await?;
        let is_repeated = catalogue.engine.earlier_answer(&cause).await?.is_some();
        let mut models = catalogue.dimensions(&cause).await?;
        // What was accepted stays accepted, even if its model was deleted since.
        models.retain(|_, dimension| !is_repeated || dimension.is_some());
        let (taken, items) = CheckedItems::check(items, |item: NewCutoutEmbedding| {
            let number = item.cutout_id.ok_or_else(|| Problem::invalid("cutout_id", "is missing"))?;
            let id = CutoutId::new(number)
                .filter(|id| known.contains(id))
                .ok_or_else(|| Problem::unprocessable("cutout_id", "no such cutout; create it first"))?;
            Ok((id, item.check(&mut models)?))
        })?;
        if !is_repeated {
            let needed = taken.iter().map(|(_, (_, (model, vector)))| (model, vector.values().len() as u32));
            catalogue.register(&cause, needed.collect()).await?;
        }
        let mut cutouts: BTreeMap<CutoutId, (Vec<u32>, Vec<_>)> = BTreeMap::new();
        for (place, (id, embedded)) in taken {
            let (places, vectors) = cutouts.entry(id).or_default();
            places.push(place);
            vectors.push(embedded);
        }
        let at = catalogue.engine.now();
        let part = |(cutout_id, (items, vectors))| {
            let stream = StreamId::cutout(&cause.tenant, cutout_id);
            let command = Command { cutout_id, at, action: Action::Embed(vectors) };
            BatchPart { stream, cause: cause.clone(), command, items }
        };
        let parts = cutouts.into_iter().map(part).collect();
        let recorded =
            catalogue.record_batch(&catalogue.cutouts, &cause, &items, parts, &request.progress).await?;
        Ok(items.outcome(&recorded))
    }
}

impl Catalogue {
    pub(in crate::catalogue) async fn has_cutout(&self, stream: &StreamId) -> Result<bool, Problem> {
        let exists = self.cutouts.query(stream, |cutout| cutout.state.facts().is_some()).await;
        exists.map_err(problem::from_load_error)
    }

    /// Those of the cutouts that exist. A cutout that exists is never removed.
    async fn known_cutouts(
        &self,
        cause: &Cause,
        cutouts: BTreeSet<CutoutId>,
    ) -> Result<BTreeSet<CutoutId>, Problem> {
        let looking = cutouts.into_iter().map(|id| async move {
            Ok(self.has_cutout(&StreamId::cutout(&cause.tenant, id)).await?.then_some(id))
        });
        let found: Vec<Result<Option<CutoutId>, Problem>> =
            stream::iter(looking).buffer_unordered(CUTOUTS_AT_ONCE).collect().await;
        found.into_iter().filter_map(Result::transpose).collect()
    }
}
