//! Operator commands against a running server.

use projections::Name;
use serde_json::{Value, json};

use crate::support::job::{running_job, set_phase, summary};
use crate::support::server::Server;
use crate::support::server_state::{lines, projection, rebuild};
use crate::support::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn rebuilt_read_model_gives_the_same_answers() {
    let server = Server::start(&[]).await;
    let id = running_job(&server, 2, 4).await;
    // The summary of a running job changes with time.
    set_phase(&server, &id, "completed").await;
    let before = summary(&server, &id, "").await;
    let jobs = server.get_at_head("/jobs").await;
    for name in Name::NAMES {
        rebuild(&server, name).await;
    }
    assert_eq!(summary(&server, &id, "").await, before);
    assert_eq!(server.get_at_head("/jobs").await, jobs);
}

/// It executes its program once more for that, in the same process.
#[tokio::test(flavor = "multi_thread")]
async fn server_runs_with_the_settings_of_its_allocator() {
    let server = Server::start(&[]).await;
    let environment = std::fs::read(format!("/proc/{}/environ", server.pid())).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == b"MIMALLOC_PURGE_DELAY=100"));
}

#[tokio::test(flavor = "multi_thread")]
async fn projections_list_names_every_projection() {
    let server = Server::start(&[]).await;
    let list = server.cli(&["projections", "list", "--json"]);
    let names: Vec<Value> = lines(&list).into_iter().map(|line| line["name"].clone()).collect();
    assert_eq!(names, Name::NAMES.map(|name| json!(name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn read_model_beyond_the_lag_limits_is_reported() {
    let server = Server::start(&["--read-model-lag-warn=1", "--read-model-lag-max=3"]).await;
    let control = async |action: &str| {
        server.post(&format!("/internal/projections/jobs/{action}"), &json!({})).await.expect(200)
    };
    control("pause").await;
    while projection(&server, "jobs").await["lag_events"].as_u64().unwrap() <= 3 {
        server.post("/jobs", &json!({ "name": "a job" })).await.expect(201);
    }
    assert_eq!(projection(&server, "jobs").await["lag_state"], "too_far_behind");
    let ready = server.get("/ready").await.expect(503);
    let jobs = ready["checks"].as_array().unwrap().iter().find(|check| check["name"] == "jobs").unwrap();
    assert!(jobs["ok"] == false && jobs["lag_events"].as_u64() > Some(3), "{jobs}");
    assert!(jobs["progress"]["target"].as_u64() > jobs["progress"]["at"].as_u64(), "{jobs}");
    let warnings = server.get("/status").await.expect(200)["warnings"].to_string();
    assert!(warnings.contains("jobs: paused by an operator, "), "{warnings}");
    assert_eq!(server.get("/health").await.expect(200)["status"], "degraded");
    let doctor = server.cli(&["doctor", "--ready"]);
    let message = String::from_utf8_lossy(&doctor.stderr);
    assert_eq!(doctor.status.code(), Some(1), "{message}");
    assert!(message.contains("events behind the head"), "{message}");

    control("resume").await;
    wait_until("it is ready", async || server.get("/ready").await.status == 200).await;
    wait_until("it is healthy", async || server.get("/health").await.expect(200)["status"] == "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn performance_has_the_durations_of_each_operation() {
    let server = Server::start(&["--slow-query=0s"]).await;
    for _ in 0..3 {
        server.get("/jobs").await.expect(200);
    }
    server.get("/jobs?status=nonsense").await.problem(400);
    server.post("/api/v1/search", &json!({"query": "shoe"})).await.expect(200);
    server.post("/api/v1/search", &json!({"query": "shoe"})).await.expect(200);
    let report = server.get("/performance").await.expect(200);
    let of = |route: &str| {
        let operations = report["operations"].as_array().unwrap();
        operations.iter().find(|operation| operation["route"] == route).unwrap().clone()
    };
    let jobs = of("/jobs");
    assert_eq!((&jobs["method"], &jobs["count"], &jobs["errors"]), (&json!("GET"), &json!(4), &json!(0)));
    let order = ["min_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms"].map(|name| jobs[name].as_f64().unwrap());
    assert!(order.is_sorted() && order[0] > 0.0, "{jobs}");
    assert!(report["count"].as_u64() >= Some(6) && report["health"].is_string(), "{report}");
    assert_eq!(of("/api/v1/search")["cache_hit_rate_percent"], 50.0);
    let slow = server.get("/performance/slow-queries").await.expect(200);
    assert_eq!(slow["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        server.get("/cache/stats").await.expect(200)["hits_by_type"],
        json!({"search": 1, "recommend": 0})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_a_healthy_server() {
    let server = Server::start(&[]).await;
    let doctor = server.cli(&["doctor", "--json"]);
    assert!(doctor.status.success(), "{doctor:?}");
    let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let verdict = |check: &str| {
        let findings = report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["check"] == check).unwrap()["verdict"].clone()
    };
    assert_eq!(
        (verdict("server"), verdict("ready"), verdict("access")),
        (json!("ok"), json!("ok"), json!("warn"))
    );
}

/// The exit code and the errors of a command that is run without a server.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_matchbook")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Every command that uses a running server.
const CLIENTS: [&[&str]; 11] = [
    &["doctor", "--ready"],
    &["demo"],
    &["events", "tail"],
    &["events", "tail", "--from", "0"],
    &["events", "export"],
    &["jobs", "list"],
    &["jobs", "show", "018f0000-0000-7000-8000-000000000001"],
    &["workers", "list"],
    &["projections", "list"],
    &["projections", "rebuild", "jobs"],
    &["projections", "pause", "jobs"],
];

#[test]
fn unreachable_server_url_is_named_without_retries() {
    // Retries would take a minute for each command.
    for client in CLIENTS {
        let (code, message) = run(&[client, &["--url", "http://127.0.0.1:1"]].concat());
        assert_eq!(code, Some(69), "{client:?}: {message}");
        assert!(message.contains("http://127.0.0.1:1") && message.contains("refused"), "{message}");
        assert!(message.contains("MATCHBOOK_URL"), "{message}");
    }
}

#[test]
fn doctor_fails_if_the_named_server_does_not_respond() {
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data={}", folder.path().display());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_matchbook"))
        .args(["doctor", "--json", "--url", "http://127.0.0.1:1", &data])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = report["findings"].as_array().unwrap().iter().filter(|finding| finding["verdict"] == "fail");
    let failed: Vec<_> = failed.map(|finding| finding["check"].as_str().unwrap()).collect();
    assert_eq!(failed, ["server"]);
}

#[test]
fn invalid_server_url_is_wrong_usage() {
    for client in CLIENTS {
        let (code, message) = run(&[client, &["--url", "nonsense"]].concat());
        assert_eq!(code, Some(2), "{client:?}: {message}");
        assert!(message.contains("nonsense") && message.contains("not a URL"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn address_in_use_is_refused_before_anything_is_opened() {
    let server = Server::start(&[]).await;
    let data = server.folder.path().join("other");
    let address = server.url.trim_start_matches("http://");
    let data_flag = format!("--data={}", data.display());
    let (code, message) = run(&["serve", "--listen", address, &data_flag]);
    assert_eq!(code, Some(75), "{message}");
    assert!(message.contains(address) && message.contains("--listen"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!data.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_shown_cancelled_and_retried() {
    let server = Server::start(&[]).await;
    let id = running_job(&server, 1, 2).await;
    server.get_at_head("/jobs").await;
    let listed = lines(&server.cli(&["jobs", "list", "--status", "running", "--json"]));
    assert_eq!(listed.iter().map(|job| job["id"].clone()).collect::<Vec<_>>(), [json!(id)]);
    assert!(lines(&server.cli(&["jobs", "list", "--status", "failed", "--json"])).is_empty());
    let shown = server.cli(&["jobs", "show", &id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("in phase matching"), "{shown:?}");
    set_phase(&server, &id, "failed").await;
    for (command, phase) in [("retry", "queued"), ("cancel", "cancelled")] {
        let output = server.cli(&["jobs", command, &id]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("job {id}: {phase}\n"), "{output:?}");
    }
    let again = server.cli(&["jobs", "retry", &id]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_projection_is_resumed() {
    let server = Server::start(&[]).await;
    for (command, state) in [("pause", "paused"), ("resume", "live")] {
        let output = server.cli(&["projections", command, "jobs"]);
        assert!(output.status.success(), "{output:?}");
        wait_until("it has the state", async || projection(&server, "jobs").await["state"] == state).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_has_a_prefix_and_a_description() {
    let server = Server::start(&[]).await;
    let id = running_job(&server, 1, 2).await;
    summary(&server, &id, "").await;
    let text = server.get("/metrics").await.text;
    let names = |kind: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(kind)?.split_whitespace().next());
        lines.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(names("# TYPE ").len() > 5, "{text}");
    assert_eq!(names("# TYPE "), names("# HELP "));
    assert!(names("# TYPE ").iter().all(|name| name.starts_with("matchbook_")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_and_pages_are_served_without_other_hosts() {
    let server = Server::start(&[]).await;
    let document = server.get("/openapi.json").await.expect(200);
    assert!(document["paths"].as_object().unwrap().contains_key("/jobs/{job_id}/matching/summary"));
    for path in ["/docs", "/redoc"] {
        let page = server.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(
            page.text.contains(&document.to_string().replace("</", "<\\/")),
            "{path} shows another document"
        );
    }
    assert_eq!(server.get("/docs/problems").await.status, 200);
    let facts = server.get("/").await.expect(200);
    assert_eq!(facts["name"], "matchbook");
    let console =
        server.send(reqwest::Method::GET, "/", &[("accept", "text/html,application/xhtml+xml")], None).await;
    assert!(console.text.contains("<html"), "{}", console.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_of_a_paused_read_model_is_a_metric() {
    let server = Server::start(&[]).await;
    server.post("/internal/projections/jobs/pause", &json!({})).await.expect(200);
    server.post("/jobs", &json!({ "name": "a job" })).await.expect(201);
    wait_until("the lag grows", async || {
        let text = server.get("/metrics").await.text;
        let sample = "matchbook_projection_lag_seconds{projection=\"jobs\"} ";
        text.lines()
            .any(|line| line.strip_prefix(sample).is_some_and(|lag| lag.parse::<f64>().unwrap() > 0.0))
    })
    .await;
}
