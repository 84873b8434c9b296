//! Matchmaking as it is: a real server, a real game server that fails as it is told, and players who do as they like. What
//! became of it is read from the events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arena::{Arena, Players, address};
use crate::support::server::Server;
use crate::support::until;

/// How many results lie between one kind of fault and the next, so that the breaker does not take them for one.
const RESULTS_BETWEEN: usize = 8;
/// The service is left alone for half a minute, and for twice as long if a probe fails on a busy machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(240);

/// Every event of the log, in order.
fn events(server: &Server) -> Vec<Value> {
    let export = server.cli(&["events", "export"]);
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    String::from_utf8(export.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn kind(event: &Value) -> &str {
    event["type"].as_str().unwrap()
}

fn data<'a>(event: &'a Value, member: &str) -> &'a str {
    event["data"][member].as_str().unwrap_or_else(|| panic!("no {member} in {event}"))
}

/// What a player waits for or plays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Doing {
    #[default]
    Nothing,
    Waiting(String),
    In(String),
}

/// Goes through the events, and fails where somebody is in two places.
#[derive(Default)]
struct Ledger {
    players: BTreeMap<String, Doing>,
    /// The games of matches that were confirmed.
    confirmed: BTreeMap<String, String>,
    open: BTreeSet<String>,
    abandoned: usize,
    /// How many players each result has moved.
    rated: BTreeMap<String, usize>,
    results: BTreeMap<String, String>,
}

impl Ledger {
    fn of(events: &[Value]) -> Self {
        let mut ledger = Self::default();
        for event in events {
            match event["stream"].as_str().unwrap().split_once('-').map(|(category, _)| category) {
                Some("player") => ledger.player(event),
                Some("match_record") => ledger.match_record(event),
                _ => {}
            }
        }
        ledger
    }

    fn player(&mut self, event: &Value) {
        let doing = self.players.entry(data(event, "subject_id").to_owned()).or_default();
        let next = match kind(event) {
            "PlayerQueued" => {
                assert_eq!(*doing, Doing::Nothing, "{event}");
                Doing::Waiting(data(event, "entry_id").to_owned())
            }
            "QueueEntryCancelled" | "QueueEntryExpired" => {
                assert_eq!(*doing, Doing::Waiting(data(event, "entry_id").to_owned()), "{event}");
                Doing::Nothing
            }
            "QueueEntryMatched" => {
                assert_eq!(*doing, Doing::Waiting(data(event, "entry_id").to_owned()), "{event}");
                Doing::In(data(event, "match_id").to_owned())
            }
            "QueueEntryReleased" => {
                assert_eq!(*doing, Doing::In(data(event, "match_id").to_owned()), "{event}");
                Doing::Waiting(data(event, "entry_id").to_owned())
            }
            "PlayerEngaged" => {
                let left = event["data"].get("left_entry").and_then(Value::as_str);
                assert_eq!(
                    *doing,
                    left.map_or(Doing::Nothing, |entry| Doing::Waiting(entry.to_owned())),
                    "{event}"
                );
                Doing::In(data(event, "match_id").to_owned())
            }
            "PlayerFreed" => {
                assert_eq!(*doing, Doing::In(data(event, "match_id").to_owned()), "{event}");
                Doing::Nothing
            }
            "PlayerRated" => {
                *self.rated.entry(data(event, "match_id").to_owned()).or_default() += 1;
                return;
            }
            _ => return,
        };
        *doing = next;
    }

    fn match_record(&mut self, event: &Value) {
        let id = event["stream"].as_str().unwrap().trim_start_matches("match_record-").to_owned();
        match kind(event) {
            "MatchProposed" => assert!(self.open.insert(id), "{event}"),
            "MatchConfirmed" => {
                assert!(self.open.contains(&id), "{event}");
                assert_eq!(self.confirmed.insert(id, data(event, "game_id").to_owned()), None, "{event}");
            }
            "MatchAbandoned" => {
                assert!(self.open.remove(&id) && !self.confirmed.contains_key(&id), "{event}");
                self.abandoned += 1;
            }
            "MatchResultReported" => {
                assert!(self.open.remove(&id) && self.confirmed.contains_key(&id), "{event}");
                self.results.insert(id, data(event, "result").to_owned());
            }
            other => panic!("{other} in a run of seconds: {event}"),
        }
    }
}

