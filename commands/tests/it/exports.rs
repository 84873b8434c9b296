//! Exports as callers start them.

use serde_json::{Value, json};
use web::caller::Role;

use crate::support::TestApp;

const EXPORT: &str = "/api/v1/export";
const MODELS: &str = "/api/v1/embeddings/models";

async fn with_model() -> TestApp {
    let app = TestApp::new().await;
    let model = json!({"name": "clip", "model_type": "clip", "purpose": "image", "embedding_dim": 2});
    app.post(MODELS, &model).await.ok();
    app
}

fn numpy() -> Value {
    json!({"model_id": "clip", "format": "numpy"})
}

#[tokio::test]
async fn export_is_accepted_at_once_as_a_job() {
    let app = with_model().await;
    let filters =
        json!({"target": "cutouts", "matched": true, "product_ids": [7, "x"], "category_id": "shoes"});
    let body = json!({"model_id": "clip", "format": "faiss", "filters": filters, "expires_in": 3600});
    let response = app.post(EXPORT, &body).await;
    assert_eq!(response.status, 202, "{response:?}");
    let started = response.body;
    let id = started["id"].as_str().unwrap();
    assert_eq!(response.location.as_deref(), Some(format!("{EXPORT}/{id}").as_str()));
    assert_eq!((&started["job_id"], &started["format"]), (&json!(id), &json!("faiss")));
    let stored =
        json!({"target": "cutouts", "matched": true, "product_ids": ["7", "x"], "category_id": "shoes"});
    assert_eq!((&started["filters"], &started["phase"]), (&stored, &json!("queued")));
    let time = |member: &str| started[member].as_str().unwrap().parse::<event_schemas::time::Timestamp>();
    let kept = time("expires_at").unwrap().micros() - time("created_at").unwrap().micros();
    assert_eq!(kept, 3_600_000_000);
    let cancelled = app.call("POST", format!("/jobs/{id}/cancel")).send().await.ok();
    assert_eq!(cancelled["phase"], "cancelled");
}

#[tokio::test]
async fn model_without_vectors_to_export_is_refused() {
    let app = with_model().await;
    for (model, status, reason) in [("none", 422, "no such model"), ("lexical", 422, "built-in encoder")] {
        let refused = app.post(EXPORT, &json!({"model_id": model, "format": "json"})).await;
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.body["detail"].as_str().unwrap().contains(reason), "{refused:?}");
    }
    let first = app.call("POST", EXPORT).key("k").body(&numpy()).send().await;
    app.call("DELETE", format!("{MODELS}/clip")).send().await.ok();
    let refused = app.post(EXPORT, &numpy()).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("was deleted"), "{refused:?}");
    let again = app.call("POST", EXPORT).key("k").body(&numpy()).send().await;
    assert_eq!(again, first, "what was accepted stays accepted");
}

#[tokio::test]
async fn export_that_cannot_be_read_is_refused() {
    let app = with_model().await;
    let filtered = |filters: Value| json!({"model_id": "clip", "format": "json", "filters": filters});
    for body in [
        json!({"model_id": "clip"}),
        json!({"model_id": "clip", "format": "csv"}),
        json!({"model_id": "clip", "format": "json", "expires_in": 0}),
        json!({"model_id": "clip", "format": "json", "expires_in": 2_592_001}),
        filtered(json!({"target": "users"})),
        filtered(json!({"target": "products", "matched": true})),
        filtered(json!({"target": "cutouts", "matched": false, "category_id": "a"})),
        filtered(json!({"product_ids": []})),
        filtered(json!({"product_ids": (0..101).collect::<Vec<u32>>()})),
    ] {
        let refused = app.post(EXPORT, &body).await;
        assert_eq!(refused.status, 400, "{body}: {refused:?}");
    }
}

#[tokio::test]
async fn tenant_has_a_limited_number_of_exports_in_progress() {
    let app = with_model().await;
    let mut last = Value::Null;
    for _ in 0..10 {
        last = app.post(EXPORT, &numpy()).await.ok();
    }
    let refused = app.post(EXPORT, &numpy()).await;
    assert_eq!((refused.status, refused.retry_after), (429, Some(10)), "{refused:?}");
    app.call("POST", format!("/jobs/{}/cancel", last["id"].as_str().unwrap())).send().await.ok();
    app.post(EXPORT, &numpy()).await.ok();
}

#[tokio::test]
async fn workers_and_auditors_start_no_exports() {
    let app = TestApp::with_keys().await;
    for role in [Role::Worker, Role::Auditor] {
        let refused = app.call("POST", EXPORT).roles("ann", role).body(&numpy()).send().await;
        assert_eq!(refused.status, 403, "{refused:?}");
    }
    let unknown = app.call("POST", EXPORT).roles("ann", Role::User).body(&numpy()).send().await;
    assert_eq!(unknown.status, 422, "the model is unknown: {unknown:?}");
}
