use event_schemas::envelope::Event;
use event_schemas::player::{PlayerEvent, PlayerQueued};
use event_schemas::sealed::SealedField;
use futures_util::future::join_all;
use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{TestApp, TestResponse};

const QUEUE: &str = "/v1/matchmaking/queue";

impl TestApp {
    pub(crate) async fn join_as(&self, user: &str, body: &Value) -> TestResponse {
        self.call("POST", QUEUE).user(user).body(body).send().await
    }

    /// Queues a user in `blitz`, and returns the path of the entry.
    pub(crate) async fn queue_in_blitz(&self, user: &str) -> String {
        self.join_as(user, &json!({"pool_key": "blitz"})).await.location.unwrap()
    }

    async fn join_with_key(&self, key: &str, body: &Value) -> TestResponse {
        self.call("POST", QUEUE).user("ann").key(key).body(body).send().await
    }

    pub(crate) async fn delete_as(&self, user: &str, path: &str) -> TestResponse {
        self.call("DELETE", path).user(user).send().await
    }

    async fn queued(&self) -> Vec<PlayerQueued> {
        let queued = |envelope: event_schemas::envelope::Envelope| match envelope.event {
            Event::Player(PlayerEvent::PlayerQueued(queued)) => Some(queued),
            _ => None,
        };
        self.events().await.into_iter().filter_map(queued).collect()
    }
}

#[tokio::test]
async fn join_returns_the_entry_and_its_location() {
    let app = TestApp::new().await;
    let response = app.join_as("ann", &json!({"pool_keys": ["rapid", "blitz"], "max_rating_gap": 200})).await;
    assert_eq!(response.status, 201);
    let id = response.body["id"].as_str().unwrap();
    assert_eq!(response.location, Some(format!("{QUEUE}/{id}")));
    let unknown = |pool: &str| json!({"pool_key": pool, "rating": 1500, "rating_source": "default"});
    assert_eq!(
        response.body,
        json!({
            "id": id, "entry_id": id, "status": "searching", "pools": [unknown("blitz"), unknown("rapid")],
            "max_rating_gap": 200, "queued_at": "2026-11-20T10:00:00.000000Z",
            "expires_at": "2026-11-20T10:10:00.000000Z", "position": 1,
        })
    );
}

#[tokio::test]
async fn second_join_is_refused_with_the_existing_entry() {
    let app = TestApp::new().await;
    let first = app.join_as("ann", &json!({"pool_key": "blitz"})).await.ok();
    for pool in ["blitz", "rapid"] {
        let refused = app.join_as("ann", &json!({"pool_key": pool})).await.refused(409, "CONFLICT");
        assert_eq!(
            refused["existing"],
            json!({
                "id": first["id"], "entry_id": first["id"], "status": "searching", "pool_keys": ["blitz"],
                "queued_at": first["queued_at"], "expires_at": first["expires_at"],
            })
        );
        assert!(refused["detail"].as_str().unwrap().contains("cancel it first"));
    }
    assert_eq!(app.head(), 1);
}

#[tokio::test]
async fn concurrent_joins_create_one_entry() {
    let app = TestApp::new().await;
    let blitz = json!({"pool_key": "blitz"});
    let responses = join_all((0..32).map(|_| app.join_as("ann", &blitz))).await;
    let (made, refused): (Vec<_>, Vec<_>) =
        responses.into_iter().partition(|response| response.status == 201);
    assert_eq!((made.len(), refused.len()), (1, 31));
    assert!(refused.iter().all(|response| response.body["existing"]["id"] == made[0].body["id"]));
    assert_eq!(app.count("PlayerQueued").await, 1);
}

#[tokio::test]
async fn repeated_join_key_gets_its_first_result() {
    let app = TestApp::new().await;
    let body = json!({"pool_key": "blitz", "metadata": {"party": 7}});
    let first = app.join_with_key("k", &body).await;
    assert_eq!(first.status, 201);
    assert_eq!(app.join_with_key("k", &body).await, first);
    app.delete_as("ann", first.location.as_ref().unwrap()).await.ok();
    app.queue_in_blitz("ann").await;
    assert_eq!(app.join_with_key("k", &body).await, first);
    app.queue_in_blitz("bob").await;
    app.until_count("MatchConfirmed", 1).await;
    let head = app.head();
    assert_eq!(app.join_with_key("k", &body).await, first);
    let app = app.restarted().await;
    assert_eq!(app.join_with_key("k", &body).await, first);
    let other = json!({"pool_key": "rapid"});
    app.join_with_key("k", &other).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(app.head(), head);
}

