//! A game service and a rating service in one, served by the test's own process, which can be made to fail.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{EndpointExt, Request, Response, endpoint};
use serde_json::{Value, json};

/// The current behaviour of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultMode {
    Healthy,
    /// They respond with an error.
    Failing,
    /// They never respond.
    Silent,
}

#[derive(Debug)]
struct State {
    mode: FaultMode,
    request_count: usize,
    /// The ids of the matches that have a game.
    games: BTreeSet<String>,
}

/// A game service, and a rating service that rates every player 1800.
#[derive(Clone, Debug)]
pub(crate) struct ExternalServices {
    state: Arc<Mutex<State>>,
    pub(crate) url: String,
}

impl ExternalServices {
    pub(crate) async fn start() -> Self {
        let state = State { mode: FaultMode::Healthy, request_count: 0, games: BTreeSet::new() };
        let state = Arc::new(Mutex::new(state));
        let served = state.clone();
        let endpoint = endpoint::make(move |request| respond(served.clone(), request));
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(endpoint.map_to_response()));
        Self { state, url: format!("http://{address}") }
    }

    pub(crate) fn set_mode(&self, mode: FaultMode) {
        self.state.lock().unwrap().mode = mode;
    }

    /// The number of requests so far.
    pub(crate) fn request_count(&self) -> usize {
        self.state.lock().unwrap().request_count
    }

    /// The number of matches that have a game.
    pub(crate) fn game_count(&self) -> usize {
        self.state.lock().unwrap().games.len()
    }
}

async fn respond(state: Arc<Mutex<State>>, mut request: Request) -> Response {
    let body: Value = request.take_body().into_json().await.unwrap_or_default();
    let mode = {
        let mut state = state.lock().unwrap();
        state.request_count += 1;
        state.mode
    };
    match mode {
        FaultMode::Failing => StatusCode::SERVICE_UNAVAILABLE.into(),
        FaultMode::Silent => std::future::pending().await,
        FaultMode::Healthy if request.uri().path() == "/games" => {
            let id = body["match_id"].as_str().unwrap().to_owned();
            let made = json!({"game_id": format!("game-{id}")});
            state.lock().unwrap().games.insert(id);
            Response::builder().status(StatusCode::CREATED).body(made.to_string())
        }
        FaultMode::Healthy => json!({"rating": 1800}).to_string().into(),
    }
}
