use std::time::Duration;

use event_schemas::challenge::{ChallengeCreated, ChallengeEvent};
use event_schemas::envelope::Event;
use event_schemas::player::PlayerEvent;
use event_schemas::sealed::Place;
use serde_json::{Value, json};
use web::caller::Role;

use crate::outside::{Mood, Services};
use crate::support::{Answer, Bench};

#[cfg(test)]
mod races;

const CHALLENGES: &str = "/v1/matchmaking/challenges";
const NOWHERE: &str = "/v1/matchmaking/challenges/018f0000-0000-7000-8000-000000000001";

fn to(opponent: &str) -> Value {
    json!({"opponent_id": opponent, "pool_key": "blitz"})
}

impl Bench {
    async fn challenge_as(&self, user: &str, body: &Value) -> Answer {
        self.call("POST", CHALLENGES).user(user).body(body).send().await
    }

    /// The path of a challenge of `user` to `opponent`.
    async fn challenged(&self, user: &str, opponent: &str) -> String {
        self.challenge_as(user, &to(opponent)).await.location.expect("the challenge is made")
    }

    async fn answer_as(&self, user: &str, challenge: &str, verb: &str) -> Answer {
        self.call("POST", format!("{challenge}/{verb}")).user(user).send().await
    }

    async fn answer_with_key(&self, user: &str, challenge: &str, verb: &str, key: &str) -> Answer {
        self.call("POST", format!("{challenge}/{verb}")).user(user).key(key).send().await
    }

    async fn made(&self) -> Vec<ChallengeCreated> {
        let made = |envelope: event_schemas::envelope::Envelope| match envelope.event {
            Event::Challenge(ChallengeEvent::ChallengeCreated(created)) => Some(created),
            _ => None,
        };
        self.events().await.into_iter().filter_map(made).collect()
    }

    /// The match that each player is in at the end, by what the events say: nobody may be taken while they are taken.
    async fn nobody_is_in_two_matches(&self) -> usize {
        let mut held = std::collections::BTreeMap::new();
        for envelope in self.events().await {
            let Event::Player(event) = envelope.event else { continue };
            let (player, taken) = match event {
                PlayerEvent::PlayerEngaged(event) => (event.subject_id, Some(event.match_id)),
                PlayerEvent::QueueEntryMatched(event) => (event.subject_id, Some(event.match_id)),
                PlayerEvent::PlayerFreed(event) => (event.subject_id, None),
                PlayerEvent::QueueEntryReleased(event) => (event.subject_id, None),
                _ => continue,
            };
            let before = match taken {
                Some(taken) => held.insert(player, taken),
                None => held.remove(&player).filter(|_| false),
            };
            assert!(before.is_none() || before == taken, "{player} is taken out of {before:?} for {taken:?}");
        }
        held.len()
    }
}

#[tokio::test]
async fn whoever_challenges_is_told_the_challenge_and_where_it_is() {
    let bench = Bench::new().await;
    let body = json!({"opponent_id": "bob", "pool_key": "blitz", "message": "a rematch?"});
    let answer = bench.challenge_as("ann", &body).await;
    assert_eq!(answer.status, 201);
    let id = answer.body["id"].as_str().unwrap();
    assert_eq!(answer.location, Some(format!("{CHALLENGES}/{id}")));
    assert_eq!(
        answer.body,
        json!({
            "id": id, "challenge_id": id, "status": "pending", "pool_key": "blitz", "challenger_id": "ann",
            "opponent_id": "bob", "message": "a rematch?", "rating": 1500, "rating_source": "default",
            "created_at": "2026-11-20T10:00:00.000000Z", "expires_at": "2026-11-20T10:05:00.000000Z",
            "position": 1,
        })
    );
}

#[tokio::test]
async fn a_message_is_in_the_log_only_under_the_challengers_key() {
    let bench = Bench::new().await;
    let body = json!({"opponent_id": "bob", "pool_key": "blitz", "message": "you never win"});
    bench.challenge_as("ann", &body).await.ok();
    let ChallengeCreated { challenge_id, challenger, challenged, message, .. } = bench.made().await.remove(0);
    let message = message.expect("there is a message");
    assert!(!message.as_base64().contains("never"));
    let (tenant, place) = ("default".parse().unwrap(), Place::ChallengeMessage(challenge_id));
    let read = bench.vault.unseal(&tenant, challenger, place, &message).await.unwrap();
    assert_eq!(read.as_deref(), Some("you never win"));
    assert!(bench.vault.unseal(&tenant, challenged, place, &message).await.is_err());
}

