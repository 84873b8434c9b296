//! An erased person: the read models become those of a log in which the person never was.

use std::time::Duration;

use domain::recommend::Request;
use event_schemas::envelope::Event;
use event_schemas::ids::{GameMatchId, ListId, Position, SubjectId};
use event_schemas::player::{PlayerBlocked, PlayerRated};
use event_schemas::rating::Skill;
use event_schemas::stream::StreamId;
use event_schemas::user::{
    InteractionRecorded, InteractionType, ListContext, ListExperiment, ListServed, ServedItem,
    SubjectKeyDestroyed,
};
use uuid::Uuid;

use super::catalogue::{upserted, user};
use super::history::{History, tenant};
use super::recovery::clean_replay;
use super::test_store::TestStore;
use super::{open, reach};
use crate::ReadModels;
use crate::product::ProductFilter;

/// The user who is erased.
const ANN: u8 = 1;
/// Another user.
const BOB: u8 = 2;

const PRODUCTS: [&str; 4] = ["a", "b", "c", "d"];

fn list_id(of: u8) -> ListId {
    ListId(Uuid::from_u128(u128::from(of) + 100))
}

/// A list of an experiment, with three products of two variants that are interleaved.
fn served(of: u8) -> Event {
    let item = |(product, variant): (&str, &str)| ServedItem {
        product_id: product.parse().unwrap(),
        probability: 0.5,
        variant: Some(variant.parse().unwrap()),
    };
    let experiment = ListExperiment {
        name: "blend".parse().unwrap(),
        assigned: None,
        seed: Some(1),
        variants: Vec::new(),
    };
    let list = ListServed {
        subject_id: user(of),
        list_id: list_id(of),
        context: ListContext::Feed,
        items: [("a", "one"), ("b", "two"), ("c", "one")].map(item).into(),
        computed_from: Position(0),
        query: None,
        parameters: Box::default(),
        experiment: Some(Box::new(experiment)),
        settings: None,
    };
    Event::User(list.into())
}

fn interaction(of: u8, product: &str, interaction_type: InteractionType) -> Event {
    let recorded = InteractionRecorded {
        subject_id: user(of),
        product_id: product.parse().unwrap(),
        interaction_type,
        value: None,
        context: None,
        list_id: Some(list_id(of)),
        slot: None,
        session_id: None,
    };
    Event::User(recorded.into())
}

/// What the two users do, in turn.
fn actions() -> Vec<(u8, Event)> {
    let mut actions = vec![(ANN, served(ANN)), (BOB, served(BOB))];
    for (of, product, kind) in [
        (ANN, "a", InteractionType::Purchase),
        (BOB, "b", InteractionType::Purchase),
        (BOB, "a", InteractionType::Purchase),
        (ANN, "b", InteractionType::Click),
        (ANN, "c", InteractionType::Purchase),
        // Only Ann knows this one.
        (ANN, "d", InteractionType::Purchase),
        (BOB, "c", InteractionType::View),
        (BOB, "a", InteractionType::Click),
    ] {
        actions.push((of, interaction(of, product, kind)));
    }
    actions
}

