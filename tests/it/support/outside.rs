//! The services that are not ours, as this process serves them: a game service and a rating service in one, which can be told
//! to fail.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use poem::http::StatusCode;
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{EndpointExt, Request, Response, endpoint};
use serde_json::{Value, json};

/// How the services are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// They answer that they failed.
    Failing,
    /// They never answer.
    Silent,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    asked: usize,
    /// The matches that have one.
    games: BTreeSet<String>,
}

/// A game service, and a rating service that gives everybody 1800 points.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    state: Arc<Mutex<State>>,
    pub(crate) url: String,
}

impl Services {
    pub(crate) async fn start() -> Self {
        let state = State { mood: Mood::Well, asked: 0, games: BTreeSet::new() };
        let state = Arc::new(Mutex::new(state));
        let served = state.clone();
        let endpoint = endpoint::make(move |request| answer(served.clone(), request));
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let address = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
        tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(endpoint.map_to_response()));
        Self { state, url: format!("http://{address}") }
    }

    pub(crate) fn turn(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// How often they were asked for anything.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    /// How many matches have a game.
    pub(crate) fn games(&self) -> usize {
        self.state.lock().unwrap().games.len()
    }
}

async fn answer(state: Arc<Mutex<State>>, mut request: Request) -> Response {
    let body: Value = request.take_body().into_json().await.unwrap_or_default();
    let mood = {
        let mut state = state.lock().unwrap();
        state.asked += 1;
        state.mood
    };
    match mood {
        Mood::Failing => StatusCode::SERVICE_UNAVAILABLE.into(),
        Mood::Silent => std::future::pending().await,
        Mood::Well if request.uri().path() == "/games" => {
            let id = body["match_id"].as_str().unwrap().to_owned();
            let made = json!({"game_id": format!("game-{id}")});
            state.lock().unwrap().games.insert(id);
            Response::builder().status(StatusCode::CREATED).body(made.to_string())
        }
        Mood::Well => json!({"rating": 1800}).to_string().into(),
    }
}
