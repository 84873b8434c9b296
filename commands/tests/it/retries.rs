use std::time::Duration;

use event_schemas::job::{JobEvent, RetryReason, RetryState};
use event_schemas::time::Timestamp;
use serde_json::{Value, json};

use crate::support::{Answer, Bench, lease};

const KIND: &str = "extract_cutouts";

impl Bench {
    /// A job that is claimed as a whole.
    async fn whole_job(&self) -> String {
        let job = self.post("/jobs", &json!({"kind": KIND})).await.ok();
        job["id"].as_str().unwrap().to_owned()
    }

    /// What a worker gets that takes whatever there is.
    async fn take(&self, worker: &str) -> Vec<Value> {
        let body = json!({"worker_id": worker, "kinds": [KIND], "max": 100});
        self.rest().await;
        self.post("/internal/work/claim", &body).await.ok()["items"].as_array().unwrap().clone()
    }

    async fn fail(&self, item: &Value, error: &str) -> Answer {
        self.post(format!("/internal/work/{}/fail", lease(item)), &json!({"error": error})).await
    }

    /// Of the last retry that was scheduled.
    async fn due_at(&self) -> Timestamp {
        let events = self.events().await;
        let mut retries = events.iter().rev().filter_map(|envelope| match &envelope.event {
            event_schemas::envelope::Event::Job(JobEvent::JobRetryScheduled(retry)) => Some(retry.due_at),
            _ => None,
        });
        retries.next().unwrap()
    }

