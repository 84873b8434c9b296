//! Streams of summaries, as server-sent events and over a WebSocket.

use std::time::Duration;

use event_schemas::ids::JobId;
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;
use tokio_tungstenite::tungstenite::{Error as SocketError, protocol::frame::coding::CloseCode};

use super::events::{cancelled, completed, created, failed, job, phase, progress, registered};
use super::fixture::{ReadApiFixture, acme};
use super::sse_reader::{SseReader, TIMEOUT, event_names};

#[tokio::test]
async fn stream_starts_with_the_current_state() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let mut reader = SseReader::open(&fixture, job(1), None).await.unwrap();
    let connected = reader.next().await.unwrap();
    assert_eq!((connected.name.as_str(), connected.id), ("connected", None));
    let first = reader.next().await.unwrap();
    assert_eq!((first.name.as_str(), first.id), ("progress", Some(12)));
    let summary = fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await.json();
    assert_eq!(first.data["summary"], summary);
    let of_job = fixture.get(&format!("/jobs/{}", job(1))).await.json()["progress_percentage"].clone();
    assert_eq!((&first.data["progress"]["percentage"], &summary["progress_percentage"]), (&of_job, &of_job));
    assert_eq!(first.data["progress"]["current_stage"], "matching");
    assert_eq!(first.data["job_id"], job(1).to_string());
    assert_eq!((&first.data["event"], &first.data["update_count"]), (&"progress".into(), &1.into()));
    assert_eq!(first.data["connection_id"], connected.data["connection_id"]);
}

#[tokio::test]
async fn stream_sends_progress_until_completion() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let mut reader = SseReader::open(&fixture, job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let position = fixture.matching_event(job(1), progress(2, 5)).await;
    let event = reader.skip_to("progress").await;
    assert_eq!((event.id, &event.data["summary"]["candidates_processed"]), (Some(position.0), &15.into()));
    fixture.job_event(job(1), phase(Phase::Matching, Phase::Evidence)).await;
    let position = fixture.job_event(job(1), completed()).await;
    let rest = reader.rest().await;
    assert_eq!(event_names(&rest), ["progress", "completed", "stream_ended"]);
    assert_eq!((rest[1].id, &rest[1].data["summary"]["phase"]), (Some(position.0), &"completed".into()));
    assert_eq!(rest[1].data["progress"]["percentage"], 100.0);
}

#[tokio::test]
async fn no_state_change_is_lost_in_a_burst() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "a")).await;
    let mut reader = SseReader::open(&fixture, job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let all = [Phase::Queued, Phase::Collecting, Phase::Extracting, Phase::Matching, Phase::Evidence];
    let changes: Vec<_> = all.windows(2).map(|pair| phase(pair[0], pair[1])).chain([completed()]).collect();
    fixture.append(StreamId::job(job(1)), &changes).await;
    let rest = reader.rest().await;
    let phases: Vec<&str> = rest.iter().filter_map(|event| event.data["summary"]["phase"].as_str()).collect();
    assert_eq!(phases, ["collecting", "extracting", "matching", "evidence", "completed"]);
    assert_eq!(rest.iter().filter_map(|event| event.id).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn retry_of_failed_job_sends_retrying() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let failed_at = fixture.job_event(job(1), failed()).await;
    let reader = SseReader::open(&fixture, job(1), None).await.unwrap();
    assert_eq!(event_names(&reader.rest().await), ["connected", "failed", "stream_ended"]);
    assert_eq!(SseReader::open(&fixture, job(1), Some(failed_at.0)).await.err(), Some(204));
    fixture.job_event(job(1), phase(Phase::Failed, Phase::Queued)).await;
    let mut again = SseReader::open(&fixture, job(1), Some(failed_at.0)).await.unwrap();
    again.skip_to("connected").await;
    let event = again.next().await.unwrap();
    assert_eq!((event.name.as_str(), &event.data["summary"]["attempt"]), ("retrying", &2.into()));
}

#[tokio::test]
async fn reconnect_gets_missed_changes_exactly_once() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "a")).await;
    fixture.job_event(job(1), phase(Phase::Queued, Phase::Collecting)).await;
    fixture.job_event(job(1), phase(Phase::Collecting, Phase::Extracting)).await;
    fixture.match_found(job(1), 1, 0.5, None).await;
    fixture.job_event(job(1), phase(Phase::Extracting, Phase::Matching)).await;
    fixture.job_event(job(1), cancelled()).await;
    for last in 1..=6 {
        let expected: Vec<u64> = [2, 3, 5, 6].into_iter().filter(|id| *id > last).collect();
        match SseReader::open(&fixture, job(1), Some(last)).await {
            Ok(reader) => {
                let rest = reader.rest().await;
                assert_eq!(rest.iter().filter_map(|event| event.id).collect::<Vec<_>>(), expected, "{last}");
                assert_eq!(event_names(&rest).last(), Some(&"stream_ended"));
            }
            Err(status) => assert_eq!((status, expected), (204, vec![]), "{last}"),
        }
    }
}

#[tokio::test]
async fn earlier_changes_have_the_summary_of_their_time() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.job_event(job(1), cancelled()).await;
    let mut reader = SseReader::open(&fixture, job(1), Some(3)).await.unwrap();
    reader.skip_to("connected").await;
    let event = reader.next().await.unwrap();
    let then = fixture.get(&format!("/jobs/{}/matching/summary?as_of=5", job(1))).await.json();
    assert_eq!((event.id, &event.data["summary"]), (Some(5), &then));
}

