//! The external services, as the test process serves them: a game service and a rating service in one, with controlled
//! faults.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use commands::ExternalServices;
use commands::matchmaking::live_game::{self, LiveGame};
use commands::matchmaking::rating_service::{self, RatingService};
use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{EndpointExt, Request, Response, Server, endpoint};
use serde_json::{Value, json};
use tokio::sync::watch;

/// The behaviour of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultMode {
    None,
    /// They report a failure.
    Failing,
    /// They refuse the request.
    Refusing,
    /// They know no player.
    UnknownPlayers,
    /// They never respond.
    Silent,
    /// They respond once the mode changes.
    Paused,
}

#[derive(Debug)]
struct ServiceState {
    mode: watch::Sender<FaultMode>,
    calls: usize,
    /// The requested games by match. The same match gets the same game.
    games: BTreeMap<String, Value>,
    /// The ratings by player.
    ratings: BTreeMap<String, f64>,
}

/// A game service and a rating service.
#[derive(Clone, Debug)]
pub(crate) struct FakeServices {
    state: Arc<Mutex<ServiceState>>,
    url: String,
}

impl FakeServices {
    pub(crate) async fn start() -> Self {
        let state = ServiceState {
            mode: watch::Sender::new(FaultMode::None),
            calls: 0,
            games: BTreeMap::new(),
            ratings: BTreeMap::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let served = state.clone();
        let endpoint = endpoint::make(move |request| response(served.clone(), request));
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        tokio::spawn(Server::new_with_acceptor(acceptor).run(endpoint.map_to_response()));
        Self { state, url: format!("http://{address}") }
    }

    /// The clients of both, with a timeout that is long enough for a busy machine.
    pub(crate) fn external_services(&self) -> ExternalServices {
        self.clients(Duration::from_secs(60))
    }

    /// The clients of both, with this timeout.
    pub(crate) fn clients(&self, timeout: Duration) -> ExternalServices {
        let games = LiveGame::new(&live_game::Settings { url: self.url.clone(), timeout }).unwrap();
        let ratings = RatingService::new(&rating_service::Settings { url: self.url.clone(), timeout });
        ExternalServices {
            games: Some(games),
            ratings: Some(ratings.unwrap()),
            ..ExternalServices::default()
        }
    }

    pub(crate) fn set_mode(&self, mode: FaultMode) {
        self.state.lock().unwrap().mode.send_replace(mode);
    }

    pub(crate) fn rate(&self, user: &str, rating: f64) {
        self.state.lock().unwrap().ratings.insert(user.to_owned(), rating);
    }

    /// Waits until they have been called so often.
    pub(crate) async fn until_called(&self, times: usize) {
        while self.calls() < times {
            tokio::task::yield_now().await;
        }
    }

    /// The number of calls.
    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    /// The bodies of the requests for the created games.
    pub(crate) fn games(&self) -> Vec<Value> {
        self.state.lock().unwrap().games.values().cloned().collect()
    }
}

async fn response(state: Arc<Mutex<ServiceState>>, mut request: Request) -> Response {
    let body: Value = request.take_body().into_json().await.unwrap_or_default();
    let mut mode = {
        let mut state = state.lock().unwrap();
        state.calls += 1;
        state.mode.subscribe()
    };
    let mode = *mode.wait_for(|mode| *mode != FaultMode::Paused).await.unwrap();
    match mode {
        FaultMode::Failing => StatusCode::SERVICE_UNAVAILABLE.into(),
        FaultMode::Refusing => StatusCode::UNPROCESSABLE_ENTITY.into(),
        FaultMode::UnknownPlayers => StatusCode::NOT_FOUND.into(),
        FaultMode::Silent => std::future::pending().await,
        FaultMode::None | FaultMode::Paused => {
            respond_normally(&mut state.lock().unwrap(), request.uri().path(), body)
        }
    }
}

fn respond_normally(state: &mut ServiceState, path: &str, body: Value) -> Response {
    if path == "/games" {
        let id = body["match_id"].as_str().unwrap().to_owned();
        let created = json!({"game_id": format!("game-{id}")});
        state.games.entry(id).or_insert(body);
        return Response::builder().status(StatusCode::CREATED).body(created.to_string());
    }
    let user = path.strip_prefix("/ratings/default/").unwrap();
    match state.ratings.get(user) {
        Some(rating) => json!({"rating": rating}).to_string().into(),
        None => StatusCode::NOT_FOUND.into(),
    }
}
