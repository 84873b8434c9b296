//! Exports on the real program: files of each format, over kills, and what is refused.

use std::io::Read;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TIMEOUT;
use crate::support::server::Server;

const EXPORT: &str = "/api/v1/export";
const MODELS: &str = "/api/v1/embeddings/models";

/// Two products with vectors, one of them with an image, and some cutouts.
async fn with_vectors(server: &Server, cutouts: u64) {
    let model = json!({"name": "clip", "model_type": "clip", "purpose": "image", "embedding_dim": 2});
    server.post(MODELS, &model).await.expect(201);
    for id in ["1", "two"] {
        server.put(&format!("/api/v1/products/{id}"), &json!({"name": "Shoe"})).await.expect(200);
        let vector = json!({"model_id": "clip", "vector": [3, 4]});
        server.post(&format!("/api/v1/products/{id}/embeddings"), &vector).await.expect(200);
    }
    let front = json!({"model_id": "clip", "image_id": "front", "vector": [0, 1]});
    server.post("/api/v1/products/1/embeddings", &front).await.expect(200);
    let new = |n: u64| json!({"external_id": n, "image_url": format!("/{n}.jpg")});
    server.post("/api/v1/cutouts", &(0..cutouts).map(new).collect()).await.expect(200);
    let numbers: Vec<u64> = (0..cutouts).collect();
    for numbers in numbers.chunks(1_000) {
        let of = |n: &u64| json!({"cutout_id": n, "model_id": "clip", "vector": [n + 1, 1]});
        let vectors: Value = numbers.iter().map(of).collect();
        server.post("/api/v1/cutouts/embeddings/batch", &vectors).await.expect(200);
    }
    let matches = json!({"cutouts": [{"cutout_id": 0, "similarity": 0.5}]});
    server.post("/api/v1/matching/products/two/matches", &matches).await.expect(200);
}

/// Starts an export, and returns the path of it.
async fn started(server: &Server, body: &Value) -> String {
    let started = server.post(EXPORT, body).await;
    let location = started.headers["location"].to_str().unwrap().to_owned();
    started.expect(202);
    location
}

/// Waits until the export has ended.
async fn ended(server: &Server, path: &str) -> Value {
    let ending = tokio::time::timeout(TIMEOUT, async {
        loop {
            let export = server.get(path).await.expect(200);
            if ["completed", "failed", "cancelled"].contains(&export["status"].as_str().unwrap()) {
                return export;
            }
            tokio::task::yield_now().await;
        }
    });
    ending.await.expect("the export ends")
}

async fn downloaded(server: &Server, export: &Value) -> Vec<u8> {
    let url = format!("{}{}", server.url, export["download_url"].as_str().unwrap());
    let response = server.http.get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let bytes = response.bytes().await.unwrap().to_vec();
    assert_eq!(bytes.len() as u64, export["file_size_bytes"].as_u64().unwrap());
    bytes
}

/// The lines of an export in JSON, by kind, id and product.
fn lines(bytes: &[u8]) -> Vec<(String, Value)> {
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        let id = format!("{} {} {}", text("kind"), text("id"), text("product_id"));
        (id, line["vector"].clone())
    };
    let mut lines: Vec<_> = std::str::from_utf8(bytes).unwrap().lines().map(line).collect();
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_of_each_format_have_all_vectors() {
    let server = Server::start(&[]).await;
    with_vectors(&server, 3).await;
    for format in ["json", "numpy", "faiss", "qdrant"] {
        let path = started(&server, &json!({"model_id": "clip", "format": format})).await;
        let export = ended(&server, &path).await;
        assert_eq!((&export["status"], &export["error"]), (&json!("completed"), &Value::Null), "{export}");
        assert_eq!((&export["vector_count"], &export["product_count"]), (&json!(6), &json!(2)), "{export}");
        let bytes = downloaded(&server, &export).await;
        assert_eq!(bytes.starts_with(b"PK"), format != "json", "{format}");
        if format == "json" {
            let lines = lines(&bytes);
            let ids: Vec<&str> = lines.iter().map(|(id, _)| id.as_str()).collect();
            let expected = [
                "cutout 0 two",
                "cutout 1 -",
                "cutout 2 -",
                "image front 1",
                "product 1 1",
                "product two two",
            ];
            assert_eq!(ids, expected);
            assert_eq!((&lines[3].1, &lines[4].1), (&json!([0.0, 1.0]), &json!([0.6, 0.8])));
        }
    }
    let listed = server.get(EXPORT).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 4);
    let other = [("x-tenant", "other")];
    let download = listed["items"][0]["download_url"].as_str().unwrap();
    server.send(Method::GET, download, &other, None).await.problem(404);
    let job = format!("/jobs/{}", listed["items"][0]["id"].as_str().unwrap());
    assert_eq!(server.get(&job).await.expect(200)["kind"], "embedding_export");
}

#[tokio::test(flavor = "multi_thread")]
async fn export_is_whole_after_a_kill() {
    let mut server = Server::start(&["--lease-term=1s"]).await;
    with_vectors(&server, 5_000).await;
    let path = started(&server, &json!({"model_id": "clip", "format": "json"})).await;
    server.kill();
    server.restart().await;
    let export = ended(&server, &path).await;
    assert_eq!(export["status"], "completed", "{export}");
    let lines = lines(&downloaded(&server, &export).await);
    assert_eq!((lines.len(), &export["vector_count"]), (5_003, &json!(5_003)));
    let complete = std::fs::read_dir(server.data().join("exports")).unwrap();
    let names: Vec<String> = complete.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| name.ends_with(".ndjson")), "no half of a file stays: {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn export_of_a_deleted_model_fails_with_the_reason() {
    let server = Server::start(&[]).await;
    with_vectors(&server, 1).await;
    let body = json!({"model_id": "clip", "format": "numpy"});
    let done = ended(&server, &started(&server, &body).await).await;
    server.send(Method::DELETE, &format!("{MODELS}/clip"), &[], None).await.expect(200);
    let problem = server.post(EXPORT, &body).await.problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("was deleted"), "{problem}");
    let mut file = Vec::new();
    downloaded(&server, &done).await.as_slice().read_to_end(&mut file).unwrap();
    assert!(!file.is_empty(), "what was exported before stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn file_is_deleted_when_it_expires() {
    let server = Server::start(&[]).await;
    with_vectors(&server, 1).await;
    let body = json!({"model_id": "clip", "format": "json", "expires_in": 1});
    let path = started(&server, &body).await;
    let export = ended(&server, &path).await;
    let gone = tokio::time::timeout(TIMEOUT, async {
        loop {
            let response = server.get(&format!("{path}/download")).await;
            if response.status == 410 || export["status"] == "failed" {
                return response;
            }
            tokio::task::yield_now().await;
        }
    });
    let gone = gone.await.expect("it expires");
    // A machine so slow that it needs a second for the export makes none.
    if export["status"] == "completed" {
        gone.problem(410);
    }
    let folder = server.data().join("exports");
    let deleted = tokio::time::timeout(TIMEOUT, async {
        while std::fs::read_dir(&folder).unwrap().count() > 0 {
            tokio::task::yield_now().await;
        }
    });
    deleted.await.expect("the file is deleted");
}