#[tokio::test]
async fn concurrent_joins_with_one_key_get_one_result() {
    let app = TestApp::new().await;
    let blitz = json!({"pool_key": "blitz"});
    let responses = join_all((0..32).map(|_| app.join_with_key("k", &blitz))).await;
    assert!(responses.iter().all(|response| response.status == 201 && *response == responses[0]));
    assert_eq!(app.head(), 1);
}

#[tokio::test]
async fn two_servers_create_one_entry_per_player_and_key() {
    let one = TestApp::new().await;
    let other = one.second_server().await;
    let blitz = json!({"pool_key": "blitz"});
    let rapid = json!({"pool_key": "rapid"});
    let both = || [&one, &other].into_iter().cycle().take(32);
    let responses = join_all(both().map(|app| app.join_as("bob", &rapid))).await;
    let (made, refused): (Vec<_>, Vec<_>) =
        responses.into_iter().partition(|response| response.status == 201);
    assert_eq!((made.len(), refused.len()), (1, 31));
    assert!(refused.iter().all(|response| response.body["existing"]["id"] == made[0].body["id"]));
    let responses = join_all(both().map(|app| app.join_with_key("k", &blitz))).await;
    assert!(
        responses.iter().all(|response| response.status == 201 && *response == responses[0]),
        "{responses:?}"
    );
    assert_eq!(one.head(), 2);
}

#[tokio::test]
async fn paired_players_can_neither_join_nor_cancel() {
    let app = TestApp::new().await;
    let (ann, _) = (app.queue_in_blitz("ann").await, app.queue_in_blitz("bob").await);
    app.until_count("MatchConfirmed", 1).await;
    let refused = app.join_as("ann", &json!({"pool_key": "rapid"})).await.refused(409, "CONFLICT");
    let existing = &refused["existing"];
    assert_eq!(
        (&existing["status"], ann.ends_with(existing["id"].as_str().unwrap())),
        (&json!("matched"), true)
    );
    assert!(existing["match_id"].is_string());
    let refused = app.delete_as("ann", &ann).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains("searches again"), "{refused}");
}

#[tokio::test]
async fn server_without_matchmaker_queues_but_does_not_pair() {
    let app = TestApp::without_matchmaking().await;
    app.queue_in_blitz("ann").await;
    app.queue_in_blitz("bob").await;
    app.run_ready_tasks().await;
    app.advance(3600).await;
    assert_eq!(app.head(), 2);
    assert!(app.commands.matchmaking().is_elsewhere);
}

#[tokio::test]
async fn repeated_cancel_ends_the_entry_once() {
    let app = TestApp::new().await;
    let path = app.queue_in_blitz("ann").await;
    let responses = join_all((0..8).map(|_| app.delete_as("ann", &path))).await;
    let id = path.rsplit('/').next().unwrap();
    let cancelled = json!({"id": id, "entry_id": id, "status": "cancelled", "position": 2});
    assert!(
        responses.iter().all(|response| response.status == 200 && response.body == cancelled),
        "{responses:?}"
    );
    assert_eq!(app.head(), 2);
    let again = app.queue_in_blitz("ann").await;
    assert_ne!(again, path);
}

#[tokio::test]
async fn repeated_cancel_key_gets_its_first_result() {
    let app = TestApp::new().await;
    let path = app.queue_in_blitz("ann").await;
    let cancel = || app.call("DELETE", &path).user("ann").key("k").send();
    let first = cancel().await;
    app.queue_in_blitz("ann").await;
    assert_eq!(cancel().await, first);
    assert_eq!(app.head(), 3);
}

#[tokio::test]
async fn expired_entry_cannot_be_cancelled() {
    let app = TestApp::new().await;
    let path = app.queue_in_blitz("ann").await;
    app.run_ready_tasks().await;
    app.advance(599).await;
    assert_eq!(app.count("QueueEntryExpired").await, 0);
    app.advance(1).await;
    app.until_count("QueueEntryExpired", 1).await;
    let refused = app.delete_as("ann", &path).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains("join the queue again"), "{refused}");
}

#[tokio::test]
async fn another_players_entry_is_404_like_an_unknown_one() {
    let app = TestApp::new().await;
    let path = app.queue_in_blitz("ann").await;
    let missing = format!("{QUEUE}/018f0000-0000-7000-8000-000000000001");
    let never = app.delete_as("bob", &missing).await.refused(404, "NOT_FOUND");
    let anothers = app.delete_as("bob", &path).await.refused(404, "NOT_FOUND");
    let elsewhere = app.call("DELETE", &path).user("ann").tenant("other").send().await;
    assert_eq!(anothers["detail"], never["detail"]);
    assert_eq!(elsewhere.refused(404, "NOT_FOUND")["detail"], never["detail"]);
    app.delete_as("ann", &format!("{QUEUE}/7")).await.refused(404, "NOT_FOUND");
    assert_eq!(app.head(), 1);
}

