//! Streams of summaries: server-sent events, and the same over a WebSocket.

use std::time::Duration;

use event_schemas::ids::JobId;
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use futures_util::StreamExt;
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;
use tokio_tungstenite::tungstenite::{Error as SocketError, protocol::frame::coding::CloseCode};

use super::reader::{Reader, SOON, names};
use super::script::{cancelled, completed, created, failed, job, phase, progress, registered};
use super::stage::{Stage, acme};

#[tokio::test]
async fn a_stream_begins_with_how_the_job_stands() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let mut reader = Reader::open(&stage, job(1), None).await.unwrap();
    let connected = reader.next().await.unwrap();
    assert_eq!((connected.event.as_str(), connected.id), ("connected", None));
    let first = reader.next().await.unwrap();
    assert_eq!((first.event.as_str(), first.id), ("progress", Some(12)));
    let summary = stage.get(&format!("/jobs/{}/matching/summary", job(1))).await.json();
    assert_eq!(first.data["summary"], summary);
    assert_eq!(first.data["progress"]["percentage"], 50.0);
    assert_eq!(first.data["progress"]["current_stage"], "matching");
    assert_eq!(first.data["job_id"], job(1).to_string());
    assert_eq!((&first.data["event"], &first.data["update_count"]), (&"progress".into(), &1.into()));
    assert_eq!(first.data["connection_id"], connected.data["connection_id"]);
}

#[tokio::test]
async fn what_happens_is_told_until_the_end() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let mut reader = Reader::open(&stage, job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let position = stage.matching_event(job(1), progress(2, 5)).await;
    let told = reader.skip_to("progress").await;
    assert_eq!((told.id, &told.data["summary"]["candidates_processed"]), (Some(position.0), &15.into()));
    stage.job_event(job(1), phase(Phase::Matching, Phase::Evidence)).await;
    let position = stage.job_event(job(1), completed()).await;
    let rest = reader.rest().await;
    assert_eq!(names(&rest), ["progress", "completed", "stream_ended"]);
    assert_eq!((rest[1].id, &rest[1].data["summary"]["phase"]), (Some(position.0), &"completed".into()));
    assert_eq!(rest[1].data["progress"]["percentage"], 100.0);
}

#[tokio::test]
async fn no_change_of_state_is_lost_however_many_come_at_once() {
    let stage = Stage::open().await;
    stage.job_event(job(1), created(job(1), "a")).await;
    let mut reader = Reader::open(&stage, job(1), None).await.unwrap();
    reader.skip_to("progress").await;
    let all = [Phase::Queued, Phase::Collecting, Phase::Extracting, Phase::Matching, Phase::Evidence];
    let changes: Vec<_> = all.windows(2).map(|pair| phase(pair[0], pair[1])).chain([completed()]).collect();
    stage.append(StreamId::job(job(1)), &changes).await;
    let rest = reader.rest().await;
    let phases: Vec<&str> = rest.iter().filter_map(|told| told.data["summary"]["phase"].as_str()).collect();
    assert_eq!(phases, ["collecting", "extracting", "matching", "evidence", "completed"]);
    assert_eq!(rest.iter().filter_map(|told| told.id).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_failed_job_that_is_tried_again_says_so() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let failed_at = stage.job_event(job(1), failed()).await;
    let reader = Reader::open(&stage, job(1), None).await.unwrap();
    assert_eq!(names(&reader.rest().await), ["connected", "failed", "stream_ended"]);
    assert_eq!(Reader::open(&stage, job(1), Some(failed_at.0)).await.err(), Some(204));
    stage.job_event(job(1), phase(Phase::Failed, Phase::Queued)).await;
    let mut again = Reader::open(&stage, job(1), Some(failed_at.0)).await.unwrap();
    again.skip_to("connected").await;
    let told = again.next().await.unwrap();
    assert_eq!((told.event.as_str(), &told.data["summary"]["attempt"]), ("retrying", &2.into()));
}

#[tokio::test]
async fn whoever_comes_back_is_told_what_they_missed_and_nothing_twice() {
    let stage = Stage::open().await;
    stage.job_event(job(1), created(job(1), "a")).await;
    stage.job_event(job(1), phase(Phase::Queued, Phase::Collecting)).await;
    stage.job_event(job(1), phase(Phase::Collecting, Phase::Extracting)).await;
    stage.found(job(1), 1, 0.5, None).await;
    stage.job_event(job(1), phase(Phase::Extracting, Phase::Matching)).await;
    stage.job_event(job(1), cancelled()).await;
    for last in 1..=6 {
        let expected: Vec<u64> = [2, 3, 5, 6].into_iter().filter(|id| *id > last).collect();
        match Reader::open(&stage, job(1), Some(last)).await {
            Ok(reader) => {
                let rest = reader.rest().await;
                assert_eq!(rest.iter().filter_map(|told| told.id).collect::<Vec<_>>(), expected, "{last}");
                assert_eq!(names(&rest).last(), Some(&"stream_ended"));
            }
            Err(status) => assert_eq!((status, expected), (204, vec![]), "{last}"),
        }
    }
}

#[tokio::test]
async fn what_was_told_of_an_earlier_state_is_what_was_known_then() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.job_event(job(1), cancelled()).await;
    let mut reader = Reader::open(&stage, job(1), Some(3)).await.unwrap();
    reader.skip_to("connected").await;
    let told = reader.next().await.unwrap();
    let then = stage.get(&format!("/jobs/{}/matching/summary?as_of=5", job(1))).await.json();
    assert_eq!((told.id, &told.data["summary"]), (Some(5), &then));
}

