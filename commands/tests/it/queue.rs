use event_schemas::envelope::Event;
use event_schemas::player::{PlayerEvent, PlayerQueued};
use event_schemas::sealed::Place;
use futures_util::future::join_all;
use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{Answer, Bench};

const QUEUE: &str = "/v1/matchmaking/queue";

impl Bench {
    pub(crate) async fn join_as(&self, user: &str, body: &Value) -> Answer {
        self.call("POST", QUEUE).user(user).body(body).send().await
    }

    /// A user who waits in `blitz`, and their entry's path.
    pub(crate) async fn waits(&self, user: &str) -> String {
        self.join_as(user, &json!({"pool_key": "blitz"})).await.location.unwrap()
    }

    async fn join_with_key(&self, key: &str, body: &Value) -> Answer {
        self.call("POST", QUEUE).user("ann").key(key).body(body).send().await
    }

    pub(crate) async fn delete_as(&self, user: &str, path: &str) -> Answer {
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
async fn whoever_joins_is_told_their_entry_and_where_it_is() {
    let bench = Bench::new().await;
    let answer = bench.join_as("ann", &json!({"pool_keys": ["rapid", "blitz"], "max_rating_gap": 200})).await;
    assert_eq!(answer.status, 201);
    let id = answer.body["id"].as_str().unwrap();
    assert_eq!(answer.location, Some(format!("{QUEUE}/{id}")));
    let unknown = |pool: &str| json!({"pool_key": pool, "rating": 1500, "rating_source": "default"});
    assert_eq!(
        answer.body,
        json!({
            "id": id, "entry_id": id, "status": "searching", "pools": [unknown("blitz"), unknown("rapid")],
            "max_rating_gap": 200, "queued_at": "2026-11-20T10:00:00.000000Z",
            "expires_at": "2026-11-20T10:10:00.000000Z", "position": 1,
        })
    );
}

#[tokio::test]
async fn a_second_join_is_refused_with_the_entry_that_is_there() {
    let bench = Bench::new().await;
    let first = bench.join_as("ann", &json!({"pool_key": "blitz"})).await.ok();
    for pool in ["blitz", "rapid"] {
        let refused = bench.join_as("ann", &json!({"pool_key": pool})).await.refused(409, "CONFLICT");
        assert_eq!(
            refused["existing"],
            json!({
                "id": first["id"], "entry_id": first["id"], "status": "searching", "pool_keys": ["blitz"],
                "queued_at": first["queued_at"], "expires_at": first["expires_at"],
            })
        );
        assert!(refused["detail"].as_str().unwrap().contains("cancel it first"));
    }
    assert_eq!(bench.head(), 1);
}

#[tokio::test]
async fn of_many_joins_at_once_one_gets_through_and_all_others_are_told_the_same_entry() {
    let bench = Bench::new().await;
    let blitz = json!({"pool_key": "blitz"});
    let answers = join_all((0..32).map(|_| bench.join_as("ann", &blitz))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (1, 31));
    assert!(refused.iter().all(|answer| answer.body["existing"]["id"] == made[0].body["id"]));
    assert_eq!(bench.count("PlayerQueued").await, 1);
}

#[tokio::test]
async fn a_join_sent_again_under_its_key_is_answered_as_the_first_time_whatever_happened_since() {
    let bench = Bench::new().await;
    let body = json!({"pool_key": "blitz", "metadata": {"party": 7}});
    let first = bench.join_with_key("k", &body).await;
    assert_eq!(first.status, 201);
    assert_eq!(bench.join_with_key("k", &body).await, first);
    bench.delete_as("ann", first.location.as_ref().unwrap()).await.ok();
    bench.waits("ann").await;
    assert_eq!(bench.join_with_key("k", &body).await, first);
    bench.waits("bob").await;
    bench.until_count("MatchConfirmed", 1).await;
    let head = bench.head();
    assert_eq!(bench.join_with_key("k", &body).await, first);
    let bench = bench.restarted().await;
    assert_eq!(bench.join_with_key("k", &body).await, first);
    let other = json!({"pool_key": "rapid"});
    bench.join_with_key("k", &other).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(bench.head(), head);
}

#[tokio::test]
async fn a_join_under_one_key_from_many_connections_is_one_entry_and_one_answer() {
    let bench = Bench::new().await;
    let blitz = json!({"pool_key": "blitz"});
    let answers = join_all((0..32).map(|_| bench.join_with_key("k", &blitz))).await;
    assert!(answers.iter().all(|answer| answer.status == 201 && *answer == answers[0]));
    assert_eq!(bench.head(), 1);
}

#[tokio::test]
async fn two_servers_on_one_log_give_a_player_one_entry_and_a_key_one_answer() {
    let one = Bench::new().await;
    let other = one.beside().await;
    let blitz = json!({"pool_key": "blitz"});
    let rapid = json!({"pool_key": "rapid"});
    let both = || [&one, &other].into_iter().cycle().take(32);
    let answers = join_all(both().map(|bench| bench.join_as("bob", &rapid))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (1, 31));
    assert!(refused.iter().all(|answer| answer.body["existing"]["id"] == made[0].body["id"]));
    let answers = join_all(both().map(|bench| bench.join_with_key("k", &blitz))).await;
    assert!(answers.iter().all(|answer| answer.status == 201 && *answer == answers[0]), "{answers:?}");
    assert_eq!(one.head(), 2);
}

#[tokio::test]
async fn two_who_wait_are_put_together_and_can_neither_join_nor_cancel_then() {
    let bench = Bench::new().await;
    let (ann, _) = (bench.waits("ann").await, bench.waits("bob").await);
    bench.until_count("MatchConfirmed", 1).await;
    let refused = bench.join_as("ann", &json!({"pool_key": "rapid"})).await.refused(409, "CONFLICT");
    let existing = &refused["existing"];
    assert_eq!(
        (&existing["status"], ann.ends_with(existing["id"].as_str().unwrap())),
        (&json!("matched"), true)
    );
    assert!(existing["match_id"].is_string());
    let refused = bench.delete_as("ann", &ann).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains("searches again"), "{refused}");
}

#[tokio::test]
async fn a_server_that_is_told_so_takes_players_in_and_leaves_it_to_another_to_put_them_together() {
    let bench = Bench::without_matchmaking().await;
    bench.waits("ann").await;
    bench.waits("bob").await;
    bench.rest().await;
    bench.pass(3600).await;
    assert_eq!(bench.head(), 2);
    assert!(bench.commands.matchmaking().is_elsewhere);
}

#[tokio::test]
async fn cancelling_ends_an_entry_once_however_often_it_is_asked_for() {
    let bench = Bench::new().await;
    let path = bench.waits("ann").await;
    let answers = join_all((0..8).map(|_| bench.delete_as("ann", &path))).await;
    let id = path.rsplit('/').next().unwrap();
    let cancelled = json!({"id": id, "entry_id": id, "status": "cancelled", "position": 2});
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == cancelled), "{answers:?}");
    assert_eq!(bench.head(), 2);
    let again = bench.waits("ann").await;
    assert_ne!(again, path);
}

