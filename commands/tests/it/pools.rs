use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{Answer, Bench};

const BLITZ: &str = "/internal/pools/blitz";

impl Bench {
    async fn rated(&self, user: &str, rating: u16) -> Answer {
        self.join_as(user, &json!({"pool_key": "blitz", "rating": rating})).await
    }
}

#[tokio::test]
async fn a_pool_is_set_whole_and_what_is_missing_is_as_nobody_set_it() {
    let bench = Bench::new().await;
    let body = json!({"window": 50, "window_policy": "both"});
    let set = bench.put(BLITZ, &body).await;
    let settings = json!({
        "window": 50, "widen_by": 25, "widen_every_seconds": 10, "window_max": 1000, "window_policy": "both",
        "entry_expires_after_seconds": 600, "rematch_after_seconds": 60, "result_expires_after_seconds": 7200,
        "challenge_expires_after_seconds": 300,
    });
    assert_eq!(set.body, json!({"pool_key": "blitz", "settings": settings, "position": 1}));
    assert_eq!(bench.put(BLITZ, &body).await, set);
    assert_eq!(bench.head(), 1);
    let reset = bench.put(BLITZ, &json!({})).await.ok()["settings"].clone();
    assert_eq!((&reset["window"], &reset["window_policy"]), (&json!(100), &json!("longest_waiting")));
    assert_eq!(bench.head(), 2);
}

#[tokio::test]
async fn settings_sent_again_under_their_key_do_not_come_back() {
    let bench = Bench::new().await;
    let narrow = json!({"window": 10});
    let set = || bench.call("PUT", BLITZ).key("k").body(&narrow).send();
    let first = set().await;
    bench.put(BLITZ, &json!({})).await.ok();
    assert_eq!(set().await, first);
    assert_eq!(bench.head(), 2);
}

#[tokio::test]
async fn those_who_wait_meet_at_once_when_their_pool_lets_them() {
    let bench = Bench::new().await;
    bench.rated("ann", 1500).await.ok();
    bench.rated("bob", 1900).await.ok();
    bench.rest().await;
    assert_eq!(bench.count("MatchProposed").await, 0);
    bench.put(BLITZ, &json!({"window": 400})).await.ok();
    bench.until_count("MatchConfirmed", 1).await;
}

#[tokio::test]
async fn an_entry_waits_as_long_as_the_least_patient_of_its_pools() {
    let bench = Bench::new().await;
    bench.put(BLITZ, &json!({"entry_expires_after_seconds": 60})).await.ok();
    bench.put("/internal/pools/rapid", &json!({"entry_expires_after_seconds": 3600})).await.ok();
    for (user, pools) in [("ann", ["rapid", "blitz"]), ("carl", ["blitz", "rapid"])] {
        let joined = bench.join_as(user, &json!({"pool_keys": pools})).await.ok();
        assert_eq!(joined["expires_at"], "2026-11-20T10:01:00.000000Z");
    }
    let joined = bench.join_as("bob", &json!({"pool_key": "rapid"})).await.ok();
    assert_eq!(joined["expires_at"], "2026-11-20T11:00:00.000000Z");
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_with_what_is_wrong() {
    let bench = Bench::new().await;
    for (body, field) in [
        (json!({"window": -1}), "window"),
        (json!({"window_max": 10_001}), "window_max"),
        (json!({"widen_every_seconds": 0}), "widen_every_seconds"),
        (json!({"entry_expires_after_seconds": 86_401}), "entry_expires_after_seconds"),
        (json!({"window_policy": "nearest"}), "window_policy"),
    ] {
        let answer = bench.put(BLITZ, &body).await;
        assert_eq!(answer.fields(), [field]);
        answer.refused(400, "INVALID_REQUEST");
    }
    let refused = bench.put(BLITZ, &json!({"window": 200, "window_max": 100})).await;
    let refused: Value = refused.refused(422, "UNPROCESSABLE");
    assert!(refused["detail"].as_str().unwrap().contains("raise window_max"), "{refused}");
    assert_eq!(bench.head(), 0);
}

#[tokio::test]
async fn only_an_admin_sets_a_pool_and_only_their_tenants() {
    let bench = Bench::with_keys().await;
    let set = |role| bench.call("PUT", BLITZ).roles("w", role).body(&json!({})).send();
    for role in [Role::User, Role::Worker, Role::Service, Role::Auditor] {
        set(role).await.refused(403, "FORBIDDEN");
    }
    set(Role::Admin).await.ok();
    let bench = Bench::new().await;
    let wide = json!({"window": 1000});
    bench.call("PUT", BLITZ).tenant("other").body(&wide).send().await.ok();
    bench.rated("ann", 1000).await.ok();
    bench.rated("bob", 2000).await.ok();
    bench.rest().await;
    assert_eq!(bench.count("MatchProposed").await, 0);
}
