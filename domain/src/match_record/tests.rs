use event_schemas::ids::{EntryId, MatchRecordId, SubjectId};
use event_schemas::match_record::MatchPlayer;
use event_schemas::rating::Rating;
use uuid::Uuid;

use super::*;
use crate::rating::unproven;
use crate::scenario::{at, decided, id};

fn player(n: u128, round: u32) -> MatchPlayer {
    let rating = Rating::nearest(1500.0);
    MatchPlayer {
        subject_id: SubjectId(Uuid::from_u128(n)),
        entry_id: Some(EntryId(Uuid::from_u128(100 + n))),
        queued_at: Some(at(0.0)),
        round,
        rating,
        skill: unproven(rating),
    }
}

fn proposed(first: MatchPlayer, second: MatchPlayer) -> MatchProposed {
    MatchProposed {
        match_id: MatchRecordId(Uuid::from_u128(9)),
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

fn confirmed() -> MatchRecordEvent {
    MatchConfirmed { game_id: Some(id("g")), result_due_at: at(7200.0) }.into()
}

fn abandon() -> Action {
    Action::Abandon { reason: AbandonReason::GameServiceFailed, detail: None, eligible_at: at(1.0) }
}

fn abandoned() -> MatchRecordEvent {
    MatchAbandoned { reason: AbandonReason::GameServiceFailed, detail: None, eligible_at: at(1.0) }.into()
}

fn reported(result: GameResult) -> MatchRecordEvent {
    MatchResultReported { result }.into()
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(
    then_at: f64,
    given: &[MatchRecordEvent],
    action: Action,
    then: Result<Vec<MatchRecordEvent>, Refusal>,
) {
    let given: Vec<_> = std::iter::once(ours().into()).chain(given.iter().cloned()).collect();
    assert_eq!(decided::<MatchRecord>(&given, &Command { at: at(then_at), action }), then);
}

#[test]
fn a_match_is_proposed_once_whoever_proposes_it() {
    let propose = |proposed| Command { at: at(0.0), action: Action::Propose(proposed) };
    assert_eq!(decided::<MatchRecord>(&[], &propose(ours())), Ok(vec![ours().into()]));
    assert_eq!(decided::<MatchRecord>(&[ours().into()], &propose(ours())), Ok(vec![]));
    let turned = proposed(player(2, 0), player(1, 0));
    assert_eq!(decided::<MatchRecord>(&[ours().into()], &propose(turned)), Ok(vec![]));
    let others = proposed(player(1, 0), player(3, 0));
    assert_eq!(decided::<MatchRecord>(&[ours().into()], &propose(others)), Err(Refusal::Exists));
}

#[test]
fn a_match_is_confirmed_or_abandoned_and_never_both() {
    check(0.0, &[], confirm(), Ok(vec![confirmed()]));
    check(0.0, &[confirmed()], confirm(), Ok(vec![]));
    check(0.0, &[confirmed()], abandon(), Err(Refusal::Confirmed));
    check(0.0, &[], abandon(), Ok(vec![abandoned()]));
    check(0.0, &[abandoned()], abandon(), Ok(vec![]));
    check(0.0, &[abandoned()], confirm(), Err(Refusal::Abandoned));
    check(0.0, &[confirmed(), reported(GameResult::Draw)], abandon(), Err(Refusal::Confirmed));
}

#[test]
fn a_result_is_taken_once_and_only_of_a_game_that_has_begun() {
    let report = Action::Report;
    check(0.0, &[], report(GameResult::Draw), Err(Refusal::NotConfirmed));
    check(0.0, &[abandoned()], report(GameResult::Draw), Err(Refusal::Abandoned));
    check(0.0, &[confirmed()], report(GameResult::First), Ok(vec![reported(GameResult::First)]));
    let given = [confirmed(), reported(GameResult::First)];
    check(0.0, &given, report(GameResult::First), Ok(vec![]));
    check(0.0, &given, report(GameResult::Second), Err(Refusal::AlreadyReported));
}

#[test]
fn a_match_without_a_result_ends_by_itself_when_it_is_due_and_takes_none_afterwards() {
    check(7199.9, &[confirmed()], Action::Expire, Ok(vec![]));
    check(7200.0, &[confirmed()], Action::Expire, Ok(vec![MatchExpired {}.into()]));
    let given = [confirmed(), MatchExpired {}.into()];
    check(7200.0, &given, Action::Expire, Ok(vec![]));
    check(7200.0, &given, Action::Report(GameResult::Draw), Err(Refusal::Expired));
    check(9000.0, &[confirmed(), reported(GameResult::Draw)], Action::Expire, Ok(vec![]));
}

#[test]
fn nothing_happens_to_a_match_that_was_never_proposed() {
    for action in [confirm(), abandon(), Action::Report(GameResult::Draw), Action::Expire] {
        let command = Command { at: at(0.0), action };
        assert_eq!(decided::<MatchRecord>(&[], &command), Err(Refusal::Missing));
    }
    assert_eq!(Refusal::Missing.kind(), RefusalKind::NotFound);
}
