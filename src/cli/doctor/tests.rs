use read_api::routes::projection::dto::{LagState, ProjectionStateDto, RebuildDto};

use super::super::projections::tests::{failure, jobs, progress};
use super::*;

#[test]
fn only_a_read_model_that_works_is_ok() {
    let stop = Some(failure());
    let rebuild = |failed| Some(RebuildDto { generation: 2, progress: progress(), failed });
    let cases = [
        (jobs(), Verdict::Ok),
        (ProjectionDto { rebuild: rebuild(None), ..jobs() }, Verdict::Ok),
        (ProjectionDto { rebuild: rebuild(stop.clone()), ..jobs() }, Verdict::Warn),
        (ProjectionDto { state: ProjectionStateDto::Paused, ..jobs() }, Verdict::Warn),
        (ProjectionDto { state: ProjectionStateDto::CatchingUp, ..jobs() }, Verdict::Warn),
        (ProjectionDto { lag_state: LagState::Behind, ..jobs() }, Verdict::Warn),
        (ProjectionDto { lag_state: LagState::TooFarBehind, ..jobs() }, Verdict::Fail),
        (ProjectionDto { state: ProjectionStateDto::Retrying, stop: stop.clone(), ..jobs() }, Verdict::Fail),
        (ProjectionDto { state: ProjectionStateDto::Stopped, stop, ..jobs() }, Verdict::Fail),
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