    /// Why the last job that failed is, or is not, tried again.
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
async fn a_failed_job_waits_for_its_instant_and_is_then_had_at_once() {
    let bench = Bench::new().await;
    bench.whole_job().await;
    let item = bench.take("w").await.remove(0);
    bench.fail(&item, "connection refused").await.ok();
    assert_eq!(bench.retry_state().await, Some(RetryState::InProgress));
    let due = bench.due_at().await;
    let pause = due.since(bench.clock.now());
    assert!((1.0..=2.0).contains(&pause.as_secs_f64()), "{pause:?}");
    bench.clock.set(due.before(Duration::from_micros(1)));
    assert_eq!(bench.take("w").await.len(), 0);
    let waiting = json!({"worker_id": "w", "kinds": [KIND], "wait_ms": 20_000});
    let claim = bench.post("/internal/work/claim", &waiting);
    let later = async {
        bench.rest().await;
        bench.clock.set(due);
    };
    let (claimed, ()) = tokio::join!(claim, later);
    assert_eq!(claimed.ok()["items"][0]["attempt"], 2);
    assert_eq!(bench.clock.now(), due);
}

#[tokio::test]
async fn a_retry_survives_restarts_before_and_after_its_instant() {
    let bench = Bench::new().await;
    bench.whole_job().await;
    let item = bench.take("w").await.remove(0);
    bench.fail(&item, "connection refused").await.ok();
    let due = bench.due_at().await;
    let bench = bench.restarted().await;
    bench.clock.set(due.before(Duration::from_micros(1)));
    assert_eq!(bench.take("w").await.len(), 0);
    let bench = bench.restarted().await;
    assert_eq!(bench.take("w").await.len(), 0);
    bench.clock.set(due.after(Duration::from_secs(3600)));
    let bench = bench.restarted().await;
    assert_eq!(bench.take("w").await.len(), 1);
    assert_eq!(bench.take("w").await.len(), 0);
    assert_eq!(bench.count("JobRetryScheduled").await, 1);
}

#[tokio::test]
async fn a_scheduled_retry_that_is_asked_for_is_had_at_once_and_asking_twice_asks_once() {
    let bench = Bench::new().await;
    let job = bench.whole_job().await;
    let item = bench.take("w").await.remove(0);
    bench.fail(&item, "connection refused").await.ok();
    assert_eq!(bench.take("w").await.len(), 0);
    let path = format!("/jobs/{job}/retry");
    for _ in 0..2 {
        bench.call("POST", &path).key("now").send().await.ok();
        bench.call("POST", &path).send().await.ok();
    }
    let claimed = bench.take("w").await;
    assert_eq!((claimed.len(), &claimed[0]["attempt"]), (1, &json!(2)));
    assert_eq!(bench.count("JobRetryScheduled").await, 2, "one from the failure, one that was asked for");
}

#[tokio::test]
async fn a_failure_that_is_reported_twice_is_tried_again_once() {
    let bench = Bench::new().await;
    bench.whole_job().await;
    let item = bench.take("w").await.remove(0);
    let path = format!("/internal/work/{}/fail", lease(&item));
    let body = json!({"error": "connection refused"});
    for _ in 0..2 {
        bench.call("POST", &path).key("f").body(&body).send().await.ok();
        bench.post(&path, &body).await.ok();
    }
    assert_eq!((bench.count("JobFailed").await, bench.count("JobRetryScheduled").await), (1, 1));
    bench.pass(10).await;
    bench.take("w").await.remove(0);
    bench.post(&path, &body).await.ok();
    assert_eq!((bench.count("JobFailed").await, bench.count("JobRetryScheduled").await), (1, 1));
}

#[tokio::test]
async fn a_job_that_was_tried_as_often_as_it_may_be_stands_until_somebody_takes_it_up() {
    let bench = Bench::new().await;
    let job = bench.whole_job().await;
    for _ in 0..3 {
        let item = bench.take("w").await.remove(0);
        bench.fail(&item, "No such file or directory").await.ok();
        bench.pass(120).await;
    }
    assert_eq!(bench.retry_state().await, Some(RetryState::MaximumAttempts));
    assert_eq!(bench.take("w").await.len(), 0);
    bench.post(format!("/jobs/{job}/retry"), &json!({})).await.ok();
    assert_eq!(bench.take("w").await.len(), 1);
}

#[tokio::test]
async fn a_worker_says_how_long_a_service_wants_to_be_left_alone() {
    let bench = Bench::new().await;
    bench.whole_job().await;
    let item = bench.take("w").await.remove(0);
    let body = json!({"error": "HTTP 429 Too Many Requests", "retry_after_seconds": 90});
    bench.post(format!("/internal/work/{}/fail", lease(&item)), &body).await.ok();
    assert_eq!(bench.due_at().await.since(bench.clock.now()), Duration::from_secs(90));
    let too_long = json!({"error": "x", "retry_after_seconds": 86_401});
    let answer = bench.post(format!("/internal/work/{}/fail", lease(&item)), &too_long).await;
    assert_eq!(answer.fields(), ["retry_after_seconds"]);
}

#[tokio::test]
async fn a_job_whose_workers_keep_dying_is_quarantined_and_may_be_taken_up_by_hand() {
    let bench = Bench::new().await;
    let job = bench.whole_job().await;
    bench.take("a").await.remove(0);
    bench.pass(45).await;
    bench.until_count("JobLeaseExpired", 1).await;
    bench.take("b").await.remove(0);
    bench.post("/internal/workers/b/exit", &json!({"exit_code": 137})).await.ok();
    bench.until_count("JobQuarantined", 1).await;
    assert_eq!(bench.retry_state().await, Some(RetryState::CrashLoop));
    assert_eq!(bench.take("c").await.len(), 0);
    let bench = bench.restarted().await;
    bench.pass(1000).await;
    assert_eq!(bench.take("c").await.len(), 0);
    bench.post(format!("/jobs/{job}/retry"), &json!({})).await.ok();
    assert_eq!(bench.take("c").await.len(), 1);
}

#[tokio::test]
async fn a_worker_that_is_stopped_leaves_its_job_to_others_however_often() {
    let bench = Bench::new().await;
    bench.whole_job().await;
    for n in 0..5 {
        let item = bench.take(&format!("w{n}")).await.remove(0);
        assert_eq!(item["attempt"], 1);
        bench.post(format!("/internal/workers/w{n}/exit"), &json!({"exit_code": 0})).await.ok();
        bench.until_count("JobLeaseExpired", n + 1).await;
    }
    let item = bench.take("w").await.remove(0);
    bench.fail(&item, "the worker is shutting down").await.ok();
    let reasons: Vec<_> = bench
        .events()
        .await
        .into_iter()
        .filter_map(|envelope| match envelope.event {
            event_schemas::envelope::Event::Job(JobEvent::JobRetryScheduled(retry)) => retry.reason,
            _ => None,
        })
        .collect();
    assert_eq!(reasons, [RetryReason::Interrupted]);
    assert_eq!(bench.take("w").await.len(), 1);
    assert_eq!(bench.count("JobQuarantined").await, 0);
}
