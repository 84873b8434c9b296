//! The live stream of one analysis.
//!
//! All events of an analysis are in its own stream, which is read and folded here: every state change is sent with
//! the job as it was then, and only the latest progress is sent. An update's id is the position of its event: a
//! client that reconnects with this id resumes after that event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domain::job::analysis::{self, AnalysisView};
use domain::job::history::{History, LastActivity};
use domain::job::pipeline;
use event_log::EventLog;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::job::{JobEvent, JobKind};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::Object;
use tokio::sync::watch;
use web::enums::{Phase, RetryState};
use web::problem::Problem;
use web::sse::{Sender, Update};
use web::value::{ApiPosition, UuidParam};

use super::{CHUNK_EVENTS, ChangeKind, POLL_INTERVAL, StopReason};
use crate::ReadApi;
use crate::errors::{from_read_error, no_such_job};
use crate::routes::job::{ClassifiedErrorDto, Retry, Status};
use crate::routes::matching::Eta;

/// The shortest time between two reads: long enough to read many events at once, short enough to send a state change
/// within 50 ms.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// The progress of an analysis.
#[derive(Clone, Debug, Object)]
pub(crate) struct AnalysisProgress {
    /// From 0 to 100; never decreases within an attempt.
    pub percentage: f64,
    /// The display name of the stage, such as `Transcribing`.
    pub current_stage: String,
    pub estimated_completion_seconds: Option<u64>,
}

/// An update of an analysis, in addition to `event`, `connection_id` and `update_count`.
#[derive(Clone, Debug, Object)]
#[oai(rename = "AnalysisUpdate", skip_serializing_if_is_none)]
pub(crate) struct AnalysisUpdate {
    pub job_id: UuidParam<JobId>,
    /// The log position of the update's event, which is also the update's id.
    pub position: Option<ApiPosition>,
    pub status: Option<Status>,
    pub phase: Option<Phase>,
    pub attempt: Option<u32>,
    pub progress: Option<AnalysisProgress>,
    pub eta: Option<Eta>,
    /// The latest error, while the job is failed or waits for a retry.
    pub error: Option<ClassifiedErrorDto>,
    pub retry_state: Option<RetryState>,
    /// The scheduled retry.
    pub retry: Option<Retry>,
}

/// The stream of one analysis to one client.
#[derive(Debug)]
pub(crate) struct AnalysisStream {
    api: Arc<ReadApi>,
    job: JobId,
    /// The position up to which everything was sent; none before the first update.
    last_sent: Option<Position>,
    history: History,
    latest: LastActivity,
    /// Events that were read but not folded.
    unprocessed: VecDeque<Envelope>,
    /// The revision of the first event that has not been read.
    next: Revision,
    job_changes: watch::Receiver<u64>,
}

/// The effect of an event on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delta {
    State(ChangeKind),
    Progress,
    None,
}

impl AnalysisStream {
    /// Opens a stream for a client that has received everything up to `after`. None if that includes the job's end.
    ///
    /// # Errors
    /// 404 if the analysis does not exist or belongs to another tenant.
    pub(crate) async fn open(
        api: &Arc<ReadApi>,
        tenant: &Tenant,
        job: JobId,
        after: Option<Position>,
    ) -> Result<Option<Self>, Problem> {
        // The subscription starts before the first read, so that no event is missed.
        let job_changes = api.notifier.job(job);
        // A position beyond the head comes from another log or from before a restore.
        let last_sent = after.filter(|after| *after <= api.head());
        let mut unprocessed = VecDeque::new();
        let mut next = Revision(0);
        read(api, job, &mut next, &mut unprocessed).await?;
        let first = unprocessed.pop_front().ok_or_else(no_such_job)?;
        let Event::Job(JobEvent::JobCreated(created)) = &first.event else { return Err(no_such_job()) };
        if first.metadata.tenant != *tenant || created.kind != JobKind::VideoAnalysis {
            return Err(no_such_job());
        }
        let history = History::new(created, tenant.clone(), first.metadata.occurred_at);
        let mut latest = LastActivity::default();
        latest.observe(&first);
        let mut stream =
            Self { api: Arc::clone(api), job, last_sent, history, latest, unprocessed, next, job_changes };
        let received_until = last_sent.unwrap_or(Position(u64::MAX));
        while let Some(envelope) =
            stream.unprocessed.pop_front_if(|envelope| envelope.position <= received_until)
        {
            stream.apply(&envelope);
        }
        let is_end = pipeline::is_end(stream.history.phase);
        let has_more = stream.unprocessed.iter().any(|envelope| change(envelope).is_some());
        Ok(if last_sent.is_some() && is_end && !has_more { None } else { Some(stream) })
    }

    /// The data of `connected`.
    pub(crate) fn connected_event(&self) -> AnalysisUpdate {
        AnalysisUpdate {
            job_id: UuidParam(self.job),
            position: self.last_sent.map(ApiPosition),
            status: None,
            phase: None,
            attempt: None,
            progress: None,
            eta: None,
            error: None,
            retry_state: None,
            retry: None,
        }
    }

    /// Sends all changes, until the job has ended or the client has disconnected.
    pub(crate) async fn run(mut self, sender: Sender) {
        match self.follow(&sender).await {
            Ok(()) | Err(StopReason::Closed) => {}
            // The stream is closed; the client reconnects and resumes after the last id.
            Err(StopReason::Failed(problem)) => {
                tracing::warn!(job = %self.job, %problem, "the stream of an analysis failed");
            }
        }
    }

