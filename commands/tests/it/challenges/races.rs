//! Commands to challenges that come twice, or at once, on one server and on two.

use std::time::Duration;

use commands::ExternalServices;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use super::{CHALLENGES, to};
use crate::external_services::{FakeServices, FaultMode};
use crate::support::TestApp;

#[tokio::test]
async fn repeated_challenge_key_ignores_a_later_block() {
    let app = TestApp::new().await;
    let challenge = || app.call("POST", CHALLENGES).user("ann").key("k").body(&to("bob")).send();
    let first = challenge().await;
    app.block("bob", "ann").await.ok();
    assert_eq!(challenge().await, first);
}

#[tokio::test]
async fn repeated_keys_get_first_results_and_append_nothing() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let body = json!({"opponent_id": "bob", "pool_key": "blitz", "message": "hello"});
    let create = |body: Value| app.call("POST", CHALLENGES).user("ann").key("k").body(&body).send();
    let first = create(body.clone()).await;
    app.clock.advance(Duration::from_secs(9));
    assert_eq!(create(body.clone()).await, first);
    create(to("bob")).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    create(to("carl")).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let accepted = first.location.clone().expect("the challenge is created");
    let declined = app.challenged("eve", "carl").await;
    let cancelled = app.challenged("carl", "eve").await;
    let mut responses = Vec::new();
    for (user, challenge, verb) in
        [("bob", &accepted, "accept"), ("carl", &declined, "decline"), ("carl", &cancelled, "cancel")]
    {
        let response = app.answer_with_key(user, challenge, verb, "k").await;
        assert_eq!(response.status, 200, "{response:?}");
        responses.push((user, challenge, verb, response));
    }
    let (head, calls) = (app.head(), services.calls());
    let beside = app.second_server().await;
    for server in [&app, &beside] {
        for (user, challenge, verb, response) in &responses {
            assert_eq!(server.answer_with_key(user, challenge, verb, "k").await, *response);
            server.answer_with_key(user, challenge, verb, "other").await.refused(409, "CONFLICT");
        }
        let again = server.call("POST", CHALLENGES).user("ann").key("k").body(&body).send().await;
        assert_eq!(again, first);
    }
    assert_eq!((app.head(), services.calls()), (head, calls));
}

#[tokio::test]
async fn acceptance_without_a_game_is_retried_with_its_key() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let challenge = app.challenged("ann", "bob").await;
    services.set_mode(FaultMode::Failing);
    for _ in 0..2 {
        app.answer_with_key("bob", &challenge, "accept", "k").await.refused(503, "UNAVAILABLE");
    }
    services.set_mode(FaultMode::None);
    let accepted = app.answer_with_key("bob", &challenge, "accept", "k").await;
    assert_eq!(accepted.status, 200);
    let head = app.head();
    assert_eq!(app.answer_with_key("bob", &challenge, "accept", "k").await, accepted);
    assert_eq!((app.head(), services.games().len()), (head, 1));
}

#[tokio::test]
async fn pending_acceptance_makes_one_game_call() {
    let services = FakeServices::start().await;
    let app =
        TestApp::with_external_services(ExternalServices { ratings: None, ..services.external_services() })
            .await;
    let challenge = app.challenged("ann", "bob").await;
    services.set_mode(FaultMode::Paused);
    let waiting = async {
        services.until_called(1).await;
        app.run_ready_tasks().await;
        app.advance(60).await;
        assert_eq!(services.calls(), 1);
        services.set_mode(FaultMode::None);
    };
    let (response, ()) = join(app.answer_as("bob", &challenge, "accept"), waiting).await;
    assert_eq!((response.status, services.calls()), (200, 1), "{response:?}");
}

#[tokio::test]
async fn acceptance_completes_after_its_caller_disconnects() {
    let services = FakeServices::start().await;
    let app =
        TestApp::with_external_services(ExternalServices { ratings: None, ..services.external_services() })
            .await;
    let challenge = app.challenged("ann", "bob").await;
    services.set_mode(FaultMode::Paused);
    tokio::select! {
        response = app.answer_as("bob", &challenge, "accept") => panic!("{response:?}"),
        () = services.until_called(1) => {}
    }
    services.set_mode(FaultMode::None);
    app.until_count("MatchConfirmed", 1).await;
}

