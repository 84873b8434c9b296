//! Matchmaking end to end: a real server, a game server with injected faults, and players that act at random. The outcome is
//! checked by the events in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arena::{Arena, Players, free_address};
use crate::support::server::Server;
use crate::support::wait_until;

/// The number of results between two kinds of fault, so that they do not open the circuit breaker together.
const RESULTS_BETWEEN: usize = 8;
/// The circuit breaker is open for 30 s, and for twice as long after a failed probe on a busy machine.
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

/// The state of a player.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum PlayerState {
    #[default]
    Idle,
    Queued(String),
    InMatch(String),
}

/// The fold of all events. Applying an event that puts a player into two activities panics.
#[derive(Default)]
struct MatchHistory {
    players: BTreeMap<String, PlayerState>,
    /// The game of each confirmed match.
    confirmed: BTreeMap<String, String>,
    open: BTreeSet<String>,
    abandoned: usize,
    /// The number of players whose rating each match has changed.
    rated: BTreeMap<String, usize>,
    results: BTreeMap<String, String>,
}

impl MatchHistory {
    fn of(events: &[Value]) -> Self {
        let mut history = Self::default();
        for event in events {
            match event["stream"].as_str().unwrap().split_once('-').map(|(category, _)| category) {
                Some("player") => history.player(event),
                Some("match_record") => history.game_match(event),
                _ => {}
            }
        }
        history
    }

    fn player(&mut self, event: &Value) {
        let state = self.players.entry(data(event, "subject_id").to_owned()).or_default();
        let next = match kind(event) {
            "PlayerQueued" => {
                assert_eq!(*state, PlayerState::Idle, "{event}");
                PlayerState::Queued(data(event, "entry_id").to_owned())
            }
            "QueueEntryCancelled" | "QueueEntryExpired" => {
                assert_eq!(*state, PlayerState::Queued(data(event, "entry_id").to_owned()), "{event}");
                PlayerState::Idle
            }
            "QueueEntryMatched" => {
                assert_eq!(*state, PlayerState::Queued(data(event, "entry_id").to_owned()), "{event}");
                PlayerState::InMatch(data(event, "match_id").to_owned())
            }
            "QueueEntryReleased" => {
                assert_eq!(*state, PlayerState::InMatch(data(event, "match_id").to_owned()), "{event}");
                PlayerState::Queued(data(event, "entry_id").to_owned())
            }
            "PlayerReserved" => {
                let left = event["data"].get("left_entry").and_then(Value::as_str);
                assert_eq!(
                    *state,
                    left.map_or(PlayerState::Idle, |entry| PlayerState::Queued(entry.to_owned())),
                    "{event}"
                );
                PlayerState::InMatch(data(event, "match_id").to_owned())
            }
            "PlayerReleased" => {
                assert_eq!(*state, PlayerState::InMatch(data(event, "match_id").to_owned()), "{event}");
                PlayerState::Idle
            }
            "PlayerRated" => {
                *self.rated.entry(data(event, "match_id").to_owned()).or_default() += 1;
                return;
            }
            _ => return,
        };
        *state = next;
    }

    fn game_match(&mut self, event: &Value) {
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

/// Waits until the results of `count` more games are reported to Matchbook.
async fn more_results(arena: &Arena, count: usize) {
    let reported = async || {
        let games = arena.list("games").await;
        games.iter().filter(|game| game["state"] == "reported").count()
    };
    let before = reported().await;
    wait_until("more results are reported", async || reported().await >= before + count).await;
}

async fn breaker(server: &Server) -> String {
    let report = server.get("/internal/retries").await.expect(200);
    let all = report["breakers"].as_array().unwrap();
    let breaker = all.iter().find(|breaker| breaker["service"] == "game_service").unwrap();
    breaker["state"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_leave_no_player_lost_or_in_two_games() {
    let games = free_address();
    let url = format!("--game-service-url=http://{games}");
    let mut server = Server::start(&[&url]).await;
    let mut arena = Arena::start(&server, &games, &["--game-seconds", "0.3", "--seed", "5"]).await;
    let arguments = ["--players", "40", "--rate", "3000", "--pools", "blitz,rapid", "--seed", "5"];
    let mut players = Players::start(&server, &arguments);
    more_results(&arena, RESULTS_BETWEEN).await;

    for kind in ["refuse", "error", "hang", "slow", "lost_answer", "garbage", "down"] {
        arena.inject_fault(&json!({"kind": kind, "times": 3})).await;
        let has_occurred = async || arena.list("faults").await.is_empty();
        wait_until(&format!("{kind} has occurred"), has_occurred).await;
        more_results(&arena, RESULTS_BETWEEN).await;
    }
    server.kill();
    server.restart().await;
    more_results(&arena, RESULTS_BETWEEN).await;

    arena.inject_fault(&json!({"kind": "down"})).await;
    wait_until("the circuit breaker is open", async || breaker(&server).await == "open").await;
    arena.clear_faults().await;
    let is_closed = async {
        while breaker(&server).await != "closed" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(CLOSED_WITHIN, is_closed).await.expect("the circuit breaker closes in time");
    more_results(&arena, RESULTS_BETWEEN).await;

    assert_eq!(players.stop(), Some(0), "the players leave cleanly");
    wait_until("no player is queued", async || {
        let summary = server.get("/internal/queues/summary").await.expect(200);
        (&summary["waiting"], &summary["placing"]) == (&json!(0), &json!(0))
    })
    .await;
    let played = arena.list("games").await;
    assert_eq!(arena.stop(), Some(0), "the game server ends its games");
    wait_until("no match is open", async || MatchHistory::of(&events(&server)).open.is_empty()).await;

    let events = events(&server);
    let history = MatchHistory::of(&events);
    assert!(history.players.len() > 20, "most of them played");
    let active: Vec<_> = history.players.iter().filter(|(_, state)| **state != PlayerState::Idle).collect();
    assert_eq!(active, [], "no player is left in an activity");
    assert!(history.abandoned > 0, "the faults had an effect");
    assert_eq!(history.confirmed.len(), history.results.len());
    for (id, game) in &history.confirmed {
        let games: Vec<&Value> = played.iter().filter(|game| game["match_id"] == json!(id)).collect();
        assert_eq!(games.iter().map(|game| &game["game_id"]).collect::<Vec<_>>(), [&json!(game)], "{id}");
    }
    for (id, result) in &history.results {
        let expected = if result == "aborted" { 0 } else { 2 };
        assert_eq!(history.rated.get(id).copied().unwrap_or_default(), expected, "{id}: {result}");
    }
    let challenge_matches = events.iter().filter(|event| kind(event) == "PlayerReserved").count();
    assert!(challenge_matches > 0, "some matches are challenges");
}
