use event_schemas::ids::LeaseId;
use event_schemas::job::{
    JobClaimed, JobEvent, JobFailed, JobKind, JobLeaseExpired, JobPhaseChanged, JobQuarantined,
    JobRetryScheduled, Phase, QuarantineReason,
};
use proptest::prelude::*;

use super::*;
use crate::decider::Decider;
use crate::job::{Action, Command, JobDecider, Refusal, State, failure};
use crate::scenario::{JOB, at, created, id, lease};

const TIMEOUT: &str = "read timed out";
const CORRUPT_STORE: &str = "minio: internal error";
const MISSING: &str = "No such file or directory";
const OOM: &str = "out of memory";
const ODD: &str = "index out of range";

/// An analysis that workers claim and lose, in simulated time.
struct RetryScenario {
    now: f64,
    state: State,
    events: Vec<JobEvent>,
    leases: u128,
}

impl RetryScenario {
    fn new() -> Self {
        let mut scenario = Self { now: 0.0, state: State::default(), events: Vec::new(), leases: 0 };
        scenario.act(Action::Create(created(JobKind::VideoAnalysis))).unwrap();
        scenario
    }

    fn act(&mut self, action: Action) -> Result<Vec<JobEvent>, Refusal> {
        let decided = JobDecider::decide(&Command { at: at(self.now), action }, &self.state)?;
        let mut events = Vec::new();
        for new in decided {
            self.state = JobDecider::evolve(std::mem::take(&mut self.state), &new.event, new.at);
            events.push(new.event);
        }
        self.events.extend(events.iter().cloned());
        Ok(events)
    }

    fn lease(&self) -> LeaseId {
        lease(self.leases)
    }

    /// A worker claims the job as soon as it is due.
    fn claim(&mut self) {
        self.leases += 1;
        let due = self.state.details().unwrap().due_at;
        self.now = due.map_or(self.now, |due| due.seconds_since(at(0.0)));
        let action = Action::Claim { lease_id: self.lease(), worker_id: id("w"), lease_until: at(1e9) };
        self.act(action).unwrap();
    }

    /// A worker claims the job and fails; returns the recorded events.
    fn fail(&mut self, message: &str) -> Vec<JobEvent> {
        self.fail_while(message, None)
    }

    fn fail_while(&mut self, message: &str, circuit_open_until: Option<Timestamp>) -> Vec<JobEvent> {
        self.claim();
        let attempt = self.state.details().unwrap().attempt;
        let error = failure::classify(message, None, None, JOB, attempt);
        self.act(Action::Fail { lease_id: Some(self.lease()), error, circuit_open_until }).unwrap()
    }

    /// A worker claims the job and ends without a report.
    fn leave(&mut self, end: WorkerEnd) -> Vec<JobEvent> {
        self.claim();
        self.act(Action::ExpireLease { lease_id: self.lease(), end }).unwrap()
    }

    /// Fails with this message until the job is not retried any more; returns the delays and the retry state.
    fn fail_until_it_stops(&mut self, message: &str) -> (Vec<f64>, RetryState) {
        let mut delays = Vec::new();
        loop {
            let events = self.fail(message);
            match outcome(&events) {
                (RetryState::InProgress, Some(retry)) => {
                    delays.push(retry.due_at.seconds_since(at(self.now)));
                }
                (state, _) => return (delays, state),
            }
        }
    }
}

/// The retry state of the failure, and the scheduled retry.
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
fn check_delays(message: &str, full: &[f64], state: RetryState) {
    let (delays, stopped) = RetryScenario::new().fail_until_it_stops(message);
    assert_eq!(stopped, state, "{message}");
    assert_eq!(delays.len(), full.len(), "{message}: {delays:?}");
    for (delay, full) in delays.iter().zip(full) {
        assert!((full / 2.0..=*full).contains(delay), "{message}: {delays:?} of {full:?}");
    }
}

#[test]
fn each_category_follows_its_policy() {
    check_delays(TIMEOUT, &[2.0, 4.0, 8.0], RetryState::MaximumAttempts);
    check_delays(MISSING, &[5.0, 10.0], RetryState::MaximumAttempts);
    check_delays(CORRUPT_STORE, &[1.0, 2.0, 4.0, 8.0], RetryState::MaximumAttempts);
    check_delays("no space left on device", &[60.0, 120.0], RetryState::MaximumAttempts);
    check_delays(ODD, &[5.0], RetryState::MaximumAttempts);
}

#[test]
fn permanent_errors_are_not_retried() {
    for message in ["invalid url", "video not found", "private video", "unsupported codec", "invalid api key"]
    {
        check_delays(message, &[], RetryState::NonRetryable);
    }
}

