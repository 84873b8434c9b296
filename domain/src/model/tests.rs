use super::*;
use crate::scenario::{at, decided, id};

fn command(model: &str, action: Action) -> Command {
    Command { model_id: id(model), at: at(0.0), action }
}

fn vector_of(model: &str, dimension: u32) -> Command {
    command(model, Action::Use { dimension })
}

fn details(purpose: ModelPurpose) -> ModelDetails {
    let model = State::default();
    let first = model.models().next().unwrap().1.details.clone().unwrap();
    ModelDetails { name: "A".to_owned(), purpose, ..*first }
}

fn register(model: &str, dimension: u32, purpose: ModelPurpose) -> Command {
    command(model, Action::Register { dimension, details: Box::new(details(purpose)) })
}

fn registered(model: &str, dimension: u32, purpose: Option<ModelPurpose>) -> ModelEvent {
    let details = purpose.map(|purpose| Box::new(details(purpose)));
    EmbeddingModelRegistered { model_id: id(model), dimension, details }.into()
}

fn activated(model: &str, purpose: ModelPurpose) -> ModelEvent {
    EmbeddingModelActivated { model_id: id(model), purpose }.into()
}

fn deleted(model: &str) -> ModelEvent {
    EmbeddingModelDeleted { model_id: id(model) }.into()
}

fn decided_after(given: &[ModelEvent], when: &Command) -> Result<Vec<ModelEvent>, Refusal> {
    decided::<ModelDecider>(given, when)
}

fn state(events: &[ModelEvent]) -> State {
    events.iter().fold(State::default(), |state, event| ModelDecider::evolve(state, event, at(1.0)))
}

#[test]
fn first_vector_registers_a_model_with_its_dimension() {
    assert_eq!(decided_after(&[], &vector_of("a", 3)), Ok(vec![registered("a", 3, None)]));
    let known = [registered("a", 3, None)];
    assert_eq!(decided_after(&known, &vector_of("a", 3)), Ok(vec![]));
    assert_eq!(decided_after(&known, &vector_of("b", 4)), Ok(vec![registered("b", 4, None)]));
    let refused = decided_after(&known, &vector_of("a", 4)).unwrap_err();
    assert_eq!(refused.to_string(), "has 4 numbers; a vector of the model `a` has 3");
    assert!(decided_after(&[], &vector_of("dinov2-base", 512)).is_err());
    assert_eq!(decided_after(&[], &vector_of("dinov2-base", 768)), Ok(vec![]));
}

#[test]
fn facts_of_a_model_are_added_once_and_never_change() {
    let image = Some(ModelPurpose::Image);
    let known = [registered("a", 3, None)];
    let complete = register("a", 3, ModelPurpose::Image);
    assert_eq!(decided_after(&[], &complete), Ok(vec![registered("a", 3, image)]));
    assert_eq!(decided_after(&known, &complete), Ok(vec![registered("a", 3, image)]));
    let known = [registered("a", 3, image)];
    assert_eq!(decided_after(&known, &complete), Ok(vec![]));
    assert_eq!(decided_after(&known, &vector_of("a", 3)), Ok(vec![]));
    for other in [register("a", 4, ModelPurpose::Image), register("a", 3, ModelPurpose::Text)] {
        assert_eq!(decided_after(&known, &other), Err(Refusal::OtherFacts(id("a"))));
    }
}

#[test]
fn one_model_is_active_for_each_purpose() {
    let first = state(&[]);
    assert_eq!(first.active(ModelPurpose::Text), Some(&id("lexical")));
    assert_eq!(first.active(ModelPurpose::Image), Some(&id("dinov2-base")));
    let activate = |model| command(model, Action::Activate);
    assert_eq!(decided_after(&[], &activate("dinov2-base")), Ok(vec![]));
    assert_eq!(decided_after(&[], &activate("a")), Err(Refusal::Unknown));
    let unnamed = [registered("a", 3, None)];
    assert_eq!(decided_after(&unnamed, &activate("a")), Err(Refusal::NoPurpose(id("a"))));
    let image = ModelPurpose::Image;
    let known = [registered("a", 3, Some(image))];
    assert_eq!(decided_after(&known, &activate("a")), Ok(vec![activated("a", image)]));
    let after = state(&[known[0].clone(), activated("a", image)]);
    assert_eq!((after.active(image), after.used_for(&id("dinov2-base"))), (Some(&id("a")), None));
    assert_eq!(after.active(ModelPurpose::Text), Some(&id("lexical")));
}

#[test]
fn active_model_cannot_be_deleted_and_no_id_returns() {
    let delete = |model| command(model, Action::Delete);
    let image = ModelPurpose::Image;
    assert_eq!(decided_after(&[], &delete("a")), Err(Refusal::Unknown));
    assert_eq!(decided_after(&[], &delete("lexical")), Err(Refusal::BuiltIn(id("lexical"))));
    assert_eq!(decided_after(&[], &delete("dinov2-base")), Err(Refusal::Active(id("dinov2-base"))));
    let known = [registered("a", 3, Some(image)), activated("a", image)];
    assert_eq!(decided_after(&known, &delete("a")), Err(Refusal::Active(id("a"))));
    assert_eq!(decided_after(&known, &delete("dinov2-base")), Ok(vec![deleted("dinov2-base")]));
    let gone = [&known[..], &[deleted("dinov2-base")]].concat();
    assert_eq!(decided_after(&gone, &delete("dinov2-base")), Err(Refusal::Unknown));
    let refused = Refusal::Deleted(id("dinov2-base"));
    assert_eq!(decided_after(&gone, &vector_of("dinov2-base", 768)), Err(refused.clone()));
    assert_eq!(decided_after(&gone, &register("dinov2-base", 768, image)), Err(refused.clone()));
    assert_eq!(check(&state(&gone).dimensions(), &id("dinov2-base"), 768), Err(refused));
}

#[test]
fn number_of_models_is_bounded() {
    let known: Vec<ModelEvent> =
        (0..MODELS_MAX - 2).map(|number| registered(&number.to_string(), 3, None)).collect();
    assert_eq!(decided_after(&known, &vector_of("a", 3)), Err(Refusal::TooMany));
    assert_eq!(decided_after(&known, &vector_of("7", 3)), Ok(vec![]));
}
