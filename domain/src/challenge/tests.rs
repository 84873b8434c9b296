use event_schemas::rating::{Rating, RatingSource};

use super::*;
use crate::rating::unproven;
use crate::scenario::{at, decided, id};

const ID: ChallengeId = ChallengeId(Uuid::from_u128(7));
const ANN: SubjectId = SubjectId(Uuid::from_u128(1));
const BOB: SubjectId = SubjectId(Uuid::from_u128(2));
const EVE: SubjectId = SubjectId(Uuid::from_u128(3));

fn strength() -> Strength {
    let rating = Rating::nearest(1500.0);
    Strength { rating, rating_source: RatingSource::Default, skill: unproven(rating), rating_call: None }
}

fn created() -> ChallengeCreated {
    ChallengeCreated {
        challenge_id: ID,
        pool_key: id("blitz"),
        challenger: ANN,
        challenged: BOB,
        strength: strength(),
        expires_at: at(300.0),
        message: None,
    }
}

fn accept(by: SubjectId) -> Action {
    Action::Accept { by, strength: strength() }
}

fn placing(attempt: u32) -> ChallengeEvent {
    let match_id = match_id(ID);
    ChallengePlacementStarted {
        match_id,
        attempt,
        strength: strength(),
        challenger_side: challenger_side(match_id),
    }
    .into()
}

fn fail(attempt: u32) -> Action {
    Action::FailPlacement { attempt, reason: AbandonReason::GameServiceFailed, detail: None }
}

fn failed() -> ChallengeEvent {
    ChallengePlacementFailed {
        match_id: match_id(ID),
        reason: AbandonReason::GameServiceFailed,
        detail: None,
    }
    .into()
}

fn confirm(attempt: u32) -> Action {
    Action::Confirm { attempt, game_id: Some(id("g")) }
}

fn accepted() -> ChallengeEvent {
    ChallengeAccepted { match_id: match_id(ID), game_id: Some(id("g")) }.into()
}

