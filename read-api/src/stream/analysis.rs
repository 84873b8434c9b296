//! Following one analysis: what a reader of its stream is told, and when.
//!
//! An analysis has all that happens to it in its own stream, so that is what is read and folded: every change of state is
//! told as the job was then, and of progress the newest. An update's id is the position of the event that it tells of:
//! whoever comes back with it goes on behind that event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domain::job::analysis::{self, AnalysisView};
use domain::job::history::{History, Latest};
use domain::job::pipeline;
use event_log::EventLog;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::job::{JobEvent, JobKind};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::Object;
use tokio::sync::watch;
use web::problem::Problem;
use web::sse::{Sender, Update};
use web::value::{Pos, Uid};
use web::vocabulary::{Phase, RetryState};

use super::{CHUNK_EVENTS, Halt, Kind, LOOK_EVERY};
use crate::ReadApi;
use crate::answer::{no_such_job, unread};
use crate::routes::job::{ErrorObject, Retry, Status};
use crate::routes::matching::Eta;

/// After something was told: much that happens is then read at once, and a change of state is still told within 50 ms.
const REST: Duration = Duration::from_millis(20);

/// How far an analysis is.
#[derive(Clone, Debug, Object)]
pub(crate) struct AnalysisProgress {
    /// From 0 to 100; never going down within an attempt.
    pub percentage: f64,
    /// As people read it: `Transcribing`.
    pub current_stage: String,
    pub estimated_completion_seconds: Option<u64>,
}

/// What an update of an analysis says, beside `event`, `connection_id` and `update_count`.
#[derive(Clone, Debug, Object)]
#[oai(rename = "AnalysisUpdate", skip_serializing_if_is_none)]
pub(crate) struct Message {
    pub job_id: Uid<JobId>,
    /// Of the event that the update tells of; the update's id.
    pub position: Option<Pos>,
    pub status: Option<Status>,
    pub phase: Option<Phase>,
    pub attempt: Option<u32>,
    pub progress: Option<AnalysisProgress>,
    pub eta: Option<Eta>,
    /// What went wrong last, while the job stands in it or waits to be tried again.
    pub error: Option<ErrorObject>,
    pub retry_state: Option<RetryState>,
    /// The retry that is waited for.
    pub retry: Option<Retry>,
}

/// One reader's way along an analysis.
#[derive(Debug)]
pub(crate) struct FollowAnalysis {
    api: Arc<ReadApi>,
    job: JobId,
    /// Everything up to here has been told; none before the first update.
    told: Option<Position>,
    history: History,
    latest: Latest,
    /// Read, and not looked at.
    ahead: VecDeque<Envelope>,
    /// Of the first event that has not been read.
    next: Revision,
    pulse: watch::Receiver<u64>,
}

/// What an event that was looked at means for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Change(Kind),
    Progress,
    Nothing,
}

impl FollowAnalysis {
    /// A reader who has seen everything up to `after`. None if that is the job's end.
    ///
    /// # Errors
    /// 404 if there is no such analysis, or it is another tenant's.
    pub(crate) async fn open(
        api: &Arc<ReadApi>,
        tenant: &Tenant,
        job: JobId,
        after: Option<Position>,
    ) -> Result<Option<Self>, Problem> {
        // Listening begins before reading, so that nothing falls in between.
        let pulse = api.pulses.job(job);
        // A position that this log has not come to is of another log, or of one that was restored.
        let told = after.filter(|after| *after <= api.head());
        let mut ahead = VecDeque::new();
        let mut next = Revision(0);
        read(api, job, &mut next, &mut ahead).await?;
        let first = ahead.pop_front().ok_or_else(no_such_job)?;
        let Event::Job(JobEvent::JobCreated(created)) = &first.event else { return Err(no_such_job()) };
        if first.metadata.tenant != *tenant || created.kind != JobKind::VideoAnalysis {
            return Err(no_such_job());
        }
        let history = History::begin(created, tenant.clone(), first.metadata.occurred_at);
        let mut latest = Latest::default();
        latest.see(&first);
        let mut follow = Self { api: Arc::clone(api), job, told, history, latest, ahead, next, pulse };
        let seen_until = told.unwrap_or(Position(u64::MAX));
        while let Some(envelope) = follow.ahead.pop_front_if(|envelope| envelope.position <= seen_until) {
            follow.take(&envelope);
        }
        let is_end = pipeline::is_end(follow.history.phase);
        let goes_on = follow.ahead.iter().any(|envelope| change(envelope).is_some());
        Ok(if told.is_some() && is_end && !goes_on { None } else { Some(follow) })
    }

