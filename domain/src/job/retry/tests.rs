use event_schemas::ids::LeaseId;
use event_schemas::job::{
    JobClaimed, JobEvent, JobFailed, JobKind, JobLeaseExpired, JobPhaseChanged, JobQuarantined,
    JobRetryScheduled, Phase, QuarantineReason,
};
use proptest::prelude::*;

use super::*;
use crate::decider::Decider;
use crate::job::{Action, Command, Job, Refusal, State, failure};
use crate::scenario::{JOB, at, created, id, lease};

const TIMEOUT: &str = "read timed out";
const CORRUPT_STORE: &str = "minio: internal error";
const MISSING: &str = "No such file or directory";
const OOM: &str = "out of memory";
const ODD: &str = "index out of range";

/// An analysis that workers take and lose, in simulated time.
struct Tried {
    now: f64,
    state: State,
    events: Vec<JobEvent>,
    leases: u128,
}

impl Tried {
    fn new() -> Self {
        let mut tried = Self { now: 0.0, state: State::default(), events: Vec::new(), leases: 0 };
        tried.act(Action::Create(created(JobKind::VideoAnalysis))).unwrap();
        tried
    }

    fn act(&mut self, action: Action) -> Result<Vec<JobEvent>, Refusal> {
        let decided = Job::decide(&Command { at: at(self.now), action }, &self.state)?;
        let mut events = Vec::new();
        for new in decided {
            self.state = Job::evolve(std::mem::take(&mut self.state), &new.event, new.at);
            events.push(new.event);
        }
        self.events.extend(events.iter().cloned());
        Ok(events)
    }

    fn lease(&self) -> LeaseId {
        lease(self.leases)
    }

    /// Somebody takes the job as soon as it is due.
    fn claim(&mut self) {
        self.leases += 1;
        let due = self.state.life().unwrap().due_at;
        self.now = due.map_or(self.now, |due| due.seconds_since(at(0.0)));
        let action = Action::Claim { lease_id: self.lease(), worker_id: id("w"), lease_until: at(1e9) };
        self.act(action).unwrap();
    }

    /// Somebody takes the job and fails; answers what was recorded.
    fn fail(&mut self, message: &str) -> Vec<JobEvent> {
        self.fail_while(message, None)
    }

    fn fail_while(&mut self, message: &str, left_alone_until: Option<Timestamp>) -> Vec<JobEvent> {
        self.claim();
        let attempt = self.state.life().unwrap().attempt;
        let error = failure::classify(message, None, None, JOB, attempt);
        self.act(Action::Fail { lease_id: Some(self.lease()), error, left_alone_until }).unwrap()
    }

    /// Somebody takes the job and goes away.
    fn leave(&mut self, end: WorkerEnd) -> Vec<JobEvent> {
        self.claim();
        self.act(Action::ExpireLease { lease_id: self.lease(), end }).unwrap()
    }

    /// Fails with this message until the job is not tried again; answers the pauses and why it stopped.
    fn fail_until_it_stops(&mut self, message: &str) -> (Vec<f64>, RetryState) {
        let mut pauses = Vec::new();
        loop {
            let events = self.fail(message);
            match outcome(&events) {
                (RetryState::InProgress, Some(retry)) => {
                    pauses.push(retry.due_at.seconds_since(at(self.now)));
                }
                (state, _) => return (pauses, state),
            }
        }
    }
}

/// Why it is, or is not, tried again, and the retry.
#[track_caller]
fn outcome(events: &[JobEvent]) -> (RetryState, Option<JobRetryScheduled>) {
    let failed = events.iter().find_map(|event| match event {
        JobEvent::JobFailed(JobFailed { retry_state, .. }) => *retry_state,
        _ => None,
    });
    let retry = events.iter().find_map(|event| match event {
        JobEvent::JobRetryScheduled(retry) => Some(retry.clone()),
        _ => None,
    });
    (failed.unwrap_or_else(|| panic!("{events:?}")), retry)
}

