//! Events that other programs keep in the log, through the EventStoreDB protocol: they are kept, and disturb nothing.

use std::time::Instant;

use bytes::Bytes;
use eventstore::{
    AppendToStreamOptions, Client, DeleteStreamOptions, EventData, ReadAllOptions, StreamPosition,
    TombstoneStreamOptions,
};
use serde_json::Value;
use uuid::Uuid;

use crate::support::PATIENCE;
use crate::support::job::{arithmetic, events, phase, running, summary};
use crate::support::server::Server;
use crate::wire::serving;

/// Streams of names that come near to the program's own.
fn near_names() -> Vec<String> {
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

/// Events that look like the program's, or like nothing.
fn odd_events(real: &Value) -> Vec<EventData> {
    let copied = serde_json::json!({
        "schema_version": 1, "occurred_at": real["occurred_at"], "tenant": real["tenant"], "actor": real["actor"],
        "correlation_id": real["correlation_id"], "causation_id": real["causation_id"],
    });
    vec![
        // A copy of a real event, with another id.
        EventData::json(real["type"].as_str().unwrap(), &real["data"])
            .unwrap()
            .metadata(Bytes::from(copied.to_string())),
        EventData::json("MatchFound", &serde_json::json!({ "half": "of it" })).unwrap(),
        EventData::binary("MatchFound", Bytes::from_static(b"\xff\xfe")).metadata(Bytes::from_static(b"\0")),
        EventData::binary("EventSkipped", Bytes::new()).id(Uuid::new_v4()),
        EventData::binary("\u{7}\u{1b}[2J ' ; drop table", Bytes::from(vec![b'{'; 100_000])),
        EventData::binary("t".repeat(4096), Bytes::from_static(b"null")),
    ]
}

async fn append_everywhere(client: &Client, real: &Value) -> usize {
    let mut appended = 0;
    for name in near_names() {
        for event in odd_events(real) {
            client.append_to_stream(name.as_str(), &AppendToStreamOptions::default(), event).await.unwrap();
            appended += 1;
        }
    }
    let rubbish = EventData::binary("$metadata", Bytes::from_static(b"{\"$maxCount\":\"no\","));
    client.append_to_stream("$$notes", &AppendToStreamOptions::default(), rubbish).await.unwrap();
    client
        .delete_stream("Job-00000000-0000-0000-0000-000000000001", &DeleteStreamOptions::default())
        .await
        .unwrap();
    client.tombstone_stream("-", &TombstoneStreamOptions::default()).await.unwrap();
    appended + 3
}

/// Waits until every part of the server and every read model has come to the head.
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
        assert!(started.elapsed() < PATIENCE, "not all came to the head: {status}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_other_programs_stop_no_read_model_no_audit_and_no_verification() {
    let (mut server, port) = serving(&[]).await;
    let url = format!("esdb://127.0.0.1:{port}?tls=false");
    let client = Client::new(url.parse().unwrap()).unwrap();
    let before = running(&server, 2, 3).await;
    let real = events(&server, &before).await.remove(0);
    let foreign = append_everywhere(&client, &real).await;
    let after = running(&server, 3, 2).await;
    phase(&server, &after, "completed").await;
    all_caught_up(&server).await;

    for job in [&before, &after] {
        let own = events(&server, job).await;
        let shown = summary(&server, job, "").await;
        for (figure, value) in arithmetic(&own).as_object().unwrap() {
            assert_eq!(&shown[figure], value, "{figure} of {shown}");
        }
    }
    // An auditor sees what the program did, and nothing that others made up.
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
    let made_up =
        server.get(&format!("/audit/events?type={}", real["type"].as_str().unwrap())).await.expect(200);
    assert!(made_up["items"].as_array().unwrap().iter().all(|event| event["stream"] != "notes"));

    // The log itself has all of it, and is whole.
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
