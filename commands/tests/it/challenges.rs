use std::time::Duration;

use event_schemas::challenge::{ChallengeCreated, ChallengeEvent};
use event_schemas::envelope::Event;
use event_schemas::player::PlayerEvent;
use event_schemas::sealed::SealedField;
use serde_json::{Value, json};
use web::caller::Role;

use crate::external_services::{FakeServices, FaultMode};
use crate::support::{TestApp, TestResponse};

#[cfg(test)]
mod races;

const CHALLENGES: &str = "/v1/matchmaking/challenges";
const NOWHERE: &str = "/v1/matchmaking/challenges/018f0000-0000-7000-8000-000000000001";

fn to(opponent: &str) -> Value {
    json!({"opponent_id": opponent, "pool_key": "blitz"})
}

impl TestApp {
    async fn challenge_as(&self, user: &str, body: &Value) -> TestResponse {
        self.call("POST", CHALLENGES).user(user).body(body).send().await
    }

    /// The path of a challenge of `user` to `opponent`.
    async fn challenged(&self, user: &str, opponent: &str) -> String {
        self.challenge_as(user, &to(opponent)).await.location.expect("the challenge is created")
    }

    async fn answer_as(&self, user: &str, challenge: &str, verb: &str) -> TestResponse {
        self.call("POST", format!("{challenge}/{verb}")).user(user).send().await
    }

    async fn answer_with_key(&self, user: &str, challenge: &str, verb: &str, key: &str) -> TestResponse {
        self.call("POST", format!("{challenge}/{verb}")).user(user).key(key).send().await
    }

    async fn made(&self) -> Vec<ChallengeCreated> {
        let made = |envelope: event_schemas::envelope::Envelope| match envelope.event {
            Event::Challenge(ChallengeEvent::ChallengeCreated(created)) => Some(created),
            _ => None,
        };
        self.events().await.into_iter().filter_map(made).collect()
    }

    /// Checks by the events that no reserved player is reserved for another match. Returns the number of players who
    /// are still reserved.
    async fn reserved_players(&self) -> usize {
        let mut held = std::collections::BTreeMap::new();
        for envelope in self.events().await {
            let Event::Player(event) = envelope.event else { continue };
            let (player, taken) = match event {
                PlayerEvent::PlayerReserved(event) => (event.subject_id, Some(event.match_id)),
                PlayerEvent::QueueEntryMatched(event) => (event.subject_id, Some(event.match_id)),
                PlayerEvent::PlayerReleased(event) => (event.subject_id, None),
                PlayerEvent::QueueEntryReleased(event) => (event.subject_id, None),
                _ => continue,
            };
            let before = match taken {
                Some(taken) => held.insert(player, taken),
                None => held.remove(&player).filter(|_| false),
            };
            assert!(
                before.is_none() || before == taken,
                "{player} is reserved for {taken:?} while in {before:?}"
            );
        }
        held.len()
    }
}

#[tokio::test]
async fn challenge_returns_itself_and_its_location() {
    let app = TestApp::new().await;
    let body = json!({"opponent_id": "bob", "pool_key": "blitz", "message": "a rematch?"});
    let response = app.challenge_as("ann", &body).await;
    assert_eq!(response.status, 201);
    let id = response.body["id"].as_str().unwrap();
    assert_eq!(response.location, Some(format!("{CHALLENGES}/{id}")));
    assert_eq!(
        response.body,
        json!({
            "id": id, "challenge_id": id, "status": "pending", "pool_key": "blitz", "challenger_id": "ann",
            "opponent_id": "bob", "message": "a rematch?", "rating": 1500, "rating_source": "default",
            "created_at": "2026-11-20T10:00:00.000000Z", "expires_at": "2026-11-20T10:05:00.000000Z",
            "position": 1,
        })
    );
}

#[tokio::test]
async fn message_is_sealed_with_the_challengers_key() {
    let app = TestApp::new().await;
    let body = json!({"opponent_id": "bob", "pool_key": "blitz", "message": "you never win"});
    app.challenge_as("ann", &body).await.ok();
    let ChallengeCreated { challenge_id, challenger, challenged, message, .. } = app.made().await.remove(0);
    let message = message.expect("there is a message");
    assert!(!message.as_base64().contains("never"));
    let (tenant, place) = ("default".parse().unwrap(), SealedField::ChallengeMessage(challenge_id));
    let read = app.vault.unseal(&tenant, challenger, place, &message).await.unwrap();
    assert_eq!(read.as_deref(), Some("you never win"));
    assert!(app.vault.unseal(&tenant, challenged, place, &message).await.is_err());
}

