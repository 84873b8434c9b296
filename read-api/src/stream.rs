//! The live stream of one matching job.
//!
//! State changes are read from the log, so that none is lost when many are appended at once; progress is the latest
//! summary. An update's id is the position of the job's latest event in it: a client that reconnects with this id has
//! received everything up to it.

mod analysis;
mod change_notifier;
mod entry;
mod queues;
mod socket;
mod summary_cache;

use std::sync::Arc;
use std::time::Duration;

use domain::image_matching::summary::Summary as DomainSummary;
use domain::job::history::Status;
use event_log::EventLog;
use event_schemas::envelope::{Event, Recorded};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::job::{JobEvent, Phase, RetryState};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::Object;
use projections::Name;
use projections::matching_summary::{FoldedJob, ScoresFrom, Snapshots, UpTo};
use tokio::sync::watch;
use web::enums::Phase as PhaseDto;
use web::problem::{Code, Problem};
use web::sse::{Closed, Sender, Update};
use web::value::{ApiPosition, UuidParam};

use crate::ReadApi;
use crate::errors::{from_read_error, from_summary_error, no_such_job};
use crate::min_position::MinPosition;
use crate::routes::matching::Summary;

pub(crate) use analysis::{AnalysisStream, AnalysisUpdate};
pub(crate) use change_notifier::ChangeNotifier;
pub(crate) use entry::{QueueEntryStream, QueueEntryUpdate};
pub(crate) use queues::QueueSummaryStream;
pub(crate) use socket::Socket;
pub(crate) use summary_cache::HistoricalSummaryCache;

/// The number of events of a stream that are read at a time.
const CHUNK_EVENTS: usize = 256;

/// The interval at which changes without an event are checked, such as a job that stalls.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two checks: long enough to coalesce work while many events arrive, short enough to send a
/// state change within 50 ms.
const MIN_INTERVAL: Duration = Duration::from_millis(40);

/// The progress of a job, in the form that all streams share.
#[derive(Clone, Debug, Object)]
pub(crate) struct StreamProgress {
    /// From 0 to 100.
    pub percentage: f64,
    pub current_stage: PhaseDto,
    pub estimated_completion_seconds: Option<u64>,
}

/// An update of a matching job, in addition to `event`, `connection_id` and `update_count`.
#[derive(Clone, Debug, Object)]
#[oai(rename = "MatchingUpdate", skip_serializing_if_is_none)]
pub(crate) struct MatchingUpdate {
    pub job_id: UuidParam<JobId>,
    /// The log position of the job's latest event in this update, which is also the update's id.
    pub position: Option<ApiPosition>,
    pub progress: Option<StreamProgress>,
    pub summary: Option<Summary>,
}

/// The kind of a state change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeKind {
    Progress,
    Retrying,
    Completed,
    Failed,
    Cancelled,
}

impl ChangeKind {
    fn of(event: &JobEvent) -> Option<Self> {
        match event {
            JobEvent::JobPhaseChanged(changed) if changed.from == Phase::Failed => Some(Self::Retrying),
            JobEvent::JobRetryScheduled(_) => Some(Self::Retrying),
            JobEvent::JobCreated(_) | JobEvent::JobPhaseChanged(_) => Some(Self::Progress),
            JobEvent::JobCompleted(_) => Some(Self::Completed),
            // The retry follows immediately and is sent instead.
            JobEvent::JobFailed(failed) if failed.retry_state == Some(RetryState::InProgress) => None,
            JobEvent::JobFailed(_) => Some(Self::Failed),
            JobEvent::JobCancelled(_) => Some(Self::Cancelled),
            JobEvent::JobProgressReported(_)
            | JobEvent::JobClaimed(_)
            | JobEvent::JobLeaseExpired(_)
            | JobEvent::JobQuarantined(_)
            | JobEvent::JobResultExpired(_) => None,
        }
    }

    /// The kind for a job that has ended; none for one that has not.
    fn terminal(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Completed => Some(Self::Completed),
            Phase::Failed => Some(Self::Failed),
            Phase::Cancelled => Some(Self::Cancelled),
            _ => None,
        }
    }

    fn update(self, id: Position, data: &MatchingUpdate) -> Update {
        match self {
            Self::Progress => Update::state("progress", Some(id), data),
            Self::Retrying => Update::state("retrying", Some(id), data),
            Self::Completed => Update::last("completed", Some(id), data),
            Self::Failed => Update::last("failed", Some(id), data),
            Self::Cancelled => Update::last("cancelled", Some(id), data),
        }
    }

    fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// A state change, read from the job's own stream.
#[derive(Debug)]
struct StateChange {
    kind: ChangeKind,
    position: Position,
    recorded_at: Timestamp,
}

