//! Authentication and authorization, on the real program.

use std::process::Command;
use std::time::{Duration, Instant};

use event_log::clock::Clock;
use reqwest::Method;
use serde_json::Value;
use web::caller::{Claims, Roles, mint};

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
    let service = token(&["--user", "shop", "--role", "service"]);
    let question = Some(r#"{"kind": "pool", "configuration": {"pool_key": "blitz", "settings": {}}}"#);
    for (caller, results) in [(&user, 403), (&worker, 403), (&service, 404)] {
        call(&server, Method::GET, "/api/v1/experiments/blend", caller, None).await.problem(results);
        let all = call(&server, Method::GET, "/api/v1/experiments", caller, None).await;
        assert_eq!(all.status, if results == 403 { 403 } else { 200 });
        call(&server, Method::POST, "/internal/what-if", caller, question).await.problem(403);
        call(&server, Method::GET, &format!("/internal/what-if/{id}"), caller, None).await.problem(403);
        call(&server, Method::GET, "/audit/subjects/ann/report", caller, None).await.problem(403);
        call(&server, Method::POST, "/audit/subjects/ann/erase", caller, None).await.problem(403);
    }
    let admin = token(&["--user", "root", "--role", "admin"]);
    let auditor = token(&["--user", "carl", "--role", "auditor"]);
    for caller in [&auditor, &admin] {
        call(&server, Method::GET, "/audit/subjects/ann/report", caller, None).await.expect(200);
    }
    let theirs = token(&["--user", "root", "--role", "admin", "--tenant", "other"]);
    for (caller, path, status) in [
        (&theirs, "/audit/subjects/ann/report", 404),
        (&theirs, "/audit/subjects/ann/report?tenant=default", 403),
        (&auditor, "/audit/subjects/stranger/report", 404),
    ] {
        call(&server, Method::GET, path, caller, None).await.problem(status);
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn token_without_roles_has_no_rights() {
    let server = Server::start(&[&format!("--jwt-secret={SECRET}")]).await;
    let ann = token(&["--user", "ann"]);
    let created = call(&server, Method::POST, "/jobs", &ann, Some("{}")).await.expect(201);
    let job = format!("/jobs/{}", created["job_id"].as_str().unwrap());
    let hour = Duration::from_secs(3600);
    let claims = Claims::new(&"default".parse().unwrap(), "eve", Roles::NONE, Clock::System.now(), hour);
    let eve = mint(SECRET.as_bytes(), &claims).unwrap();
    for path in
        ["/jobs", &job, "/api/v1/jobs", "/v1/matchmaking/active", "/internal/retries", "/audit/events"]
    {
        call(&server, Method::GET, path, &eve, None).await.problem(403);
    }
    call(&server, Method::GET, &format!("{job}/matching/stream"), &eve, None).await.problem(403);
    call(&server, Method::POST, "/v1/stream-tickets", &eve, None).await.problem(403);
    call(&server, Method::POST, "/jobs", &eve, Some("{}")).await.problem(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn web_page_of_another_origin_cannot_steer_an_open_server() {
    let server = Server::start(&[]).await;
    let pause = "/internal/projections/jobs/pause";
    for (name, value) in
        [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
    {
        server.send(Method::POST, pause, &[(name, value)], None).await.problem(403);
        server.send(Method::DELETE, "/v1/matchmaking/queue/1", &[(name, value)], None).await.problem(403);
    }
    let own = server.url.clone();
    server.send(Method::POST, pause, &[("origin", &own)], None).await.expect(200);
    server.send(Method::POST, "/internal/projections/jobs/resume", &[], None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn api_key_works_until_it_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let path = file.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchbook"));
        let output = command.arg("api-key").args(arguments).args(["--api-keys-file", path]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let new = ["new", "--id", "ci", "--tenant", "acme", "--role", "user"];
    let (code, key) = run(&new);
    assert_eq!(code, Some(0));
    assert_eq!(run(&new).0, Some(2), "an id is used once");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let (_, list) = run(&["list"]);
    assert!(list.contains("ci") && list.contains("acme") && !list.contains(&key), "{list}");
    assert!(!std::fs::read_to_string(&file).unwrap().contains(&key));
    let mut server = Server::start(&[&format!("--api-keys-file={path}")]).await;
    let status = async |server: &Server, key: &str| {
        server.send(Method::GET, "/jobs", &[("x-api-key", key)], None).await.status.as_u16()
    };
    assert_eq!(status(&server, &key).await, 200);
    let (_, second) = run(&["new", "--id", "second", "--role", "user"]);
    assert_eq!(run(&["revoke", "ci"]).0, Some(0));
    assert_eq!(run(&["revoke", "ci"]).0, Some(2));
    let start = Instant::now();
    while status(&server, &key).await != 401 || status(&server, &second).await != 200 {
        assert!(start.elapsed() < crate::support::TIMEOUT, "the server reads the file again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Without its last key the server is closed, not open.
    assert_eq!(run(&["revoke", "second"]).0, Some(0));
    server.kill();
    server.restart().await;
    assert_eq!(status(&server, &second).await, 401);
    server.get("/jobs").await.problem(401);
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