#[tokio::test]
async fn a_cancellation_sent_again_under_its_key_is_answered_as_the_first_time() {
    let bench = Bench::new().await;
    let path = bench.waits("ann").await;
    let cancel = || bench.call("DELETE", &path).user("ann").key("k").send();
    let first = cancel().await;
    bench.waits("ann").await;
    assert_eq!(cancel().await, first);
    assert_eq!(bench.head(), 3);
}

#[tokio::test]
async fn an_entry_that_ended_by_itself_cannot_be_cancelled() {
    let bench = Bench::new().await;
    let path = bench.waits("ann").await;
    bench.rest().await;
    bench.pass(599).await;
    assert_eq!(bench.count("QueueEntryExpired").await, 0);
    bench.pass(1).await;
    bench.until_count("QueueEntryExpired", 1).await;
    let refused = bench.delete_as("ann", &path).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains("queue anew"), "{refused}");
}

#[tokio::test]
async fn anothers_entry_is_not_there_in_the_same_words_as_one_that_never_was() {
    let bench = Bench::new().await;
    let path = bench.waits("ann").await;
    let missing = format!("{QUEUE}/018f0000-0000-7000-8000-000000000001");
    let never = bench.delete_as("bob", &missing).await.refused(404, "NOT_FOUND");
    let anothers = bench.delete_as("bob", &path).await.refused(404, "NOT_FOUND");
    let elsewhere = bench.call("DELETE", &path).user("ann").tenant("other").send().await;
    assert_eq!(anothers["detail"], never["detail"]);
    assert_eq!(elsewhere.refused(404, "NOT_FOUND")["detail"], never["detail"]);
    bench.delete_as("ann", &format!("{QUEUE}/7")).await.refused(404, "NOT_FOUND");
    assert_eq!(bench.head(), 1);
}

