use event_log::embedded::SimDisk;
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, Bench, a_match, lease, request};

async fn keyed(bench: &Bench, method: &str, path: &str, key: &str, body: &Value) -> Answer {
    bench.call(method, path).key(key).body(body).send().await
}

/// Sends a command with a key, then again, then with another body, then again after a restart.
async fn check(bench: Bench, method: &str, path: &str, body: Value, other: Value) -> Bench {
    let first = keyed(&bench, method, path, "k", &body).await;
    first.clone().ok();
    let head = bench.head();
    assert_eq!(keyed(&bench, method, path, "k", &body).await, first);
    keyed(&bench, method, path, "k", &other).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let bench = bench.restarted().await;
    assert_eq!(keyed(&bench, method, path, "k", &body).await, first);
    keyed(&bench, method, path, "k", &other).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(bench.head(), head);
    bench
}

#[tokio::test]
async fn a_job_is_created_once_for_a_key() {
    let bench = Bench::new().await;
    check(bench, "POST", "/jobs", json!({"name": "a"}), json!({"name": "b"})).await;
}

#[tokio::test]
async fn a_key_stands_for_one_job_even_if_the_caller_names_another_id() {
    let bench = Bench::new().await;
    let named = |n: u32| json!({"job_id": format!("018f0000-0000-7000-8000-00000000000{n}")});
    check(bench, "POST", "/jobs", named(1), named(2)).await;
}

#[tokio::test]
async fn a_key_stands_for_one_job_even_if_its_caller_goes_away_before_the_answer() {
    let bench = Bench::on_disk(&SimDisk::new(1)).await;
    let named = |n: u32| json!({"job_id": format!("018f0000-0000-7000-8000-00000000000{n}")});
    let one = named(1);
    // The connection breaks while the job is on its way into the log.
    assert!(keyed(&bench, "POST", "/jobs", "k", &one).now_or_never().is_none());
    keyed(&bench, "POST", "/jobs", "k", &named(2)).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    keyed(&bench, "POST", "/jobs", "k", &one).await.ok();
    assert_eq!(bench.count("JobCreated").await, 1);
    bench.stopped().await;
}

#[tokio::test]
async fn a_key_stands_for_one_batch_of_matches_even_if_its_caller_goes_away_before_the_answer() {
    let bench = Bench::on_disk(&SimDisk::new(1)).await;
    let path = format!("{}/matches", bench.job().await);
    let batch = |range: std::ops::Range<usize>| -> Value { range.map(a_match).collect() };
    assert!(keyed(&bench, "POST", &path, "k", &batch(0..20)).now_or_never().is_none());
    keyed(&bench, "POST", &path, "k", &batch(20..21)).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let again = keyed(&bench, "POST", &path, "k", &batch(0..20)).await.ok();
    assert_eq!((&again["accepted"], bench.count("MatchFound").await), (&json!(20), 20));
    bench.stopped().await;
}

#[tokio::test]
async fn every_batch_is_taken_once_for_a_key() {
    let mut bench = Bench::new().await;
    let job = bench.job_with_requests(2).await;
    let product = |id: &str| json!([{"product_id": id, "images": [{"img_id": "x"}]}]);
    let video = |id: &str| json!([{"video_id": id, "frame_count": 7}]);
    let progress = |n: u64| json!([{"request_id": "r0", "candidates_processed": n, "vector_pass_done": n, "ransac_checked": 0}]);
    for (route, body, other) in [
        ("products", product("a"), product("b")),
        ("videos", video("a"), video("b")),
        ("match-requests", json!([request("a")]), json!([request("b")])),
        ("match-progress", progress(3), progress(4)),
        ("matches", json!([a_match(1), a_match(2)]), json!([a_match(3)])),
    ] {
        bench = check(bench, "POST", &format!("{job}/{route}"), body, other).await;
    }
    let evidence = format!("{job}/matches/m1/evidence");
    let path = |path: &str| json!({"evidence_path": path});
    bench = check(bench, "PUT", &evidence, path("a.jpg"), path("b.jpg")).await;
    let phase = format!("{job}/phase");
    check(bench, "PUT", &phase, json!({"phase": "evidence"}), json!({"phase": "completed"})).await;
}

