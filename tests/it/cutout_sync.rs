//! A sync of cutouts and a finished training on the real program, over kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{EndpointExt, Request, Response, endpoint};
use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::wait_until;

const CUTOUTS: u64 = 60;
const PAGE: u64 = 10;

/// An upstream with the token `secret` and 60 cutouts in pages of ten, of which it answers only the first `answered`.
async fn upstream(answered: Arc<AtomicUsize>) -> String {
    let served = endpoint::make(move |request: Request| {
        let answered = answered.clone();
        async move {
            assert_eq!(request.header("authorization"), Some("Bearer secret"));
            let query = request.uri().query().unwrap().to_owned();
            let page: u64 = query.split("page=").nth(1).unwrap().parse().unwrap();
            if page > answered.load(Ordering::SeqCst) as u64 {
                return std::future::pending().await;
            }
            let ids = (page - 1) * PAGE..page * PAGE;
            let items: Vec<Value> =
                ids.map(|id| json!({"id": id, "image_url": format!("/cutouts/{id}.jpg")})).collect();
            let body = json!({"items": items, "total": CUTOUTS, "has_more": page * PAGE < CUTOUTS});
            Response::from(body.to_string())
        }
    });
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
    tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(served.map_to_response()));
    format!("http://{address}/cutouts")
}

impl Server {
    async fn job(&self, id: &Value) -> Value {
        self.get_at_head(&format!("/jobs/{}", id.as_str().unwrap())).await
    }

    async fn cutout_count(&self) -> u64 {
        self.get_at_head("/api/v1/cutouts/stats").await["total"].as_u64().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_killed_between_pages_takes_over_each_cutout_once() {
    let answered = Arc::new(AtomicUsize::new(3));
    let url = upstream(answered.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let token = token.to_str().unwrap();
    let arguments = [
        "--cutouts-upstream",
        &url,
        "--cutouts-token-file",
        token,
        "--cutouts-page-size=10",
        "--lease-term=2s",
    ];
    let mut server = Server::start(&arguments).await;
    let started = server.post("/api/v1/cutouts/sync", &json!({})).await.expect(202);
    wait_until("three pages are read", async || server.cutout_count().await == 3 * PAGE).await;
    server.kill();
    answered.store(usize::MAX, Ordering::SeqCst);
    server.restart().await;
    wait_until("the job completes", async || server.job(&started["id"]).await["phase"] == "completed").await;
    let job = server.job(&started["id"]).await;
    assert_eq!(
        (&job["kind"], &job["result"]["fetched"], &job["result"]["failed"]),
        (&json!("cutout_sync"), &json!(60), &json!(0)),
        "{job}"
    );
    assert_eq!(server.cutout_count().await, CUTOUTS);
    let synced = server.get("/audit/events?type=CutoutSynced&limit=500").await.expect(200);
    assert_eq!(synced["items"].as_array().unwrap().len() as u64, CUTOUTS);
    // The next one finds nothing new.
    let next = server.post("/api/v1/cutouts/sync", &json!({})).await.expect(202);
    wait_until("the job completes", async || server.job(&next["id"]).await["phase"] == "completed").await;
    assert_eq!(server.job(&next["id"]).await["result"]["unchanged"], 60);
    let breakers = server.get("/internal/retries").await.expect(200).to_string();
    assert!(breakers.contains("cutout_upstream"), "{breakers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn model_of_a_finished_training_is_listed_over_a_kill() {
    let mut server = Server::start(&[]).await;
    let job = server.post("/jobs", &json!({"kind": "model_training"})).await.expect(201);
    let claim = json!({"worker_id": "trainer", "kinds": ["model_training"]});
    let claimed = server.post("/internal/work/claim", &claim).await.expect(200);
    let lease = claimed["items"][0]["lease_id"].as_str().unwrap();
    let model = json!({"id": "trained", "name": "Trained", "model_type": "dinov2", "purpose": "image", "embedding_dim": 8});
    let path = format!("/internal/work/{lease}/complete");
    let mut wrong = model.clone();
    wrong["id"] = "dinov2-base".into();
    let refused = server.post(&path, &json!({"result": {"model": wrong}})).await.problem(422);
    assert_eq!(refused["errors"][0]["field"], "result.model.embedding_dim");
    server.post(&path, &json!({"result": {"model": model}})).await.expect(200);
    server.kill();
    server.restart().await;
    let model = server.get_at_head("/api/v1/embeddings/models/trained").await;
    assert_eq!(
        (&model["training_job_id"], &model["is_matching_active"]),
        (&job["id"], &json!(false)),
        "{model}"
    );
}
