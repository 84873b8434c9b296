use std::time::Duration;

use event_schemas::job::{JobEvent, RetryReason, RetryState};
use event_schemas::time::Timestamp;
use serde_json::{Value, json};

use crate::support::{TestApp, TestResponse, lease};

const KIND: &str = "extract_cutouts";

impl TestApp {
    /// A job that is claimed as a whole.
    async fn whole_job(&self) -> String {
        let job = self.post("/jobs", &json!({"kind": KIND})).await.ok();
        job["id"].as_str().unwrap().to_owned()
    }

    /// Claims all work that there is.
    async fn claim_all(&self, worker: &str) -> Vec<Value> {
        let body = json!({"worker_id": worker, "kinds": [KIND], "max": 100});
        self.run_ready_tasks().await;
        self.post("/internal/work/claim", &body).await.ok()["items"].as_array().unwrap().clone()
    }

    async fn fail(&self, item: &Value, error: &str) -> TestResponse {
        self.post(format!("/internal/work/{}/fail", lease(item)), &json!({"error": error})).await
    }

    /// The due time of the last scheduled retry.
    async fn due_at(&self) -> Timestamp {
        let events = self.events().await;
        let mut retries = events.iter().rev().filter_map(|envelope| match &envelope.event {
            event_schemas::envelope::Event::Job(JobEvent::JobRetryScheduled(retry)) => Some(retry.due_at),
            _ => None,
        });
        retries.next().unwrap()
    }

    /// The reason why the last failed job is retried, or not.
    async fn retry_state(&self) -> Option<RetryState> {
        let events = self.events().await;
        let mut failures = events.iter().rev().filter_map(|envelope| match &envelope.event {
            event_schemas::envelope::Event::Job(JobEvent::JobFailed(failed)) => Some(failed.retry_state),
            _ => None,
        });
        failures.next().unwrap()
    }
}

#[tokio::test]
async fn retry_is_claimable_exactly_at_its_due_time() {
    let app = TestApp::new().await;
    app.whole_job().await;
    let item = app.claim_all("w").await.remove(0);
    app.fail(&item, "connection refused").await.ok();
    assert_eq!(app.retry_state().await, Some(RetryState::InProgress));
    let due = app.due_at().await;
    let pause = due.since(app.clock.now());
    assert!((1.0..=2.0).contains(&pause.as_secs_f64()), "{pause:?}");
    app.clock.set(due.before(Duration::from_micros(1)));
    assert_eq!(app.claim_all("w").await.len(), 0);
    let waiting = json!({"worker_id": "w", "kinds": [KIND], "wait_ms": 20_000});
    let claim = app.post("/internal/work/claim", &waiting);
    let later = async {
        app.run_ready_tasks().await;
        app.clock.set(due);
    };
    let (claimed, ()) = tokio::join!(claim, later);
    assert_eq!(claimed.ok()["items"][0]["attempt"], 2);
    assert_eq!(app.clock.now(), due);
}

#[tokio::test]
async fn retry_survives_restarts() {
    let app = TestApp::new().await;
    app.whole_job().await;
    let item = app.claim_all("w").await.remove(0);
    app.fail(&item, "connection refused").await.ok();
    let due = app.due_at().await;
    let app = app.restarted().await;
    app.clock.set(due.before(Duration::from_micros(1)));
    assert_eq!(app.claim_all("w").await.len(), 0);
    let app = app.restarted().await;
    assert_eq!(app.claim_all("w").await.len(), 0);
    app.clock.set(due.after(Duration::from_secs(3600)));
    let app = app.restarted().await;
    assert_eq!(app.claim_all("w").await.len(), 1);
    assert_eq!(app.claim_all("w").await.len(), 0);
    assert_eq!(app.count("JobRetryScheduled").await, 1);
}

#[tokio::test]
async fn manual_retry_makes_a_scheduled_one_due_once() {
    let app = TestApp::new().await;
    let job = app.whole_job().await;
    let item = app.claim_all("w").await.remove(0);
    app.fail(&item, "connection refused").await.ok();
    assert_eq!(app.claim_all("w").await.len(), 0);
    let path = format!("/jobs/{job}/retry");
    for _ in 0..2 {
        app.call("POST", &path).key("now").send().await.ok();
        app.call("POST", &path).send().await.ok();
    }
    let claimed = app.claim_all("w").await;
    assert_eq!((claimed.len(), &claimed[0]["attempt"]), (1, &json!(2)));
    assert_eq!(app.count("JobRetryScheduled").await, 2, "one from the failure, one that was requested");
}

#[tokio::test]
async fn repeated_failure_report_schedules_one_retry() {
    let app = TestApp::new().await;
    app.whole_job().await;
    let item = app.claim_all("w").await.remove(0);
    let path = format!("/internal/work/{}/fail", lease(&item));
    let body = json!({"error": "connection refused"});
    for _ in 0..2 {
        app.call("POST", &path).key("f").body(&body).send().await.ok();
        app.post(&path, &body).await.ok();
    }
    assert_eq!((app.count("JobFailed").await, app.count("JobRetryScheduled").await), (1, 1));
    app.advance(10).await;
    app.claim_all("w").await.remove(0);
    app.post(&path, &body).await.ok();
    assert_eq!((app.count("JobFailed").await, app.count("JobRetryScheduled").await), (1, 1));
}