#[tokio::test]
async fn a_challenge_that_cannot_be_read_is_refused_with_what_is_wrong() {
    let bench = Bench::new().await;
    for (body, field) in [
        (json!({"opponent_id": "ann", "pool_key": "blitz"}), "opponent_id"),
        (json!({"opponent_id": "", "pool_key": "blitz"}), "opponent_id"),
        (json!({"pool_key": "blitz"}), "opponent_id"),
        (json!({"opponent_id": "bob"}), "pool_key"),
        (json!({"opponent_id": "bob", "pool_key": "blitz", "message": ""}), "message"),
        (json!({"opponent_id": "bob", "pool_key": "blitz", "message": "x".repeat(501)}), "message"),
    ] {
        let answer = bench.challenge_as("ann", &body).await;
        assert_eq!(answer.fields(), [field], "{body}");
        answer.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(bench.head(), 0);
}

#[tokio::test]
async fn only_those_who_play_may_challenge_and_answer() {
    let bench = Bench::with_keys().await;
    for role in [Role::Worker, Role::Auditor] {
        bench
            .call("POST", CHALLENGES)
            .roles("w", role)
            .body(&to("bob"))
            .send()
            .await
            .refused(403, "FORBIDDEN");
        for verb in ["accept", "decline", "cancel"] {
            let call = bench.call("POST", format!("{NOWHERE}/{verb}")).roles("w", role);
            call.send().await.refused(403, "FORBIDDEN");
        }
    }
}

#[tokio::test]
async fn a_participant_who_may_not_is_told_so_and_a_stranger_sees_no_challenge() {
    let bench = Bench::new().await;
    let challenge = bench.challenged("ann", "bob").await;
    for (user, verb) in [("ann", "accept"), ("ann", "decline"), ("bob", "cancel")] {
        bench.answer_as(user, &challenge, verb).await.refused(403, "FORBIDDEN");
    }
    for verb in ["accept", "decline", "cancel"] {
        let never = bench.answer_as("ann", NOWHERE, verb).await.refused(404, "NOT_FOUND");
        let strangers = bench.answer_as("eve", &challenge, verb).await.refused(404, "NOT_FOUND");
        let call = bench.call("POST", format!("{challenge}/{verb}")).user("bob").tenant("other");
        let elsewhere = call.send().await.refused(404, "NOT_FOUND");
        assert_eq!((&strangers["detail"], &elsewhere["detail"]), (&never["detail"], &never["detail"]));
        bench.answer_as("bob", &format!("{CHALLENGES}/7"), verb).await.refused(404, "NOT_FOUND");
    }
    assert_eq!(bench.head(), 1);
}

#[tokio::test]
async fn declining_and_cancelling_end_a_challenge() {
    let bench = Bench::new().await;
    for (user, verb, status) in [("bob", "decline", "declined"), ("ann", "cancel", "cancelled")] {
        let challenge = bench.challenged("ann", "bob").await;
        let ended = bench.answer_as(user, &challenge, verb).await.ok();
        let id = challenge.rsplit('/').next();
        assert_eq!(ended, json!({"id": id, "challenge_id": id, "status": status, "position": bench.head()}));
    }
}

#[tokio::test]
async fn nobody_acts_on_a_challenge_that_has_ended() {
    let bench = Bench::new().await;
    for (user, verb) in [("bob", "accept"), ("bob", "decline"), ("ann", "cancel")] {
        let challenge = bench.challenged("ann", "bob").await;
        bench.answer_as(user, &challenge, verb).await.ok();
        let head = bench.head();
        for (user, verb) in [("bob", "accept"), ("bob", "decline"), ("ann", "cancel")] {
            bench.answer_as(user, &challenge, verb).await.refused(409, "CONFLICT");
        }
        assert_eq!(bench.head(), head, "{verb}");
        bench.pass(7_200).await;
        bench.until_count("PlayerFreed", if verb == "accept" { 2 } else { 0 }).await;
    }
}

#[tokio::test]
async fn a_challenge_is_over_at_its_instant_even_if_nobody_has_recorded_that() {
    let bench = Bench::new().await;
    let (late, early) = (bench.challenged("ann", "bob").await, bench.challenged("ann", "bob").await);
    // Nothing happens by itself any more.
    bench.commands.shutdown().await;
    bench.clock.advance(Duration::from_micros(299_999_999));
    bench.answer_as("bob", &early, "accept").await.ok();
    bench.clock.advance(Duration::from_micros(1));
    let head = bench.head();
    for (user, verb) in [("bob", "accept"), ("bob", "decline"), ("ann", "cancel")] {
        let refused = bench.answer_as(user, &late, verb).await.refused(409, "CONFLICT");
        assert!(refused["detail"].as_str().unwrap().contains("expired"), "{refused}");
    }
    assert_eq!(bench.head(), head);
}

#[tokio::test]
async fn a_challenge_that_nobody_answers_expires_by_itself() {
    let bench = Bench::new().await;
    bench.challenged("ann", "bob").await;
    bench.rest().await;
    bench.pass(299).await;
    assert_eq!(bench.count("ChallengeExpired").await, 0);
    bench.pass(1).await;
    bench.until_count("ChallengeExpired", 1).await;
}

#[tokio::test]
async fn accepting_takes_both_out_of_their_queues_and_makes_their_game() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let wait = |pool| json!({"pool_key": pool});
    let ann = bench.join_as("ann", &wait("rapid")).await.location.expect("ann waits");
    let bob = bench.join_as("bob", &wait("bullet")).await.location.expect("bob waits");
    let challenge = bench.challenged("ann", "bob").await;
    let accepted = bench.answer_as("bob", &challenge, "accept").await.ok();
    let id = challenge.rsplit('/').next();
    let match_id = accepted["match_id"].as_str().expect("there is a match");
    let side = accepted["side"].as_str().expect("bob has a side");
    assert_eq!(
        accepted,
        json!({
            "id": id, "challenge_id": id, "status": "accepted", "match_id": match_id,
            "game_id": format!("game-{match_id}"), "side": side, "position": bench.head(),
        })
    );
    let [game] = services.games().try_into().expect("there is one game");
    let of_bob = game["players"].as_array().unwrap().iter().find(|player| player["user_id"] == "bob");
    assert_eq!((&game["match_id"], &of_bob.unwrap()["side"]), (&json!(match_id), &json!(side)));
    for (user, entry) in [("ann", &ann), ("bob", &bob)] {
        let refused = bench.delete_as(user, entry).await.refused(409, "CONFLICT");
        assert!(refused["detail"].as_str().unwrap().contains("challenge"), "{refused}");
        let refused = bench.join_as(user, &wait("blitz")).await.refused(409, "CONFLICT");
        assert_eq!(refused["existing"]["match_id"], match_id);
    }
    assert_eq!(bench.nobody_is_in_two_matches().await, 2);
}