    async fn follow(&mut self, sender: &Sender) -> Result<(), StopReason> {
        if self.last_sent.is_none() && self.send_current_state(sender)? {
            return Ok(());
        }
        loop {
            self.job_changes.mark_unchanged();
            let poll_at = self.api.clock.now().after(POLL_INTERVAL);
            if self.send_new_events(sender).await? {
                return Ok(());
            }
            tokio::time::sleep(MIN_INTERVAL).await;
            tokio::select! {
                Ok(()) = self.job_changes.changed() => {}
                () = self.api.clock.sleep_until(poll_at) => {}
                () = sender.closed() => return Err(StopReason::Closed),
            }
        }
    }

    /// Sends the current state to a client without a position. Returns whether the job has ended.
    fn send_current_state(&mut self, sender: &Sender) -> Result<bool, StopReason> {
        let kind = match ChangeKind::terminal(self.history.phase) {
            Some(end) => end,
            None if self.history.pending_retry().is_some() => ChangeKind::Retrying,
            None => ChangeKind::Progress,
        };
        self.send_state(sender, kind)?;
        Ok(kind.is_end())
    }

    /// Sends what has not been sent. Returns whether the job has ended.
    async fn send_new_events(&mut self, sender: &Sender) -> Result<bool, StopReason> {
        let mut has_progress = false;
        loop {
            while let Some(envelope) = self.unprocessed.pop_front() {
                let delta = self.apply(&envelope);
                match delta {
                    _ if self.last_sent.is_some_and(|last_sent| envelope.position <= last_sent) => {}
                    Delta::State(kind) => {
                        has_progress = false;
                        let data = self.update_data(envelope.recorded_at);
                        sender.replay(update(kind, envelope.position, &data)).await?;
                        self.last_sent = Some(envelope.position);
                        if kind.is_end() {
                            return Ok(true);
                        }
                    }
                    Delta::Progress => has_progress = true,
                    Delta::None => {}
                }
            }
            read(&self.api, self.job, &mut self.next, &mut self.unprocessed).await?;
            if self.unprocessed.is_empty() {
                break;
            }
        }
        if has_progress {
            let (position, data) = (self.latest.position, self.update_data(self.api.clock.now()));
            sender.send(Update::progress("progress", Some(position), &data))?;
            self.last_sent = Some(position);
        }
        Ok(false)
    }

    fn send_state(&mut self, sender: &Sender, kind: ChangeKind) -> Result<(), StopReason> {
        let position = self.latest.position;
        let data = self.update_data(self.api.clock.now());
        sender.send(update(kind, position, &data))?;
        self.last_sent = Some(position);
        Ok(())
    }

    fn apply(&mut self, envelope: &Envelope) -> Delta {
        let Event::Job(event) = &envelope.event else { return Delta::None };
        self.history.apply(event, envelope.metadata.occurred_at, envelope.recorded_at);
        self.latest.observe(envelope);
        match (change(envelope), event) {
            (Some(kind), _) => Delta::State(kind),
            (
                None,
                JobEvent::JobProgressReported(_) | JobEvent::JobClaimed(_) | JobEvent::JobLeaseExpired(_),
            ) => Delta::Progress,
            (None, _) => Delta::None,
        }
    }

    /// The update for the fold's state at an instant.
    fn update_data(&self, at: Timestamp) -> AnalysisUpdate {
        let stalled_after = self.api.server.thresholds.stalled_after;
        let view = analysis::view(&self.history, &self.latest, at, stalled_after);
        let progress = progress(&view);
        AnalysisUpdate {
            job_id: UuidParam(self.job),
            position: Some(ApiPosition(self.latest.position)),
            status: Some(view.status.into()),
            phase: Some(view.phase.into()),
            attempt: Some(view.attempt),
            progress: Some(progress),
            eta: view.eta.map(Into::into),
            error: view.error.map(Into::into),
            retry_state: view.retry_state.map(Into::into),
            retry: view.retry.map(Into::into),
        }
    }
}

fn progress(view: &AnalysisView) -> AnalysisProgress {
    AnalysisProgress {
        percentage: view.progress_percentage,
        current_stage: pipeline::display_name(view.phase).to_owned(),
        estimated_completion_seconds: view.eta.map(|eta| eta.seconds),
    }
}

fn change(envelope: &Envelope) -> Option<ChangeKind> {
    match &envelope.event {
        Event::Job(event) => ChangeKind::of(event),
        _ => None,
    }
}

fn update(kind: ChangeKind, id: Position, data: &AnalysisUpdate) -> Update {
    match kind {
        ChangeKind::Progress => Update::state("progress", Some(id), data),
        ChangeKind::Retrying => Update::state("retrying", Some(id), data),
        ChangeKind::Completed => Update::last("completed", Some(id), data),
        ChangeKind::Failed => Update::last("failed", Some(id), data),
        ChangeKind::Cancelled => Update::last("cancelled", Some(id), data),
    }
}

/// Reads the rest of the job's own stream.
async fn read(
    api: &ReadApi,
    job: JobId,
    next: &mut Revision,
    into: &mut VecDeque<Envelope>,
) -> Result<(), Problem> {
    let stream = StreamId::job(job);
    loop {
        let events = api.log.read_stream(&stream, *next, CHUNK_EVENTS).await;
        let events = events.map_err(|error| from_read_error(&error))?;
        for event in &events {
            into.push_back(event.decode().map_err(|error| Problem::internal(&error))?);
            *next = event.revision.next();
        }
        if events.len() < CHUNK_EVENTS {
            return Ok(());
        }
    }
}
