//! A game service in the test's own process that fails at a configurable rate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Json};
use poem::{EndpointExt, Route, handler, post};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::load::SeededRng;

/// A running service. It ends with the test.
#[derive(Clone)]
pub(super) struct GameService {
    pub(super) url: String,
    state: Arc<Mutex<State>>,
    /// Sends the id of each match for which a game was created.
    started: mpsc::UnboundedSender<String>,
}

struct State {
    rng: SeededRng,
    failing_percent: u64,
    /// The game ids by match id.
    games: BTreeMap<String, String>,
    request_count: usize,
}

#[handler]
async fn create_game(Json(request): Json<Value>, service: Data<&GameService>) -> (StatusCode, Json<Value>) {
    let id = request["match_id"].as_str().unwrap().to_owned();
    let (delay, game) = service.create(&id);
    tokio::time::sleep(delay).await;
    match game {
        Some(game) => (StatusCode::CREATED, Json(json!({"game_id": game}))),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": "a planned failure"}))),
    }
}

impl GameService {
    /// Starts a service with a failure rate. The receiver gets the id of each match when its game is created.
    pub(super) async fn start(seed: u64, failing_percent: u64) -> (Self, mpsc::UnboundedReceiver<String>) {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        let (started, matches) = mpsc::unbounded_channel();
        let state = State { rng: SeededRng(seed), failing_percent, games: BTreeMap::new(), request_count: 0 };
        let url = format!("http://{address}");
        let service = Self { url, state: Arc::new(Mutex::new(state)), started };
        let route = Route::new().at("/games", post(create_game)).data(service.clone());
        tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(route));
        (service, matches)
    }

    pub(super) fn set_failure_percent(&self, percent: u64) {
        self.state.lock().unwrap().failing_percent = percent;
    }

    pub(super) fn request_count(&self) -> usize {
        self.state.lock().unwrap().request_count
    }

    /// The game ids by match id.
    pub(super) fn games(&self) -> BTreeMap<String, String> {
        self.state.lock().unwrap().games.clone()
    }

    /// The delay of the response, and the game, which stays the same for repeated requests of a match.
    fn create(&self, id: &str) -> (Duration, Option<String>) {
        let mut state = self.state.lock().unwrap();
        state.request_count += 1;
        let delay = Duration::from_micros(state.rng.below(5_000));
        if state.rng.below(100) < state.failing_percent {
            return (delay, None);
        }
        let number = state.games.len();
        let game = state.games.entry(id.to_owned()).or_insert_with(|| format!("game-{number}")).clone();
        // The test may have ended and dropped the receiver.
        let _ = self.started.send(id.to_owned());
        (delay, Some(game))
    }
}
