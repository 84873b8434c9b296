use event_schemas::failure::FailureCode;
use event_schemas::job::{
    JobCancelled, JobClaimed, JobCompleted, JobFailed, JobLeaseExpired, JobPhaseChanged, JobRetryScheduled,
    RetryReason, RetryState,
};
use event_schemas::worker::WorkerEnd;
use serde_json::json;

use super::*;
use crate::scenario::{JOB, at, created, decided, error, id, lease};

use JobKind::{ProductVideoMatching, VideoAnalysis};
use Phase::*;

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "the calls read better without borrows")]
fn check(given: &[JobEvent], action: Action, then: Result<Vec<JobEvent>, Refusal>) {
    assert_eq!(decided::<Job>(given, &Command { at: at(0.0), action }), then);
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
    JobProgressReported { lease_id: lease(n), stage, fraction, items_done: None, items_total: None }
}

fn progress(report: JobProgressReported) -> Action {
    Action::ReportProgress { report, eta_priors: Vec::new() }
}

fn fail(n: Option<u128>, message: &str) -> Action {
    Action::Fail { lease_id: n.map(lease), error: error(message), left_alone_until: None }
}

fn completed(from: Phase, lease_id: Option<LeaseId>) -> JobEvent {
    JobCompleted { from, lease_id, result: Some(json!(1)) }.into()
}

const RETRY: Action = Action::Retry { eta_priors: Vec::new() };

#[test]
fn creating_the_same_job_again_records_nothing_and_another_under_its_id_is_refused() {
    let first = created(VideoAnalysis);
    check(&[], Action::Create(first.clone()), Ok(vec![first.clone().into()]));
    check(&[first.clone().into()], Action::Create(first.clone()), Ok(vec![]));
    let other = JobCreated { name: Some("other".to_owned()), ..first.clone() };
    check(&[first.into()], Action::Create(other), Err(Refusal::Exists));
}

#[test]
fn a_job_that_was_not_created_takes_nothing() {
    for action in [to(Matching), claim(1, "w"), RETRY, Action::Cancel { reason: None }] {
        check(&[], action, Err(Refusal::Missing));
    }
    assert_eq!(Refusal::Missing.kind(), RefusalKind::NotFound);
}

#[test]
fn phases_move_forward_one_by_one_or_over_some() {
    let given = [job(ProductVideoMatching)];
    check(&given, to(Collecting), Ok(vec![changed(Queued, Collecting)]));
    check(&given, to(Evidence), Ok(vec![changed(Queued, Evidence)]));
}

#[test]
fn phases_never_move_backwards_nor_into_another_kinds_pipeline() {
    let given = [job(ProductVideoMatching), changed(Queued, Matching)];
    for phase in [Queued, Collecting, Extracting, Transcribing] {
        let refusal = Refusal::Backwards { kind: ProductVideoMatching, from: Matching, to: phase };
        assert_eq!(refusal.kind(), RefusalKind::Conflict);
        assert!(refusal.to_string().ends_with("it can go to evidence, completed, failed or cancelled"));
        check(&given, to(phase), Err(refusal));
    }
}

#[test]
fn repeating_the_present_phase_records_nothing() {
    check(&[job(ProductVideoMatching)], to(Queued), Ok(vec![]));
    check(&[job(ProductVideoMatching), changed(Queued, Matching)], to(Matching), Ok(vec![]));
    check(&[job(ProductVideoMatching), completed(Matching, None)], to(Completed), Ok(vec![]));
    check(&[job(ProductVideoMatching), failed()], to(Failed), Ok(vec![]));
}

