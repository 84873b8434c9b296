//! A game service in the test's own process, which fails as often as it is told and reports results by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::{Data, Json};
use poem::{EndpointExt, Route, handler, post};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::load::Dice;

/// A running service. It ends with the test.
#[derive(Clone)]
pub(super) struct GameService {
    pub(super) url: String,
    state: Arc<Mutex<State>>,
    /// The matches whose games have begun.
    begun: mpsc::UnboundedSender<String>,
}

struct State {
    dice: Dice,
    failing_percent: u64,
    /// By match.
    games: BTreeMap<String, String>,
    asked: usize,
}

#[handler]
async fn make(Json(order): Json<Value>, service: Data<&GameService>) -> (StatusCode, Json<Value>) {
    let id = order["match_id"].as_str().unwrap().to_owned();
    let (pause, answer) = service.answer(&id);
    tokio::time::sleep(pause).await;
    match answer {
        Some(game) => (StatusCode::CREATED, Json(json!({"game_id": game}))),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": "told to fail"}))),
    }
}

impl GameService {
    /// One that fails so often; and the matches for which it has made a game, as it makes them.
    pub(super) async fn start(seed: u64, failing_percent: u64) -> (Self, mpsc::UnboundedReceiver<String>) {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        let (begun, matches) = mpsc::unbounded_channel();
        let state = State { dice: Dice(seed), failing_percent, games: BTreeMap::new(), asked: 0 };
        let url = format!("http://{address}");
        let service = Self { url, state: Arc::new(Mutex::new(state)), begun };
        let route = Route::new().at("/games", post(make)).data(service.clone());
        tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(route));
        (service, matches)
    }

    pub(super) fn fails(&self, percent: u64) {
        self.state.lock().unwrap().failing_percent = percent;
    }

    pub(super) fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    /// The games by their matches.
    pub(super) fn games(&self) -> BTreeMap<String, String> {
        self.state.lock().unwrap().games.clone()
    }

    /// How long it takes, and which game it gives: of a match for which it was asked before, the same.
    fn answer(&self, id: &str) -> (Duration, Option<String>) {
        let mut state = self.state.lock().unwrap();
        state.asked += 1;
        let pause = Duration::from_micros(state.dice.below(5_000));
        if state.dice.below(100) < state.failing_percent {
            return (pause, None);
        }
        let number = state.games.len();
        let game = state.games.entry(id.to_owned()).or_insert_with(|| format!("game-{number}")).clone();
        // The test may have ended.
        let _ = self.begun.send(id.to_owned());
        (pause, Some(game))
    }
}
