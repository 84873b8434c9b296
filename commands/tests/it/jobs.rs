use serde_json::{Value, json};
use web::caller::Role;

use crate::support::TestApp;

#[tokio::test]
async fn created_job_returns_location_and_position() {
    let app = TestApp::new().await;
    let body = json!({"name": "spring", "metadata": {"season": 2026}});
    let created = app.post("/jobs", &body).await;
    assert_eq!(created.status, 201);
    let id = created.body["id"].as_str().unwrap();
    assert_eq!(created.location, Some(format!("/jobs/{id}")));
    assert_eq!(created.body["job_id"], created.body["id"]);
    assert_eq!(created.body["kind"], "product_video_matching");
    assert_eq!(created.body["metadata"], json!({"season": 2026}));
    assert_eq!(created.body["phase"], "queued");
    assert_eq!(created.body["created_at"], "2026-11-20T10:00:00.000000Z");
    assert_eq!(created.body["position"], 1);
}

#[tokio::test]
async fn repeated_job_id_with_other_content_is_refused() {
    let app = TestApp::new().await;
    let body = json!({"job_id": "018f0000-0000-7000-8000-000000000001", "name": "a"});
    let first = app.post("/jobs", &body).await;
    assert_eq!(app.post("/jobs", &body).await, first);
    let other = json!({"job_id": "018f0000-0000-7000-8000-000000000001", "name": "b"});
    app.post("/jobs", &other).await.refused(409, "CONFLICT");
    assert_eq!(app.head(), 1);
}

