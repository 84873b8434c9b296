//! The vectors of texts, over restarts and rebuilds, and as of earlier positions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::search::filter::Filter;
use domain::search::question::{PageStart, Question, Search};
use domain::search::ranking::Mode;
use event_schemas::envelope::Event;
use event_schemas::product::{ProductDetails, ProductUpserted};
use event_schemas::stream::StreamId;
use serde_json::json;

use super::history::{History, tenant};
use super::test_store::TestStore;
use super::{TIMEOUT, reach, until};
use crate::text_encoder::TextEncoder;
use crate::{Name, OpenError, QueryError, ReadModels, Settings};

/// The lengths of the words: equal texts have equal vectors.
fn vector(text: &str) -> Vec<f32> {
    let mut lengths = vec![0.1; 8];
    text.split(' ').for_each(|word| lengths[word.len() % 8] += 1.0);
    lengths
}

/// An encoder that counts the texts that it is given.
fn encoder(fingerprint: &str, count: &Arc<AtomicUsize>) -> TextEncoder {
    let count = Arc::clone(count);
    TextEncoder::new("mini".parse().unwrap(), 8, fingerprint.to_owned(), move |text| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(Some(vector(text)))
    })
}

async fn open(
    store: &TestStore,
    history: &History,
    fingerprint: &str,
    count: &Arc<AtomicUsize>,
) -> Result<ReadModels, OpenError> {
    let settings = Settings { encoder: Some(encoder(fingerprint, count)), ..store.settings() };
    let models = ReadModels::open(settings, history.log(), history.clock.clone()).await?;
    reach(&models, history.head()).await;
    until(async || models.search().encoder().is_some_and(|status| status.is_complete && status.pending == 0))
        .await;
    Ok(models)
}

async fn put(history: &History, number: u32, name: &str) {
    let details: ProductDetails =
        serde_json::from_value(json!({"name": name, "in_stock": true, "is_active": true})).unwrap();
    let product_id = number.to_string().parse().unwrap();
    let stream = StreamId::product(&tenant(), &product_id);
    let upserted = ProductUpserted { product_id, details: Box::new(details) };
    history.append(stream, &[Event::Product(upserted.into())]).await;
}

fn name(n: u32) -> String {
    format!("{} {} {}", "a".repeat(n as usize % 5 + 1), "b".repeat(n as usize % 7 + 1), n % 11)
}

fn search(text: &str, mode: Mode) -> Search {
    Search {
        question: Question::Text(text.to_owned(), mode),
        model: Some("mini".parse().unwrap()),
        filter: Filter::default(),
        min_score: None,
        start: PageStart::Offset(0),
        limit: 40,
        facets: false,
        explain: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_search_is_computed_again_while_texts_change() {
    let (store, history, count) = (TestStore::new(), History::new(), Arc::default());
    let models = open(&store, &history, "aa", &count).await.unwrap();
    let append = async |first: u32| {
        for n in first..first + 150 {
            put(&history, n % 37, &name(n)).await;
        }
    };
    let compare = async |searches: u32| {
        for n in 0..searches {
            let mode = if n % 2 == 0 { Mode::Hybrid } else { Mode::Semantic };
            let search = search(&name(n), mode);
            let (answer, position) = loop {
                match models.search().search_exactly(&tenant(), search.clone()).await {
                    Ok(live) => break live.unwrap(),
                    // As a caller does with 503: a new generation has no vectors yet.
                    Err(QueryError::Encoding { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            };
            let again = models.search().search_as_of(&tenant(), search, position).await.unwrap();
            assert_eq!(again, Ok(answer), "at {position} of {}", history.head());
        }
    };
    tokio::join!(append(0), append(1_000), compare(20));
    models.rebuild(Name::Search).await.unwrap();
    reach(&models, history.head()).await;
    until(async || models.search().encoder().is_some_and(|status| status.is_complete)).await;
    compare(6).await;
    assert!(models.search().wait_for_vectors(&tenant(), TIMEOUT).await);
}

#[tokio::test]
async fn known_texts_are_not_encoded_again_after_a_restart() {
    let (store, history, count) = (TestStore::new(), History::new(), Arc::default());
    for n in 0..20 {
        put(&history, n, &name(n)).await;
    }
    let models = open(&store, &history, "aa", &count).await.unwrap();
    let first = models.search().search_exactly(&tenant(), search("aa bbb 1", Mode::Hybrid)).await.unwrap();
    models.shutdown().await;
    let before = count.load(Ordering::SeqCst);
    let models = open(&store, &history, "aa", &count).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), before);
    let again = models.search().search_exactly(&tenant(), search("aa bbb 1", Mode::Hybrid)).await.unwrap();
    assert_eq!(first, again);
    models.shutdown().await;
    let refused = open(&store, &history, "bb", &count).await.unwrap_err().to_string();
    assert!(refused.contains("other weights of the model `mini`"), "{refused}");
}