#[tokio::test]
async fn same_user_in_two_tenants_is_two_players() {
    let app = TestApp::new().await;
    app.queue_in_blitz("ann").await;
    let blitz = json!({"pool_key": "blitz"});
    app.call("POST", QUEUE).user("ann").tenant("other").body(&blitz).send().await.ok();
    app.run_ready_tasks().await;
    assert_eq!(app.count("MatchProposed").await, 0);
}

#[tokio::test]
async fn rating_comes_from_token_then_trusted_request_then_results() {
    let app = TestApp::with_keys().await;
    let body = json!({"pool_keys": ["blitz", "rapid"], "rating": 1720.6});
    for (user, role, blitz, rapid) in [
        ("ann", Role::User, (1610, "token"), (1500, "default")),
        ("bob", Role::Service, (1610, "token"), (1721, "request")),
        ("carl", Role::Admin, (1610, "token"), (1721, "request")),
    ] {
        let call = app.call("POST", QUEUE).claims(user, role, |claims| claims.rating("blitz", 1610.4));
        let joined = call.body(&body).send().await.ok();
        let rated = |(rating, source)| (json!(rating), json!(source));
        let pool =
            |n: usize| (joined["pools"][n]["rating"].clone(), joined["pools"][n]["rating_source"].clone());
        assert_eq!((pool(0), pool(1)), (rated(blitz), rated(rapid)), "{user}");
    }
}

#[tokio::test]
async fn token_rating_beyond_the_scale_is_clamped() {
    let app = TestApp::with_keys().await;
    let call = app.call("POST", QUEUE).claims("ann", Role::User, |claims| claims.rating("blitz", 12_000.0));
    let joined = call.body(&json!({"pool_key": "blitz"})).send().await.ok();
    assert_eq!(joined["pools"][0]["rating"], 10_000);
}

#[tokio::test]
async fn queue_requires_a_player_role() {
    let app = TestApp::with_keys().await;
    let join = |role| app.call("POST", QUEUE).roles("w", role).body(&json!({"pool_key": "blitz"})).send();
    for role in [Role::Worker, Role::Auditor] {
        join(role).await.refused(403, "FORBIDDEN");
    }
    let path = format!("{QUEUE}/018f0000-0000-7000-8000-000000000001");
    app.call("DELETE", path).roles("w", Role::Worker).send().await.refused(403, "FORBIDDEN");
    join(Role::User).await.ok();
}

#[tokio::test]
async fn malformed_join_is_refused_with_its_field() {
    let app = TestApp::new().await;
    let many: Vec<String> = (0..17).map(|n| format!("p{n}")).collect();
    for (body, fields) in [
        (json!({}), vec!["pool_key", "pool_keys"]),
        (json!({"pool_key": "a", "pool_keys": ["b"]}), vec!["pool_key", "pool_keys"]),
        (json!({"pool_keys": []}), vec!["pool_keys"]),
        (json!({"pool_keys": ["a", "a"]}), vec!["pool_keys"]),
        (json!({"pool_keys": many}), vec!["pool_keys"]),
        (json!({"pool_key": ""}), vec!["pool_key"]),
        (json!({"pool_key": "a", "rating": -1}), vec!["rating"]),
        (json!({"pool_key": "a", "rating": 10_001}), vec!["rating"]),
        (json!({"pool_key": "a", "max_rating_gap": 1.5}), vec!["max_rating_gap"]),
        (json!({"pool_key": "a", "metadata": "text"}), vec!["metadata"]),
    ] {
        let response = app.join_as("ann", &body).await;
        assert_eq!(response.fields(), fields, "{body}");
        response.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn metadata_is_sealed_and_limited_in_size() {
    let app = TestApp::new().await;
    let metadata = |length: usize| json!({"note": "x".repeat(length)});
    let body = |length| json!({"pool_key": "blitz", "metadata": metadata(length)});
    let fits = 4096 - metadata(0).to_string().len();
    let refused = app.join_as("ann", &body(fits + 1)).await;
    assert_eq!(refused.fields(), ["metadata"]);
    refused.refused(422, "UNPROCESSABLE");
    app.join_as("ann", &body(fits)).await.ok();
    let PlayerQueued { subject_id, entry_id, metadata: sealed, .. } = app.queued().await.remove(0);
    let sealed = sealed.unwrap();
    assert!(!sealed.as_base64().contains("xxxx"));
    let place = SealedField::QueueMetadata(entry_id);
    let tenant = "default".parse().unwrap();
    let opened = app.vault.unseal(&tenant, subject_id, place, &sealed).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&opened).unwrap(), metadata(fits));
}