#[tokio::test]
async fn an_id_of_another_log_begins_anew() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let mut reader = Reader::open(&stage, job(1), Some(99_999)).await.unwrap();
    assert_eq!(reader.skip_to("progress").await.id, Some(12));
}

#[tokio::test]
async fn a_blocker_that_comes_with_time_alone_is_told() {
    let stage = Stage::open().await;
    stage.append(StreamId::worker(&acme(), &"worker-1".parse().unwrap()), &[registered(1)]).await;
    stage.running_job(job(1)).await;
    let mut reader = Reader::open(&stage, job(1), None).await.unwrap();
    let before = reader.skip_to("progress").await;
    assert!(!before.data["summary"]["blockers"].to_string().contains("stalled"));
    stage.clock.advance(Duration::from_secs(600));
    let stalled = reader.skip_to("progress").await;
    assert_eq!(stalled.id, before.id);
    assert!(stalled.data["summary"]["blockers"].to_string().contains("stalled"));
}

#[tokio::test]
async fn no_stream_is_opened_of_what_is_not_the_callers() {
    let stage = Stage::open().await;
    stage.append_for(&"other".parse().unwrap(), StreamId::job(job(1)), &[created(job(1), "theirs")]).await;
    for (id, status) in [(job(1), 404), (job(2), 404)] {
        assert_eq!(Reader::open(&stage, id, None).await.err(), Some(status));
    }
}

#[tokio::test]
async fn a_stream_can_be_opened_as_soon_as_the_job_is_in_the_log() {
    let stage = Stage::open().await;
    for n in 1..=20 {
        stage.job_event(job(n), created(job(n), "a")).await;
        let opened = stage.client.get(format!("/jobs/{}/matching/stream", job(n))).send().await;
        opened.assert_status_is_ok();
    }
}

#[tokio::test]
async fn a_ticket_opens_one_stream() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let issued = stage.post("/v1/stream-tickets").await;
    assert_eq!(issued.status, 201);
    let ticket = issued.json()["ticket"].as_str().unwrap().to_owned();
    let path = format!("/jobs/{}/matching/stream?ticket={ticket}", job(1));
    assert_eq!(stage.client.get(&path).send().await.0.status(), 200);
    assert_eq!(stage.client.get(&path).send().await.0.status(), 401);
}

#[tokio::test]
async fn a_websocket_carries_the_same_messages_and_is_closed_at_the_end() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let address = stage.serve().await;
    let (mut socket, _) = connect_async(format!("ws://{address}/jobs/{}/matching/ws", job(1))).await.unwrap();
    let mut told = Vec::new();
    loop {
        let frame = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        match frame {
            Frame::Text(text) => told.push(serde_json::from_str::<Value>(&text).unwrap()),
            Frame::Close(close) => {
                assert_eq!(close.map(|close| close.code), Some(CloseCode::Normal));
                break;
            }
            _ => {}
        }
        if told.len() == 2 {
            stage.job_event(job(1), cancelled()).await;
        }
    }
    let events: Vec<&str> = told.iter().map(|message| message["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["connected", "progress", "cancelled", "stream_ended"]);
    assert_eq!((&told[1]["position"], &told[1]["summary"]["matches_found"]), (&12.into(), &3.into()));
    assert_eq!(told[2]["position"], 13);
}

#[tokio::test]
async fn a_websocket_that_its_reader_closes_ends_in_good_order() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let address = stage.serve().await;
    let (mut socket, _) = connect_async(format!("ws://{address}/jobs/{}/matching/ws", job(1))).await.unwrap();
    socket.close(None).await.unwrap();
    let mut closed = false;
    while let Some(frame) = tokio::time::timeout(SOON, socket.next()).await.unwrap() {
        closed |= frame.unwrap().is_close();
    }
    assert!(closed);
}

#[tokio::test]
async fn a_websocket_is_refused_to_a_page_of_another_site_and_for_what_is_not_there() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.get(&format!("/jobs/{}/matching/summary", job(1))).await;
    let address = stage.serve().await;
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
