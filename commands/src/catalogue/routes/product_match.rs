//! Records which cutouts show a product, and undoes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::cutout::{Action, Command, Refusal};
use event_schemas::cutout::CutoutId;
use event_schemas::envelope::Cause;
use event_schemas::ids::{Position, ProductId};
use event_schemas::loose_id::LooseId;
use event_schemas::stream::StreamId;
use futures_util::FutureExt;
use poem_openapi::param::{Path, Query};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use web::json::{BatchItem, Json};
use web::problem::{Code, Problem};
use web::schema::Api;
use web::tag::Tag;

use crate::catalogue::Catalogue;
use crate::catalogue::batches::{BatchOutcome, BatchPart, CheckedItems};
use crate::engine::problem;
use crate::engine::write_request::{Users, WriteRequest};

/// A cutout that shows the product.
#[derive(Debug, Object)]
struct MatchedCutout {
    #[oai(validator(minimum(value = "0"), maximum(value = "9007199254740991")))]
    cutout_id: u64,
    /// The similarity that the originator saw; it is only recorded.
    #[oai(validator(minimum(value = "-1"), maximum(value = "1")))]
    similarity: Option<f64>,
}

/// The cutouts that show a product.
#[derive(Debug, Object)]
#[oai(example)]
struct NewMatches {
    #[oai(validator(min_items = 1, max_items = 500))]
    cutouts: Vec<MatchedCutout>,
    /// Whether cutouts may be taken from other products. Default: false.
    reassign: Option<bool>,
}

impl Example for NewMatches {
    fn example() -> Self {
        let cutouts = vec![MatchedCutout { cutout_id: 4711, similarity: Some(0.93) }];
        Self { cutouts, reassign: None }
    }
}

/// A cutout that does not show the product any more.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct UndoneMatch {
    product_id: LooseId,
    cutout_id: CutoutId,
    /// Log position of the change. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// The write routes of matches of cutouts and products.
#[derive(Clone, Debug)]
pub struct ProductMatchCommands(pub(super) Arc<Catalogue>);

#[OpenApi(tag = "Tag::Catalogue")]
impl ProductMatchCommands {
    /// Save matches of a product
    ///
    /// The cutouts show the product, and are among its images from now on. A cutout shows one product: if one of them shows
    /// another, nothing is recorded, unless `reassign` is true.
    #[oai(
        path = "/api/v1/matching/products/:product_id/matches",
        method = "post",
        operation_id = "save_matches"
    )]
    async fn save(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        product_id: Path<String>,
        body: Json<NewMatches>,
    ) -> Result<Json<Api<BatchOutcome>>, Problem> {
        let product_id = web::path::product_id(&product_id)?;
        let route = format!("POST /api/v1/matching/products/{product_id}/matches");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let commands = self.clone();
        let saving = async move { commands.save_all(&request, &cause, product_id, body.0).await }.boxed();
        // On a task of its own, so that the key stays locked until all matches are in the log, even if the caller
        // disconnects.
        let outcome = tokio::spawn(saving).await.map_err(|error| Problem::internal(&error))?;
        outcome.map(|outcome| Json(Api(outcome)))
    }

    /// Undo a match of a product
    ///
    /// The cutout is not among the product's images any more, and can be matched again.
    #[oai(
        path = "/api/v1/matching/products/:product_id/matches",
        method = "delete",
        operation_id = "undo_match"
    )]
    async fn undo(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        product_id: Path<String>,
        /// The cutout that does not show the product
        #[oai(validator(minimum(value = "0"), maximum(value = "9007199254740991")))]
        cutout_id: Query<u64>,
    ) -> Result<Json<Api<UndoneMatch>>, Problem> {
        let product_id = web::path::product_id(&product_id)?;
        let cutout_id = CutoutId::new(cutout_id.0).ok_or_else(|| Problem::not_found("no such cutout"))?;
        let route = format!("DELETE /api/v1/matching/products/{product_id}/matches?cutout_id={cutout_id}");
        let cause = request.cause(&self.0.engine, &route, &Value::Null).await?;
        let (stream, answered) = (StreamId::cutout(&cause.tenant, cutout_id), LooseId::from(&product_id));
        let command = Command { cutout_id, at: self.0.engine.now(), action: Action::Unmatch { product_id } };
        let executed = self.0.cutouts.execute(&stream, &cause, command).await;
        let position = executed.map_err(problem::from_execute_error)?.position;
        Ok(Json(Api(UndoneMatch { product_id: answered, cutout_id, position })))
    }
}