#[tokio::test]
async fn malformed_job_is_refused_with_its_field() {
    let app = TestApp::new().await;
    for (body, field) in [
        (json!({"kind": "juggling"}), "kind"),
        (json!({"job_id": "x"}), "job_id"),
        (json!({"name": ""}), "name"),
        (json!({"metadata": [1]}), "metadata"),
    ] {
        let response = app.post("/jobs", &body).await;
        assert_eq!(response.fields(), [field], "{response:?}");
        response.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn free_form_data_is_bounded_and_exact() {
    let app = TestApp::new().await;
    let of_size = |size: usize| json!({"a": "x".repeat(size - 8)});
    app.post("/jobs", &json!({"metadata": of_size(16_384)})).await;
    let head = app.head();
    assert_eq!(head, 1);
    let options = json!({"url": "https://www.twitch.tv/videos/2039", "options": of_size(16_385)});
    for (route, body, field) in [
        ("/jobs", json!({"metadata": of_size(16_385)}), "metadata"),
        ("/api/v1/analysis", options, "options"),
        (
            "/internal/work/018f0000-0000-7000-8000-000000000001/complete",
            json!({"result": of_size(16_385)}),
            "result",
        ),
    ] {
        let response = app.post(route, &body).await;
        assert_eq!(response.fields(), [field], "{response:?}");
        response.refused(422, "UNPROCESSABLE");
    }
    let send = |body: &str| app.call("POST", "/jobs").text("application/json", body.to_owned()).send();
    let inexact = send(r#"{"metadata": {"n": 18446744073709551616}}"#).await;
    assert_eq!(inexact.fields(), ["metadata"]);
    inexact.refused(422, "UNPROCESSABLE");
    send(r#"{"metadata": {"n": 1, "n": 2}}"#).await.refused(400, "INVALID_REQUEST");
    assert_eq!(app.head(), head);
}

#[tokio::test]
async fn phase_moves_forward_only_and_repeats_record_nothing() {
    let app = TestApp::new().await;
    let job = app.job().await;
    let phase = format!("{job}/phase");
    let taken = app.put(&phase, &json!({"phase": "matching"})).await.ok();
    assert_eq!((&taken["phase"], &taken["position"]), (&json!("matching"), &json!(2)));
    assert_eq!(app.put(&phase, &json!({"phase": "matching"})).await.ok(), taken);
    app.put(&phase, &json!({"phase": "collecting"})).await.refused(409, "CONFLICT");
    app.put(&phase, &json!({"phase": "transcribing"})).await.refused(409, "CONFLICT");
    assert_eq!(app.head(), 2);
}

#[tokio::test]
async fn phase_time_may_be_five_minutes_ahead_at_most() {
    let app = TestApp::new().await;
    let phase = format!("{}/phase", app.job().await);
    let ahead = |at: &str| json!({"phase": "matching", "occurred_at": at});
    let response = app.put(&phase, &ahead("2026-11-20T10:05:01Z")).await;
    assert_eq!(response.fields(), ["occurred_at"]);
    response.refused(400, "INVALID_REQUEST");
    app.put(&phase, &ahead("2026-11-20T10:05:00Z")).await.ok();
    let changed = app.events().await.pop().unwrap();
    assert_eq!(changed.metadata.occurred_at.to_string(), "2026-11-20T10:05:00.000000Z");
}

#[tokio::test]
async fn cancelled_job_refuses_all_commands() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let cancelled = app.post(format!("{job}/cancel"), &json!({})).await.ok();
    assert_eq!(cancelled["phase"], "cancelled");
    assert_eq!(app.call("POST", format!("{job}/cancel")).send().await.ok(), cancelled);
    let head = app.head();
    app.put(format!("{job}/phase"), &json!({"phase": "evidence"})).await.refused(409, "CONFLICT");
    app.post(format!("{job}/products"), &json!([])).await.refused(409, "CONFLICT");
    app.post(format!("{job}/match-requests"), &json!([crate::support::request("x")]))
        .await
        .refused(409, "CONFLICT");
    app.post(format!("{job}/matches"), &json!([crate::support::a_match(1)])).await.refused(409, "CONFLICT");
    app.post(format!("{job}/retry"), &json!({})).await.refused(409, "CONFLICT");
    assert_eq!(app.claim("w", 1).await.len(), 0);
    assert_eq!((app.head(), app.count("WorkerRegistered").await), (head + 1, 1));
}

#[tokio::test]
async fn failed_job_can_be_retried() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    app.put(format!("{job}/phase"), &json!({"phase": "failed", "reason": "connection refused"})).await.ok();
    assert_eq!(app.claim("w", 1).await.len(), 0);
    let retried = app.post(format!("{job}/retry"), &json!({})).await.ok();
    assert_eq!(retried["phase"], "queued");
    assert_eq!(app.post(format!("{job}/retry"), &json!({})).await.ok(), retried);
    app.run_ready_tasks().await;
    assert_eq!(app.claim("w", 1).await.len(), 1);
}

#[tokio::test]
async fn each_command_requires_its_role() {
    let app = TestApp::with_keys().await;
    let body = json!({"name": "a"});
    app.call("POST", "/jobs").body(&body).send().await.refused(401, "UNAUTHORIZED");
    app.call("POST", "/jobs").roles("w", Role::Worker).body(&body).send().await.refused(403, "FORBIDDEN");
    app.call("POST", "/jobs").roles("a", Role::Auditor).body(&body).send().await.refused(403, "FORBIDDEN");
    let created = app.call("POST", "/jobs").roles("ann", Role::User).body(&body).send().await.ok();
    let job = format!("/jobs/{}", created["id"].as_str().unwrap());
    let nothing = json!([]);
    for (method, path) in [
        ("PUT", format!("{job}/phase")),
        ("POST", format!("{job}/products")),
        ("POST", format!("{job}/videos")),
        ("POST", format!("{job}/match-requests")),
        ("POST", format!("{job}/match-progress")),
        ("POST", format!("{job}/matches")),
    ] {
        let body = if method == "PUT" { json!({"phase": "matching"}) } else { nothing.clone() };
        app.call(method, &path).roles("ann", Role::User).body(&body).send().await.refused(403, "FORBIDDEN");
        app.call(method, &path).roles("w", Role::Worker).body(&body).send().await.ok();
        app.call(method, &path).roles("s", Role::Service).body(&body).send().await.ok();
    }
    app.call("POST", format!("{job}/cancel")).roles("w", Role::Worker).send().await.refused(403, "FORBIDDEN");
    app.call("POST", format!("{job}/cancel")).roles("ann", Role::Admin).send().await.ok();
}

#[tokio::test]
async fn person_is_recorded_by_subject_id_only() {
    let app = TestApp::with_keys().await;
    let body = json!({});
    let created = app.call("POST", "/jobs").roles("ann", Role::User).body(&body).send().await.ok();
    let phase = format!("/jobs/{}/phase", created["id"].as_str().unwrap());
    let matching = json!({"phase": "matching"});
    app.call("PUT", &phase).roles("matcher-7", Role::Worker).body(&matching).send().await.ok();
    let evidence = json!({"phase": "evidence"});
    app.call("PUT", &phase).roles("pipeline", Role::Service).body(&evidence).send().await.ok();
    let actors: Vec<String> =
        app.events().await.iter().map(|envelope| envelope.metadata.actor.to_string()).collect();
    assert!(actors[0].starts_with("subject:") && !actors[0].contains("ann"), "{actors:?}");
    assert_eq!(actors[1..], ["worker:matcher-7", "service:pipeline"]);
}

#[tokio::test]
async fn events_carry_trace_and_tenant_of_the_request() {
    let app = TestApp::new().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    app.call("POST", "/jobs").tenant("acme").header("traceparent", trace).body(&json!({})).send().await.ok();
    app.call("POST", "/jobs").header("traceparent", "00-zz").body(&json!({})).send().await.ok();
    let events = app.events().await;
    assert_eq!(events[0].metadata.traceparent.as_deref(), Some(trace));
    assert_eq!(events[0].metadata.tenant.as_str(), "acme");
    assert_eq!(events[0].metadata.correlation_id.0, events[0].metadata.causation_id);
    assert_eq!(events[1].metadata.traceparent, None);
}

#[tokio::test]
async fn phase_change_records_priors_of_the_tenants_earlier_jobs() {
    let app = TestApp::new().await;
    let first = app.job_with_requests(0).await;
    app.advance(100).await;
    app.put(format!("{first}/phase"), &json!({"phase": "evidence"})).await.ok();
    app.advance(10).await;
    app.put(format!("{first}/phase"), &json!({"phase": "completed"})).await.ok();
    app.run_ready_tasks().await;
    let phase = |job: &str| format!("{job}/phase");
    let second = app.job().await;
    app.put(phase(&second), &json!({"phase": "matching"})).await.ok();
    let changed = serde_json::from_slice::<Value>(&app.events().await.pop().unwrap().event.encode()).unwrap();
    let priors = changed["eta_priors"].as_array().unwrap();
    let costs: Vec<_> = priors
        .iter()
        .map(|prior| {
            (prior["phase"].as_str().unwrap(), prior["log_seconds_per_unit"].as_f64().unwrap().exp().round())
        })
        .collect();
    assert_eq!(costs, [("matching", 100.0), ("evidence", 10.0)]);
    let theirs = app.call("POST", "/jobs").tenant("other").body(&json!({})).send().await.ok();
    let theirs = format!("/jobs/{}/phase", theirs["id"].as_str().unwrap());
    app.call("PUT", &theirs).tenant("other").body(&json!({"phase": "matching"})).send().await.ok();
    let changed = serde_json::from_slice::<Value>(&app.events().await.pop().unwrap().event.encode()).unwrap();
    assert_eq!(changed.get("eta_priors"), None);
}
