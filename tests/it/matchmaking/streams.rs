//! The stream of a queue entry, read over connections that are interrupted.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::games::GameService;
use super::{Player, QUEUE, id};
use crate::support::load::SeededRng;
use crate::support::server::Server;
use crate::support::setting;
use crate::support::sse_client::{SseClient, SseEvent};

/// The parts of an event that do not depend on the connection.
fn without_connection(received: &SseEvent) -> (String, Option<u64>, Value) {
    let mut data = received.data.clone();
    for member in ["connection_id", "update_count"] {
        data.as_object_mut().unwrap().remove(member);
    }
    (received.event.clone(), received.id, data)
}

fn changes(received: &[SseEvent]) -> Vec<(String, Option<u64>, Value)> {
    received.iter().filter(|received| received.id.is_some()).map(without_connection).collect()
}

fn path(entry: &str) -> String {
    format!("{QUEUE}/{entry}/stream")
}

/// Reads an entry's stream to its end over one connection.
async fn read_uninterrupted(server: &Server, entry: &str) -> Vec<SseEvent> {
    SseClient::open(server, &path(entry), Some(0)).await.unwrap().read_to_end().await
}

/// Reads an entry's stream to its end over connections that are closed after a few events.
async fn read_in_pieces(server: &Server, entry: &str, mut rng: SeededRng) -> Vec<SseEvent> {
    let (mut all, mut last) = (Vec::new(), Some(0));
    loop {
        let mut subscriber = match SseClient::open(server, &path(entry), last).await {
            Ok(subscriber) => subscriber,
            // The last connection was closed between the last change and the end of the stream.
            Err(status) => {
                assert_eq!(status, 204);
                return all;
            }
        };
        for _ in 0..=rng.below(4) {
            let Some(received) = subscriber.next().await else { return all };
            last = received.id.or(last);
            all.push(received);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resumed_stream_equals_uninterrupted_stream() {
    let seed = setting("MATCHBOOK_TEST_SEED", 7);
    let (service, _started) = GameService::start(seed, 40).await;
    let server = Server::start(&[&format!("--game-service-url={}", service.url)]).await;
    let players = (0..setting("MATCHBOOK_TEST_STREAMS", 4)).map(async |n| {
        let (status, joined) = Player::new(&server, format!("player-{n}")).join(None).await;
        assert_eq!(status, 201, "{joined}");
        let entry = id(&joined);
        let rng = |salt| SeededRng(seed ^ (n * 1_000 + salt));
        let (uninterrupted, first, second) = tokio::join!(
            read_uninterrupted(&server, &entry),
            read_in_pieces(&server, &entry, rng(1)),
            read_in_pieces(&server, &entry, rng(2)),
        );
        let all = changes(&uninterrupted);
        assert_eq!(changes(&first), all);
        assert_eq!(changes(&second), all);
        let (end, position, data) = all.last().unwrap();
        assert_eq!((end.as_str(), data["opponent_id"].is_string()), ("matched", true), "{data}");
        assert_eq!(data["game_id"], json!(service.games()[data["match_id"].as_str().unwrap()]));
        assert_eq!(uninterrupted.last().unwrap().event, "stream_ended");
        assert_eq!(SseClient::open(&server, &path(&entry), *position).await.err(), Some(204));
        all
    });
    let all: Vec<_> = join_all(players).await;
    for changes in &all {
        let positions: Vec<_> = changes.iter().map(|(_, position, _)| *position).collect();
        assert!(positions.is_sorted_by(|one, next| one < next), "{changes:?}");
        let events: Vec<&str> = changes.iter().map(|(event, ..)| event.as_str()).collect();
        let (end, rounds) = events.split_last().unwrap();
        assert!(rounds.chunks(2).all(|round| round == ["searching", "placing"]), "{events:?} {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_resumes_after_kill_and_reports_challenge_match() {
    let mut server = Server::start(&[]).await;
    let (ann, bob) = (Player::new(&server, "ann"), Player::new(&server, "bob"));
    let (_, joined) = ann.join(None).await;
    let entry = id(&joined);
    let mut subscriber = SseClient::open(&server, &path(&entry), None).await.unwrap();
    assert_eq!(subscriber.next().await.unwrap().event, "connected");
    let searching = subscriber.next().await.unwrap();
    assert_eq!((searching.event.as_str(), &searching.data["pool_keys"]), ("searching", &json!(["blitz"])));
    server.kill();
    server.restart().await;
    let mut subscriber = SseClient::open(&server, &path(&entry), searching.id).await.unwrap();
    let challenge = json!({"opponent_id": "ann", "pool_key": "rapid"});
    let (status, created) =
        bob.call(Method::POST, "/v1/matchmaking/challenges", None, Some(&challenge)).await;
    assert_eq!(status, 201, "{created}");
    let challenge = created["challenge_id"].as_str().unwrap();
    let accept = format!("/v1/matchmaking/challenges/{challenge}/accept");
    assert_eq!(ann.call(Method::POST, &accept, None, None).await.0, 200);
    let received = changes(&subscriber.read_to_end().await);
    let events: Vec<&str> = received.iter().map(|(event, ..)| event.as_str()).collect();
    assert_eq!(events, ["placing", "matched"]);
    let matched = &received[1].2;
    assert_eq!((&matched["challenge_id"], &matched["opponent_id"]), (&json!(challenge), &json!("bob")));
    assert_eq!(matched["pool_key"], "rapid");
    // The match and the list of matches agree with the stream.
    let shown = format!("/v1/matchmaking/matches/{}", matched["match_id"].as_str().unwrap());
    let position = received[1].1.unwrap().to_string();
    let headers = [("X-Min-Position", position.as_str()), ("X-User", "ann")];
    let shown = server.send(Method::GET, &shown, &headers, None).await.expect(200);
    assert_eq!((&shown["status"], &shown["challenge_id"]), (&json!("playing"), &json!(challenge)));
    let matches = server.send(Method::GET, "/v1/matchmaking/matches", &headers, None).await.expect(200);
    assert_eq!(matches["items"], json!([shown]));
    let stranger = [("X-User", "carol")];
    server.send(Method::GET, &path(&entry), &stranger, None).await.problem(404);
}
