use serde_json::{Value, json};
use web::caller::Role;

use crate::support::{TestApp, lease};

const EXTRACT: &str = "/api/v1/embeddings/extract";
const MODELS: &str = "/api/v1/embeddings/models";

fn cutouts() -> Value {
    json!({"job_type": "extract_cutouts"})
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

async fn claim(app: &TestApp, kind: &str) -> Value {
    let claim = json!({"worker_id": "w", "kinds": [kind]});
    app.post("/internal/work/claim", &claim).await.ok()["items"][0].clone()
}

async fn register(app: &TestApp, name: &str, purpose: &str) {
    let model = json!({"name": name, "model_type": "hog", "purpose": purpose, "embedding_dim": 2});
    app.post(MODELS, &model).await.ok();
}

#[tokio::test]
async fn started_extraction_says_what_its_worker_needs() {
    let app = TestApp::new().await;
    register(&app, "hog", "image").await;
    app.put("/api/v1/products/7", &json!({"name": "shoe"})).await.ok();
    let config = json!({"only_missing": false, "size": 64});
    let body = json!({"job_type": "extract_single_product", "model_id": "hog", "target_type": "products",
        "product_ids": [7], "config": config});
    let started = app.post(EXTRACT, &body).await;
    assert_eq!(started.status, 202);
    let started = started.ok();
    let head = app.head();
    let members = json!({"id": started["id"], "job_type": "extract_single_product", "model_id": "hog",
        "target_type": "products", "product_ids": [7], "only_missing": false, "status": "pending", "config": config,
        "created_at": started["created_at"], "position": head});
    assert_eq!(started, members);
    let item = claim(&app, "extract_single_product").await;
    let source = json!({"type": "extraction", "model_id": "hog", "product_ids": ["7"], "only_missing": false,
        "config": config});
    let progress = json!({"items_done": 0, "items_failed": 0, "items_total": null, "checkpoint": null});
    assert_eq!((&item["job_id"], &item["source"], &item["progress"]), (&started["id"], &source, &progress));
}

#[tokio::test]
async fn extraction_without_a_model_uses_the_active_one_of_images() {
    let app = TestApp::new().await;
    assert_eq!(app.post(EXTRACT, &cutouts()).await.ok()["model_id"], "dinov2-base");
    register(&app, "hog", "image").await;
    app.post(format!("{MODELS}/hog/activate"), &json!({})).await.ok();
    assert_eq!(app.post(EXTRACT, &cutouts()).await.ok()["model_id"], "hog");
}

#[tokio::test]
async fn wrong_extraction_is_refused_with_its_member() {
    let app = TestApp::new().await;
    for (name, purpose) in [("gone", "image"), ("words", "text")] {
        register(&app, name, purpose).await;
    }
    app.call("DELETE", format!("{MODELS}/gone")).send().await.ok();
    let foreign = json!({"name": "foreign", "model_type": "hog", "purpose": "image", "embedding_dim": 2});
    app.call("POST", MODELS).tenant("other").body(&foreign).send().await.ok();
    app.put("/api/v1/products/7", &json!({"name": "shoe"})).await.ok();
    let many: Vec<u32> = (0..101).collect();
    for (body, status, field) in [
        (json!({"job_type": "extract_cutouts", "model_id": "unknown"}), 422, "model_id"),
        (json!({"job_type": "extract_cutouts", "model_id": "gone"}), 422, "model_id"),
        (json!({"job_type": "extract_cutouts", "model_id": "foreign"}), 422, "model_id"),
        (json!({"job_type": "extract_cutouts", "model_id": "words"}), 422, "model_id"),
        (json!({"job_type": "extract_cutouts", "model_id": "lexical"}), 422, "model_id"),
        (json!({"job_type": "extract_cutouts", "target_type": "products"}), 422, "target_type"),
        (json!({"job_type": "extract_cutouts", "product_ids": [7]}), 422, "product_ids"),
        (json!({"job_type": "extract_single_product"}), 422, "product_ids"),
        (json!({"job_type": "extract_single_product", "product_ids": [7, 8]}), 422, "product_ids"),
        (json!({"job_type": "extract_products", "product_ids": [7, 8]}), 422, "product_ids[1]"),
        (json!({"job_type": "extract_products", "product_ids": many}), 400, "product_ids"),
        (json!({"job_type": "model_training"}), 400, "job_type"),
        (json!({"job_type": "extract_cutouts", "config": {"only_missing": 1}}), 400, "config.only_missing"),
        (json!({}), 400, "job_type"),
    ] {
        let refused = app.post(EXTRACT, &body).await;
        assert_eq!((refused.status, refused.fields()), (status, vec![field.to_owned()]), "{body}");
    }
    assert_eq!(app.count("JobCreated").await, 0);
}

#[tokio::test]
async fn repeated_extraction_is_one_job_whatever_changed_since() {
    let app = TestApp::new().await;
    let send = async |app: &TestApp, body: &Value| app.call("POST", EXTRACT).key("k").body(body).send().await;
    let first = send(&app, &cutouts()).await;
    register(&app, "hog", "image").await;
    app.post(format!("{MODELS}/hog/activate"), &json!({})).await.ok();
    let app = app.restarted().await;
    assert_eq!(send(&app, &cutouts()).await, first);
    send(&app, &json!({"job_type": "extract_products"})).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(app.count("JobCreated").await, 1);
}

#[tokio::test]
async fn extractions_in_progress_are_limited_per_tenant() {
    let app = TestApp::new().await;
    let first = app.post(EXTRACT, &cutouts()).await.ok();
    for _ in 1..100 {
        assert_eq!(app.post(EXTRACT, &cutouts()).await.status, 202);
    }
    app.post(EXTRACT, &cutouts()).await.refused(429, "RATE_LIMITED");
    assert_eq!(app.call("POST", EXTRACT).tenant("other").body(&cutouts()).send().await.status, 202);
    app.post(format!("/api/v1/embeddings/jobs/{}/cancel", id(&first)), &json!({})).await.ok();
    assert_eq!(app.post(EXTRACT, &cutouts()).await.status, 202);
}

#[tokio::test]
async fn next_worker_gets_the_progress_and_the_checkpoint() {
    let app = TestApp::with_term(45).await;
    app.post(EXTRACT, &cutouts()).await.ok();
    let first = claim(&app, "extract_cutouts").await;
    let route = format!("/internal/work/{}/progress", lease(&first));
    let failures = json!([{"item_id": "7", "reason": "the image is truncated"}]);
    let report = |done: u32, checkpoint: &str| {
        json!({"stage": "processing", "fraction": 0.5, "items_done": done, "items_total": 10, "items_failed": 1,
            "failures": failures, "checkpoint": checkpoint})
    };
    app.post(&route, &report(4, "a")).await.ok();
    let head = app.head();
    // Nothing new.
    app.post(&route, &report(4, "a")).await.ok();
    assert_eq!(app.head(), head);
    app.post(&route, &report(5, "b")).await.ok();
    app.post(&route, &report(10, "c")).await.refused(422, "UNPROCESSABLE");
    app.post("/internal/workers/w/exit", &json!({"exit_code": 0})).await.ok();
    app.run_ready_tasks().await;
    let second = claim(&app, "extract_cutouts").await;
    assert_eq!(second["job_id"], first["job_id"]);
    let progress = json!({"items_done": 5, "items_failed": 1, "items_total": 10, "checkpoint": "b"});
    assert_eq!(second["progress"], progress);
    // A retry keeps it, too.
    let failed = json!({"error": "connection timed out"});
    app.post(format!("/internal/work/{}/fail", lease(&second)), &failed).await.ok();
    app.advance(60).await;
    app.run_ready_tasks().await;
    let third = claim(&app, "extract_cutouts").await;
    assert_eq!((&third["attempt"], &third["progress"]), (&json!(2), &progress));
}

#[tokio::test]
async fn cancelled_extraction_takes_no_more_reports() {
    let app = TestApp::new().await;
    let started = app.post(EXTRACT, &cutouts()).await.ok();
    let item = claim(&app, "extract_cutouts").await;
    let cancel = format!("/api/v1/embeddings/jobs/{}/cancel", id(&started));
    let cancelled = app.call("POST", &cancel).key("c").send().await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")));
    assert_eq!(app.call("POST", &cancel).key("c").send().await, cancelled);
    app.run_ready_tasks().await;
    let report = json!({"stage": "processing", "fraction": 0.5, "checkpoint": "a"});
    let route = format!("/internal/work/{}/progress", lease(&item));
    app.post(route, &report).await.refused(409, "CONFLICT");
    app.call("POST", &cancel).tenant("other").send().await.refused(404, "NOT_FOUND");
    let job = app.post("/jobs", &json!({"kind": "model_training"})).await.ok();
    let other = format!("/api/v1/embeddings/jobs/{}/cancel", id(&job));
    app.post(other, &json!({})).await.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn workers_do_not_start_extractions() {
    let app = TestApp::with_keys().await;
    for (role, status) in [(Role::Worker, 403), (Role::Auditor, 403), (Role::User, 202), (Role::Service, 202)]
    {
        let sent = app.call("POST", EXTRACT).roles("ann", role).body(&cutouts()).send().await;
        assert_eq!(sent.status, status, "{role:?}");
    }
}
