//! What another configuration would have done, on the real program.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TIMEOUT;
use crate::support::server::Server;

/// Starts a run, and waits for its result.
async fn ask(server: &Server, body: &Value) -> Value {
    let started = server.post("/internal/what-if", body).await;
    let location = started.headers["location"].to_str().unwrap().to_owned();
    started.expect(202);
    let ended = tokio::time::timeout(TIMEOUT, async {
        loop {
            let run = server.get(&location).await.expect(200);
            if run["status"] != "running" {
                return run;
            }
            tokio::task::yield_now().await;
        }
    });
    ended.await.expect("the run ends")
}

async fn join(server: &Server, user: &str, rating: u16) {
    let body = json!({"pool_key": "blitz", "rating": rating}).to_string();
    server.send(Method::POST, "/v1/matchmaking/queue", &[("x-user", user)], Some(body)).await.expect(201);
}

/// Waits for the matches of the pool.
async fn matches(server: &Server, count: u64) {
    let matched = tokio::time::timeout(TIMEOUT, async {
        while server.get("/audit/events?type=MatchConfirmed").await.expect(200)["items"]
            .as_array()
            .unwrap()
            .len() as u64
            != count
        {
            tokio::task::yield_now().await;
        }
    });
    matched.await.expect("the players are matched");
}

