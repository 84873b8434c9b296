//! Challenges on the real program, with services beside it that fail, and connections that race.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::outside::{Mood, Services};
use crate::support::server::{Answer, Server};
use crate::support::until;

const CHALLENGES: &str = "/v1/matchmaking/challenges";
const CONNECTIONS: usize = 32;

impl Server {
    async fn as_player(&self, user: &str, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("x-user", user)], Some(body.to_string())).await
    }

    /// The path of a challenge of `user` to `opponent`.
    async fn challenged(&self, user: &str, opponent: &str) -> String {
        let body = json!({"opponent_id": opponent, "pool_key": "blitz", "message": "a rematch?"});
        let made = self.as_player(user, CHALLENGES, &body).await;
        let location = made.headers["location"].to_str().unwrap().to_owned();
        made.expect(201);
        location
    }

    async fn accept(&self, user: &str, challenge: &str) -> Answer {
        self.as_player(user, &format!("{challenge}/accept"), &json!({})).await
    }

    /// So many acceptances at once, each over a connection of its own.
    async fn accept_at_once(&self, user: &str, challenge: &str, key: Option<&str>) -> Vec<Answer> {
        let url = format!("{}{challenge}/accept", self.url);
        let accepting = (0..CONNECTIONS).map(|_| async {
            let request = reqwest::Client::new().post(&url).header("x-user", user);
            let request =
                key.into_iter().fold(request, |request, key| request.header("Idempotency-Key", key));
            let answer = request.send().await.unwrap();
            let (status, headers) = (answer.status(), answer.headers().clone());
            Answer { status, headers, text: answer.text().await.unwrap() }
        });
        futures_util::future::join_all(accepting).await
    }

    /// How often events of this type are in the log.
    async fn recorded(&self, event_type: &str) -> usize {
        let path = format!("/audit/events?type={event_type}&limit=500");
        self.get(&path).await.expect(200)["items"].as_array().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_connections_that_accept_one_challenge_one_gets_its_game_and_the_others_are_told() {
    let services = Services::start().await;
    let server = Server::start(&[&format!("--game-service-url={}", services.url)]).await;
    let challenge = server.challenged("ann", "bob").await;
    let answers = server.accept_at_once("bob", &challenge, None).await;
    let accepted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(accepted, 1, "{answers:?}");
    answers.iter().filter(|answer| answer.status != 200).for_each(|answer| drop(answer.problem(409)));
    assert_eq!((services.games(), server.recorded("MatchConfirmed").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_under_one_key_is_one_game_and_one_answer_over_many_connections_and_a_restart() {
    let services = Services::start().await;
    let mut server = Server::start(&[&format!("--game-service-url={}", services.url)]).await;
    let challenge = server.challenged("ann", "bob").await;
    let answers = server.accept_at_once("bob", &challenge, Some("k")).await;
    let first = answers[0].json();
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json() == first), "{answers:?}");
    server.kill();
    server.restart().await;
    let answers = server.accept_at_once("bob", &challenge, Some("k")).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json() == first), "{answers:?}");
    assert_eq!((services.games(), services.asked()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_whose_game_service_is_down_is_pending_still_and_accepted_later() {
    let services = Services::start().await;
    let mut server = Server::start(&[&format!("--game-service-url={}", services.url)]).await;
    let challenge = server.challenged("ann", "bob").await;
    services.turn(Mood::Failing);
    let refused = server.accept("bob", &challenge).await;
    refused.problem(503);
    assert_eq!(refused.headers["retry-after"], "1");
    server.kill();
    server.restart().await;
    let shown = server.send(Method::GET, &challenge, &[("x-user", "bob")], None).await.expect(200);
    assert_eq!((&shown["status"], &shown["message"]), (&json!("pending"), &json!("a rematch?")));
    services.turn(Mood::Well);
    let accepted = server.accept("bob", &challenge).await.expect(200);
    assert!(accepted["game_id"].as_str().unwrap().starts_with("game-"), "{accepted}");
    assert_eq!(services.games(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_in_whose_midst_the_server_dies_is_brought_to_its_end_by_the_next_one() {
    let services = Services::start().await;
    let mut server = Server::start(&[&format!("--game-service-url={}", services.url)]).await;
    let challenge = server.challenged("ann", "bob").await;
    services.turn(Mood::Silent);
    let request = reqwest::Client::new().post(format!("{}{challenge}/accept", server.url));
    let accepting = tokio::spawn(request.header("x-user", "bob").send());
    until("the game is asked for", async || services.asked() > 0).await;
    server.kill();
    assert!(accepting.await.unwrap().is_err(), "nobody has answered");
    services.turn(Mood::Well);
    server.restart().await;
    until("the match is recorded", async || server.recorded("MatchConfirmed").await == 1).await;
    let refused = server.accept("bob", &challenge).await.problem(409);
    assert!(refused["detail"].as_str().unwrap().contains("accepted already"), "{refused}");
    assert_eq!((services.games(), server.recorded("PlayerEngaged").await), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rating_service_is_asked_and_where_it_fails_or_is_silent_a_join_gets_through_and_that_is_counted() {
    let services = Services::start().await;
    let url = format!("--rating-service-url={}", services.url);
    let server = Server::start(&[&url, "--rating-service-timeout=100ms"]).await;
    for (user, mood, rating, source) in [
        ("ann", Mood::Well, 1800, "rating_service"),
        ("bob", Mood::Failing, 1500, "default"),
        ("eve", Mood::Silent, 1500, "default"),
    ] {
        services.turn(mood);
        let body = json!({"pool_key": format!("pool of {user}")});
        let joined = server.as_player(user, "/v1/matchmaking/queue", &body).await.expect(201);
        let pool = &joined["pools"][0];
        assert_eq!((&pool["rating"], &pool["rating_source"]), (&json!(rating), &json!(source)), "{user}");
    }
    let metrics = server.get("/metrics").await.text;
    for counted in ["{outcome=\"known\"} 1", "{outcome=\"failed\"} 2"] {
        let line = format!("matchbook_rating_calls_total{counted}");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    let breakers = server.get("/internal/retries").await.expect(200)["breakers"].clone();
    let ours = breakers.as_array().unwrap().iter().find(|breaker| breaker["service"] == "rating_service");
    assert_eq!(ours.unwrap()["state"], "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_address_is_none_is_told_at_the_start_and_not_shown() {
    for flag in ["--game-service-url", "--rating-service-url"] {
        let folder = tempfile::tempdir().unwrap();
        let data = format!("--data={}", folder.path().display());
        let address = format!("{flag}=https://ann:secret@games.example");
        let program = crate::support::server::program();
        let refused = std::process::Command::new(program)
            .args(["serve", "--listen=127.0.0.1:0", &data, &address])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(
            said.contains(flag) && said.contains("http://host:port") && !said.contains("secret"),
            "{said}"
        );
    }
}
