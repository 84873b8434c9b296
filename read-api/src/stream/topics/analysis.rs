//! The live stream of one analysis.
//!
//! All events of an analysis are in its own stream, which is read and folded here: every state change is sent with
//! the job as it was then, and only the latest progress is sent. An update's id is the position of its event: a
//! client that reconnects with this id resumes after that event.

use std::collections::VecDeque;
use std::sync::Arc;

use domain::image_matching::eta::Eta;
use domain::job::analysis::{self, AnalysisStatus};
use domain::job::history::{History, LastActivity, Status};
use domain::job::pipeline;
use domain::job::view::{ErrorView, Parked, RetryView};
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Revision};
use event_schemas::job::{JobEvent, JobKind, Phase, RetryState};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use web::caller::Caller;
use web::problem::Problem;
use web::sse::Update;

use super::super::engine::{Follower, Progress, TopicKey};
use super::super::{ChangeKind, POLL_INTERVAL};
use super::stream_reader::StreamReader;
use crate::ReadApi;
use crate::errors::no_such_job;

/// The progress of an analysis.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct AnalysisProgress {
    /// From 0 to 100; never decreases within an attempt.
    pub percentage: f64,
    /// The display name of the stage, such as `Transcribing`.
    pub current_stage: String,
    pub estimated_completion_seconds: Option<u64>,
}

/// An update of an analysis, in addition to `event`, `connection_id` and `update_count`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "AnalysisUpdate")]
pub(crate) struct AnalysisUpdate {
    pub job_id: JobId,
    /// The log position of the update's event, which is also the update's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<AnalysisProgress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<Eta>,
    /// The latest error, while the job is failed or waits for a retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_state: Option<RetryState>,
    /// The scheduled retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryView>,
    /// Why it does not start although it is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<Parked>,
}

/// Follows the events of one analysis.
#[derive(Debug)]
pub(crate) struct AnalysisFollower {
    api: Arc<ReadApi>,
    job: JobId,
    received: Option<Position>,
    /// The position up to which everything was sent.
    last_sent: Position,
    history: History,
    latest: LastActivity,
    /// The position of the latest state change that was folded.
    changed: Option<Position>,
    /// Whether there is progress after the latest state change that has not been sent.
    has_progress: bool,
    /// Events that were read but not folded.
    unprocessed: VecDeque<Envelope>,
    events: StreamReader,
    poll_at: Timestamp,
    job_changes: watch::Receiver<u64>,
    /// Why the job was parked, according to the latest update.
    parked: Option<Parked>,
    /// Whether the clients may see the messages of workers.
    shows_messages: bool,
}

/// The effect of an event on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delta {
    State(ChangeKind),
    Progress,
    None,
}

impl AnalysisFollower {
    /// Opens a stream for a client that has received everything up to `after`. None if that includes the job's end.
    ///
    /// # Errors
    /// 404 if the analysis does not exist or belongs to another tenant.
    pub(crate) async fn open(
        api: &Arc<ReadApi>,
        caller: &Caller,
        job: JobId,
        after: Option<Position>,
    ) -> Result<Option<Self>, Problem> {
        let tenant = &caller.tenant;
        // The subscription starts before the first read, so that no event is missed.
        let job_changes = api.notifier.job(job);
        // A position beyond the head comes from another log or from before a restore.
        let received = after.filter(|after| *after <= api.head());
        let mut events = StreamReader { stream: StreamId::job(job), next: Revision(0) };
        let mut unprocessed = VecDeque::from(events.rest(&api.log).await?);
        let first = unprocessed.pop_front().ok_or_else(no_such_job)?;
        let Event::Job(JobEvent::JobCreated(created)) = &first.event else { return Err(no_such_job()) };
        if first.metadata.tenant != *tenant || created.kind != JobKind::VideoAnalysis {
            return Err(no_such_job());
        }
        let mut follower = Self {
            api: Arc::clone(api),
            job,
            received,
            last_sent: received.unwrap_or(first.position),
            history: History::new(created, tenant.clone(), first.metadata.occurred_at),
            latest: LastActivity::default(),
            changed: Some(first.position),
            has_progress: false,
            unprocessed,
            events,
            poll_at: api.clock.now().after(POLL_INTERVAL),
            job_changes,
            parked: None,
            shows_messages: caller.can_access_others(),
        };
        follower.latest.observe(&first);
        let known_until = received.unwrap_or(Position(u64::MAX));
        while let Some(envelope) =
            follower.unprocessed.pop_front_if(|envelope| envelope.position <= known_until)
        {
            follower.apply(&envelope);
            follower.last_sent = follower.last_sent.max(envelope.position);
        }
        let has_received_the_end = received.is_some()
            && pipeline::is_end(follower.history.phase)
            && !follower.unprocessed.iter().any(|envelope| ChangeKind::of(&envelope.event).is_some());
        if received.is_none() {
            follower.parked = follower.status(api.clock.now()).parked;
        }
        Ok((!has_received_the_end).then_some(follower))
    }

