//! Matchmaking on the program itself: clients that race over real connections, and a game service that fails.

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

use crate::support::answers::exported;
use crate::support::load::Dice;
use crate::support::server::Server;
use crate::support::{setting, until};
use games::GameService;
use history::{History, Place};

const QUEUE: &str = "/v1/matchmaking/queue";
const CONNECTIONS: usize = 32;

/// A user on a connection of their own.
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
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
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

/// The same call from all connections at once.
async fn at_once<T: Send + 'static>(server: &Server, user: &str, call: impl AsyncFn(Player) -> T) -> Vec<T> {
    let barrier = Barrier::new(CONNECTIONS);
    let calls = (0..CONNECTIONS).map(|_| async {
        let player = Player::new(server, user);
        // The connection is there before the race begins.
        player.call(Method::GET, "/health", None, None).await;
        barrier.wait().await;
        call(player).await
    });
    join_all(calls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_connections_that_join_as_one_user_one_gets_in_and_all_others_are_told_its_entry() {
    let server = Server::start(&[]).await;
    for user in ["ann", "bob", "carl"] {
        // Each in a pool of their own, so that nobody meets anybody.
        let body = json!({"pool_key": format!("{user}s")});
        let join = async |player: Player| player.call(Method::POST, QUEUE, None, Some(&body)).await;
        let answers = at_once(&server, user, join).await;
        let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 201);
        assert_eq!((made.len(), refused.len()), (1, CONNECTIONS - 1), "{answers:?}");
        for (status, problem) in refused {
            assert_eq!((*status, id(&problem["existing"])), (409, id(&made[0].1)));
        }
    }
    assert_eq!(History::of(&exported(&server)).queued.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_sent_from_32_connections_under_one_key_is_one_entry_and_one_answer() {
    let server = Server::start(&[]).await;
    let partner = Player::new(&server, "bob");
    partner.join(None).await;
    let answers = at_once(&server, "ann", async |player: Player| player.join(Some("k")).await).await;
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 201), "{answers:?}");
    assert_eq!(History::of(&exported(&server)).queued.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_connections_that_cancel_an_entry_all_succeed_or_a_match_was_faster_for_all() {
    let server = Server::start(&[]).await;
    for round in 0..setting("MATCHBOOK_TEST_RACES", 10) {
        let user = format!("ann-{round}");
        let (_, joined) = Player::new(&server, &user).join(None).await;
        let rival = Player::new(&server, format!("bob-{round}"));
        let cancel = async |player: Player| player.leave(&id(&joined)).await.0;
        let (statuses, (_, rivals)) = tokio::join!(at_once(&server, &user, cancel), rival.join(None));
        let won = statuses.iter().filter(|status| **status == 200).count();
        assert!(won == 0 || won == CONNECTIONS, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
        // Whoever is left waits for nobody, so that the next round begins with an empty line.
        let (left, _) = rival.leave(&id(&rivals)).await;
        assert_eq!(left, if won == 0 { 409 } else { 200 });
    }
    let history = History::of(&exported(&server));
    assert!(history.places().all(|place| !matches!(place, Place::Searching(_))), "{history:?}");
}

/// What one user's connections know together.
#[derive(Default)]
struct Known {
    latest: Mutex<Option<String>>,
    made: Mutex<BTreeSet<String>>,
    cancelled: Mutex<BTreeSet<String>>,
}

impl Known {
    fn is_at(&self, entry: String) {
        *self.latest.lock().unwrap() = Some(entry);
    }
}

/// One connection of a user who cannot decide.
async fn dither(player: Player, mut dice: Dice, known: Arc<Known>, rounds: u64, name: usize) {
    for round in 0..rounds {
        let latest = known.latest.lock().unwrap().clone();
        match latest {
            Some(entry) if dice.below(3) == 0 => {
                let (status, answer) = player.leave(&entry).await;
                // One that ended long ago is forgotten.
                assert!([200, 404, 409].contains(&status), "{status}: {answer}");
                if status == 200 {
                    known.cancelled.lock().unwrap().insert(entry);
                }
            }
            _ => {
                let key = format!("{name}-{round}");
                let (status, answer) = player.join(Some(&key)).await;
                match status {
                    201 => {
                        known.made.lock().unwrap().insert(id(&answer));
                        known.is_at(id(&answer));
                        assert_eq!(player.join(Some(&key)).await, (201, answer), "sent again");
                    }
                    // What was in the way may have ended before it could be shown.
                    409 if answer["existing"].is_object() => known.is_at(id(&answer["existing"])),
                    409 => {}
                    _ => panic!("{status}: {answer}"),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.below(4))).await;
    }
}

/// Newcomers who wait until they are matched, or leave.
async fn come_and_go(player: Player, mut dice: Dice, stop: Arc<AtomicBool>, name: usize) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let player = Player { user: format!("guest-{name}-{number}"), ..player.clone() };
        let (status, joined) = player.join(None).await;
        assert_eq!(status, 201, "{joined}");
        tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
        let (status, answer) = player.leave(&id(&joined)).await;
        assert!([200, 409].contains(&status), "{status}: {answer}");
    }
}

/// Ends each game that has begun, as a game server would.
async fn referee(server: Player, mut begun: mpsc::UnboundedReceiver<String>) {
    while let Some(game) = begun.recv().await {
        let server = server.clone();
        tokio::spawn(async move {
            let (path, result) = (format!("/internal/matches/{game}/result"), json!({"result": "aborted"}));
            // The server ends with the test, whatever is on its way then.
            while let Ok((status, answer)) = server.try_call(Method::POST, &path, None, Some(&result)).await {
                match status {
                    200 => return,
                    // It is not confirmed yet.
                    409 => tokio::time::sleep(Duration::from_millis(2)).await,
                    _ => panic!("{status}: {answer}"),
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_joins_and_leaves_on_32_connections_while_others_come_is_never_in_two_matches_nor_lost() {
    let seed = setting("MATCHBOOK_TEST_SEED", 5);
    let (service, begun) = GameService::start(seed, 20).await;
    let server = Server::start(&[&format!("--game-service-url={}", service.url)]).await;
    tokio::spawn(referee(Player::new(&server, "referee"), begun));
    let (known, stop) = (Arc::new(Known::default()), Arc::new(AtomicBool::new(false)));
    let rounds = setting("MATCHBOOK_TEST_RACES", 10) * 4;
    let guests = (0..8).map(|n| {
        let player = Player::new(&server, format!("guest-{n}"));
        tokio::spawn(come_and_go(player, Dice(seed ^ (1_000 + n as u64)), Arc::clone(&stop), n))
    });
    let guests: Vec<_> = guests.collect();
    let ditherers = (0..CONNECTIONS).map(|n| {
        let player = Player::new(&server, "ann");
        tokio::spawn(dither(player, Dice(seed ^ n as u64), Arc::clone(&known), rounds, n))
    });
    for ditherer in ditherers.collect::<Vec<_>>() {
        ditherer.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for guest in guests {
        guest.await.unwrap();
    }
    service.fails(0);
    let history = async || History::of(&exported(&server));
    // Two are left at most: those who met last do not meet again so soon.
    let at_rest = async || {
        let history = history().await;
        let waiting = history.places().filter(|place| matches!(place, Place::Searching(_))).count();
        waiting <= 2 && !history.places().any(|place| matches!(place, Place::Taken(..)))
    };
    until("every match has ended, and all have met who can", at_rest).await;
    let history = history().await;
    let (made, cancelled) = (known.made.lock().unwrap().clone(), known.cancelled.lock().unwrap().clone());
    assert!(made.is_subset(&history.queued) && cancelled.is_subset(&history.cancelled));
    // What a match was confirmed with is the game that the service made for it.
    let games = service.games();
    assert!(history.games.iter().all(|(of, game)| games.get(of) == Some(game)), "{history:?}");
    let figures =
        [made.len(), cancelled.len(), history.games.len(), history.abandoned.len(), history.released];
    eprintln!("entries, cancelled, games, abandoned, released: {figures:?}");
    assert!(figures.iter().all(|figure| *figure > 0), "too little happened to prove anything: {figures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_game_service_that_is_down_is_left_alone_and_shown_and_its_players_wait_on() {
    let (service, _begun) = GameService::start(1, 100).await;
    let server = Server::start(&[&format!("--game-service-url={}", service.url)]).await;
    for n in 0..16 {
        Player::new(&server, format!("player-{n}")).join(None).await;
    }
    let breaker = async || {
        let report = server.get("/internal/retries").await.expect(200);
        let breakers = report["breakers"].as_array().unwrap().clone();
        breakers.into_iter().find(|breaker| breaker["service"] == "game_service").unwrap()
    };
    until("it is left alone", async || breaker().await["state"] == "open").await;
    let asked = service.asked();
    let searching = async || {
        let history = History::of(&exported(&server));
        history.places().filter(|place| matches!(place, Place::Searching(_))).count() == 16
    };
    until("everybody searches again", searching).await;
    service.fails(0);
    assert_eq!((service.asked(), breaker().await["openings"].clone()), (asked, json!(1)));
    let status = server.get("/status").await.expect(200);
    let parts = status["parts"].as_array().unwrap();
    let part = parts.iter().find(|part| part["name"] == "matchmaking").unwrap();
    let detail = part["detail"].as_str().unwrap();
    assert!(detail.contains("16 searching") && detail.contains("left alone until"), "{detail}");
}