#[tokio::test]
async fn malformed_challenge_is_refused_with_its_field() {
    let app = TestApp::new().await;
    for (body, field) in [
        (json!({"opponent_id": "ann", "pool_key": "blitz"}), "opponent_id"),
        (json!({"opponent_id": "", "pool_key": "blitz"}), "opponent_id"),
        (json!({"pool_key": "blitz"}), "opponent_id"),
        (json!({"opponent_id": "bob"}), "pool_key"),
        (json!({"opponent_id": "bob", "pool_key": "blitz", "message": ""}), "message"),
        (json!({"opponent_id": "bob", "pool_key": "blitz", "message": "x".repeat(501)}), "message"),
    ] {
        let response = app.challenge_as("ann", &body).await;
        assert_eq!(response.fields(), [field], "{body}");
        response.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(app.head(), 0);
}

#[tokio::test]
async fn challenges_require_a_player_role() {
    let app = TestApp::with_keys().await;
    for role in [Role::Worker, Role::Auditor] {
        app.call("POST", CHALLENGES).roles("w", role).body(&to("bob")).send().await.refused(403, "FORBIDDEN");
        for verb in ["accept", "decline", "cancel"] {
            let call = app.call("POST", format!("{NOWHERE}/{verb}")).roles("w", role);
            call.send().await.refused(403, "FORBIDDEN");
        }
    }
}

#[tokio::test]
async fn wrong_participant_gets_403_and_stranger_gets_404() {
    let app = TestApp::new().await;
    let challenge = app.challenged("ann", "bob").await;
    for (user, verb) in [("ann", "accept"), ("ann", "decline"), ("bob", "cancel")] {
        app.answer_as(user, &challenge, verb).await.refused(403, "FORBIDDEN");
    }
    for verb in ["accept", "decline", "cancel"] {
        let never = app.answer_as("ann", NOWHERE, verb).await.refused(404, "NOT_FOUND");
        let strangers = app.answer_as("eve", &challenge, verb).await.refused(404, "NOT_FOUND");
        let call = app.call("POST", format!("{challenge}/{verb}")).user("bob").tenant("other");
        let elsewhere = call.send().await.refused(404, "NOT_FOUND");
        assert_eq!((&strangers["detail"], &elsewhere["detail"]), (&never["detail"], &never["detail"]));
        app.answer_as("bob", &format!("{CHALLENGES}/7"), verb).await.refused(404, "NOT_FOUND");
    }
    assert_eq!(app.head(), 1);
}

#[tokio::test]
async fn decline_and_cancel_end_a_challenge() {
    let app = TestApp::new().await;
    for (user, verb, status) in [("bob", "decline", "declined"), ("ann", "cancel", "cancelled")] {
        let challenge = app.challenged("ann", "bob").await;
        let ended = app.answer_as(user, &challenge, verb).await.ok();
        let id = challenge.rsplit('/').next();
        assert_eq!(ended, json!({"id": id, "challenge_id": id, "status": status, "position": app.head()}));
    }
}

#[tokio::test]
async fn ended_challenge_refuses_all_actions() {
    let app = TestApp::new().await;
    for (user, verb) in [("bob", "accept"), ("bob", "decline"), ("ann", "cancel")] {
        let challenge = app.challenged("ann", "bob").await;
        app.answer_as(user, &challenge, verb).await.ok();
        let head = app.head();
        for (user, verb) in [("bob", "accept"), ("bob", "decline"), ("ann", "cancel")] {
            app.answer_as(user, &challenge, verb).await.refused(409, "CONFLICT");
        }
        assert_eq!(app.head(), head, "{verb}");
        app.advance(7_200).await;
        app.until_count("PlayerReleased", if verb == "accept" { 2 } else { 0 }).await;
    }
}

#[tokio::test]
async fn challenge_expires_at_its_instant_without_an_event() {
    let app = TestApp::new().await;
    let (late, early) = (app.challenged("ann", "bob").await, app.challenged("ann", "bob").await);
    // No background process runs any more.
    app.commands.shutdown().await;
    app.clock.advance(Duration::from_micros(299_999_999));
    app.answer_as("bob", &early, "accept").await.ok();
    app.clock.advance(Duration::from_micros(1));
    let head = app.head();
    for (user, verb) in [("bob", "accept"), ("bob", "decline"), ("ann", "cancel")] {
        let refused = app.answer_as(user, &late, verb).await.refused(409, "CONFLICT");
        assert!(refused["detail"].as_str().unwrap().contains("expired"), "{refused}");
    }
    assert_eq!(app.head(), head);
}

#[tokio::test]
async fn unanswered_challenge_expires_automatically() {
    let app = TestApp::new().await;
    app.challenged("ann", "bob").await;
    app.run_ready_tasks().await;
    app.advance(299).await;
    assert_eq!(app.count("ChallengeExpired").await, 0);
    app.advance(1).await;
    app.until_count("ChallengeExpired", 1).await;
}

#[tokio::test]
async fn accepting_dequeues_both_players_and_creates_the_game() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let wait = |pool| json!({"pool_key": pool});
    let ann = app.join_as("ann", &wait("rapid")).await.location.expect("ann waits");
    let bob = app.join_as("bob", &wait("bullet")).await.location.expect("bob waits");
    let challenge = app.challenged("ann", "bob").await;
    let accepted = app.answer_as("bob", &challenge, "accept").await.ok();
    let id = challenge.rsplit('/').next();
    let match_id = accepted["match_id"].as_str().expect("there is a match");
    let side = accepted["side"].as_str().expect("bob has a side");
    assert_eq!(
        accepted,
        json!({
            "id": id, "challenge_id": id, "status": "accepted", "match_id": match_id,
            "game_id": format!("game-{match_id}"), "side": side, "position": app.head(),
        })
    );
    let [game] = services.games().try_into().expect("there is one game");
    let of_bob = game["players"].as_array().unwrap().iter().find(|player| player["user_id"] == "bob");
    assert_eq!((&game["match_id"], &of_bob.unwrap()["side"]), (&json!(match_id), &json!(side)));
    for (user, entry) in [("ann", &ann), ("bob", &bob)] {
        let refused = app.delete_as(user, entry).await.refused(409, "CONFLICT");
        assert!(refused["detail"].as_str().unwrap().contains("challenge"), "{refused}");
        let refused = app.join_as(user, &wait("blitz")).await.refused(409, "CONFLICT");
        assert_eq!(refused["existing"]["match_id"], match_id);
    }
    assert_eq!(app.reserved_players().await, 2);
}

