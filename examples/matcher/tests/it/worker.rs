//! The worker with a fake server that returns requests, records every report, and injects faults.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use matchbook_matcher::api::{Api, CallError};
use matchbook_matcher::media::Media;
use matchbook_matcher::request::WorkContext;
use matchbook_matcher::wire::WorkerId;
use matchbook_matcher::worker::{Signal, StopReason, Worker};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_server::{FakeServer, Fault};

const FRAMES: [&str; 5] = ["f000", "f004", "f008", "f012", "f016"];

/// `hedge-1` is in all five frames, the rocket in none: ten candidates, five matches.
fn request(lease: &str) -> Value {
    json!({
        "lease_id": lease, "lease_until": "2030-01-01T00:00:45.000000Z", "heartbeat_seconds": 15.0, "kind": "match_request", "attempt": 1,
        "job_id": "0190a6c2-7d5e-7b11-8f00-6a9b1c2d3e4f", "request_id": "r1", "product_id": "hedge",
        "video_id": "clip", "candidates": 10,
        "images": [{"img_id": "not-there-rocket-1"}, {"img_id": "hedge-1", "url": "file:///x/hedge-1.jpg"}],
        "frames": FRAMES.map(|frame| json!({"frame_id": frame, "timestamp_ms": 0})),
        "totals": {"candidates_processed": 0, "vector_pass_done": 0, "ransac_checked": 0},
    })
}

struct TestSetup {
    heartbeat_every: Duration,
    pace: Duration,
    evidence: TempDir,
}

impl TestSetup {
    fn new() -> Self {
        Self {
            heartbeat_every: Duration::from_secs(15),
            pace: Duration::ZERO,
            evidence: tempfile::tempdir().expect("a folder can be created"),
        }
    }

    /// A worker that stops after a moment without work.
    fn worker(&self, server: &FakeServer) -> Worker {
        let api = Api::new(&server.address(), WorkerId("w1".to_owned()), Some("secret"))
            .expect("the address is valid");
        let media = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../data/matching");
        let context = WorkContext {
            media: Arc::new(Media::new(media)),
            evidence: self.evidence.path().to_owned(),
            pace: self.pace,
        };
        Worker::new(api, context, Some(Duration::from_millis(300)), self.heartbeat_every)
    }

    async fn work_until_idle(&self, server: &FakeServer) {
        let ended =
            self.worker(server).run(std::future::pending()).await.expect("the server accepts everything");
        assert_eq!(ended, StopReason::Idle);
    }
}

fn last_progress(server: &FakeServer) -> Value {
    server.bodies("match-progress").last().expect("progress was reported")[0].clone()
}

fn match_ids(server: &FakeServer) -> Vec<String> {
    let reported = server.bodies("matches");
    let all = reported.iter().flat_map(|body| body.as_array().expect("matches are a list").clone());
    all.map(|found| found["match_id"].as_str().expect("a match has an id").to_owned()).collect()
}

fn all_match_ids() -> HashSet<String> {
    FRAMES.iter().map(|frame| format!("hedge-1:clip:{frame}")).collect()
}

#[tokio::test]
async fn request_is_processed_and_reported() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    server.offer(request("l1"));
    setup.work_until_idle(&server).await;

    assert_eq!(match_ids(&server).into_iter().collect::<HashSet<_>>(), all_match_ids());
    let last = last_progress(&server);
    assert_eq!(last["completed"], true);
    assert_eq!((&last["request_id"], &last["lease_id"]), (&json!("r1"), &json!("l1")));
    assert_eq!((&last["candidates_processed"], &last["vector_pass_done"]), (&json!(10), &json!(10)));
    let checked = last["ransac_checked"].as_u64().unwrap();
    assert!((5..=10).contains(&checked), "{checked} verified");

    let calls = server.calls();
    assert!(calls.iter().all(|call| call.token == "Bearer secret"));
    let registered = calls.iter().find(|call| call.method == "PUT").unwrap();
    assert_eq!(registered.path, "/internal/workers/w1");
    assert_eq!(registered.body["kinds"], json!(["match_request"]));
    let exit = calls.last().unwrap();
    assert_eq!((exit.path.as_str(), &exit.body["exit_code"]), ("/internal/workers/w1/exit", &json!(0)));
}

#[tokio::test]
async fn match_has_a_score_and_an_evidence_image() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    server.offer(request("l1"));
    setup.work_until_idle(&server).await;

    for found in server.bodies("matches").iter().flat_map(|body| body.as_array().unwrap()) {
        assert!((0.4..1.0).contains(&found["score"].as_f64().unwrap()), "{found}");
        assert_eq!((&found["product_id"], &found["img_id"]), (&json!("hedge"), &json!("hedge-1")));
        let picture =
            image::open(setup.evidence.path().join(found["evidence_path"].as_str().unwrap())).unwrap();
        // Both images side by side: a product of 439 pixels, a frame of 640, and the margins.
        assert!(picture.width() > 439 + 640 && picture.height() >= 360);
    }
    let job = setup.evidence.path().join("0190a6c2-7d5e-7b11-8f00-6a9b1c2d3e4f");
    assert_eq!(
        std::fs::read_dir(job).unwrap().count(),
        5,
        "images of the five matches, and no partial files"
    );
}

#[tokio::test]
async fn progress_never_counts_a_candidate_whose_match_is_unreported() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    server.offer(request("l1"));
    setup.work_until_idle(&server).await;

    let mut reported = 0;
    for call in server.calls() {
        if call.path.ends_with("/matches") {
            reported += call.body.as_array().unwrap().len() as u64;
        } else if call.path.ends_with("/match-progress") {
            let processed = call.body[0]["candidates_processed"].as_u64().unwrap();
            // The hedge comes first by name and is in every frame.
            assert_eq!(reported, processed.min(5));
        }
    }
    assert_eq!(reported, 5);
}

