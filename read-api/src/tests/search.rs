use event_schemas::envelope::Event;
use event_schemas::product::{ProductDeactivated, ProductDetails, ProductEmbedded, ProductUpserted};
use event_schemas::stream::StreamId;
use event_schemas::vector::Vector;
use serde_json::{Value, json};

use super::fixture::{ReadApiFixture, TestResponse, acme};

impl ReadApiFixture {
    pub(super) async fn put_product(&self, id: u32, facts: Value) {
        let mut all = json!({"in_stock": true, "is_active": true});
        all.as_object_mut().unwrap().extend(facts.as_object().unwrap().clone());
        let details: ProductDetails = serde_json::from_value(all).unwrap();
        let upserted =
            ProductUpserted { product_id: id.to_string().parse().unwrap(), details: Box::new(details) };
        let stream = StreamId::product(&acme(), &upserted.product_id);
        self.append(stream, &[Event::Product(upserted.into())]).await;
    }

    pub(super) async fn embed_product(&self, id: u32, vector: [f32; 2]) {
        let product_id = id.to_string().parse().unwrap();
        let stream = StreamId::product(&acme(), &product_id);
        let (model_id, vector) = ("clip".parse().unwrap(), Vector::new(vector));
        let embedded = ProductEmbedded { product_id, model_id, image_id: None, vector };
        self.append(stream, &[Event::Product(embedded.into())]).await;
    }

    pub(super) async fn search(&self, body: Value) -> TestResponse {
        self.post_json("/api/v1/search", &body, &[]).await
    }
}

pub(super) fn ids(answer: &Value) -> Vec<u64> {
    answer["results"].as_array().unwrap().iter().map(|found| found["id"].as_u64().unwrap()).collect()
}

async fn shop() -> ReadApiFixture {
    let fixture = ReadApiFixture::open().await;
    let products = [
        json!({"name": "Trail running shoe", "price": 89.95, "category_id": "shoes", "category_name": "Shoes"}),
        json!({"name": "Road shoe", "price": 120.0, "category_id": "shoes", "category_name": "Shoes", "brand_name": "Élan"}),
        json!({"name": "Crème brûlée torch", "price": 30.0, "category_id": "kitchen", "in_stock": false}),
        json!({"name": "Headphones WH-1000XM4", "price": 250.0, "category_id": "audio"}),
    ];
    for (id, facts) in (1..).zip(products) {
        fixture.put_product(id, facts).await;
    }
    fixture
}

#[tokio::test]
async fn words_find_products_despite_accents_and_typing_errors() {
    let fixture = shop().await;
    for (query, first) in
        [("trail shoe", 1), ("creme brulee", 3), ("headphnoes", 4), ("wh1000xm4", 4), ("ELAN", 2)]
    {
        let answer = fixture.search(json!({"query": query})).await.json();
        assert_eq!((ids(&answer)[0], answer["total"].as_u64()), (first, Some(4)), "{query}");
        let words = fixture.search(json!({"query": query, "mode": "lexical"})).await.json();
        assert_eq!(ids(&words)[0], first, "{query}");
    }
    let code = fixture.search(json!({"query": "1000XM5", "mode": "lexical"})).await.json();
    assert_eq!(code["total"], 0, "a code has no typing errors");
}

#[tokio::test]
async fn answer_has_facets_plan_and_parts_of_scores() {
    let fixture = shop().await;
    let body = json!({"query": "shoe", "filters": {"category_id": "shoes", "max_price": 100}, "facets": true, "explain": true});
    let answer = fixture.search(body).await.json();
    assert_eq!(ids(&answer), [1]);
    assert_eq!(answer["plan"], json!({"strategy": "exact_scan", "candidates": 1, "products": 4}));
    assert_eq!(answer["facets"]["category_id"], json!([{"value": "shoes", "name": "Shoes", "count": 1}]));
    assert_eq!(answer["results"][0]["explanation"]["words"], 1);
    assert_eq!(
        (&answer["results"][0]["name"], &answer["next_cursor"]),
        (&json!("Trail running shoe"), &Value::Null)
    );
    assert_eq!(answer["position"], json!(fixture.head()));
}

