//! Many retries that wait at once, in simulated time.

use std::collections::BTreeSet;

use event_schemas::envelope::{Actor, Event, Metadata};
use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::Revision;
use event_schemas::job::{JobCreated, JobEvent, JobFailed, JobRetryScheduled, RetryReason, RetryState};
use event_schemas::stream::StreamId;
use uuid::Uuid;

use super::*;

const JOBS: u64 = 100_000;
const RESTARTS: u64 = 4;
/// How far time moves at least, so that the test is over some day.
const STEP: Duration = Duration::from_millis(50);
const TERM: Duration = Duration::from_secs(45);

fn at(micros: u64) -> Timestamp {
    Timestamp::EPOCH.after(Duration::from_micros(micros))
}

fn job(n: u64) -> JobId {
    JobId(Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()))
}

/// When the job's retry is due: all within ten minutes, in no order, and some at the same instant.
fn due(n: u64) -> Timestamp {
    at((job(n).0.as_u128() % 600_000_000) as u64 / 50 * 50)
}

fn tenant() -> Tenant {
    "default".parse().unwrap()
}

fn error() -> ClassifiedError {
    ClassifiedError {
        code: FailureCode::NetworkTimeout,
        category: FailureCategory::Network,
        message: String::new(),
        user_message: String::new(),
        suggested_actions: Vec::new(),
        retryable: true,
        retry_after_seconds: None,
        support_reference: String::new(),
    }
}

/// What the log says of all the jobs: created, failed, and to be tried again.
fn history() -> Vec<Envelope> {
    let mut events = Vec::new();
    for n in 0..JOBS {
        let kind = JobKind::ExtractCutouts;
        let created =
            JobCreated { job_id: job(n), kind, source: None, name: None, metadata: serde_json::Map::new() };
        let retry_state = Some(RetryState::InProgress);
        let failed = JobFailed { attempt: 1, lease_id: None, error: error(), retry_state };
        let retry = JobRetryScheduled { attempt: 2, due_at: due(n), reason: Some(RetryReason::Backoff) };
        let of_job: [JobEvent; 3] = [created.into(), failed.into(), retry.into()];
        for (revision, event) in (0..).zip(of_job) {
            let position = events.len() as u64 + 1;
            events.push(Envelope {
                position: Position(position),
                recorded_at: Timestamp::EPOCH,
                stream: StreamId::job(job(n)),
                revision: Revision(revision),
                id: EventId(Uuid::from_u128(position.into())),
                metadata: Metadata {
                    schema_version: 1,
                    occurred_at: Timestamp::EPOCH,
                    tenant: tenant(),
                    actor: Actor::System("test".parse().unwrap()),
                    correlation_id: CorrelationId(Uuid::nil()),
                    causation_id: Uuid::nil(),
                    subject: None,
                    idempotency: None,
                    traceparent: None,
                },
                event: Event::Job(event),
            });
        }
    }
    events
}

/// Everything that can be had now.
fn pick_all(board: &Board) -> Vec<JobId> {
    board.run_out();
    match board.pick(&tenant(), &[WorkKind::ExtractCutouts], usize::MAX, None) {
        Pick::Work(picked) => picked
            .into_iter()
            .map(|picked| {
                let job = picked.work.job_id();
                picked.settle(Position(u64::MAX));
                job
            })
            .collect(),
        Pick::Nothing(_) => Vec::new(),
    }
}

#[test]
fn of_a_hundred_thousand_retries_that_wait_none_is_lost_early_late_or_had_twice_over_restarts() {
    let history = history();
    let clock = Clock::manual(Timestamp::EPOCH);
    let end = Position(history.len() as u64);
    let mut waiting: BTreeSet<(Timestamp, JobId)> = (0..JOBS).map(|n| (due(n), job(n))).collect();
    for restart in 1..=RESTARTS {
        let board = Board::new(clock.clone(), TERM);
        board.apply(&history, end);
        board.go_live();
        // What fell due before the restart is had again, for nothing in this log says that somebody took it.
        let fallen_due: BTreeSet<JobId> = (0..JOBS).filter(|n| due(*n) <= clock.now()).map(job).collect();
        assert_eq!(pick_all(&board).into_iter().collect::<BTreeSet<_>>(), fallen_due);
        waiting.retain(|(due, _)| *due > clock.now());
        let until = at(600_000_000 / RESTARTS * restart);
        while clock.now() < until {
            let next = waiting.first().map(|(due, _)| *due);
            assert_eq!(board.next_deadline(), next, "at {}", clock.now());
            // The first one exactly at its instant, with all that fall due at it; the others not too many at a time.
            let step = next.map_or(until, |next| next.max(clock.now().after(STEP)).min(until));
            clock.set(step);
            let had: BTreeSet<JobId> = pick_all(&board).into_iter().collect();
            let later = waiting.split_off(&(step.after(Duration::from_micros(1)), JobId(Uuid::nil())));
            let fell_due = std::mem::replace(&mut waiting, later);
            assert_eq!(had, fell_due.into_iter().map(|(_, job)| job).collect(), "at {step}");
        }
    }
    assert!(waiting.is_empty());
}
