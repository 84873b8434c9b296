//! Analyses of videos on the real program, with the example worker and a real video.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::load::SeededRng;
use crate::support::server::{Server, WorkerProcess};
use crate::support::sse_client::{SseClient, SseEvent};
use crate::support::{setting, wait_until};

const START: &str = "/api/v1/analysis";
const CONNECTIONS: usize = 32;

fn media() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/analysis"))
}

fn video(number: usize, options: &Value) -> Value {
    json!({"url": format!("https://www.twitch.tv/videos/{number}"), "options": options})
}

impl Server {
    /// Starts an analysis, and returns the id of its job.
    async fn start_analysis(&self, number: usize, options: Value) -> String {
        let started = self.post(START, &video(number, &options)).await.expect(202);
        started["job_id"].as_str().unwrap().to_owned()
    }

    /// The analysis, with all its events up to now.
    async fn analysis(&self, id: &str) -> Value {
        self.current(id, &format!("{START}/{id}")).await
    }

    /// The response of a path, with all events of the job up to now.
    async fn current(&self, id: &str, path: &str) -> Value {
        let events = self.get(&format!("/jobs/{id}/events?limit=500")).await.expect(200);
        let latest = events["items"].as_array().unwrap().last().unwrap()["position"].to_string();
        self.send(reqwest::Method::GET, path, &[("X-Min-Position", &latest)], None).await.expect(200)
    }

    async fn claim_analyses(&self, max: usize) -> Vec<Value> {
        let body = json!({"worker_id": "w", "kinds": ["video_analysis"], "max": max, "wait_ms": 200});
        self.post("/internal/work/claim", &body).await.expect(200)["items"].as_array().unwrap().clone()
    }

