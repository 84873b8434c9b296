//! Events that other programs append over the EventStoreDB protocol: they are stored, and disturb nothing.

use std::time::Instant;

use bytes::Bytes;
use eventstore::{
    AppendToStreamOptions, Client, DeleteStreamOptions, EventData, ReadAllOptions, StreamPosition,
    TombstoneStreamOptions,
};
use serde_json::Value;
use uuid::Uuid;

use crate::support::TIMEOUT;
use crate::support::job::{events, expected_summary, running_job, set_phase, summary};
use crate::support::server::Server;
use crate::wire::serving;

/// Names of streams that are similar to the program's own.
fn similar_names() -> Vec<String> {
    let id = Uuid::from_u128(1);
    vec![
        "notes".to_owned(),
        format!("jobs-{id}"),
        format!("Job-{id}"),
        format!("_job-{id}"),
        format!("x-job-{id}"),
        "matching.".to_owned(),
        "-".to_owned(),
        "ä".repeat(2000),
    ]
}

/// Events that look like the program's own, and arbitrary ones.
fn odd_events(real: &Value) -> Vec<EventData> {
    let metadata = serde_json::json!({
        "schema_version": 1, "occurred_at": real["occurred_at"], "tenant": real["tenant"], "actor": real["actor"],
        "correlation_id": real["correlation_id"], "causation_id": real["causation_id"],
    });
    vec![
        // A copy of a real event, with another id.
        EventData::json(real["type"].as_str().unwrap(), &real["data"])
            .unwrap()
            .metadata(Bytes::from(metadata.to_string())),
        EventData::json("MatchFound", &serde_json::json!({ "half": "of it" })).unwrap(),
        EventData::binary("MatchFound", Bytes::from_static(b"\xff\xfe")).metadata(Bytes::from_static(b"\0")),
        EventData::binary("EventSkipped", Bytes::new()).id(Uuid::new_v4()),
        EventData::binary("\u{7}\u{1b}[2J ' ; drop table", Bytes::from(vec![b'{'; 100_000])),
        EventData::binary("t".repeat(4096), Bytes::from_static(b"null")),
    ]
}

async fn append_everywhere(client: &Client, real: &Value) -> usize {
    let mut appended = 0;
    for name in similar_names() {
        for event in odd_events(real) {
            client.append_to_stream(name.as_str(), &AppendToStreamOptions::default(), event).await.unwrap();
            appended += 1;
        }
    }
    let invalid = EventData::binary("$metadata", Bytes::from_static(b"{\"$maxCount\":\"no\","));
    client.append_to_stream("$$notes", &AppendToStreamOptions::default(), invalid).await.unwrap();
    client
        .delete_stream("Job-00000000-0000-0000-0000-000000000001", &DeleteStreamOptions::default())
        .await
        .unwrap();
    client.tombstone_stream("-", &TombstoneStreamOptions::default()).await.unwrap();
    appended + 3
}

/// Waits until the server is ready and every projection has reached the head.
async fn all_caught_up(server: &Server) {
    let started = Instant::now();
    loop {
        let status = server.get("/status").await.expect(200);
        let head = status["log"]["head"].clone();
        let behind = status["projections"]
            .as_array()
            .unwrap()
            .iter()
            .any(|projection| projection["position"] != head || projection["error"].is_string());
        if !behind && server.get("/ready").await.status == 200 {
            return;
        }
        assert!(started.elapsed() < TIMEOUT, "not all projections reached the head: {status}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_events_disturb_no_read_model_audit_or_verify() {
    let (mut server, port) = serving(&[]).await;
    let url = format!("esdb://127.0.0.1:{port}?tls=false");
    let client = Client::new(url.parse().unwrap()).unwrap();
    let before = running_job(&server, 2, 3).await;
    let real = events(&server, &before).await.remove(0);
    let foreign = append_everywhere(&client, &real).await;
    let after = running_job(&server, 3, 2).await;
    set_phase(&server, &after, "completed").await;
    all_caught_up(&server).await;

    for job in [&before, &after] {
        let own = events(&server, job).await;
        let shown = summary(&server, job, "").await;
        for (figure, value) in expected_summary(&own).as_object().unwrap() {
            assert_eq!(&shown[figure], value, "{figure} of {shown}");
        }
    }
    // An auditor sees only the events of the program itself.
    let export = server.cli(&["events", "export"]);
    assert!(export.status.success(), "{export:?}");
    let lines: Vec<Value> = String::from_utf8(export.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let own = events(&server, &before).await.len() + events(&server, &after).await.len();
    assert_eq!(lines.len(), own);
    let page = server.get("/audit/events?limit=500").await.expect(200);
    assert_eq!(page["items"].as_array().unwrap().len(), own);
    assert_eq!(
        server.get("/audit/events?stream=notes").await.expect(200)["items"].as_array().unwrap().len(),
        0
    );
    let of_type =
        server.get(&format!("/audit/events?type={}", real["type"].as_str().unwrap())).await.expect(200);
    assert!(of_type["items"].as_array().unwrap().iter().all(|event| event["stream"] != "notes"));

    // The log itself contains all events, and is undamaged.
    let all = ReadAllOptions::default().position(StreamPosition::Start).max_count(usize::MAX);
    let mut stream = client.read_all(&all).await.unwrap();
    let mut read = 0;
    while stream.next().await.unwrap().is_some() {
        read += 1;
    }
    assert_eq!(read, own + foreign);
    drop(stream);
    assert_eq!(server.terminate(), Some(0));
    let data = server.data();
    let verified = server.cli(&["events", "verify", "--data", &data.to_string_lossy()]);
    assert!(verified.status.success(), "{verified:?}");
}