#[tokio::test]
async fn id_of_another_log_restarts_the_stream() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let mut reader = SseReader::open(&fixture, job(1), Some(99_999)).await.unwrap();
    assert_eq!(reader.skip_to("progress").await.id, Some(12));
}

#[tokio::test]
async fn blocker_caused_by_time_alone_is_sent() {
    let fixture = ReadApiFixture::open().await;
    fixture.append(StreamId::worker(&acme(), &"worker-1".parse().unwrap()), &[registered(1)]).await;
    fixture.running_job(job(1)).await;
    let mut reader = SseReader::open(&fixture, job(1), None).await.unwrap();
    let before = reader.skip_to("progress").await;
    assert!(!before.data["summary"]["blockers"].to_string().contains("stalled"));
    fixture.clock.advance(Duration::from_secs(600));
    let stalled = reader.skip_to("progress").await;
    assert_eq!(stalled.id, before.id);
    assert!(stalled.data["summary"]["blockers"].to_string().contains("stalled"));
}

#[tokio::test]
async fn stream_of_another_tenants_job_gets_404() {
    let fixture = ReadApiFixture::open().await;
    fixture.append_for(&"other".parse().unwrap(), StreamId::job(job(1)), &[created(job(1), "theirs")]).await;
    for (id, status) in [(job(1), 404), (job(2), 404)] {
        assert_eq!(SseReader::open(&fixture, id, None).await.err(), Some(status));
    }
}

#[tokio::test]
async fn stream_opens_once_the_job_is_in_the_log() {
    let fixture = ReadApiFixture::open().await;
    for n in 1..=20 {
        fixture.job_event(job(n), created(job(n), "a")).await;
        let opened = fixture.client.get(format!("/jobs/{}/matching/stream", job(n))).send().await;
        opened.assert_status_is_ok();
    }
}

#[tokio::test]
async fn ticket_opens_one_stream() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let issued = fixture.post("/v1/stream-tickets").await;
    assert_eq!(issued.status, 201);
    let ticket = issued.json()["ticket"].as_str().unwrap().to_owned();
    fixture.running_job(job(2)).await;
    let status = async |n: u128| {
        let path = format!("/jobs/{}/matching/stream?ticket={ticket}", job(n));
        fixture.client.get(&path).send().await.0.status().as_u16()
    };
    assert_eq!([status(9).await, status(1).await, status(2).await, status(1).await], [404, 200, 401, 200]);
    let other = fixture.client.post(format!("/v1/stream-tickets?ticket={ticket}&path=jobs")).send().await;
    assert_eq!(other.0.status(), 400);
}

#[tokio::test]
async fn websocket_with_too_many_pings_is_closed() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let address = fixture.serve().await;
    let (mut socket, _) = connect_async(format!("ws://{address}/jobs/{}/matching/ws", job(1))).await.unwrap();
    for _ in 0..100 {
        // The server may have closed the connection already.
        let _ = socket.send(Frame::Ping(vec![0; 100].into())).await;
    }
    let code = loop {
        match tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap() {
            Some(Ok(Frame::Close(close))) => break close.map(|close| close.code),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, Some(CloseCode::Policy));
}

#[tokio::test]
async fn websocket_sends_the_same_updates_and_closes_at_the_end() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let address = fixture.serve().await;
    let (mut socket, _) = connect_async(format!("ws://{address}/jobs/{}/matching/ws", job(1))).await.unwrap();
    let mut updates = Vec::new();
    loop {
        let frame = tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap();
        match frame {
            Frame::Text(text) => updates.push(serde_json::from_str::<Value>(&text).unwrap()),
            Frame::Close(close) => {
                assert_eq!(close.map(|close| close.code), Some(CloseCode::Normal));
                break;
            }
            _ => {}
        }
        if updates.len() == 2 {
            fixture.job_event(job(1), cancelled()).await;
        }
    }
    let events: Vec<&str> = updates.iter().map(|update| update["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["connected", "progress", "cancelled", "stream_ended"]);
    assert_eq!((&updates[1]["position"], &updates[1]["summary"]["matches_found"]), (&12.into(), &3.into()));
    assert_eq!(updates[2]["position"], 13);
}

#[tokio::test]
async fn websocket_closed_by_client_ends_cleanly() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let address = fixture.serve().await;
    let (mut socket, _) = connect_async(format!("ws://{address}/jobs/{}/matching/ws", job(1))).await.unwrap();
    socket.close(None).await.unwrap();
    let mut closed = false;
    while let Some(frame) = tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap() {
        closed |= frame.unwrap().is_close();
    }
    assert!(closed);
}

#[tokio::test]
async fn websocket_refuses_other_origins_and_unknown_jobs() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let address = fixture.serve().await;
    let refusal = async |id: JobId, origin: Option<&str>| {
        let mut request = format!("ws://{address}/jobs/{id}/matching/ws").into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        match connect_async(request).await {
            Err(SocketError::Http(response)) => response.status().as_u16(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal(job(1), Some("http://evil.example")).await, 403);
    assert_eq!(refusal(job(9), None).await, 404);
}
