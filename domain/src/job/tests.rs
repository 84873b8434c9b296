use event_schemas::failure::FailureCode;
use event_schemas::job::{
    JobCancelled, JobClaimed, JobCompleted, JobFailed, JobLeaseExpired, JobPhaseChanged, JobRetryScheduled,
    RetryReason, RetryState,
};
use event_schemas::worker::WorkerEnd;
use serde_json::json;

use super::*;
use crate::scenario::{JOB, at, created, decided, error, id, lease};

use JobKind::{CutoutSync, ProductVideoMatching, VideoAnalysis};
use Phase::*;

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(given: &[JobEvent], action: Action, then: Result<Vec<JobEvent>, Refusal>) {
    assert_eq!(decided::<JobDecider>(given, &Command { at: at(0.0), action }), then);
}

fn job(kind: JobKind) -> JobEvent {
    created(kind).into()
}

fn changed(from: Phase, to: Phase) -> JobEvent {
    JobPhaseChanged { from, to, reason: None, eta_priors: Vec::new() }.into()
}

fn to(to: Phase) -> Action {
    Action::ChangePhase { to, reason: None, eta_priors: Vec::new() }
}

fn failed() -> JobEvent {
    JobFailed { attempt: 1, lease_id: None, error: error("oom"), retry_state: Some(RetryState::NoPolicy) }
        .into()
}

fn claimed(n: u128) -> JobEvent {
    JobClaimed { lease_id: lease(n), worker_id: id("w"), attempt: 1, lease_until: at(45.0) }.into()
}

fn claim(n: u128, worker: &str) -> Action {
    Action::Claim { lease_id: lease(n), worker_id: id(worker), lease_until: at(45.0) }
}

fn report(n: u128, stage: Phase, fraction: f64) -> JobProgressReported {
    JobProgressReported {
        lease_id: lease(n),
        stage,
        fraction,
        items_done: None,
        items_total: None,
        checkpoint: None,
        items: None,
    }
}

fn progress(report: JobProgressReported) -> Action {
    Action::ReportProgress { report, eta_priors: Vec::new() }
}

fn fail(n: Option<u128>, message: &str) -> Action {
    Action::Fail { lease_id: n.map(lease), error: error(message), circuit_open_until: None }
}

fn completed(from: Phase, lease_id: Option<LeaseId>) -> JobEvent {
    JobCompleted { from, lease_id, result: Some(json!(1).into()) }.into()
}

const RETRY: Action = Action::Retry { eta_priors: Vec::new() };

#[test]
fn job_is_created_once_per_id() {
    let first = created(VideoAnalysis);
    check(&[], Action::Create(first.clone()), Ok(vec![first.clone().into()]));
    check(&[first.clone().into()], Action::Create(first.clone()), Ok(vec![]));
    let other = JobCreated { name: Some("other".to_owned()), ..first.clone() };
    check(&[first.into()], Action::Create(other), Err(Refusal::Exists));
}

#[test]
fn commands_to_an_unknown_job_are_refused() {
    for action in [to(Matching), claim(1, "w"), RETRY, Action::Cancel { reason: None }] {
        check(&[], action, Err(Refusal::Missing));
    }
    assert_eq!(Refusal::Missing.kind(), RefusalKind::NotFound);
}

#[test]
fn phases_move_forward_and_may_be_skipped() {
    let given = [job(ProductVideoMatching)];
    check(&given, to(Collecting), Ok(vec![changed(Queued, Collecting)]));
    check(&given, to(Evidence), Ok(vec![changed(Queued, Evidence)]));
}

#[test]
fn phases_never_move_back_or_to_another_pipeline() {
    let given = [job(ProductVideoMatching), changed(Queued, Matching)];
    for phase in [Queued, Collecting, Extracting, Transcribing] {
        let refusal = Refusal::Backwards { kind: ProductVideoMatching, from: Matching, to: phase };
        assert_eq!(refusal.kind(), RefusalKind::Conflict);
        assert!(refusal.to_string().ends_with("it can go to evidence, completed, failed or cancelled"));
        check(&given, to(phase), Err(refusal));
    }
}