#[tokio::test]
async fn job_out_of_attempts_waits_for_a_manual_retry() {
    let app = TestApp::new().await;
    let job = app.whole_job().await;
    for _ in 0..3 {
        let item = app.claim_all("w").await.remove(0);
        app.fail(&item, "No such file or directory").await.ok();
        app.advance(120).await;
    }
    assert_eq!(app.retry_state().await, Some(RetryState::MaximumAttempts));
    assert_eq!(app.claim_all("w").await.len(), 0);
    app.post(format!("/jobs/{job}/retry"), &json!({})).await.ok();
    assert_eq!(app.claim_all("w").await.len(), 1);
}

#[tokio::test]
async fn retry_uses_the_reported_retry_after() {
    let app = TestApp::new().await;
    app.whole_job().await;
    let item = app.claim_all("w").await.remove(0);
    let body = json!({"error": "HTTP 429 Too Many Requests", "retry_after_seconds": 90});
    app.post(format!("/internal/work/{}/fail", lease(&item)), &body).await.ok();
    assert_eq!(app.due_at().await.since(app.clock.now()), Duration::from_secs(90));
    let too_long = json!({"error": "x", "retry_after_seconds": 86_401});
    let response = app.post(format!("/internal/work/{}/fail", lease(&item)), &too_long).await;
    assert_eq!(response.fields(), ["retry_after_seconds"]);
}

#[tokio::test]
async fn crash_looping_job_is_quarantined_until_retried() {
    let app = TestApp::new().await;
    let job = app.whole_job().await;
    app.claim_all("a").await.remove(0);
    app.advance(45).await;
    app.until_count("JobLeaseExpired", 1).await;
    app.claim_all("b").await.remove(0);
    app.post("/internal/workers/b/exit", &json!({"exit_code": 137})).await.ok();
    app.until_count("JobQuarantined", 1).await;
    assert_eq!(app.retry_state().await, Some(RetryState::CrashLoop));
    assert_eq!(app.claim_all("c").await.len(), 0);
    let app = app.restarted().await;
    app.advance(1000).await;
    assert_eq!(app.claim_all("c").await.len(), 0);
    app.post(format!("/jobs/{job}/retry"), &json!({})).await.ok();
    assert_eq!(app.claim_all("c").await.len(), 1);
}

#[tokio::test]
async fn stopped_workers_cost_a_job_no_attempts() {
    let app = TestApp::new().await;
    app.whole_job().await;
    for n in 0..5 {
        let item = app.claim_all(&format!("w{n}")).await.remove(0);
        assert_eq!(item["attempt"], 1);
        app.post(format!("/internal/workers/w{n}/exit"), &json!({"exit_code": 0})).await.ok();
        app.until_count("JobLeaseExpired", n + 1).await;
    }
    let item = app.claim_all("w").await.remove(0);
    app.fail(&item, "the worker is shutting down").await.ok();
    let reasons: Vec<_> = app
        .events()
        .await
        .into_iter()
        .filter_map(|envelope| match envelope.event {
            event_schemas::envelope::Event::Job(JobEvent::JobRetryScheduled(retry)) => retry.reason,
            _ => None,
        })
        .collect();
    assert_eq!(reasons, [RetryReason::Interrupted]);
    assert_eq!(app.claim_all("w").await.len(), 1);
    assert_eq!(app.count("JobQuarantined").await, 0);
}

/// Fails a match request until it is parked.
async fn park_request(app: &TestApp) {
    for attempt in 1..=5 {
        let Some(item) = app.claim("w", 1).await.pop() else {
            assert!(attempt > 1, "the request could be claimed");
            return;
        };
        let fail = format!("/internal/work/{}/fail", lease(&item));
        app.post(fail, &json!({"error": "No such file or directory"})).await.ok();
        app.run_ready_tasks().await;
    }
    panic!("the request is still claimable");
}

#[tokio::test]
async fn parked_request_of_an_open_job_is_retried_on_request() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let retry = format!("{job}/retry");
    app.call("POST", &retry).send().await.refused(409, "CONFLICT");
    park_request(&app).await;
    let resumed = app.call("POST", &retry).key("k").send().await.ok();
    assert_eq!((&resumed["phase"], app.count("MatchRequestRetried").await), (&json!("matching"), 1));
    app.run_ready_tasks().await;
    assert_eq!(app.claim("w", 1).await.len(), 1);
    app.put(format!("{job}/phase"), &json!({"phase": "completed"})).await.ok();
    let app = app.restarted().await;
    assert_eq!(app.call("POST", &retry).key("k").send().await.ok(), resumed);
    app.call("POST", &retry).send().await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn position_of_a_retry_covers_the_jobs_requests() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    park_request(&app).await;
    for (method, path, body) in [
        ("POST", format!("{job}/retry"), json!({})),
        ("PUT", format!("{job}/phase"), json!({"phase": "queued"})),
    ] {
        app.put(format!("{job}/phase"), &json!({"phase": "failed"})).await.ok();
        let retried = app.call(method, path).body(&body).send().await.ok();
        let events = app.events().await;
        let resumed = events
            .iter()
            .rev()
            .find(|envelope| envelope.event.event_type().as_str() == "MatchRequestRetried");
        assert!(retried["position"].as_u64().unwrap() >= resumed.unwrap().position.0);
        park_request(&app).await;
    }
    assert_eq!(app.count("MatchRequestRetried").await, 2);
}