fn ends() -> [(Vec<ChallengeEvent>, Refusal); 5] {
    [
        (vec![placing(1)], Refusal::Placing),
        (vec![placing(1), accepted()], Refusal::Accepted),
        (vec![ChallengeDeclined {}.into()], Refusal::Declined),
        (vec![ChallengeCancelled {}.into()], Refusal::Cancelled),
        (vec![ChallengeExpired {}.into()], Refusal::Expired),
    ]
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(second: f64, given: &[ChallengeEvent], action: Action, then: Result<Vec<ChallengeEvent>, Refusal>) {
    let given: Vec<_> = std::iter::once(created().into()).chain(given.iter().cloned()).collect();
    assert_eq!(decided::<ChallengeDecider>(&given, &Command { at: at(second), action }), then);
}

#[test]
fn self_challenge_is_refused() {
    let command =
        Command { at: at(0.0), action: Action::Create(ChallengeCreated { challenged: ANN, ..created() }) };
    assert_eq!(decided::<ChallengeDecider>(&[], &command), Err(Refusal::SelfChallenge));
    assert_eq!(Refusal::SelfChallenge.kind(), RefusalKind::Invalid);
}

#[test]
fn creating_the_same_challenge_twice_records_it_once() {
    check(0.0, &[], Action::Create(created()), Ok(vec![]));
    check(0.0, &[], Action::Create(ChallengeCreated { challenged: EVE, ..created() }), Err(Refusal::Exists));
}

#[test]
fn each_action_is_allowed_for_one_of_the_players_only() {
    check(0.0, &[], accept(BOB), Ok(vec![placing(1)]));
    check(0.0, &[], Action::Decline { by: BOB }, Ok(vec![ChallengeDeclined {}.into()]));
    check(0.0, &[], Action::Cancel { by: ANN }, Ok(vec![ChallengeCancelled {}.into()]));
    for action in [accept(ANN), Action::Decline { by: ANN }] {
        check(0.0, &[], action, Err(Refusal::NotTheChallenged));
    }
    check(0.0, &[], Action::Cancel { by: BOB }, Err(Refusal::NotTheChallenger));
    assert_eq!(Refusal::NotTheChallenged.kind(), RefusalKind::Forbidden);
}

#[test]
fn challenge_does_not_exist_for_other_players() {
    for action in [accept(EVE), Action::Decline { by: EVE }, Action::Cancel { by: EVE }] {
        check(0.0, &[], action, Err(Refusal::Missing));
    }
    assert_eq!(Refusal::Missing.kind(), RefusalKind::NotFound);
}

#[test]
fn match_id_decides_who_moves_first() {
    for (id, side) in [(0b1000, Side::First), (0b1001, Side::Second), (0b0110, Side::First)] {
        assert_eq!(challenger_side(GameMatchId(Uuid::from_u128(id))), side);
    }
}

#[test]
fn acceptances_are_counted() {
    let events = [created().into(), placing(1), failed(), placing(2), accepted()];
    let state =
        events.iter().fold(State::default(), |state, event| ChallengeDecider::evolve(state, event, at(0.0)));
    let challenge = state.details().unwrap();
    let Phase::Accepted { placing, game_id } = &challenge.phase else { panic!("{challenge:?}") };
    assert_eq!((challenge.attempts, placing.attempt, game_id), (2, 2, &Some(id("g"))));
}

#[test]
fn action_on_an_answered_challenge_is_refused() {
    for (given, refusal) in ends() {
        check(1.0, &given, accept(BOB), Err(refusal));
        check(1.0, &given, Action::Decline { by: BOB }, Err(refusal));
        check(1.0, &given, Action::Cancel { by: ANN }, Err(refusal));
        assert_eq!(refusal.kind(), RefusalKind::Conflict);
    }
}

#[test]
fn due_challenge_is_expired_before_the_event_is_recorded() {
    check(299.9, &[], accept(BOB), Ok(vec![placing(1)]));
    check(300.0, &[], accept(BOB), Err(Refusal::Expired));
    check(299.9, &[], Action::Expire, Ok(vec![]));
    check(300.0, &[], Action::Expire, Ok(vec![ChallengeExpired {}.into()]));
    for (given, _) in ends() {
        check(300.0, &given, Action::Expire, Ok(vec![]));
    }
}

#[test]
fn failed_placement_makes_the_challenge_pending_again() {
    check(1.0, &[placing(1)], fail(1), Ok(vec![failed()]));
    check(2.0, &[placing(1), failed()], fail(1), Ok(vec![]));
    check(2.0, &[placing(1), failed()], accept(BOB), Ok(vec![placing(2)]));
    check(2.0, &[placing(1), failed()], Action::Cancel { by: ANN }, Ok(vec![ChallengeCancelled {}.into()]));
}

#[test]
fn saga_of_a_failed_attempt_cannot_affect_the_next_one() {
    let second = [placing(1), failed(), placing(2)];
    check(3.0, &second, confirm(1), Err(Refusal::AttemptOver));
    check(3.0, &second, fail(1), Ok(vec![]));
    check(3.0, &second, confirm(2), Ok(vec![accepted()]));
    check(3.0, &[placing(1), failed()], confirm(1), Err(Refusal::AttemptOver));
    let second = [placing(1), failed(), placing(2), accepted()];
    check(4.0, &second, confirm(1), Err(Refusal::AttemptOver));
    check(4.0, &second, fail(1), Ok(vec![]));
}

#[test]
fn attempt_is_either_confirmed_or_failed() {
    check(1.0, &[placing(1)], confirm(1), Ok(vec![accepted()]));
    check(1.0, &[placing(1), accepted()], confirm(1), Ok(vec![]));
    check(1.0, &[placing(1), accepted()], fail(1), Err(Refusal::Accepted));
}

#[test]
fn all_attempts_share_one_match_id() {
    assert_eq!(match_id(ID), match_id(ID));
    assert_ne!(match_id(ID), match_id(ChallengeId(Uuid::from_u128(8))));
}