    async fn work(&self, item: &Value, action: &str, body: Value) -> Value {
        let lease = item["lease_id"].as_str().unwrap();
        self.post(&format!("/internal/work/{lease}/{action}"), &body).await.expect(200)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_video_is_analysed_and_streamed_to_the_end() {
    let server = Server::start(&[]).await;
    let id = server.start_analysis(2039, json!({"highlights_max": 3})).await;
    let mut subscriber = SseClient::open(&server, &format!("{START}/{id}/stream"), None).await.unwrap();
    let _analyst = WorkerProcess::analyst(&server, "analyst-1", media(), &["--pace-ms", "5"]);
    let events = subscriber.read_to_end().await;
    assert_eq!(events.last().map(|event| event.event.as_str()), Some("stream_ended"));
    let percentages: Vec<f64> =
        events.iter().filter_map(|event| event.data["progress"]["percentage"].as_f64()).collect();
    assert!(percentages.is_sorted() && percentages.last() == Some(&100.0), "{percentages:?}");
    let between = percentages.iter().filter(|percentage| (65.1..89.9).contains(*percentage)).count();
    assert!(between > 0, "progress within the decoding stage is sent: {percentages:?}");
    let done = server.analysis(&id).await;
    assert_eq!((&done["status"], &done["attempt"]), (&json!("completed"), &json!(1)), "{done}");
    let result = &done["result"];
    assert_eq!(
        (&result["frames"], &result["width"], &result["height"]),
        (&json!(132), &json!(1280), &json!(720))
    );
    let highlights = result["highlights"].as_array().unwrap();
    assert!((1..=3).contains(&highlights.len()), "{result}");
    let unsupported: Vec<&str> =
        result["unsupported"].as_array().unwrap().iter().filter_map(|part| part["what"].as_str()).collect();
    assert_eq!(unsupported, ["chat", "loudness", "transcript"]);
    assert_eq!(done["attempts"][0]["worker_ids"], json!(["analyst-1"]));
    let ended = events.iter().find(|event| event.event == "completed").unwrap().id;
    assert_eq!(SseClient::open(&server, &format!("{START}/{id}/stream"), ended).await.err(), Some(204));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_worker_service_fails_as_unsupported() {
    let server = Server::start(&[]).await;
    let absent = server.start_analysis(1, json!({})).await;
    let transcript = server.start_analysis(2039, json!({"require": ["transcript"]})).await;
    let _analyst = WorkerProcess::analyst(&server, "analyst-1", media(), &[]);
    for (id, word) in [(absent, "download"), (transcript, "transcript")] {
        wait_until("the analysis fails", async || server.analysis(&id).await["status"] == "failed").await;
        let failed = server.analysis(&id).await;
        assert_eq!(failed["error"]["code"], "unsupported_video", "{failed}");
        assert!(failed["error"]["message"].as_str().unwrap().contains(word), "{failed}");
        assert_eq!(failed["retry_state"], "non_retryable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_for_one_video_create_one_job() {
    let server = Server::start(&[]).await;
    let ask = async || {
        // A separate client opens a separate connection.
        let client = reqwest::Client::new();
        let request = client.post(format!("{}{START}", server.url)).json(&video(7, &json!({})));
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        (status, body["job_id"].as_str().unwrap().to_owned())
    };
    let responses = futures_util::future::join_all((0..CONNECTIONS).map(|_| ask())).await;
    assert_eq!(responses.iter().filter(|(status, _)| *status == 202).count(), 1, "{responses:?}");
    assert_eq!(responses.iter().filter(|(status, _)| *status == 200).count(), CONNECTIONS - 1);
    assert_eq!(responses.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), 1);
    server.analysis(&responses[0].1).await;
    let list = server.get("/api/v1/jobs").await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_resumed_at_random_delivers_every_change_once() {
    let server = Server::start(&[]).await;
    let mut rng = SeededRng(setting("MATCHBOOK_TEST_SEED", 11));
    let id = server.start_analysis(5, json!({})).await;
    let path = format!("{START}/{id}/stream");
    let work = async {
        for attempt in 1..=3_u32 {
            let mut items = Vec::new();
            while items.is_empty() {
                items = server.claim_analyses(1).await;
            }
            let stages = ["downloading", "fetching_chat", "transcribing", "analyzing", "finding_highlights"];
            for stage in stages {
                for step in 0..=4 {
                    let progress = json!({"stage": stage, "fraction": f64::from(step) / 4.0});
                    server.work(&items[0], "progress", progress).await;
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
            if attempt < 3 {
                server.work(&items[0], "fail", json!({"error": "minio: internal error"})).await;
            } else {
                server.work(&items[0], "complete", json!({"result": {"highlights": []}})).await;
            }
        }
    };
    let read = async {
        let mut received: Vec<SseEvent> = Vec::new();
        let mut last = None;
        loop {
            let mut subscriber = match SseClient::open(&server, &path, last).await {
                Ok(subscriber) => subscriber,
                Err(status) => {
                    assert_eq!(status, 204);
                    return received;
                }
            };
            let event_count = 1 + rng.below(6);
            for _ in 0..=event_count {
                let Some(event) = subscriber.next().await else { break };
                last = event.id.or(last);
                received.extend(event.id.is_some().then_some(event));
            }
        }
    };
    let ((), received) = tokio::join!(work, read);
    let ids: Vec<u64> = received.iter().filter_map(|event| event.id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "in order, and nothing twice: {ids:?}");
    let events = server.get(&format!("/jobs/{id}/events?limit=500")).await.expect(200);
    let is_change = |event: &&Value| {
        matches!(event["type"].as_str(), Some("JobPhaseChanged" | "JobRetryScheduled" | "JobCompleted"))
    };
    let changes: Vec<u64> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(is_change)
        .filter_map(|event| event["position"].as_u64())
        .filter(|position| *position > ids[0])
        .collect();
    assert!(changes.len() > 10, "{events}");
    let missed: Vec<&u64> = changes.iter().filter(|change| !ids.contains(change)).collect();
    assert!(missed.is_empty(), "{missed:?} of {changes:?} were never delivered: {ids:?}");
    assert_eq!(received.last().map(|event| event.event.as_str()), Some("completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_retries_survive_kills_and_run_once_when_due() {
    let mut server = Server::start(&["--analyses-max=100000"]).await;
    let count = setting("MATCHBOOK_TEST_RETRIES", 60) as usize;
    for number in 0..count {
        server.start_analysis(number, json!({})).await;
    }
    // Long enough that no retry is due before the last analysis has failed.
    let delay = 3 + count / 50;
    let mut claimed = 0;
    while claimed < count {
        for item in server.claim_analyses(100).await {
            server.work(&item, "fail", json!({"error": "HTTP 429", "retry_after_seconds": delay})).await;
            claimed += 1;
        }
    }
    server.kill();
    server.restart().await;
    assert_eq!(server.claim_analyses(100).await, [0; 0], "nothing is due yet");
    let (mut claimed_again, mut killed_again) = (BTreeSet::new(), false);
    while claimed_again.len() < count {
        for item in server.claim_analyses(7).await {
            let id = item["job_id"].as_str().unwrap().to_owned();
            let second = server.analysis(&id).await["attempts"][1].clone();
            let (due, started) = (&second["due_at"], &second["started_at"]);
            assert!(started.as_str() >= due.as_str(), "{id} started at {started}, due at {due}");
            assert_eq!(item["attempt"], 2);
            assert!(claimed_again.insert(id));
        }
        if !killed_again && claimed_again.len() >= count / 2 {
            killed_again = true;
            server.kill();
            server.restart().await;
        }
    }
    assert_eq!(server.claim_analyses(100).await, [0; 0], "no retry runs twice");
}

/// The faults of the example worker, which are the codes of their errors, and the job's retry state after the first attempt.
const FAULTS: [(&str, &str); 18] = [
    ("network_timeout", "in_progress"),
    ("connection_failed", "in_progress"),
    ("dns_failure", "in_progress"),
    ("invalid_url", "non_retryable"),
    ("video_not_found", "non_retryable"),
    ("private_video", "non_retryable"),
    ("unsupported_video", "non_retryable"),
    ("out_of_memory", "in_progress"),
    ("insufficient_storage", "in_progress"),
    ("speech_to_text_service", "in_progress"),
    ("database_service", "in_progress"),
    ("object_storage_service", "in_progress"),
    ("rate_limited", "in_progress"),
    ("service_authentication", "non_retryable"),
    ("file_not_found", "in_progress"),
    ("permission_denied", "non_retryable"),
    ("corrupt_media", "non_retryable"),
    ("unknown", "in_progress"),
];

/// A folder with the same clip under `count` numbers.
fn clips(count: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..count {
        std::os::unix::fs::symlink(media().join("2039.mp4"), folder.path().join(format!("{number}.mp4")))
            .unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_class_is_recognised_and_retried_or_not() {
    let server = Server::start(&[]).await;
    let clips = clips(FAULTS.len());
    let mut ids = Vec::new();
    for (number, (fault, _)) in FAULTS.iter().enumerate() {
        ids.push(server.start_analysis(number, json!({"fault": fault, "fault_attempts": 1})).await);
    }
    let _analyst = WorkerProcess::analyst(&server, "analyst-1", clips.path(), &["--faults"]);
    for (id, (fault, state)) in ids.iter().zip(FAULTS) {
        let failed = async || server.analysis(id).await["attempts"][0]["ended_at"].is_string();
        wait_until("the first attempt ends", failed).await;
        let shown = server.analysis(id).await;
        let error = &shown["attempts"][0]["error"];
        assert_eq!(error["code"], fault, "{shown}");
        assert_eq!(shown["retry_state"], state, "{shown}");
        assert_eq!(error["retryable"], state == "in_progress");
        assert!(!error["suggested_actions"].as_array().unwrap().is_empty());
        assert!(error["support_reference"].as_str().unwrap().starts_with("MB-"));
    }
    // The second attempt succeeds, for one fault of each retry delay that is short enough for a test.
    for fault in ["network_timeout", "object_storage_service", "rate_limited", "unknown"] {
        let index = FAULTS.iter().position(|(known, _)| *known == fault).unwrap();
        let id = &ids[index];
        wait_until("the second attempt completes", async || {
            server.analysis(id).await["status"] == "completed"
        })
        .await;
        let shown = server.analysis(id).await;
        assert_eq!((&shown["attempt"], &shown["error"]), (&json!(2), &Value::Null), "{fault}: {shown}");
        assert_eq!(shown["attempts"][0]["error"]["code"], fault);
    }
    let limited = FAULTS.iter().position(|(known, _)| *known == "rate_limited").unwrap();
    let report = server.current(&ids[limited], "/internal/retries").await;
    let classes = report["classes"].as_array().unwrap();
    assert_eq!(classes.len(), FAULTS.len(), "{report}");
    let limited = classes.iter().find(|class| class["code"] == "rate_limited").unwrap();
    assert_eq!(
        (&limited["retries"]["rate_limited"], &limited["outcomes"]["recovered"]),
        (&json!(1), &json!(1))
    );
    assert!(
        report["breakers"].as_array().unwrap().iter().all(|breaker| breaker["state"] == "closed"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn job_losing_two_workers_is_quarantined_until_retried() {
    let server = Server::start(&["--lease-term=6s"]).await;
    let id = server.start_analysis(2039, json!({"fault": "worker_lost", "fault_attempts": 1})).await;
    for worker in ["analyst-1", "analyst-2"] {
        let mut analyst = WorkerProcess::analyst(&server, worker, media(), &["--faults"]);
        assert_eq!(analyst.wait_for_exit(), Some(137));
    }
    wait_until("the job is quarantined", async || server.analysis(&id).await["status"] == "failed").await;
    let shown = server.analysis(&id).await;
    assert_eq!(
        (&shown["retry_state"], &shown["error"]["code"]),
        (&json!("crash_loop"), &json!("worker_lost"))
    );
    assert_eq!(shown["attempts"][0]["worker_ids"], json!(["analyst-1", "analyst-2"]));
    server.post(&format!("/jobs/{id}/retry"), &json!({})).await.expect(200);
    let _analyst = WorkerProcess::analyst(&server, "analyst-3", media(), &["--faults"]);
    wait_until("the retried job completes", async || server.analysis(&id).await["status"] == "completed")
        .await;
}
