//! The services that are not ours, as this process serves them for a test: a game service and a rating service in one, which
//! can be told to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use commands::Outside;
use commands::client::live_game::{self, LiveGame};
use commands::client::rating_service::{self, RatingService};
use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{EndpointExt, Request, Response, Server, endpoint};
use serde_json::{Value, json};
use tokio::sync::watch;

/// How the services are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// They answer that they failed.
    Failing,
    /// They answer that they will not do this.
    Refusing,
    /// They know nobody.
    Ignorant,
    /// They never answer.
    Silent,
    /// They answer once their mood changes.
    Held,
}

#[derive(Debug)]
struct State {
    mood: watch::Sender<Mood>,
    asked: usize,
    /// By match. The same match makes the same game.
    games: BTreeMap<String, Value>,
    /// By player.
    ratings: BTreeMap<String, f64>,
}

/// A game service and a rating service.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    state: Arc<Mutex<State>>,
    url: String,
}

impl Services {
    pub(crate) async fn start() -> Self {
        let state = State {
            mood: watch::Sender::new(Mood::Well),
            asked: 0,
            games: BTreeMap::new(),
            ratings: BTreeMap::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let served = state.clone();
        let endpoint = endpoint::make(move |request| answer(served.clone(), request));
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        tokio::spawn(Server::new_with_acceptor(acceptor).run(endpoint.map_to_response()));
        Self { state, url: format!("http://{address}") }
    }

    /// The clients of both. An answer is waited for as long as a busy machine may need.
    pub(crate) fn outside(&self) -> Outside {
        self.patient(Duration::from_secs(60))
    }

    /// The clients of both, that wait so long for an answer.
    pub(crate) fn patient(&self, timeout: Duration) -> Outside {
        let games = LiveGame::new(&live_game::Settings { url: self.url.clone(), timeout }).unwrap();
        let ratings = RatingService::new(&rating_service::Settings { url: self.url.clone(), timeout });
        Outside { games: Some(games), ratings: Some(ratings.unwrap()) }
    }

    pub(crate) fn turn(&self, mood: Mood) {
        self.state.lock().unwrap().mood.send_replace(mood);
    }

    pub(crate) fn rate(&self, user: &str, rating: f64) {
        self.state.lock().unwrap().ratings.insert(user.to_owned(), rating);
    }

    /// Waits until they have been asked so often.
    pub(crate) async fn until_asked(&self, times: usize) {
        while self.asked() < times {
            tokio::task::yield_now().await;
        }
    }

    /// How often they were asked for anything.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    /// The games that were made: what each was asked for.
    pub(crate) fn games(&self) -> Vec<Value> {
        self.state.lock().unwrap().games.values().cloned().collect()
    }
}

async fn answer(state: Arc<Mutex<State>>, mut request: Request) -> Response {
    let body: Value = request.take_body().into_json().await.unwrap_or_default();
    let mut mood = {
        let mut state = state.lock().unwrap();
        state.asked += 1;
        state.mood.subscribe()
    };
    let mood = *mood.wait_for(|mood| *mood != Mood::Held).await.unwrap();
    match mood {
        Mood::Failing => StatusCode::SERVICE_UNAVAILABLE.into(),
        Mood::Refusing => StatusCode::UNPROCESSABLE_ENTITY.into(),
        Mood::Ignorant => StatusCode::NOT_FOUND.into(),
        Mood::Silent => std::future::pending().await,
        Mood::Well | Mood::Held => well(&mut state.lock().unwrap(), request.uri().path(), body),
    }
}

fn well(state: &mut State, path: &str, body: Value) -> Response {
    if path == "/games" {
        let id = body["match_id"].as_str().unwrap().to_owned();
        let made = json!({"game_id": format!("game-{id}")});
        state.games.entry(id).or_insert(body);
        return Response::builder().status(StatusCode::CREATED).body(made.to_string());
    }
    let user = path.strip_prefix("/ratings/default/").unwrap();
    match state.ratings.get(user) {
        Some(rating) => json!({"rating": rating}).to_string().into(),
        None => StatusCode::NOT_FOUND.into(),
    }
}