    /// The data of `connected`.
    pub(crate) fn greeting(&self) -> Message {
        Message {
            job_id: Uid(self.job),
            position: self.told.map(Pos),
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

    /// Tells all that happens, until the job has ended or nobody listens any more.
    pub(crate) async fn run(mut self, sender: Sender) {
        match self.follow(&sender).await {
            Ok(()) | Err(Halt::Closed) => {}
            // The stream breaks off; the reader comes back and goes on where it was.
            Err(Halt::Failed(problem)) => {
                tracing::warn!(job = %self.job, %problem, "a stream of an analysis broke off");
            }
        }
    }

    async fn follow(&mut self, sender: &Sender) -> Result<(), Halt> {
        if self.told.is_none() && self.tell_standing(sender)? {
            return Ok(());
        }
        loop {
            self.pulse.mark_unchanged();
            let look_at = self.api.clock.now().after(LOOK_EVERY);
            if self.tell_news(sender).await? {
                return Ok(());
            }
            tokio::time::sleep(REST).await;
            tokio::select! {
                Ok(()) = self.pulse.changed() => {}
                () = self.api.clock.sleep_until(look_at) => {}
                () = sender.closed() => return Err(Halt::Closed),
            }
        }
    }

    /// Whoever comes without a position is told how the job stands, not how it came there. Answers whether that is its end.
    fn tell_standing(&mut self, sender: &Sender) -> Result<bool, Halt> {
        let kind = match Kind::of_end(self.history.phase) {
            Some(end) => end,
            None if self.history.waiting_retry().is_some() => Kind::Retrying,
            None => Kind::Progress,
        };
        self.tell(sender, kind)?;
        Ok(kind.is_end())
    }

    /// Tells what has not been told. Answers whether the job has ended.
    async fn tell_news(&mut self, sender: &Sender) -> Result<bool, Halt> {
        let mut has_moved = false;
        loop {
            while let Some(envelope) = self.ahead.pop_front() {
                let news = self.take(&envelope);
                match news {
                    _ if self.told.is_some_and(|told| envelope.position <= told) => {}
                    News::Change(kind) => {
                        has_moved = false;
                        let message = self.message(envelope.recorded_at);
                        sender.replay(update(kind, envelope.position, &message)).await?;
                        self.told = Some(envelope.position);
                        if kind.is_end() {
                            return Ok(true);
                        }
                    }
                    News::Progress => has_moved = true,
                    News::Nothing => {}
                }
            }
            read(&self.api, self.job, &mut self.next, &mut self.ahead).await?;
            if self.ahead.is_empty() {
                break;
            }
        }
        if has_moved {
            let (position, message) = (self.latest.position, self.message(self.api.clock.now()));
            sender.send(Update::progress("progress", Some(position), &message))?;
            self.told = Some(position);
        }
        Ok(false)
    }

    fn tell(&mut self, sender: &Sender, kind: Kind) -> Result<(), Halt> {
        let position = self.latest.position;
        let message = self.message(self.api.clock.now());
        sender.send(update(kind, position, &message))?;
        self.told = Some(position);
        Ok(())
    }

    fn take(&mut self, envelope: &Envelope) -> News {
        let Event::Job(event) = &envelope.event else { return News::Nothing };
        self.history.apply(event, envelope.metadata.occurred_at, envelope.recorded_at);
        self.latest.see(envelope);
        match (change(envelope), event) {
            (Some(kind), _) => News::Change(kind),
            (
                None,
                JobEvent::JobProgressReported(_) | JobEvent::JobClaimed(_) | JobEvent::JobLeaseExpired(_),
            ) => News::Progress,
            (None, _) => News::Nothing,
        }
    }

    /// The job as the fold has it, at an instant.
    fn message(&self, at: Timestamp) -> Message {
        let stalled_after = self.api.server.thresholds.stalled_after;
        let view = analysis::view(&self.history, &self.latest, at, stalled_after);
        let progress = progress(&view);
        Message {
            job_id: Uid(self.job),
            position: Some(Pos(self.latest.position)),
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

fn change(envelope: &Envelope) -> Option<Kind> {
    match &envelope.event {
        Event::Job(event) => Kind::of(event),
        _ => None,
    }
}

fn update(kind: Kind, id: Position, message: &Message) -> Update {
    match kind {
        Kind::Progress => Update::state("progress", Some(id), message),
        Kind::Retrying => Update::state("retrying", Some(id), message),
        Kind::Completed => Update::last("completed", Some(id), message),
        Kind::Failed => Update::last("failed", Some(id), message),
        Kind::Cancelled => Update::last("cancelled", Some(id), message),
    }
}

/// Reads on in the job's own stream, to its end.
async fn read(
    api: &ReadApi,
    job: JobId,
    next: &mut Revision,
    into: &mut VecDeque<Envelope>,
) -> Result<(), Problem> {
    let stream = StreamId::job(job);
    loop {
        let events = api.log.read_stream(&stream, *next, CHUNK_EVENTS).await;
        let events = events.map_err(|error| unread(&error))?;
        for event in &events {
            into.push_back(event.decode().map_err(|error| Problem::internal(&error))?);
            *next = event.revision.next();
        }
        if events.len() < CHUNK_EVENTS {
            return Ok(());
        }
    }
}
