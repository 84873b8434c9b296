use serde_json::json;
use web::caller::Role;

use crate::support::{TestApp, TestResponse};

fn path(user: &str) -> String {
    format!("/v1/matchmaking/blocks/{user}")
}

impl TestApp {
    pub(crate) async fn block(&self, user: &str, other: &str) -> TestResponse {
        self.call("PUT", path(other)).user(user).send().await
    }
}

#[tokio::test]
async fn block_holds_until_unblocked_and_repeats_are_no_ops() {
    let app = TestApp::new().await;
    let blocked = app.block("ann", "bob").await;
    assert_eq!(blocked.body, json!({"user_id": "bob", "blocked": true, "position": 1}));
    assert_eq!(app.block("ann", "bob").await, blocked);
    let unblocked = app.delete_as("ann", &path("bob")).await;
    assert_eq!(unblocked.body, json!({"user_id": "bob", "blocked": false, "position": 2}));
    assert_eq!(app.delete_as("ann", &path("bob")).await, unblocked);
    assert_eq!(app.head(), 2);
}

#[tokio::test]
async fn repeated_block_key_does_not_block_again() {
    let app = TestApp::new().await;
    let block = || app.call("PUT", path("bob")).user("ann").key("k").send();
    let first = block().await;
    app.delete_as("ann", &path("bob")).await.ok();
    assert_eq!(block().await, first);
    assert_eq!(app.head(), 2);
}

#[tokio::test]
async fn unknown_user_can_be_blocked_and_unblocked() {
    let app = TestApp::new().await;
    let unblocked = app.delete_as("ann", &path("stranger")).await.ok();
    assert_eq!(unblocked, json!({"user_id": "stranger", "blocked": false, "position": 0}));
    app.block("ann", "stranger").await.ok();
    assert_eq!(app.head(), 1);
}

#[tokio::test]
async fn self_block_is_refused() {
    let app = TestApp::new().await;
    let refused = app.block("ann", "ann").await;
    assert_eq!(refused.fields(), ["user_id"]);
    refused.refused(400, "INVALID_REQUEST");
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn blocked_players_are_paired_only_after_unblocking() {
    for (blocker, blocked) in [("ann", "bob"), ("bob", "ann")] {
        let app = TestApp::new().await;
        app.block(blocker, blocked).await.ok();
        app.queue_in_blitz("ann").await;
        app.queue_in_blitz("bob").await;
        app.run_ready_tasks().await;
        app.advance(300).await;
        assert_eq!(app.count("MatchProposed").await, 0, "{blocker} blocks {blocked}");
        app.delete_as(blocker, &path(blocked)).await.ok();
        app.until_count("MatchConfirmed", 1).await;
    }
}

#[tokio::test]
async fn blocks_require_a_player_role() {
    let app = TestApp::with_keys().await;
    for method in ["PUT", "DELETE"] {
        for role in [Role::Worker, Role::Auditor] {
            app.call(method, path("bob")).roles("w", role).send().await.refused(403, "FORBIDDEN");
        }
    }
    app.call("PUT", path("bob")).roles("ann", Role::User).send().await.ok();
}
