//! The lists of experiments, and what users did with their products.

use event_schemas::envelope::Event;
use event_schemas::ids::{ListId, Position, Tenant};
use event_schemas::stream::StreamId;
use event_schemas::user::{
    InteractionRecorded, InteractionType, ListContext, ListExperiment, ListServed, ServedItem,
};
use uuid::Uuid;

use super::catalogue::user;
use super::history::{History, tenant};
use super::test_store::TestStore;
use super::{open, reach};
use crate::experiment::{Outcomes, VariantOutcomes};
use crate::{Name, ReadModels};

fn list_id(number: u128) -> ListId {
    ListId(Uuid::from_u128(number))
}

/// A list of user 1 with products `a1`, `a2`, … of the variants that are given by their letters; `-` is for both.
fn served(number: u128, variants: &str, seed: Option<u32>) -> Event {
    let item = |(slot, variant): (usize, char)| ServedItem {
        product_id: format!("{variant}{slot}").parse().unwrap(),
        probability: if variant == '-' { 1.0 } else { 0.5 },
        variant: (variant != '-').then(|| variant.to_string().parse().unwrap()),
    };
    let experiment =
        ListExperiment { name: "blend".parse().unwrap(), assigned: None, seed, variants: Vec::new() };
    let list = ListServed {
        subject_id: user(1),
        list_id: list_id(number),
        context: ListContext::Feed,
        items: variants.chars().enumerate().map(item).collect(),
        computed_from: Position(0),
        query: None,
        parameters: Box::default(),
        experiment: Some(Box::new(experiment)),
        settings: None,
    };
    Event::User(list.into())
}

fn feedback(of: u8, number: Option<u128>, product: &str, interaction_type: InteractionType) -> Event {
    let recorded = InteractionRecorded {
        subject_id: user(of),
        product_id: product.parse().unwrap(),
        interaction_type,
        value: None,
        context: None,
        list_id: number.map(list_id),
        slot: None,
        session_id: None,
    };
    Event::User(recorded.into())
}

async fn outcomes(models: &ReadModels) -> Vec<VariantOutcomes> {
    models.experiments().outcomes(&tenant(), &"blend".parse().unwrap()).await.unwrap()
}

async fn append(history: &History, event: Event) {
    history.append(StreamId::user(&tenant(), user(1)), &[event]).await;
}

/// Two interleaved lists, and what user 1 and others did with their products.
async fn interleaved(history: &History) {
    append(history, served(1, "ab-", Some(7))).await;
    append(history, served(2, "ba", Some(8))).await;
    for event in [
        feedback(1, Some(1), "a0", InteractionType::Click),
        feedback(1, Some(1), "a0", InteractionType::Click),
        feedback(1, Some(1), "a0", InteractionType::Purchase),
        // These belong to no list of the experiment, or to no product of it.
        feedback(2, Some(1), "b1", InteractionType::Click),
        feedback(1, None, "b1", InteractionType::Click),
        feedback(1, Some(3), "b1", InteractionType::Click),
        feedback(1, Some(1), "c", InteractionType::Click),
        feedback(1, Some(2), "b0", InteractionType::Click),
        feedback(1, Some(2), "a1", InteractionType::Click),
        feedback(1, Some(1), "-2", InteractionType::View),
    ] {
        append(history, event).await;
    }
}

#[tokio::test]
async fn feedback_counts_for_the_slot_and_variant_of_its_list() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    interleaved(&history).await;
    reach(&models, history.head()).await;
    let found = outcomes(&models).await;
    let names: Vec<_> = found.iter().map(|of| of.variant.as_ref().map(ToString::to_string)).collect();
    assert_eq!(names, [None, Some("a".to_owned()), Some("b".to_owned())]);
    let [both, a, b] = &found[..] else { panic!("{found:?}") };
    let viewed =
        Outcomes { impressions: 1, reward: 100_000_000, reward_squares: 0.01, ..Outcomes::default() };
    assert_eq!((both.slots[&2].reward, both.slots[&2].impressions), (viewed.reward, viewed.impressions));
    assert!((both.slots[&2].reward_squares - viewed.reward_squares).abs() < 1e-12);
    let of_first = a.slots[&0];
    assert_eq!((of_first.impressions, of_first.clicked, of_first.purchased), (1, 1, 1));
    // Two clicks of 0.3 and a purchase of 1.
    assert_eq!(of_first.reward, 1_600_000_000);
    assert!((of_first.reward_squares - 2.56).abs() < 1e-9);
    assert_eq!((b.slots[&1].impressions, b.slots[&1].clicked), (1, 0));
    // The second list has one click of each.
    for (of, wins) in [(a, 1), (b, 0)] {
        assert_eq!((of.lists.impressions, of.lists.interleaved, of.lists.wins), (2, 2, wins));
    }
    let other: Tenant = "other".parse().unwrap();
    let of_other = models.experiments().outcomes(&other, &"blend".parse().unwrap()).await.unwrap();
    assert_eq!(of_other, []);
}

#[tokio::test]
async fn lists_of_one_variant_have_no_winner() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    append(&history, served(1, "aa", None)).await;
    append(&history, served(1, "aa", None)).await;
    append(&history, feedback(1, Some(1), "a0", InteractionType::Click)).await;
    reach(&models, history.head()).await;
    let found = outcomes(&models).await;
    let lists = Outcomes { impressions: 1, ..Outcomes::default() };
    assert_eq!((found.len(), found[0].lists, found[0].slots[&0].clicked), (1, lists, 1));
}

#[tokio::test]
async fn results_are_the_same_after_a_restart_and_a_rebuild() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    interleaved(&history).await;
    reach(&models, history.head()).await;
    models.shutdown().await;
    let models = open(&store, &history).await;
    interleaved(&history).await;
    append(&history, feedback(1, Some(1), "b1", InteractionType::Click)).await;
    append(&history, feedback(1, Some(2), "b0", InteractionType::Purchase)).await;
    reach(&models, history.head()).await;
    let live = outcomes(&models).await;
    assert_eq!(live[1].lists.wins, 0, "both variants have a click in both lists");
    models.rebuild(Name::Experiments).await.unwrap();
    assert_eq!(outcomes(&models).await, live);
}
