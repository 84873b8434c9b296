use serde_json::{Value, json};
use web::caller::Role;

use crate::support::TestApp;

const CUTOUTS: &str = "/api/v1/cutouts";
const EMBEDDINGS: &str = "/api/v1/cutouts/embeddings/batch";
const MODELS: &str = "/api/v1/embeddings/models";

fn cutout(id: u64) -> Value {
    json!({"external_id": id, "image_url": format!("https://a.example/{id}.jpg"), "predicted_upc": "4006381333931"})
}

fn model(name: &str) -> Value {
    json!({"name": name, "model_type": "dinov2", "purpose": "image", "embedding_dim": 2})
}

#[tokio::test]
async fn one_cutout_or_many_are_pushed_and_unchanged_ones_ignored() {
    let app = TestApp::new().await;
    let outcome = app.post(CUTOUTS, &cutout(7)).await.ok();
    assert_eq!((&outcome["accepted"], &outcome["position"]), (&json!(1), &json!(1)));
    app.post(CUTOUTS, &cutout(7)).await.ok();
    let batch = json!([cutout(7), cutout(8), {"external_id": -1, "image_url": "/a"}, {"external_id": 9},
        {"external_id": 10, "image_url": "javascript:alert(1)"}, cutout(8)]);
    let outcome = app.post(CUTOUTS, &batch).await.ok();
    let results = outcome["results"].as_array().unwrap();
    let fields: Vec<_> =
        results.iter().map(|result| result["errors"][0]["field"].as_str().unwrap_or_default()).collect();
    assert_eq!(fields, ["", "", "external_id", "image_url", "image_url", ""]);
    assert_eq!((app.count("CutoutSynced").await, app.head()), (2, 2));
    let lines = format!("{}\n{}\n", cutout(7), cutout(11));
    app.call("POST", CUTOUTS).text("application/x-ndjson", lines).send().await.ok();
    let app = app.restarted().await;
    app.post(CUTOUTS, &json!([cutout(7), cutout(8), cutout(11)])).await.ok();
    assert_eq!(app.head(), 3);
    let mut other = cutout(7);
    other["predicted_upc"] = json!(null);
    app.post(CUTOUTS, &other).await.ok();
    let streams: Vec<_> = app.events().await.iter().map(|event| event.stream.to_string()).collect();
    assert_eq!(streams, ["cutout-default.7", "cutout-default.8", "cutout-default.11", "cutout-default.7"]);
}

