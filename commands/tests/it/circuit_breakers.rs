//! External services whose breaker opens, and the work that is parked meanwhile.

use serde_json::{Value, json};

use crate::support::{TestApp, lease};

const DOWN: &str = "deepgram: 503 service unavailable";

impl TestApp {
    async fn analyses(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let video = json!({"url": format!("https://www.twitch.tv/videos/{number}")});
            self.post("/api/v1/analysis", &video).await.ok();
        }
        self.run_ready_tasks().await;
    }

    async fn claim_analyses(&self, max: usize) -> Vec<Value> {
        self.run_ready_tasks().await;
        let body = json!({"worker_id": "w", "kinds": ["video_analysis"], "max": max});
        self.post("/internal/work/claim", &body).await.ok()["items"].as_array().unwrap().clone()
    }

    async fn report(&self, item: &Value, action: &str, body: Value) {
        self.post(format!("/internal/work/{}/{action}", lease(item)), &body).await.ok();
    }

    /// Starts these analyses, and lets them fail at speech-to-text.
    async fn speech_fails(&self, numbers: std::ops::Range<u32>) {
        let count = numbers.len();
        self.analyses(numbers).await;
        for item in self.claim_analyses(count).await {
            self.report(&item, "fail", json!({"error": DOWN})).await;
        }
        self.run_ready_tasks().await;
    }
}

#[tokio::test]
async fn open_breaker_parks_work_until_probes_succeed() {
    let app = TestApp::new().await;
    app.speech_fails(0..10).await;
    app.analyses(10..20).await;
    assert_eq!(app.claim_analyses(100).await, [0; 0]);
    app.advance(29).await;
    assert_eq!(app.claim_analyses(100).await, [0; 0]);
    app.advance(1).await;
    let probes = app.claim_analyses(100).await;
    assert_eq!(probes.len(), 3);
    assert_eq!(app.claim_analyses(100).await, [0; 0]);
    for probe in &probes {
        app.report(probe, "progress", json!({"stage": "transcribing", "fraction": 0.5})).await;
        app.report(probe, "progress", json!({"stage": "analyzing", "fraction": 0.5})).await;
    }
    assert_eq!(app.claim_analyses(100).await.len(), 17);
    assert_eq!(app.count("JobFailed").await, 10);
}

#[tokio::test]
async fn waiting_worker_gets_a_probe_when_the_breaker_half_opens() {
    let app = TestApp::new().await;
    app.speech_fails(0..10).await;
    app.analyses(10..12).await;
    let body = json!({"worker_id": "w", "kinds": ["video_analysis"], "wait_ms": 30_000});
    let claim = app.post("/internal/work/claim", &body);
    let later = async {
        app.run_ready_tasks().await;
        app.advance(30).await;
    };
    let (claimed, ()) = tokio::join!(claim, later);
    assert_eq!(claimed.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn job_failing_at_an_open_breaker_is_parked_not_failed() {
    let app = TestApp::new().await;
    app.analyses(0..15).await;
    for item in app.claim_analyses(15).await {
        app.report(&item, "fail", json!({"error": DOWN})).await;
        app.run_ready_tasks().await;
    }
    // An outage of three hours, in which every admitted job fails.
    for _ in 0..36 {
        app.advance(300).await;
        for item in app.claim_analyses(100).await {
            app.report(&item, "fail", json!({"error": DOWN})).await;
            app.run_ready_tasks().await;
        }
    }
    assert_eq!(app.count("JobFailed").await, app.count("JobRetryScheduled").await);
    let failed = app.count("JobFailed").await;
    assert!(failed < 15 + 36 * 3 + 3, "{failed} calls of a failing service");
    // The service is back: one probe after the other succeeds, and then all jobs continue.
    app.advance(300).await;
    let mut done = 0;
    while done < 15 {
        let items = app.claim_analyses(100).await;
        assert!(!items.is_empty(), "after {done}");
        for item in items {
            app.report(&item, "progress", json!({"stage": "transcribing", "fraction": 0.5})).await;
            app.report(&item, "complete", json!({})).await;
            done += 1;
        }
        app.advance(60).await;
    }
    assert_eq!(app.count("JobCompleted").await, 15);
}

#[tokio::test]
async fn open_breaker_survives_a_restart() {
    let app = TestApp::new().await;
    app.speech_fails(0..10).await;
    app.analyses(10..20).await;
    let app = app.restarted().await;
    app.advance(29).await;
    assert_eq!(app.claim_analyses(100).await, [0; 0]);
    app.advance(1).await;
    assert_eq!(app.claim_analyses(1).await.len(), 1);
    let app = app.restarted().await;
    assert_eq!(app.claim_analyses(100).await.len(), 2);
}

#[tokio::test]
async fn open_breaker_does_not_affect_other_work() {
    let app = TestApp::new().await;
    app.speech_fails(0..10).await;
    app.analyses(10..12).await;
    app.post("/jobs", &json!({"kind": "extract_cutouts"})).await.ok();
    app.job_with_requests(1).await;
    app.run_ready_tasks().await;
    let kinds = json!(["video_analysis", "extract_cutouts", "match_request"]);
    let body = json!({"worker_id": "w", "kinds": kinds, "max": 10});
    let items = app.post("/internal/work/claim", &body).await.ok()["items"].clone();
    let mut kinds: Vec<&str> =
        items.as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["extract_cutouts", "match_request"]);
}

#[tokio::test]
async fn open_breaker_stops_no_work_of_another_tenant() {
    let app = TestApp::new().await;
    app.speech_fails(0..10).await;
    app.analyses(10..12).await;
    assert_eq!(app.claim_analyses(100).await, [0; 0]);
    let other = |method, path: &'static str| app.call(method, path).tenant("other");
    let video = json!({"url": "https://www.twitch.tv/videos/1"});
    other("POST", "/api/v1/analysis").body(&video).send().await.ok();
    app.run_ready_tasks().await;
    let claim = json!({"worker_id": "w", "kinds": ["video_analysis"], "max": 100});
    let claimed = other("POST", "/internal/work/claim").body(&claim).send().await.ok();
    assert_eq!(claimed["items"].as_array().unwrap().len(), 1);
}