#[tokio::test]
async fn changes_are_in_the_answer_at_their_position() {
    let fixture = shop().await;
    fixture.put_product(1, json!({"name": "Kettle", "category_id": "kitchen"})).await;
    let of = async |category: &str| {
        let answer =
            fixture.search(json!({"query": "kettle", "filters": {"category_id": category}})).await.json();
        ids(&answer)
    };
    assert_eq!((of("shoes").await, of("kitchen").await), (vec![2], vec![1, 3]));
    let gone = ProductDeactivated { product_id: "1".parse().unwrap() };
    let stream = StreamId::product(&acme(), &gone.product_id);
    fixture.append(stream, &[Event::Product(gone.into())]).await;
    assert_eq!(of("kitchen").await, [3]);
    let other =
        fixture.post_json("/api/v1/search", &json!({"query": "kettle"}), &[("X-Tenant", "other")]).await;
    assert_eq!(other.json()["total"], 0, "another tenant's products are not found");
}

#[tokio::test]
async fn pages_are_disjoint_and_belong_to_their_search() {
    let fixture = ReadApiFixture::open().await;
    for id in 0..60 {
        fixture.put_product(id, json!({"name": format!("shoe {id}")})).await;
    }
    let (mut found, mut cursor) = (Vec::new(), Value::Null);
    for page in 0..20 {
        let mut body = json!({"query": "shoe", "limit": 3});
        if page > 0 {
            body["cursor"] = cursor;
        }
        let answer = fixture.search(body).await.json();
        assert_eq!(answer["total"], 60);
        found.extend(ids(&answer));
        cursor = answer["next_cursor"].clone();
        fixture.put_product(100 + page, json!({"name": "shoe"})).await;
        if page == 3 {
            let other = json!({"query": "boot", "limit": 3, "cursor": cursor});
            assert_eq!(fixture.search(other).await.status, 400, "a cursor of another search");
        }
    }
    found.sort_unstable();
    assert_eq!((found, cursor), ((0..60).collect::<Vec<u64>>(), Value::Null));
}

