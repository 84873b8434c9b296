//! Many scheduled retries, in simulated time.

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
/// The shortest step of time, which bounds the duration of the test.
const STEP: Duration = Duration::from_millis(50);
const TERM: Duration = Duration::from_secs(45);

fn at(micros: u64) -> Timestamp {
    Timestamp::EPOCH.after(Duration::from_micros(micros))
}

fn job(n: u64) -> JobId {
    JobId(Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()))
}

/// The due time of a job's retry: all within ten minutes, in random order, some at the same instant.
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
        service: None,
        message: String::new(),
        user_message: String::new(),
        suggested_actions: Vec::new(),
        retryable: true,
        retry_after_seconds: None,
        retry_after_requested: false,
        support_reference: String::new(),
    }
}

/// The history of all jobs: created, failed, and scheduled for a retry.
fn history() -> Vec<Envelope> {
    let mut events = Vec::new();
    for n in 0..JOBS {
        let kind = JobKind::ExtractCutouts;
        let created =
            JobCreated { job_id: job(n), kind, source: None, name: None, metadata: Default::default() };
        let retry_state = Some(RetryState::InProgress);
        let failed = JobFailed { attempt: 1, lease_id: None, error: error(), retry_state };
        let retry = JobRetryScheduled { attempt: 2, due_at: due(n), reason: Some(RetryReason::Backoff) };
        let job_events: [JobEvent; 3] = [created.into(), failed.into(), retry.into()];
        for (revision, event) in (0..).zip(job_events) {
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

/// All work that can be claimed now.
fn claim_all(board: &WorkBoard) -> Vec<JobId> {
    board.take_expired();
    match board.reserve(&tenant(), &[WorkKind::ExtractCutouts], usize::MAX, None) {
        ReserveOutcome::Reserved(reservations) => reservations
            .into_iter()
            .map(|reservation| {
                let job = reservation.work.job_id();
                reservation.confirm(Position(u64::MAX));
                job
            })
            .collect(),
        ReserveOutcome::Empty(_) => Vec::new(),
    }
}

#[test]
fn retries_fire_once_and_on_time_over_restarts() {
    let history = history();
    let clock = Clock::manual(Timestamp::EPOCH);
    let end = Position(history.len() as u64);
    let mut waiting: BTreeSet<(Timestamp, JobId)> = (0..JOBS).map(|n| (due(n), job(n))).collect();
    for restart in 1..=RESTARTS {
        let board = WorkBoard::new(clock.clone(), TERM);
        board.apply(&history, end);
        board.go_live();
        // Work that was due before the restart is ready again, because this log has no claim of it.
        let fallen_due: BTreeSet<JobId> = (0..JOBS).filter(|n| due(*n) <= clock.now()).map(job).collect();
        assert_eq!(claim_all(&board).into_iter().collect::<BTreeSet<_>>(), fallen_due);
        waiting.retain(|(due, _)| *due > clock.now());
        let until = at(600_000_000 / RESTARTS * restart);
        while clock.now() < until {
            let next = waiting.first().map(|(due, _)| *due);
            assert_eq!(board.next_deadline(), next, "at {}", clock.now());
            // To the next due instant exactly, or by `STEP` if that is further.
            let step = next.map_or(until, |next| next.max(clock.now().after(STEP)).min(until));
            clock.set(step);
            let claimed: BTreeSet<JobId> = claim_all(&board).into_iter().collect();
            let later = waiting.split_off(&(step.after(Duration::from_micros(1)), JobId(Uuid::nil())));
            let fell_due = std::mem::replace(&mut waiting, later);
            assert_eq!(claimed, fell_due.into_iter().map(|(_, job)| job).collect(), "at {step}");
        }
    }
    assert!(waiting.is_empty());
}
