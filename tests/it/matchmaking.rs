//! Matchmaking on the real program: clients that race over real connections, and a game service that fails.

mod games;
mod history;
mod streams;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::sync::{Barrier, mpsc};

use crate::support::load::SeededRng;
use crate::support::server::Server;
use crate::support::server_state::exported_events;
use crate::support::{setting, wait_until};
use games::GameService;
use history::{History, PlayerState};

const QUEUE: &str = "/v1/matchmaking/queue";
const CONNECTIONS: usize = 32;

/// A user with a separate connection.
#[derive(Clone)]
struct Player {
    http: Client,
    url: String,
    user: String,
}

impl Player {
    fn new(server: &Server, user: impl Into<String>) -> Self {
        Self { http: Client::new(), url: server.url.clone(), user: user.into() }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> (u16, Value) {
        self.try_call(method, path, key, body).await.unwrap()
    }

    async fn try_call(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> reqwest::Result<(u16, Value)> {
        let mut request =
            self.http.request(method, format!("{}{path}", self.url)).header("x-user", &self.user);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    async fn join(&self, key: Option<&str>) -> (u16, Value) {
        self.call(Method::POST, QUEUE, key, Some(&json!({"pool_key": "blitz"}))).await
    }

    async fn leave(&self, entry: &str) -> (u16, Value) {
        self.call(Method::DELETE, &format!("{QUEUE}/{entry}"), None, None).await
    }
}

fn id(thing: &Value) -> String {
    thing["entry_id"].as_str().unwrap_or_else(|| panic!("no entry: {thing}")).to_owned()
}

/// Makes the same call on all connections at once.
async fn concurrently<T: Send + 'static>(
    server: &Server,
    user: &str,
    call: impl AsyncFn(Player) -> T,
) -> Vec<T> {
    let barrier = Barrier::new(CONNECTIONS);
    let calls = (0..CONNECTIONS).map(|_| async {
        let player = Player::new(server, user);
        // Opens the connection before the race.
        player.call(Method::GET, "/health", None, None).await;
        barrier.wait().await;
        call(player).await
    });
    join_all(calls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_joins_of_one_user_create_one_entry() {
    let server = Server::start(&[]).await;
    for user in ["ann", "bob", "carl"] {
        // Separate pools, so that no pairing happens.
        let body = json!({"pool_key": format!("{user}s")});
        let join = async |player: Player| player.call(Method::POST, QUEUE, None, Some(&body)).await;
        let responses = concurrently(&server, user, join).await;
        let (created, refused): (Vec<_>, Vec<_>) = responses.iter().partition(|(status, _)| *status == 201);
        assert_eq!((created.len(), refused.len()), (1, CONNECTIONS - 1), "{responses:?}");
        for (status, problem) in refused {
            assert_eq!((*status, id(&problem["existing"])), (409, id(&created[0].1)));
        }
    }
    assert_eq!(History::of(&exported_events(&server)).queued.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_joins_with_one_key_create_one_entry() {
    let server = Server::start(&[]).await;
    let partner = Player::new(&server, "bob");
    partner.join(None).await;
    let responses = concurrently(&server, "ann", async |player: Player| player.join(Some("k")).await).await;
    assert!(responses.iter().all(|response| *response == responses[0] && response.0 == 201), "{responses:?}");
    assert_eq!(History::of(&exported_events(&server)).queued.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_cancels_all_succeed_or_all_lose_to_a_match() {
    let server = Server::start(&[]).await;
    for round in 0..setting("MATCHBOOK_TEST_RACES", 10) {
        let user = format!("ann-{round}");
        let (_, joined) = Player::new(&server, &user).join(None).await;
        let rival = Player::new(&server, format!("bob-{round}"));
        let cancel = async |player: Player| player.leave(&id(&joined)).await.0;
        let (statuses, (_, rivals)) = tokio::join!(concurrently(&server, &user, cancel), rival.join(None));
        let won = statuses.iter().filter(|status| **status == 200).count();
        assert!(won == 0 || won == CONNECTIONS, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
        // Empties the pool for the next round.
        let (left, _) = rival.leave(&id(&rivals)).await;
        assert_eq!(left, if won == 0 { 409 } else { 200 });
    }
    let history = History::of(&exported_events(&server));
    assert!(history.player_states().all(|state| !matches!(state, PlayerState::Searching(_))), "{history:?}");
}

/// The state that the connections of one user share.
#[derive(Default)]
struct SharedState {
    latest: Mutex<Option<String>>,
    created: Mutex<BTreeSet<String>>,
    cancelled: Mutex<BTreeSet<String>>,
}

impl SharedState {
    fn set_latest(&self, entry: String) {
        *self.latest.lock().unwrap() = Some(entry);
    }
}

/// One connection of a user that joins and leaves at random.
async fn join_and_leave(
    player: Player,
    mut rng: SeededRng,
    shared: Arc<SharedState>,
    rounds: u64,
    name: usize,
) {
    for round in 0..rounds {
        let latest = shared.latest.lock().unwrap().clone();
        match latest {
            Some(entry) if rng.below(3) == 0 => {
                let (status, body) = player.leave(&entry).await;
                // An entry that ended long ago is not found.
                assert!([200, 404, 409].contains(&status), "{status}: {body}");
                if status == 200 {
                    shared.cancelled.lock().unwrap().insert(entry);
                }
            }
            _ => {
                let key = format!("{name}-{round}");
                let (status, body) = player.join(Some(&key)).await;
                match status {
                    201 => {
                        shared.created.lock().unwrap().insert(id(&body));
                        shared.set_latest(id(&body));
                        assert_eq!(player.join(Some(&key)).await, (201, body), "resent");
                    }
                    // The conflicting activity may have ended before the response was made.
                    409 if body["existing"].is_object() => shared.set_latest(id(&body["existing"])),
                    409 => {}
                    _ => panic!("{status}: {body}"),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.below(4))).await;
    }
}

/// Guests that join, and leave if they are not matched soon.
async fn join_as_guests(player: Player, mut rng: SeededRng, stop: Arc<AtomicBool>, name: usize) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let player = Player { user: format!("guest-{name}-{number}"), ..player.clone() };
        let (status, joined) = player.join(None).await;
        assert_eq!(status, 201, "{joined}");
        tokio::time::sleep(Duration::from_millis(rng.below(60))).await;
        let (status, body) = player.leave(&id(&joined)).await;
        assert!([200, 409].contains(&status), "{status}: {body}");
    }
}

/// Reports a result for each game that has started, as a game server does.
async fn report_results(server: Player, mut started: mpsc::UnboundedReceiver<String>) {
    while let Some(game) = started.recv().await {
        let server = server.clone();
        tokio::spawn(async move {
            let (path, result) = (format!("/internal/matches/{game}/result"), json!({"result": "aborted"}));
            // Requests fail once the server ends with the test.
            while let Ok((status, body)) = server.try_call(Method::POST, &path, None, Some(&result)).await {
                match status {
                    200 => return,
                    // The match is not confirmed yet.
                    409 => tokio::time::sleep(Duration::from_millis(2)).await,
                    _ => panic!("{status}: {body}"),
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_player_is_never_in_two_matches_nor_lost() {
    let seed = setting("MATCHBOOK_TEST_SEED", 5);
    let (service, started) = GameService::start(seed, 20).await;
    let server = Server::start(&[&format!("--game-service-url={}", service.url)]).await;
    tokio::spawn(report_results(Player::new(&server, "referee"), started));
    let (shared, stop) = (Arc::new(SharedState::default()), Arc::new(AtomicBool::new(false)));
    let rounds = setting("MATCHBOOK_TEST_RACES", 10) * 4;
    let guests = (0..8).map(|n| {
        let player = Player::new(&server, format!("guest-{n}"));
        tokio::spawn(join_as_guests(player, SeededRng(seed ^ (1_000 + n as u64)), Arc::clone(&stop), n))
    });
    let guests: Vec<_> = guests.collect();
    let joiners = (0..CONNECTIONS).map(|n| {
        let player = Player::new(&server, "ann");
        tokio::spawn(join_and_leave(player, SeededRng(seed ^ n as u64), Arc::clone(&shared), rounds, n))
    });
    for joiner in joiners.collect::<Vec<_>>() {
        joiner.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for guest in guests {
        guest.await.unwrap();
    }
    service.set_failure_percent(0);
    let history = async || History::of(&exported_events(&server));
    // Up to two players stay in the queue, because of the cooldown between recent opponents.
    let is_settled = async || {
        let history = history().await;
        let queued =
            history.player_states().filter(|state| matches!(state, PlayerState::Searching(_))).count();
        queued <= 2 && !history.player_states().any(|state| matches!(state, PlayerState::InMatch(..)))
    };
    wait_until("every match has ended and every possible pairing was made", is_settled).await;
    let history = history().await;
    let (created, cancelled) =
        (shared.created.lock().unwrap().clone(), shared.cancelled.lock().unwrap().clone());
    assert!(created.is_subset(&history.queued) && cancelled.is_subset(&history.cancelled));
    // Each match was confirmed with the game that the service created for it.
    let games = service.games();
    assert!(history.games.iter().all(|(id, game)| games.get(id) == Some(game)), "{history:?}");
    let figures =
        [created.len(), cancelled.len(), history.games.len(), history.abandoned.len(), history.released];
    eprintln!("entries, cancelled, games, abandoned, released: {figures:?}");
    assert!(figures.iter().all(|figure| *figure > 0), "too little happened to prove anything: {figures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_circuit_breaker_is_shown_and_players_stay_queued() {
    let (service, _started) = GameService::start(1, 100).await;
    let server = Server::start(&[&format!("--game-service-url={}", service.url)]).await;
    for n in 0..16 {
        Player::new(&server, format!("player-{n}")).join(None).await;
    }
    let breaker = async || {
        let report = server.get("/internal/retries").await.expect(200);
        let breakers = report["breakers"].as_array().unwrap().clone();
        breakers.into_iter().find(|breaker| breaker["service"] == "game_service").unwrap()
    };
    wait_until("the circuit breaker is open", async || breaker().await["state"] == "open").await;
    let request_count = service.request_count();
    let searching = async || {
        let history = History::of(&exported_events(&server));
        history.player_states().filter(|state| matches!(state, PlayerState::Searching(_))).count() == 16
    };
    wait_until("all players search again", searching).await;
    service.set_failure_percent(0);
    assert_eq!((service.request_count(), breaker().await["openings"].clone()), (request_count, json!(1)));
    let status = server.get("/status").await.expect(200);
    let components = status["components"].as_array().unwrap();
    let component = components.iter().find(|component| component["name"] == "matchmaking").unwrap();
    let detail = component["detail"].as_str().unwrap();
    assert!(detail.contains("16 searching") && detail.contains("is open (tenants: 1)"), "{detail}");
}
