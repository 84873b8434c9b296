use event_schemas::image_match::MatchEvidenceAttached;

use super::*;
use crate::scenario::{at, decided, found, id};

fn report(ids: &[&str]) -> Action {
    Action::Report(ids.iter().map(|id| (found(id, 0.5), at(1.0))).collect())
}

fn attach(match_id: &str, path: &str) -> Action {
    Action::AttachEvidence { match_id: id(match_id), evidence_path: path.to_owned(), at: at(2.0) }
}

fn attached(match_id: &str, path: &str, replaces: bool) -> ImageMatchEvent {
    MatchEvidenceAttached { match_id: id(match_id), evidence_path: path.to_owned(), replaces }.into()
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(given: &[ImageMatchEvent], action: Action, then: Result<Vec<ImageMatchEvent>, Refusal>) {
    assert_eq!(
        decided::<ImageMatchShardDecider>(given, &Command { job: JobAvailability::Open, action }),
        then
    );
}

#[test]
fn match_is_recorded_once_even_if_repeated_in_a_batch() {
    check(&[], report(&["a", "b", "a"]), Ok(vec![found("a", 0.5).into(), found("b", 0.5).into()]));
    check(&[found("a", 0.5).into()], report(&["a", "b"]), Ok(vec![found("b", 0.5).into()]));
    check(&[found("a", 0.5).into()], report(&["a"]), Ok(vec![]));
}

#[test]
fn first_report_of_a_match_wins() {
    let again = Action::Report(vec![(found("a", 0.9), at(2.0))]);
    check(&[found("a", 0.5).into()], again, Ok(vec![]));
}

#[test]
fn match_keeps_the_time_at_which_it_was_found() {
    let command = Command { job: JobAvailability::Open, action: report(&["a"]) };
    let decided = ImageMatchShardDecider::decide(&command, &State::default()).unwrap();
    assert_eq!(decided[0].at, at(1.0));
}

#[test]
fn evidence_for_an_unknown_match_is_refused() {
    let refusal = Refusal::NoMatch(id("a"));
    assert_eq!(refusal.kind(), RefusalKind::NotFound);
    check(&[], attach("a", "x.png"), Err(refusal));
    check(&[found("a", 0.5).into()], attach("a", "x.png"), Ok(vec![attached("a", "x.png", false)]));
}

#[test]
fn same_evidence_records_nothing_and_other_replaces_it() {
    let given = [found("a", 0.5).into(), attached("a", "x.png", false)];
    check(&given, attach("a", "x.png"), Ok(vec![]));
    check(&given, attach("a", "y.png"), Ok(vec![attached("a", "y.png", true)]));
    let mut with_evidence = found("a", 0.5);
    with_evidence.evidence_path = Some("x.png".to_owned());
    check(&[with_evidence.into()], attach("a", "x.png"), Ok(vec![]));
}

#[test]
fn matches_of_an_ended_job_are_refused() {
    for phase in [Phase::Completed, Phase::Failed, Phase::Cancelled] {
        for action in [report(&["a"]), attach("a", "x.png")] {
            let command = Command { job: JobAvailability::Ended(phase), action };
            assert_eq!(
                decided::<ImageMatchShardDecider>(&[found("a", 0.5).into()], &command),
                Err(Refusal::JobEnded(phase))
            );
        }
    }
    let command = Command { job: JobAvailability::Missing, action: report(&["a"]) };
    assert_eq!(decided::<ImageMatchShardDecider>(&[], &command), Err(Refusal::NoJob));
}