impl ProductMatchCommands {
    async fn save_all(
        &self,
        request: &WriteRequest<Users>,
        cause: &Cause,
        product_id: ProductId,
        body: NewMatches,
    ) -> Result<BatchOutcome, Problem> {
        let catalogue = &self.0;
        let reassign = body.reassign.unwrap_or(false);
        if !catalogue.has_product(&StreamId::product(&cause.tenant, &product_id)).await? {
            return Err(Problem::not_found("no such product"));
        }
        if catalogue.engine.earlier_answer(cause).await?.is_none() {
            self.check(cause, &product_id, &body.cutouts, reassign).await?;
        }
        let items = body.cutouts.into_iter().map(|cutout| BatchItem { line: None, read: Ok(cutout) });
        let (taken, items) = CheckedItems::check(items.collect(), |cutout: MatchedCutout| {
            let id = CutoutId::new(cutout.cutout_id);
            let id = id.ok_or_else(|| Problem::invalid("cutout_id", "must be below 2⁵³"))?;
            Ok((id, cutout.similarity))
        })?;
        let mut cutouts: BTreeMap<CutoutId, (Vec<u32>, Option<f64>)> = BTreeMap::new();
        for (place, (id, similarity)) in taken {
            let (places, last) = cutouts.entry(id).or_default();
            places.push(place);
            *last = similarity;
        }
        let at = catalogue.engine.now();
        let part = |(cutout_id, (items, similarity))| {
            let stream = StreamId::cutout(&cause.tenant, cutout_id);
            let action = Action::Match { product_id: product_id.clone(), similarity, reassign };
            let command = Command { cutout_id, at, action };
            BatchPart { stream, cause: cause.clone(), command, items }
        };
        let parts = cutouts.into_iter().map(part).collect();
        let recorded =
            catalogue.record_batch(&catalogue.cutouts, cause, &items, parts, &request.progress).await?;
        Ok(items.outcome(&recorded))
    }

    /// Checks that every cutout exists and may show the product, so that usually all of them or none are recorded.
    async fn check(
        &self,
        cause: &Cause,
        product_id: &ProductId,
        cutouts: &[MatchedCutout],
        reassign: bool,
    ) -> Result<(), Problem> {
        let mut conflict: Option<Problem> = None;
        for (index, cutout) in cutouts.iter().enumerate() {
            let field = format!("cutouts[{index}].cutout_id");
            let unknown = || Problem::unprocessable(field.clone(), "no such cutout; create it first");
            let id = CutoutId::new(cutout.cutout_id).ok_or_else(unknown)?;
            let shown = |state: &domain::cutout::State| (state.facts().is_some(), state.product().cloned());
            let stream = StreamId::cutout(&cause.tenant, id);
            let found = self.0.cutouts.query(&stream, |cutout| shown(&cutout.state)).await;
            let (exists, product) = found.map_err(problem::from_load_error)?;
            if !exists {
                return Err(unknown());
            }
            if let Some(other) = product.filter(|other| !reassign && other != product_id) {
                let reason = Refusal::OfAnother { cutout_id: id, product_id: other }.to_string();
                let problem = conflict.take().unwrap_or_else(|| Problem::new(Code::Conflict, reason.clone()));
                conflict = Some(problem.error(web::problem::FieldError::new(field, reason)));
            }
        }
        conflict.map_or(Ok(()), Err)
    }
}
