//! Embedding models, as a route or another process registers them.

use domain::decider::Decider;
use domain::model::{Action, Command, ModelDecider, Refusal};
use event_schemas::envelope::Cause;
use event_schemas::ids::{ModelId, Position, Tenant};
use event_schemas::model::ModelDetails;
use event_schemas::stream::StreamId;
use serde_json::Value;
use web::problem::Problem;

use super::Catalogue;
use super::routes::NewModel;
use crate::engine::execute::ExecuteError;
use crate::engine::problem::from_load_error;

/// A model to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelFacts {
    pub(crate) model_id: ModelId,
    pub(crate) dimension: u32,
    pub(crate) details: ModelDetails,
}

impl ModelFacts {
    /// Reads what `POST /api/v1/embeddings/models` takes.
    ///
    /// # Errors
    /// As that route: with the wrong members.
    pub(crate) fn parse(model: &Value) -> Result<Self, Problem> {
        web::json::parse::<NewModel>(model.to_string().as_bytes())?.facts()
    }

    fn action(&self) -> Action {
        Action::Register { dimension: self.dimension, details: Box::new(self.details.clone()) }
    }
}

impl Catalogue {
    /// Registers a model.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::engine::execute::Streams::execute).
    pub(crate) async fn register_model(
        &self,
        cause: &Cause,
        facts: &ModelFacts,
    ) -> Result<Position, ExecuteError<Refusal>> {
        let (model_id, at) = (facts.model_id.clone(), self.engine.now());
        let command = Command { model_id, at, action: facts.action() };
        Ok(self.models.execute(&StreamId::models(&cause.tenant), cause, command).await?.position)
    }

    /// Checks that a model could be registered now.
    ///
    /// # Errors
    /// 422 with the member that prevents it.
    pub(crate) async fn check_registration(
        &self,
        tenant: &Tenant,
        facts: &ModelFacts,
    ) -> Result<(), Problem> {
        let (model_id, at) = (facts.model_id.clone(), self.engine.now());
        let command = Command { model_id, at, action: facts.action() };
        let stream = StreamId::models(tenant);
        let decided = self.models.query(&stream, |folded| {
            let known = folded.state.dimensions().get(&facts.model_id).copied().flatten();
            ModelDecider::decide(&command, &folded.state).map_err(|refusal| (refusal, known))
        });
        match decided.await.map_err(from_load_error)? {
            Ok(_) => Ok(()),
            Err((_, Some(known))) if known != facts.dimension => {
                let reason = format!("the model `{}` has vectors of {known} numbers", facts.model_id);
                Err(Problem::unprocessable("embedding_dim", reason))
            }
            Err((refusal, _)) => Err(Problem::unprocessable("id", refusal.to_string())),
        }
    }
}
