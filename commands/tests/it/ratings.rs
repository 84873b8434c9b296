use std::time::Duration;

use futures_util::future::join;
use serde_json::{Value, json};
use web::caller::Role;

use crate::outside::{Mood, Services};
use crate::support::{Answer, Bench};

async fn rated(bench: &Bench, user: &str) -> (Value, Value) {
    let joined = bench.join_as(user, &json!({"pool_key": "blitz"})).await.ok();
    (joined["pools"][0]["rating"].clone(), joined["pools"][0]["rating_source"].clone())
}

fn known(rating: u16, source: &str) -> (Value, Value) {
    (json!(rating), json!(source))
}

#[tokio::test]
async fn the_rating_service_is_asked_when_nobody_else_says_how_strong_a_player_is() {
    let services = Services::start().await;
    services.rate("ann", 1712.5);
    let bench = Bench::with_outside(services.outside()).await;
    assert_eq!(rated(&bench, "ann").await, known(1713, "rating_service"));
    assert_eq!(rated(&bench, "bob").await, known(1500, "default"));
    let body = json!({"opponent_id": "bob", "pool_key": "blitz"});
    let made = bench.call("POST", "/v1/matchmaking/challenges").user("ann").body(&body).send().await.ok();
    assert_eq!((made["rating"].clone(), made["rating_source"].clone()), known(1713, "rating_service"));
}

#[tokio::test]
async fn a_token_spares_the_question() {
    let services = Services::start().await;
    services.rate("ann", 1712.0);
    let bench = Bench::with_keys().await.asking(services.outside()).await;
    let call = bench.call("POST", "/v1/matchmaking/queue");
    let call = call.claims("ann", Role::User, |claims| claims.rating("blitz", 1600.0));
    let joined: Answer = call.body(&json!({"pool_keys": ["blitz", "rapid"]})).send().await;
    let pools = joined.ok()["pools"].clone();
    assert_eq!(
        pools,
        json!([
            {"pool_key": "blitz", "rating": 1600, "rating_source": "token"},
            {"pool_key": "rapid", "rating": 1712, "rating_source": "rating_service"},
        ])
    );
    assert_eq!(services.asked(), 1);
}

#[tokio::test]
async fn a_join_gets_through_whatever_the_rating_service_does() {
    for mood in [Mood::Failing, Mood::Refusing, Mood::Ignorant, Mood::Silent] {
        let services = Services::start().await;
        services.rate("ann", 1712.0);
        services.turn(mood);
        let outside = services.patient(Duration::from_millis(100));
        let bench = Bench::with_outside(outside).await;
        assert_eq!(rated(&bench, "ann").await, known(1500, "default"), "{mood:?}");
        assert_eq!(services.asked(), 1);
    }
}

#[tokio::test]
async fn a_join_to_many_pools_asks_for_all_its_ratings_at_once() {
    let services = Services::start().await;
    services.rate("ann", 1712.0);
    services.turn(Mood::Held);
    let bench = Bench::with_outside(services.outside()).await;
    let pools: Vec<String> = (0..16).map(|n| format!("pool-{n}")).collect();
    let body = json!({"pool_keys": pools});
    let waiting = async {
        services.until_asked(16).await;
        services.turn(Mood::Well);
    };
    let (joined, ()) = join(bench.join_as("ann", &body), waiting).await;
    let joined = joined.ok();
    let mut pools = joined["pools"].as_array().unwrap().iter();
    assert!(pools.all(|pool| pool["rating_source"] == "rating_service"), "{joined}");
}
