use serde_json::{Value, json};
use web::caller::Role;

use crate::support::Bench;

#[tokio::test]
async fn a_created_job_is_answered_with_its_place_and_position() {
    let bench = Bench::new().await;
    let body = json!({"name": "spring", "metadata": {"season": 2026}});
    let created = bench.post("/jobs", &body).await;
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
async fn a_job_id_that_says_the_same_is_created_once_and_one_that_says_otherwise_is_refused() {
    let bench = Bench::new().await;
    let body = json!({"job_id": "018f0000-0000-7000-8000-000000000001", "name": "a"});
    let first = bench.post("/jobs", &body).await;
    assert_eq!(bench.post("/jobs", &body).await, first);
    let other = json!({"job_id": "018f0000-0000-7000-8000-000000000001", "name": "b"});
    bench.post("/jobs", &other).await.refused(409, "CONFLICT");
    assert_eq!(bench.head(), 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_the_field_that_is_wrong() {
    let bench = Bench::new().await;
    for (body, field) in [
        (json!({"kind": "juggling"}), "kind"),
        (json!({"job_id": "x"}), "job_id"),
        (json!({"name": ""}), "name"),
        (json!({"metadata": [1]}), "metadata"),
    ] {
        let answer = bench.post("/jobs", &body).await;
        assert_eq!(answer.fields(), [field], "{answer:?}");
        answer.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(bench.head(), 0);
}

#[tokio::test]
async fn a_phase_moves_forward_and_the_same_phase_again_records_nothing() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let phase = format!("{job}/phase");
    let taken = bench.put(&phase, &json!({"phase": "matching"})).await.ok();
    assert_eq!((&taken["phase"], &taken["position"]), (&json!("matching"), &json!(2)));
    assert_eq!(bench.put(&phase, &json!({"phase": "matching"})).await.ok(), taken);
    bench.put(&phase, &json!({"phase": "collecting"})).await.refused(409, "CONFLICT");
    bench.put(&phase, &json!({"phase": "transcribing"})).await.refused(409, "CONFLICT");
    assert_eq!(bench.head(), 2);
}

#[tokio::test]
async fn a_phase_from_the_future_is_refused_and_one_a_little_ahead_is_not() {
    let bench = Bench::new().await;
    let phase = format!("{}/phase", bench.job().await);
    let ahead = |at: &str| json!({"phase": "matching", "occurred_at": at});
    let answer = bench.put(&phase, &ahead("2026-11-20T10:05:01Z")).await;
    assert_eq!(answer.fields(), ["occurred_at"]);
    answer.refused(400, "INVALID_REQUEST");
    bench.put(&phase, &ahead("2026-11-20T10:05:00Z")).await.ok();
    let changed = bench.events().await.pop().unwrap();
    assert_eq!(changed.metadata.occurred_at.to_string(), "2026-11-20T10:05:00.000000Z");
}

#[tokio::test]
async fn a_cancelled_job_takes_nothing_more() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let cancelled = bench.post(format!("{job}/cancel"), &json!({})).await.ok();
    assert_eq!(cancelled["phase"], "cancelled");
    assert_eq!(bench.call("POST", format!("{job}/cancel")).send().await.ok(), cancelled);
    let head = bench.head();
    bench.put(format!("{job}/phase"), &json!({"phase": "evidence"})).await.refused(409, "CONFLICT");
    bench.post(format!("{job}/products"), &json!([])).await.refused(409, "CONFLICT");
    bench
        .post(format!("{job}/match-requests"), &json!([crate::support::request("x")]))
        .await
        .refused(409, "CONFLICT");
    bench.post(format!("{job}/matches"), &json!([crate::support::a_match(1)])).await.refused(409, "CONFLICT");
    bench.post(format!("{job}/retry"), &json!({})).await.refused(409, "CONFLICT");
    assert_eq!(bench.claim("w", 1).await.len(), 0);
    assert_eq!((bench.head(), bench.count("WorkerRegistered").await), (head + 1, 1));
}

#[tokio::test]
async fn a_failed_job_is_tried_again() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    bench.put(format!("{job}/phase"), &json!({"phase": "failed", "reason": "connection refused"})).await.ok();
    assert_eq!(bench.claim("w", 1).await.len(), 0);
    let retried = bench.post(format!("{job}/retry"), &json!({})).await.ok();
    assert_eq!(retried["phase"], "queued");
    assert_eq!(bench.post(format!("{job}/retry"), &json!({})).await.ok(), retried);
    bench.rest().await;
    assert_eq!(bench.claim("w", 1).await.len(), 1);
}

#[tokio::test]
async fn each_command_needs_its_role() {
    let bench = Bench::with_keys().await;
    let body = json!({"name": "a"});
    bench.call("POST", "/jobs").body(&body).send().await.refused(401, "UNAUTHORIZED");
    bench.call("POST", "/jobs").roles("w", Role::Worker).body(&body).send().await.refused(403, "FORBIDDEN");
    bench.call("POST", "/jobs").roles("a", Role::Auditor).body(&body).send().await.refused(403, "FORBIDDEN");
    let created = bench.call("POST", "/jobs").roles("ann", Role::User).body(&body).send().await.ok();
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
        bench.call(method, &path).roles("ann", Role::User).body(&body).send().await.refused(403, "FORBIDDEN");
        bench.call(method, &path).roles("w", Role::Worker).body(&body).send().await.ok();
        bench.call(method, &path).roles("s", Role::Service).body(&body).send().await.ok();
    }
    bench
        .call("POST", format!("{job}/cancel"))
        .roles("w", Role::Worker)
        .send()
        .await
        .refused(403, "FORBIDDEN");
    bench.call("POST", format!("{job}/cancel")).roles("ann", Role::Admin).send().await.ok();
}

