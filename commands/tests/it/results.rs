use event_schemas::envelope::Event;
use event_schemas::player::PlayerEvent;
use futures_util::future::join_all;
use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{TestApp, TestResponse};

impl TestApp {
    /// Matches Ann and Bob, and returns the path for the result.
    async fn a_match(&self) -> String {
        let before = self.count("MatchConfirmed").await;
        self.queue_in_blitz("ann").await;
        self.queue_in_blitz("bob").await;
        self.until_count("MatchConfirmed", before + 1).await;
        self.run_ready_tasks().await;
        let events = self.events().await;
        let id = events.iter().rev().find_map(|envelope| envelope.stream.game_match_id()).unwrap();
        format!("/internal/matches/{id}/result")
    }

    async fn ended(&self, path: &str, result: &str) -> TestResponse {
        self.post(path, &json!({"result": result})).await
    }

    /// The change of each rating, the first player's first.
    async fn moved(&self) -> Vec<f64> {
        let moved = |envelope: event_schemas::envelope::Envelope| match envelope.event {
            Event::Player(PlayerEvent::PlayerRated(rated)) => Some(rated.after.rating - rated.before.rating),
            _ => None,
        };
        self.events().await.into_iter().filter_map(moved).collect()
    }
}

#[tokio::test]
async fn result_releases_and_rates_both_before_the_response() {
    let app = TestApp::new().await;
    let path = app.a_match().await;
    let reported = app.ended(&path, "first").await.ok();
    let id = path.split('/').nth(3).unwrap();
    assert_eq!(
        reported,
        json!({"id": id, "match_id": id, "status": "finished", "result": "first", "position": app.head()})
    );
    let moved = app.moved().await;
    assert!(moved.len() == 2 && moved[0] > 100.0 && (moved[0] + moved[1]).abs() < 1e-6, "{moved:?}");
    let joined = app.join_as("ann", &json!({"pool_key": "blitz"})).await.ok();
    assert_eq!(joined["pools"][0]["rating_source"], "history");
}

#[tokio::test]
async fn repeated_result_counts_once_on_all_servers() {
    let app = TestApp::new().await;
    let path = app.a_match().await;
    let responses = join_all((0..8).map(|_| app.ended(&path, "draw"))).await;
    assert!(
        responses.iter().all(|response| response.status == 200 && *response == responses[0]),
        "{responses:?}"
    );
    let head = app.head();
    app.queue_in_blitz("ann").await;
    let app = app.restarted().await;
    assert_eq!(app.ended(&path, "draw").await, responses[0]);
    let other = app.second_server().await;
    assert_eq!(other.ended(&path, "draw").await, responses[0]);
    assert_eq!(app.head(), head + 1);
    assert_eq!((app.count("MatchResultReported").await, app.count("PlayerRated").await), (1, 2));
}

#[tokio::test]
async fn repeated_result_key_gets_its_first_result() {
    let app = TestApp::new().await;
    let path = app.a_match().await;
    let report = |result: &str| app.call("POST", &path).key("k").body(&json!({"result": result})).send();
    let first = report("second").await;
    assert_eq!(report("second").await, first);
    report("first").await.refused(422, "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test]
async fn different_result_is_refused() {
    let app = TestApp::new().await;
    let path = app.a_match().await;
    app.ended(&path, "first").await.ok();
    let head = app.head();
    app.ended(&path, "second").await.refused(409, "CONFLICT");
    assert_eq!(app.head(), head);
}

#[tokio::test]
async fn aborted_game_releases_both_without_rating() {
    let app = TestApp::new().await;
    let path = app.a_match().await;
    app.ended(&path, "aborted").await.ok();
    assert_eq!((app.count("PlayerReleased").await, app.count("PlayerRated").await), (2, 0));
}

#[tokio::test]
async fn match_without_a_result_expires_and_refuses_one() {
    let app = TestApp::new().await;
    let path = app.a_match().await;
    app.advance(2 * 60 * 60 - 1).await;
    assert_eq!(app.count("MatchExpired").await, 0);
    app.advance(1).await;
    app.until_count("PlayerReleased", 2).await;
    app.ended(&path, "first").await.refused(409, "CONFLICT");
    assert_eq!(app.count("PlayerRated").await, 0);
}

#[tokio::test]
async fn rematch_waits_for_its_cooldown() {
    let app = TestApp::new().await;
    let path = app.a_match().await;
    app.ended(&path, "aborted").await.ok();
    app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    app.run_ready_tasks().await;
    app.advance(59).await;
    assert_eq!(app.count("MatchProposed").await, 1);
    app.advance(1).await;
    app.until_count("MatchConfirmed", 2).await;
}

#[tokio::test]
async fn another_tenants_match_is_404_like_an_unknown_one() {
    let app = TestApp::new().await;
    let path = app.a_match().await;
    let head = app.head();
    let body = json!({"result": "first"});
    let anothers = app.call("POST", &path).tenant("other").body(&body).send().await;
    let never = app.ended("/internal/matches/018f0000-0000-7000-8000-000000000001/result", "first").await;
    assert_eq!(anothers.body["detail"], never.body["detail"]);
    anothers.refused(404, "NOT_FOUND");
    never.refused(404, "NOT_FOUND");
    assert_eq!(app.head(), head);
}

#[tokio::test]
async fn result_requires_worker_role_and_valid_value() {
    let app = TestApp::with_keys().await;
    let path = "/internal/matches/018f0000-0000-7000-8000-000000000001/result";
    let report = |role, body: Value| app.call("POST", path).roles("w", role).body(&body).send();
    for role in [Role::User, Role::Auditor, Role::Admin] {
        report(role, json!({"result": "first"})).await.refused(403, "FORBIDDEN");
    }
    for role in [Role::Worker, Role::Service] {
        report(role, json!({"result": "first"})).await.refused(404, "NOT_FOUND");
    }
    for body in [json!({}), json!({"result": "third"}), json!({"result": null})] {
        report(Role::Service, body).await.refused(400, "INVALID_REQUEST");
    }
}
