//! Authentication and authorization, on the real program.

use std::process::Command;

use reqwest::Method;
use serde_json::Value;

use crate::support::server::{Response, Server};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn token(arguments: &[&str]) -> String {
    let minted = Command::new(env!("CARGO_BIN_EXE_matchbook"))
        .arg("token")
        .args(arguments)
        .env("MATCHBOOK_JWT_SECRET", SECRET)
        .output()
        .unwrap();
    assert!(minted.status.success(), "{minted:?}");
    String::from_utf8(minted.stdout).unwrap().trim().to_owned()
}

async fn call(server: &Server, method: Method, path: &str, token: &str, body: Option<&str>) -> Response {
    let bearer = format!("Bearer {token}");
    server.send(method, path, &[("authorization", &bearer)], body.map(str::to_owned)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_keys_requires_credentials() {
    let server = Server::start(&[&format!("--jwt-secret={SECRET}")]).await;
    let refused = server.get("/jobs").await;
    refused.problem(401);
    assert!(refused.headers.contains_key("www-authenticate"));
    call(&server, Method::GET, "/jobs", "not.a.token", None).await.problem(401);
    let user = token(&["--user", "ann"]);
    call(&server, Method::GET, "/jobs", &user, None).await.expect(200);
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn role_grants_only_its_own_operations() {
    let server = Server::start(&[&format!("--jwt-secret={SECRET}")]).await;
    let (user, worker) = (token(&["--user", "ann"]), token(&["--user", "w", "--role", "worker"]));
    let created = call(&server, Method::POST, "/jobs", &user, Some("{}")).await.expect(201);
    let id = created["job_id"].as_str().unwrap();
    call(&server, Method::POST, "/jobs", &worker, Some("{}")).await.problem(403);
    let phase = format!("/jobs/{id}/phase");
    call(&server, Method::PUT, &phase, &user, Some(r#"{"phase":"matching"}"#)).await.problem(403);
    call(&server, Method::PUT, &phase, &worker, Some(r#"{"phase":"matching"}"#)).await.expect(200);
    call(&server, Method::GET, "/audit/events", &user, None).await.problem(403);
    call(&server, Method::GET, "/status", &user, None).await.problem(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn job_of_another_tenant_is_not_found() {
    let server = Server::start(&[&format!("--jwt-secret={SECRET}")]).await;
    let ours = token(&["--user", "ann", "--tenant", "acme"]);
    let theirs = token(&["--user", "bob", "--tenant", "other", "--role", "admin", "--role", "worker"]);
    let created = call(&server, Method::POST, "/jobs", &ours, Some("{}")).await.expect(201);
    let id = created["job_id"].as_str().unwrap();
    let unknown = uuid::Uuid::new_v4().to_string();
    for path in ["", "/matching/summary", "/matches", "/timeline", "/events", "/matching/stream"] {
        let foreign =
            call(&server, Method::GET, &format!("/jobs/{id}{path}"), &theirs, None).await.problem(404);
        let missing =
            call(&server, Method::GET, &format!("/jobs/{unknown}{path}"), &theirs, None).await.problem(404);
        assert_eq!(foreign["detail"], missing["detail"], "{path}");
    }
    call(&server, Method::POST, &format!("/jobs/{id}/cancel"), &theirs, Some("{}")).await.problem(404);
    call(&server, Method::PUT, &format!("/jobs/{id}/phase"), &theirs, Some(r#"{"phase":"matching"}"#))
        .await
        .problem(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_contains_random_subject_ids_instead_of_user_names() {
    let server = Server::start(&[&format!("--jwt-secret={SECRET}")]).await;
    let ann = token(&["--user", "ann-of-the-canary"]);
    call(&server, Method::POST, "/jobs", &ann, Some("{}")).await.expect(201);
    let auditor = token(&["--user", "carl", "--role", "auditor"]);
    let page = call(&server, Method::GET, "/audit/events", &auditor, None).await.expect(200);
    let event: &Value = &page["items"][0];
    let actor = event["actor"].as_str().unwrap();
    assert!(actor.strip_prefix("subject:").is_some_and(|id| uuid::Uuid::parse_str(id).is_ok()), "{actor}");
    let folder = server.events_folder();
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(17).any(|window| window == b"ann-of-the-canary"));
    }
}

#[test]
fn non_loopback_address_requires_keys() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_matchbook"))
        .args(["serve", "--listen", "0.0.0.0:0", "--data"])
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("MATCHBOOK_JWT_SECRET"));
    assert!(!folder.path().join("data").exists(), "a refused start creates no files");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_server_on_a_data_folder_is_refused() {
    let server = Server::start(&[]).await;
    let second = Command::new(env!("CARGO_BIN_EXE_matchbook"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(server.folder.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(75), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"));
}