#[track_caller]
fn check_pauses(message: &str, full: &[f64], state: RetryState) {
    let (pauses, stopped) = Tried::new().fail_until_it_stops(message);
    assert_eq!(stopped, state, "{message}");
    assert_eq!(pauses.len(), full.len(), "{message}: {pauses:?}");
    for (pause, full) in pauses.iter().zip(full) {
        assert!((full / 2.0..=*full).contains(pause), "{message}: {pauses:?} of {full:?}");
    }
}

#[test]
fn each_class_of_error_is_tried_again_as_often_and_after_as_long_as_its_policy_says() {
    check_pauses(TIMEOUT, &[2.0, 4.0, 8.0], RetryState::MaximumAttempts);
    check_pauses(MISSING, &[5.0, 10.0], RetryState::MaximumAttempts);
    check_pauses(CORRUPT_STORE, &[1.0, 2.0, 4.0, 8.0], RetryState::MaximumAttempts);
    check_pauses("no space left on device", &[60.0, 120.0], RetryState::MaximumAttempts);
    check_pauses(ODD, &[5.0], RetryState::MaximumAttempts);
}

#[test]
fn what_cannot_go_well_another_time_is_not_tried_again() {
    for message in ["invalid url", "video not found", "private video", "unsupported codec", "invalid api key"]
    {
        check_pauses(message, &[], RetryState::NonRetryable);
    }
}

