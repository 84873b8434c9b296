use projections::status::{LagState, RebuildStatus, ReportedState};

use super::super::projections::tests::{failure, jobs, progress};
use super::*;

#[test]
fn only_a_read_model_that_works_is_ok() {
    let stop = Some(failure());
    let rebuild = |failed| Some(RebuildStatus { generation: 2, progress: progress(), failed });
    let cases = [
        (jobs(), Verdict::Ok),
        (ProjectionStatus { rebuild: rebuild(None), ..jobs() }, Verdict::Ok),
        (ProjectionStatus { rebuild: rebuild(stop.clone()), ..jobs() }, Verdict::Warn),
        (ProjectionStatus { state: ReportedState::Paused, ..jobs() }, Verdict::Warn),
        (ProjectionStatus { state: ReportedState::CatchingUp, ..jobs() }, Verdict::Warn),
        (ProjectionStatus { lag_state: LagState::Behind, ..jobs() }, Verdict::Warn),
        (ProjectionStatus { lag_state: LagState::TooFarBehind, ..jobs() }, Verdict::Fail),
        (ProjectionStatus { state: ReportedState::Retrying, stop: stop.clone(), ..jobs() }, Verdict::Fail),
        (ProjectionStatus { state: ReportedState::Stopped, stop, ..jobs() }, Verdict::Fail),
    ];
    for (projection, verdict) in cases {
        let finding = read_model(&projection);
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert_eq!(finding.remedy.is_none(), verdict == Verdict::Ok, "{finding:?}");
        if projection.stop.is_some() {
            assert!(finding.found.contains("the disk is broken"), "{finding:?}");
            assert_eq!(finding.remedy.as_deref(), Some("replace the disk"));
        }
    }
}
