use event_log_embedded::SimDisk;
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestApp, TestResponse, a_match, lease, request};

async fn send_keyed(app: &TestApp, method: &str, path: &str, key: &str, body: &Value) -> TestResponse {
    app.call(method, path).key(key).body(body).send().await
}

/// Sends a command with a key, then again, then with another body, then again after a restart.
async fn check(app: TestApp, method: &str, path: &str, body: Value, other: Value) -> TestApp {
    let first = send_keyed(&app, method, path, "k", &body).await;
    first.clone().ok();
    let head = app.head();
    assert_eq!(send_keyed(&app, method, path, "k", &body).await, first);
    send_keyed(&app, method, path, "k", &other).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let app = app.restarted().await;
    assert_eq!(send_keyed(&app, method, path, "k", &body).await, first);
    send_keyed(&app, method, path, "k", &other).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(app.head(), head);
    app
}

#[tokio::test]
async fn key_creates_one_job() {
    let app = TestApp::new().await;
    check(app, "POST", "/jobs", json!({"name": "a"}), json!({"name": "b"})).await;
}

#[tokio::test]
async fn key_creates_one_job_even_with_another_id() {
    let app = TestApp::new().await;
    let named = |n: u32| json!({"job_id": format!("018f0000-0000-7000-8000-00000000000{n}")});
    check(app, "POST", "/jobs", named(1), named(2)).await;
}

#[tokio::test]
async fn key_creates_one_job_after_a_disconnect() {
    let app = TestApp::on_disk(&SimDisk::new(1)).await;
    let named = |n: u32| json!({"job_id": format!("018f0000-0000-7000-8000-00000000000{n}")});
    let one = named(1);
    // The connection breaks while the job is being appended.
    assert!(send_keyed(&app, "POST", "/jobs", "k", &one).now_or_never().is_none());
    app.until_count("JobCreated", 1).await;
    send_keyed(&app, "POST", "/jobs", "k", &named(2)).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    send_keyed(&app, "POST", "/jobs", "k", &one).await.ok();
    assert_eq!(app.count("JobCreated").await, 1);
    app.stopped().await;
}

#[tokio::test]
async fn key_records_one_match_batch_after_a_disconnect() {
    let app = TestApp::on_disk(&SimDisk::new(1)).await;
    let path = format!("{}/matches", app.job().await);
    let batch = |range: std::ops::Range<usize>| -> Value { range.map(a_match).collect() };
    assert!(send_keyed(&app, "POST", &path, "k", &batch(0..20)).now_or_never().is_none());
    // It is executed on a thread of its own.
    app.until_count("MatchFound", 20).await;
    send_keyed(&app, "POST", &path, "k", &batch(20..21)).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let again = send_keyed(&app, "POST", &path, "k", &batch(0..20)).await.ok();
    assert_eq!((&again["accepted"], app.count("MatchFound").await), (&json!(20), 20));
    app.stopped().await;
}

#[tokio::test]
async fn key_records_every_batch_once() {
    let mut app = TestApp::new().await;
    let job = app.job_with_requests(2).await;
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
        app = check(app, "POST", &format!("{job}/{route}"), body, other).await;
    }
    let evidence = format!("{job}/matches/m1/evidence");
    let path = |path: &str| json!({"evidence_path": path});
    app = check(app, "PUT", &evidence, path("a.jpg"), path("b.jpg")).await;
    let phase = format!("{job}/phase");
    check(app, "PUT", &phase, json!({"phase": "evidence"}), json!({"phase": "completed"})).await;
}

#[tokio::test]
async fn key_registers_and_exits_a_worker_once() {
    let app = TestApp::new().await;
    let kinds = |kind: &str| json!({"kinds": [kind]});
    let worker = "/internal/workers/w";
    let app = check(app, "PUT", worker, kinds("match_request"), kinds("model_training")).await;
    let exit = format!("{worker}/exit");
    check(app, "POST", &exit, json!({"exit_code": 0}), json!({"exit_code": 1})).await;
}

#[tokio::test]
async fn repeated_claim_key_gets_the_same_work() {
    let app = TestApp::new().await;
    app.job_with_requests(5).await;
    let claim = |max: u32| json!({"worker_id": "w", "kinds": ["match_request"], "max": max});
    let app = check(app, "POST", "/internal/work/claim", claim(2), claim(3)).await;
    assert_eq!(app.count("MatchRequestClaimed").await, 2);
}

#[tokio::test]
async fn key_records_a_lease_report_once() {
    let app = TestApp::new().await;
    app.job_with_requests(2).await;
    let items = app.claim("w", 2).await;
    let fail = format!("/internal/work/{}/fail", lease(&items[0]));
    let app = check(app, "POST", &fail, json!({"error": "timeout"}), json!({"error": "oom"})).await;
    let complete = format!("/internal/work/{}/complete", lease(&items[1]));
    check(app, "POST", &complete, json!({}), json!({"result": 1})).await;
}

#[tokio::test]
async fn concurrent_copies_are_one_command() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(40).await;
    app.run_ready_tasks().await;
    let matches: Value = (0..200).map(a_match).collect();
    let claim = json!({"worker_id": "w", "kinds": ["match_request"], "max": 2});
    for (path, body, event, count) in [
        ("/jobs".to_owned(), json!({"name": "x"}), "JobCreated", 2),
        (format!("{job}/matches"), matches, "MatchFound", 200),
        ("/internal/work/claim".to_owned(), claim, "MatchRequestClaimed", 2),
    ] {
        let copies = (0..32).map(|_| send_keyed(&app, "POST", &path, "copy", &body));
        let responses = join_all(copies).await;
        responses[0].clone().ok();
        assert!(responses.iter().all(|response| *response == responses[0]), "{path}");
        assert_eq!(app.count(event).await, count, "{path}");
    }
}

#[tokio::test]
async fn concurrent_bodies_with_one_key_record_one() {
    let app = TestApp::new().await;
    let job = app.job().await;
    let (one, other): (Value, Value) = ((0..50).map(a_match).collect(), (50..100).map(a_match).collect());
    let path = format!("{job}/matches");
    let responses = tokio::join!(
        send_keyed(&app, "POST", &path, "k", &one),
        send_keyed(&app, "POST", &path, "k", &other)
    );
    let statuses = [responses.0.status, responses.1.status];
    assert!(statuses == [200, 422] || statuses == [422, 200], "{statuses:?}");
    assert_eq!(app.count("MatchFound").await, 50);
}

#[tokio::test]
async fn key_belongs_to_its_caller_and_route() {
    let app = TestApp::new().await;
    let body = json!({});
    let mine = send_keyed(&app, "POST", "/jobs", "k", &body).await.ok();
    let tenants = app.call("POST", "/jobs").key("k").tenant("other").body(&body).send().await.ok();
    let users = app.call("POST", "/jobs").key("k").header("X-User", "bob").body(&body).send().await.ok();
    assert!(mine["id"] != tenants["id"] && mine["id"] != users["id"]);
}

#[tokio::test]
async fn refused_command_leaves_its_key_unused() {
    let app = TestApp::new().await;
    let job = app.job().await;
    app.put(format!("{job}/phase"), &json!({"phase": "matching"})).await.ok();
    let phase = format!("{job}/phase");
    send_keyed(&app, "PUT", &phase, "k", &json!({"phase": "queued"})).await.refused(409, "CONFLICT");
    send_keyed(&app, "PUT", &phase, "k", &json!({"phase": "evidence"})).await.ok();
}