#[tokio::test]
async fn without_a_game_service_the_match_has_no_game() {
    let app = TestApp::new().await;
    let challenge = app.challenged("ann", "bob").await;
    let accepted = app.answer_as("bob", &challenge, "accept").await.ok();
    assert_eq!((&accepted["status"], accepted.get("game_id")), (&json!("accepted"), None));
    assert_eq!(app.count("MatchConfirmed").await, 1);
}

#[tokio::test]
async fn failed_game_leaves_challenge_pending_and_players_queued() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let entry = app.join_as("ann", &json!({"pool_key": "rapid"})).await.location.expect("ann waits");
    let challenge = app.challenged("ann", "bob").await;
    services.set_mode(FaultMode::Failing);
    let response = app.answer_as("bob", &challenge, "accept").await;
    assert_eq!(response.retry_after, Some(1));
    let refused = response.refused(503, "UNAVAILABLE");
    assert!(refused["detail"].as_str().unwrap().contains("still pending"), "{refused}");
    assert_eq!(app.count("QueueEntryReleased").await, 1);
    assert_eq!(app.reserved_players().await, 0);
    services.set_mode(FaultMode::None);
    let accepted = app.answer_as("bob", &challenge, "accept").await.ok();
    assert_eq!(accepted["status"], "accepted");
    assert_eq!(services.games().len(), 1);
    app.delete_as("ann", &entry).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn open_breaker_refuses_acceptance_without_events() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let challenge = app.challenged("ann", "bob").await;
    services.set_mode(FaultMode::Failing);
    for _ in 0..5 {
        app.answer_as("bob", &challenge, "accept").await.refused(503, "UNAVAILABLE");
    }
    let (head, calls) = (app.head(), services.calls());
    let response = app.answer_as("bob", &challenge, "accept").await;
    assert_eq!(response.retry_after, Some(30));
    response.refused(503, "UNAVAILABLE");
    assert_eq!(app.head(), head, "nothing was recorded");
    services.set_mode(FaultMode::None);
    app.advance(30).await;
    app.answer_as("bob", &challenge, "accept").await.ok();
    assert!(services.calls() > calls);
}

