//! Operator commands against a running server.

use serde_json::{Value, json};

use crate::support::job::{running_job, set_phase, summary};
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn rebuilt_read_model_gives_the_same_answers() {
    let server = Server::start(&[]).await;
    let id = running_job(&server, 2, 4).await;
    // The summary of a running job changes with time.
    set_phase(&server, &id, "completed").await;
    let before = summary(&server, &id, "").await;
    let jobs = server.get("/jobs").await.expect(200);
    for name in [
        "challenges",
        "jobs",
        "match_records",
        "matches",
        "matching_summary",
        "players",
        "queues",
        "retries",
        "workers",
    ] {
        let rebuilt = server.cli(&["projections", "rebuild", name, "--json"]);
        assert!(rebuilt.status.success(), "{rebuilt:?}");
        let state: Value = serde_json::from_slice(&rebuilt.stdout).unwrap();
        assert_eq!(state["state"], "live", "{state}");
    }
    assert_eq!(summary(&server, &id, "").await, before);
    assert_eq!(server.get("/jobs").await.expect(200), jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn projections_list_names_every_projection() {
    let server = Server::start(&[]).await;
    let list = server.cli(&["projections", "list", "--json"]);
    let names: Vec<Value> = String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].clone())
        .collect();
    assert_eq!(
        names,
        [
            "challenges",
            "jobs",
            "match_records",
            "matches",
            "matching_summary",
            "players",
            "queues",
            "retries",
            "workers"
        ]
        .map(|name| json!(name))
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
