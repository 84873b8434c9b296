use event_schemas::envelope::Event;
use event_schemas::player::PlayerEvent;
use futures_util::future::join_all;
use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{Answer, Bench};

impl Bench {
    /// Ann and Bob in a match, whose result is reported here.
    async fn a_match(&self) -> String {
        let before = self.count("MatchConfirmed").await;
        self.waits("ann").await;
        self.waits("bob").await;
        self.until_count("MatchConfirmed", before + 1).await;
        self.rest().await;
        let events = self.events().await;
        let id = events.iter().rev().find_map(|envelope| envelope.stream.match_record_id()).unwrap();
        format!("/internal/matches/{id}/result")
    }

    async fn ended(&self, path: &str, result: &str) -> Answer {
        self.post(path, &json!({"result": result})).await
    }

    /// By how much each rating moved, the first player's first.
    async fn moved(&self) -> Vec<f64> {
        let moved = |envelope: event_schemas::envelope::Envelope| match envelope.event {
            Event::Player(PlayerEvent::PlayerRated(rated)) => Some(rated.after.rating - rated.before.rating),
            _ => None,
        };
        self.events().await.into_iter().filter_map(moved).collect()
    }
}

#[tokio::test]
async fn a_result_frees_both_players_and_moves_their_ratings_before_it_is_answered() {
    let bench = Bench::new().await;
    let path = bench.a_match().await;
    let reported = bench.ended(&path, "first").await.ok();
    let id = path.split('/').nth(3).unwrap();
    assert_eq!(
        reported,
        json!({"id": id, "match_id": id, "status": "finished", "result": "first", "position": bench.head()})
    );
    let moved = bench.moved().await;
    assert!(moved.len() == 2 && moved[0] > 100.0 && (moved[0] + moved[1]).abs() < 1e-6, "{moved:?}");
    let joined = bench.join_as("ann", &json!({"pool_key": "blitz"})).await.ok();
    assert_eq!(joined["pools"][0]["rating_source"], "history");
}

#[tokio::test]
async fn a_result_counts_once_however_often_and_from_wherever_it_is_reported() {
    let bench = Bench::new().await;
    let path = bench.a_match().await;
    let answers = join_all((0..8).map(|_| bench.ended(&path, "draw"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && *answer == answers[0]), "{answers:?}");
    let head = bench.head();
    bench.waits("ann").await;
    let bench = bench.restarted().await;
    assert_eq!(bench.ended(&path, "draw").await, answers[0]);
    let other = bench.beside().await;
    assert_eq!(other.ended(&path, "draw").await, answers[0]);
    assert_eq!(bench.head(), head + 1);
    assert_eq!((bench.count("MatchResultReported").await, bench.count("PlayerRated").await), (1, 2));
}

#[tokio::test]
async fn a_result_under_a_key_is_answered_as_the_first_time_and_the_key_is_good_for_it_only() {
    let bench = Bench::new().await;
    let path = bench.a_match().await;
    let report = |result: &str| bench.call("POST", &path).key("k").body(&json!({"result": result})).send();
    let first = report("second").await;
    assert_eq!(report("second").await, first);
    report("first").await.refused(422, "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test]
async fn another_result_is_refused_and_the_first_holds() {
    let bench = Bench::new().await;
    let path = bench.a_match().await;
    bench.ended(&path, "first").await.ok();
    let head = bench.head();
    bench.ended(&path, "second").await.refused(409, "CONFLICT");
    assert_eq!(bench.head(), head);
}

#[tokio::test]
async fn an_aborted_game_frees_both_and_moves_no_rating() {
    let bench = Bench::new().await;
    let path = bench.a_match().await;
    bench.ended(&path, "aborted").await.ok();
    assert_eq!((bench.count("PlayerFreed").await, bench.count("PlayerRated").await), (2, 0));
}

#[tokio::test]
async fn a_match_without_a_result_ends_by_itself_and_takes_none_then() {
    let bench = Bench::new().await;
    let path = bench.a_match().await;
    bench.pass(2 * 60 * 60 - 1).await;
    assert_eq!(bench.count("MatchExpired").await, 0);
    bench.pass(1).await;
    bench.until_count("PlayerFreed", 2).await;
    bench.ended(&path, "first").await.refused(409, "CONFLICT");
    assert_eq!(bench.count("PlayerRated").await, 0);
}

#[tokio::test]
async fn who_met_last_meets_again_only_after_a_while() {
    let bench = Bench::new().await;
    let path = bench.a_match().await;
    bench.ended(&path, "aborted").await.ok();
    bench.waits("ann").await;
    bench.waits("bob").await;
    bench.rest().await;
    bench.pass(59).await;
    assert_eq!(bench.count("MatchProposed").await, 1);
    bench.pass(1).await;
    bench.until_count("MatchConfirmed", 2).await;
}

#[tokio::test]
async fn another_tenants_match_is_not_there_in_the_same_words_as_one_that_never_was() {
    let bench = Bench::new().await;
    let path = bench.a_match().await;
    let head = bench.head();
    let body = json!({"result": "first"});
    let anothers = bench.call("POST", &path).tenant("other").body(&body).send().await;
    let never = bench.ended("/internal/matches/018f0000-0000-7000-8000-000000000001/result", "first").await;
    assert_eq!(anothers.body["detail"], never.body["detail"]);
    anothers.refused(404, "NOT_FOUND");
    never.refused(404, "NOT_FOUND");
    assert_eq!(bench.head(), head);
}

#[tokio::test]
async fn only_a_worker_or_a_service_reports_results_and_only_such_as_there_are() {
    let bench = Bench::with_keys().await;
    let path = "/internal/matches/018f0000-0000-7000-8000-000000000001/result";
    let report = |role, body: Value| bench.call("POST", path).roles("w", role).body(&body).send();
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