#[test]
fn requested_delay_replaces_the_backoff() {
    let delay = |message, requested, circuit_open_until| {
        let mut scenario = RetryScenario::new();
        scenario.claim();
        let error = failure::classify(message, None, requested, JOB, 1);
        let lease_id = Some(scenario.lease());
        let events = scenario.act(Action::Fail { lease_id, error, circuit_open_until }).unwrap();
        outcome(&events).1.map(|retry| retry.due_at.seconds_since(at(scenario.now)))
    };
    for message in [TIMEOUT, MISSING, CORRUPT_STORE, OOM, ODD, "HTTP 429"] {
        // Also if it is the usual delay of the error's code.
        let usual = failure::classify(message, None, None, JOB, 1).retry_after_seconds.unwrap();
        assert_eq!(delay(message, Some(usual), None), Some(f64::from(usual)), "{message}");
        assert_eq!(delay(message, Some(45), None), Some(45.0), "{message}");
        assert_eq!(delay(message, Some(45), Some(at(40.0))), Some(45.0), "{message}");
    }
    assert_eq!(delay("deepgram: 503, retry after 1m30s", None, None), Some(90.0));
    assert_eq!(delay(TIMEOUT, Some(45), Some(at(50.0))), Some(50.0));
    assert_eq!(delay("invalid api key", Some(45), None), None);
}

