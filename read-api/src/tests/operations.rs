//! The operator's routes and their roles.

use event_schemas::envelope::Event;
use event_schemas::job::{JobEvent, JobFailed, JobRetryScheduled, RetryReason, RetryState};
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::json;
use web::caller::{Auth, Claims, Keys, Role, mint};

use super::events::{completed, created, failed, job, registered};
use super::fixture::{ReadApiFixture, acme, component, now, start};
use crate::server::Access;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn caught_up_server_is_ready() {
    let fixture = ReadApiFixture::open().await;
    fixture.append(StreamId::worker(&acme(), &"worker-1".parse().unwrap()), &[registered(1)]).await;
    // These reads wait until the read models have caught up.
    fixture.get("/internal/workers").await;
    fixture.get("/jobs").await;
    let ready = fixture.get("/ready").await;
    assert_eq!(ready.status, 200, "{}", ready.text);
    assert_eq!(ready.json()["ready"], true);
    assert_eq!(fixture.get("/live").await.json()["live"], true);
    assert_eq!(fixture.get("/health").await.json()["status"], "ok");
}

#[tokio::test]
async fn component_that_is_behind_makes_the_server_not_ready() {
    let components = vec![component("work_board", false, "12 events to go")];
    let fixture = ReadApiFixture::with(|clock| Auth::open(now(clock)), Access::Open, components).await;
    let ready = fixture.get("/ready").await;
    assert_eq!(ready.status, 503);
    let checks = ready.json();
    let board = checks["checks"].as_array().unwrap().iter().find(|check| check["name"] == "work_board");
    assert_eq!(board.unwrap()["detail"], "12 events to go");
    let health = fixture.get("/health").await;
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("degraded")));
}

#[tokio::test]
async fn status_has_all_components_and_warns_about_open_access() {
    let components = vec![component("work_board", true, "caught up")];
    let fixture = ReadApiFixture::with(|clock| Auth::open(now(clock)), Access::Open, components).await;
    fixture.append(StreamId::worker(&acme(), &"worker-1".parse().unwrap()), &[registered(1)]).await;
    for path in ["/internal/workers", "/jobs"] {
        fixture.get(path).await;
    }
    let mut status = fixture.get("/status").await.json();
    // The log's id is random, and the event rate is measured.
    status["log"]["id"] = "…".into();
    let projections = status["projections"].as_array_mut().unwrap();
    let workers = projections.iter_mut().find(|model| model["name"] == "workers").unwrap();
    workers["events_per_second"] = 0.into();
    status["projections"] = vec![workers.clone()].into();
    assert_snapshot!(format!("{status:#}"));
}

#[tokio::test]
async fn retries_have_error_classes_and_circuit_breakers() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "a")).await;
    let Event::Job(JobEvent::JobFailed(error)) = failed() else { unreachable!("failed() is a JobFailed") };
    let failed = JobFailed { retry_state: Some(RetryState::InProgress), ..error };
    let due_at = fixture.clock.now().after(std::time::Duration::from_secs(12));
    let retry = JobRetryScheduled { attempt: 2, due_at, reason: Some(RetryReason::Backoff) };
    fixture.append(StreamId::job(job(1)), &[Event::Job(failed.into()), Event::Job(retry.into())]).await;
    fixture.job_event(job(1), completed()).await;
    assert_snapshot!(fixture.get("/internal/retries").await.snapshot());
}

#[tokio::test]
async fn workers_are_listed_with_presence() {
    let fixture = ReadApiFixture::open().await;
    for n in [1, 2] {
        let stream = StreamId::worker(&acme(), &format!("worker-{n}").parse().unwrap());
        fixture.append(stream, &[registered(n)]).await;
    }
    let first = fixture.get("/internal/workers?limit=1").await.json();
    assert_snapshot!(format!("{:#}", first["items"]));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = fixture.get(&format!("/internal/workers?limit=1&cursor={cursor}")).await.json();
    assert_eq!((second["items"][0]["id"].as_str(), second["next_cursor"].as_str()), (Some("worker-2"), None));
}

#[tokio::test]
async fn projection_is_paused_resumed_and_rebuilt() {
    let fixture = ReadApiFixture::open().await;
    assert_eq!(fixture.post("/internal/projections/jobs/pause").await.status, 200);
    let listed = fixture.get("/internal/projections").await.json();
    let jobs = listed["items"].as_array().unwrap().iter().find(|model| model["name"] == "jobs").cloned();
    assert_eq!(jobs.unwrap()["state"], "paused");
    // Reads continue, so the server stays ready.
    assert_eq!(fixture.get("/ready").await.status, 200);
    assert_eq!(fixture.get("/health").await.json()["status"], "degraded");
    assert_eq!(fixture.post("/internal/projections/jobs/resume").await.status, 200);
    let rebuilt = fixture.post("/internal/projections/jobs/rebuild").await;
    assert_snapshot!(rebuilt.snapshot());
    assert_snapshot!(
        "unknown_projection",
        fixture.post("/internal/projections/nothing/rebuild").await.snapshot()
    );
}