    fn apply(&mut self, envelope: &Envelope) -> Delta {
        let Event::Job(event) = &envelope.event else { return Delta::None };
        self.history.apply(event, envelope.metadata.occurred_at, envelope.recorded_at);
        self.latest.observe(envelope);
        match (ChangeKind::of(&envelope.event), event) {
            (Some(kind), _) => {
                self.changed = Some(envelope.position);
                Delta::State(kind)
            }
            (
                None,
                JobEvent::JobProgressReported(_) | JobEvent::JobClaimed(_) | JobEvent::JobLeaseExpired(_),
            ) => Delta::Progress,
            (None, _) => Delta::None,
        }
    }

    /// The fold's state at an instant.
    fn status_at(&self, at: Timestamp) -> AnalysisStatus {
        let stalled_after = self.api.server.thresholds.stalled_after;
        analysis::view(&self.history, &self.latest, at, stalled_after).current
    }

    /// The present state, at an instant close to now, with what the failures of other jobs mean for it.
    fn status(&self, at: Timestamp) -> AnalysisStatus {
        let mut status = self.status_at(at);
        self.api.park(&self.history.tenant, &mut status);
        status
    }

    fn update_data(&self, view: AnalysisStatus) -> AnalysisUpdate {
        let progress = progress(&view);
        let mut error = view.error;
        if let Some(error) = error.as_mut().filter(|_| !self.shows_messages) {
            error.message = None;
        }
        AnalysisUpdate {
            job_id: self.job,
            position: Some(self.latest.position),
            status: Some(view.status),
            phase: Some(view.phase),
            attempt: Some(view.attempt),
            progress: Some(progress),
            eta: view.eta,
            error,
            retry_state: view.retry_state,
            retry: view.retry,
            parked: view.parked,
        }
    }
}

fn progress(view: &AnalysisStatus) -> AnalysisProgress {
    AnalysisProgress {
        percentage: view.progress_percentage,
        current_stage: view.current_stage.clone(),
        estimated_completion_seconds: view.estimated_completion_seconds,
    }
}

impl Follower for AnalysisFollower {
    type Data = AnalysisUpdate;

    fn key(&self) -> TopicKey {
        let kind = if self.shows_messages { "analysis" } else { "analysis without messages" };
        TopicKey { kind, tenant: Some(self.history.tenant.clone()), id: self.job.0 }
    }

    fn received(&self) -> Option<Position> {
        self.received
    }

    fn changed(&self) -> Option<Position> {
        self.changed
    }

    fn connected_event(&self) -> Option<AnalysisUpdate> {
        Some(AnalysisUpdate {
            job_id: self.job,
            position: self.received,
            status: None,
            phase: None,
            attempt: None,
            progress: None,
            eta: None,
            error: None,
            retry_state: None,
            retry: None,
            parked: None,
        })
    }

    async fn changes(&mut self) -> Result<Vec<Update>, Problem> {
        self.job_changes.mark_unchanged();
        self.poll_at = self.api.clock.now().after(POLL_INTERVAL);
        self.unprocessed.extend(self.events.rest(&self.api.log).await?);
        let mut updates = Vec::new();
        while let Some(envelope) = self.unprocessed.pop_front() {
            let delta = self.apply(&envelope);
            match delta {
                _ if envelope.position <= self.last_sent => {}
                Delta::State(kind) => {
                    self.has_progress = false;
                    // Of earlier instants it is not known what other jobs meant for it.
                    let status = match self.unprocessed.is_empty() {
                        true => self.status(envelope.recorded_at),
                        false => self.status_at(envelope.recorded_at),
                    };
                    self.parked.clone_from(&status.parked);
                    updates.push(kind.update(envelope.position, &self.update_data(status)));
                    self.last_sent = envelope.position;
                }
                Delta::Progress => self.has_progress = true,
                Delta::None => {}
            }
        }
        Ok(updates)
    }

    async fn progress(&mut self) -> Result<Option<Progress>, Problem> {
        let has_progress = std::mem::take(&mut self.has_progress);
        if !has_progress && self.parked.is_none() && self.history.phase != Phase::Queued {
            return Ok(None);
        }
        let status = self.status(self.api.clock.now());
        let parking_changed = status.parked != self.parked;
        if !has_progress && !parking_changed {
            return Ok(None);
        }
        self.last_sent = self.latest.position;
        self.parked.clone_from(&status.parked);
        let is_beyond_id = parking_changed || self.parked.is_some();
        let update = Update::progress("progress", Some(self.last_sent), &self.update_data(status));
        Ok(Some(Progress { update, is_beyond_id }))
    }

    async fn first(&mut self) -> Result<Vec<Update>, Problem> {
        let kind = match ChangeKind::terminal(self.history.phase) {
            Some(end) => end,
            None if self.history.pending_retry().is_some() => ChangeKind::Retrying,
            None => ChangeKind::Progress,
        };
        let status = self.status(self.api.clock.now());
        Ok(vec![kind.update(self.latest.position, &self.update_data(status))])
    }

    async fn wake(&mut self) {
        tokio::select! {
            Ok(()) = self.job_changes.changed() => {}
            () = self.api.clock.sleep_until(self.poll_at) => {}
        }
    }
}
