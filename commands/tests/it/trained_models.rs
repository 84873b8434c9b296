//! A finished training registers its model.

use event_schemas::envelope::Event;
use event_schemas::model::ModelEvent;
use serde_json::{Value, json};

use crate::failing_log::{FailingLog, Fault};
use crate::support::{TestApp, lease};

fn model(id: &str) -> Value {
    json!({"id": id, "name": "Trained", "model_type": "dinov2", "purpose": "image", "embedding_dim": 2})
}

/// A training under a lease: the job's id, and the path of its lease.
async fn training(app: &TestApp) -> (String, String) {
    let job = app.post("/jobs", &json!({"kind": "model_training"})).await.ok();
    let claim = json!({"worker_id": "trainer", "kinds": ["model_training"]});
    let claimed = app.post("/internal/work/claim", &claim).await.ok();
    let item = &claimed["items"][0];
    assert_eq!(item["job_id"], job["id"]);
    (job["id"].as_str().expect("a text").to_owned(), format!("/internal/work/{}", lease(item)))
}

async fn registered(app: &TestApp) -> Vec<(String, Option<String>)> {
    let of_model = |event| match event {
        Event::Model(ModelEvent::EmbeddingModelRegistered(registered)) => {
            let job = registered.details.and_then(|details| details.training_job_id);
            Some((registered.model_id.to_string(), job.map(|job| job.to_string())))
        }
        _ => None,
    };
    app.events().await.into_iter().filter_map(|envelope| of_model(envelope.event)).collect()
}

#[tokio::test]
async fn finished_training_registers_its_model_once() {
    let app = TestApp::new().await;
    let (job, path) = training(&app).await;
    let result = json!({"result": {"model": model("trained"), "loss": 0.5}});
    let send = || app.call("POST", format!("{path}/complete")).key("k").body(&result).send();
    let completed = send().await.ok();
    // The position covers the registration.
    assert_eq!(registered(&app).await, [("trained".to_owned(), Some(job.clone()))]);
    assert!(completed["position"].as_u64().unwrap() >= 4, "{completed}");
    assert_eq!(send().await.ok(), completed);
    let app = app.restarted().await;
    app.run_ready_tasks().await;
    assert_eq!(registered(&app).await.len(), 1);
    assert_eq!(app.count("EmbeddingModelActivated").await, 0);
    // A deleted model is not registered again, and a repetition gets its first answer.
    app.call("DELETE", "/api/v1/embeddings/models/trained").send().await.ok();
    let app = app.restarted().await;
    app.run_ready_tasks().await;
    let again = app.call("POST", format!("{path}/complete")).key("k").body(&result).send().await.ok();
    assert_eq!(again, completed);
    assert_eq!(registered(&app).await.len(), 1);
}

#[tokio::test]
async fn interrupted_registration_is_completed_by_the_next_start() {
    let (app, log) = FailingLog::server().await;
    let (job, path) = training(&app).await;
    // The completion is recorded, and nothing after it.
    log.fail_after(1, Fault::Full);
    let result = json!({"result": {"model": model("trained")}});
    let incomplete = app.post(format!("{path}/complete"), &result).await;
    assert_eq!(incomplete.status, 507, "{incomplete:?}");
    let app = app.restarted().await;
    app.run_ready_tasks().await;
    assert_eq!((app.count("JobCompleted").await, registered(&app).await), (1, Vec::new()));
    log.mend();
    app.advance(1).await;
    app.until_count("EmbeddingModelRegistered", 1).await;
    assert_eq!(registered(&app).await, [("trained".to_owned(), Some(job))]);
}

#[tokio::test]
async fn training_whose_model_cannot_be_registered_does_not_complete() {
    let app = TestApp::new().await;
    app.post("/api/v1/embeddings/models", &model("taken")).await.ok();
    let (job, path) = training(&app).await;
    let with = |member: &str, value: Value| {
        let mut model = model("new");
        model[member] = value;
        model
    };
    let mut other_dimension = model("taken");
    other_dimension["embedding_dim"] = 3.into();
    for (model, field) in [
        (model("taken"), "result.model.id"),
        (other_dimension, "result.model.embedding_dim"),
        (with("embedding_dim", json!(0)), "result.model.embedding_dim"),
        (with("purpose", json!("sound")), "result.model.purpose"),
        (
            with("training_job_id", json!("018f0000-0000-7000-8000-000000000009")),
            "result.model.training_job_id",
        ),
        (json!("trained"), "result.model"),
    ] {
        let refused = app.post(format!("{path}/complete"), &json!({"result": {"model": model}})).await;
        assert_eq!(refused.fields(), [field], "{refused:?}");
        refused.refused(422, "UNPROCESSABLE");
    }
    assert_eq!(app.count("JobCompleted").await, 0);
    // Its own id may be named, and a result without a model is one as before.
    let named = with("training_job_id", json!(job));
    app.post(format!("{path}/complete"), &json!({"result": {"model": named}})).await.ok();
    assert_eq!(registered(&app).await.len(), 2);
    let (_, path) = training(&app).await;
    app.post(format!("{path}/complete"), &json!({"result": {"loss": 0.5}})).await.ok();
    assert_eq!(registered(&app).await.len(), 2);
}
