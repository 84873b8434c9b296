//! Answers that are kept, compared with those that are computed from the log.

use std::time::Duration;

use domain::recommend::Request;
use domain::search::filter::Filter;
use domain::search::question::{PageStart, Question, Search};
use domain::search::ranking::Mode;
use event_schemas::envelope::Event;
use event_schemas::ids::ProductId;
use event_schemas::merchandising::{Rule, RuleEffect, RuleSet};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::user::ListContext;

use super::catalogue::{ACTIONS, act, user};
use super::history::{History, tenant};
use super::test_store::TestStore;
use super::{open, reach};
use crate::matching_summary::UpTo;
use crate::search::answers::CacheStatus;
use crate::status::ProjectionStatus;
use crate::{Name, ReadModels};

fn search(question: Question, filter: Filter) -> Search {
    Search {
        question,
        model: None,
        filter,
        min_score: None,
        start: PageStart::Offset(0),
        limit: 5,
        facets: true,
        explain: true,
    }
}

fn searches() -> Vec<Search> {
    let shoe = || Question::Text("shoe 3".to_owned(), Mode::Hybrid);
    let in_stock = Filter { in_stock: Some(true), ..Filter::default() };
    vec![
        search(shoe(), Filter::default()),
        search(shoe(), in_stock),
        search(Question::SimilarTo("3".parse().unwrap()), Filter::default()),
    ]
}

fn feed(of: u8) -> Request {
    Request { subject: Some(user(of)), ..Request::new(ListContext::Feed, 10) }
}

/// Asks for everything twice, and compares each answer with the one that is computed from the log for its position.
async fn compare(models: &ReadModels, history: &History) {
    for _ in 0..2 {
        for search in searches() {
            let live = models.search().search(&tenant(), search.clone()).await.unwrap();
            let position = live.as_ref().map_or(history.head(), |(_, position)| *position);
            let again = models.search().search_as_of(&tenant(), search, position).await.unwrap();
            assert_eq!(live.map(|(answer, _)| answer), again, "at {position}");
            assert_eq!(position, history.head());
        }
        for request in [feed(1), feed(2)] {
            let now = history.clock.now();
            let live = models.search().recommend(&tenant(), request.clone(), now).await.unwrap();
            let (list, position, at) = live.unwrap();
            let upto = UpTo::Position(position);
            let again = models.search().recommend_as_of(&tenant(), request, upto, Some(at)).await.unwrap();
            assert_eq!(again, Ok((list, position, at)), "at {position}");
            assert!(position == history.head() && at <= now);
        }
    }
}

fn caches(models: &ReadModels) -> [CacheStatus; 2] {
    models.search().caches().try_into().unwrap()
}

#[tokio::test]
async fn kept_answers_equal_those_of_the_log_at_each_position() {
    let (store, history) = (TestStore::sqlite(), History::new());
    let models = open(&store, &history).await;
    for n in 0..80_u32 {
        let mixed = n.wrapping_mul(2_654_435_761) >> 8;
        let [a, b, c, _] = mixed.to_le_bytes();
        act(&history, a % ACTIONS, b % 7, c % 9).await;
        reach(&models, history.head()).await;
        compare(&models, &history).await;
        if n == 50 {
            let number = models.rebuild(Name::Search).await.unwrap();
            let of = |status: ProjectionStatus| (status.name == "search").then_some(status.generation);
            super::until(async || models.status().into_iter().find_map(of) == Some(Some(number))).await;
        }
    }
    for cache in caches(&models) {
        assert!(cache.hits > 80 && cache.outdated > 20 && cache.entries > 1, "{cache:?}");
    }
}

#[tokio::test]
async fn only_an_event_that_changes_answers_outdates_them() {
    let (store, history) = (TestStore::sqlite(), History::new());
    let models = open(&store, &history).await;
    act(&history, 0, 1, 1).await;
    let ask = async || {
        reach(&models, history.head()).await;
        models.search().search(&tenant(), searches().remove(0)).await.unwrap().unwrap();
        models.search().recommend(&tenant(), feed(1), history.clock.now()).await.unwrap().unwrap();
        caches(&models).map(|cache| (cache.hits, cache.misses))
    };
    assert_eq!(ask().await, [(0, 1), (0, 1)]);
    assert_eq!(ask().await, [(1, 1), (1, 1)]);
    let interaction = ACTIONS - 1;
    act(&history, interaction, 5, 1).await;
    assert_eq!(ask().await, [(2, 1), (1, 2)], "what users do changes lists, not searches");
    act(&history, 0, 1, 2).await;
    assert_eq!(ask().await, [(2, 2), (1, 3)], "a product changes both");
    act(&history, 3, 1, 2).await;
    assert_eq!(ask().await, [(3, 2), (1, 4)], "a rule changes lists");
    let other = "other".parse().unwrap();
    let found = models.search().search(&other, searches().remove(0)).await.unwrap();
    assert_eq!(found.unwrap().0.total, 0, "another tenant has its own answers");
}

#[tokio::test]
async fn list_is_computed_again_when_time_changes_it() {
    let (store, history) = (TestStore::sqlite(), History::new());
    let models = open(&store, &history).await;
    act(&history, 0, 1, 1).await;
    let until: Timestamp = history.clock.now().after(Duration::from_secs(60));
    let product: ProductId = "1".parse().unwrap();
    let rule = Rule {
        effect: RuleEffect::Ban,
        product_ids: vec![product],
        context: None,
        category_id: None,
        valid_from: None,
        valid_until: Some(until),
    };
    let set = RuleSet { rule_id: "1".parse().unwrap(), rule };
    history.append(StreamId::merchandising(&tenant()), &[Event::Merchandising(set.into())]).await;
    reach(&models, history.head()).await;
    let ask = async |now: Timestamp| {
        let asked = models.search().recommend(&tenant(), feed(1), now).await.unwrap();
        let (list, _, at) = asked.unwrap();
        (list.items.len(), at)
    };
    let first = history.clock.now();
    assert_eq!(ask(first).await, (0, first));
    assert_eq!(ask(until.before(Duration::from_micros(1))).await, (0, first));
    assert_eq!(ask(until).await, (1, until), "the ban has ended");
    let later = until.after(Duration::from_secs(120));
    assert_eq!(ask(later.before(Duration::from_micros(1))).await, (1, until));
    assert_eq!(ask(later).await, (1, later), "a list is handed out for two minutes");
    assert_eq!(ask(until).await, (1, until), "a list of the future is not handed out");
}
