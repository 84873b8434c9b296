//! Registers, activates and deletes embedding models.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::model::{Action, Command};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, ModelId, Position};
use event_schemas::model::{ModelDetails, ModelPurpose, VectorDistance};
use event_schemas::stream::StreamId;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use web::json::{Created, Json};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::{LooseTextId, UuidParam};

use crate::catalogue::Catalogue;
use crate::catalogue::models::ModelFacts;
use crate::engine::problem;
use crate::engine::write_request::{Users, WriteRequest};

/// An embedding model.
#[derive(Debug, Object)]
#[oai(example)]
pub(in crate::catalogue) struct NewModel {
    /// Default: the name.
    id: Option<LooseTextId<ModelId>>,
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
    /// The family of the model, such as `dinov2`.
    #[oai(validator(min_length = 1, max_length = 100))]
    model_type: String,
    /// What it makes vectors of.
    purpose: Api<ModelPurpose>,
    /// The length of its vectors.
    #[oai(validator(minimum(value = "1"), maximum(value = "4096")))]
    embedding_dim: u32,
    /// How its vectors are compared. Default: `cosine`.
    distance: Option<Api<VectorDistance>>,
    #[oai(validator(max_length = 2048))]
    model_path: Option<String>,
    #[oai(validator(max_length = 2048))]
    checkpoint_url: Option<String>,
    /// The caller's own settings.
    config: Option<BTreeMap<String, Value>>,
    /// The job that trained it.
    training_job_id: Option<UuidParam<JobId>>,
}

impl Example for NewModel {
    fn example() -> Self {
        Self {
            id: Some(LooseTextId("dinov2-large".parse().expect("an example's ids are short texts"))),
            name: "DINOv2 large".to_owned(),
            model_type: "dinov2".to_owned(),
            purpose: Api(ModelPurpose::Image),
            embedding_dim: 1024,
            distance: None,
            model_path: None,
            checkpoint_url: None,
            config: Some(BTreeMap::from([("image_size".to_owned(), json!(224))])),
            training_job_id: None,
        }
    }
}

impl NewModel {
    pub(in crate::catalogue) fn facts(self) -> Result<ModelFacts, Problem> {
        if self.name.trim().is_empty() {
            return Err(Problem::invalid("name", "must not consist of spaces"));
        }
        let model_id = match self.id {
            Some(id) => id.0,
            None => self.name.parse::<ModelId>().map_err(|error| {
                Problem::invalid("name", format!("cannot be the id: {error}; send an `id`"))
            })?,
        };
        let details = ModelDetails {
            name: self.name,
            model_type: self.model_type,
            purpose: self.purpose.0,
            distance: self.distance.map_or(VectorDistance::Cosine, |distance| distance.0),
            model_path: self.model_path,
            checkpoint_url: self.checkpoint_url,
            config: problem::text_of(&self.config.unwrap_or_default())?,
            training_job_id: self.training_job_id.map(|job| job.0),
        };
        Ok(ModelFacts { model_id, dimension: self.embedding_dim, details })
    }
}

/// A registered model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct RegisteredModel {
    id: ModelId,
    model_id: ModelId,
    name: String,
    model_type: String,
    purpose: ModelPurpose,
    embedding_dim: u32,
    distance: VectorDistance,
    /// Log position of the change. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// An activated or deleted model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct ChangedModel {
    id: ModelId,
    model_id: ModelId,
    /// Whether it is the model that is used for its purpose.
    is_matching_active: bool,
    /// Whether it exists now.
    exists: bool,
    /// Log position of the change. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// The write routes of embedding models.
#[derive(Clone, Debug)]
pub struct ModelCommands(pub(super) Arc<Catalogue>);

#[OpenApi(tag = "Tag::Catalogue")]
impl ModelCommands {
    /// Register an embedding model
    ///
    /// Its facts do not change afterwards, and the same ones again change nothing. A model that its first vector registered
    /// gets them once.
    #[oai(path = "/api/v1/embeddings/models", method = "post", operation_id = "register_model")]
    async fn register(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: Json<NewModel>,
    ) -> Result<Created<Api<RegisteredModel>>, Problem> {
        let cause = request.cause(&self.0.engine, "POST /api/v1/embeddings/models", &body.0).await?;
        let facts = body.0.facts()?;
        let registered = self.0.register_model(&cause, &facts).await;
        let position = registered.map_err(problem::from_execute_error)?;
        let ModelFacts { model_id, dimension, details } = facts;
        let ModelDetails { name, model_type, purpose, distance, .. } = details;
        let location = format!("/api/v1/embeddings/models/{}", web::path::encoded(model_id.as_str()));
        let body = Api(RegisteredModel {
            id: model_id.clone(),
            model_id,
            name,
            model_type,
            purpose,
            embedding_dim: dimension,
            distance,
            position,
        });
        Ok(Created { location, body })
    }

    /// Activate an embedding model
    ///
    /// It is used for its purpose from now on, instead of the earlier one, whose vectors are kept.
    #[oai(
        path = "/api/v1/embeddings/models/:model_id/activate",
        method = "post",
        operation_id = "activate_model"
    )]
    async fn activate(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        model_id: Path<String>,
    ) -> Result<Json<Api<ChangedModel>>, Problem> {
        let model_id = web::path::model_id(&model_id)?;
        let route = format!("POST /api/v1/embeddings/models/{model_id}/activate");
        let cause = request.cause(&self.0.engine, &route, &Value::Null).await?;
        let position = self.execute(&cause, &model_id, Action::Activate).await?;
        let id = model_id.clone();
        Ok(Json(Api(ChangedModel { id, model_id, is_matching_active: true, exists: true, position })))
    }

    /// Delete an embedding model
    ///
    /// With all of its vectors. An active one cannot be deleted, and the id of a deleted one is not used again.
    #[oai(path = "/api/v1/embeddings/models/:model_id", method = "delete", operation_id = "delete_model")]
    async fn delete(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        model_id: Path<String>,
    ) -> Result<Json<Api<ChangedModel>>, Problem> {
        let model_id = web::path::model_id(&model_id)?;
        let route = format!("DELETE /api/v1/embeddings/models/{model_id}");
        let cause = request.cause(&self.0.engine, &route, &Value::Null).await?;
        let position = self.execute(&cause, &model_id, Action::Delete).await?;
        let id = model_id.clone();
        Ok(Json(Api(ChangedModel { id, model_id, is_matching_active: false, exists: false, position })))
    }
}

impl ModelCommands {
    async fn execute(&self, cause: &Cause, model_id: &ModelId, action: Action) -> Result<Position, Problem> {
        let command = Command { model_id: model_id.clone(), at: self.0.engine.now(), action };
        let executed = self.0.models.execute(&StreamId::models(&cause.tenant), cause, command).await;
        Ok(executed.map_err(problem::from_execute_error)?.position)
    }
}