/// A log of the products and the users. What a user who is left out does takes its time only.
async fn log_of(users: &[u8]) -> History {
    let history = History::new();
    for product in PRODUCTS {
        let id = product.parse().unwrap();
        let facts = format!(r#"{{"name": "Product {product}", "in_stock": true, "is_active": true}}"#);
        history.append(StreamId::product(&tenant(), &id), &[upserted(&id, &facts)]).await;
    }
    for (of, action) in actions() {
        if users.contains(&of) {
            history.append(StreamId::user(&tenant(), user(of)), &[action]).await;
        } else {
            history.clock.advance(Duration::from_secs(1));
        }
    }
    history
}

async fn erase(history: &History, subject: SubjectId) {
    let erased = Event::User(SubjectKeyDestroyed { subject_id: subject }.into());
    history.append(StreamId::user(&tenant(), subject), &[erased]).await;
}

/// What readers see, without positions.
async fn visible(models: &ReadModels, history: &History) -> String {
    let users = models.users();
    let bob = users.profile(&tenant(), user(BOB)).await.unwrap().unwrap();
    let all = ProductFilter::default();
    let popular = models.products().most_popular(&tenant(), &all, None, 10).await.unwrap();
    let popular: Vec<_> = popular.items.iter().map(|product| product.product_id.to_string()).collect();
    let outcomes = models.experiments().outcomes(&tenant(), &"blend".parse().unwrap()).await.unwrap();
    let outcomes: Vec<_> = outcomes
        .into_iter()
        .map(|of| {
            let sums = of.slots.into_iter().chain([(u64::MAX, of.lists)]);
            // Squares are sums of fractions, which cannot be subtracted exactly.
            let rounded = sums.map(|(slot, mut sum)| {
                sum.reward_squares = (sum.reward_squares * 1e9).round() / 1e9;
                (slot, sum)
            });
            (of.variant, rounded.collect::<Vec<_>>())
        })
        .collect();
    let now = history.clock.now();
    let mut lists = Vec::new();
    for subject in [ANN, BOB] {
        let request = Request { subject: Some(user(subject)), ..Request::new(ListContext::Feed, 10) };
        lists.push(models.search().recommend(&tenant(), request, now).await.unwrap().unwrap().0);
    }
    format!(
        "{:?}\n{:?}\n{:?}\n{popular:?}\n{outcomes:?}\n{lists:?}",
        bob.user.activity, bob.long_term, bob.in_session
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_user_leaves_what_a_log_without_them_has() {
    let (store, history) = (TestStore::new(), log_of(&[ANN, BOB]).await);
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    assert!(models.users().profile(&tenant(), user(ANN)).await.unwrap().is_some());
    assert!(models.served_lists().position(&tenant(), list_id(ANN)).await.unwrap().is_some());
    let (other_store, others) = (TestStore::new(), log_of(&[BOB]).await);
    let without = open(&other_store, &others).await;
    reach(&without, others.head()).await;
    others.clock.advance(Duration::from_secs(1));
    let expected = visible(&without, &others).await;
    assert_ne!(visible(&models, &history).await, expected);

    erase(&history, user(ANN)).await;
    reach(&models, history.head()).await;
    assert_eq!(visible(&models, &history).await, expected);
    assert_eq!(models.users().profile(&tenant(), user(ANN)).await.unwrap(), None);
    assert_eq!(models.served_lists().position(&tenant(), list_id(ANN)).await.unwrap(), None);
    assert!(models.served_lists().position(&tenant(), list_id(BOB)).await.unwrap().is_some());
    models.shutdown().await;
    let rows = store.dump().await;
    assert_eq!(rows, clean_replay(&history).await);
    let of_ann = user(ANN).to_string();
    let of_ann = [of_ann.clone(), of_ann.replace('-', "").to_uppercase()];
    for (table, rows) in rows {
        let found = rows.iter().any(|row| of_ann.iter().any(|id| row.contains(id)));
        assert!(!found, "{table} still has rows of the erased user");
    }
}

#[tokio::test]
async fn erased_player_has_no_ratings_and_no_blocks() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let skill = Skill { rating: 1600.0, deviation: 100.0, volatility: 0.06 };
    for of in [ANN, BOB] {
        let rated = PlayerRated {
            subject_id: user(of),
            match_id: GameMatchId(Uuid::from_u128(1)),
            pool_key: "chess".parse().unwrap(),
            before: skill,
            after: skill,
        };
        let blocked = PlayerBlocked { subject_id: user(of), blocked: user(9) };
        let events = [Event::Player(rated.into()), Event::Player(blocked.into())];
        history.append(StreamId::player(&tenant(), user(of)), &events).await;
    }
    reach(&models, history.head()).await;
    erase(&history, user(ANN)).await;
    reach(&models, history.head()).await;
    for (of, expected) in [(ANN, 0), (BOB, 1)] {
        let (ratings, _) = models.players().ratings(&tenant(), user(of), None, 10).await.unwrap();
        let (blocks, _) = models.players().blocks(&tenant(), user(of), None, 10).await.unwrap();
        assert_eq!((ratings.len(), blocks.len()), (expected, expected), "user {of}");
    }
    models.shutdown().await;
    assert_eq!(store.dump().await, clean_replay(&history).await);
}