#[test]
fn pauses_double_grow_or_stay_and_never_pass_their_cap() {
    let policy = |backoff| Policy { backoff, ..NETWORK };
    let full = |backoff, n| {
        let delay = policy(backoff).delay(JOB, n).as_secs_f64();
        delay / (0.5 + 0.5 * hash(JOB, n))
    };
    let grown = |backoff| [1, 2, 3, 4, 5, 6, 40].map(|n| full(backoff, n).round());
    assert_eq!(grown(Backoff::Exponential), [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
    assert_eq!(grown(Backoff::Linear), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 30.0]);
    assert_eq!(grown(Backoff::Fixed), [2.0; 7]);
    assert_eq!(policy(Backoff::Immediate).delay(JOB, 3), Duration::ZERO);
}

#[test]
fn the_policies_are_those_of_the_contract() {
    let of = |message| Policy::of(&failure::classify(message, None, None, JOB, 1));
    let told = |policy: Policy| (policy.retries, policy.base.as_secs(), policy.cap.as_secs(), policy.backoff);
    assert_eq!(told(of(TIMEOUT)), (3, 2, 30, Backoff::Exponential));
    assert_eq!(told(of(MISSING)), (2, 5, 120, Backoff::Exponential));
    assert_eq!(told(of(CORRUPT_STORE)), (4, 1, 60, Backoff::Exponential));
    assert_eq!(told(of(OOM)), (2, 30, 120, Backoff::Linear));
    assert_eq!(told(of(ODD)), (1, 5, 5, Backoff::Fixed));
    assert_eq!(of("worker is shutting down").backoff, Backoff::Immediate);
}

proptest! {
    #[test]
    fn a_replay_draws_the_same_pause_between_half_and_all_of_it(job: u128, n in 1_u32..50) {
        let job = JobId(Uuid::from_u128(job));
        let pause = NETWORK.delay(job, n);
        prop_assert_eq!(pause, NETWORK.delay(job, n));
        let full = Policy { base: NETWORK.base, ..NETWORK };
        let all = full.base.saturating_mul(2_u32.saturating_pow(n - 1)).min(full.cap);
        prop_assert!(pause >= all / 2 && pause <= all);
    }
}

#[test]
fn jobs_that_failed_together_come_back_spread_out() {
    let mut drawn: Vec<f64> = (0..1000).map(|n| hash(JobId(Uuid::from_u128(n)), 1)).collect();
    drawn.sort_by(f64::total_cmp);
    for (index, drawn) in drawn.iter().enumerate() {
        assert!((drawn - index as f64 / 1000.0).abs() < 0.06, "{index}: {drawn}");
    }
}

#[test]
fn each_class_has_tries_of_its_own() {
    let mut tried = Tried::new();
    for message in [TIMEOUT, MISSING, TIMEOUT, ODD, MISSING, TIMEOUT] {
        assert_eq!(outcome(&tried.fail(message)).0, RetryState::InProgress, "{message}");
    }
    assert_eq!(outcome(&tried.fail(TIMEOUT)).0, RetryState::MaximumAttempts);
}

#[test]
fn what_is_not_known_is_tried_again_once_whichever_attempt_it_was() {
    let mut tried = Tried::new();
    tried.fail(TIMEOUT);
    let events = tried.fail(ODD);
    assert_eq!(outcome(&events).0, RetryState::InProgress);
    let JobEvent::JobFailed(failed) = &events[0] else { panic!("{events:?}") };
    assert!(failed.error.retryable);
    let events = tried.fail(ODD);
    assert_eq!(outcome(&events).0, RetryState::MaximumAttempts);
    let JobEvent::JobFailed(failed) = &events[0] else { panic!("{events:?}") };
    assert!(!failed.error.retryable);
}

#[test]
fn a_rate_limited_attempt_waits_as_told_and_uses_no_try() {
    let mut tried = Tried::new();
    for _ in 0..20 {
        let (_, retry) = outcome(&tried.fail("HTTP 429, retry after 17 s"));
        let retry = retry.unwrap();
        assert_eq!(retry.reason, Some(RetryReason::RateLimited));
        assert_eq!(retry.due_at, at(tried.now + 17.0));
    }
    assert_eq!(tried.fail_until_it_stops(CORRUPT_STORE).0.len(), 4);
}

#[test]
fn what_fails_at_a_service_that_is_left_alone_is_parked_and_uses_no_try() {
    let mut tried = Tried::new();
    for n in 1..=10 {
        let until = at(300.0 * f64::from(n));
        let (state, retry) = outcome(&tried.fail_while(CORRUPT_STORE, Some(until)));
        let retry = retry.unwrap();
        assert_eq!((state, retry.reason), (RetryState::InProgress, Some(RetryReason::Parked)));
        assert_eq!(retry.due_at, until);
    }
    assert_eq!(tried.fail_until_it_stops(CORRUPT_STORE).0.len(), 4);
    let mut too_late = Tried::new();
    let (_, retry) = outcome(&too_late.fail_while(CORRUPT_STORE, Some(at(0.0))));
    assert_eq!(retry.unwrap().reason, Some(RetryReason::Backoff));
}

#[test]
fn a_worker_that_was_stopped_uses_no_try_and_is_no_crash() {
    let mut tried = Tried::new();
    for _ in 0..10 {
        let (_, retry) = outcome(&tried.fail("the worker is shutting down"));
        let retry = retry.unwrap();
        assert_eq!((retry.reason, retry.due_at), (Some(RetryReason::Interrupted), at(tried.now)));
        let events = tried.leave(WorkerEnd::Stopped);
        assert!(matches!(events.as_slice(), [JobEvent::JobLeaseExpired(_)]), "{events:?}");
    }
    assert_eq!(tried.fail_until_it_stops(TIMEOUT).0.len(), 3);
}

#[test]
fn a_lost_worker_uses_no_attempt() {
    let mut tried = Tried::new();
    let events = tried.leave(WorkerEnd::Lost);
    assert!(matches!(events.as_slice(), [JobEvent::JobLeaseExpired(_)]), "{events:?}");
    assert_eq!(tried.state.life().unwrap().attempt, 1);
    assert_eq!(tried.fail_until_it_stops(TIMEOUT).0.len(), 3);
}

#[test]
fn a_worker_that_is_stopped_after_another_was_lost_does_not_make_it_two() {
    let mut tried = Tried::new();
    tried.leave(WorkerEnd::Lost);
    let events = tried.leave(WorkerEnd::Stopped);
    assert!(matches!(events.as_slice(), [JobEvent::JobLeaseExpired(_)]), "{events:?}");
}

#[test]
fn two_crashes_in_a_row_quarantine_the_job() {
    let quarantined: JobEvent = JobQuarantined { reason: QuarantineReason::CrashLoop }.into();
    for first in [WorkerEnd::Lost, WorkerEnd::OutOfMemory, WorkerEnd::Crashed] {
        for second in [WorkerEnd::Lost, WorkerEnd::OutOfMemory, WorkerEnd::Crashed] {
            let mut tried = Tried::new();
            tried.leave(first);
            let events = tried.leave(second);
            let [JobEvent::JobLeaseExpired(JobLeaseExpired { end, .. }), JobEvent::JobFailed(failed), last] =
                events.as_slice()
            else {
                panic!("{events:?}")
            };
            assert_eq!((*end, failed.retry_state), (Some(second), Some(RetryState::CrashLoop)));
            let code = match second {
                WorkerEnd::OutOfMemory => FailureCode::OutOfMemory,
                _ => FailureCode::WorkerLost,
            };
            assert_eq!((failed.error.code, last), (code, &quarantined));
        }
    }
    let mut tried = Tried::new();
    assert_eq!(outcome(&tried.fail(OOM)).0, RetryState::InProgress);
    let events = tried.fail(OOM);
    assert_eq!((outcome(&events).0, events.last()), (RetryState::CrashLoop, Some(&quarantined)));
    let mut mixed = Tried::new();
    mixed.leave(WorkerEnd::Lost);
    assert_eq!(outcome(&mixed.fail(OOM)).0, RetryState::CrashLoop);
}

#[test]
fn crashes_with_another_end_between_them_quarantine_nothing() {
    let mut tried = Tried::new();
    for _ in 0..2 {
        tried.leave(WorkerEnd::Lost);
        assert_eq!(outcome(&tried.fail(TIMEOUT)).0, RetryState::InProgress);
    }
}

#[test]
fn taking_a_job_up_by_hand_gives_it_all_its_tries_again() {
    let mut tried = Tried::new();
    tried.leave(WorkerEnd::Lost);
    tried.leave(WorkerEnd::Lost);
    let events = tried.act(Action::Retry { eta_priors: Vec::new() }).unwrap();
    assert!(matches!(
        events.as_slice(),
        [JobEvent::JobPhaseChanged(JobPhaseChanged { to: Phase::Queued, .. })]
    ));
    tried.leave(WorkerEnd::Lost);
    assert_eq!(tried.fail_until_it_stops(TIMEOUT).0.len(), 3);
    tried.act(Action::Retry { eta_priors: Vec::new() }).unwrap();
    assert_eq!(tried.fail_until_it_stops(TIMEOUT).0.len(), 3);
}

#[test]
fn a_failure_that_is_reported_again_after_its_retry_was_scheduled_records_nothing() {
    let mut tried = Tried::new();
    tried.fail(TIMEOUT);
    let again = |tried: &mut Tried, n| {
        let error = failure::classify(TIMEOUT, None, None, JOB, 1);
        tried.act(Action::Fail { lease_id: Some(lease(n)), error, left_alone_until: None })
    };
    assert_eq!(again(&mut tried, 1), Ok(Vec::new()));
    tried.claim();
    assert_eq!(again(&mut tried, 1), Ok(Vec::new()));
    let claims = tried.events.iter().filter(|event| matches!(event, JobEvent::JobClaimed(JobClaimed { .. })));
    assert_eq!(claims.count(), 2);
    assert_eq!(again(&mut tried, 7), Err(Refusal::LeaseLost));
}

#[test]
fn who_leads_a_job_without_a_lease_says_whether_it_is_tried_again() {
    let mut tried = Tried::new();
    let error = failure::classify(TIMEOUT, None, None, JOB, 1);
    let events = tried.act(Action::Fail { lease_id: None, error, left_alone_until: None }).unwrap();
    assert_eq!(outcome(&events), (RetryState::NoPolicy, None));
}