#[tokio::test]
async fn wrong_cutout_is_refused_with_its_member() {
    let app = TestApp::new().await;
    for (member, wrong, status) in [
        ("external_id", json!(-1), 400),
        ("external_id", json!("7"), 400),
        ("external_id", json!(1.5), 400),
        ("external_id", json!(9_007_199_254_740_992_u64), 400),
        ("external_id", json!(null), 400),
        ("image_url", json!(""), 400),
        ("image_url", json!("x".repeat(2_049)), 400),
        ("image_url", json!("ftp://a.example/1"), 422),
        ("image_url", json!("//a.example/1"), 422),
        ("predicted_upc", json!(1), 400),
        ("predicted_upc", json!("1".repeat(65)), 400),
    ] {
        let mut body = cutout(7);
        body[member] = wrong.clone();
        let refused = app.post(CUTOUTS, &body).await;
        assert!(refused.fields()[0].ends_with(member), "{wrong}: {refused:?}");
        assert_eq!(refused.status, status, "{wrong}: {refused:?}");
    }
    for body in [json!("x"), json!(7), json!(vec![json!({}); 10_001])] {
        app.post(CUTOUTS, &body).await.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn vectors_of_cutouts_are_recorded_by_workers() {
    let app = TestApp::new().await;
    app.post(CUTOUTS, &json!([cutout(7), cutout(8)])).await.ok();
    let path = "/api/v1/cutouts/7/embeddings";
    let body = json!({"model_id": "clip", "vector": [3, 4]});
    let embedded = app.post(path, &body).await.ok();
    let expected = json!({"id": 7, "external_id": 7, "model_id": "clip", "dimension": 2, "position": 4});
    assert_eq!(embedded, expected);
    assert_eq!(app.post(path, &body).await.ok(), expected, "an unchanged vector records nothing");
    for (path, body, status) in [
        ("/api/v1/cutouts/9/embeddings", body.clone(), 404),
        ("/api/v1/cutouts/07/embeddings", body.clone(), 404),
        (path, json!({"model_id": "clip", "vector": [1]}), 422),
        (path, json!({"model_id": "clip", "vector": [0, 0]}), 422),
        (path, json!({"model_id": "lexical", "vector": [1, 0]}), 422),
        (path, json!({"model_id": "dinov2-base", "vector": [1, 0]}), 422),
        (path, json!({"model_id": "clip", "vector": [1, 0], "cutout_id": 8}), 400),
    ] {
        assert_eq!(app.post(path, &body).await.status, status, "{body}");
    }
    let item = |id: u64, vector: &[f64]| json!({"cutout_id": id, "model_id": "clip", "vector": vector});
    let batch = json!([item(8, &[0.5, 0.5]), item(9, &[1.0, 0.0]), item(8, &[1.0, 0.0]), item(7, &[1.0]),
        {"model_id": "clip", "vector": [1, 0]}, item(7, &[3.0, 4.0])]);
    let outcome = app.post(EMBEDDINGS, &batch).await.ok();
    let results = outcome["results"].as_array().unwrap();
    let fields: Vec<_> =
        results.iter().map(|result| result["errors"][0]["field"].as_str().unwrap_or_default()).collect();
    assert_eq!(fields, ["", "cutout_id", "", "vector", "cutout_id", ""]);
    assert_eq!((app.count("CutoutEmbedded").await, app.head()), (2, 5));
    let many: Vec<_> = (0..1_001).map(|_| item(7, &[1.0, 0.0])).collect();
    app.post(EMBEDDINGS, &json!(many)).await.refused(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn cutouts_and_models_accept_the_roles_of_their_routes() {
    let app = TestApp::with_keys().await;
    let send = |path: &str, body: Value, role| app.call("POST", path).roles("ann", role).body(&body).send();
    for role in [Role::Worker, Role::Auditor] {
        send(CUTOUTS, cutout(7), role).await.refused(403, "FORBIDDEN");
        send(MODELS, model("a"), role).await.refused(403, "FORBIDDEN");
    }
    send(CUTOUTS, cutout(7), Role::Service).await.ok();
    let vector = json!({"model_id": "clip", "vector": [3, 4]});
    for role in [Role::User, Role::Auditor] {
        send("/api/v1/cutouts/7/embeddings", vector.clone(), role).await.refused(403, "FORBIDDEN");
        send(EMBEDDINGS, json!([]), role).await.refused(403, "FORBIDDEN");
    }
    send("/api/v1/cutouts/7/embeddings", vector, Role::Worker).await.ok();
}

#[tokio::test]
async fn models_are_registered_activated_and_deleted_once() {
    let app = TestApp::new().await;
    let created = app.post(MODELS, &model("a")).await;
    assert_eq!(
        (created.status, &created.body["id"], &created.body["position"]),
        (201, &json!("a"), &json!(1))
    );
    assert_eq!(app.post(MODELS, &model("a")).await.body, created.body);
    let mut other = model("a");
    other["embedding_dim"] = json!(3);
    app.post(MODELS, &other).await.refused(409, "CONFLICT");
    let activate = |id: &str| app.call("POST", format!("{MODELS}/{id}/activate")).send();
    let delete = |id: &str| app.call("DELETE", format!("{MODELS}/{id}")).send();
    assert_eq!(activate("a").await.ok()["is_matching_active"], true);
    assert_eq!(activate("a").await.ok()["position"], 2);
    activate("b").await.refused(404, "NOT_FOUND");
    delete("b").await.refused(404, "NOT_FOUND");
    delete("a").await.refused(409, "CONFLICT");
    delete("lexical").await.refused(409, "CONFLICT");
    activate("dinov2-base").await.ok();
    assert_eq!(delete("a").await.ok()["exists"], false);
    let app = app.restarted().await;
    app.post(MODELS, &model("a")).await.refused(409, "CONFLICT");
    app.post(CUTOUTS, &cutout(7)).await.ok();
    let vector = json!({"model_id": "a", "vector": [3, 4]});
    app.post("/api/v1/cutouts/7/embeddings", &vector).await.refused(422, "UNPROCESSABLE");
    app.put("/api/v1/products/1", &json!({"name": "a"})).await.ok();
    app.post("/api/v1/products/1/embeddings", &vector).await.refused(422, "UNPROCESSABLE");
}

#[tokio::test]
async fn wrong_model_is_refused_with_its_member() {
    let app = TestApp::new().await;
    for (member, wrong) in [
        ("name", json!("")),
        ("name", json!(" ")),
        ("name", json!("x".repeat(129))),
        ("id", json!("")),
        ("model_type", json!(null)),
        ("purpose", json!("sound")),
        ("purpose", json!(null)),
        ("embedding_dim", json!(0)),
        ("embedding_dim", json!(4_097)),
        ("distance", json!("manhattan")),
        ("config", json!([])),
        ("training_job_id", json!("x")),
    ] {
        let mut body = model("a");
        body[member] = wrong.clone();
        let refused = app.post(MODELS, &body).await;
        assert_eq!(refused.fields(), [member], "{wrong}: {refused:?}");
        refused.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(app.head(), 0);
}

const MATCHES: &str = "/api/v1/matching/products/1/matches";

#[tokio::test]
async fn matches_are_saved_moved_only_if_asked_and_undone() {
    let app = TestApp::new().await;
    for product in 1..=2 {
        app.put(format!("/api/v1/products/{product}"), &json!({"name": "a"})).await.ok();
    }
    app.post(CUTOUTS, &json!([cutout(7), cutout(8)])).await.ok();
    let matches = |ids: &[u64], reassign: bool| {
        let cutouts: Vec<_> = ids.iter().map(|id| json!({"cutout_id": id, "similarity": 0.9})).collect();
        json!({"cutouts": cutouts, "reassign": reassign})
    };
    let saved = app.post(MATCHES, &matches(&[7], false)).await.ok();
    assert_eq!((&saved["accepted"], &saved["position"]), (&json!(1), &json!(5)));
    app.post(MATCHES, &matches(&[7], false)).await.ok();
    assert_eq!(app.head(), 5, "a saved match records nothing");
    let other = "/api/v1/matching/products/2/matches";
    let refused = app.post(other, &matches(&[8, 7], false)).await;
    assert_eq!(refused.fields(), ["cutouts[1].cutout_id"]);
    refused.refused(409, "CONFLICT");
    assert_eq!(app.head(), 5, "of a refused request nothing is recorded");
    app.post(other, &matches(&[8, 7, 7], true)).await.ok();
    assert_eq!(app.head(), 7);
    let undo = |path: &str, id: &str| app.call("DELETE", format!("{path}?cutout_id={id}")).send();
    undo(MATCHES, "7").await.refused(409, "CONFLICT");
    assert_eq!(undo(other, "7").await.ok(), json!({"product_id": 2, "cutout_id": 7, "position": 8}));
    undo(other, "7").await.refused(409, "CONFLICT");
    undo(other, "9").await.refused(404, "NOT_FOUND");
    undo(other, "x").await.refused(400, "INVALID_REQUEST");
    app.call("DELETE", other).send().await.refused(400, "INVALID_REQUEST");
    app.post("/api/v1/matching/products/3/matches", &matches(&[7], false)).await.refused(404, "NOT_FOUND");
    app.post(MATCHES, &matches(&[9], false)).await.refused(422, "UNPROCESSABLE");
    app.post(MATCHES, &matches(&[], false)).await.refused(400, "INVALID_REQUEST");
    let far = json!({"cutouts": [{"cutout_id": 7, "similarity": 1.5}]});
    app.post(MATCHES, &far).await.refused(400, "INVALID_REQUEST");
    assert_eq!(app.head(), 8);
}

#[tokio::test]
async fn of_racing_matches_of_a_cutout_one_is_recorded() {
    let app = TestApp::new().await;
    for product in 1..=8 {
        app.put(format!("/api/v1/products/{product}"), &json!({"name": "a"})).await.ok();
    }
    app.post(CUTOUTS, &cutout(7)).await.ok();
    let body = json!({"cutouts": [{"cutout_id": 7}]});
    let racing = (1..=8).map(|product| {
        let path = format!("/api/v1/matching/products/{product}/matches");
        app.call("POST", path).body(&body).send()
    });
    let answers = futures_util::future::join_all(racing).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
    assert_eq!(app.count("CutoutMatched").await, 1);
}
