use super::*;
use crate::scenario::{at, decided, id};

fn command(action: Action) -> Command {
    Command { worker_id: id("w"), at: at(0.0), action }
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(given: &[WorkerEvent], action: Action, then: Result<Vec<WorkerEvent>, Refusal>) {
    assert_eq!(decided::<WorkerDecider>(given, &command(action)), then);
}

fn register(kinds: &[WorkKind], version: Option<&str>) -> Action {
    Action::Register { kinds: kinds.to_vec(), version: version.map(str::to_owned) }
}

fn registered(kinds: &[WorkKind], version: Option<&str>) -> WorkerEvent {
    WorkerRegistered { worker_id: id("w"), kinds: kinds.to_vec(), version: version.map(str::to_owned) }.into()
}

fn lost() -> WorkerEvent {
    WorkerLost { worker_id: id("w"), last_seen_at: at(0.0) }.into()
}

fn returned() -> WorkerEvent {
    WorkerReturned { worker_id: id("w") }.into()
}

fn exit(exit_code: i64) -> Action {
    Action::Exit { exit_code: Some(exit_code), signal: None, reason: None }
}

fn exited(exit_code: i64, end: WorkerEnd) -> WorkerEvent {
    WorkerExited { worker_id: id("w"), end, exit_code: Some(exit_code), signal: None, reason: None }.into()
}

const LOSE: Action = Action::Lose { last_seen_at: Timestamp::EPOCH };
const MATCHER: [WorkKind; 1] = [WorkKind::MatchRequest];
const BOTH: [WorkKind; 2] = [WorkKind::MatchRequest, WorkKind::VideoAnalysis];

#[test]
fn registering_again_unchanged_records_nothing() {
    check(&[], register(&MATCHER, Some("1")), Ok(vec![registered(&MATCHER, Some("1"))]));
    check(&[registered(&BOTH, Some("1"))], register(&[BOTH[1], BOTH[0], BOTH[1]], Some("1")), Ok(vec![]));
    check(&[registered(&BOTH, Some("1"))], register(&BOTH, None), Ok(vec![]));
}

#[test]
fn other_kinds_or_another_version_are_recorded() {
    let given = [registered(&MATCHER, Some("1"))];
    check(&given, register(&BOTH, Some("1")), Ok(vec![registered(&BOTH, Some("1"))]));
    check(&given, register(&MATCHER, Some("2")), Ok(vec![registered(&MATCHER, Some("2"))]));
}

#[test]
fn worker_without_kinds_is_refused() {
    assert_eq!(Refusal::NoKinds.kind(), RefusalKind::Invalid);
    check(&[], register(&[], None), Err(Refusal::NoKinds));
}

#[test]
fn heartbeats_of_a_present_worker_record_nothing() {
    check(&[registered(&MATCHER, None)], Action::Seen, Ok(vec![]));
}

#[test]
fn lost_or_exited_worker_returns() {
    for end in [lost(), exited(0, WorkerEnd::Stopped)] {
        let given = [registered(&MATCHER, None), end];
        check(&given, Action::Seen, Ok(vec![returned()]));
        check(&given, register(&MATCHER, None), Ok(vec![returned()]));
        check(&given, register(&BOTH, None), Ok(vec![returned(), registered(&BOTH, None)]));
        let given: Vec<_> = given.into_iter().chain([returned()]).collect();
        check(&given, Action::Seen, Ok(vec![]));
    }
}

#[test]
fn losing_or_exiting_twice_records_nothing_more() {
    let there = registered(&MATCHER, None);
    check(std::slice::from_ref(&there), LOSE, Ok(vec![lost()]));
    check(&[there.clone(), lost()], LOSE, Ok(vec![]));
    check(std::slice::from_ref(&there), exit(1), Ok(vec![exited(1, WorkerEnd::Crashed)]));
    check(&[there.clone(), exited(1, WorkerEnd::Crashed)], exit(1), Ok(vec![]));
    check(&[there, exited(1, WorkerEnd::Crashed)], LOSE, Ok(vec![]));
}

#[test]
fn late_exit_report_of_a_lost_worker_is_recorded() {
    check(&[registered(&MATCHER, None), lost()], exit(137), Ok(vec![exited(137, WorkerEnd::OutOfMemory)]));
}

#[test]
fn commands_to_an_unregistered_worker_are_refused() {
    let refusal = Refusal::Missing(id("w"));
    assert_eq!(refusal.kind(), RefusalKind::NotFound);
    for action in [Action::Seen, LOSE, exit(0)] {
        check(&[], action, Err(refusal.clone()));
    }
}

#[test]
fn exit_is_out_of_memory_a_stop_or_a_crash() {
    use WorkerEnd::{Crashed, OutOfMemory, Stopped};
    for (exit_code, signal, reason, end) in [
        (Some(137), None, None, OutOfMemory),
        (Some(1), None, Some("OOM"), OutOfMemory),
        (None, None, Some("oom"), OutOfMemory),
        (None, Some(9), None, OutOfMemory),
        (Some(0), None, None, Stopped),
        (Some(143), None, None, Stopped),
        (None, Some(15), None, Stopped),
        (None, None, Some("shutdown"), Stopped),
        (None, None, None, Stopped),
        (Some(1), None, None, Crashed),
        (Some(101), None, Some("shutdown"), Crashed),
        (None, Some(11), None, Crashed),
        (None, None, Some("index out of range"), Crashed),
    ] {
        assert_eq!(end_of(exit_code, signal, reason), end, "{exit_code:?} {signal:?} {reason:?}");
    }
}
