//! The embedding models of a tenant.
//!
//! Invariants: the length of a model's vectors and its facts never change once they are known; one model is active for each
//! purpose; the id of a deleted model is not used again, so that its vectors are not taken for those of another; the number of
//! models is bounded.

pub mod view;

use std::collections::BTreeMap;

use event_schemas::ids::ModelId;
use event_schemas::json_text::JsonText;
use event_schemas::model::{
    EmbeddingModelActivated, EmbeddingModelDeleted, EmbeddingModelRegistered, ModelDetails, ModelEvent,
    ModelPurpose, VectorDistance,
};
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::search::encoder::{self, MODEL};

/// The most models of a tenant, with the deleted ones.
pub const MODELS_MAX: usize = 1_000;

/// The longest vector of a model.
pub const DIMENSION_MAX: u32 = 4_096;

/// The image model that each tenant has from the start, and the length of its vectors.
const IMAGE_MODEL: (&str, u32) = ("dinov2-base", 768);

/// A command to the models of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub model_id: ModelId,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Register the model of a vector. One that is known is not changed.
    Use {
        dimension: u32,
    },
    /// Register a model with its facts, or add them to one that its first vector registered.
    Register {
        dimension: u32,
        details: Box<ModelDetails>,
    },
    /// Use the model for its purpose.
    Activate,
    Delete,
}

/// A model that is not deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub dimension: u32,
    /// None if its first vector registered it.
    pub details: Option<Box<ModelDetails>>,
    /// None if it was there from the start.
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
}

/// The lengths of the vectors of all models; none for a deleted one.
pub type Dimensions = BTreeMap<ModelId, Option<u32>>;

/// The models of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// None for deleted ones.
    models: BTreeMap<ModelId, Option<Model>>,
    active: BTreeMap<ModelPurpose, ModelId>,
}

/// The built-in encoder and an image model are there from the start, and active.
impl Default for State {
    fn default() -> Self {
        let mut state = Self { models: BTreeMap::new(), active: BTreeMap::new() };
        let lexical = (MODEL, encoder::DIMENSION as u32);
        for ((id, dimension), name, model_type, purpose) in [
            (lexical, "Words and their parts", "lexical", ModelPurpose::Text),
            (IMAGE_MODEL, "DINOv2 base", "dinov2", ModelPurpose::Image),
        ] {
            let id: ModelId = id.parse().expect("the ids of the first models are short texts");
            let details = ModelDetails {
                name: name.to_owned(),
                model_type: model_type.to_owned(),
                purpose,
                distance: VectorDistance::Cosine,
                model_path: None,
                checkpoint_url: None,
                config: JsonText::default(),
                training_job_id: None,
            };
            let details = Some(Box::new(details));
            let model = Model { dimension, details, created_at: None, updated_at: None };
            state.models.insert(id.clone(), Some(model));
            state.active.insert(purpose, id);
        }
        state
    }
}

impl State {
    /// The lengths of the vectors of all models.
    pub fn dimensions(&self) -> Dimensions {
        let dimension = |model: &Option<Model>| model.as_ref().map(|model| model.dimension);
        self.models.iter().map(|(id, model)| (id.clone(), dimension(model))).collect()
    }

    /// The models that are not deleted, by their ids.
    pub fn models(&self) -> impl Iterator<Item = (&ModelId, &Model)> {
        self.models.iter().filter_map(|(id, model)| Some((id, model.as_ref()?)))
    }

    pub fn model(&self, id: &ModelId) -> Option<&Model> {
        self.models.get(id)?.as_ref()
    }

    pub fn is_deleted(&self, id: &ModelId) -> bool {
        self.models.get(id).is_some_and(Option::is_none)
    }

    /// The model that is used for a purpose.
    pub fn active(&self, purpose: ModelPurpose) -> Option<&ModelId> {
        self.active.get(&purpose)
    }

    /// The purpose that the model is used for.
    pub fn used_for(&self, id: &ModelId) -> Option<ModelPurpose> {
        self.active.iter().find(|(_, active)| *active == id).map(|(purpose, _)| *purpose)
    }
}

/// The reason why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such model")]
    Unknown,
    #[error("has {given} numbers; a vector of the model `{model_id}` has {expected}")]
    Dimension { model_id: ModelId, given: u32, expected: u32 },
    #[error("there were {MODELS_MAX} models already; use one of them")]
    TooMany,
    #[error("the model `{0}` was deleted; choose another id")]
    Deleted(ModelId),
    #[error("the model `{0}` is registered with other facts, which do not change; choose another id")]
    OtherFacts(ModelId),
    #[error("the model `{0}` has no purpose, because its first vector registered it; register it with one")]
    NoPurpose(ModelId),
    #[error("the model `{0}` is active; activate another model of its purpose first")]
    Active(ModelId),
    #[error("the model `{0}` is the built-in encoder, which the server always uses")]
    BuiltIn(ModelId),
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Unknown => RefusalKind::NotFound,
            Self::Dimension { .. } => RefusalKind::Invalid,
            _ => RefusalKind::Conflict,
        }
    }
}