#[tokio::test]
async fn a_person_is_in_the_log_as_a_subject_only() {
    let bench = Bench::with_keys().await;
    let body = json!({});
    let created = bench.call("POST", "/jobs").roles("ann", Role::User).body(&body).send().await.ok();
    let phase = format!("/jobs/{}/phase", created["id"].as_str().unwrap());
    let matching = json!({"phase": "matching"});
    bench.call("PUT", &phase).roles("matcher-7", Role::Worker).body(&matching).send().await.ok();
    let evidence = json!({"phase": "evidence"});
    bench.call("PUT", &phase).roles("pipeline", Role::Service).body(&evidence).send().await.ok();
    let actors: Vec<String> =
        bench.events().await.iter().map(|envelope| envelope.metadata.actor.to_string()).collect();
    assert!(actors[0].starts_with("subject:") && !actors[0].contains("ann"), "{actors:?}");
    assert_eq!(actors[1..], ["worker:matcher-7", "service:pipeline"]);
}

#[tokio::test]
async fn the_trace_and_the_tenant_of_a_request_are_in_its_events() {
    let bench = Bench::new().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    bench
        .call("POST", "/jobs")
        .tenant("acme")
        .header("traceparent", trace)
        .body(&json!({}))
        .send()
        .await
        .ok();
    bench.call("POST", "/jobs").header("traceparent", "00-zz").body(&json!({})).send().await.ok();
    let events = bench.events().await;
    assert_eq!(events[0].metadata.traceparent.as_deref(), Some(trace));
    assert_eq!(events[0].metadata.tenant.as_str(), "acme");
    assert_eq!(events[0].metadata.correlation_id.0, events[0].metadata.causation_id);
    assert_eq!(events[1].metadata.traceparent, None);
}

#[tokio::test]
async fn a_change_of_phase_takes_along_what_phases_cost_in_earlier_jobs_of_the_tenant() {
    let bench = Bench::new().await;
    let first = bench.job_with_requests(0).await;
    bench.pass(100).await;
    bench.put(format!("{first}/phase"), &json!({"phase": "evidence"})).await.ok();
    bench.pass(10).await;
    bench.put(format!("{first}/phase"), &json!({"phase": "completed"})).await.ok();
    bench.rest().await;
    let phase = |job: &str| format!("{job}/phase");
    let second = bench.job().await;
    bench.put(phase(&second), &json!({"phase": "matching"})).await.ok();
    let changed =
        serde_json::from_slice::<Value>(&bench.events().await.pop().unwrap().event.encode()).unwrap();
    let priors = changed["eta_priors"].as_array().unwrap();
    let costs: Vec<_> = priors
        .iter()
        .map(|prior| {
            (prior["phase"].as_str().unwrap(), prior["log_seconds_per_unit"].as_f64().unwrap().exp().round())
        })
        .collect();
    assert_eq!(costs, [("matching", 100.0), ("evidence", 10.0)]);
    let theirs = bench.call("POST", "/jobs").tenant("other").body(&json!({})).send().await.ok();
    let theirs = format!("/jobs/{}/phase", theirs["id"].as_str().unwrap());
    bench.call("PUT", &theirs).tenant("other").body(&json!({"phase": "matching"})).send().await.ok();
    let changed =
        serde_json::from_slice::<Value>(&bench.events().await.pop().unwrap().event.encode()).unwrap();
    assert_eq!(changed.get("eta_priors"), None);
}
