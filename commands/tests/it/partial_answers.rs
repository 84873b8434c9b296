//! The log fails between the appends of one request: the answer names what is recorded, and the same request again
//! completes it.

use std::collections::{BTreeMap, BTreeSet};

use event_schemas::envelope::Event;
use event_schemas::image_match::ImageMatchEvent;
use serde_json::{Value, json};

use crate::failing_log::{FailingLog, Fault};
use crate::support::{TestApp, TestResponse, a_match, lease, request};

/// The items of a problem's parts, by outcome.
fn items(response: &TestResponse) -> BTreeMap<String, BTreeSet<usize>> {
    let mut items: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for part in response.body["parts"].as_array().into_iter().flatten() {
        let outcome = items.entry(part["outcome"].as_str().unwrap().to_owned()).or_default();
        for item in part["items"].as_array().into_iter().flatten() {
            assert!(outcome.insert(item.as_u64().unwrap() as usize), "{item} is named twice");
        }
    }
    items
}

/// The steps of a problem's parts, with their outcomes.
fn steps(response: &TestResponse) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parts = response.body["parts"].as_array().into_iter().flatten();
    parts.map(|part| (text(&part["step"]), text(&part["outcome"]))).collect()
}

fn claims_nothing(response: &TestResponse) -> bool {
    response.body["detail"].as_str().unwrap().contains("nothing was recorded")
}

async fn matches_in_the_log(app: &TestApp) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for envelope in app.events().await {
        if let Event::ImageMatch(ImageMatchEvent::MatchFound(found)) = envelope.event {
            assert!(ids.insert(found.match_id.to_string()), "{} is recorded twice", found.match_id);
        }
    }
    ids
}

/// Sends the items as a JSON array or as NDJSON.
async fn send(app: &TestApp, path: &str, key: Option<&str>, as_lines: bool, items: &[Value]) -> TestResponse {
    let call = app.call("POST", path);
    let call = if let Some(key) = key { call.key(key) } else { call };
    if as_lines {
        let lines: String = items.iter().map(|item| format!("{item}\n\n")).collect();
        call.text("application/x-ndjson", lines).send().await
    } else {
        call.body(&items.into()).send().await
    }
}

#[tokio::test]
async fn full_disk_between_shards_names_the_recorded_matches() {
    for successes in 0..16 {
        let (key, as_lines) = ((successes % 2 == 0).then_some("k"), successes % 3 == 0);
        let (app, log) = FailingLog::server().await;
        let path = format!("{}/matches", app.job().await);
        let batch: Vec<Value> = (0..200).map(a_match).collect();
        log.fail_after(successes, Fault::Full);
        let refused = send(&app, &path, key, as_lines, &batch).await;
        let recorded = matches_in_the_log(&app).await;
        assert_eq!(claims_nothing(&refused), successes == 0, "{refused:?}");
        if successes > 0 {
            let named = items(&refused);
            let all: BTreeSet<usize> = named.values().flatten().copied().collect();
            assert_eq!(all, (0..200).collect());
            assert_eq!(named["recorded"].iter().map(|n| format!("m{n}")).collect::<BTreeSet<_>>(), recorded);
            assert_eq!(named["not_recorded"].len(), 200 - recorded.len());
            assert_eq!(refused.body["parts"][0]["position"], app.head());
            assert_eq!(refused.body["parts"][1]["code"], "INSUFFICIENT_STORAGE");
        }
        assert_eq!(refused.retry_after, Some(30));
        refused.refused(507, "INSUFFICIENT_STORAGE");

        log.mend();
        let app = app.restarted().await;
        let done = send(&app, &path, key, as_lines, &batch).await.ok();
        let new = if key.is_some() { 200 } else { 200 - recorded.len() };
        assert_eq!((&done["accepted"], &done["duplicates"]), (&json!(new), &json!(200 - new)));
        assert_eq!(done["position"], app.head());
        assert_eq!(matches_in_the_log(&app).await.len(), 200);
        if key.is_some() {
            assert_eq!(send(&app, &path, key, as_lines, &batch).await.ok(), done);
        }
    }
}