#[tokio::test]
async fn vectors_of_a_model_are_compared_with_its_own_only() {
    let fixture = shop().await;
    for (id, vector) in [(1, [1.0, 0.0]), (2, [0.6, 0.8]), (3, [0.0, 2.0])] {
        fixture.embed_product(id, vector).await;
    }
    let near = json!({"model_id": "clip", "vector": [0, 3], "explain": true});
    let answer = fixture.search(near.clone()).await.json();
    assert_eq!((ids(&answer), &answer["model_id"]), (vec![3, 2, 1], &json!("clip")));
    assert_eq!((&answer["total"], &answer["results"][0]["score"]), (&json!(3), &json!(1.0)));
    let filtered = json!({"model_id": "clip", "vector": [0, 3], "filters": {"in_stock": true}});
    assert_eq!(ids(&fixture.search(filtered).await.json()), [2, 1]);
    let similar = fixture.search(json!({"model_id": "clip", "product_id": 1})).await.json();
    assert_eq!(ids(&similar), [2, 3]);
    fixture.embed_product(1, [0.0, 1.0]).await;
    assert_eq!(ids(&fixture.search(near).await.json()), [1, 3, 2], "by its new vector, once");
    for (body, status, text) in [
        (
            json!({"model_id": "clip", "vector": [1]}),
            422,
            "has 1 numbers; a vector of the model `clip` has 2",
        ),
        (json!({"model_id": "clip", "vector": [0, 0]}), 422, "direction"),
        (json!({"model_id": "clip", "query": "shoe"}), 422, "no encoder"),
        (json!({"model_id": "blip", "vector": [1, 0]}), 404, "no such model"),
        (json!({"model_id": "clip", "product_id": 99}), 404, "no such product"),
    ] {
        let answer = fixture.search(body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert!(answer.text.contains(text), "{body}: {}", answer.text);
    }
    let near = json!({"model_id": "clip", "vector": [1, 0]});
    let other = fixture.post_json("/api/v1/search", &near, &[("X-Tenant", "other")]).await;
    assert_eq!(other.status, 404, "another tenant's model is unknown");
}

#[tokio::test]
async fn wrong_searches_are_refused_with_the_field() {
    let fixture = shop().await;
    let vector = |length: usize, value: f64| vec![value; length];
    for (body, status, text) in [
        (json!({}), 400, "exactly one"),
        (json!({"query": "x", "product_id": 1}), 400, "exactly one"),
        (json!({"query": ""}), 400, "query"),
        (json!({"query": "?!"}), 422, "no letters"),
        (json!({"query": "x", "mode": "fuzzy"}), 400, "mode"),
        (json!({"product_id": 1, "mode": "lexical"}), 400, "mode"),
        (json!({"query": "x", "limit": 0}), 400, "limit"),
        (json!({"query": "x", "limit": 501}), 400, "limit"),
        (json!({"query": "x", "filters": {"max_price": "cheap"}}), 400, "max_price"),
        (json!({"query": "x", "cursor": "AAAA"}), 400, "cursor"),
        (json!({"query": "x", "cursor": "AAAA", "offset": 1}), 400, "offset"),
        (json!({"query": "x", "model_id": "clip"}), 404, "model"),
        (json!({"product_id": 99}), 404, "product"),
        (json!({"vector": vector(3, 1.0)}), 422, "384"),
        (json!({"vector": vector(384, 0.0)}), 422, "direction"),
        (json!({"vector": vector(384, 1e300)}), 422, "direction"),
    ] {
        let answer = fixture.search(body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert!(answer.text.contains(text), "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn several_searches_are_answered_in_their_order() {
    let fixture = shop().await;
    let body = json!({"searches": [{"query": "torch", "limit": 1}, {"product_id": 1, "limit": 1}]});
    let answers = fixture.post_json("/api/v1/search/batch", &body, &[]).await.json();
    assert_eq!(answers["results"].as_array().unwrap().iter().flat_map(ids).collect::<Vec<_>>(), [3, 2]);
    let none = fixture.post_json("/api/v1/search/batch", &json!({"searches": []}), &[]).await;
    assert_eq!(none.status, 400);
}

#[tokio::test]
async fn repeated_search_is_answered_from_the_cache() {
    let fixture = shop().await;
    let body = json!({"query": "shoe"});
    let first = fixture.search(body.clone()).await;
    assert_eq!(fixture.search(body).await.text, first.text);
    let stats = fixture.get("/cache/stats").await.json();
    assert_eq!((&stats["hits"], &stats["misses"]), (&json!(1), &json!(1)));
    assert_eq!(stats["hit_rate_percent"], 50.0);
    assert_eq!(stats["hits_by_type"], json!({"search": 1, "recommend": 0}));
    assert_eq!((&stats["popular_queries"], &stats["active_users"]), (&json!([]), &json!(0)));
    for _ in 0..3 {
        fixture.search(json!({"query": "shoe"})).await;
    }
    let later = fixture.get("/cache/stats").await.json();
    assert_eq!(later["popular_queries"], json!([{"query": "shoe", "requests": 5}]));
    let other = fixture.get_with("/cache/stats", &[("X-Tenant", "other")]).await.json();
    assert_eq!(other["popular_queries"], json!([]));
    assert_eq!((&stats["caches"][0]["name"], &stats["caches"][0]["entries"]), (&json!("search"), &json!(1)));
}

#[tokio::test]
async fn slow_queries_are_listed_for_their_tenant_only() {
    let fixture = shop().await;
    fixture.search(json!({"query": "shoe", "filters": {"category_id": "shoes"}, "limit": 3})).await;
    let list = fixture.get("/performance/slow-queries").await.json();
    let items = list["items"].as_array().unwrap();
    assert_eq!((list["threshold_ms"].as_f64(), items.len()), (Some(0.0), 1), "{list}");
    assert_eq!(
        (&items[0]["kind"], &items[0]["query"], &items[0]["limit"]),
        (&json!("search"), &json!("shoe"), &json!(3))
    );
    assert_eq!(items[0]["plan"], json!({"strategy": "exact_scan", "candidates": 2, "products": 4}));
    let other = fixture.get_with("/performance/slow-queries", &[("X-Tenant", "other")]).await.json();
    assert_eq!(other["items"], json!([]));
    assert_eq!(fixture.get("/performance/slow-queries?limit=0").await.status, 400);
}

#[tokio::test]
async fn performance_has_a_grade_once_there_are_requests() {
    let fixture = shop().await;
    let report = fixture.get("/performance").await.json();
    // No recorder of metrics is installed in these tests.
    assert_eq!(
        (&report["count"], &report["health"], &report["operations"]),
        (&json!(0), &Value::Null, &json!([]))
    );
}