/// Checks the length of a vector of the model, and that a further model can be registered.
///
/// # Errors
/// The rule that it breaks.
pub fn check(models: &Dimensions, model_id: &ModelId, dimension: u32) -> Result<(), Refusal> {
    match models.get(model_id) {
        Some(None) => Err(Refusal::Deleted(model_id.clone())),
        Some(Some(known)) if *known == dimension => Ok(()),
        Some(Some(known)) => {
            Err(Refusal::Dimension { model_id: model_id.clone(), given: dimension, expected: *known })
        }
        None if models.len() >= MODELS_MAX => Err(Refusal::TooMany),
        None => Ok(()),
    }
}

/// Decides for the streams `model-<tenant>`.
#[derive(Debug)]
pub enum ModelDecider {}

/// The registration of a model, if something of it is new.
fn register(
    model_id: &ModelId,
    dimension: u32,
    details: Option<&ModelDetails>,
    state: &State,
) -> Result<Option<ModelEvent>, Refusal> {
    match state.models.get(model_id) {
        Some(None) => return Err(Refusal::Deleted(model_id.clone())),
        Some(Some(known)) if known.dimension != dimension => {
            let (model_id, expected) = (model_id.clone(), known.dimension);
            return Err(if details.is_some() {
                Refusal::OtherFacts(model_id)
            } else {
                Refusal::Dimension { model_id, given: dimension, expected }
            });
        }
        Some(Some(known)) => match (&known.details, details) {
            (_, None) => return Ok(None),
            (Some(known), Some(details)) if **known == *details => return Ok(None),
            (Some(_), Some(_)) => return Err(Refusal::OtherFacts(model_id.clone())),
            (None, Some(_)) => {}
        },
        None if state.models.len() >= MODELS_MAX => return Err(Refusal::TooMany),
        None => {}
    }
    let details = details.cloned().map(Box::new);
    Ok(Some(EmbeddingModelRegistered { model_id: model_id.clone(), dimension, details }.into()))
}

fn activate(model_id: &ModelId, state: &State) -> Result<Option<ModelEvent>, Refusal> {
    let model = state.model(model_id).ok_or(Refusal::Unknown)?;
    let details = model.details.as_ref().ok_or_else(|| Refusal::NoPurpose(model_id.clone()))?;
    let purpose = details.purpose;
    if state.active(purpose) == Some(model_id) {
        return Ok(None);
    }
    Ok(Some(EmbeddingModelActivated { model_id: model_id.clone(), purpose }.into()))
}

fn delete(model_id: &ModelId, state: &State) -> Result<Option<ModelEvent>, Refusal> {
    state.model(model_id).ok_or(Refusal::Unknown)?;
    if model_id.as_str() == MODEL {
        return Err(Refusal::BuiltIn(model_id.clone()));
    }
    if state.used_for(model_id).is_some() {
        return Err(Refusal::Active(model_id.clone()));
    }
    Ok(Some(EmbeddingModelDeleted { model_id: model_id.clone() }.into()))
}

impl Decider for ModelDecider {
    type State = State;
    type Command = Command;
    type Event = ModelEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<ModelEvent>>, Refusal> {
        let Command { model_id, at, action } = command;
        let event = match action {
            Action::Use { dimension } => register(model_id, *dimension, None, state)?,
            Action::Register { dimension, details } => register(model_id, *dimension, Some(details), state)?,
            Action::Activate => activate(model_id, state)?,
            Action::Delete => delete(model_id, state)?,
        };
        Ok(event.map(|event| Occurred { at: *at, event }).into_iter().collect())
    }

    fn evolve(mut state: State, event: &ModelEvent, occurred_at: Timestamp) -> State {
        match event {
            ModelEvent::EmbeddingModelRegistered(registered) => {
                let known = state.model(&registered.model_id);
                let created_at = known.map_or(Some(occurred_at), |known| known.created_at);
                let details = registered.details.clone().or_else(|| known?.details.clone());
                let (dimension, updated_at) = (registered.dimension, Some(occurred_at));
                let model = Model { dimension, details, created_at, updated_at };
                state.models.insert(registered.model_id.clone(), Some(model));
            }
            ModelEvent::EmbeddingModelActivated(activated) => {
                state.active.insert(activated.purpose, activated.model_id.clone());
                if let Some(Some(model)) = state.models.get_mut(&activated.model_id) {
                    model.updated_at = Some(occurred_at);
                }
            }
            ModelEvent::EmbeddingModelDeleted(deleted) => {
                state.models.insert(deleted.model_id.clone(), None);
                state.active.retain(|_, active| *active != deleted.model_id);
            }
        }
        state
    }
}

#[cfg(test)]
mod tests;
