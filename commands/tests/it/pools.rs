use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{TestApp, TestResponse};

const BLITZ: &str = "/internal/pools/blitz";

impl TestApp {
    async fn rated(&self, user: &str, rating: u16) -> TestResponse {
        self.join_as(user, &json!({"pool_key": "blitz", "rating": rating})).await
    }
}

#[tokio::test]
async fn pool_is_replaced_and_missing_settings_get_defaults() {
    let app = TestApp::new().await;
    let body = json!({"window": 50, "window_policy": "both"});
    let set = app.put(BLITZ, &body).await;
    let settings = json!({
        "window": 50, "widen_by": 25, "widen_every_seconds": 10, "window_max": 1000, "window_policy": "both",
        "entry_expires_after_seconds": 600, "rematch_after_seconds": 60, "result_expires_after_seconds": 7200,
        "challenge_expires_after_seconds": 300,
    });
    assert_eq!(set.body, json!({"pool_key": "blitz", "settings": settings, "position": 1}));
    assert_eq!(app.put(BLITZ, &body).await, set);
    assert_eq!(app.head(), 1);
    let reset = app.put(BLITZ, &json!({})).await.ok()["settings"].clone();
    assert_eq!((&reset["window"], &reset["window_policy"]), (&json!(100), &json!("longest_waiting")));
    assert_eq!(app.head(), 2);
}

#[tokio::test]
async fn repeated_settings_key_does_not_apply_again() {
    let app = TestApp::new().await;
    let narrow = json!({"window": 10});
    let set = || app.call("PUT", BLITZ).key("k").body(&narrow).send();
    let first = set().await;
    app.put(BLITZ, &json!({})).await.ok();
    assert_eq!(set().await, first);
    assert_eq!(app.head(), 2);
}

#[tokio::test]
async fn wider_window_pairs_queued_players_at_once() {
    let app = TestApp::new().await;
    app.rated("ann", 1500).await.ok();
    app.rated("bob", 1900).await.ok();
    app.run_ready_tasks().await;
    assert_eq!(app.count("MatchProposed").await, 0);
    app.put(BLITZ, &json!({"window": 400})).await.ok();
    app.until_count("MatchConfirmed", 1).await;
}

#[tokio::test]
async fn entry_uses_the_shortest_expiry_of_its_pools() {
    let app = TestApp::new().await;
    app.put(BLITZ, &json!({"entry_expires_after_seconds": 60})).await.ok();
    app.put("/internal/pools/rapid", &json!({"entry_expires_after_seconds": 3600})).await.ok();
    for (user, pools) in [("ann", ["rapid", "blitz"]), ("carl", ["blitz", "rapid"])] {
        let joined = app.join_as(user, &json!({"pool_keys": pools})).await.ok();
        assert_eq!(joined["expires_at"], "2026-11-20T10:01:00.000000Z");
    }
    let joined = app.join_as("bob", &json!({"pool_key": "rapid"})).await.ok();
    assert_eq!(joined["expires_at"], "2026-11-20T11:00:00.000000Z");
}

#[tokio::test]
async fn invalid_settings_are_refused_with_their_field() {
    let app = TestApp::new().await;
    for (body, field) in [
        (json!({"window": -1}), "window"),
        (json!({"window_max": 10_001}), "window_max"),
        (json!({"widen_every_seconds": 0}), "widen_every_seconds"),
        (json!({"entry_expires_after_seconds": 86_401}), "entry_expires_after_seconds"),
        (json!({"window_policy": "nearest"}), "window_policy"),
    ] {
        let response = app.put(BLITZ, &body).await;
        assert_eq!(response.fields(), [field]);
        response.refused(400, "INVALID_REQUEST");
    }
    let refused = app.put(BLITZ, &json!({"window": 200, "window_max": 100})).await;
    let refused: Value = refused.refused(422, "UNPROCESSABLE");
    assert!(refused["detail"].as_str().unwrap().contains("raise window_max"), "{refused}");
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn pool_settings_require_admin_and_are_per_tenant() {
    let app = TestApp::with_keys().await;
    let set = |role| app.call("PUT", BLITZ).roles("w", role).body(&json!({})).send();
    for role in [Role::User, Role::Worker, Role::Service, Role::Auditor] {
        set(role).await.refused(403, "FORBIDDEN");
    }
    set(Role::Admin).await.ok();
    let app = TestApp::new().await;
    let wide = json!({"window": 1000});
    app.call("PUT", BLITZ).tenant("other").body(&wide).send().await.ok();
    app.rated("ann", 1000).await.ok();
    app.rated("bob", 2000).await.ok();
    app.run_ready_tasks().await;
    assert_eq!(app.count("MatchProposed").await, 0);
}
