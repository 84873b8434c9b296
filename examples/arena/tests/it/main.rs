//! Tests of the game server over HTTP: games, faults, and reports to a fake Matchbook.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod faults;
mod results;

use std::sync::Arc;
use std::time::Duration;

use matchbook_arena::arena::{Arena, GameRules};
use matchbook_arena::report::Reporter;
use matchbook_arena::service;
use matchbook_arena::strength::Strengths;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

/// A generous timeout.
const TIMEOUT: Duration = Duration::from_secs(300);

struct RunningArena {
    arena: Arc<Arena>,
    url: String,
    http: Client,
}

impl RunningArena {
    async fn start(length: Duration, reporter: Option<Reporter>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let rules = GameRules { strengths: Strengths::new(1), length, aborted_share: 0.0 };
        let arena = Arc::new(Arena::new(rules, reporter));
        tokio::spawn(service::serve(Arc::clone(&arena), listener));
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self { arena, url, http: Client::new() }
    }

    /// The status and the body; none if the connection is closed.
    async fn create_game(&self, match_id: Uuid) -> Option<(u16, Value)> {
        let answer =
            self.http.post(format!("{}/games", self.url)).json(&game_request(match_id)).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, serde_json::from_slice(&answer.bytes().await.ok()?).unwrap_or_default()))
    }

    async fn inject(&self, fault: Value) -> u16 {
        let answer = self.http.post(format!("{}/faults", self.url)).json(&fault).send().await.unwrap();
        answer.status().as_u16()
    }

    async fn clear_faults(&self) {
        self.http.delete(format!("{}/faults", self.url)).send().await.unwrap().error_for_status().unwrap();
    }
}

fn game_request(match_id: Uuid) -> Value {
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
