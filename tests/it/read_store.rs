//! Read models in a PostgreSQL database: kills of the server, crashes of the database, and passwords.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::postgres::PostgresServer;
use crate::support::server::Server;
use crate::support::wait_until;

async fn create(server: &Server, name: &str) -> String {
    server.post("/jobs", &json!({ "name": name })).await.expect(201)["position"].to_string()
}

/// The names of all jobs, once the read model has reached the position.
async fn names(server: &Server, position: &str) -> Vec<String> {
    let jobs = server.send(Method::GET, "/jobs", &[("x-min-position", position)], None).await.expect(200);
    jobs["items"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap().to_owned()).collect()
}

async fn jobs_state(server: &Server) -> (String, String) {
    let list = server.get("/internal/projections").await.expect(200);
    let jobs = list["items"].as_array().unwrap().iter().find(|item| item["name"] == "jobs").unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&jobs["state"]), text(&jobs["stop"]["error"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_and_crashed_database_lose_no_row() {
    let postgres = PostgresServer::start();
    let database = postgres.database();
    let url = database.url().replace("matchbook@", "matchbook:pa55word@");
    let mut server = Server::start(&[&format!("--read-store={url}")]).await;
    create(&server, "one").await;
    server.kill();
    server.restart().await;
    let position = create(&server, "two").await;
    assert_eq!(names(&server, &position).await, ["two", "one"]);
    assert!(!server.data().join("read").exists());

    postgres.crash();
    let refused = server.get("/jobs").await;
    assert!(refused.problem(503)["detail"].as_str().unwrap().contains("database"), "{refused:?}");
    let position = create(&server, "three").await;
    wait_until("the status reports the lost connection", async || {
        let (state, error) = jobs_state(&server).await;
        state == "retrying" && error.contains("cannot be reached")
    })
    .await;
    assert!(postgres.resume());
    wait_until("the connection heals", async || jobs_state(&server).await.0 == "live").await;
    assert_eq!(names(&server, &position).await, ["three", "two", "one"]);
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    assert!(!server.log().contains("pa55word"), "{}", server.log());
}

/// Writes a file that the PostgreSQL server accepts as a key: of its user, or of root and readable by its group.
fn write_key(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let is_root = rustix::process::getuid().is_root();
    std::fs::set_permissions(path, Permissions::from_mode(if is_root { 0o640 } else { 0o600 })).unwrap();
    if is_root {
        assert!(Command::new("chgrp").arg("postgres").arg(path).status().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_of_the_database_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let [certificate, key, other] =
        ["certificate.pem", "key.pem", "other.pem"].map(|name| folder.path().join(name));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    write_key(&key, &made.signing_key.serialize_pem());
    let unknown = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&other, unknown.cert.pem()).unwrap();

    let postgres = PostgresServer::start();
    let database = postgres.database();
    postgres.crash();
    let [crt, pem] = [&certificate, &key].map(|path| path.display().to_string());
    assert!(postgres.resume_with(&format!("-c ssl=on -c ssl_cert_file={crt} -c ssl_key_file={pem}")));
    let url = |root: &Path| {
        format!("--read-store={}?sslmode=verify-full&sslrootcert={}", database.url(), root.display())
    };
    let mut server = Server::start(&[&url(&certificate)]).await;
    let position = create(&server, "one").await;
    assert_eq!(names(&server, &position).await, ["one"]);
    assert_eq!(server.terminate(), Some(0), "{}", server.log());

    let data = tempfile::tempdir().unwrap();
    let refused = Command::new(crate::support::server::program())
        .args(["serve", "--listen=127.0.0.1:0", &url(&other)])
        .arg(format!("--data={}", data.path().display()))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_url_is_refused_without_its_password() {
    let postgres = PostgresServer::start();
    let unknown = postgres.database().url().replace("matchbook@", "matchbook:pa55word@");
    let folder = tempfile::tempdir().unwrap();
    for url in [format!("{unknown}_absent"), "mysql://matchbook:pa55word@db/jobs".to_owned()] {
        let refused = Command::new(crate::support::server::program())
            .args(["serve", "--listen=127.0.0.1:0", &format!("--read-store={url}")])
            .arg(format!("--data={}", folder.path().display()))
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(message.contains("postgres://") && !message.contains("pa55word"), "{message}");
    }
}