#[tokio::test]
async fn refused_game_leaves_the_challenge_to_decline() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let challenge = app.challenged("ann", "bob").await;
    services.set_mode(FaultMode::Refusing);
    app.answer_as("bob", &challenge, "accept").await.refused(409, "CONFLICT");
    assert_eq!(app.reserved_players().await, 0);
    app.answer_as("bob", &challenge, "decline").await.ok();
}

#[tokio::test]
async fn player_in_a_match_can_neither_accept_nor_be_accepted() {
    let app = TestApp::new().await;
    let (of_ann, of_eve) = (app.challenged("ann", "bob").await, app.challenged("eve", "ann").await);
    app.answer_as("bob", &of_ann, "accept").await.ok();
    let head = app.head();
    app.answer_as("ann", &of_eve, "accept").await.refused(409, "CONFLICT");
    let again = app.challenged("ann", "eve").await;
    app.answer_as("eve", &again, "accept").await.refused(409, "CONFLICT");
    assert_eq!(app.head(), head + 1);
}

#[tokio::test]
async fn blocked_players_can_neither_challenge_nor_accept() {
    for (blocker, blocked) in [("ann", "bob"), ("bob", "ann")] {
        let app = TestApp::new().await;
        let before = app.challenged("ann", "bob").await;
        app.block(blocker, blocked).await.ok();
        let head = app.head();
        app.challenge_as("ann", &to("bob")).await.refused(409, "CONFLICT");
        app.answer_as("bob", &before, "accept").await.refused(409, "CONFLICT");
        assert_eq!(app.head(), head, "{blocker} blocks {blocked}");
        app.delete_as(blocker, &format!("/v1/matchmaking/blocks/{blocked}")).await.ok();
        app.answer_as("bob", &before, "accept").await.ok();
    }
}

#[tokio::test]
async fn challenge_expiry_is_a_pool_setting() {
    let app = TestApp::new().await;
    let settings = json!({"challenge_expires_after_seconds": 30});
    app.put("/internal/pools/blitz", &settings).await.ok();
    let made = app.challenge_as("ann", &to("bob")).await.ok();
    assert_eq!(made["expires_at"], "2026-11-20T10:00:30.000000Z");
}

#[tokio::test]
async fn challenge_result_changes_ratings_of_the_next_challenge() {
    let app = TestApp::new().await;
    let challenge = app.challenged("ann", "bob").await;
    let accepted = app.answer_as("bob", &challenge, "accept").await.ok();
    let path =
        format!("/internal/matches/{}/result", accepted["match_id"].as_str().expect("there is a match"));
    app.post(path, &json!({"result": accepted["side"]})).await.ok();
    for (user, opponent, won) in [("ann", "bob", false), ("bob", "ann", true)] {
        let made = app.challenge_as(user, &to(opponent)).await.ok();
        assert_eq!(made["rating_source"], "history");
        assert_eq!(made["rating"].as_u64().expect("a rating is a number") > 1500, won, "{made}");
    }
}

#[tokio::test]
async fn challenge_uses_ratings_from_both_tokens() {
    let app = TestApp::with_keys().await;
    let call =
        app.call("POST", CHALLENGES).claims("ann", Role::User, |claims| claims.rating("blitz", 1610.4));
    let made = call.body(&to("bob")).send().await;
    assert_eq!((&made.body["rating"], &made.body["rating_source"]), (&json!(1610), &json!("token")));
    let path = format!("{}/accept", made.location.expect("the challenge is created"));
    let call = app.call("POST", path).claims("bob", Role::User, |claims| claims.rating("blitz", 1820.0));
    call.send().await.ok();
    let placing = app.events().await.into_iter().find_map(|envelope| match envelope.event {
        Event::Challenge(ChallengeEvent::ChallengePlacementStarted(placing)) => {
            Some(placing.strength.rating.points())
        }
        _ => None,
    });
    assert_eq!(placing, Some(1820));
}
