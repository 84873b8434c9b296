use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use projections::TextEncoder;
use serde_json::json;
use web::caller::Auth;

use super::fixture::{ReadApiFixture, now};
use super::search::ids;
use crate::server::Access;

/// Words of one meaning.
const MEANINGS: [&[&str]; 3] = [&["shoe", "sneaker", "trainer"], &["kettle", "boiler"], &["hat", "cap"]];

fn vector(text: &str) -> Vec<f32> {
    let count = |words: &&[&str]| words.iter().map(|word| text.matches(word).count() as f32).sum();
    MEANINGS.iter().map(count).chain([0.1]).collect()
}

/// A server with an encoder that knows synonyms. It encodes no product before it is let.
async fn fixture(may_encode: &Arc<AtomicBool>) -> ReadApiFixture {
    let may_encode = Arc::clone(may_encode);
    let encode = move |text: &str| {
        while !may_encode.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        if text.contains("cursed") { Err("it panicked".to_owned()) } else { Ok(Some(vector(text))) }
    };
    let encoder = TextEncoder::new("mini".parse().unwrap(), 4, "aa".to_owned(), encode);
    ReadApiFixture::with_encoder(|clock| Auth::open(now(clock)), Access::Open, Vec::new(), Some(encoder))
        .await
}

async fn shop(may_encode: &Arc<AtomicBool>) -> ReadApiFixture {
    let fixture = fixture(may_encode).await;
    for (id, name) in [(1, "Steel kettle"), (2, "Running shoe"), (3, "Straw hat")] {
        fixture.put_product(id, json!({"name": name})).await;
    }
    fixture
}

/// Waits until searches use the encoder.
async fn encoded(fixture: &ReadApiFixture) {
    while fixture.search(json!({"query": "x"})).await.json()["model_id"] != "mini" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn synonyms_are_found_by_the_vectors_of_the_encoder() {
    let fixture = shop(&Arc::new(AtomicBool::new(true))).await;
    encoded(&fixture).await;
    for mode in ["hybrid", "semantic"] {
        for (query, first) in [("sneakers", 2), ("boiler", 1), ("cap", 3)] {
            let answer = fixture.search(json!({"query": query, "mode": mode, "explain": true})).await.json();
            assert_eq!((ids(&answer)[0], &answer["model_id"]), (first, &json!("mini")), "{query} {mode}");
            assert_eq!(answer["total"], 3);
            assert!(answer["results"][0]["explanation"]["similarity"].as_f64().unwrap() > 0.9, "{answer}");
        }
    }
    let similar = fixture.search(json!({"vector": [0.0, 1.0, 0.0, 0.0]})).await.json();
    assert_eq!((ids(&similar)[0], &similar["model_id"]), (1, &json!("mini")));
    let similar = fixture.search(json!({"product_id": 2})).await.json();
    assert_eq!((ids(&similar).len(), &similar["model_id"]), (2, &json!("mini")));
    let built_in = fixture.search(json!({"query": "sneakers", "model_id": "lexical"})).await.json();
    assert_eq!(built_in["model_id"], "lexical");
    let words = fixture.search(json!({"query": "sneakers", "mode": "lexical"})).await.json();
    assert_eq!((&words["total"], &words["model_id"]), (&json!(0), &json!("lexical")));
    let refused = fixture.search(json!({"vector": [0.0, 1.0]})).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text.contains("`mini` has 4"), "{}", refused.text);
    assert_eq!(fixture.search(json!({"query": "x", "model_id": "clip"})).await.status, 404);
}

#[tokio::test]
async fn built_in_encoder_is_used_until_most_products_are_encoded() {
    let may_encode = Arc::new(AtomicBool::new(false));
    let fixture = shop(&may_encode).await;
    for id in 4..130 {
        fixture.put_product(id, json!({"name": "Knitted cap"})).await;
    }
    let page = json!({"query": "shoe", "limit": 1});
    let before = fixture.search(page.clone()).await.json();
    assert_eq!((ids(&before), &before["model_id"]), (vec![2], &json!("lexical")));
    let refused = fixture.search(json!({"query": "shoe", "model_id": "mini"})).await;
    assert_eq!((refused.status, refused.header("retry-after").is_empty()), (503, false));
    assert!(refused.text.contains("lexical"), "{}", refused.text);
    may_encode.store(true, Ordering::SeqCst);
    encoded(&fixture).await;
    assert_eq!(fixture.search(page.clone()).await.json()["model_id"], "mini");
    // The cursor of an earlier page stays with its model.
    let mut next = page;
    next["cursor"] = before["next_cursor"].clone();
    let second = fixture.search(next).await.json();
    assert_eq!(
        (ids(&second).len(), &second["model_id"], &second["total"]),
        (1, &json!("lexical"), &json!(129))
    );
}

#[tokio::test]
async fn changed_text_counts_in_the_next_answer_at_its_position() {
    let fixture = shop(&Arc::new(AtomicBool::new(true))).await;
    encoded(&fixture).await;
    let first = async |query: &str| {
        let answer = fixture.search(json!({"query": query, "mode": "semantic"})).await.json();
        assert_eq!(answer["total"], 3);
        ids(&answer)[0]
    };
    for _ in 0..20 {
        fixture.put_product(1, json!({"name": "Knitted cap"})).await;
        fixture.put_product(3, json!({"name": "Copper boiler"})).await;
        assert_eq!((first("hat").await, first("kettle").await), (1, 3));
        fixture.put_product(3, json!({"name": "Straw hat"})).await;
        fixture.put_product(1, json!({"name": "Steel kettle"})).await;
        assert_eq!((first("cap").await, first("boiler").await), (3, 1));
    }
}

#[tokio::test]
async fn text_that_cannot_be_encoded_is_found_by_its_words() {
    let fixture = shop(&Arc::new(AtomicBool::new(true))).await;
    fixture.put_product(4, json!({"name": "Cursed amulet, cursed"})).await;
    encoded(&fixture).await;
    // It has no vector, so that only its words find it.
    for (query, is_found) in [("amulet", true), ("kettle", false)] {
        let answer = fixture.search(json!({"query": query})).await.json();
        assert_eq!((ids(&answer).contains(&4), &answer["model_id"]), (is_found, &json!("mini")), "{answer}");
    }
    let status = fixture.api.models.search().encoder().unwrap();
    assert_eq!((status.encoded, status.pending, status.failed, status.is_complete), (3, 0, 1, true));
    let refused = fixture.search(json!({"query": "cursed"})).await;
    assert_eq!(refused.status, 500);
}