#[test]
fn the_ends_have_events_of_their_own() {
    let given = [job(ProductVideoMatching), changed(Queued, Matching)];
    let completed = JobCompleted { from: Matching, lease_id: None, result: None };
    check(&given, to(Completed), Ok(vec![completed.into()]));
    let cancelled = JobCancelled { from: Matching, reason: None };
    check(&given, to(Cancelled), Ok(vec![cancelled.into()]));
    let action = Action::ChangePhase { to: Failed, reason: Some("disk full".to_owned()), eta_priors: vec![] };
    let events = decided::<Job>(&given, &Command { at: at(0.0), action }).unwrap();
    let [JobEvent::JobFailed(failed)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(failed.error.code, FailureCode::InsufficientStorage);
}

#[test]
fn from_every_phase_but_an_end_a_job_may_fail_or_be_cancelled() {
    for stage in &pipeline::stages(ProductVideoMatching)[..5] {
        let mut given = vec![job(ProductVideoMatching)];
        if stage.phase != Queued {
            given.push(changed(Queued, stage.phase));
        }
        for phase in [Failed, Cancelled] {
            assert_eq!(decided::<Job>(&given, &Command { at: at(0.0), action: to(phase) }).unwrap().len(), 1);
        }
    }
}

#[test]
fn an_ended_job_takes_nothing_more() {
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
fn a_cancellation_that_is_repeated_records_nothing() {
    let given = [job(VideoAnalysis), JobCancelled { from: Queued, reason: None }.into()];
    check(&given, Action::Cancel { reason: Some("again".to_owned()) }, Ok(vec![]));
}

#[test]
fn only_a_failed_job_is_retried_and_a_retry_raises_the_attempt() {
    let given = [job(ProductVideoMatching), changed(Queued, Matching), failed()];
    check(&given, RETRY, Ok(vec![changed(Failed, Queued)]));
    check(&given, to(Queued), Ok(vec![changed(Failed, Queued)]));
    let retried = given.into_iter().chain([changed(Failed, Queued)]);
    let state = retried.fold(State::default(), |state, event| Job::evolve(state, &event, at(0.0)));
    assert_eq!(state.life().unwrap().attempt, 2);
    assert_eq!(state.standing(), Standing::Open);
    check(&[job(ProductVideoMatching)], RETRY, Err(Refusal::NotFailed(Queued)));
    check(&[job(ProductVideoMatching), changed(Queued, Matching)], RETRY, Err(Refusal::NotFailed(Matching)));
}

#[test]
fn a_retry_that_arrives_twice_records_nothing_the_second_time() {
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
fn a_matching_job_is_claimed_by_its_requests_only() {
    check(&[job(ProductVideoMatching)], claim(1, "w"), Err(Refusal::ClaimedInParts(ProductVideoMatching)));
}

#[test]
fn a_lease_that_runs_out_makes_the_job_claimable_and_uses_no_attempt() {
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
fn a_report_under_a_lost_lease_is_refused() {
    let expired = JobLeaseExpired { lease_id: lease(1), worker_id: id("w"), end: None }.into();
    let given = [job(VideoAnalysis), claimed(1), expired, claimed(2)];
    assert_eq!(Refusal::LeaseLost.kind(), RefusalKind::LeaseLost);
    check(&given, progress(report(1, Downloading, 0.5)), Err(Refusal::LeaseLost));
    check(&given, Action::Complete { lease_id: Some(lease(1)), result: None }, Err(Refusal::LeaseLost));
    check(&given, fail(Some(1), "x"), Err(Refusal::LeaseLost));
}

#[test]
fn while_a_worker_holds_the_job_nobody_ends_it_without_its_lease() {
    let given = [job(VideoAnalysis), claimed(1)];
    check(&given, Action::Complete { lease_id: None, result: None }, Err(Refusal::Held));
    check(&given, fail(None, "x"), Err(Refusal::Held));
    let given = [job(VideoAnalysis)];
    let completed = JobCompleted { from: Queued, lease_id: None, result: None };
    check(&given, Action::Complete { lease_id: None, result: None }, Ok(vec![completed.into()]));
}

#[test]
fn the_end_of_a_job_is_the_end_of_its_lease() {
    let given = [job(VideoAnalysis), claimed(1), completed(Queued, Some(lease(1)))];
    let state = given.iter().fold(State::default(), |state, event| Job::evolve(state, event, at(0.0)));
    assert_eq!(state.life().unwrap().lease, None);
}

#[test]
fn an_end_that_is_reported_again_records_nothing_but_another_result_is_refused() {
    let given = [job(VideoAnalysis), claimed(1), completed(Queued, Some(lease(1)))];
    let complete = |n, result| Action::Complete { lease_id: Some(lease(n)), result };
    check(&given, complete(1, Some(json!(1))), Ok(vec![]));
    check(&given, complete(1, Some(json!(2))), Err(Refusal::Ended(Completed)));
    check(&given, complete(2, Some(json!(1))), Err(Refusal::Ended(Completed)));
    let failed =
        decided::<Job>(&given[..2], &Command { at: at(0.0), action: fail(Some(1), "private video") });
    let given: Vec<_> = given[..2].iter().cloned().chain(failed.unwrap()).collect();
    check(&given, fail(Some(1), "private video"), Ok(vec![]));
    check(&given, fail(Some(2), "private video"), Err(Refusal::Ended(Failed)));
}

#[test]
fn progress_beyond_the_phase_moves_the_job_there() {
    let given = [job(VideoAnalysis), claimed(1)];
    let reported = report(1, Transcribing, 0.25);
    check(&given, progress(reported.clone()), Ok(vec![changed(Queued, Transcribing), reported.into()]));
}

#[test]
fn progress_never_goes_down() {
    let given =
        [job(VideoAnalysis), claimed(1), changed(Queued, Transcribing), report(1, Transcribing, 0.5).into()];
    check(&given, progress(report(1, Transcribing, 0.5)), Ok(vec![]));
    check(&given, progress(report(1, Transcribing, 0.4)), Ok(vec![]));
    check(&given, progress(report(1, Downloading, 1.0)), Ok(vec![]));
    let more = report(1, Transcribing, 0.6);
    check(&given, progress(more.clone()), Ok(vec![more.into()]));
}

#[test]
fn a_report_of_more_items_but_a_lesser_fraction_does_not_take_progress_back() {
    let items = JobProgressReported { items_done: Some(5), ..report(1, Downloading, 0.2) };
    let events =
        [job(VideoAnalysis), claimed(1), changed(Queued, Downloading), report(1, Downloading, 0.5).into()];
    check(&events, progress(items.clone()), Ok(vec![items.clone().into()]));
    let all = events.iter().cloned().chain([items.into()]);
    let state = all.fold(State::default(), |state, event| Job::evolve(state, &event, at(0.0)));
    assert!((state.life().unwrap().progress_percentage() - 15.0).abs() < 1e-9);
}

#[test]
fn a_further_attempt_begins_each_stage_anew() {
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
        let state = events.iter().fold(State::default(), |state, event| Job::evolve(state, event, at(0.0)));
        state.life().unwrap().progress_percentage()
    };
    assert!(progressed(&events).abs() < 1e-9);
    let little = report(2, Downloading, 0.1);
    check(&events, progress(little.clone()), Ok(vec![little.clone().into()]));
    let events: Vec<JobEvent> = events.into_iter().chain([little.into()]).collect();
    assert!((progressed(&events) - 3.0).abs() < 1e-9);
}

#[test]
fn progress_that_makes_no_sense_is_refused() {
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
fn a_job_is_claimable_while_it_is_open_unheld_and_due() {
    let life = |events: &[JobEvent]| {
        let state = events.iter().fold(State::default(), |state, event| Job::evolve(state, event, at(0.0)));
        state.life().unwrap().clone()
    };
    assert!(life(&[job(VideoAnalysis)]).is_claimable(at(0.0)));
    assert!(!life(&[job(VideoAnalysis), claimed(1)]).is_claimable(at(0.0)));
    assert!(!life(&[job(VideoAnalysis), failed()]).is_claimable(at(0.0)));
    assert!(!life(&[job(ProductVideoMatching)]).is_claimable(at(0.0)));
    let scheduled = JobRetryScheduled { attempt: 2, due_at: at(10.0), reason: None };
    let waiting = life(&[job(VideoAnalysis), failed(), scheduled.into()]);
    assert_eq!((waiting.attempt, waiting.phase), (2, Queued));
    assert!(!waiting.is_claimable(at(9.0)));
    assert!(waiting.is_claimable(at(10.0)));
}

#[test]
fn a_scheduled_retry_that_is_asked_for_begins_at_once_and_uses_up_no_try() {
    let scheduled = |attempt, seconds, reason| {
        JobRetryScheduled { attempt, due_at: at(seconds), reason: Some(reason) }.into()
    };
    let waiting = [job(VideoAnalysis), failed(), scheduled(2, 60.0, RetryReason::Backoff)];
    let state = waiting.iter().fold(State::default(), |state, event| Job::evolve(state, event, at(0.0)));
    let retry = |state: &State, seconds| {
        let command = Command { at: at(seconds), action: Action::Retry { eta_priors: Vec::new() } };
        Job::decide(&command, state).unwrap()
    };
    let events = retry(&state, 10.0);
    assert_eq!(events, [Occurred { at: at(10.0), event: scheduled(2, 10.0, RetryReason::Asked) }]);
    let asked =
        events.iter().fold(state.clone(), |state, happened| Job::evolve(state, &happened.event, happened.at));
    let (before, after) = (state.life().unwrap(), asked.life().unwrap());
    assert!(!before.is_claimable(at(10.0)) && after.is_claimable(at(10.0)));
    assert_eq!((after.attempt, after.tally), (before.attempt, before.tally));
    assert_eq!(retry(&asked, 11.0), [], "asked once more, there is nothing to wait for");
    assert_eq!(retry(&state, 60.0), [], "a retry that is due begins by itself");
}

#[test]
fn every_refusal_says_the_way_out_in_lower_case() {
    let refusal = Refusal::Ended(Failed);
    assert_eq!(refusal.to_string(), "the job has ended as failed and takes nothing more; retry it first");
    assert_eq!(created(VideoAnalysis).job_id, JOB);
}
