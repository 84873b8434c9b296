use std::time::Duration;

use poem::IntoResponse;
use poem_openapi::ApiResponse;
use serde_json::{Value, json};

use super::*;
use crate::shutdown;

fn text(bytes: Option<Bytes>) -> String {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).unwrap_or_default()
}

fn update(event: &'static str, id: u64) -> Update {
    Update::state(event, Some(Position(id)), &json!({}))
}

#[tokio::test]
async fn stream_is_sent_to_its_end_and_closed() {
    let events: Events<Value> = stream(&json!({}), &Shutdown::never(), |sender| async move {
        sender.send(update("matched", 1)).unwrap();
        sender.send(Update::last("completed", Some(Position(2)), &json!({}))).unwrap();
    });
    let response = events.into_response();
    assert_eq!(response.content_type(), Some("text/event-stream"));
    assert_eq!(response.header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(response.header("x-accel-buffering"), Some("no"));
    let body = response.into_body().into_string().await.unwrap();
    let names: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names, ["connected", "matched", "completed", "stream_ended"]);
}

#[tokio::test(start_paused = true)]
async fn silent_stream_is_kept_alive() {
    let (_sender, events) = open::<Value>(&json!({}), &Shutdown::never());
    let mut reader = events.reader;
    assert!(text(reader.next().await).contains("event: connected"));
    let before = Instant::now();
    assert_eq!(text(reader.next().await), ":\n\n");
    assert_eq!(before.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn delayed_progress_is_sent_in_time() {
    let (sender, events) = open::<Value>(&json!({}), &Shutdown::never());
    let mut reader = events.reader;
    reader.next().await;
    let progress = |n: u64| Update::progress("progress", None, &json!({ "n": n }));
    sender.send(progress(1)).unwrap();
    assert!(text(reader.next().await).contains("\"n\":1"));
    sender.send(progress(2)).unwrap();
    sender.send(progress(3)).unwrap();
    let before = Instant::now();
    assert!(text(reader.next().await).contains("\"n\":3"));
    // The timer has a resolution of a millisecond.
    assert!((250..=251).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn connections_of_other_kinds_get_the_same_data() {
    let shared = update("matched", 7);
    let (sse_sender, sse) = open::<Value>(&json!({}), &Shutdown::never());
    let (sender, mut events) = open::<Value>(&json!({}), &Shutdown::never());
    for sender in [&sse_sender, &sender] {
        sender.send(shared.clone()).unwrap();
    }
    let mut reader = sse.reader;
    let sent = text(reader.next().await);
    let mut received = Vec::new();
    while let Some(Outgoing::Update(update)) = events.next_outgoing().await {
        let mut data = String::new();
        update.write_data(&mut data);
        received.push(serde_json::from_str::<Value>(&data).unwrap());
    }
    // The heartbeat came after 15 s of silence.
    assert_eq!(received.len(), 2);
    let data = sent.lines().filter_map(|line| line.strip_prefix("data: "));
    for (one, mut other) in data.map(|data| serde_json::from_str::<Value>(data).unwrap()).zip(received) {
        assert_ne!(one["connection_id"], other["connection_id"]);
        other["connection_id"] = one["connection_id"].clone();
        assert_eq!(one, other);
    }
}

#[tokio::test]
async fn shutdown_ends_every_stream() {
    let (trigger, shutdown) = shutdown::channel();
    let (sender, events) = open::<Value>(&json!({}), &shutdown);
    let mut reader = events.reader;
    reader.next().await;
    trigger.request();
    assert_eq!(reader.next().await, None);
    drop(reader);
    assert!(sender.is_closed());
    assert_eq!(sender.send(update("matched", 1)), Err(Closed));
}

#[tokio::test]
async fn disconnected_subscriber_ends_the_producer() {
    let (alive, gone) = tokio::sync::oneshot::channel::<()>();
    let events: Events<Value> = stream(&json!({}), &Shutdown::never(), |sender| async move {
        let _alive = (alive, sender);
        std::future::pending::<()>().await;
    });
    drop(events);
    assert!(gone.await.is_err());
}

#[tokio::test]
async fn replay_waits_for_a_slow_subscriber() {
    let events: Events<Value> = stream(&json!({}), &Shutdown::never(), |sender| async move {
        for id in 1..=1000 {
            sender.replay(update("event", id)).await.unwrap();
        }
    });
    let body =
        tokio::time::timeout(Duration::from_secs(10), events.into_response().into_body().into_string());
    let body = body.await.expect("a replay ends").unwrap();
    let ids: Vec<u64> = body.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
}

#[test]
fn last_event_id_header_wins_over_the_parameter() {
    let at = |position| Some(ApiPosition(Position(position)));
    assert_eq!(resume_after(at(5), at(3)), Some(Position(5)));
    assert_eq!(resume_after(None, at(3)), Some(Position(3)));
    assert_eq!(resume_after(None, None), None);
}

#[test]
fn stream_responses_are_described() {
    let statuses: Vec<_> =
        StreamResponse::<Value>::meta().responses.into_iter().map(|response| response.status).collect();
    assert_eq!(statuses, [Some(200), Some(204)]);
    assert_eq!(StreamResponse::<Value>::Ended.into_response().status(), 204);
}