#[tokio::test]
async fn concurrent_acceptances_on_two_servers_create_one_game() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let beside = app.second_server().await;
    let challenge = app.challenged("ann", "bob").await;
    let servers = [&app, &beside];
    let accept = |n: usize| servers[n % 2].answer_as("bob", &challenge, "accept");
    let responses = join_all((0..32).map(accept)).await;
    let taken = responses.iter().filter(|response| response.status == 200).count();
    let refused = responses.iter().filter(|response| response.status == 409).count();
    assert_eq!((taken, refused), (1, 31), "{responses:?}");
    assert_eq!((services.games().len(), app.count("ChallengePlacementStarted").await), (1, 1));
    assert_eq!(app.reserved_players().await, 2);
}

#[tokio::test]
async fn concurrent_acceptances_with_one_key_create_one_game() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let challenge = app.challenged("ann", "bob").await;
    let calls = services.calls();
    let responses = join_all((0..32).map(|_| app.answer_with_key("bob", &challenge, "accept", "k"))).await;
    assert_eq!(services.calls(), calls + 2, "for bob's rating, and for the game");
    let beside = app.second_server().await;
    let again = beside.answer_with_key("bob", &challenge, "accept", "k").await;
    assert_eq!(again, responses[0]);
    assert!(responses.iter().all(|response| response.status == 200), "{responses:?}");
    assert!(responses.iter().all(|response| *response == responses[0]));
    assert_eq!((services.games().len(), app.count("MatchProposed").await), (1, 1));
}

#[tokio::test]
async fn acceptance_races_with_cancel_and_decline_one_wins() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let beside = app.second_server().await;
    for (n, (user, verb)) in [("ann", "cancel"), ("bob", "decline")].into_iter().cycle().take(12).enumerate()
    {
        let challenge = app.challenged("ann", "bob").await;
        let (accepted, ended) = if n.is_multiple_of(3) {
            join(app.answer_as("bob", &challenge, "accept"), beside.answer_as(user, &challenge, verb)).await
        } else {
            let both =
                join(app.answer_as(user, &challenge, verb), beside.answer_as("bob", &challenge, "accept"));
            let (ended, accepted) = both.await;
            (accepted, ended)
        };
        let mut statuses = [accepted.status, ended.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{accepted:?} {ended:?}");
        let held = app.reserved_players().await;
        assert_eq!(held, if accepted.status == 200 { 2 } else { 0 });
        app.advance(7_200).await;
        let freed = 2 * app.count("MatchConfirmed").await;
        app.until_count("PlayerReleased", freed).await;
    }
}

#[tokio::test]
async fn acceptance_at_expiry_is_accepted_or_expired() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let challenge = app.challenged("ann", "bob").await;
    app.run_ready_tasks().await;
    app.clock.advance(Duration::from_micros(299_999_999));
    let accepting = app.answer_as("bob", &challenge, "accept");
    let passing = async { app.clock.advance(Duration::from_micros(1)) };
    let (response, ()) = join(accepting, passing).await;
    if response.status == 409 {
        app.until_count("ChallengeExpired", 1).await;
    }
    let (taken, expired) = (app.count("ChallengeAccepted").await, app.count("ChallengeExpired").await);
    assert_eq!((response.status, taken, expired), if taken == 1 { (200, 1, 0) } else { (409, 0, 1) });
}

#[tokio::test]
async fn challenges_sharing_a_player_create_one_match() {
    let services = FakeServices::start().await;
    let app = TestApp::with_external_services(services.external_services()).await;
    let beside = app.second_server().await;
    let (of_ann, of_bob) = (app.challenged("ann", "bob").await, app.challenged("bob", "eve").await);
    let one = app.answer_as("bob", &of_ann, "accept");
    let (one, other) = join(one, beside.answer_as("eve", &of_bob, "accept")).await;
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{one:?} {other:?}");
    assert_eq!(app.reserved_players().await, 2);
    assert_eq!(app.count("MatchConfirmed").await, 1);
    app.advance(7_200).await;
    app.until_count("ChallengeExpired", 1).await;
}

#[tokio::test]
async fn pairing_races_with_acceptance_one_match_results() {
    for n in 0..6 {
        let services = FakeServices::start().await;
        let app = TestApp::with_external_services(services.external_services()).await;
        let challenge = app.challenged("ann", "bob").await;
        let blitz = json!({"pool_key": "blitz"});
        app.join_as("ann", &blitz).await.ok();
        app.join_as("eve", &blitz).await.ok();
        for _ in 0..n {
            tokio::task::yield_now().await;
        }
        let response = app.answer_as("bob", &challenge, "accept").await;
        app.until_count("MatchConfirmed", 1).await;
        app.run_ready_tasks().await;
        assert!(matches!(response.status, 200 | 409), "{response:?}");
        assert_eq!(app.reserved_players().await, 2, "after {n} turns: {:?}", app.counts().await);
        assert_eq!(app.count("MatchConfirmed").await, 1);
    }
}
