//! The erasure of a person on the real program: no read finds them any more, also after a crash and a rebuild.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::Server;

async fn feedback(server: &Server, user: &str, products: &[u32], kind: &str) {
    let items: Value = products
        .iter()
        .map(|id| json!({"user_id": user, "product_id": id, "interaction_type": kind}))
        .collect();
    server.post("/api/v1/feedback/batch", &items).await.expect(202);
}

async fn at_head(server: &Server, method: Method, path: &str, body: &Value) -> Value {
    let head = server.get("/status").await.expect(200)["log"]["head"].to_string();
    let headers = [("x-min-position", head.as_str())];
    server.send(method, path, &headers, Some(body.to_string())).await.expect(200)
}

/// A catalogue, what Ann and Bob did with it, and the lists that both were shown.
async fn shop(server: &Server) -> Value {
    let products: Value =
        (0..12).map(|n| json!({"id": n, "name": format!("Shoe {n}"), "price": 10 + n})).collect();
    server.post("/api/v1/products/batch", &products).await.expect(200);
    feedback(server, "bob", &[1, 2], "click").await;
    feedback(server, "annabel", &[1, 2, 3, 4, 5], "purchase").await;
    let search = json!({"user_id": "annabel", "context": "search", "query": "zebra shoe"});
    at_head(server, Method::POST, "/api/v1/recommend", &search).await
}

fn products(list: &Value) -> Vec<Value> {
    list["results"].as_array().unwrap().iter().map(|item| item["product_id"].clone()).collect()
}

/// What Bob's start page shows.
async fn feed_of_bob(server: &Server) -> Vec<Value> {
    let body = json!({"user_id": "bob", "context": "feed", "limit": 12});
    products(&at_head(server, Method::POST, "/api/v1/recommend", &body).await)
}

async fn nothing_is_known_of_ann(server: &Server, list: &str) {
    let head = server.get("/status").await.expect(200)["log"]["head"].to_string();
    let headers = [("x-min-position", head.as_str())];
    for path in [
        "/api/v1/users/annabel/profile".to_owned(),
        "/audit/subjects/annabel/report".to_owned(),
        format!("/api/v1/recommendations/{list}"),
    ] {
        server.send(Method::GET, &path, &headers, None).await.problem(404);
    }
    // Of a position, so that it is not recorded as shown, which would create a new subject.
    let body = json!({"user_id": "annabel", "context": "feed", "as_of": head});
    let list = at_head(server, Method::POST, "/api/v1/recommend", &body).await;
    assert!(list["fallback"].is_object(), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_user_is_gone_from_every_read() {
    let mut server = Server::start(&[]).await;
    let list = shop(&server).await;
    let list = list["request_id"].as_str().unwrap().to_owned();
    let before = feed_of_bob(&server).await;
    let report = server.get("/audit/subjects/annabel/report").await.expect(200);
    assert_eq!(report["profile"]["interactions"]["purchases"], 5, "{report}");
    let events = report["events"].as_array().unwrap();
    assert_eq!(events.len(), 6, "{report}");
    assert_eq!((&events[5]["type"], &events[5]["text"]), (&json!("ListServed"), &json!("zebra shoe")));

    let erased = server.post("/audit/subjects/annabel/erase", &json!({})).await.expect(200);
    assert_eq!(erased["remaining"]["user_events"], 6, "{erased}");
    nothing_is_known_of_ann(&server, &list).await;
    assert_ne!(feed_of_bob(&server).await, before, "what Ann bought no longer counts");
    let audit = server.get_at_head("/audit/events?limit=500").await;
    assert!(!audit.to_string().contains("zebra"), "the query stays sealed");
    let types = audit["items"].as_array().unwrap().iter().map(|event| event["type"].clone());
    assert!(types.into_iter().any(|name| name == "SubjectKeyDestroyed"));

    server.kill();
    server.restart().await;
    nothing_is_known_of_ann(&server, &list).await;
    // The same read models as from the log alone.
    let live = feed_of_bob(&server).await;
    server.post("/internal/projections/search/rebuild", &json!({})).await.expect(200);
    assert_eq!(feed_of_bob(&server).await, live);
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_file_has_no_trace_of_an_erased_user() {
    let mut server = Server::start(&[]).await;
    shop(&server).await;
    let has_name = |server: &Server| {
        let bytes = std::fs::read(server.data().join("vault.sqlite")).unwrap();
        bytes.windows(7).any(|window| window == b"annabel")
    };
    assert!(has_name(&server));
    server.post("/audit/subjects/annabel/erase", &json!({})).await.expect(200);
    server.kill();
    assert!(!has_name(&server));
}
