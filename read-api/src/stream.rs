//! Following one matching job: what a reader of its stream is told, and when.
//!
//! Changes of state are read from the log, so that none is lost however many come at once; progress is whatever the
//! summary says by then. An update's id is the position of the job's latest event in it: whoever comes back with that id
//! has seen everything up to it.

mod analysis;
mod entry;
mod past;
mod pulse;
mod queues;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use domain::job::history::Status;
use domain::matching::summary::Summary as Summarised;
use event_log::EventLog;
use event_schemas::envelope::{Event, Recorded};
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::job::{JobEvent, Phase, RetryState};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::Object;
use projections::Name;
use projections::matching_summary::{Folded, ScoresFrom, Snapshots, UpTo};
use tokio::sync::watch;
use web::problem::{Code, Problem};
use web::sse::{Closed, Sender, Update};
use web::value::{Pos, Uid};
use web::vocabulary::Phase as PhaseWord;

use crate::ReadApi;
use crate::answer::{MinPosition, no_such_job, unread, untold};
use crate::routes::matching::Summary;

pub(crate) use analysis::{FollowAnalysis, Message as AnalysisMessage};
pub(crate) use entry::{FollowEntry, Message as EntryMessage};
pub(crate) use past::Past;
pub(crate) use pulse::Pulses;
pub(crate) use queues::FollowQueues;
pub(crate) use socket::Socket;

/// How many events of a job's own stream are read at a time.
const CHUNK_EVENTS: usize = 256;

/// Between two looks at what passes without an event, as a job that stalls.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After progress was told: long enough to spare the work while much happens, short enough that a change of state is
/// still told within 50 ms.
const REST: Duration = Duration::from_millis(40);

/// How far a job is, in the words that all streams share.
#[derive(Clone, Debug, Object)]
pub(crate) struct StreamProgress {
    /// From 0 to 100.
    pub percentage: f64,
    pub current_stage: PhaseWord,
    pub estimated_completion_seconds: Option<u64>,
}

/// What an update of a matching job says, beside `event`, `connection_id` and `update_count`.
#[derive(Clone, Debug, Object)]
#[oai(rename = "MatchingUpdate", skip_serializing_if_is_none)]
pub(crate) struct Message {
    pub job_id: Uid<JobId>,
    /// Of the job's latest event in this update; the update's id.
    pub position: Option<Pos>,
    pub progress: Option<StreamProgress>,
    pub summary: Option<Summary>,
}

/// How a change of state is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Progress,
    Retrying,
    Completed,
    Failed,
    Cancelled,
}

