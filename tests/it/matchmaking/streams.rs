//! The stream of a queue entry, followed over connections that break off.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::games::GameService;
use super::{Player, QUEUE, id};
use crate::support::load::Dice;
use crate::support::reader::{Reader, Told};
use crate::support::server::Server;
use crate::support::setting;

/// What an update says, without what is of the connection.
fn plain(told: &Told) -> (String, Option<u64>, Value) {
    let mut data = told.data.clone();
    for member in ["connection_id", "update_count"] {
        data.as_object_mut().unwrap().remove(member);
    }
    (told.event.clone(), told.id, data)
}

fn changes(told: &[Told]) -> Vec<(String, Option<u64>, Value)> {
    told.iter().filter(|told| told.id.is_some()).map(plain).collect()
}

fn path(entry: &str) -> String {
    format!("{QUEUE}/{entry}/stream")
}

/// Follows an entry to its end over one connection.
async fn follow(server: &Server, entry: &str) -> Vec<Told> {
    Reader::open(server, &path(entry), Some(0)).await.unwrap().rest().await
}

/// Follows an entry to its end over connections that break off after a few updates.
async fn follow_in_pieces(server: &Server, entry: &str, mut dice: Dice) -> Vec<Told> {
    let (mut all, mut last) = (Vec::new(), Some(0));
    loop {
        let mut reader = match Reader::open(server, &path(entry), last).await {
            Ok(reader) => reader,
            // It broke off between the last change and the end of the stream.
            Err(status) => {
                assert_eq!(status, 204);
                return all;
            }
        };
        for _ in 0..=dice.below(4) {
            let Some(told) = reader.next().await else { return all };
            last = told.id.or(last);
            all.push(told);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_anywhere_tells_exactly_what_one_does_that_never_breaks_off() {
    let seed = setting("MATCHBOOK_TEST_SEED", 7);
    let (service, _begun) = GameService::start(seed, 40).await;
    let server = Server::start(&[&format!("--game-service-url={}", service.url)]).await;
    let players = (0..setting("MATCHBOOK_TEST_STREAMS", 4)).map(async |n| {
        let (status, joined) = Player::new(&server, format!("player-{n}")).join(None).await;
        assert_eq!(status, 201, "{joined}");
        let entry = id(&joined);
        let dice = |salt| Dice(seed ^ (n * 1_000 + salt));
        let (uncut, one, other) = tokio::join!(
            follow(&server, &entry),
            follow_in_pieces(&server, &entry, dice(1)),
            follow_in_pieces(&server, &entry, dice(2)),
        );
        let all = changes(&uncut);
        assert_eq!(changes(&one), all);
        assert_eq!(changes(&other), all);
        let (end, position, data) = all.last().unwrap();
        assert_eq!((end.as_str(), data["opponent_id"].is_string()), ("matched", true), "{data}");
        assert_eq!(data["game_id"], json!(service.games()[data["match_id"].as_str().unwrap()]));
        assert_eq!(uncut.last().unwrap().event, "stream_ended");
        assert_eq!(Reader::open(&server, &path(&entry), *position).await.err(), Some(204));
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
async fn a_reader_goes_on_after_the_server_was_killed_and_is_told_of_the_challenge_that_took_the_player_along()
 {
    let mut server = Server::start(&[]).await;
    let (ann, bob) = (Player::new(&server, "ann"), Player::new(&server, "bob"));
    let (_, joined) = ann.join(None).await;
    let entry = id(&joined);
    let mut reader = Reader::open(&server, &path(&entry), None).await.unwrap();
    assert_eq!(reader.next().await.unwrap().event, "connected");
    let searching = reader.next().await.unwrap();
    assert_eq!((searching.event.as_str(), &searching.data["pool_keys"]), ("searching", &json!(["blitz"])));
    server.kill();
    server.restart().await;
    let mut reader = Reader::open(&server, &path(&entry), searching.id).await.unwrap();
    let challenge = json!({"opponent_id": "ann", "pool_key": "rapid"});
    let (status, made) = bob.call(Method::POST, "/v1/matchmaking/challenges", None, Some(&challenge)).await;
    assert_eq!(status, 201, "{made}");
    let made = made["challenge_id"].as_str().unwrap();
    let accept = format!("/v1/matchmaking/challenges/{made}/accept");
    assert_eq!(ann.call(Method::POST, &accept, None, None).await.0, 200);
    let told = changes(&reader.rest().await);
    let events: Vec<&str> = told.iter().map(|(event, ..)| event.as_str()).collect();
    assert_eq!(events, ["placing", "matched"]);
    let matched = &told[1].2;
    assert_eq!((&matched["challenge_id"], &matched["opponent_id"]), (&json!(made), &json!("bob")));
    assert_eq!(matched["pool_key"], "rapid");
    // Both lists, the match and the entry tell the same afterwards.
    let shown = format!("/v1/matchmaking/matches/{}", matched["match_id"].as_str().unwrap());
    let position = told[1].1.unwrap().to_string();
    let headers = [("X-Min-Position", position.as_str()), ("X-User", "ann")];
    let shown = server.send(Method::GET, &shown, &headers, None).await.expect(200);
    assert_eq!((&shown["status"], &shown["challenge_id"]), (&json!("playing"), &json!(made)));
    let matches = server.send(Method::GET, "/v1/matchmaking/matches", &headers, None).await.expect(200);
    assert_eq!(matches["items"], json!([shown]));
    let stranger = [("X-User", "carol")];
    server.send(Method::GET, &path(&entry), &stranger, None).await.problem(404);
}