/// The reason why a stream stops.
#[derive(Debug)]
enum StopReason {
    /// The client has disconnected, was too slow, or has received the last update.
    Closed,
    Failed(Problem),
}

impl From<Closed> for StopReason {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Problem> for StopReason {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// The stream of one job to one client.
#[derive(Debug)]
pub(crate) struct SummaryStream {
    api: Arc<ReadApi>,
    tenant: Tenant,
    job: JobId,
    /// The position up to which everything was sent; none before the first update.
    last_sent: Option<Position>,
    /// The revision of the first event of the job's own stream that has not been read.
    next: Revision,
    /// The position of the job's own events up to which the stream was read; none before the first read.
    changes_read: Option<Position>,
    /// The blockers sent last: they appear and disappear without events.
    blockers: Vec<String>,
    job_changes: watch::Receiver<u64>,
    tenant_changes: watch::Receiver<u64>,
}

impl SummaryStream {
    /// Opens a stream for a client that has received everything up to `after`. None if that includes the job's end.
    ///
    /// # Errors
    /// 404 if the job does not exist or belongs to another tenant.
    pub(crate) async fn open(
        api: &Arc<ReadApi>,
        tenant: &Tenant,
        job: JobId,
        after: Option<Position>,
    ) -> Result<Option<Self>, Problem> {
        // A position beyond the head comes from another log or from before a restore, so it does not show what the
        // client has received.
        let last_sent = after.filter(|after| *after <= api.head());
        let folded = Self::load_or_wait(api, tenant, job).await?;
        let mut stream = Self {
            api: Arc::clone(api),
            tenant: tenant.clone(),
            job,
            last_sent,
            next: Revision(0),
            changes_read: None,
            blockers: Vec::new(),
            job_changes: api.notifier.job(job),
            tenant_changes: api.notifier.tenant(tenant),
        };
        // A client without a position gets the current state, not the history.
        let Some(last_sent) = last_sent else {
            stream.read_changes(folded.position).await?;
            return Ok(Some(stream));
        };
        let received = stream.read_changes(last_sent).await?;
        let next = stream.next;
        let missed = stream.read_changes(folded.position).await?;
        stream.next = next;
        let has_received_the_end =
            missed.is_empty() && received.last().is_some_and(|last| last.kind.is_end());
        Ok(if has_received_the_end { None } else { Some(stream) })
    }

    /// Loads the job, and waits for the read model if the job is in the log only: a browser opens the stream of a job
    /// that it has just created, and cannot send `X-Min-Position`.
    async fn load_or_wait(api: &ReadApi, tenant: &Tenant, job: JobId) -> Result<FoldedJob, Problem> {
        match api.job_fold(tenant, job).await {
            Err(problem) if problem.code == Code::NotFound => {
                api.check_tenant(tenant, job).await?;
                api.wait_for_models(&[Name::MatchingSummary], MinPosition(Some(api.head()))).await?;
                api.job_fold(tenant, job).await
            }
            found => found,
        }
    }

    /// The data of `connected`.
    pub(crate) fn connected_event(&self) -> MatchingUpdate {
        MatchingUpdate {
            job_id: UuidParam(self.job),
            position: self.last_sent.map(ApiPosition),
            progress: None,
            summary: None,
        }
    }

    /// Sends all changes, until the job has ended or the client has disconnected.
    pub(crate) async fn run(mut self, sender: Sender) {
        match self.follow(&sender).await {
            Ok(()) | Err(StopReason::Closed) => {}
            // The stream is closed; the client reconnects and resumes after the last id.
            Err(StopReason::Failed(problem)) => {
                tracing::warn!(job = %self.job, %problem, "the stream of a job failed");
            }
        }
    }

    async fn follow(&mut self, sender: &Sender) -> Result<(), StopReason> {
        loop {
            self.job_changes.mark_unchanged();
            self.tenant_changes.mark_unchanged();
            let poll_at = self.api.clock.now().after(POLL_INTERVAL);
            let folded = self.api.job_fold(&self.tenant, self.job).await?;
            for change in self.new_changes(&folded).await? {
                self.send_change(sender, &change, &folded).await?;
                if change.kind.is_end() {
                    return Ok(());
                }
            }
            if self.send_progress(sender, &folded).await? {
                return Ok(());
            }
            tokio::time::sleep(MIN_INTERVAL).await;
            tokio::select! {
                Ok(()) = self.job_changes.changed() => {}
                Ok(()) = self.tenant_changes.changed() => {}
                () = self.api.clock.sleep_until(poll_at) => {}
                () = sender.closed() => return Err(StopReason::Closed),
            }
        }
    }