#[tokio::test]
async fn a_worker_registers_and_exits_once_for_a_key() {
    let bench = Bench::new().await;
    let kinds = |kind: &str| json!({"kinds": [kind]});
    let worker = "/internal/workers/w";
    let bench = check(bench, "PUT", worker, kinds("match_request"), kinds("model_training")).await;
    let exit = format!("{worker}/exit");
    check(bench, "POST", &exit, json!({"exit_code": 0}), json!({"exit_code": 1})).await;
}

#[tokio::test]
async fn a_claim_gets_the_same_work_for_the_same_key() {
    let bench = Bench::new().await;
    bench.job_with_requests(5).await;
    let claim = |max: u32| json!({"worker_id": "w", "kinds": ["match_request"], "max": max});
    let bench = check(bench, "POST", "/internal/work/claim", claim(2), claim(3)).await;
    assert_eq!(bench.count("MatchRequestClaimed").await, 2);
}

#[tokio::test]
async fn a_report_under_a_lease_is_taken_once_for_a_key() {
    let bench = Bench::new().await;
    bench.job_with_requests(2).await;
    let items = bench.claim("w", 2).await;
    let fail = format!("/internal/work/{}/fail", lease(&items[0]));
    let bench = check(bench, "POST", &fail, json!({"error": "timeout"}), json!({"error": "oom"})).await;
    let complete = format!("/internal/work/{}/complete", lease(&items[1]));
    check(bench, "POST", &complete, json!({}), json!({"result": 1})).await;
}

#[tokio::test]
async fn thirty_two_copies_at_once_are_one_command() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(40).await;
    bench.rest().await;
    let matches: Value = (0..200).map(a_match).collect();
    let claim = json!({"worker_id": "w", "kinds": ["match_request"], "max": 2});
    for (path, body, event, count) in [
        ("/jobs".to_owned(), json!({"name": "x"}), "JobCreated", 2),
        (format!("{job}/matches"), matches, "MatchFound", 200),
        ("/internal/work/claim".to_owned(), claim, "MatchRequestClaimed", 2),
    ] {
        let copies = (0..32).map(|_| keyed(&bench, "POST", &path, "copy", &body));
        let answers = join_all(copies).await;
        answers[0].clone().ok();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{path}");
        assert_eq!(bench.count(event).await, count, "{path}");
    }
}

#[tokio::test]
async fn two_bodies_under_one_key_at_once_are_not_both_taken() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let (one, other): (Value, Value) = ((0..50).map(a_match).collect(), (50..100).map(a_match).collect());
    let path = format!("{job}/matches");
    let answers =
        tokio::join!(keyed(&bench, "POST", &path, "k", &one), keyed(&bench, "POST", &path, "k", &other));
    let statuses = [answers.0.status, answers.1.status];
    assert!(statuses == [200, 422] || statuses == [422, 200], "{statuses:?}");
    assert_eq!(bench.count("MatchFound").await, 50);
}

#[tokio::test]
async fn a_key_belongs_to_its_caller_and_route() {
    let bench = Bench::new().await;
    let body = json!({});
    let mine = keyed(&bench, "POST", "/jobs", "k", &body).await.ok();
    let tenants = bench.call("POST", "/jobs").key("k").tenant("other").body(&body).send().await.ok();
    let users = bench.call("POST", "/jobs").key("k").header("X-User", "bob").body(&body).send().await.ok();
    assert!(mine["id"] != tenants["id"] && mine["id"] != users["id"]);
}

#[tokio::test]
async fn a_refused_command_leaves_its_key_free() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    bench.put(format!("{job}/phase"), &json!({"phase": "matching"})).await.ok();
    let phase = format!("{job}/phase");
    keyed(&bench, "PUT", &phase, "k", &json!({"phase": "queued"})).await.refused(409, "CONFLICT");
    keyed(&bench, "PUT", &phase, "k", &json!({"phase": "evidence"})).await.ok();
}
