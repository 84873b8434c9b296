use event_schemas::ids::LeaseId;
use event_schemas::job::JobKind;
use event_schemas::stream::StreamId;
use proptest::prelude::*;
use uuid::Uuid;

use super::super::recording::Recording;
use super::*;
use crate::decider::Decider;
use crate::job::{Action, Command, JobDecider, State};
use crate::scenario::{at, created, error, id};

const TIMEOUT: &str = "read timed out";
const ODD: &str = "index out of range";

/// How an attempt ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Fails(&'static str),
    Completes,
    Cancelled,
}

/// Records what the decider says about jobs whose attempts end like this.
fn record(jobs: &[Vec<Ending>]) -> Recording {
    let mut recording = Recording::default();
    for (number, endings) in (1_u128..).zip(jobs) {
        let job = JobId(Uuid::from_u128(number));
        let (mut state, mut now) = (State::default(), at(0.0));
        let mut act = |now: Timestamp, action: Action| {
            let Ok(decided) = JobDecider::decide(&Command { at: now, action }, &state) else { return None };
            for new in decided {
                state = JobDecider::evolve(std::mem::take(&mut state), &new.event, new.at);
                recording.add(StreamId::job(job), new.at, Event::Job(new.event));
            }
            Some(state.details().and_then(|details| details.due_at))
        };
        let mut creation = created(JobKind::VideoAnalysis);
        creation.job_id = job;
        act(now, Action::Create(creation)).unwrap();
        for (number, ending) in (number * 1000..).zip(endings) {
            let lease_id = LeaseId(Uuid::from_u128(number));
            let claimed = Action::Claim { lease_id, worker_id: id("w"), lease_until: at(1e9) };
            // A job that failed for good is not claimed any more.
            let Some(due) = act(now, claimed) else { break };
            now = due.map_or(now, |due| due.max(now));
            let action = match ending {
                Ending::Fails(message) => {
                    Action::Fail { lease_id: Some(lease_id), error: error(message), circuit_open_until: None }
                }
                Ending::Completes => Action::Complete { lease_id: Some(lease_id), result: None },
                Ending::Cancelled => Action::Cancel { reason: None },
            };
            act(now, action).unwrap();
            now = now.after(Duration::from_secs(3600));
        }
    }
    recording
}

fn compare(recording: &Recording, policies: RetryPolicies) -> RetryComparison {
    let mut replay = RetryReplay::new(policies, Position::START);
    recording.0.iter().for_each(|envelope| replay.apply(envelope));
    replay.finish()
}

fn network(retries: u32, base_seconds: u32) -> RetryPolicies {
    let policy = RetryPolicy { retries, base_seconds, cap_seconds: 600, backoff: Backoff::Fixed };
    RetryPolicies { network: Some(policy), ..RetryPolicies::default() }
}

use Ending::{Cancelled, Completes, Fails};

#[test]
fn fewer_retries_lose_completions_and_save_attempts() {
    let recording = record(&[
        vec![Fails(TIMEOUT), Completes],
        vec![Fails(TIMEOUT), Fails(TIMEOUT), Completes],
        vec![Fails(TIMEOUT), Fails(TIMEOUT), Fails(TIMEOUT), Fails(TIMEOUT)],
        vec![Fails(TIMEOUT), Cancelled],
        vec![Completes],
    ]);
    let found = compare(&recording, network(1, 10));
    assert_eq!((found.jobs, found.failures), (4, 8));
    let RetryOutcomes { retries, completed, stopped, cancelled, .. } = found.recorded;
    assert_eq!((retries, completed, stopped, cancelled), (7, 2, 1, 1));
    let RetryOutcomes { retries, completed, stopped, cancelled, .. } = found.other;
    assert_eq!((retries, completed, stopped, cancelled), (4, 1, 2, 1));
    assert_eq!((found.lost_completions, found.saved_attempts), (1, 3));
    let delays = found.other.delay_seconds.unwrap();
    assert!(delays.count == 4 && delays.max <= 10.0 && delays.mean >= 5.0, "{delays:?}");
}

#[test]
fn outcome_of_more_retries_than_recorded_cannot_be_told() {
    let endings = vec![Fails(TIMEOUT); 4];
    let found = compare(&record(&[endings]), network(9, 1));
    assert_eq!((found.recorded.stopped, found.recorded.cannot_tell), (1, 0));
    assert_eq!((found.other.stopped, found.other.cannot_tell, found.other.retries), (0, 1, 4));
    assert_eq!((found.lost_completions, found.saved_attempts), (0, 0));
    // An unknown error is retried once, unless its policy says otherwise.
    let policy = RetryPolicy { retries: 2, base_seconds: 1, cap_seconds: 1, backoff: Backoff::Linear };
    let unknown = RetryPolicies { unknown: Some(policy), ..RetryPolicies::default() };
    let odd = record(&[vec![Fails(ODD), Fails(ODD)]]);
    assert_eq!(compare(&odd, RetryPolicies::default()).other.stopped, 1);
    assert_eq!(compare(&odd, unknown).other.cannot_tell, 1);
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        4 => prop_oneof![
            Just(TIMEOUT), Just(ODD), Just("out of memory"), Just("minio: internal error"), Just("No such file or directory"),
            Just("429 Too Many Requests; retry after 30 seconds"),
        ].prop_map(Fails),
        1 => Just(Completes),
        1 => Just(Cancelled),
    ]
}

proptest! {
    #[test]
    fn policies_in_force_decide_as_recorded(jobs in proptest::collection::vec(proptest::collection::vec(ending(), 0..8), 0..12)) {
        let found = compare(&record(&jobs), RetryPolicies::default());
        prop_assert_eq!(found.recorded, found.other);
        prop_assert_eq!((found.lost_completions, found.saved_attempts), (0, 0));
        let RetryOutcomes { completed, stopped, cancelled, open, .. } = found.recorded;
        prop_assert_eq!(completed + stopped + cancelled + open, found.jobs);
    }
}