impl Kind {
    fn of(event: &JobEvent) -> Option<Self> {
        match event {
            JobEvent::JobPhaseChanged(changed) if changed.from == Phase::Failed => Some(Self::Retrying),
            JobEvent::JobRetryScheduled(_) => Some(Self::Retrying),
            JobEvent::JobCreated(_) | JobEvent::JobPhaseChanged(_) => Some(Self::Progress),
            JobEvent::JobCompleted(_) => Some(Self::Completed),
            // Its retry comes right behind it, and is what is told.
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

    /// That of a job which stands at its end; none while it goes on.
    fn of_end(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Completed => Some(Self::Completed),
            Phase::Failed => Some(Self::Failed),
            Phase::Cancelled => Some(Self::Cancelled),
            _ => None,
        }
    }

    fn update(self, id: Position, message: &Message) -> Update {
        match self {
            Self::Progress => Update::state("progress", Some(id), message),
            Self::Retrying => Update::state("retrying", Some(id), message),
            Self::Completed => Update::last("completed", Some(id), message),
            Self::Failed => Update::last("failed", Some(id), message),
            Self::Cancelled => Update::last("cancelled", Some(id), message),
        }
    }

    fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// A change of state, as the job's own stream has it.
#[derive(Debug)]
struct Change {
    kind: Kind,
    position: Position,
    recorded_at: Timestamp,
}

/// Why a reader is not told any more.
#[derive(Debug)]
enum Halt {
    /// The reader has gone, was too slow, or has been told the end.
    Closed,
    Failed(Problem),
}

impl From<Closed> for Halt {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Problem> for Halt {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// One reader's way along a job.
#[derive(Debug)]
pub(crate) struct Follow {
    api: Arc<ReadApi>,
    tenant: Tenant,
    job: JobId,
    /// Everything up to here has been told; none before the first update.
    told: Option<Position>,
    /// Of the first event of the job's own stream that has not been looked at.
    next: Revision,
    /// The position of the job's own events up to which `next` has been read; none before the first look.
    changes_read: Option<Position>,
    /// The blockers that were told last: they come and go without events.
    blockers: Vec<String>,
    job_pulse: watch::Receiver<u64>,
    tenant_pulse: watch::Receiver<u64>,
}

impl Follow {
    /// A reader who has seen everything up to `after`. None if that is the job's end.
    ///
    /// # Errors
    /// 404 if there is no such job, or it is another tenant's.
    pub(crate) async fn open(
        api: &Arc<ReadApi>,
        tenant: &Tenant,
        job: JobId,
        after: Option<Position>,
    ) -> Result<Option<Self>, Problem> {
        // A position that this log has not come to is of another log, or of one that was restored: nothing is known of
        // what that reader has seen.
        let told = after.filter(|after| *after <= api.head());
        let folded = Self::first_look(api, tenant, job).await?;
        let mut follow = Self {
            api: Arc::clone(api),
            tenant: tenant.clone(),
            job,
            told,
            next: Revision(0),
            changes_read: None,
            blockers: Vec::new(),
            job_pulse: api.pulses.job(job),
            tenant_pulse: api.pulses.tenant(tenant),
        };
        // Whoever comes without a position is told how the job stands, not how it came there.
        let Some(told) = told else {
            follow.changes(folded.position).await?;
            return Ok(Some(follow));
        };
        let passed = follow.changes(told).await?;
        let next = follow.next;
        let missed = follow.changes(folded.position).await?;
        follow.next = next;
        let has_seen_the_end = missed.is_empty() && passed.last().is_some_and(|last| last.kind.is_end());
        Ok(if has_seen_the_end { None } else { Some(follow) })
    }

    /// A browser opens the stream of a job that it has just created, and cannot say from which position on it wants to
    /// read: so a job that is in the log is waited for.
    async fn first_look(api: &ReadApi, tenant: &Tenant, job: JobId) -> Result<Folded, Problem> {
        match api.folded(tenant, job).await {
            Err(problem) if problem.code == Code::NotFound => {
                api.check_tenant(tenant, job).await?;
                api.models_reached(&[Name::MatchingSummary], MinPosition(Some(api.head()))).await?;
                api.folded(tenant, job).await
            }
            looked => looked,
        }
    }

    /// The data of `connected`.
    pub(crate) fn greeting(&self) -> Message {
        Message { job_id: Uid(self.job), position: self.told.map(Pos), progress: None, summary: None }
    }

    /// Tells all that happens, until the job has ended or nobody listens any more.
    pub(crate) async fn run(mut self, sender: Sender) {
        match self.follow(&sender).await {
            Ok(()) | Err(Halt::Closed) => {}
            // The stream breaks off; the reader comes back and goes on where it was.
            Err(Halt::Failed(problem)) => {
                tracing::warn!(job = %self.job, %problem, "a stream of a job broke off");
            }
        }
    }

    async fn follow(&mut self, sender: &Sender) -> Result<(), Halt> {
        loop {
            self.job_pulse.mark_unchanged();
            self.tenant_pulse.mark_unchanged();
            let look_at = self.api.clock.now().after(LOOK_EVERY);
            let folded = self.api.folded(&self.tenant, self.job).await?;
            for change in self.changes_in(&folded).await? {
                self.tell_change(sender, &change, &folded).await?;
                if change.kind.is_end() {
                    return Ok(());
                }
            }
            if self.tell_progress(sender, &folded).await? {
                return Ok(());
            }
            tokio::time::sleep(REST).await;
            tokio::select! {
                Ok(()) = self.job_pulse.changed() => {}
                Ok(()) = self.tenant_pulse.changed() => {}
                () = self.api.clock.sleep_until(look_at) => {}
                () = sender.closed() => return Err(Halt::Closed),
            }
        }
    }

    /// The job as it was at the change, which no later event takes back.
    async fn tell_change(&mut self, sender: &Sender, change: &Change, now: &Folded) -> Result<(), Halt> {
        if self.told.is_some_and(|told| change.position <= told) {
            return Ok(());
        }
        let summary = if now.fold.latest.position == change.position {
            self.api.summarised(self.job, now, self.api.clock.now(), ScoresFrom::ReadModel).await?
        } else {
            let then = self.summary_of_then(change);
            self.api.past.summary(self.job, change.position, then).await?
        };
        self.blockers.clone_from(&summary.blockers);
        let message = self.message(summary, change.position, change.position);
        sender.replay(change.kind.update(change.position, &message)).await?;
        self.told = Some(change.position);
        Ok(())
    }

    async fn summary_of_then(&self, change: &Change) -> Result<Summarised, Problem> {
        let models = self.api.models.matching_summary();
        let upto = UpTo::Position(change.position);
        let then = models.refold(&self.tenant, self.job, upto, Snapshots::Use).await;
        let then = then.map_err(|error| untold(&error))?.ok_or_else(no_such_job)?;
        self.api.summarised(self.job, &then.folded, change.recorded_at, ScoresFrom::ReadModel).await
    }

    /// How the job stands now, if that is news. Answers whether it was the end of the job.
    async fn tell_progress(&mut self, sender: &Sender, folded: &Folded) -> Result<bool, Halt> {
        let latest = folded.fold.latest.position;
        let is_first = self.told.is_none();
        let has_moved = self.told.is_none_or(|told| latest > told);
        let summary =
            self.api.summarised(self.job, folded, self.api.clock.now(), ScoresFrom::ReadModel).await?;
        if !has_moved && summary.blockers == self.blockers {
            return Ok(false);
        }
        self.blockers.clone_from(&summary.blockers);
        let end = Kind::of_end(summary.phase).filter(|_| is_first);
        let message = self.message(summary, folded.position, latest);
        match end {
            Some(end) => sender.send(end.update(latest, &message))?,
            None => sender.send(Update::progress("progress", Some(latest), &message))?,
        }
        self.told = self.told.max(Some(latest));
        Ok(end.is_some())
    }

    fn message(&self, summary: Summarised, reflects: Position, latest: Position) -> Message {
        let progress = StreamProgress {
            percentage: percentage(&summary),
            current_stage: summary.phase.into(),
            estimated_completion_seconds: summary.eta_seconds,
        };
        Message {
            job_id: Uid(self.job),
            position: Some(Pos(latest)),
            progress: Some(progress),
            summary: Some(Summary::new(summary, reflects, None)),
        }
    }

    /// The changes of state in the fold that have not been looked at. The log is read only if there are any: each reader
    /// of a job would otherwise read its stream once for every report of progress.
    async fn changes_in(&mut self, folded: &Folded) -> Result<Vec<Change>, Problem> {
        if folded.fold.state_changed <= self.changes_read {
            return Ok(Vec::new());
        }
        let changes = self.changes(folded.position).await?;
        self.changes_read = folded.fold.state_changed;
        Ok(changes)
    }

    /// The changes of state up to `until` that have not been looked at.
    async fn changes(&mut self, until: Position) -> Result<Vec<Change>, Problem> {
        let stream = StreamId::job(self.job);
        let mut changes = Vec::new();
        loop {
            let events = self.api.log.read_stream(&stream, self.next, CHUNK_EVENTS).await;
            let events = events.map_err(|error| unread(&error))?;
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

fn change(event: &Recorded) -> Result<Option<Change>, Problem> {
    let envelope = event.decode().map_err(|error| Problem::internal(&error))?;
    let Event::Job(happened) = &envelope.event else { return Ok(None) };
    let (position, recorded_at) = (event.position, event.recorded_at);
    Ok(Kind::of(happened).map(|kind| Change { kind, position, recorded_at }))
}

/// How much of the candidates is done, from 0 to 100; all of it at a good end.
fn percentage(summary: &Summarised) -> f64 {
    if summary.status == Status::Completed {
        return 100.0;
    }
    let total = summary.candidates_total.max(summary.vector_pass_total);
    if total == 0 { 0.0 } else { summary.candidates_processed.min(total) as f64 * 100.0 / total as f64 }
}
