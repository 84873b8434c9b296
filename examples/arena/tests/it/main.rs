//! The game server over real HTTP: games, faults, and results on their way to a Matchbook that is played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod faults;
mod results;

use std::sync::Arc;
use std::time::Duration;

use matchbook_arena::arena::{Arena, Play};
use matchbook_arena::report::Reporter;
use matchbook_arena::service;
use matchbook_arena::strength::Strengths;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

/// A generous bound on what takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(300);

struct Running {
    arena: Arc<Arena>,
    url: String,
    http: Client,
}

impl Running {
    async fn start(length: Duration, reporter: Option<Reporter>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let play = Play { strengths: Strengths::new(1), length, aborted_share: 0.0 };
        let arena = Arc::new(Arena::new(play, reporter));
        tokio::spawn(service::serve(Arc::clone(&arena), listener));
        Self { arena, url, http: Client::new() }
    }

    /// The status and the body; none if the connection breaks.
    async fn order(&self, match_id: Uuid) -> Option<(u16, Value)> {
        let answer =
            self.http.post(format!("{}/games", self.url)).json(&order(match_id)).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, serde_json::from_slice(&answer.bytes().await.ok()?).unwrap_or_default()))
    }

    async fn fail(&self, fault: Value) -> u16 {
        let answer = self.http.post(format!("{}/faults", self.url)).json(&fault).send().await.unwrap();
        answer.status().as_u16()
    }

    async fn recover(&self) {
        self.http.delete(format!("{}/faults", self.url)).send().await.unwrap().error_for_status().unwrap();
    }
}

fn order(match_id: Uuid) -> Value {
    json!({
        "match_id": match_id,
        "tenant": "acme",
        "pool_key": "blitz",
        "players": [
            {"user_id": "ada", "rating": 1500, "side": "second"},
            {"user_id": "ben", "rating": 1520, "side": "first"},
        ],
    })
}