#[test]
fn delays_grow_by_the_backoff_up_to_the_cap() {
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
fn policies_are_the_documented_ones() {
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
    fn delay_is_deterministic_between_half_and_all(job: u128, n in 1_u32..50) {
        let job = JobId(Uuid::from_u128(job));
        let delay = NETWORK.delay(job, n);
        prop_assert_eq!(delay, NETWORK.delay(job, n));
        let full = Policy { base: NETWORK.base, ..NETWORK };
        let all = full.base.saturating_mul(2_u32.saturating_pow(n - 1)).min(full.cap);
        prop_assert!(delay >= all / 2 && delay <= all);
    }
}

#[test]
fn retries_of_simultaneous_failures_are_spread() {
    let mut drawn: Vec<f64> = (0..1000).map(|n| hash(JobId(Uuid::from_u128(n)), 1)).collect();
    drawn.sort_by(f64::total_cmp);
    for (index, drawn) in drawn.iter().enumerate() {
        assert!((drawn - index as f64 / 1000.0).abs() < 0.06, "{index}: {drawn}");
    }
}

#[test]
fn each_category_has_its_own_retries() {
    let mut scenario = RetryScenario::new();
    for message in [TIMEOUT, MISSING, TIMEOUT, ODD, MISSING, TIMEOUT] {
        assert_eq!(outcome(&scenario.fail(message)).0, RetryState::InProgress, "{message}");
    }
    assert_eq!(outcome(&scenario.fail(TIMEOUT)).0, RetryState::MaximumAttempts);
}

#[test]
fn unknown_error_is_retried_once_at_any_attempt() {
    let mut scenario = RetryScenario::new();
    scenario.fail(TIMEOUT);
    let events = scenario.fail(ODD);
    assert_eq!(outcome(&events).0, RetryState::InProgress);
    let JobEvent::JobFailed(failed) = &events[0] else { panic!("{events:?}") };
    assert!(failed.error.retryable);
    let events = scenario.fail(ODD);
    assert_eq!(outcome(&events).0, RetryState::MaximumAttempts);
    let JobEvent::JobFailed(failed) = &events[0] else { panic!("{events:?}") };
    assert!(!failed.error.retryable);
}

#[test]
fn rate_limited_attempt_uses_no_retry() {
    let mut scenario = RetryScenario::new();
    for _ in 0..20 {
        let (_, retry) = outcome(&scenario.fail("HTTP 429, retry after 17 s"));
        let retry = retry.unwrap();
        assert_eq!(retry.reason, Some(RetryReason::RateLimited));
        assert_eq!(retry.due_at, at(scenario.now + 17.0));
    }
    assert_eq!(scenario.fail_until_it_stops(CORRUPT_STORE).0.len(), 4);
}

#[test]
fn failure_with_open_circuit_is_postponed_and_uses_no_retry() {
    let mut scenario = RetryScenario::new();
    for n in 1..=10 {
        let until = at(300.0 * f64::from(n));
        let (state, retry) = outcome(&scenario.fail_while(CORRUPT_STORE, Some(until)));
        let retry = retry.unwrap();
        assert_eq!((state, retry.reason), (RetryState::InProgress, Some(RetryReason::Parked)));
        assert_eq!(retry.due_at, until);
    }
    assert_eq!(scenario.fail_until_it_stops(CORRUPT_STORE).0.len(), 4);
    let mut too_late = RetryScenario::new();
    let (_, retry) = outcome(&too_late.fail_while(CORRUPT_STORE, Some(at(0.0))));
    assert_eq!(retry.unwrap().reason, Some(RetryReason::Backoff));
}

#[test]
fn stopped_worker_uses_no_retry_and_is_no_crash() {
    let mut scenario = RetryScenario::new();
    for _ in 0..10 {
        let (_, retry) = outcome(&scenario.fail("the worker is shutting down"));
        let retry = retry.unwrap();
        assert_eq!((retry.reason, retry.due_at), (Some(RetryReason::Interrupted), at(scenario.now)));
        let events = scenario.leave(WorkerEnd::Stopped);
        assert!(matches!(events.as_slice(), [JobEvent::JobLeaseExpired(_)]), "{events:?}");
    }
    assert_eq!(scenario.fail_until_it_stops(TIMEOUT).0.len(), 3);
}

#[test]
fn lost_worker_uses_no_attempt() {
    let mut scenario = RetryScenario::new();
    let events = scenario.leave(WorkerEnd::Lost);
    assert!(matches!(events.as_slice(), [JobEvent::JobLeaseExpired(_)]), "{events:?}");
    assert_eq!(scenario.state.details().unwrap().attempt, 1);
    assert_eq!(scenario.fail_until_it_stops(TIMEOUT).0.len(), 3);
}

#[test]
fn stopped_worker_after_a_lost_one_is_no_crash_loop() {
    let mut scenario = RetryScenario::new();
    scenario.leave(WorkerEnd::Lost);
    let events = scenario.leave(WorkerEnd::Stopped);
    assert!(matches!(events.as_slice(), [JobEvent::JobLeaseExpired(_)]), "{events:?}");
}

#[test]
fn two_crashes_in_a_row_quarantine_the_job() {
    let quarantined: JobEvent = JobQuarantined { reason: QuarantineReason::CrashLoop }.into();
    for first in [WorkerEnd::Lost, WorkerEnd::OutOfMemory, WorkerEnd::Crashed] {
        for second in [WorkerEnd::Lost, WorkerEnd::OutOfMemory, WorkerEnd::Crashed] {
            let mut scenario = RetryScenario::new();
            scenario.leave(first);
            let events = scenario.leave(second);
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
    let mut scenario = RetryScenario::new();
    assert_eq!(outcome(&scenario.fail(OOM)).0, RetryState::InProgress);
    let events = scenario.fail(OOM);
    assert_eq!((outcome(&events).0, events.last()), (RetryState::CrashLoop, Some(&quarantined)));
    let mut mixed = RetryScenario::new();
    mixed.leave(WorkerEnd::Lost);
    assert_eq!(outcome(&mixed.fail(OOM)).0, RetryState::CrashLoop);
}

#[test]
fn separated_crashes_do_not_quarantine_the_job() {
    let mut scenario = RetryScenario::new();
    for _ in 0..2 {
        scenario.leave(WorkerEnd::Lost);
        assert_eq!(outcome(&scenario.fail(TIMEOUT)).0, RetryState::InProgress);
    }
}

#[test]
fn manual_retry_resets_the_retry_counts() {
    let mut scenario = RetryScenario::new();
    scenario.leave(WorkerEnd::Lost);
    scenario.leave(WorkerEnd::Lost);
    let events = scenario.act(Action::Retry { eta_priors: Vec::new() }).unwrap();
    assert!(matches!(
        events.as_slice(),
        [JobEvent::JobPhaseChanged(JobPhaseChanged { to: Phase::Queued, .. })]
    ));
    scenario.leave(WorkerEnd::Lost);
    assert_eq!(scenario.fail_until_it_stops(TIMEOUT).0.len(), 3);
    scenario.act(Action::Retry { eta_priors: Vec::new() }).unwrap();
    assert_eq!(scenario.fail_until_it_stops(TIMEOUT).0.len(), 3);
}

#[test]
fn repeated_failure_after_its_retry_records_nothing() {
    let mut scenario = RetryScenario::new();
    scenario.fail(TIMEOUT);
    let again = |scenario: &mut RetryScenario, n| {
        let error = failure::classify(TIMEOUT, None, None, JOB, 1);
        scenario.act(Action::Fail { lease_id: Some(lease(n)), error, circuit_open_until: None })
    };
    assert_eq!(again(&mut scenario, 1), Ok(Vec::new()));
    scenario.claim();
    assert_eq!(again(&mut scenario, 1), Ok(Vec::new()));
    let claims =
        scenario.events.iter().filter(|event| matches!(event, JobEvent::JobClaimed(JobClaimed { .. })));
    assert_eq!(claims.count(), 2);
    assert_eq!(again(&mut scenario, 7), Err(Refusal::LeaseLost));
}

#[test]
fn failure_without_lease_has_no_automatic_retry() {
    let mut scenario = RetryScenario::new();
    let error = failure::classify(TIMEOUT, None, None, JOB, 1);
    let events = scenario.act(Action::Fail { lease_id: None, error, circuit_open_until: None }).unwrap();
    assert_eq!(outcome(&events), (RetryState::NoPolicy, None));
}
