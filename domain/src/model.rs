//! The embedding models of a tenant.
//!
//! Invariants: a model is registered once, and the length of its vectors never changes; the number of models is bounded.

use std::collections::BTreeMap;

use event_schemas::ids::ModelId;
use event_schemas::model::{EmbeddingModelRegistered, ModelEvent};
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// The most models of a tenant.
pub const MODELS_MAX: usize = 1_000;

/// The longest vector of a model.
pub const DIMENSION_MAX: u32 = 4_096;

/// Register a model, which is not changed if it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub model_id: ModelId,
    pub dimension: u32,
    pub at: Timestamp,
}

/// The models of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(BTreeMap<ModelId, u32>);

impl State {
    /// The length of each model's vectors.
    pub fn dimensions(&self) -> &BTreeMap<ModelId, u32> {
        &self.0
    }
}

/// The reason why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("has {given} numbers; a vector of the model `{model_id}` has {expected}")]
    Dimension { model_id: ModelId, given: u32, expected: u32 },
    #[error("there are {MODELS_MAX} models already; use one of them")]
    TooMany,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Dimension { .. } => RefusalKind::Invalid,
            Self::TooMany => RefusalKind::Conflict,
        }
    }
}

/// Checks the length of a vector of the model, and that a further model can be registered.
///
/// # Errors
/// The rule that it breaks.
pub fn check(models: &BTreeMap<ModelId, u32>, model_id: &ModelId, dimension: u32) -> Result<(), Refusal> {
    match models.get(model_id) {
        Some(known) if *known == dimension => Ok(()),
        Some(known) => {
            Err(Refusal::Dimension { model_id: model_id.clone(), given: dimension, expected: *known })
        }
        None if models.len() >= MODELS_MAX => Err(Refusal::TooMany),
        None => Ok(()),
    }
}

/// Decides for the streams `model-<tenant>`.
#[derive(Debug)]
pub enum ModelDecider {}

impl Decider for ModelDecider {
    type State = State;
    type Command = Command;
    type Event = ModelEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<ModelEvent>>, Refusal> {
        let Command { model_id, dimension, at } = command;
        check(&state.0, model_id, *dimension)?;
        if state.0.contains_key(model_id) {
            return Ok(Vec::new());
        }
        let event = EmbeddingModelRegistered { model_id: model_id.clone(), dimension: *dimension }.into();
        Ok(vec![Occurred { at: *at, event }])
    }

    fn evolve(mut state: State, event: &ModelEvent, _occurred_at: Timestamp) -> State {
        let ModelEvent::EmbeddingModelRegistered(registered) = event;
        state.0.insert(registered.model_id.clone(), registered.dimension);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{at, decided, id};

    fn register(model: &str, dimension: u32) -> Command {
        Command { model_id: id(model), dimension, at: at(0.0) }
    }

    fn registered(model: &str, dimension: u32) -> ModelEvent {
        EmbeddingModelRegistered { model_id: id(model), dimension }.into()
    }

    #[test]
    fn model_is_registered_once_with_one_dimension() {
        assert_eq!(decided::<ModelDecider>(&[], &register("a", 3)), Ok(vec![registered("a", 3)]));
        let known = [registered("a", 3)];
        assert_eq!(decided::<ModelDecider>(&known, &register("a", 3)), Ok(vec![]));
        assert_eq!(decided::<ModelDecider>(&known, &register("b", 4)), Ok(vec![registered("b", 4)]));
        let refused = decided::<ModelDecider>(&known, &register("a", 4)).unwrap_err();
        assert_eq!(refused.to_string(), "has 4 numbers; a vector of the model `a` has 3");
    }

    #[test]
    fn number_of_models_is_bounded() {
        let known: Vec<ModelEvent> = (0..MODELS_MAX).map(|n| registered(&n.to_string(), 3)).collect();
        assert_eq!(decided::<ModelDecider>(&known, &register("a", 3)), Err(Refusal::TooMany));
        assert_eq!(decided::<ModelDecider>(&known, &register("7", 3)), Ok(vec![]));
    }
}
