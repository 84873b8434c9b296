use serde_json::{Value, json};

use crate::support::{Bench, a_match};

#[tokio::test]
async fn a_match_is_recorded_once_and_counted_as_a_duplicate_afterwards() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let path = format!("{job}/matches");
    let batch = json!([a_match(1), a_match(2), a_match(1)]);
    let taken = bench.post(&path, &batch).await.ok();
    assert_eq!(taken, json!({"accepted": 2, "duplicates": 1, "position": bench.head()}));
    let again = bench.post(&path, &json!([a_match(2), a_match(3)])).await.ok();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(1), &json!(1)));
    let known = bench.post(&path, &json!([a_match(3)])).await.ok();
    assert_eq!(known, json!({"accepted": 0, "duplicates": 1, "position": again["position"]}));
    assert_eq!(bench.post(&path, &json!([])).await.ok()["accepted"], 0);
    assert_eq!(bench.count("MatchFound").await, 3);
}

#[tokio::test]
async fn matches_are_taken_as_lines_as_well() {
    let bench = Bench::new().await;
    let path = format!("{}/matches", bench.job().await);
    let lines = format!("{}\n\n{}\n", a_match(1), a_match(2));
    let taken = bench.call("POST", &path).text("application/x-ndjson", lines).send().await.ok();
    assert_eq!(taken["accepted"], 2);
    let broken = format!("{}\n{{\"match_id\": 7}}\n", a_match(3));
    let refused = bench.call("POST", &path).text("application/x-ndjson", broken).send().await;
    assert!(refused.fields().iter().all(|field| field.starts_with("line 2")), "{refused:?}");
    refused.refused(400, "INVALID_REQUEST");
    bench
        .call("POST", &path)
        .text("text/plain", "[]".to_owned())
        .send()
        .await
        .refused(415, "UNSUPPORTED_MEDIA_TYPE");
    assert_eq!(bench.count("MatchFound").await, 2);
}

#[tokio::test]
async fn ten_thousand_matches_are_taken_in_one_batch_and_one_more_is_not() {
    let bench = Bench::new().await;
    let path = format!("{}/matches", bench.job().await);
    let all: Value = (0..10_000).map(a_match).collect();
    let taken = bench.post(&path, &all).await.ok();
    assert_eq!((&taken["accepted"], &taken["duplicates"]), (&json!(10_000), &json!(0)));
    assert_eq!(bench.post(&path, &all).await.ok()["duplicates"], 10_000);
    let more: Value = (0..10_001).map(a_match).collect();
    bench.post(&path, &more).await.refused(400, "INVALID_REQUEST");
    assert_eq!(bench.count("MatchFound").await, 10_000);
}

#[tokio::test]
async fn a_batch_that_falls_into_one_shard_is_split_into_appends_that_the_log_takes() {
    let bench = Bench::new().await;
    let path = format!("{}/matches", bench.job().await);
    // Long paths make 1,200 events of one shard larger than one append may be.
    let shard = event_schemas::stream::StreamId::matches;
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
    let first = bench.call("POST", &path).key("k").body(&long).send().await.ok();
    assert_eq!(first["accepted"], 1_200);
    let bench = bench.restarted().await;
    assert_eq!(bench.call("POST", &path).key("k").body(&long).send().await.ok(), first);
}

#[tokio::test]
async fn what_is_no_match_is_refused_by_its_place_and_nothing_is_recorded() {
    let bench = Bench::new().await;
    let path = format!("{}/matches", bench.job().await);
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
        let answer = bench.post(&path, &body).await;
        assert_eq!(answer.fields(), [field], "{answer:?}");
        answer.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(bench.count("MatchFound").await, 0);
}

#[tokio::test]
async fn evidence_is_attached_to_a_match_that_is_known() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    bench.post(format!("{job}/matches"), &json!([a_match(1)])).await.ok();
    let path = format!("{job}/matches/m1/evidence");
    let body = json!({"evidence_path": "a.jpg"});
    let attached = bench.put(&path, &body).await.ok();
    assert_eq!((&attached["match_id"], &attached["evidence_path"]), (&json!("m1"), &json!("a.jpg")));
    assert_eq!(bench.put(&path, &body).await.ok(), attached);
    bench.put(&path, &json!({"evidence_path": "b.jpg"})).await.ok();
    assert_eq!(bench.count("MatchEvidenceAttached").await, 2);
    bench.put(format!("{job}/matches/m2/evidence"), &body).await.refused(404, "NOT_FOUND");
    bench.put(&path, &json!({"evidence_path": ""})).await.refused(400, "INVALID_REQUEST");
}
