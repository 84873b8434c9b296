use serde_json::{Value, json};

use crate::support::{TestApp, a_match};

#[tokio::test]
async fn match_is_recorded_once_and_then_a_duplicate() {
    let app = TestApp::new().await;
    let job = app.job().await;
    let path = format!("{job}/matches");
    let batch = json!([a_match(1), a_match(2), a_match(1)]);
    let taken = app.post(&path, &batch).await.ok();
    assert_eq!(taken, json!({"accepted": 2, "duplicates": 1, "position": app.head()}));
    let again = app.post(&path, &json!([a_match(2), a_match(3)])).await.ok();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(1), &json!(1)));
    let known = app.post(&path, &json!([a_match(3)])).await.ok();
    assert_eq!(known, json!({"accepted": 0, "duplicates": 1, "position": again["position"]}));
    assert_eq!(app.post(&path, &json!([])).await.ok()["accepted"], 0);
    assert_eq!(app.count("MatchFound").await, 3);
}

#[tokio::test]
async fn matches_are_accepted_as_ndjson() {
    let app = TestApp::new().await;
    let path = format!("{}/matches", app.job().await);
    let lines = format!("{}\n\n{}\n", a_match(1), a_match(2));
    let taken = app.call("POST", &path).text("application/x-ndjson", lines).send().await.ok();
    assert_eq!(taken["accepted"], 2);
    let broken = format!("{}\n{{\"match_id\": 7}}\n", a_match(3));
    let refused = app.call("POST", &path).text("application/x-ndjson", broken).send().await;
    assert!(refused.fields().iter().all(|field| field.starts_with("line 2")), "{refused:?}");
    refused.refused(400, "INVALID_REQUEST");
    app.call("POST", &path)
        .text("text/plain", "[]".to_owned())
        .send()
        .await
        .refused(415, "UNSUPPORTED_MEDIA_TYPE");
    assert_eq!(app.count("MatchFound").await, 2);
}

#[tokio::test]
async fn batch_limit_is_ten_thousand_matches() {
    let app = TestApp::new().await;
    let path = format!("{}/matches", app.job().await);
    let all: Value = (0..10_000).map(a_match).collect();
    let taken = app.post(&path, &all).await.ok();
    assert_eq!((&taken["accepted"], &taken["duplicates"]), (&json!(10_000), &json!(0)));
    assert_eq!(app.post(&path, &all).await.ok()["duplicates"], 10_000);
    let more: Value = (0..10_001).map(a_match).collect();
    app.post(&path, &more).await.refused(400, "INVALID_REQUEST");
    assert_eq!(app.count("MatchFound").await, 10_000);
}

#[tokio::test]
async fn large_batch_in_one_shard_is_split_into_appends() {
    let app = TestApp::new().await;
    let path = format!("{}/matches", app.job().await);
    // Long paths make 1,200 events of one shard larger than one append may be.
    let shard = event_schemas::stream::StreamId::image_match;
    let job = event_schemas::ids::JobId(uuid::Uuid::nil());
    let in_first = |n: &usize| shard(job, &format!("m{n}").parse().unwrap()).shard() == Some(0);
    let long: Value = (0..40_000)
        .filter(in_first)
        .take(1_200)
        .map(|n| {
            let mut found = a_match(n);
            found["evidence_path"] = "x".repeat(1_000).into();
            found
        })
        .collect();
    let first = app.call("POST", &path).key("k").body(&long).send().await.ok();
    assert_eq!(first["accepted"], 1_200);
    let app = app.restarted().await;
    assert_eq!(app.call("POST", &path).key("k").body(&long).send().await.ok(), first);
}

#[tokio::test]
async fn malformed_match_is_refused_with_its_field() {
    let app = TestApp::new().await;
    let path = format!("{}/matches", app.job().await);
    let wrong = |field: &str, value: Value| {
        let mut found = a_match(1);
        found[field] = value;
        json!([a_match(0), found])
    };
    for (body, field) in [
        (wrong("score", json!(1.5)), "body[1].score"),
        (wrong("match_id", json!("")), "body[1].match_id"),
        (wrong("occurred_at", json!("2026-11-20T11:00:00Z")), "body[1].occurred_at"),
        (wrong("evidence_path", json!("x".repeat(1025))), "body[1].evidence_path"),
    ] {
        let response = app.post(&path, &body).await;
        assert_eq!(response.fields(), [field], "{response:?}");
        response.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(app.count("MatchFound").await, 0);
}

#[tokio::test]
async fn evidence_requires_a_known_match() {
    let app = TestApp::new().await;
    let job = app.job().await;
    app.post(format!("{job}/matches"), &json!([a_match(1)])).await.ok();
    let path = format!("{job}/matches/m1/evidence");
    let body = json!({"evidence_path": "a.jpg"});
    let attached = app.put(&path, &body).await.ok();
    assert_eq!((&attached["match_id"], &attached["evidence_path"]), (&json!("m1"), &json!("a.jpg")));
    assert_eq!(app.put(&path, &body).await.ok(), attached);
    app.put(&path, &json!({"evidence_path": "b.jpg"})).await.ok();
    assert_eq!(app.count("MatchEvidenceAttached").await, 2);
    app.put(format!("{job}/matches/m2/evidence"), &body).await.refused(404, "NOT_FOUND");
    app.put(&path, &json!({"evidence_path": ""})).await.refused(400, "INVALID_REQUEST");
}