#[tokio::test]
async fn lost_confirmation_leaves_its_matches_unknown() {
    for recorded in [false, true] {
        let (app, log) = FailingLog::server().await;
        let path = format!("{}/matches", app.job().await);
        let batch: Vec<Value> = (0..200).map(a_match).collect();
        log.fail_after(5, Fault::Lost { recorded });
        let failed = send(&app, &path, Some("k"), false, &batch).await;
        let named = items(&failed);
        // What the log shows is not unknown.
        assert_eq!(named.contains_key("unknown"), !recorded, "{named:?}");
        assert_eq!(named["recorded"].len(), matches_in_the_log(&app).await.len());
        assert!(named["not_recorded"].len() > 50 && !claims_nothing(&failed));
        failed.refused(503, "OUTCOME_UNKNOWN");
        log.mend();
        let done = send(&app, &path, Some("k"), false, &batch).await.ok();
        assert_eq!((&done["accepted"], matches_in_the_log(&app).await.len()), (&json!(200), 200));
    }
}

#[tokio::test]
async fn job_that_ended_meanwhile_keeps_the_recorded_matches() {
    let (app, log) = FailingLog::server().await;
    let job = app.job().await;
    let path = format!("{job}/matches");
    let batch: Vec<Value> = (0..200).map(a_match).collect();
    log.fail_after(5, Fault::Unreachable);
    send(&app, &path, Some("k"), false, &batch).await.refused(503, "UNAVAILABLE");
    log.mend();
    let recorded = matches_in_the_log(&app).await;
    app.call("POST", format!("{job}/cancel")).send().await.ok();
    let refused = send(&app, &path, Some("k"), false, &batch).await;
    assert_eq!(items(&refused)["recorded"].len(), recorded.len());
    assert_eq!(items(&refused)["not_recorded"].len(), 200 - recorded.len());
    assert!(!claims_nothing(&refused), "{refused:?}");
    refused.refused(409, "CONFLICT");
    assert_eq!(matches_in_the_log(&app).await, recorded);
}

/// The batches of one stream that take several appends: the route, its items, and the events of the whole batch.
fn long_batches() -> [(&'static str, Vec<Value>, &'static str, usize); 4] {
    let url = format!("https://images.example/{}", "x".repeat(500));
    let image = |product: usize, n: usize| json!({ "img_id": format!("i{product}-{n}"), "url": url });
    let product = |product: usize| {
        let images: Vec<Value> = (0..1_500).map(|n| image(product, n)).collect();
        json!({ "product_id": format!("p{product}"), "images": images })
    };
    let video = |n: usize| json!({ "video_id": format!("v{n}"), "frame_count": 1 });
    let progress = |n: usize| json!({ "request_id": format!("r{n}"), "candidates_processed": 1, "vector_pass_done": 1, "ransac_checked": 1 });
    [
        ("products", (0..3).map(product).collect(), "ProductImagesRegistered", 12),
        ("videos", (0..9_000).map(video).collect(), "VideoFramesRegistered", 9_000),
        ("match-requests", (0..9_000).map(|n| request(&format!("r{n}"))).collect(), "MatchRequested", 9_000),
        ("match-progress", (0..9_000).map(progress).collect(), "MatchProgressReported", 9_000),
    ]
}

#[tokio::test]
async fn full_disk_within_a_long_batch_names_the_recorded_items() {
    for key in [None, Some("k")] {
        let (mut app, log) = FailingLog::server().await;
        let job = app.job().await;
        for (route, batch, event_type, events) in long_batches() {
            let path = format!("{job}/{route}");
            log.fail_after(1, Fault::Full);
            let refused = send(&app, &path, key, route == "videos", &batch).await;
            let named = items(&refused);
            assert!(!claims_nothing(&refused), "{refused:?}");
            let all: BTreeSet<usize> = named.values().flatten().copied().collect();
            assert_eq!(all, (0..batch.len()).collect(), "{route}");
            // An item with a list may be recorded in part.
            let first = app.count(event_type).await;
            assert!(first > 0 && first < events, "{route}: {first}");
            let recorded = named.get("recorded").map_or(0, BTreeSet::len);
            assert_eq!(recorded, if route == "products" { recorded.min(first) } else { first }, "{route}");
            refused.refused(507, "INSUFFICIENT_STORAGE");

            log.mend();
            app = app.restarted().await;
            let done = send(&app, &path, key, route == "videos", &batch).await.ok();
            assert_eq!((&done["accepted"], &done["position"]), (&json!(batch.len()), &json!(app.head())));
            assert_eq!(app.count(event_type).await, events, "{route}");
        }
    }
}

/// A request of several steps that fails after the first: the recorded steps are named, and the same request again is
/// answered.
async fn check_steps(
    app: &TestApp,
    log: &FailingLog,
    fault: Fault,
    path: &str,
    body: &Value,
    expected: &[(&str, &str)],
) {
    log.fail_after(1, fault);
    let send = async || app.call("POST", path).key("steps").user("bob").body(body).send().await;
    let failed = send().await;
    let expected: Vec<_> =
        expected.iter().map(|(step, outcome)| ((*step).into(), (*outcome).into())).collect();
    assert_eq!(steps(&failed), expected, "{failed:?}");
    assert!(!claims_nothing(&failed) && failed.status >= 500, "{failed:?}");
    log.mend();
    let done = send().await.ok();
    assert_eq!(send().await.ok(), done);
}