#[tokio::test]
async fn without_a_game_service_the_match_of_a_challenge_has_no_game() {
    let bench = Bench::new().await;
    let challenge = bench.challenged("ann", "bob").await;
    let accepted = bench.answer_as("bob", &challenge, "accept").await.ok();
    assert_eq!((&accepted["status"], accepted.get("game_id")), (&json!("accepted"), None));
    assert_eq!(bench.count("MatchConfirmed").await, 1);
}

#[tokio::test]
async fn a_challenge_whose_game_cannot_be_made_is_pending_still_and_both_wait_as_before() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let entry = bench.join_as("ann", &json!({"pool_key": "rapid"})).await.location.expect("ann waits");
    let challenge = bench.challenged("ann", "bob").await;
    services.turn(Mood::Failing);
    let answer = bench.answer_as("bob", &challenge, "accept").await;
    assert_eq!(answer.retry_after, Some(1));
    let refused = answer.refused(503, "UNAVAILABLE");
    assert!(refused["detail"].as_str().unwrap().contains("pending still"), "{refused}");
    assert_eq!(bench.count("QueueEntryReleased").await, 1);
    assert_eq!(bench.nobody_is_in_two_matches().await, 0);
    services.turn(Mood::Well);
    let accepted = bench.answer_as("bob", &challenge, "accept").await.ok();
    assert_eq!(accepted["status"], "accepted");
    assert_eq!(services.games().len(), 1);
    bench.delete_as("ann", &entry).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn a_service_that_is_left_alone_costs_an_acceptance_nothing_but_its_time() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let challenge = bench.challenged("ann", "bob").await;
    services.turn(Mood::Failing);
    for _ in 0..5 {
        bench.answer_as("bob", &challenge, "accept").await.refused(503, "UNAVAILABLE");
    }
    let (head, asked) = (bench.head(), services.asked());
    let answer = bench.answer_as("bob", &challenge, "accept").await;
    assert_eq!(answer.retry_after, Some(30));
    answer.refused(503, "UNAVAILABLE");
    assert_eq!(bench.head(), head, "nothing was recorded");
    services.turn(Mood::Well);
    bench.pass(30).await;
    bench.answer_as("bob", &challenge, "accept").await.ok();
    assert!(services.asked() > asked);
}

