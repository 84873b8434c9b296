//! Test events, appended as the write side appends them.

use std::time::Duration;

use event_log::clock::Clock;
use event_log::{EventLog, Expected, Log, MemoryLog};
use event_schemas::envelope::{Actor, Cause, Event, NewEvent};
use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::{
    CommandId, CorrelationId, ImageMatchId, JobId, LeaseId, Position, ProductId, RequestId, Score, Tenant,
    VideoId, WorkerId,
};
use event_schemas::image_match::{
    Frames, MatchEvidenceAttached, MatchFound, MatchProgressReported, MatchRequestClaimed,
    MatchRequestCompleted, MatchRequested, ProductImage, ProductImagesRegistered, Totals,
    VideoFramesRegistered,
};
use event_schemas::job::{
    JobCancelled, JobCompleted, JobCreated, JobFailed, JobKind, JobPhaseChanged, JobRetryScheduled, Phase,
    RetryReason, RetryState,
};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::worker::{
    WorkKind, WorkerEnd, WorkerExited, WorkerLost, WorkerRegistered, WorkerReturned,
};
use uuid::Uuid;

/// A log in memory, its clock and its writer.
pub(crate) struct History {
    pub(crate) clock: Clock,
    memory: MemoryLog,
    commands: std::cell::Cell<u128>,
}

pub(crate) fn start_of_time() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

pub(crate) fn tenant() -> Tenant {
    "acme".parse().unwrap()
}

