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

#[test]
fn unreachable_server_url_is_named_in_the_error() {
    let failed = std::process::Command::new(env!("CARGO_BIN_EXE_matchbook"))
        .args(["doctor", "--ready", "--url", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("http://127.0.0.1:1"));
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
