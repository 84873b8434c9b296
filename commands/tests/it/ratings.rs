use std::time::Duration;

use futures_util::future::join;
use serde_json::{Value, json};
use web::caller::Role;

use crate::external_services::{FakeServices, FaultMode};
use crate::support::{TestApp, TestResponse};

async fn rated(app: &TestApp, user: &str) -> (Value, Value) {
    let joined = app.join_as(user, &json!({"pool_key": "blitz"})).await.ok();
    (joined["pools"][0]["rating"].clone(), joined["pools"][0]["rating_source"].clone())
}

fn known(rating: u16, source: &str) -> (Value, Value) {
    (json!(rating), json!(source))
}

#[tokio::test]
async fn rating_service_is_used_without_a_token_rating() {
    let services = FakeServices::start().await;
    services.rate("ann", 1712.5);
    let app = TestApp::with_external_services(services.external_services()).await;
    assert_eq!(rated(&app, "ann").await, known(1713, "rating_service"));
    assert_eq!(rated(&app, "bob").await, known(1500, "default"));
    let body = json!({"opponent_id": "bob", "pool_key": "blitz"});
    let made = app.call("POST", "/v1/matchmaking/challenges").user("ann").body(&body).send().await.ok();
    assert_eq!((made["rating"].clone(), made["rating_source"].clone()), known(1713, "rating_service"));
}

#[tokio::test]
async fn token_rating_saves_the_call() {
    let services = FakeServices::start().await;
    services.rate("ann", 1712.0);
    let app = TestApp::with_keys().await.with_services(services.external_services()).await;
    let call = app.call("POST", "/v1/matchmaking/queue");
    let call = call.claims("ann", Role::User, |claims| claims.rating("blitz", 1600.0));
    let joined: TestResponse = call.body(&json!({"pool_keys": ["blitz", "rapid"]})).send().await;
    let pools = joined.ok()["pools"].clone();
    assert_eq!(
        pools,
        json!([
            {"pool_key": "blitz", "rating": 1600, "rating_source": "token"},
            {"pool_key": "rapid", "rating": 1712, "rating_source": "rating_service"},
        ])
    );
    assert_eq!(services.calls(), 1);
}

#[tokio::test]
async fn join_succeeds_whatever_the_rating_service_does() {
    for mode in [FaultMode::Failing, FaultMode::Refusing, FaultMode::UnknownPlayers, FaultMode::Silent] {
        let services = FakeServices::start().await;
        services.rate("ann", 1712.0);
        services.set_mode(mode);
        let external_services = services.clients(Duration::from_millis(100));
        let app = TestApp::with_external_services(external_services).await;
        assert_eq!(rated(&app, "ann").await, known(1500, "default"), "{mode:?}");
        assert_eq!(services.calls(), 1);
    }
}

#[tokio::test]
async fn open_breaker_of_the_rating_service_survives_a_restart() {
    let services = FakeServices::start().await;
    services.set_mode(FaultMode::Failing);
    let app = TestApp::with_external_services(services.external_services()).await;
    // In pools of their own, so that no game is created.
    let join = async |app: &TestApp, n: u32| {
        let body = json!({"pool_key": format!("pool-{n}")});
        app.join_as(&format!("player-{n}"), &body).await.ok();
    };
    for n in 0..10 {
        join(&app, n).await;
    }
    app.run_ready_tasks().await;
    services.set_mode(FaultMode::None);
    // With a snapshot, and by the events alone.
    let app = app.restarted().await;
    app.run_ready_tasks().await;
    join(&app, 10).await;
    let other = app.second_server().await;
    other.run_ready_tasks().await;
    join(&other, 11).await;
    assert_eq!(services.calls(), 10);
    app.advance(30).await;
    join(&app, 12).await;
    assert_eq!(services.calls(), 11);
}

#[tokio::test]
async fn join_requests_ratings_of_all_pools_concurrently() {
    let services = FakeServices::start().await;
    services.rate("ann", 1712.0);
    services.set_mode(FaultMode::Paused);
    let app = TestApp::with_external_services(services.external_services()).await;
    let pools: Vec<String> = (0..16).map(|n| format!("pool-{n}")).collect();
    let body = json!({"pool_keys": pools});
    let waiting = async {
        services.until_called(16).await;
        services.set_mode(FaultMode::None);
    };
    let (joined, ()) = join(app.join_as("ann", &body), waiting).await;
    let joined = joined.ok();
    let mut pools = joined["pools"].as_array().unwrap().iter();
    assert!(pools.all(|pool| pool["rating_source"] == "rating_service"), "{joined}");
}