#[tokio::test]
async fn players_of_one_name_in_two_tenants_are_two() {
    let bench = Bench::new().await;
    bench.waits("ann").await;
    let blitz = json!({"pool_key": "blitz"});
    bench.call("POST", QUEUE).user("ann").tenant("other").body(&blitz).send().await.ok();
    bench.rest().await;
    assert_eq!(bench.count("MatchProposed").await, 0);
}

#[tokio::test]
async fn a_rating_is_the_tokens_else_a_trusted_callers_else_what_results_say() {
    let bench = Bench::with_keys().await;
    let body = json!({"pool_keys": ["blitz", "rapid"], "rating": 1720.6});
    for (user, role, blitz, rapid) in [
        ("ann", Role::User, (1610, "token"), (1500, "default")),
        ("bob", Role::Service, (1610, "token"), (1721, "request")),
        ("carl", Role::Admin, (1610, "token"), (1721, "request")),
    ] {
        let call = bench.call("POST", QUEUE).claims(user, role, |claims| claims.rating("blitz", 1610.4));
        let joined = call.body(&body).send().await.ok();
        let rated = |(rating, source)| (json!(rating), json!(source));
        let pool =
            |n: usize| (joined["pools"][n]["rating"].clone(), joined["pools"][n]["rating_source"].clone());
        assert_eq!((pool(0), pool(1)), (rated(blitz), rated(rapid)), "{user}");
    }
}

#[tokio::test]
async fn a_token_that_rates_on_a_wider_scale_means_the_end_of_ours() {
    let bench = Bench::with_keys().await;
    let call = bench.call("POST", QUEUE).claims("ann", Role::User, |claims| claims.rating("blitz", 12_000.0));
    let joined = call.body(&json!({"pool_key": "blitz"})).send().await.ok();
    assert_eq!(joined["pools"][0]["rating"], 10_000);
}

#[tokio::test]
async fn only_those_who_play_may_queue() {
    let bench = Bench::with_keys().await;
    let join = |role| bench.call("POST", QUEUE).roles("w", role).body(&json!({"pool_key": "blitz"})).send();
    for role in [Role::Worker, Role::Auditor] {
        join(role).await.refused(403, "FORBIDDEN");
    }
    let path = format!("{QUEUE}/018f0000-0000-7000-8000-000000000001");
    bench.call("DELETE", path).roles("w", Role::Worker).send().await.refused(403, "FORBIDDEN");
    join(Role::User).await.ok();
}

#[tokio::test]
async fn a_wish_that_cannot_be_read_is_refused_with_what_is_wrong() {
    let bench = Bench::new().await;
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
        let answer = bench.join_as("ann", &body).await;
        assert_eq!(answer.fields(), fields, "{body}");
        answer.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(bench.head(), 0);
}

#[tokio::test]
async fn metadata_is_kept_under_the_players_key_and_only_so_much_of_it() {
    let bench = Bench::new().await;
    let metadata = |length: usize| json!({"note": "x".repeat(length)});
    let body = |length| json!({"pool_key": "blitz", "metadata": metadata(length)});
    let fits = 4096 - metadata(0).to_string().len();
    let refused = bench.join_as("ann", &body(fits + 1)).await;
    assert_eq!(refused.fields(), ["metadata"]);
    refused.refused(422, "UNPROCESSABLE");
    bench.join_as("ann", &body(fits)).await.ok();
    let PlayerQueued { subject_id, entry_id, metadata: sealed, .. } = bench.queued().await.remove(0);
    let sealed = sealed.unwrap();
    assert!(!sealed.as_base64().contains("xxxx"));
    let place = Place::QueueMetadata(entry_id);
    let tenant = "default".parse().unwrap();
    let opened = bench.vault.unseal(&tenant, subject_id, place, &sealed).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&opened).unwrap(), metadata(fits));
}