#[tokio::test]
async fn exit_is_named_when_the_ends_of_leases_are_not_recorded() {
    let (app, log) = FailingLog::server().await;
    app.job_with_requests(2).await;
    app.claim("w", 2).await;
    app.run_ready_tasks().await;
    let steps = [("exit", "recorded"), ("effects", "not_recorded")];
    check_steps(&app, &log, Fault::Full, "/internal/workers/w/exit", &json!({"exit_code": 1}), &steps).await;
    assert_eq!((app.count("WorkerExited").await, app.count("JobWorkerLost").await), (1, 1));
}

#[tokio::test]
async fn exit_is_named_when_its_answer_is_not_recorded() {
    let (app, log) = FailingLog::server().await;
    app.claim("w", 1).await;
    app.run_ready_tasks().await;
    let steps = [("exit", "recorded"), ("answer", "not_recorded")];
    check_steps(&app, &log, Fault::Full, "/internal/workers/w/exit", &json!({"exit_code": 1}), &steps).await;
    assert_eq!(app.count("WorkerExited").await, 1);
}

#[tokio::test]
async fn end_of_the_earlier_process_is_named_when_registering_fails() {
    let (app, log) = FailingLog::server().await;
    app.job_with_requests(1).await;
    app.claim("w", 1).await;
    app.run_ready_tasks().await;
    // The exit and the end of the lease are recorded.
    log.fail_after(2, Fault::Full);
    let body = json!({"kinds": ["match_request"], "version": "2"});
    let failed = app.put("/internal/workers/w", &body).await;
    let recorded = ("earlier_exit".to_owned(), "recorded".to_owned());
    assert_eq!(steps(&failed), [recorded, ("registration".to_owned(), "not_recorded".to_owned())]);
    failed.refused(507, "INSUFFICIENT_STORAGE");
    log.mend();
    app.put("/internal/workers/w", &body).await.ok();
    assert_eq!((app.count("WorkerExited").await, app.count("JobWorkerLost").await), (1, 1));
}

#[tokio::test]
async fn registration_is_named_when_the_claim_fails() {
    let (app, log) = FailingLog::server().await;
    app.job_with_requests(1).await;
    app.run_ready_tasks().await;
    let claim = json!({"worker_id": "w", "kinds": ["match_request"]});
    let steps = [("registration", "recorded"), ("claim", "not_recorded")];
    check_steps(&app, &log, Fault::Full, "/internal/work/claim", &claim, &steps).await;
    assert_eq!((app.count("WorkerRegistered").await, app.count("MatchRequestClaimed").await), (1, 1));
}

#[tokio::test]
async fn acceptance_is_named_when_a_player_is_not_reserved() {
    for (fault, outcome) in [(Fault::Full, "not_recorded"), (Fault::Lost { recorded: true }, "unknown")] {
        let (app, log) = FailingLog::server().await;
        let challenge = json!({"opponent_id": "bob", "pool_key": "blitz"});
        let call = app.call("POST", "/v1/matchmaking/challenges").user("ann").body(&challenge);
        let path = format!("{}/accept", call.send().await.location.unwrap());
        app.run_ready_tasks().await;
        let steps = [("acceptance", "recorded"), ("match", outcome)];
        check_steps(&app, &log, fault, &path, &json!({}), &steps).await;
        assert_eq!((app.count("MatchProposed").await, app.count("PlayerReserved").await), (1, 2));
    }
}

#[tokio::test]
async fn retry_is_named_when_the_requests_are_not_resumed() {
    let (app, log) = FailingLog::server().await;
    let job = app.job_with_requests(1).await;
    for _ in 0..4 {
        let Some(item) = app.claim("w", 1).await.pop() else { break };
        let fail = format!("/internal/work/{}/fail", lease(&item));
        app.post(fail, &json!({"error": "No such file or directory"})).await.ok();
        app.run_ready_tasks().await;
    }
    let retry = format!("{job}/retry");
    let steps = [("retry", "recorded"), ("answer", "not_recorded")];
    check_steps(&app, &log, Fault::Full, &retry, &json!({}), &steps).await;
    assert_eq!(app.count("MatchRequestRetried").await, 1);
}