#[tokio::test]
async fn each_role_sees_only_its_routes() {
    let keys = |clock: &_| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let fixture = ReadApiFixture::with(keys, Access::Keys, Vec::new()).await;
    let token = |role: Role| {
        let claims = Claims::new(&acme(), "ann", role.into(), start(), std::time::Duration::from_secs(3600));
        format!("Bearer {}", mint(SECRET, &claims).unwrap())
    };
    let operator = [Role::Admin];
    let anyone = Role::ALL;
    let services = [Role::Admin, Role::Service];
    let observers = [Role::Worker, Role::Service, Role::Auditor, Role::Admin];
    let table: [(&str, &[Role]); 10] = [
        ("/jobs", anyone),
        ("/status", &services),
        ("/metrics", &services),
        ("/cache/stats", &services),
        ("/performance", &services),
        ("/performance/slow-queries", &services),
        ("/internal/projections", &operator),
        ("/internal/workers", &operator),
        ("/internal/pools/blitz", &operator),
        ("/internal/queues/summary", &observers),
    ];
    for (path, allowed) in table {
        assert_eq!(fixture.get(path).await.status, 401, "{path} without credentials");
        for &role in Role::ALL {
            let answer = fixture.get_with(path, &[("Authorization", &token(role))]).await;
            let expected = if allowed.contains(&role) { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{path} as {role}");
        }
    }
    for path in ["/live", "/health", "/ready"] {
        assert_ne!(fixture.get(path).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn only_an_admin_of_all_tenants_steers_projections() {
    let keys = |clock: &_| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let fixture = ReadApiFixture::with(keys, Access::Keys, Vec::new()).await;
    let token = |tenant: &str, role: Role| {
        let hour = std::time::Duration::from_secs(3600);
        let claims = Claims::new(&tenant.parse().unwrap(), "ann", role.into(), start(), hour);
        format!("Bearer {}", mint(SECRET, &claims).unwrap())
    };
    for action in ["pause", "resume", "rebuild"] {
        let path = format!("/internal/projections/jobs/{action}");
        for (tenant, role, expected) in [
            ("acme", Role::Admin, 403),
            ("*", Role::Service, 403),
            ("*", Role::Auditor, 403),
            ("*", Role::Admin, 200),
        ] {
            let answer = fixture.client.post(&path).header("authorization", token(tenant, role)).send().await;
            assert_eq!(answer.0.status().as_u16(), expected, "{action} by {role} of {tenant}");
        }
    }
}

#[tokio::test]
async fn vector_indexes_are_shown_to_operators_of_their_tenant() {
    let keys = |clock: &_| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let fixture = ReadApiFixture::with(keys, Access::Keys, Vec::new()).await;
    fixture.put_product(1, json!({"name": "red shoe"})).await;
    fixture.embed_product(1, [0.5, 1.0]).await;
    for (tenant, shown) in [("default", 1), ("*", 1), ("umbrella", 0)] {
        let hour = std::time::Duration::from_secs(3600);
        let claims = Claims::new(&tenant.parse().unwrap(), "ann", Role::Service.into(), start(), hour);
        let token = format!("Bearer {}", mint(SECRET, &claims).unwrap());
        let headers = [("Authorization", token.as_str())];
        let found = fixture.post_json("/api/v1/search", &json!({"query": "shoe"}), &headers).await;
        assert_eq!(found.status, 200, "{}", found.text);
        let status = fixture.get_with("/status", &headers).await.json();
        let indexes = status["vector_indexes"].as_array().unwrap();
        assert_eq!(indexes.len(), shown, "{tenant}: {status}");
        if let [index] = &indexes[..] {
            assert_eq!((&index["tenant"], &index["model_id"]), (&json!("default"), &json!("clip")));
            assert_eq!((&index["state"], &index["vectors"]), (&json!("exact_scan"), &json!(1)));
        }
    }
}

#[tokio::test]
async fn details_of_checks_need_credentials() {
    let keys = |clock: &_| Auth::with_keys(Keys::default().secret(SECRET).unwrap(), Vec::new(), now(clock));
    let components = vec![component("work_board", false, "261 waiting; cannot open /var/lib/matchbook")];
    let fixture = ReadApiFixture::with(keys, Access::Keys, components).await;
    let token = |role: Role| {
        let claims = Claims::new(&acme(), "ann", role.into(), start(), std::time::Duration::from_secs(3600));
        format!("Bearer {}", mint(SECRET, &claims).unwrap())
    };
    for path in ["/ready", "/health"] {
        for (role, is_detailed) in [(None, false), (Some(Role::User), false), (Some(Role::Admin), true)] {
            let bearer = role.map(token).unwrap_or_default();
            let headers = [("Authorization", bearer.as_str())];
            let answer = fixture.get_with(path, if role.is_some() { &headers } else { &[] }).await;
            assert_eq!(answer.text.contains("261 waiting"), is_detailed, "{path}: {}", answer.text);
            let checks = answer.json()["checks"].clone();
            let lags = checks.as_array().unwrap().iter().filter(|check| !check["lag_events"].is_null());
            assert_eq!(lags.count() > 0, is_detailed, "{path}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn metrics_have_the_accepted_format() {
    let fixture = ReadApiFixture::open().await;
    let text = fixture.get("/metrics").await;
    assert_eq!(text.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let json = fixture.get_with("/metrics", &[("Accept", "application/json")]).await;
    assert_eq!(json.text, r#"{"latencies":[]}"#);
}
