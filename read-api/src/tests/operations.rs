//! What an operator sees, and who may see it.

use event_schemas::envelope::Event;
use event_schemas::job::{JobEvent, JobFailed, JobRetryScheduled, RetryReason, RetryState};
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use web::caller::{Auth, Claims, Keys, Role, mint};

use super::script::{completed, created, failed, job, registered};
use super::stage::{Stage, acme, now, part, start};
use crate::server::Access;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_server_that_has_caught_up_is_ready() {
    let stage = Stage::open().await;
    stage.append(StreamId::worker(&acme(), &"worker-1".parse().unwrap()), &[registered(1)]).await;
    // A read that waits for the position is the sign that the models are there.
    stage.get("/internal/workers").await;
    stage.get("/jobs").await;
    let ready = stage.get("/ready").await;
    assert_eq!(ready.status, 200, "{}", ready.text);
    assert_eq!(ready.json()["ready"], true);
    assert_eq!(stage.get("/live").await.json()["live"], true);
    assert_eq!(stage.get("/health").await.json()["status"], "ok");
}

#[tokio::test]
async fn a_part_that_is_behind_keeps_the_server_from_being_ready() {
    let parts = vec![part("work_board", false, "12 events to go")];
    let stage = Stage::with(|clock| Auth::open(now(clock)), Access::Open, parts).await;
    let ready = stage.get("/ready").await;
    assert_eq!(ready.status, 503);
    let checks = ready.json();
    let board = checks["checks"].as_array().unwrap().iter().find(|check| check["name"] == "work_board");
    assert_eq!(board.unwrap()["detail"], "12 events to go");
    let health = stage.get("/health").await;
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("degraded")));
}

#[tokio::test]
async fn the_status_tells_of_every_part_and_says_loudly_that_it_is_open() {
    let parts = vec![part("work_board", true, "caught up")];
    let stage = Stage::with(|clock| Auth::open(now(clock)), Access::Open, parts).await;
    stage.append(StreamId::worker(&acme(), &"worker-1".parse().unwrap()), &[registered(1)]).await;
    for path in ["/internal/workers", "/jobs"] {
        stage.get(path).await;
    }
    let mut status = stage.get("/status").await.json();
    // The log's id is made up at each start, and how fast events came in is measured.
    status["log"]["id"] = "…".into();
    let projections = status["projections"].as_array_mut().unwrap();
    let workers = projections.iter_mut().find(|model| model["name"] == "workers").unwrap();
    workers["events_per_second"] = 0.into();
    status["projections"] = vec![workers.clone()].into();
    assert_snapshot!(format!("{status:#}"));
}

#[tokio::test]
async fn what_became_of_failures_is_told_by_class_and_which_services_are_left_alone() {
    let stage = Stage::open().await;
    stage.job_event(job(1), created(job(1), "a")).await;
    let Event::Job(JobEvent::JobFailed(error)) = failed() else { unreachable!("it is a failed job") };
    let failed = JobFailed { retry_state: Some(RetryState::InProgress), ..error };
    let due_at = stage.clock.now().after(std::time::Duration::from_secs(12));
    let retry = JobRetryScheduled { attempt: 2, due_at, reason: Some(RetryReason::Backoff) };
    stage.append(StreamId::job(job(1)), &[Event::Job(failed.into()), Event::Job(retry.into())]).await;
    stage.job_event(job(1), completed()).await;
    assert_snapshot!(stage.get("/internal/retries").await.whole());
}

#[tokio::test]
async fn workers_are_listed_with_their_presence() {
    let stage = Stage::open().await;
    for n in [1, 2] {
        let stream = StreamId::worker(&acme(), &format!("worker-{n}").parse().unwrap());
        stage.append(stream, &[registered(n)]).await;
    }
    let first = stage.get("/internal/workers?limit=1").await.json();
    assert_snapshot!(format!("{:#}", first["items"]));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = stage.get(&format!("/internal/workers?limit=1&cursor={cursor}")).await.json();
    assert_eq!((second["items"][0]["id"].as_str(), second["next_cursor"].as_str()), (Some("worker-2"), None));
}

#[tokio::test]
async fn a_projection_rests_and_goes_on_as_told() {
    let stage = Stage::open().await;
    assert_eq!(stage.post("/internal/projections/jobs/pause").await.status, 200);
    let listed = stage.get("/internal/projections").await.json();
    let jobs = listed["items"].as_array().unwrap().iter().find(|model| model["name"] == "jobs").cloned();
    assert_eq!(jobs.unwrap()["state"], "paused");
    // Reads go on, so nobody has to be sent elsewhere.
    assert_eq!(stage.get("/ready").await.status, 200);
    assert_eq!(stage.get("/health").await.json()["status"], "degraded");
    assert_eq!(stage.post("/internal/projections/jobs/resume").await.status, 200);
    let rebuilt = stage.post("/internal/projections/jobs/rebuild").await;
    assert_snapshot!(rebuilt.whole());
    assert_snapshot!("unknown_projection", stage.post("/internal/projections/nothing/rebuild").await.whole());
}

#[tokio::test]
async fn each_role_sees_its_own() {
    let keys = |clock: &_| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let stage = Stage::with(keys, Access::Keys, Vec::new()).await;
    let token = |role: Role| {
        let claims = Claims::new(&acme(), "ann", role.into(), start(), std::time::Duration::from_secs(3600));
        format!("Bearer {}", mint(SECRET, &claims).unwrap())
    };
    let operator = [Role::Admin];
    let anyone = Role::ALL;
    let services = [Role::Admin, Role::Service];
    let observers = [Role::Worker, Role::Service, Role::Auditor, Role::Admin];
    let table: [(&str, &[Role]); 7] = [
        ("/jobs", &anyone),
        ("/status", &services),
        ("/metrics", &services),
        ("/internal/projections", &operator),
        ("/internal/workers", &operator),
        ("/internal/pools/blitz", &operator),
        ("/internal/queues/summary", &observers),
    ];
    for (path, allowed) in table {
        assert_eq!(stage.get(path).await.status, 401, "{path} without credentials");
        for role in Role::ALL {
            let answer = stage.get_with(path, &[("Authorization", &token(role))]).await;
            let expected = if allowed.contains(&role) { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{path} as {role}");
        }
    }
    for path in ["/live", "/health", "/ready"] {
        assert_ne!(stage.get(path).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn metrics_are_told_in_the_form_that_is_asked_for() {
    let stage = Stage::open().await;
    let text = stage.get("/metrics").await;
    assert_eq!(text.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let json = stage.get_with("/metrics", &[("Accept", "application/json")]).await;
    assert_eq!(json.text, r#"{"latencies":[]}"#);
}
