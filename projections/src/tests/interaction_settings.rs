//! Other weights of interactions: what depends on them is rebuilt, and a served list is computed again with its own.

use std::time::Duration;

use domain::recommend::Request;
use domain::recommend::co_visits;
use domain::recommend::settings::Settings as RecommendSettings;
use domain::user::interactions::{Counted, Interactions};
use domain::user::profile::UNIT;
use event_schemas::ids::{ListId, Position};
use event_schemas::user::{InteractionType, ListContext, ListServed};
use uuid::Uuid;

use super::catalogue::{ACTIONS, act, user};
use super::history::{History, tenant};
use super::reach;
use super::test_store::TestStore;
use crate::matching_summary::UpTo;
use crate::{ReadModels, Settings};

/// Settings in which a click counts as a dislike, and only neighbours are co-visits.
fn others() -> RecommendSettings {
    let click = Counted { weight: -0.5, half_life: Duration::from_secs(7) };
    RecommendSettings {
        interactions: Interactions::default().with(InteractionType::Click, click),
        co_visits: co_visits::Settings { window: 1, ..co_visits::Settings::default() },
    }
}

async fn open(store: &TestStore, history: &History, recommend: RecommendSettings) -> ReadModels {
    let settings = Settings { recommend, ..store.settings() };
    let models = ReadModels::open(settings, history.log(), history.clock.clone()).await.unwrap();
    reach(&models, history.head()).await;
    models
}

/// The log of many actions of seven users on nine products.
async fn busy_log() -> History {
    let history = History::new();
    for n in 0..200_u32 {
        let [a, b, c, _] = (n.wrapping_mul(2_654_435_761) >> 8).to_le_bytes();
        act(&history, a % ACTIONS, b % 7, c % 9).await;
    }
    history
}

#[tokio::test]
async fn rows_are_rebuilt_when_interactions_count_otherwise() {
    let history = busy_log().await;
    let store = TestStore::new();
    let mut dumps = Vec::new();
    for settings in [RecommendSettings::default(), others(), RecommendSettings::default()] {
        let models = open(&store, &history, settings).await;
        models.shutdown().await;
        let fresh = TestStore::new();
        open(&fresh, &history, settings).await.shutdown().await;
        let rows = store.dump().await;
        assert_eq!(rows, fresh.dump().await);
        dumps.push(rows);
    }
    assert_eq!(dumps[0], dumps[2]);
    let differ = dumps[0].keys().filter(|table| dumps[0][*table] != dumps[1][*table]);
    let differ: Vec<&str> = differ.map(String::as_str).collect();
    assert!(differ.contains(&"users.user_products"), "{differ:?}");
    assert!(differ.contains(&"products.product_popularity"), "{differ:?}");
    assert!(
        differ
            .iter()
            .all(|table| ["users", "products", "experiments"].contains(&table.split('.').next().unwrap()))
    );
}

#[tokio::test]
async fn profile_has_the_weights_of_the_settings() {
    let (store, history) = (TestStore::new(), History::new());
    // The second action of catalogue users is a click.
    act(&history, 8, 3, 1).await;
    let models = open(&store, &history, others()).await;
    let profile = models.users().profile(&tenant(), user(3)).await.unwrap().unwrap();
    let (affinity, settings) = (&profile.in_session[0], &profile.settings);
    let kinds: Vec<_> = profile.user.activity.interactions.keys().copied().collect();
    assert_eq!(kinds, [InteractionType::Click]);
    let passed = profile.now.since(affinity.last_at);
    assert!(passed < Duration::from_secs(7));
    assert_eq!(affinity.in_session(affinity.last_at, settings), -UNIT / 2);
    assert_eq!(affinity.in_session(affinity.last_at.after(Duration::from_secs(7)), settings), -UNIT / 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn served_list_is_computed_again_with_its_own_settings() {
    let history = busy_log().await;
    let store = TestStore::new();
    let request = || Request { subject: Some(user(1)), ..Request::new(ListContext::Feed, 10) };
    let models = open(&store, &history, others()).await;
    let now = history.clock.now();
    let computed = models.search().recommend(&tenant(), request(), now).await.unwrap().unwrap();
    let (list, computed_from, at) = computed;
    let served = ListServed {
        subject_id: user(1),
        list_id: ListId(Uuid::from_u128(1)),
        context: ListContext::Feed,
        items: Vec::new(),
        computed_from,
        query: None,
        parameters: Box::default(),
        experiment: None,
        settings: models.search().settings().recorded(),
    };
    models.shutdown().await;
    let models = open(&store, &history, RecommendSettings::default()).await;
    let again = models.search().recommend_again(&tenant(), request(), &served, at).await.unwrap();
    assert_eq!(again, Ok(list.clone()));
    let upto = UpTo::Position(Position(computed_from.0));
    let present = models.search().recommend_as_of(&tenant(), request(), upto, Some(at)).await.unwrap();
    assert_ne!(present.unwrap().0, list);
}
