//! Analyses of videos on the program itself, with the example worker and a real video.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::load::Dice;
use crate::support::reader::{Reader, Told};
use crate::support::server::{Analyst, Server};
use crate::support::{setting, until};

const START: &str = "/api/v1/analysis";
const CONNECTIONS: usize = 32;

fn media() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/analysis"))
}

fn video(number: usize, options: &Value) -> Value {
    json!({"url": format!("https://www.twitch.tv/videos/{number}"), "options": options})
}

impl Server {
    /// Asks for an analysis, and answers its job's id.
    async fn start_analysis(&self, number: usize, options: Value) -> String {
        let started = self.post(START, &video(number, &options)).await.expect(202);
        started["job_id"].as_str().unwrap().to_owned()
    }

    /// The analysis with all that is in the log of it by now.
    async fn analysis(&self, id: &str) -> Value {
        self.current(id, &format!("{START}/{id}")).await
    }

    /// What a path answers that reflects all that is in the log of the job by now.
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
async fn a_real_video_is_analysed_stage_by_stage_and_its_stream_tells_it_to_the_end() {
    let server = Server::start(&[]).await;
    let id = server.start_analysis(2039, json!({"highlights_max": 3})).await;
    let mut reader = Reader::open(&server, &format!("{START}/{id}/stream"), None).await.unwrap();
    let _analyst = Analyst::start(&server, "analyst-1", media(), &["--pace-ms", "5"]);
    let told = reader.rest().await;
    assert_eq!(told.last().map(|told| told.event.as_str()), Some("stream_ended"));
    let percentages: Vec<f64> =
        told.iter().filter_map(|told| told.data["progress"]["percentage"].as_f64()).collect();
    assert!(percentages.is_sorted() && percentages.last() == Some(&100.0), "{percentages:?}");
    let between = percentages.iter().filter(|percentage| (65.1..89.9).contains(*percentage)).count();
    assert!(between > 0, "frames that were decoded are told of: {percentages:?}");
    let done = server.analysis(&id).await;
    assert_eq!((&done["status"], &done["attempt"]), (&json!("completed"), &json!(1)), "{done}");
    let result = &done["result"];
    assert_eq!(
        (&result["frames"], &result["width"], &result["height"]),
        (&json!(132), &json!(1280), &json!(720))
    );
    let highlights = result["highlights"].as_array().unwrap();
    assert!((1..=3).contains(&highlights.len()), "{result}");
    let lacking: Vec<&str> =
        result["unsupported"].as_array().unwrap().iter().filter_map(|part| part["what"].as_str()).collect();
    assert_eq!(lacking, ["chat", "loudness", "transcript"]);
    assert_eq!(done["attempts"][0]["worker_ids"], json!(["analyst-1"]));
    let ended = told.iter().find(|told| told.event == "completed").unwrap().id;
    assert_eq!(Reader::open(&server, &format!("{START}/{id}/stream"), ended).await.err(), Some(204));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_worker_has_no_service_for_fails_as_unsupported() {
    let server = Server::start(&[]).await;
    let absent = server.start_analysis(1, json!({})).await;
    let transcript = server.start_analysis(2039, json!({"require": ["transcript"]})).await;
    let _analyst = Analyst::start(&server, "analyst-1", media(), &[]);
    for (id, word) in [(absent, "download"), (transcript, "transcript")] {
        until("the analysis fails", async || server.analysis(&id).await["status"] == "failed").await;
        let failed = server.analysis(&id).await;
        assert_eq!(failed["error"]["code"], "unsupported_video", "{failed}");
        assert!(failed["error"]["message"].as_str().unwrap().contains(word), "{failed}");
        assert_eq!(failed["retry_state"], "non_retryable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_connections_that_ask_for_the_same_video_one_begins_it() {
    let server = Server::start(&[]).await;
    let ask = async || {
        // A client of its own is a connection of its own.
        let client = reqwest::Client::new();
        let request = client.post(format!("{}{START}", server.url)).json(&video(7, &json!({})));
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        (status, body["job_id"].as_str().unwrap().to_owned())
    };
    let answers = futures_util::future::join_all((0..CONNECTIONS).map(|_| ask())).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 202).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), CONNECTIONS - 1);
    assert_eq!(answers.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), 1);
    server.analysis(&answers[0].1).await;
    let list = server.get("/api/v1/jobs").await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_left_and_taken_up_at_random_tells_every_change_once() {
    let server = Server::start(&[]).await;
    let mut dice = Dice(setting("MATCHBOOK_TEST_SEED", 11));
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
        let mut heard: Vec<Told> = Vec::new();
        let mut last = None;
        loop {
            let mut reader = match Reader::open(&server, &path, last).await {
                Ok(reader) => reader,
                Err(status) => {
                    assert_eq!(status, 204);
                    return heard;
                }
            };
            let patience = 1 + dice.below(6);
            for _ in 0..=patience {
                let Some(told) = reader.next().await else { break };
                last = told.id.or(last);
                heard.extend(told.id.is_some().then_some(told));
            }
        }
    };
    let ((), heard) = tokio::join!(work, read);
    let ids: Vec<u64> = heard.iter().filter_map(|told| told.id).collect();
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
    assert!(missed.is_empty(), "{missed:?} of {changes:?} were never told: {ids:?}");
    assert_eq!(heard.last().map(|told| told.event.as_str()), Some("completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_wait_survive_a_kill_and_each_is_had_once_and_not_before_its_time() {
    let mut server = Server::start(&["--analyses-max=100000"]).await;
    let count = setting("MATCHBOOK_TEST_RETRIES", 60) as usize;
    for number in 0..count {
        server.start_analysis(number, json!({})).await;
    }
    // So long that the first one is not due before the last one has failed.
    let pause = 3 + count / 50;
    let mut claimed = 0;
    while claimed < count {
        for item in server.claim_analyses(100).await {
            server.work(&item, "fail", json!({"error": "HTTP 429", "retry_after_seconds": pause})).await;
            claimed += 1;
        }
    }
    server.kill();
    server.restart().await;
    assert_eq!(server.claim_analyses(100).await, [0; 0], "nothing is due yet");
    let (mut had, mut killed_again) = (BTreeSet::new(), false);
    while had.len() < count {
        for item in server.claim_analyses(7).await {
            let id = item["job_id"].as_str().unwrap().to_owned();
            let second = server.analysis(&id).await["attempts"][1].clone();
            let (due, began) = (&second["due_at"], &second["started_at"]);
            assert!(began.as_str() >= due.as_str(), "{id} began at {began}, due at {due}");
            assert_eq!(item["attempt"], 2);
            assert!(had.insert(id));
        }
        if !killed_again && had.len() >= count / 2 {
            killed_again = true;
            server.kill();
            server.restart().await;
        }
    }
    assert_eq!(server.claim_analyses(100).await, [0; 0], "nothing is had twice");
}

/// What becomes of each fault at first: the code that it is recognised by, and whether it is tried again.
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

/// A folder in which the clip has all the numbers up to `count`.
fn clips(count: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..count {
        std::os::unix::fs::symlink(media().join("2039.mp4"), folder.path().join(format!("{number}.mp4")))
            .unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn every_class_of_error_is_recognised_explained_and_tried_again_or_not() {
    let server = Server::start(&[]).await;
    let clips = clips(FAULTS.len());
    let mut ids = Vec::new();
    for (number, (fault, _)) in FAULTS.iter().enumerate() {
        ids.push(server.start_analysis(number, json!({"fault": fault, "fault_attempts": 1})).await);
    }
    let _analyst = Analyst::start(&server, "analyst-1", clips.path(), &["--faults"]);
    for (id, (fault, state)) in ids.iter().zip(FAULTS) {
        let failed = async || server.analysis(id).await["attempts"][0]["ended_at"].is_string();
        until("the first attempt ends", failed).await;
        let shown = server.analysis(id).await;
        let error = &shown["attempts"][0]["error"];
        assert_eq!(error["code"], fault, "{shown}");
        assert_eq!(shown["retry_state"], state, "{shown}");
        assert_eq!(error["retryable"], state == "in_progress");
        assert!(!error["suggested_actions"].as_array().unwrap().is_empty());
        assert!(error["support_reference"].as_str().unwrap().starts_with("MB-"));
    }
    // One of each kind of pause that a test can wait for goes well the second time.
    for fault in ["network_timeout", "object_storage_service", "rate_limited", "unknown"] {
        let index = FAULTS.iter().position(|(known, _)| *known == fault).unwrap();
        let id = &ids[index];
        until("the second attempt completes", async || server.analysis(id).await["status"] == "completed")
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
async fn a_job_that_two_workers_vanish_from_is_quarantined_and_may_be_retried_by_hand() {
    let server = Server::start(&["--lease-term=6s"]).await;
    let id = server.start_analysis(2039, json!({"fault": "worker_lost", "fault_attempts": 1})).await;
    for worker in ["analyst-1", "analyst-2"] {
        let mut analyst = Analyst::start(&server, worker, media(), &["--faults"]);
        assert_eq!(analyst.ended(), Some(137));
    }
    until("the job is quarantined", async || server.analysis(&id).await["status"] == "failed").await;
    let shown = server.analysis(&id).await;
    assert_eq!(
        (&shown["retry_state"], &shown["error"]["code"]),
        (&json!("crash_loop"), &json!("worker_lost"))
    );
    assert_eq!(shown["attempts"][0]["worker_ids"], json!(["analyst-1", "analyst-2"]));
    server.post(&format!("/jobs/{id}/retry"), &json!({})).await.expect(200);
    let _analyst = Analyst::start(&server, "analyst-3", media(), &["--faults"]);
    until("it goes well", async || server.analysis(&id).await["status"] == "completed").await;
}