pub(crate) fn job(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

pub(crate) fn lease(n: u128) -> LeaseId {
    LeaseId(Uuid::from_u128(n))
}

pub(crate) fn worker(n: u32) -> WorkerId {
    format!("worker-{n}").parse().unwrap()
}

pub(crate) fn request(n: u32) -> RequestId {
    format!("request-{n}").parse().unwrap()
}

pub(crate) fn match_id(n: u32) -> ImageMatchId {
    format!("match-{n}").parse().unwrap()
}

impl History {
    pub(crate) fn new() -> Self {
        let clock = Clock::manual(start_of_time());
        let memory = MemoryLog::new(clock.clone());
        Self { clock, memory, commands: std::cell::Cell::new(1) }
    }

    pub(crate) fn log(&self) -> Log {
        Log::new(self.memory.clone())
    }

    pub(crate) fn head(&self) -> Position {
        *self.memory.head().borrow()
    }

    /// Appends the events of one command, and advances the clock by one second.
    pub(crate) async fn append(&self, stream: StreamId, events: &[Event]) -> Position {
        self.append_for(&tenant(), stream, events).await
    }

    pub(crate) async fn append_for(&self, tenant: &Tenant, stream: StreamId, events: &[Event]) -> Position {
        let command = self.commands.get();
        self.commands.set(command + 1);
        let cause = Cause {
            command_id: CommandId(Uuid::from_u128(command)),
            correlation_id: CorrelationId(Uuid::from_u128(command)),
            event_id: None,
            tenant: tenant.clone(),
            actor: Actor::Service("test".parse().unwrap()),
            subject: None,
            idempotency: None,
            traceparent: None,
        };
        let now = self.clock.now();
        let events = events
            .iter()
            .enumerate()
            .map(|(index, event)| NewEvent::encode(&cause, &stream, index, now, event))
            .collect();
        let appended = self.memory.append(&stream, Expected::Any, events).await.unwrap();
        self.clock.advance(Duration::from_secs(1));
        appended.position
    }

    /// Appends an event of an unknown type.
    pub(crate) async fn append_unreadable(&self, stream: StreamId) -> Position {
        let command = self.commands.get();
        self.commands.set(command + 1);
        let unreadable = NewEvent {
            id: event_schemas::ids::EventId(Uuid::from_u128(command)),
            event_type: event_schemas::envelope::EventType::new("UnknownEvent"),
            format: event_schemas::envelope::DataFormat::Json,
            metadata: "{}".into(),
            data: "{}".into(),
        };
        self.memory.append(&stream, Expected::Any, vec![unreadable]).await.unwrap().position
    }

    pub(crate) async fn job_created(&self, id: JobId, name: Option<&str>) -> Position {
        self.append(StreamId::job(id), &[created(id, name)]).await
    }

    pub(crate) async fn phase(&self, id: JobId, from: Phase, to: Phase) -> Position {
        self.append(StreamId::job(id), &[phase_changed(from, to)]).await
    }

    pub(crate) async fn found(&self, id: JobId, n: u32, score: f64) -> Position {
        let found = found(n, score, None);
        self.append(StreamId::image_match(id, &match_id(n)), &[found]).await
    }
}

pub(crate) fn created(id: JobId, name: Option<&str>) -> Event {
    Event::Job(
        JobCreated {
            job_id: id,
            kind: JobKind::ProductVideoMatching,
            source: None,
            name: name.map(str::to_owned),
            metadata: Default::default(),
        }
        .into(),
    )
}

pub(crate) fn phase_changed(from: Phase, to: Phase) -> Event {
    Event::Job(JobPhaseChanged { from, to, reason: None, eta_priors: Vec::new() }.into())
}

pub(crate) fn completed(from: Phase) -> Event {
    Event::Job(JobCompleted { from, lease_id: None, result: None }.into())
}

pub(crate) fn failed(code: FailureCode, retry_state: RetryState) -> Event {
    let error = ClassifiedError {
        code,
        category: FailureCategory::Network,
        service: None,
        message: "it broke".to_owned(),
        user_message: "It broke.".to_owned(),
        suggested_actions: vec!["Repair it.".to_owned()],
        retryable: true,
        retry_after_seconds: None,
        retry_after_requested: false,
        support_reference: "MB-0000-0000".to_owned(),
    };
    Event::Job(JobFailed { attempt: 1, lease_id: None, error, retry_state: Some(retry_state) }.into())
}

pub(crate) fn retried(attempt: u32, due_at: Timestamp, reason: RetryReason) -> Event {
    Event::Job(JobRetryScheduled { attempt, due_at, reason: Some(reason) }.into())
}

/// A failure with a retry after three seconds.
pub(crate) fn failed_and_retried(code: FailureCode, now: Timestamp) -> [Event; 2] {
    let due_at = now.after(Duration::from_secs(3));
    [failed(code, RetryState::InProgress), retried(2, due_at, RetryReason::Backoff)]
}

pub(crate) fn cancelled() -> Event {
    Event::Job(JobCancelled { from: Phase::Queued, reason: None }.into())
}

pub(crate) fn found(n: u32, score: f64, evidence: Option<&str>) -> Event {
    Event::ImageMatch(
        MatchFound {
            match_id: match_id(n),
            product_id: "hedge".parse().unwrap(),
            video_id: "clip".parse().unwrap(),
            img_id: format!("image-{n}").parse().unwrap(),
            frame_id: format!("frame-{n}").parse().unwrap(),
            score: Score::new(score).unwrap(),
            evidence_path: evidence.map(str::to_owned),
        }
        .into(),
    )
}

pub(crate) fn attached(n: u32, path: &str, replaces: bool) -> Event {
    let attached = MatchEvidenceAttached { match_id: match_id(n), evidence_path: path.to_owned(), replaces };
    Event::ImageMatch(attached.into())
}

pub(crate) fn images(product: &str, from: u32, count: u32) -> Event {
    let product_id: ProductId = product.parse().unwrap();
    let images = (from..from + count)
        .map(|n| ProductImage { img_id: format!("{product}-{n}").parse().unwrap(), url: None })
        .collect();
    Event::ImageMatch(ProductImagesRegistered { product_id, images }.into())
}

pub(crate) fn frames(video: &str, count: u64) -> Event {
    let video_id: VideoId = video.parse().unwrap();
    Event::ImageMatch(VideoFramesRegistered { video_id, frames: Frames::Counted(count) }.into())
}

pub(crate) fn requested(n: u32, candidates: u64) -> Event {
    Event::ImageMatch(
        MatchRequested {
            request_id: request(n),
            product_id: "hedge".parse().unwrap(),
            video_id: "clip".parse().unwrap(),
            candidates,
        }
        .into(),
    )
}

pub(crate) fn claimed(n: u32, by: u32, until: Timestamp) -> Event {
    Event::ImageMatch(
        MatchRequestClaimed {
            request_id: request(n),
            lease_id: lease(u128::from(n)),
            worker_id: worker(by),
            attempt: 1,
            lease_until: until,
        }
        .into(),
    )
}

fn totals(done: u64) -> Totals {
    Totals { candidates_processed: done, vector_pass_done: done, ransac_checked: done / 2 }
}

pub(crate) fn progress(n: u32, done: u64) -> Event {
    let reported = MatchProgressReported {
        request_id: request(n),
        lease_id: Some(lease(u128::from(n))),
        totals: totals(done),
    };
    Event::ImageMatch(reported.into())
}

pub(crate) fn request_completed(n: u32, done: u64) -> Event {
    let completed = MatchRequestCompleted {
        request_id: request(n),
        lease_id: Some(lease(u128::from(n))),
        totals: totals(done),
    };
    Event::ImageMatch(completed.into())
}

pub(crate) fn registered(n: u32) -> Event {
    let registered =
        WorkerRegistered { worker_id: worker(n), kinds: vec![WorkKind::MatchRequest], version: None };
    Event::Worker(registered.into())
}

pub(crate) fn lost(n: u32, last_seen_at: Timestamp) -> Event {
    Event::Worker(WorkerLost { worker_id: worker(n), last_seen_at }.into())
}

pub(crate) fn returned(n: u32) -> Event {
    Event::Worker(WorkerReturned { worker_id: worker(n) }.into())
}

pub(crate) fn exited(n: u32, end: WorkerEnd) -> Event {
    let exited = WorkerExited { worker_id: worker(n), end, exit_code: Some(137), signal: None, reason: None };
    Event::Worker(exited.into())
}
