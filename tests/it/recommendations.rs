//! Recommendations on the real program: served lists, their explanation, the past, and live streams.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::sse_client::SseClient;

/// Twenty products in three categories, and users who like the same two or three of them.
async fn catalogue(server: &Server) {
    let products: Value = (0..20)
        .map(|n| json!({"id": n, "name": format!("Shoe {n}"), "category_id": n % 3, "price": 10 + n}))
        .collect();
    server.post("/api/v1/products/batch", &products).await.expect(200);
    let feedback: Value = (0..200)
        .map(|n| json!({"user_id": n % 17, "product_id": (n % 17 + n / 17 % 3) % 20, "interaction_type": "click"}))
        .collect();
    server.post("/api/v1/feedback/batch", &feedback).await.expect(202);
}

/// Posts at the head of the log.
async fn post_at_head(server: &Server, path: &str, body: &Value) -> Value {
    let head = server.get("/status").await.expect(200)["log"]["head"].to_string();
    let headers = [("x-min-position", head.as_str())];
    server.send(Method::POST, path, &headers, Some(body.to_string())).await.expect(200)
}

fn products(list: &Value) -> Vec<Value> {
    list["results"].as_array().unwrap().iter().map(|item| item["product_id"].clone()).collect()
}

async fn served(server: &Server, list: &Value) -> Value {
    let id = list["request_id"].as_str().unwrap();
    server.get_at_head(&format!("/api/v1/recommendations/{id}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_of_a_refused_batch_are_not_recorded() {
    let server = Server::start(&[]).await;
    catalogue(&server).await;
    let right = json!({"query": "shoe 7", "record": true, "user_id": 3});
    let batch = json!({"searches": [right, {"product_id": 4}, right, {"product_id": "unknown"}]});
    let head = || async { server.get("/status").await.expect(200)["log"]["head"].clone() };
    let before = head().await;
    server.post("/api/v1/search/batch", &batch).await.problem(404);
    assert_eq!(head().await, before);

    let batch = json!({"searches": [right, {"product_id": 4}, right]});
    let answered = post_at_head(&server, "/api/v1/search/batch", &batch).await;
    assert!(answered["results"][1]["request_id"].is_null(), "{answered}");
    for n in [0, 2] {
        assert_eq!(served(&server, &answered["results"][n]).await["equal"], true, "{answered}");
    }
}

/// Posts with an idempotency key, and returns the whole answer.
async fn post_with_key(server: &Server, path: &str, key: &str, body: &Value) -> Value {
    server.send(Method::POST, path, &[("idempotency-key", key)], Some(body.to_string())).await.expect(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_request_for_a_list_gets_the_list_it_was_served() {
    let mut server = Server::start(&[]).await;
    catalogue(&server).await;
    let body = json!({"user_id": 3, "context": "search", "query": "shoe 7", "limit": 5});
    let other = json!({"user_id": 4, "context": "feed"});
    let batch = json!({"requests": [body, other, {"user_id": 3, "context": "feed", "explain": true}]});
    let head = || async { server.get("/status").await.expect(200)["log"]["head"].clone() };
    let list = post_with_key(&server, "/api/v1/recommend", "one", &body).await;
    let lists = post_with_key(&server, "/api/v1/recommend/batch", "one", &batch).await;
    let change = json!([{"user_id": 3, "product_id": 19, "interaction_type": "purchase"}]);
    server.post("/api/v1/feedback/batch", &change).await.expect(202);
    let before = head().await;
    assert_eq!(post_with_key(&server, "/api/v1/recommend", "one", &body).await, list);
    assert_eq!(post_with_key(&server, "/api/v1/recommend/batch", "one", &batch).await, lists);
    assert_eq!(head().await, before);
    let key = [("idempotency-key", "one")];
    server.send(Method::POST, "/api/v1/recommend", &key, Some(other.to_string())).await.problem(422);
    server.kill();
    server.restart().await;
    assert_eq!(post_with_key(&server, "/api/v1/recommend", "one", &body).await, list);
}

#[tokio::test(flavor = "multi_thread")]
async fn served_list_is_computed_again_from_the_log() {
    let mut server = Server::start(&[]).await;
    catalogue(&server).await;
    let mut lists = Vec::new();
    for body in [
        json!({"user_id": 3, "context": "feed", "limit": 5}),
        json!({"user_id": 3, "context": "category", "category_id": 1}),
        json!({"user_id": 3, "context": "similar", "product_id": 4, "limit": 7, "exclude": [5]}),
        json!({"user_id": "none", "context": "search", "query": "shoe 7", "filters": {"max_price": 20}}),
    ] {
        let list = post_at_head(&server, "/api/v1/recommend", &body).await;
        assert!(!products(&list).is_empty(), "{list}");
        lists.push(list);
    }
    let vector = |id: u32| json!({"product_id": id, "model_id": "clip", "vector": [1.0, f64::from(30 - id)]});
    let vectors: Vec<Value> = (1..10).map(vector).collect();
    server.post("/api/v1/products/embeddings/batch", &json!(vectors)).await.expect(200);
    for body in [
        json!({"product_id": 4, "model_id": "clip", "limit": 5, "record": true, "user_id": 3}),
        json!({"query": "shoe 7", "filters": {"max_price": 25}, "limit": 3, "offset": 1, "record": true, "user_id": 3}),
        json!({"product_id": 4, "limit": 5, "record": true}),
    ] {
        let list = post_at_head(&server, "/api/v1/search", &body).await;
        let then = served(&server, &list).await;
        assert_eq!(then["equal"], true, "{then}");
        let results = list["results"].as_array().unwrap().iter().map(|result| &result["product_id"]);
        assert!(results.eq(then["served"].as_array().unwrap().iter().map(|product| &product["product_id"])));
    }
    let change = json!([{"user_id": 3, "product_id": 19, "interaction_type": "purchase"},
                        {"user_id": 3, "product_id": 18, "interaction_type": "purchase"}]);
    server.post("/api/v1/feedback/batch", &change).await.expect(202);
    server.send(Method::DELETE, "/api/v1/products/4", &[], None).await.expect(200);
    for list in &lists {
        let then = served(&server, list).await;
        assert_eq!((&then["equal"], &then["differences"]), (&json!(true), &json!([])), "{then}");
        assert_eq!(
            (&then["results"][0]["score"], products(&then)),
            (&list["results"][0]["score"], products(list))
        );
    }
    let then = served(&server, &lists[3]).await;
    assert_eq!((&then["query"], &then["user_id"]), (&json!("shoe 7"), &json!("none")));
    let stored = server.get_at_head("/audit/events?type=ListServed&limit=50").await;
    assert!(!stored.to_string().contains("shoe 7"), "the query is sealed");
    server.kill();
    server.restart().await;
    assert_eq!(served(&server, &lists[2]).await["equal"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_changes_the_next_list_and_not_the_past() {
    let mut server = Server::start(&[]).await;
    catalogue(&server).await;
    let body = json!({"user_id": 3, "context": "feed", "limit": 20, "explain": true});
    let before = post_at_head(&server, "/api/v1/recommend", &body).await;
    let first = products(&before)[0].clone();
    let bought = json!({"user_id": 3, "product_id": first, "interaction_type": "purchase",
                        "request_id": before["request_id"], "position": 0});
    let position = server.post("/api/v1/feedback", &bought).await.expect(202)["position"].to_string();
    let headers = [("x-min-position", position.as_str())];
    let after =
        server.send(Method::POST, "/api/v1/recommend", &headers, Some(body.to_string())).await.expect(200);
    assert!(products(&before).contains(&first) && !products(&after).contains(&first));
    assert_eq!(after["left_out"]["bought"], 1, "{after}");
    assert!(before["position"].as_u64() > before["computed_from"].as_u64());
    server.kill();
    server.restart().await;
    for (list, expected) in [(&before, &before), (&after, &after)] {
        let mut then = body.clone();
        then["as_of"] = list["position"].clone();
        let then = post_at_head(&server, "/api/v1/recommend", &then).await;
        assert_eq!(products(&then), products(expected));
        assert_eq!((&then["request_id"], &then["computed_from"]), (&Value::Null, &list["position"]));
    }
    let again = post_at_head(&server, "/api/v1/recommend", &body).await;
    // The interests of a session fade with time, which moves only the last products.
    assert_eq!(products(&again)[..5], products(&after)[..5], "a kill changes no list");
    assert_eq!(served(&server, &after).await["equal"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_serves_all_lists_or_none() {
    let server = Server::start(&[]).await;
    catalogue(&server).await;
    let requests: Vec<_> =
        (0..20).map(|n| json!({"user_id": n % 6, "context": "feed", "limit": 3})).collect();
    let answers = post_at_head(&server, "/api/v1/recommend/batch", &json!({ "requests": requests })).await;
    let answers = answers["results"].as_array().unwrap();
    assert_eq!(answers.len(), 20);
    for (n, list) in answers.iter().enumerate() {
        assert_eq!(list["user_id"], n % 6);
        assert_eq!(products(&served(&server, list).await), products(list));
    }
    let count = async || server.get_at_head("/audit/events?type=ListServed&limit=500").await["items"].clone();
    assert_eq!(count().await.as_array().unwrap().len(), 20);
    let mut wrong = requests.clone();
    wrong[7] = json!({"user_id": 1, "context": "similar", "product_id": "unknown"});
    let refused = server.post("/api/v1/recommend/batch", &json!({ "requests": wrong })).await;
    refused.problem(404);
    assert_eq!(count().await.as_array().unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_list_is_recorded_with_its_own_instant() {
    let server = Server::start(&[]).await;
    catalogue(&server).await;
    let body = json!({"user_id": 3, "context": "feed", "limit": 5, "explain": true});
    let first = post_at_head(&server, "/api/v1/recommend", &body).await;
    let again = post_at_head(&server, "/api/v1/recommend", &body).await;
    assert_eq!(server.get("/cache/stats").await.expect(200)["hits_by_type"]["recommend"], 1);
    assert_ne!(first["request_id"], again["request_id"]);
    assert_eq!((&first["results"], &first["computed_at"]), (&again["results"], &again["computed_at"]));
    let served = served(&server, &again).await;
    assert_eq!((&served["equal"], &served["served_at"]), (&json!(true), &again["computed_at"]));
    assert_eq!(served["results"], again["results"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn blend_can_be_given_in_the_query() {
    let server = Server::start(&[]).await;
    catalogue(&server).await;
    let body = json!({"user_id": 3, "context": "feed", "limit": 5});
    let of_body = json!({"user_id": 3, "context": "feed", "limit": 5, "blend": "embedding"});
    let expected = post_at_head(&server, "/api/v1/recommend", &of_body).await;
    assert_eq!(expected["strategy"], "embedding");
    let in_query = post_at_head(&server, "/api/v1/recommend?blend=embedding", &body).await;
    assert_eq!((&in_query["strategy"], &in_query["results"]), (&expected["strategy"], &expected["results"]));
    let batch = json!({"requests": [body, of_body, {"user_id": 3, "context": "feed", "blend": "joined"}]});
    let batch = post_at_head(&server, "/api/v1/recommend/batch?blend=embedding", &batch).await;
    let strategies: Vec<_> =
        batch["results"].as_array().unwrap().iter().map(|list| &list["strategy"]).collect();
    assert_eq!(strategies[..2], ["embedding", "embedding"]);
    assert_ne!(strategies[2], "embedding");
    server.post("/api/v1/recommend?blend=vectors", &of_body).await.problem(400);
    server.post("/api/v1/recommend?blnd=embedding", &of_body).await.problem(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_seen_by_its_user_and_tenant_only() {
    let server = Server::start(&[]).await;
    catalogue(&server).await;
    let list = post_at_head(&server, "/api/v1/recommend", &json!({"user_id": 3, "context": "feed"})).await;
    let path = format!("/api/v1/recommendations/{}", list["request_id"].as_str().unwrap());
    let get =
        async |path: &str, headers: &[(&str, &str)]| server.send(Method::GET, path, headers, None).await;
    get(&path, &[("x-user", "3")]).await.expect(200);
    get(&path, &[("x-user", "4")]).await.problem(404);
    get(&path, &[("x-tenant", "other")]).await.problem(404);
    get("/api/v1/recommendations/7", &[]).await.problem(404);
    get("/api/v1/users/3/recommendations/stream", &[("x-user", "4")]).await.problem(404);
    let headers = [("x-user", "4")];
    let other = json!({"user_id": 3, "context": "feed"}).to_string();
    server.send(Method::POST, "/api/v1/recommend", &headers, Some(other)).await.problem(403);
    let elsewhere = [("x-tenant", "other")];
    let body = json!({"user_id": 3, "context": "feed"}).to_string();
    let empty = server.send(Method::POST, "/api/v1/recommend", &elsewhere, Some(body)).await.expect(200);
    assert_eq!(empty["results"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_request_says_what_to_change() {
    let server = Server::start(&[]).await;
    catalogue(&server).await;
    for (body, status, field) in [
        (json!({"user_id": 3, "context": "home"}), 400, "context"),
        (json!({"context": "feed"}), 400, "user_id"),
        (json!({"user_id": "x".repeat(129), "context": "feed"}), 400, "user_id"),
        (json!({"user_id": 3, "context": "feed", "limit": 0}), 400, "limit"),
        (json!({"user_id": 3, "context": "feed", "limit": 501}), 400, "limit"),
        (json!({"user_id": 3, "context": "feed", "query": "shoe"}), 400, "query"),
        (json!({"user_id": 3, "context": "search"}), 400, "query"),
        (json!({"user_id": 3, "context": "search", "query": "?!"}), 422, "query"),
        (json!({"user_id": 3, "context": "similar"}), 400, "product_id"),
        (json!({"user_id": 3, "context": "category"}), 400, "category_id"),
        (
            json!({"user_id": 3, "context": "category", "category_id": 1, "filters": {"category_id": 2}}),
            400,
            "category_id",
        ),
        (json!({"user_id": 3, "context": "feed", "diversity": 1.5}), 400, "diversity"),
        (json!({"user_id": 3, "context": "feed", "blend": "all"}), 400, "blend"),
        (json!({"user_id": 3, "context": "feed", "as_of": "yesterday"}), 400, "as_of"),
        (json!({"user_id": 3, "context": "feed", "as_of": 1_000_000}), 400, "as_of"),
        (json!({"user_id": 3, "context": "feed", "as_of": "2999-01-01T00:00:00Z"}), 400, "as_of"),
    ] {
        let response = server.post("/api/v1/recommend", &body).await;
        let problem = response.problem(status);
        assert!(problem["detail"].as_str().unwrap().contains(field), "{body} {problem}");
    }
    let lists = server.get_at_head("/audit/events?type=ListServed").await;
    assert_eq!(lists["items"], json!([]), "nothing was served");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_sends_a_new_list_after_feedback() {
    let server = Server::start(&[]).await;
    catalogue(&server).await;
    let path = "/api/v1/users/3/recommendations/stream?limit=20";
    let mut client = SseClient::open(&server, path, None).await.unwrap();
    let mut list = async || loop {
        let event = client.next().await.unwrap();
        if event.event == "recommendations" {
            assert_eq!(event.id, event.data["position"].as_u64());
            return event.data;
        }
    };
    let before = list().await;
    let bought = products(&before)[0].clone();
    let feedback = json!({"user_id": 3, "product_id": bought, "interaction_type": "purchase"});
    server.post("/api/v1/feedback", &feedback).await.expect(202);
    let after = list().await;
    assert!(!products(&after).contains(&bought), "{after}");
    assert_eq!(served(&server, &after).await["equal"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_list_is_explained_and_not_served() {
    let server = Server::start(&[]).await;
    catalogue(&server).await;
    let path = "/api/v1/users/3/recommendations/stream?explain=true&record=false";
    let mut client = SseClient::open(&server, path, None).await.unwrap();
    let list = loop {
        let event = client.next().await.unwrap();
        if event.event == "recommendations" {
            break event.data;
        }
    };
    assert_eq!((&list["request_id"], &list["position"]), (&Value::Null, &list["computed_from"]));
    assert!(list["results"][0]["explanation"].is_object() && list["left_out"].is_object(), "{list}");
    let lists = server.get_at_head("/audit/events?type=ListServed").await;
    assert_eq!(lists["items"], json!([]));
    // Users receive what is served to them.
    let as_user = [("x-user", "3")];
    server.send(Method::GET, path, &as_user, None).await.problem(403);
    server.get("/api/v1/users/stranger/recommendations/stream?record=false").await.problem(404);
}