#[tokio::test]
async fn server_killed_during_a_report_misses_nothing() {
    for report in ["/matches", "/match-progress"] {
        let (mut server, setup) = (FakeServer::start(), TestSetup::new());
        server.offer(request("l1"));
        server.inject(report, Fault::NeverRespond);
        let worker = setup.worker(&server);
        let running = tokio::spawn(async move { worker.run(std::future::pending()).await });
        server.called(report).await;
        server.kill();
        server.restart();
        assert_eq!(running.await.unwrap().unwrap(), StopReason::Idle);

        assert_eq!(match_ids(&server).into_iter().collect::<HashSet<_>>(), all_match_ids());
        let last = last_progress(&server);
        assert_eq!((&last["completed"], &last["candidates_processed"]), (&json!(true), &json!(10)));
        let calls = server.calls();
        let attempts: Vec<_> = calls.iter().filter(|call| call.path.ends_with(report)).take(2).collect();
        assert_eq!(
            attempts[0].key, attempts[1].key,
            "the retry of {report} has the key of the first attempt"
        );
        assert_eq!(attempts[0].body, attempts[1].body);
    }
}

#[tokio::test]
async fn worker_resumes_where_another_stopped() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    let mut resumed = request("l2");
    resumed["totals"] = json!({"candidates_processed": 3, "vector_pass_done": 3, "ransac_checked": 2});
    server.offer(resumed);
    setup.work_until_idle(&server).await;

    assert_eq!(match_ids(&server), ["hedge-1:clip:f012", "hedge-1:clip:f016"]);
    let last = last_progress(&server);
    assert_eq!((&last["candidates_processed"], &last["vector_pass_done"]), (&json!(10), &json!(10)));
    assert!(
        (4..=9).contains(&last["ransac_checked"].as_u64().unwrap()),
        "two before, and at least the two found"
    );
}

#[tokio::test]
async fn lost_lease_is_dropped_and_work_continues() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    server.inject("/match-progress", Fault::Respond(409));
    server.offer(request("l1"));
    server.offer(request("l2"));
    setup.work_until_idle(&server).await;

    assert!(server.bodies("fail").is_empty());
    let last = last_progress(&server);
    assert_eq!((&last["lease_id"], &last["completed"]), (&json!("l2"), &json!(true)));
}

#[tokio::test]
async fn heartbeat_on_a_lost_lease_stops_the_request() {
    let (server, mut setup) = (FakeServer::start(), TestSetup::new());
    setup.heartbeat_every = Duration::from_millis(20);
    setup.pace = Duration::from_secs(60);
    server.inject("/internal/work/l1/heartbeat", Fault::Respond(404));
    server.offer(request("l1"));
    // This returns only if the request, which would take ten minutes, is dropped.
    setup.work_until_idle(&server).await;

    assert!(server.bodies("match-progress").is_empty());
    assert!(server.bodies("fail").is_empty());
    assert!(!server.bodies("/workers/w1/heartbeat").is_empty());
}

#[tokio::test]
async fn calls_to_a_busy_server_are_retried() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    for (path, status) in [("/claim", 503), ("/claim", 429), ("/matches", 507), ("/match-progress", 503)] {
        server.inject(path, Fault::Respond(status));
    }
    server.offer(request("l1"));
    setup.work_until_idle(&server).await;

    assert_eq!(match_ids(&server).into_iter().collect::<HashSet<_>>(), all_match_ids());
    assert_eq!(last_progress(&server)["completed"], true);
    assert!(server.bodies("fail").is_empty());
}

#[tokio::test]
async fn missing_image_fails_the_request_with_a_remedy() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    let mut broken = request("l1");
    broken["images"][0] = json!({"img_id": "missing-image"});
    server.offer(broken);
    setup.work_until_idle(&server).await;

    let failures = server.bodies("fail");
    let [failure] = &failures[..] else { panic!("failed once, not {failures:?}") };
    let error = failure["error"].as_str().unwrap();
    assert!(error.contains("missing-image.jpg") && error.contains("--media"), "{error}");
}

#[tokio::test]
async fn refused_report_fails_the_request_with_the_error() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    server.inject("/matches", Fault::Respond(400));
    server.offer(request("l1"));
    setup.work_until_idle(&server).await;

    let error = server.bodies("fail")[0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("injected 400"), "{error}");
}

#[tokio::test]
async fn stopped_worker_releases_its_lease_and_reports_its_exit() {
    let (server, mut setup) = (FakeServer::start(), TestSetup::new());
    setup.pace = Duration::from_secs(60);
    setup.heartbeat_every = Duration::from_millis(20);
    server.offer(request("l1"));
    // A heartbeat for the lease means that the worker processes the request.
    let is_processing = server.called("/internal/work/l1/heartbeat");
    let stop = async {
        is_processing.await;
        Signal::Terminate
    };
    let ended = setup.worker(&server).run(stop).await.unwrap();
    assert_eq!(ended, StopReason::Signalled(Signal::Terminate));

    assert_eq!(server.bodies("/internal/work/l1/fail")[0]["error"], "worker is shutting down");
    let exit = server.bodies("exit")[0].clone();
    assert_eq!((&exit["exit_code"], &exit["signal"]), (&json!(0), &json!(15)));
}

#[tokio::test]
async fn worker_that_may_not_claim_stops_with_the_error() {
    let (server, setup) = (FakeServer::start(), TestSetup::new());
    server.inject("/claim", Fault::Respond(401));
    let refused = setup.worker(&server).run(std::future::pending()).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused { .. }));
    assert!(refused.to_string().contains("injected 401"), "{refused}");
    assert_eq!(server.bodies("exit")[0]["exit_code"], 1);
}