#[tokio::test(flavor = "multi_thread")]
async fn players_of_a_pool_are_paired_with_other_settings() {
    let server = Server::start(&[]).await;
    for (user, rating) in [("ann", 1000), ("ben", 1060), ("cal", 3000), ("dan", 3010), ("eve", 5000)] {
        join(&server, user, rating).await;
    }
    matches(&server, 2).await;
    let narrow = json!({"pool_key": "blitz", "settings": {"window": 20, "widen_by": 0}});
    let run = ask(&server, &json!({"kind": "pool", "configuration": narrow})).await;
    let found = &run["pool"];
    assert_eq!((&run["status"], &found["joined"]), (&json!("completed"), &json!(5)), "{run}");
    assert_eq!(
        (&found["recorded"]["matches"], &found["recorded"]["waiting"]),
        (&json!(2), &json!(1)),
        "{run}"
    );
    assert_eq!((&found["other"]["matches"], &found["other"]["waiting"]), (&json!(1), &json!(3)), "{run}");
    assert_eq!(found["other"]["rating_distance"]["max"], 10.0);
    let windows = [&found["recorded_settings"]["window"], &found["other_settings"]["window"]];
    assert_eq!(windows, [100, 20], "both configurations are named");
    assert_eq!((&run["from"], &run["progress"]["fraction"]), (&json!(0), &json!(1.0)), "{run}");
    assert!(found["assumption"].as_str().unwrap().contains("the same players join"));
    // Only what happened after a point.
    let after = json!({"kind": "pool", "configuration": narrow, "from": run["to"]});
    assert_eq!(ask(&server, &after).await["pool"]["joined"], 0);
    // The other tenant has another pool of this name, and other runs.
    let headers = [("x-tenant", "other")];
    let path = format!("/internal/what-if/{}", run["id"].as_str().unwrap());
    server.send(Method::GET, &path, &headers, None).await.problem(404);
    let shown = server.cli(&["what-if", "pool", "--configuration", &narrow.to_string()]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.status.success() && text.contains("recorded: 2 matches") && text.contains("assumption"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried_by_other_policies() {
    let server = Server::start(&[]).await;
    server.post("/api/v1/analysis", &json!({"url": "https://www.twitch.tv/videos/1"})).await.expect(202);
    let claim = json!({"worker_id": "w", "kinds": ["video_analysis"], "max": 1, "wait_ms": 20_000});
    let claimed = server.post("/internal/work/claim", &claim).await.expect(200);
    let lease = claimed["items"][0]["lease_id"].as_str().unwrap();
    server
        .post(&format!("/internal/work/{lease}/fail"), &json!({"error": "read timed out"}))
        .await
        .expect(200);
    let policy = json!({"retries": 0, "base_seconds": 1, "cap_seconds": 1, "backoff": "fixed"});
    let run = ask(&server, &json!({"kind": "retry", "configuration": {"network": policy}})).await;
    let found = &run["retry"];
    assert_eq!((&found["jobs"], &found["failures"]), (&json!(1), &json!(1)), "{run}");
    assert_eq!((&found["recorded"]["retries"], &found["recorded"]["open"]), (&json!(1), &json!(1)), "{run}");
    assert_eq!((&found["other"]["retries"], &found["other"]["stopped"]), (&json!(0), &json!(1)), "{run}");
    assert_eq!(found["recorded_policies"]["network"]["retries"], 3);
    assert_eq!(found["other_policies"], json!({"network": policy}));
}

#[tokio::test(flavor = "multi_thread")]
async fn served_lists_are_made_again_with_other_weights() {
    let server = Server::start(&[]).await;
    let products: Value = (0..9).map(|n| json!({"id": n, "name": format!("Shoe {n}")})).collect();
    server.post("/api/v1/products/batch", &products).await.expect(200);
    let feedback: Value = (0..40)
        .map(|n| json!({"user_id": n % 8, "product_id": n * 3 % 9, "interaction_type": "view"}))
        .collect();
    let position = server.post("/api/v1/feedback/batch", &feedback).await.expect(202)["position"].to_string();
    // Until lists can be made from it.
    let headers = [("x-min-position", position.as_str())];
    let search = json!({"query": "shoe"}).to_string();
    server.send(Method::POST, "/api/v1/search", &headers, Some(search)).await.expect(200);
    for user in 0..8 {
        let list = json!({"user_id": user, "context": "feed", "limit": 3});
        server.post("/api/v1/recommend", &list).await.expect(200);
    }
    let weights =
        json!({"long_term": 0.6, "session": 0.4, "query": 0.0, "product": 0.0, "collaborative": 0.95});
    let weights: Value = serde_json::from_str(&weights.to_string()).unwrap();
    let run =
        ask(&server, &json!({"kind": "ranking", "configuration": {"context": "feed", "weights": weights}}))
            .await;
    let found = &run["ranking"];
    // These are the weights of the context.
    assert_eq!((&found["lists"], &found["same_products"]), (&json!(8), &json!(1.0)), "{run}");
    assert_eq!(found["served_weights"][0]["lists"], 8);
    assert_eq!((&found["clicks"]["slots"], &found["clicks"]["coverage"]), (&json!(24), &json!(1.0)));
    assert_eq!(
        (&found["clicks"]["cannot_tell"], &found["clicks"]["estimates"]),
        (&json!("sample_size"), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_say_what_to_change() {
    let server = Server::start(&[]).await;
    let weights = json!({"long_term": 0, "session": 0, "query": 0, "product": 0, "collaborative": 2});
    for (kind, configuration, reason) in [
        ("pool", json!({"pool_key": "blitz", "settings": {"windows": 5}}), "there are"),
        ("pool", json!({"pool_key": "blitz", "settings": {"window": "wide"}}), "u16"),
        ("pool", json!({"settings": {}}), "pool_key"),
        ("retry", json!({}), "at least one"),
        ("retry", json!({"network": {"retries": -1}}), "-1"),
        ("ranking", json!({"context": "search", "weights": weights}), "sealed"),
        ("ranking", json!({"context": "feed", "weights": weights}), "at most 1"),
    ] {
        let body = json!({"kind": kind, "configuration": configuration});
        let problem = server.post("/internal/what-if", &body).await.problem(400);
        assert!(problem.to_string().contains(reason), "{problem}");
    }
    let right = json!({"pool_key": "blitz", "settings": {}});
    for (member, value) in [("kind", json!("none")), ("from", json!(1_000_000)), ("to", json!("tomorrow"))] {
        let mut body = json!({"kind": "pool", "configuration": right});
        body[member] = value;
        let problem = server.post("/internal/what-if", &body).await.problem(400);
        assert!(problem.to_string().contains(member), "{problem}");
    }
    server.get("/internal/what-if/7").await.problem(404);
    // Inconsistent only together with the settings in force.
    let wide = json!({"pool_key": "blitz", "settings": {"window": 2000}});
    let failed = ask(&server, &json!({"kind": "pool", "configuration": wide})).await;
    assert_eq!(failed["status"], "failed", "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("window_max"), "{failed}");
}
