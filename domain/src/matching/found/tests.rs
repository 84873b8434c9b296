use event_schemas::matching::MatchEvidenceAttached;

use super::*;
use crate::scenario::{at, decided, found, id};

fn report(ids: &[&str]) -> Action {
    Action::Report(ids.iter().map(|id| (found(id, 0.5), at(1.0))).collect())
}

fn attach(match_id: &str, path: &str) -> Action {
    Action::AttachEvidence { match_id: id(match_id), evidence_path: path.to_owned(), at: at(2.0) }
}

fn attached(match_id: &str, path: &str, replaces: bool) -> MatchingEvent {
    MatchEvidenceAttached { match_id: id(match_id), evidence_path: path.to_owned(), replaces }.into()
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(given: &[MatchingEvent], action: Action, then: Result<Vec<MatchingEvent>, Refusal>) {
    assert_eq!(decided::<Matches>(given, &Command { job: Standing::Open, action }), then);
}

#[test]
fn a_match_is_recorded_once_also_when_it_comes_twice_in_a_batch() {
    check(&[], report(&["a", "b", "a"]), Ok(vec![found("a", 0.5).into(), found("b", 0.5).into()]));
    check(&[found("a", 0.5).into()], report(&["a", "b"]), Ok(vec![found("b", 0.5).into()]));
    check(&[found("a", 0.5).into()], report(&["a"]), Ok(vec![]));
}

#[test]
fn the_first_report_of_a_match_holds() {
    let again = Action::Report(vec![(found("a", 0.9), at(2.0))]);
    check(&[found("a", 0.5).into()], again, Ok(vec![]));
}

#[test]
fn a_match_keeps_the_instant_at_which_it_was_found() {
    let command = Command { job: Standing::Open, action: report(&["a"]) };
    let decided = Matches::decide(&command, &State::default()).unwrap();
    assert_eq!(decided[0].at, at(1.0));
}

#[test]
fn evidence_belongs_to_a_match_that_was_reported() {
    let refusal = Refusal::NoMatch(id("a"));
    assert_eq!(refusal.kind(), RefusalKind::NotFound);
    check(&[], attach("a", "x.png"), Err(refusal));
    check(&[found("a", 0.5).into()], attach("a", "x.png"), Ok(vec![attached("a", "x.png", false)]));
}

#[test]
fn the_same_evidence_again_records_nothing_and_other_evidence_takes_its_place() {
    let given = [found("a", 0.5).into(), attached("a", "x.png", false)];
    check(&given, attach("a", "x.png"), Ok(vec![]));
    check(&given, attach("a", "y.png"), Ok(vec![attached("a", "y.png", true)]));
    let mut with_evidence = found("a", 0.5);
    with_evidence.evidence_path = Some("x.png".to_owned());
    check(&[with_evidence.into()], attach("a", "x.png"), Ok(vec![]));
}

#[test]
fn once_the_job_has_ended_no_match_is_taken() {
    for phase in [Phase::Completed, Phase::Failed, Phase::Cancelled] {
        for action in [report(&["a"]), attach("a", "x.png")] {
            let command = Command { job: Standing::Ended(phase), action };
            assert_eq!(
                decided::<Matches>(&[found("a", 0.5).into()], &command),
                Err(Refusal::JobEnded(phase))
            );
        }
    }
    let command = Command { job: Standing::Missing, action: report(&["a"]) };
    assert_eq!(decided::<Matches>(&[], &command), Err(Refusal::NoJob));
}
