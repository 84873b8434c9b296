use serde_json::json;
use web::caller::Role;

use crate::support::{Answer, Bench};

fn path(user: &str) -> String {
    format!("/v1/matchmaking/blocks/{user}")
}

impl Bench {
    pub(crate) async fn block(&self, user: &str, other: &str) -> Answer {
        self.call("PUT", path(other)).user(user).send().await
    }
}

#[tokio::test]
async fn blocking_holds_until_it_is_taken_back_and_twice_is_once() {
    let bench = Bench::new().await;
    let blocked = bench.block("ann", "bob").await;
    assert_eq!(blocked.body, json!({"user_id": "bob", "blocked": true, "position": 1}));
    assert_eq!(bench.block("ann", "bob").await, blocked);
    let unblocked = bench.delete_as("ann", &path("bob")).await;
    assert_eq!(unblocked.body, json!({"user_id": "bob", "blocked": false, "position": 2}));
    assert_eq!(bench.delete_as("ann", &path("bob")).await, unblocked);
    assert_eq!(bench.head(), 2);
}

#[tokio::test]
async fn a_block_sent_again_under_its_key_does_not_come_back_once_it_was_taken_back() {
    let bench = Bench::new().await;
    let block = || bench.call("PUT", path("bob")).user("ann").key("k").send();
    let first = block().await;
    bench.delete_as("ann", &path("bob")).await.ok();
    assert_eq!(block().await, first);
    assert_eq!(bench.head(), 2);
}

#[tokio::test]
async fn somebody_who_was_never_here_can_be_blocked_and_unblocked() {
    let bench = Bench::new().await;
    let nobody = bench.delete_as("ann", &path("nobody")).await.ok();
    assert_eq!(nobody, json!({"user_id": "nobody", "blocked": false, "position": 0}));
    bench.block("ann", "nobody").await.ok();
    assert_eq!(bench.head(), 1);
}

#[tokio::test]
async fn nobody_can_block_themselves() {
    let bench = Bench::new().await;
    let refused = bench.block("ann", "ann").await;
    assert_eq!(refused.fields(), ["user_id"]);
    refused.refused(400, "INVALID_REQUEST");
    assert_eq!(bench.head(), 0);
}

#[tokio::test]
async fn whoever_is_blocked_is_met_as_soon_as_the_block_is_taken_back_and_not_before() {
    for (blocker, blocked) in [("ann", "bob"), ("bob", "ann")] {
        let bench = Bench::new().await;
        bench.block(blocker, blocked).await.ok();
        bench.waits("ann").await;
        bench.waits("bob").await;
        bench.rest().await;
        bench.pass(300).await;
        assert_eq!(bench.count("MatchProposed").await, 0, "{blocker} blocks {blocked}");
        bench.delete_as(blocker, &path(blocked)).await.ok();
        bench.until_count("MatchConfirmed", 1).await;
    }
}

#[tokio::test]
async fn only_those_who_play_may_block() {
    let bench = Bench::with_keys().await;
    for method in ["PUT", "DELETE"] {
        for role in [Role::Worker, Role::Auditor] {
            bench.call(method, path("bob")).roles("w", role).send().await.refused(403, "FORBIDDEN");
        }
    }
    bench.call("PUT", path("bob")).roles("ann", Role::User).send().await.ok();
}
