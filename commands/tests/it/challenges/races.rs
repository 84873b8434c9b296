//! Commands to challenges that come twice, or at once, on one server and on two.

use std::time::Duration;

use commands::Outside;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use super::{CHALLENGES, to};
use crate::outside::{Mood, Services};
use crate::support::Bench;

#[tokio::test]
async fn a_challenge_made_under_a_key_is_answered_as_before_though_a_block_stands_against_it_now() {
    let bench = Bench::new().await;
    let challenge = || bench.call("POST", CHALLENGES).user("ann").key("k").body(&to("bob")).send();
    let first = challenge().await;
    bench.block("bob", "ann").await.ok();
    assert_eq!(challenge().await, first);
}

#[tokio::test]
async fn each_command_under_its_key_is_answered_as_the_first_time_and_appends_nothing() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let body = json!({"opponent_id": "bob", "pool_key": "blitz", "message": "hello"});
    let create = |body: Value| bench.call("POST", CHALLENGES).user("ann").key("k").body(&body).send();
    let first = create(body.clone()).await;
    bench.clock.advance(Duration::from_secs(9));
    assert_eq!(create(body.clone()).await, first);
    create(to("bob")).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    create(to("carl")).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let accepted = first.location.clone().expect("the challenge is made");
    let declined = bench.challenged("eve", "carl").await;
    let cancelled = bench.challenged("carl", "eve").await;
    let mut answers = Vec::new();
    for (user, challenge, verb) in
        [("bob", &accepted, "accept"), ("carl", &declined, "decline"), ("carl", &cancelled, "cancel")]
    {
        let answer = bench.answer_with_key(user, challenge, verb, "k").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answers.push((user, challenge, verb, answer));
    }
    let (head, asked) = (bench.head(), services.asked());
    let beside = bench.beside().await;
    for server in [&bench, &beside] {
        for (user, challenge, verb, answer) in &answers {
            assert_eq!(server.answer_with_key(user, challenge, verb, "k").await, *answer);
            server.answer_with_key(user, challenge, verb, "other").await.refused(409, "CONFLICT");
        }
        let again = server.call("POST", CHALLENGES).user("ann").key("k").body(&body).send().await;
        assert_eq!(again, first);
    }
    assert_eq!((bench.head(), services.asked()), (head, asked));
}

#[tokio::test]
async fn an_acceptance_that_came_to_no_game_is_tried_again_under_its_own_key() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let challenge = bench.challenged("ann", "bob").await;
    services.turn(Mood::Failing);
    for _ in 0..2 {
        bench.answer_with_key("bob", &challenge, "accept", "k").await.refused(503, "UNAVAILABLE");
    }
    services.turn(Mood::Well);
    let accepted = bench.answer_with_key("bob", &challenge, "accept", "k").await;
    assert_eq!(accepted.status, 200);
    let head = bench.head();
    assert_eq!(bench.answer_with_key("bob", &challenge, "accept", "k").await, accepted);
    assert_eq!((bench.head(), services.games().len()), (head, 1));
}

#[tokio::test]
async fn nobody_else_asks_for_the_game_while_an_acceptance_waits_for_it() {
    let services = Services::start().await;
    let bench = Bench::with_outside(Outside { ratings: None, ..services.outside() }).await;
    let challenge = bench.challenged("ann", "bob").await;
    services.turn(Mood::Held);
    let waiting = async {
        services.until_asked(1).await;
        bench.rest().await;
        bench.pass(60).await;
        assert_eq!(services.asked(), 1);
        services.turn(Mood::Well);
    };
    let (answer, ()) = join(bench.answer_as("bob", &challenge, "accept"), waiting).await;
    assert_eq!((answer.status, services.asked()), (200, 1), "{answer:?}");
}

#[tokio::test]
async fn an_acceptance_whose_caller_goes_away_is_carried_out_nevertheless_and_at_once() {
    let services = Services::start().await;
    let bench = Bench::with_outside(Outside { ratings: None, ..services.outside() }).await;
    let challenge = bench.challenged("ann", "bob").await;
    services.turn(Mood::Held);
    tokio::select! {
        answer = bench.answer_as("bob", &challenge, "accept") => panic!("{answer:?}"),
        () = services.until_asked(1) => {}
    }
    services.turn(Mood::Well);
    bench.until_count("MatchConfirmed", 1).await;
}

#[tokio::test]
async fn of_many_acceptances_at_once_on_two_servers_one_is_taken_and_there_is_one_game() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let beside = bench.beside().await;
    let challenge = bench.challenged("ann", "bob").await;
    let servers = [&bench, &beside];
    let accept = |n: usize| servers[n % 2].answer_as("bob", &challenge, "accept");
    let answers = join_all((0..32).map(accept)).await;
    let taken = answers.iter().filter(|answer| answer.status == 200).count();
    let refused = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((taken, refused), (1, 31), "{answers:?}");
    assert_eq!((services.games().len(), bench.count("ChallengePlacing").await), (1, 1));
    assert_eq!(bench.nobody_is_in_two_matches().await, 2);
}

