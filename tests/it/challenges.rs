//! Challenges on the real program, with failing external services and racing connections.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::external_services::{ExternalServices, FaultMode};
use crate::support::server::{Response, Server};
use crate::support::wait_until;

const CHALLENGES: &str = "/v1/matchmaking/challenges";
const CONNECTIONS: usize = 32;

impl Server {
    async fn as_player(&self, user: &str, path: &str, body: &Value) -> Response {
        self.send(Method::POST, path, &[("x-user", user)], Some(body.to_string())).await
    }

    /// Creates a challenge from `user` to `opponent`, and returns its path.
    async fn create_challenge(&self, user: &str, opponent: &str) -> String {
        let body = json!({"opponent_id": opponent, "pool_key": "blitz", "message": "a rematch?"});
        let created = self.as_player(user, CHALLENGES, &body).await;
        let location = created.headers["location"].to_str().unwrap().to_owned();
        created.expect(201);
        location
    }

    async fn accept(&self, user: &str, challenge: &str) -> Response {
        self.as_player(user, &format!("{challenge}/accept"), &json!({})).await
    }

    /// Accepts a challenge on all connections at once.
    async fn accept_concurrently(&self, user: &str, challenge: &str, key: Option<&str>) -> Vec<Response> {
        let url = format!("{}{challenge}/accept", self.url);
        let accepting = (0..CONNECTIONS).map(|_| async {
            let request = reqwest::Client::new().post(&url).header("x-user", user);
            let request =
                key.into_iter().fold(request, |request, key| request.header("Idempotency-Key", key));
            let response = request.send().await.unwrap();
            let (status, headers) = (response.status(), response.headers().clone());
            Response { status, headers, text: response.text().await.unwrap() }
        });
        futures_util::future::join_all(accepting).await
    }

    /// The number of events of a type in the log.
    async fn event_count(&self, event_type: &str) -> usize {
        let path = format!("/audit/events?type={event_type}&limit=500");
        self.get(&path).await.expect(200)["items"].as_array().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_accepts_create_one_game_and_refuse_the_others() {
    let services = ExternalServices::start().await;
    let server = Server::start(&[&format!("--game-service-url={}", services.url)]).await;
    let challenge = server.create_challenge("ann", "bob").await;
    let responses = server.accept_concurrently("bob", &challenge, None).await;
    let accepted = responses.iter().filter(|response| response.status == 200).count();
    assert_eq!(accepted, 1, "{responses:?}");
    responses
        .iter()
        .filter(|response| response.status != 200)
        .for_each(|response| drop(response.problem(409)));
    assert_eq!((services.game_count(), server.event_count("MatchConfirmed").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_with_one_key_give_one_game_across_a_restart() {
    let services = ExternalServices::start().await;
    let mut server = Server::start(&[&format!("--game-service-url={}", services.url)]).await;
    let challenge = server.create_challenge("ann", "bob").await;
    let responses = server.accept_concurrently("bob", &challenge, Some("k")).await;
    let first = responses[0].json();
    assert!(
        responses.iter().all(|response| response.status == 200 && response.json() == first),
        "{responses:?}"
    );
    server.kill();
    server.restart().await;
    let responses = server.accept_concurrently("bob", &challenge, Some("k")).await;
    assert!(
        responses.iter().all(|response| response.status == 200 && response.json() == first),
        "{responses:?}"
    );
    assert_eq!((services.game_count(), services.request_count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn challenge_stays_pending_while_the_game_service_is_down() {
    let services = ExternalServices::start().await;
    let mut server = Server::start(&[&format!("--game-service-url={}", services.url)]).await;
    let challenge = server.create_challenge("ann", "bob").await;
    services.set_mode(FaultMode::Failing);
    let refused = server.accept("bob", &challenge).await;
    refused.problem(503);
    assert_eq!(refused.headers["retry-after"], "1");
    server.kill();
    server.restart().await;
    let shown = server.send(Method::GET, &challenge, &[("x-user", "bob")], None).await.expect(200);
    assert_eq!((&shown["status"], &shown["message"]), (&json!("pending"), &json!("a rematch?")));
    services.set_mode(FaultMode::Healthy);
    let accepted = server.accept("bob", &challenge).await.expect(200);
    assert!(accepted["game_id"].as_str().unwrap().starts_with("game-"), "{accepted}");
    assert_eq!(services.game_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn accept_interrupted_by_a_kill_is_completed_after_restart() {
    let services = ExternalServices::start().await;
    let mut server = Server::start(&[&format!("--game-service-url={}", services.url)]).await;
    let challenge = server.create_challenge("ann", "bob").await;
    services.set_mode(FaultMode::Silent);
    let request = reqwest::Client::new().post(format!("{}{challenge}/accept", server.url));
    let accepting = tokio::spawn(request.header("x-user", "bob").send());
    wait_until("the game is requested", async || services.request_count() > 0).await;
    server.kill();
    assert!(accepting.await.unwrap().is_err(), "no response was sent");
    services.set_mode(FaultMode::Healthy);
    server.restart().await;
    wait_until("the match is recorded", async || server.event_count("MatchConfirmed").await == 1).await;
    let refused = server.accept("bob", &challenge).await.problem(409);
    assert!(refused["detail"].as_str().unwrap().contains("already accepted"), "{refused}");
    assert_eq!((services.game_count(), server.event_count("PlayerReserved").await), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn rating_service_failure_falls_back_to_the_default() {
    let services = ExternalServices::start().await;
    let url = format!("--rating-service-url={}", services.url);
    let server = Server::start(&[&url, "--rating-service-timeout=100ms"]).await;
    for (user, mode, rating, source) in [
        ("ann", FaultMode::Healthy, 1800, "rating_service"),
        ("bob", FaultMode::Failing, 1500, "default"),
        ("eve", FaultMode::Silent, 1500, "default"),
    ] {
        services.set_mode(mode);
        let body = json!({"pool_key": format!("pool of {user}")});
        let joined = server.as_player(user, "/v1/matchmaking/queue", &body).await.expect(201);
        let pool = &joined["pools"][0];
        assert_eq!((&pool["rating"], &pool["rating_source"]), (&json!(rating), &json!(source)), "{user}");
    }
    let metrics = server.get("/metrics").await.text;
    for outcome in ["{outcome=\"known\"} 1", "{outcome=\"failed\"} 2"] {
        let line = format!("matchbook_rating_calls_total{outcome}");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    let breakers = server.get("/internal/retries").await.expect(200)["breakers"].clone();
    let breaker = breakers.as_array().unwrap().iter().find(|breaker| breaker["service"] == "rating_service");
    assert_eq!(breaker.unwrap()["state"], "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_service_url_is_refused_without_showing_secrets() {
    for flag in ["--game-service-url", "--rating-service-url"] {
        let folder = tempfile::tempdir().unwrap();
        let data = format!("--data={}", folder.path().display());
        let address = format!("{flag}=ftp://ann:secret@games.example");
        let program = crate::support::server::program();
        let refused = std::process::Command::new(program)
            .args(["serve", "--listen=127.0.0.1:0", &data, &address])
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(
            message.contains(flag) && message.contains("http://host:port") && !message.contains("secret"),
            "{message}"
        );
    }
}