/// Waits until so many more games were played, and Matchbook has their results.
async fn more_results(arena: &Arena, count: usize) {
    let reported = async || {
        let games = arena.list("games").await;
        games.iter().filter(|game| game["state"] == "reported").count()
    };
    let before = reported().await;
    until("more games are played", async || reported().await >= before + count).await;
}

async fn breaker(server: &Server) -> String {
    let report = server.get("/internal/retries").await.expect(200);
    let all = report["breakers"].as_array().unwrap();
    let ours = all.iter().find(|breaker| breaker["service"] == "game_service").unwrap();
    ours["state"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn players_meet_and_are_rated_and_whatever_fails_nobody_is_lost_or_in_two_games() {
    let games = address();
    let url = format!("--game-service-url=http://{games}");
    let mut server = Server::start(&[&url]).await;
    let mut arena = Arena::start(&server, &games, &["--game-seconds", "0.3", "--seed", "5"]).await;
    let arguments = ["--players", "40", "--rate", "3000", "--pools", "blitz,rapid", "--seed", "5"];
    let mut players = Players::start(&server, &arguments);
    more_results(&arena, RESULTS_BETWEEN).await;

    for kind in ["refuse", "error", "hang", "slow", "lost_answer", "garbage", "down"] {
        arena.fail(&json!({"kind": kind, "times": 3})).await;
        let has_struck = async || arena.list("faults").await.is_empty();
        until(&format!("{kind} has struck"), has_struck).await;
        more_results(&arena, RESULTS_BETWEEN).await;
    }
    server.kill();
    server.restart().await;
    more_results(&arena, RESULTS_BETWEEN).await;

    arena.fail(&json!({"kind": "down"})).await;
    until("the game service is left alone", async || breaker(&server).await == "open").await;
    arena.recover().await;
    let is_closed = async {
        while breaker(&server).await != "closed" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(CLOSED_WITHIN, is_closed).await.expect("the game service is asked again");
    more_results(&arena, RESULTS_BETWEEN).await;

    assert_eq!(players.stop(), Some(0), "the players leave in order");
    until("nobody waits", async || {
        let summary = server.get("/internal/queues/summary").await.expect(200);
        (&summary["waiting"], &summary["placing"]) == (&json!(0), &json!(0))
    })
    .await;
    let played = arena.list("games").await;
    assert_eq!(arena.stop(), Some(0), "the game server ends its games");
    until("no match is open", async || Ledger::of(&events(&server)).open.is_empty()).await;

    let events = events(&server);
    let ledger = Ledger::of(&events);
    assert!(ledger.players.len() > 20, "most of them played");
    let still: Vec<_> = ledger.players.iter().filter(|(_, doing)| **doing != Doing::Nothing).collect();
    assert_eq!(still, [], "nobody is left behind");
    assert!(ledger.abandoned > 0, "the faults were met");
    assert_eq!(ledger.confirmed.len(), ledger.results.len());
    for (id, game) in &ledger.confirmed {
        let made: Vec<&Value> = played.iter().filter(|made| made["match_id"] == json!(id)).collect();
        assert_eq!(made.iter().map(|made| &made["game_id"]).collect::<Vec<_>>(), [&json!(game)], "{id}");
    }
    for (id, result) in &ledger.results {
        let moved = if result == "aborted" { 0 } else { 2 };
        assert_eq!(ledger.rated.get(id).copied().unwrap_or_default(), moved, "{id}: {result}");
    }
    let challenged = events.iter().filter(|event| kind(event) == "PlayerEngaged").count();
    assert!(challenged > 0, "some matches are challenges");
}
