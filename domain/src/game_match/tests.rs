use event_schemas::game_match::MatchPlayer;
use event_schemas::ids::{EntryId, GameMatchId, SubjectId};
use event_schemas::rating::Rating;
use uuid::Uuid;

use super::*;
use crate::rating::unproven;
use crate::scenario::{at, decided, id};

fn player(n: u128, release_count: u32) -> MatchPlayer {
    let rating = Rating::nearest(1500.0);
    MatchPlayer {
        subject_id: SubjectId(Uuid::from_u128(n)),
        entry_id: Some(EntryId(Uuid::from_u128(100 + n))),
        queued_at: Some(at(0.0)),
        release_count,
        rating,
        skill: unproven(rating),
    }
}

fn proposed(first: MatchPlayer, second: MatchPlayer) -> MatchProposed {
    MatchProposed {
        match_id: GameMatchId(Uuid::from_u128(9)),
        pool_key: id("blitz"),
        challenge_id: None,
        first,
        second,
    }
}

fn ours() -> MatchProposed {
    proposed(player(1, 0), player(2, 0))
}

fn confirm() -> Action {
    Action::Confirm { game_id: Some(id("g")), result_due_at: at(7200.0) }
}

fn confirmed() -> GameMatchEvent {
    MatchConfirmed { game_id: Some(id("g")), result_due_at: at(7200.0) }.into()
}

fn abandon() -> Action {
    Action::Abandon { reason: AbandonReason::GameServiceFailed, detail: None, eligible_at: at(1.0) }
}

fn abandoned() -> GameMatchEvent {
    MatchAbandoned { reason: AbandonReason::GameServiceFailed, detail: None, eligible_at: at(1.0) }.into()
}

fn reported(result: GameResult) -> GameMatchEvent {
    MatchResultReported { result }.into()
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(then_at: f64, given: &[GameMatchEvent], action: Action, then: Result<Vec<GameMatchEvent>, Refusal>) {
    let given: Vec<_> = std::iter::once(ours().into()).chain(given.iter().cloned()).collect();
    assert_eq!(decided::<GameMatchDecider>(&given, &Command { at: at(then_at), action }), then);
}

#[test]
fn proposing_the_same_match_twice_records_it_once() {
    let propose = |proposed| Command { at: at(0.0), action: Action::Propose(proposed) };
    assert_eq!(decided::<GameMatchDecider>(&[], &propose(ours())), Ok(vec![ours().into()]));
    assert_eq!(decided::<GameMatchDecider>(&[ours().into()], &propose(ours())), Ok(vec![]));
    let turned = proposed(player(2, 0), player(1, 0));
    assert_eq!(decided::<GameMatchDecider>(&[ours().into()], &propose(turned)), Ok(vec![]));
    let others = proposed(player(1, 0), player(3, 0));
    assert_eq!(decided::<GameMatchDecider>(&[ours().into()], &propose(others)), Err(Refusal::Exists));
}

#[test]
fn match_is_either_confirmed_or_abandoned() {
    check(0.0, &[], confirm(), Ok(vec![confirmed()]));
    check(0.0, &[confirmed()], confirm(), Ok(vec![]));
    check(0.0, &[confirmed()], abandon(), Err(Refusal::Confirmed));
    check(0.0, &[], abandon(), Ok(vec![abandoned()]));
    check(0.0, &[abandoned()], abandon(), Ok(vec![]));
    check(0.0, &[abandoned()], confirm(), Err(Refusal::Abandoned));
    check(0.0, &[confirmed(), reported(GameResult::Draw)], abandon(), Err(Refusal::Confirmed));
}

#[test]
fn result_is_accepted_once_after_confirmation() {
    let report = Action::Report;
    check(0.0, &[], report(GameResult::Draw), Err(Refusal::NotConfirmed));
    check(0.0, &[abandoned()], report(GameResult::Draw), Err(Refusal::Abandoned));
    check(0.0, &[confirmed()], report(GameResult::First), Ok(vec![reported(GameResult::First)]));
    let given = [confirmed(), reported(GameResult::First)];
    check(0.0, &given, report(GameResult::First), Ok(vec![]));
    check(0.0, &given, report(GameResult::Second), Err(Refusal::AlreadyReported));
}

#[test]
fn due_match_expires_and_accepts_no_result() {
    check(7199.9, &[confirmed()], Action::Expire, Ok(vec![]));
    check(7200.0, &[confirmed()], Action::Expire, Ok(vec![MatchExpired {}.into()]));
    let given = [confirmed(), MatchExpired {}.into()];
    check(7200.0, &given, Action::Expire, Ok(vec![]));
    check(7200.0, &given, Action::Report(GameResult::Draw), Err(Refusal::Expired));
    check(9000.0, &[confirmed(), reported(GameResult::Draw)], Action::Expire, Ok(vec![]));
}

#[test]
fn commands_to_an_unknown_match_are_refused() {
    for action in [confirm(), abandon(), Action::Report(GameResult::Draw), Action::Expire] {
        let command = Command { at: at(0.0), action };
        assert_eq!(decided::<GameMatchDecider>(&[], &command), Err(Refusal::Missing));
    }
    assert_eq!(Refusal::Missing.kind(), RefusalKind::NotFound);
}
