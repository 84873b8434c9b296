//! Services that fail too often, and the work that is parked meanwhile.

use serde_json::{Value, json};

use crate::support::{Bench, lease};

const DOWN: &str = "deepgram: 503 service unavailable";

impl Bench {
    async fn analyses(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let video = json!({"url": format!("https://www.twitch.tv/videos/{number}")});
            self.post("/api/v1/analysis", &video).await.ok();
        }
        self.rest().await;
    }

    async fn take_analyses(&self, max: usize) -> Vec<Value> {
        self.rest().await;
        let body = json!({"worker_id": "w", "kinds": ["video_analysis"], "max": max});
        self.post("/internal/work/claim", &body).await.ok()["items"].as_array().unwrap().clone()
    }

    async fn report(&self, item: &Value, action: &str, body: Value) {
        self.post(format!("/internal/work/{}/{action}", lease(item)), &body).await.ok();
    }

    /// So many new analyses fail of speech-to-text.
    async fn speech_fails(&self, numbers: std::ops::Range<u32>) {
        let count = numbers.len();
        self.analyses(numbers).await;
        for item in self.take_analyses(count).await {
            self.report(&item, "fail", json!({"error": DOWN})).await;
        }
        self.rest().await;
    }
}

#[tokio::test]
async fn work_is_parked_while_a_service_is_left_alone_and_a_few_jobs_find_out_whether_it_is_back() {
    let bench = Bench::new().await;
    bench.speech_fails(0..10).await;
    bench.analyses(10..20).await;
    assert_eq!(bench.take_analyses(100).await, [0; 0]);
    bench.pass(29).await;
    assert_eq!(bench.take_analyses(100).await, [0; 0]);
    bench.pass(1).await;
    let probes = bench.take_analyses(100).await;
    assert_eq!(probes.len(), 3);
    assert_eq!(bench.take_analyses(100).await, [0; 0]);
    for probe in &probes {
        bench.report(probe, "progress", json!({"stage": "transcribing", "fraction": 0.5})).await;
        bench.report(probe, "progress", json!({"stage": "analyzing", "fraction": 0.5})).await;
    }
    assert_eq!(bench.take_analyses(100).await.len(), 17);
    assert_eq!(bench.count("JobFailed").await, 10);
}

#[tokio::test]
async fn who_waits_for_work_gets_it_the_moment_the_service_is_asked_again() {
    let bench = Bench::new().await;
    bench.speech_fails(0..10).await;
    bench.analyses(10..12).await;
    let body = json!({"worker_id": "w", "kinds": ["video_analysis"], "wait_ms": 30_000});
    let claim = bench.post("/internal/work/claim", &body);
    let later = async {
        bench.rest().await;
        bench.pass(30).await;
    };
    let (claimed, ()) = tokio::join!(claim, later);
    assert_eq!(claimed.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_fails_while_its_service_is_left_alone_is_parked_and_never_fails_for_good() {
    let bench = Bench::new().await;
    bench.analyses(0..15).await;
    for item in bench.take_analyses(15).await {
        bench.report(&item, "fail", json!({"error": DOWN})).await;
        bench.rest().await;
    }
    // An outage of three hours, in which every job that is let through fails.
    for _ in 0..36 {
        bench.pass(300).await;
        for item in bench.take_analyses(100).await {
            bench.report(&item, "fail", json!({"error": DOWN})).await;
            bench.rest().await;
        }
    }
    assert_eq!(bench.count("JobFailed").await, bench.count("JobRetryScheduled").await);
    let failed = bench.count("JobFailed").await;
    assert!(failed < 15 + 36 * 3 + 3, "{failed} calls of a service that is down");
    // It is back: one probe after the other succeeds, and then all go on.
    bench.pass(300).await;
    let mut done = 0;
    while done < 15 {
        let items = bench.take_analyses(100).await;
        assert!(!items.is_empty(), "after {done}");
        for item in items {
            bench.report(&item, "progress", json!({"stage": "transcribing", "fraction": 0.5})).await;
            bench.report(&item, "complete", json!({})).await;
            done += 1;
        }
        bench.pass(60).await;
    }
    assert_eq!(bench.count("JobCompleted").await, 15);
}

#[tokio::test]
async fn a_restart_forgets_no_open_breaker() {
    let bench = Bench::new().await;
    bench.speech_fails(0..10).await;
    bench.analyses(10..20).await;
    let bench = bench.restarted().await;
    bench.pass(29).await;
    assert_eq!(bench.take_analyses(100).await, [0; 0]);
    bench.pass(1).await;
    assert_eq!(bench.take_analyses(1).await.len(), 1);
    let bench = bench.restarted().await;
    assert_eq!(bench.take_analyses(100).await.len(), 2);
}

#[tokio::test]
async fn other_work_goes_on_while_a_service_is_left_alone() {
    let bench = Bench::new().await;
    bench.speech_fails(0..10).await;
    bench.analyses(10..12).await;
    bench.post("/jobs", &json!({"kind": "extract_cutouts"})).await.ok();
    bench.job_with_requests(1).await;
    bench.rest().await;
    let kinds = json!(["video_analysis", "extract_cutouts", "match_request"]);
    let body = json!({"worker_id": "w", "kinds": kinds, "max": 10});
    let items = bench.post("/internal/work/claim", &body).await.ok()["items"].clone();
    let mut kinds: Vec<&str> =
        items.as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["extract_cutouts", "match_request"]);
}
