//! The worker against a server that hands out one request, remembers every report, and may misbehave.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use matchbook_matcher::api::{Api, CallError};
use matchbook_matcher::media::Media;
use matchbook_matcher::request::Bench;
use matchbook_matcher::wire::WorkerId;
use matchbook_matcher::worker::{Ended, Signal, Worker};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_server::{FakeServer, Misbehaviour};

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

struct Setting {
    heartbeat_every: Duration,
    pace: Duration,
    evidence: TempDir,
}

impl Setting {
    fn new() -> Self {
        Self {
            heartbeat_every: Duration::from_secs(15),
            pace: Duration::ZERO,
            evidence: tempfile::tempdir().expect("a folder can be made"),
        }
    }

    /// A worker that leaves once there is no work for a moment.
    fn worker(&self, server: &FakeServer) -> Worker {
        let api = Api::new(&server.address(), WorkerId("w1".to_owned()), Some("secret"))
            .expect("the address is one");
        let media = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../data/matching");
        let bench = Bench {
            media: Arc::new(Media::new(media)),
            evidence: self.evidence.path().to_owned(),
            pace: self.pace,
        };
        Worker::new(api, bench, Some(Duration::from_millis(300)), self.heartbeat_every)
    }

    async fn work_until_idle(&self, server: &FakeServer) {
        let ended =
            self.worker(server).run(std::future::pending()).await.expect("the server refuses nothing");
        assert_eq!(ended, Ended::Idle);
    }
}

fn last_progress(server: &FakeServer) -> Value {
    server.bodies("match-progress").last().expect("progress was reported")[0].clone()
}

fn match_ids(server: &FakeServer) -> Vec<String> {
    let reported = server.bodies("matches");
    let all = reported.iter().flat_map(|body| body.as_array().expect("matches come in a list").clone());
    all.map(|found| found["match_id"].as_str().expect("a match has an id").to_owned()).collect()
}

fn all_match_ids() -> HashSet<String> {
    FRAMES.iter().map(|frame| format!("hedge-1:clip:{frame}")).collect()
}

#[tokio::test]
async fn a_request_is_worked_through_and_reported_to_its_end() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    server.offer(request("l1"));
    setting.work_until_idle(&server).await;

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
async fn every_match_has_a_score_and_an_evidence_picture() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    server.offer(request("l1"));
    setting.work_until_idle(&server).await;

    for found in server.bodies("matches").iter().flat_map(|body| body.as_array().unwrap()) {
        assert!((0.4..1.0).contains(&found["score"].as_f64().unwrap()), "{found}");
        assert_eq!((&found["product_id"], &found["img_id"]), (&json!("hedge"), &json!("hedge-1")));
        let picture = image::open(found["evidence_path"].as_str().unwrap()).unwrap();
        // Both pictures side by side: a product of 439 pixels, a frame of 640, and the room between.
        assert!(picture.width() > 439 + 640 && picture.height() >= 360);
    }
    let job = setting.evidence.path().join("0190a6c2-7d5e-7b11-8f00-6a9b1c2d3e4f");
    assert_eq!(
        std::fs::read_dir(job).unwrap().count(),
        5,
        "pictures of the five matches, and nothing unfinished"
    );
}

#[tokio::test]
async fn progress_never_counts_a_candidate_whose_match_is_unreported() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    server.offer(request("l1"));
    setting.work_until_idle(&server).await;

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
async fn a_server_killed_in_mid_report_and_started_again_misses_nothing() {
    for report in ["/matches", "/match-progress"] {
        let (mut server, setting) = (FakeServer::start(), Setting::new());
        server.offer(request("l1"));
        server.misbehave(report, Misbehaviour::TakeAndNeverAnswer);
        let worker = setting.worker(&server);
        let running = tokio::spawn(async move { worker.run(std::future::pending()).await });
        server.called(report).await;
        server.kill();
        server.start_again();
        assert_eq!(running.await.unwrap().unwrap(), Ended::Idle);

        assert_eq!(match_ids(&server).into_iter().collect::<HashSet<_>>(), all_match_ids());
        let last = last_progress(&server);
        assert_eq!((&last["completed"], &last["candidates_processed"]), (&json!(true), &json!(10)));
        let calls = server.calls();
        let tries: Vec<_> = calls.iter().filter(|call| call.path.ends_with(report)).take(2).collect();
        assert_eq!(tries[0].key, tries[1].key, "the second try of {report} must be known as the first");
        assert_eq!(tries[0].body, tries[1].body);
    }
}