#[tokio::test]
async fn a_game_that_the_service_refuses_leaves_the_challenge_to_be_declined() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let challenge = bench.challenged("ann", "bob").await;
    services.turn(Mood::Refusing);
    bench.answer_as("bob", &challenge, "accept").await.refused(409, "CONFLICT");
    assert_eq!(bench.nobody_is_in_two_matches().await, 0);
    bench.answer_as("bob", &challenge, "decline").await.ok();
}

#[tokio::test]
async fn whoever_has_an_unfinished_match_cannot_accept_nor_be_accepted_until_it_has_ended() {
    let bench = Bench::new().await;
    let (of_ann, of_eve) = (bench.challenged("ann", "bob").await, bench.challenged("eve", "ann").await);
    bench.answer_as("bob", &of_ann, "accept").await.ok();
    let head = bench.head();
    bench.answer_as("ann", &of_eve, "accept").await.refused(409, "CONFLICT");
    let again = bench.challenged("ann", "eve").await;
    bench.answer_as("eve", &again, "accept").await.refused(409, "CONFLICT");
    assert_eq!(bench.head(), head + 1);
}

#[tokio::test]
async fn players_of_whom_one_blocks_the_other_neither_challenge_nor_accept_each_other() {
    for (blocker, blocked) in [("ann", "bob"), ("bob", "ann")] {
        let bench = Bench::new().await;
        let before = bench.challenged("ann", "bob").await;
        bench.block(blocker, blocked).await.ok();
        let head = bench.head();
        bench.challenge_as("ann", &to("bob")).await.refused(409, "CONFLICT");
        bench.answer_as("bob", &before, "accept").await.refused(409, "CONFLICT");
        assert_eq!(bench.head(), head, "{blocker} blocks {blocked}");
        bench.delete_as(blocker, &format!("/v1/matchmaking/blocks/{blocked}")).await.ok();
        bench.answer_as("bob", &before, "accept").await.ok();
    }
}

#[tokio::test]
async fn how_long_there_is_to_answer_is_the_pools_setting() {
    let bench = Bench::new().await;
    let settings = json!({"challenge_expires_after_seconds": 30});
    bench.put("/internal/pools/blitz", &settings).await.ok();
    let made = bench.challenge_as("ann", &to("bob")).await.ok();
    assert_eq!(made["expires_at"], "2026-11-20T10:00:30.000000Z");
}

#[tokio::test]
async fn the_result_of_a_challenges_match_moves_both_ratings_and_the_next_challenge_carries_them() {
    let bench = Bench::new().await;
    let challenge = bench.challenged("ann", "bob").await;
    let accepted = bench.answer_as("bob", &challenge, "accept").await.ok();
    let path =
        format!("/internal/matches/{}/result", accepted["match_id"].as_str().expect("there is a match"));
    bench.post(path, &json!({"result": accepted["side"]})).await.ok();
    for (user, opponent, won) in [("ann", "bob", false), ("bob", "ann", true)] {
        let made = bench.challenge_as(user, &to(opponent)).await.ok();
        assert_eq!(made["rating_source"], "history");
        assert_eq!(made["rating"].as_u64().expect("a rating is a number") > 1500, won, "{made}");
    }
}

#[tokio::test]
async fn a_challenge_carries_the_strength_of_both_as_their_tokens_say() {
    let bench = Bench::with_keys().await;
    let call =
        bench.call("POST", CHALLENGES).claims("ann", Role::User, |claims| claims.rating("blitz", 1610.4));
    let made = call.body(&to("bob")).send().await;
    assert_eq!((&made.body["rating"], &made.body["rating_source"]), (&json!(1610), &json!("token")));
    let path = format!("{}/accept", made.location.expect("the challenge is made"));
    let call = bench.call("POST", path).claims("bob", Role::User, |claims| claims.rating("blitz", 1820.0));
    call.send().await.ok();
    let placing = bench.events().await.into_iter().find_map(|envelope| match envelope.event {
        Event::Challenge(ChallengeEvent::ChallengePlacing(placing)) => Some(placing.strength.rating.points()),
        _ => None,
    });
    assert_eq!(placing, Some(1820));
}