    /// Reads the state changes that the fold contains and that were not read before. The log is read only if there are
    /// any; otherwise each client would read the job's stream at each progress report.
    async fn new_changes(&mut self, folded: &FoldedJob) -> Result<Vec<StateChange>, Problem> {
        if folded.fold.state_changed <= self.changes_read {
            return Ok(Vec::new());
        }
        let changes = self.read_changes(folded.position).await?;
        self.changes_read = folded.fold.state_changed;
        Ok(changes)
    }

    /// Sends the job as it was at the change.
    async fn send_change(
        &mut self,
        sender: &Sender,
        change: &StateChange,
        now: &FoldedJob,
    ) -> Result<(), StopReason> {
        if self.last_sent.is_some_and(|last_sent| change.position <= last_sent) {
            return Ok(());
        }
        let summary = if now.fold.latest.position == change.position {
            self.api.summarize(self.job, now, self.api.clock.now(), ScoresFrom::ReadModel).await?
        } else {
            let then = self.historical_summary(change);
            self.api.historical_summaries.summary(self.job, change.position, then).await?
        };
        self.blockers.clone_from(&summary.blockers);
        let data = self.update_data(summary, change.position, change.position);
        sender.replay(change.kind.update(change.position, &data)).await?;
        self.last_sent = Some(change.position);
        Ok(())
    }

    async fn historical_summary(&self, change: &StateChange) -> Result<DomainSummary, Problem> {
        let models = self.api.models.matching_summary();
        let upto = UpTo::Position(change.position);
        let then = models.replay(&self.tenant, self.job, upto, Snapshots::Use).await;
        let then = then.map_err(|error| from_summary_error(&error))?.ok_or_else(no_such_job)?;
        self.api.summarize(self.job, &then.folded, change.recorded_at, ScoresFrom::ReadModel).await
    }

    /// Sends the current summary if it has changed. Returns whether this was the last update of the job.
    async fn send_progress(&mut self, sender: &Sender, folded: &FoldedJob) -> Result<bool, StopReason> {
        let latest = folded.fold.latest.position;
        let is_first = self.last_sent.is_none();
        let has_advanced = self.last_sent.is_none_or(|last_sent| latest > last_sent);
        let summary =
            self.api.summarize(self.job, folded, self.api.clock.now(), ScoresFrom::ReadModel).await?;
        if !has_advanced && summary.blockers == self.blockers {
            return Ok(false);
        }
        self.blockers.clone_from(&summary.blockers);
        let end = ChangeKind::terminal(summary.phase).filter(|_| is_first);
        let data = self.update_data(summary, folded.position, latest);
        match end {
            Some(end) => sender.send(end.update(latest, &data))?,
            None => sender.send(Update::progress("progress", Some(latest), &data))?,
        }
        self.last_sent = self.last_sent.max(Some(latest));
        Ok(end.is_some())
    }

    fn update_data(&self, summary: DomainSummary, reflects: Position, latest: Position) -> MatchingUpdate {
        let progress = StreamProgress {
            percentage: percentage(&summary),
            current_stage: summary.phase.into(),
            estimated_completion_seconds: summary.eta_seconds,
        };
        MatchingUpdate {
            job_id: UuidParam(self.job),
            position: Some(ApiPosition(latest)),
            progress: Some(progress),
            summary: Some(Summary::new(summary, reflects, None)),
        }
    }

    /// Reads the state changes up to `until` that have not been read.
    async fn read_changes(&mut self, until: Position) -> Result<Vec<StateChange>, Problem> {
        let stream = StreamId::job(self.job);
        let mut changes = Vec::new();
        loop {
            let events = self.api.log.read_stream(&stream, self.next, CHUNK_EVENTS).await;
            let events = events.map_err(|error| from_read_error(&error))?;
            for event in &events {
                if event.position > until {
                    return Ok(changes);
                }
                changes.extend(change(event)?);
                self.next = event.revision.next();
            }
            if events.len() < CHUNK_EVENTS {
                return Ok(changes);
            }
        }
    }
}

fn change(event: &Recorded) -> Result<Option<StateChange>, Problem> {
    let envelope = event.decode().map_err(|error| Problem::internal(&error))?;
    let Event::Job(happened) = &envelope.event else { return Ok(None) };
    let (position, recorded_at) = (event.position, event.recorded_at);
    Ok(ChangeKind::of(happened).map(|kind| StateChange { kind, position, recorded_at }))
}

/// The percentage of the candidates that are processed; 100 for a completed job.
fn percentage(summary: &DomainSummary) -> f64 {
    if summary.status == Status::Completed {
        return 100.0;
    }
    let total = summary.candidates_total.max(summary.vector_pass_total);
    if total == 0 { 0.0 } else { summary.candidates_processed.min(total) as f64 * 100.0 / total as f64 }
}