#[tokio::test]
async fn an_acceptance_under_one_key_from_many_connections_is_one_game_and_one_answer() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let challenge = bench.challenged("ann", "bob").await;
    let asked = services.asked();
    let answers = join_all((0..32).map(|_| bench.answer_with_key("bob", &challenge, "accept", "k"))).await;
    assert_eq!(services.asked(), asked + 2, "for bob's rating, and for the game");
    let beside = bench.beside().await;
    let again = beside.answer_with_key("bob", &challenge, "accept", "k").await;
    assert_eq!(again, answers[0]);
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!((services.games().len(), bench.count("MatchProposed").await), (1, 1));
}

#[tokio::test]
async fn of_an_acceptance_and_what_ends_the_challenge_at_once_one_gets_through() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let beside = bench.beside().await;
    for (n, (user, verb)) in [("ann", "cancel"), ("bob", "decline")].into_iter().cycle().take(12).enumerate()
    {
        let challenge = bench.challenged("ann", "bob").await;
        let (accepted, ended) = if n.is_multiple_of(3) {
            join(bench.answer_as("bob", &challenge, "accept"), beside.answer_as(user, &challenge, verb)).await
        } else {
            let both =
                join(bench.answer_as(user, &challenge, verb), beside.answer_as("bob", &challenge, "accept"));
            let (ended, accepted) = both.await;
            (accepted, ended)
        };
        let mut statuses = [accepted.status, ended.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{accepted:?} {ended:?}");
        let held = bench.nobody_is_in_two_matches().await;
        assert_eq!(held, if accepted.status == 200 { 2 } else { 0 });
        bench.pass(7_200).await;
        let freed = 2 * bench.count("MatchConfirmed").await;
        bench.until_count("PlayerFreed", freed).await;
    }
}

#[tokio::test]
async fn an_acceptance_at_the_instant_of_its_end_either_is_taken_or_has_expired() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let challenge = bench.challenged("ann", "bob").await;
    bench.rest().await;
    bench.clock.advance(Duration::from_micros(299_999_999));
    let accepting = bench.answer_as("bob", &challenge, "accept");
    let passing = async { bench.clock.advance(Duration::from_micros(1)) };
    let (answer, ()) = join(accepting, passing).await;
    if answer.status == 409 {
        bench.until_count("ChallengeExpired", 1).await;
    }
    let (taken, expired) = (bench.count("ChallengeAccepted").await, bench.count("ChallengeExpired").await);
    assert_eq!((answer.status, taken, expired), if taken == 1 { (200, 1, 0) } else { (409, 0, 1) });
}

#[tokio::test]
async fn of_two_challenges_that_share_a_player_one_becomes_a_match_and_the_other_waits() {
    let services = Services::start().await;
    let bench = Bench::with_outside(services.outside()).await;
    let beside = bench.beside().await;
    let (of_ann, of_bob) = (bench.challenged("ann", "bob").await, bench.challenged("bob", "eve").await);
    let one = bench.answer_as("bob", &of_ann, "accept");
    let (one, other) = join(one, beside.answer_as("eve", &of_bob, "accept")).await;
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{one:?} {other:?}");
    assert_eq!(bench.nobody_is_in_two_matches().await, 2);
    assert_eq!(bench.count("MatchConfirmed").await, 1);
    bench.pass(7_200).await;
    bench.until_count("ChallengeExpired", 1).await;
}

#[tokio::test]
async fn whoever_is_matched_in_a_queue_and_accepted_at_once_is_in_one_match() {
    for n in 0..6 {
        let services = Services::start().await;
        let bench = Bench::with_outside(services.outside()).await;
        let challenge = bench.challenged("ann", "bob").await;
        let blitz = json!({"pool_key": "blitz"});
        bench.join_as("ann", &blitz).await.ok();
        bench.join_as("eve", &blitz).await.ok();
        for _ in 0..n {
            tokio::task::yield_now().await;
        }
        let answer = bench.answer_as("bob", &challenge, "accept").await;
        bench.until_count("MatchConfirmed", 1).await;
        bench.rest().await;
        assert!(matches!(answer.status, 200 | 409), "{answer:?}");
        assert_eq!(bench.nobody_is_in_two_matches().await, 2, "after {n} turns: {:?}", bench.counts().await);
        assert_eq!(bench.count("MatchConfirmed").await, 1);
    }
}