#[test]
fn repeating_the_current_phase_records_nothing() {
    check(&[job(ProductVideoMatching)], to(Queued), Ok(vec![]));
    check(&[job(ProductVideoMatching), changed(Queued, Matching)], to(Matching), Ok(vec![]));
    check(&[job(ProductVideoMatching), completed(Matching, None)], to(Completed), Ok(vec![]));
    check(&[job(ProductVideoMatching), failed()], to(Failed), Ok(vec![]));
}

#[test]
fn end_phases_have_their_own_events() {
    let given = [job(ProductVideoMatching), changed(Queued, Matching)];
    let completed = JobCompleted { from: Matching, lease_id: None, result: None };
    check(&given, to(Completed), Ok(vec![completed.into()]));
    let cancelled = JobCancelled { from: Matching, reason: None };
    check(&given, to(Cancelled), Ok(vec![cancelled.into()]));
    let action = Action::ChangePhase { to: Failed, reason: Some("disk full".to_owned()), eta_priors: vec![] };
    let events = decided::<JobDecider>(&given, &Command { at: at(0.0), action }).unwrap();
    let [JobEvent::JobFailed(failed)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(failed.error.code, FailureCode::InsufficientStorage);
}

#[test]
fn open_job_may_fail_or_be_cancelled_in_every_phase() {
    for stage in &pipeline::stages(ProductVideoMatching)[..5] {
        let mut given = vec![job(ProductVideoMatching)];
        if stage.phase != Queued {
            given.push(changed(Queued, stage.phase));
        }
        for phase in [Failed, Cancelled] {
            assert_eq!(
                decided::<JobDecider>(&given, &Command { at: at(0.0), action: to(phase) }).unwrap().len(),
                1
            );
        }
    }
}

#[test]
fn ended_job_accepts_no_changes() {
    for (end, phase) in [
        (completed(Queued, None), Completed),
        (failed(), Failed),
        (JobCancelled { from: Queued, reason: None }.into(), Cancelled),
    ] {
        let given = [job(VideoAnalysis), end];
        let refusal = Refusal::Ended(phase);
        assert_eq!(refusal.kind(), RefusalKind::Conflict);
        check(&given, to(Downloading), Err(refusal.clone()));
        check(&given, claim(1, "w"), Err(refusal.clone()));
        check(&given, progress(report(1, Downloading, 0.5)), Err(refusal.clone()));
        if phase != Cancelled {
            check(&given, Action::Cancel { reason: None }, Err(refusal));
        }
    }
}

#[test]
fn repeated_cancellation_records_nothing() {
    let given = [job(VideoAnalysis), JobCancelled { from: Queued, reason: None }.into()];
    check(&given, Action::Cancel { reason: Some("again".to_owned()) }, Ok(vec![]));
}

#[test]
fn retry_of_a_failed_job_increments_the_attempt() {
    let given = [job(ProductVideoMatching), changed(Queued, Matching), failed()];
    check(&given, RETRY, Ok(vec![changed(Failed, Queued)]));
    check(&given, to(Queued), Ok(vec![changed(Failed, Queued)]));
    let retried = given.into_iter().chain([changed(Failed, Queued)]);
    let state = retried.fold(State::default(), |state, event| JobDecider::evolve(state, &event, at(0.0)));
    assert_eq!(state.details().unwrap().attempt, 2);
    assert_eq!(state.availability(), JobAvailability::Open);
    check(&[job(ProductVideoMatching)], RETRY, Err(Refusal::NotFailed(Queued)));
    check(&[job(ProductVideoMatching), changed(Queued, Matching)], RETRY, Err(Refusal::NotFailed(Matching)));
}

#[test]
fn repeated_retry_records_nothing() {
    check(&[job(VideoAnalysis), failed(), changed(Failed, Queued)], RETRY, Ok(vec![]));
}

#[test]
fn one_lease_is_in_force_at_a_time() {
    let given = [job(VideoAnalysis)];
    check(&given, claim(1, "w"), Ok(vec![claimed(1)]));
    check(&[job(VideoAnalysis), claimed(1)], claim(1, "w"), Ok(vec![]));
    check(&[job(VideoAnalysis), claimed(1)], claim(2, "other"), Err(Refusal::Held));
}

#[test]
fn matching_job_cannot_be_claimed_as_a_whole() {
    check(&[job(ProductVideoMatching)], claim(1, "w"), Err(Refusal::ClaimedInParts(ProductVideoMatching)));
}

#[test]
fn expired_lease_makes_the_job_claimable_again() {
    let expire = |n| Action::ExpireLease { lease_id: lease(n), end: WorkerEnd::Lost };
    let expired: JobEvent =
        JobLeaseExpired { lease_id: lease(1), worker_id: id("w"), end: Some(WorkerEnd::Lost) }.into();
    let given = [job(VideoAnalysis), claimed(1)];
    check(&given, expire(1), Ok(vec![expired.clone()]));
    check(&given, expire(2), Ok(vec![]));
    let given = [job(VideoAnalysis), claimed(1), expired];
    check(&given, expire(1), Ok(vec![]));
    check(&given, claim(2, "w"), Ok(vec![claimed(2)]));
}

#[test]
fn report_under_a_lost_lease_is_refused() {
    let expired = JobLeaseExpired { lease_id: lease(1), worker_id: id("w"), end: None }.into();
    let given = [job(VideoAnalysis), claimed(1), expired, claimed(2)];
    assert_eq!(Refusal::LeaseLost.kind(), RefusalKind::LeaseLost);
    check(&given, progress(report(1, Downloading, 0.5)), Err(Refusal::LeaseLost));
    check(&given, Action::Complete { lease_id: Some(lease(1)), result: None }, Err(Refusal::LeaseLost));
    check(&given, fail(Some(1), "x"), Err(Refusal::LeaseLost));
}

#[test]
fn leased_job_cannot_be_ended_without_its_lease() {
    let given = [job(VideoAnalysis), claimed(1)];
    check(&given, Action::Complete { lease_id: None, result: None }, Err(Refusal::Held));
    check(&given, fail(None, "x"), Err(Refusal::Held));
    let given = [job(VideoAnalysis)];
    let completed = JobCompleted { from: Queued, lease_id: None, result: None };
    check(&given, Action::Complete { lease_id: None, result: None }, Ok(vec![completed.into()]));
}

#[test]
fn end_of_a_job_ends_its_lease() {
    let given = [job(VideoAnalysis), claimed(1), completed(Queued, Some(lease(1)))];
    let state = given.iter().fold(State::default(), |state, event| JobDecider::evolve(state, event, at(0.0)));
    assert_eq!(state.details().unwrap().lease, None);
}

#[test]
fn repeated_end_records_nothing_and_another_is_refused() {
    let given = [job(VideoAnalysis), claimed(1), completed(Queued, Some(lease(1)))];
    let complete = |n, result| Action::Complete { lease_id: Some(lease(n)), result };
    check(&given, complete(1, Some(json!(1).into())), Ok(vec![]));
    check(&given, complete(1, Some(json!(2).into())), Err(Refusal::Ended(Completed)));
    check(&given, complete(2, Some(json!(1).into())), Err(Refusal::Ended(Completed)));
    let failed =
        decided::<JobDecider>(&given[..2], &Command { at: at(0.0), action: fail(Some(1), "private video") });
    let given: Vec<_> = given[..2].iter().cloned().chain(failed.unwrap()).collect();
    check(&given, fail(Some(1), "private video"), Ok(vec![]));
    check(&given, fail(Some(2), "private video"), Err(Refusal::Ended(Failed)));
}

#[test]
fn progress_of_a_later_stage_changes_the_phase() {
    let given = [job(VideoAnalysis), claimed(1)];
    let reported = report(1, Transcribing, 0.25);
    check(&given, progress(reported.clone()), Ok(vec![changed(Queued, Transcribing), reported.into()]));
}

#[test]
fn progress_never_decreases() {
    let given =
        [job(VideoAnalysis), claimed(1), changed(Queued, Transcribing), report(1, Transcribing, 0.5).into()];
    check(&given, progress(report(1, Transcribing, 0.5)), Ok(vec![]));
    check(&given, progress(report(1, Transcribing, 0.4)), Ok(vec![]));
    check(&given, progress(report(1, Downloading, 1.0)), Ok(vec![]));
    let more = report(1, Transcribing, 0.6);
    check(&given, progress(more.clone()), Ok(vec![more.into()]));
}

#[test]
fn more_items_with_a_lower_fraction_keep_the_progress() {
    let items = JobProgressReported { items_done: Some(5), ..report(1, Downloading, 0.2) };
    let events =
        [job(VideoAnalysis), claimed(1), changed(Queued, Downloading), report(1, Downloading, 0.5).into()];
    check(&events, progress(items.clone()), Ok(vec![items.clone().into()]));
    let all = events.iter().cloned().chain([items.into()]);
    let state = all.fold(State::default(), |state, event| JobDecider::evolve(state, &event, at(0.0)));
    assert!((state.details().unwrap().progress_percentage() - 15.0).abs() < 1e-9);
}

#[test]
fn new_attempt_resets_the_progress() {
    let retried = JobRetryScheduled { attempt: 2, due_at: at(0.0), reason: None };
    let events = [
        job(VideoAnalysis),
        claimed(1),
        changed(Queued, Downloading),
        report(1, Downloading, 0.9).into(),
        failed(),
        retried.into(),
        claimed(2),
        changed(Queued, Downloading),
    ];
    let progressed = |events: &[JobEvent]| {
        let state =
            events.iter().fold(State::default(), |state, event| JobDecider::evolve(state, event, at(0.0)));
        state.details().unwrap().progress_percentage()
    };
    assert!(progressed(&events).abs() < 1e-9);
    let little = report(2, Downloading, 0.1);
    check(&events, progress(little.clone()), Ok(vec![little.clone().into()]));
    let events: Vec<JobEvent> = events.into_iter().chain([little.into()]).collect();
    assert!((progressed(&events) - 3.0).abs() < 1e-9);
}

#[test]
fn checkpoint_outlives_attempts_and_ends_with_the_job() {
    let at_page = |n: u128, page: u32| JobProgressReported {
        checkpoint: Some(serde_json::json!({"page": page}).into()),
        ..report(n, Processing, 0.0)
    };
    let mut events =
        vec![job(CutoutSync), claimed(1), changed(Queued, Processing), report(1, Processing, 0.0).into()];
    // The same progress is news if the checkpoint is.
    check(&events, progress(at_page(1, 1)), Ok(vec![at_page(1, 1).into()]));
    events.push(at_page(1, 1).into());
    check(&events, progress(at_page(1, 1)), Ok(vec![]));
    let retried = JobRetryScheduled { attempt: 2, due_at: at(0.0), reason: None };
    events.extend([failed(), retried.into(), claimed(2)]);
    let checkpoint = |events: &[JobEvent]| {
        let state =
            events.iter().fold(State::default(), |state, event| JobDecider::evolve(state, event, at(0.0)));
        state.details().unwrap().checkpoint.as_ref().map(event_schemas::json_text::JsonText::to_value)
    };
    assert_eq!(checkpoint(&events), Some(serde_json::json!({"page": 1})));
    events.push(JobCompleted { from: Processing, lease_id: Some(lease(2)), result: None }.into());
    assert_eq!(checkpoint(&events), None);
    let long = JobProgressReported {
        checkpoint: Some(serde_json::json!("x".repeat(CHECKPOINT_BYTES_MAX - 1)).into()),
        ..report(1, Processing, 0.0)
    };
    let given = [job(CutoutSync), claimed(1)];
    check(&given, progress(long), Err(Refusal::CheckpointTooLong(CHECKPOINT_BYTES_MAX + 1)));
}

#[test]
fn invalid_progress_is_refused() {
    let given = [job(VideoAnalysis), claimed(1)];
    for fraction in [-0.1, 1.1, f64::NAN] {
        check(&given, progress(report(1, Downloading, fraction)), Err(Refusal::Fraction));
    }
    for phase in [Queued, Completed, Failed, Cancelled, Matching] {
        let refusal = Refusal::NoSuchPhase { kind: VideoAnalysis, phase };
        assert_eq!(refusal.kind(), RefusalKind::Invalid);
        check(&given, progress(report(1, phase, 0.5)), Err(refusal));
    }
    let many =
        JobProgressReported { items_done: Some(3), items_total: Some(2), ..report(1, Downloading, 0.5) };
    check(&given, progress(many), Err(Refusal::TooManyItems { done: 3, total: 2 }));
}

#[test]
fn job_is_claimable_while_open_unleased_and_due() {
    let state = |events: &[JobEvent]| {
        let folded =
            events.iter().fold(State::default(), |state, event| JobDecider::evolve(state, event, at(0.0)));
        folded.details().unwrap().clone()
    };
    assert!(state(&[job(VideoAnalysis)]).is_claimable(at(0.0)));
    assert!(!state(&[job(VideoAnalysis), claimed(1)]).is_claimable(at(0.0)));
    assert!(!state(&[job(VideoAnalysis), failed()]).is_claimable(at(0.0)));
    assert!(!state(&[job(ProductVideoMatching)]).is_claimable(at(0.0)));
    let scheduled = JobRetryScheduled { attempt: 2, due_at: at(10.0), reason: None };
    let waiting = state(&[job(VideoAnalysis), failed(), scheduled.into()]);
    assert_eq!((waiting.attempt, waiting.phase), (2, Queued));
    assert!(!waiting.is_claimable(at(9.0)));
    assert!(waiting.is_claimable(at(10.0)));
}

#[test]
fn requested_retry_starts_at_once_and_uses_no_retry() {
    let scheduled = |attempt, seconds, reason| {
        JobRetryScheduled { attempt, due_at: at(seconds), reason: Some(reason) }.into()
    };
    let waiting = [job(VideoAnalysis), failed(), scheduled(2, 60.0, RetryReason::Backoff)];
    let state =
        waiting.iter().fold(State::default(), |state, event| JobDecider::evolve(state, event, at(0.0)));
    let retry = |state: &State, seconds| {
        let command = Command { at: at(seconds), action: Action::Retry { eta_priors: Vec::new() } };
        JobDecider::decide(&command, state).unwrap()
    };
    let events = retry(&state, 10.0);
    assert_eq!(events, [Occurred { at: at(10.0), event: scheduled(2, 10.0, RetryReason::Asked) }]);
    let asked = events
        .iter()
        .fold(state.clone(), |state, happened| JobDecider::evolve(state, &happened.event, happened.at));
    let (before, after) = (state.details().unwrap(), asked.details().unwrap());
    assert!(!before.is_claimable(at(10.0)) && after.is_claimable(at(10.0)));
    assert_eq!((after.attempt, after.retry_counts), (before.attempt, before.retry_counts));
    assert_eq!(retry(&asked, 11.0), [], "a second request changes nothing");
    assert_eq!(retry(&state, 60.0), [], "a due retry starts automatically");
}

#[test]
fn refusals_are_lower_case_and_name_the_next_step() {
    let refusal = Refusal::Ended(Failed);
    assert_eq!(
        refusal.to_string(),
        "the job has ended as failed and accepts no more changes; retry it first"
    );
    assert_eq!(created(VideoAnalysis).job_id, JOB);
}

#[test]
fn extraction_that_got_further_is_not_a_crash_loop() {
    let items = |checkpoint: &str| JobProgressReported {
        checkpoint: Some(json!(checkpoint).into()),
        ..report(2, Processing, 0.5)
    };
    let lost = |n| {
        JobEvent::from(JobLeaseExpired { lease_id: lease(n), worker_id: id("w"), end: Some(WorkerEnd::Lost) })
    };
    let expire = Action::ExpireLease { lease_id: lease(2), end: WorkerEnd::Lost };
    let start = [job(JobKind::ExtractCutouts), claimed(1), lost(1), claimed(2)];
    let command = Command { at: at(0.0), action: expire };
    let ends = |given: &[JobEvent]| decided::<JobDecider>(given, &command).unwrap().len();
    assert_eq!(ends(&start), 3, "the lease ends, the job fails and is quarantined");
    let progressed = [&start[..], &[items("a").into()]].concat();
    assert_eq!(ends(&progressed), 1, "the lease ends");
    // The same place twice.
    let again = [&progressed[..], &[lost(2), claimed(3), items("a").into()]].concat();
    let command =
        Command { at: at(0.0), action: Action::ExpireLease { lease_id: lease(3), end: WorkerEnd::Lost } };
    assert_eq!(decided::<JobDecider>(&again, &command).unwrap().len(), 3);
}