#[tokio::test]
async fn a_worker_goes_on_where_another_stopped() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    let mut resumed = request("l2");
    resumed["totals"] = json!({"candidates_processed": 3, "vector_pass_done": 3, "ransac_checked": 2});
    server.offer(resumed);
    setting.work_until_idle(&server).await;

    assert_eq!(match_ids(&server), ["hedge-1:clip:f012", "hedge-1:clip:f016"]);
    let last = last_progress(&server);
    assert_eq!((&last["candidates_processed"], &last["vector_pass_done"]), (&json!(10), &json!(10)));
    assert!(
        (4..=9).contains(&last["ransac_checked"].as_u64().unwrap()),
        "two before, and at least the two found"
    );
}

#[tokio::test]
async fn a_lost_lease_is_dropped_without_a_word_and_work_goes_on() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    server.misbehave("/match-progress", Misbehaviour::Answer(409));
    server.offer(request("l1"));
    server.offer(request("l2"));
    setting.work_until_idle(&server).await;

    assert!(server.bodies("fail").is_empty());
    let last = last_progress(&server);
    assert_eq!((&last["lease_id"], &last["completed"]), (&json!("l2"), &json!(true)));
}

#[tokio::test]
async fn a_heartbeat_that_finds_the_lease_lost_stops_the_request() {
    let (server, mut setting) = (FakeServer::start(), Setting::new());
    setting.heartbeat_every = Duration::from_millis(20);
    setting.pace = Duration::from_secs(60);
    server.misbehave("/internal/work/l1/heartbeat", Misbehaviour::Answer(404));
    server.offer(request("l1"));
    // It ends at all only if the request, whose pace would take ten minutes, is dropped.
    setting.work_until_idle(&server).await;

    assert!(server.bodies("match-progress").is_empty());
    assert!(server.bodies("fail").is_empty());
    assert!(!server.bodies("/workers/w1/heartbeat").is_empty());
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    for (path, status) in [("/claim", 503), ("/claim", 429), ("/matches", 507), ("/match-progress", 503)] {
        server.misbehave(path, Misbehaviour::Answer(status));
    }
    server.offer(request("l1"));
    setting.work_until_idle(&server).await;

    assert_eq!(match_ids(&server).into_iter().collect::<HashSet<_>>(), all_match_ids());
    assert_eq!(last_progress(&server)["completed"], true);
    assert!(server.bodies("fail").is_empty());
}

#[tokio::test]
async fn a_missing_picture_fails_the_request_with_the_way_out() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    let mut broken = request("l1");
    broken["images"][0] = json!({"img_id": "a-picture-nobody-has"});
    server.offer(broken);
    setting.work_until_idle(&server).await;

    let failures = server.bodies("fail");
    let [failure] = &failures[..] else { panic!("failed once, not {failures:?}") };
    let error = failure["error"].as_str().unwrap();
    assert!(error.contains("a-picture-nobody-has.jpg") && error.contains("--media"), "{error}");
}

#[tokio::test]
async fn a_refused_report_fails_the_request_with_the_servers_words() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    server.misbehave("/matches", Misbehaviour::Answer(400));
    server.offer(request("l1"));
    setting.work_until_idle(&server).await;

    let error = server.bodies("fail")[0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("the fake says 400"), "{error}");
}

#[tokio::test]
async fn a_worker_told_to_leave_gives_its_request_back_and_says_goodbye() {
    let (server, mut setting) = (FakeServer::start(), Setting::new());
    setting.pace = Duration::from_secs(60);
    setting.heartbeat_every = Duration::from_millis(20);
    server.offer(request("l1"));
    // A worker that heartbeats a lease is at work on it.
    let at_work = server.called("/internal/work/l1/heartbeat");
    let stop = async {
        at_work.await;
        Signal::Terminate
    };
    let ended = setting.worker(&server).run(stop).await.unwrap();
    assert_eq!(ended, Ended::Signalled(Signal::Terminate));

    assert_eq!(server.bodies("/internal/work/l1/fail")[0]["error"], "worker is shutting down");
    let exit = server.bodies("exit")[0].clone();
    assert_eq!((&exit["exit_code"], &exit["signal"]), (&json!(0), &json!(15)));
}

#[tokio::test]
async fn a_worker_that_may_not_claim_says_so_and_leaves() {
    let (server, setting) = (FakeServer::start(), Setting::new());
    server.misbehave("/claim", Misbehaviour::Answer(401));
    let refused = setting.worker(&server).run(std::future::pending()).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused { .. }));
    assert!(refused.to_string().contains("the fake says 401"), "{refused}");
    assert_eq!(server.bodies("exit")[0]["exit_code"], 1);
}
