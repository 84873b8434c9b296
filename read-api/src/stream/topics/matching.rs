//! The live stream of one matching job.
//!
//! State changes are read from the log, so that none is lost when many are appended at once; progress is the latest
//! summary. An update's id is the position of the job's latest event in it.

use std::collections::VecDeque;
use std::sync::Arc;

use domain::image_matching::summary::Summary;
use event_schemas::ids::{JobId, Position, Revision, Tenant};
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use projections::matching_summary::{FoldedJob, ScoresFrom, Snapshots, UpTo};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use web::problem::Problem;
use web::sse::Update;

use super::super::engine::{Follower, Progress, TopicKey};
use super::super::{ChangeKind, POLL_INTERVAL};
use super::stream_reader::StreamReader;
use crate::ReadApi;
use crate::errors::{from_summary_error, no_such_job};

/// The progress of a matching job.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct StreamProgress {
    /// The progress of the whole job, from 0 to 100, as in `progress_percentage` of the job.
    pub percentage: f64,
    pub current_stage: Phase,
    pub estimated_completion_seconds: Option<u64>,
}

/// An update of a matching job, in addition to `event`, `connection_id` and `update_count`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "MatchingUpdate")]
pub(crate) struct MatchingUpdate {
    pub job_id: JobId,
    /// The log position of the job's latest event in this update, which is also the update's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<StreamProgress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// A state change, read from the job's own stream.
#[derive(Debug)]
struct StateChange {
    kind: ChangeKind,
    position: Position,
    recorded_at: Timestamp,
}

/// Follows the events and the summary of one job.
#[derive(Debug)]
pub(crate) struct MatchingFollower {
    api: Arc<ReadApi>,
    tenant: Tenant,
    job: JobId,
    received: Option<Position>,
    /// The position up to which everything was sent.
    last_sent: Position,
    events: StreamReader,
    /// State changes that were read and that the fold does not contain yet, or that the client has missed.
    unsent: VecDeque<StateChange>,
    /// The position of the latest state change before those.
    changed: Option<Position>,
    /// The fold's position of the job's own events at the latest read; none before it.
    changes_read: Option<Position>,
    folded: FoldedJob,
    /// The blockers sent last: they appear and disappear without events.
    blockers: Vec<String>,
    poll_at: Timestamp,
    job_changes: watch::Receiver<u64>,
    tenant_changes: watch::Receiver<u64>,
}

impl MatchingFollower {
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
        // The subscription starts before the first read, so that no event is missed.
        let (job_changes, tenant_changes) = (api.notifier.job(job), api.notifier.tenant(tenant));
        // A position beyond the head comes from another log or from before a restore, so it does not show what the
        // client has received.
        let received = after.filter(|after| *after <= api.head());
        let folded = api.job_fold(tenant, job).await?;
        let (latest, upto) = (folded.fold.latest.position, folded.position);
        let mut follower = Self {
            api: Arc::clone(api),
            tenant: tenant.clone(),
            job,
            received,
            // A client without a position gets the present state, not the history.
            last_sent: received.unwrap_or(latest),
            events: StreamReader { stream: StreamId::job(job), next: Revision(0) },
            unsent: VecDeque::new(),
            changed: None,
            changes_read: None,
            folded,
            blockers: Vec::new(),
            poll_at: api.clock.now().after(POLL_INTERVAL),
            job_changes,
            tenant_changes,
        };
        let known = follower.changes_until(received.unwrap_or(upto)).await?;
        let has_received_the_end = received.is_some()
            && known.last().is_some_and(|last| last.kind.is_end())
            && follower.unsent.front().is_none_or(|next| next.position > upto);
        Ok((!has_received_the_end).then_some(follower))
    }

    /// The update for a change, with the job as it was then.
    async fn change_update(&mut self, change: &StateChange) -> Result<Update, Problem> {
        let mut summary = if self.folded.fold.latest.position == change.position {
            self.summarize(&self.folded, self.api.clock.now()).await?
        } else {
            let then = self.historical_summary(change);
            self.api.historical_summaries.summary(self.job, change.position, then).await?
        };
        summary.position = change.position;
        self.blockers.clone_from(&summary.blockers);
        Ok(change.kind.update(change.position, &self.update_data(summary, change.position)))
    }

    async fn historical_summary(&self, change: &StateChange) -> Result<Summary, Problem> {
        let models = self.api.models.matching_summary();
        let upto = UpTo::Position(change.position);
        let then = models.replay(&self.tenant, self.job, upto, Snapshots::Use).await;
        let then = then.map_err(|error| from_summary_error(&error))?.ok_or_else(no_such_job)?;
        self.summarize(&then.folded, change.recorded_at).await
    }

    async fn summarize(&self, folded: &FoldedJob, at: Timestamp) -> Result<Summary, Problem> {
        self.api.summarize(self.job, folded, at, ScoresFrom::ReadModel).await
    }

    fn update_data(&self, summary: Summary, latest: Position) -> MatchingUpdate {
        let progress = StreamProgress {
            percentage: summary.progress_percentage,
            current_stage: summary.phase,
            estimated_completion_seconds: summary.eta_seconds,
        };
        MatchingUpdate {
            job_id: self.job,
            position: Some(latest),
            progress: Some(progress),
            summary: Some(summary),
        }
    }

    /// The state changes up to `until` that have not been returned.
    async fn changes_until(&mut self, until: Position) -> Result<Vec<StateChange>, Problem> {
        for envelope in self.events.rest(&self.api.log).await? {
            let (position, recorded_at) = (envelope.position, envelope.recorded_at);
            let kind = ChangeKind::of(&envelope.event);
            self.unsent.extend(kind.map(|kind| StateChange { kind, position, recorded_at }));
        }
        let mut changes = Vec::new();
        while let Some(change) = self.unsent.pop_front_if(|change| change.position <= until) {
            self.changed = Some(change.position);
            changes.push(change);
        }
        Ok(changes)
    }
}

impl Follower for MatchingFollower {
    type Data = MatchingUpdate;

    fn key(&self) -> TopicKey {
        TopicKey { kind: "matching", tenant: Some(self.tenant.clone()), id: self.job.0 }
    }

    fn received(&self) -> Option<Position> {
        self.received
    }

    fn changed(&self) -> Option<Position> {
        self.changed
    }

    fn connected_event(&self) -> Option<MatchingUpdate> {
        let position = self.received;
        Some(MatchingUpdate { job_id: self.job, position, progress: None, summary: None })
    }

    /// The log is read only if the fold contains state changes that were not read; otherwise it would be read at each
    /// progress report.
    async fn changes(&mut self) -> Result<Vec<Update>, Problem> {
        self.job_changes.mark_unchanged();
        self.tenant_changes.mark_unchanged();
        self.poll_at = self.api.clock.now().after(POLL_INTERVAL);
        self.folded = self.api.job_fold(&self.tenant, self.job).await?;
        let state_changed = self.folded.fold.state_changed;
        if state_changed <= self.changes_read {
            return Ok(Vec::new());
        }
        let mut updates = Vec::new();
        for change in self.changes_until(self.folded.position).await? {
            if change.position > self.last_sent {
                updates.push(self.change_update(&change).await?);
                self.last_sent = change.position;
            }
        }
        self.changes_read = state_changed;
        Ok(updates)
    }

    async fn progress(&mut self) -> Result<Option<Progress>, Problem> {
        let latest = self.folded.fold.latest.position;
        let has_advanced = latest > self.last_sent;
        let summary = self.summarize(&self.folded, self.api.clock.now()).await?;
        if !has_advanced && summary.blockers == self.blockers {
            return Ok(None);
        }
        self.blockers.clone_from(&summary.blockers);
        self.last_sent = self.last_sent.max(latest);
        let is_beyond_id = !has_advanced || !self.blockers.is_empty();
        let data = self.update_data(summary, latest);
        Ok(Some(Progress { update: Update::progress("progress", Some(latest), &data), is_beyond_id }))
    }

    async fn first(&mut self) -> Result<Vec<Update>, Problem> {
        let folded = self.api.job_fold(&self.tenant, self.job).await?;
        let latest = folded.fold.latest.position;
        let summary = self.summarize(&folded, self.api.clock.now()).await?;
        let end = ChangeKind::terminal(summary.phase);
        let data = self.update_data(summary, latest);
        Ok(vec![match end {
            Some(end) => end.update(latest, &data),
            None => Update::progress("progress", Some(latest), &data),
        }])
    }

    async fn wake(&mut self) {
        tokio::select! {
            Ok(()) = self.job_changes.changed() => {}
            Ok(()) = self.tenant_changes.changed() => {}
            () = self.api.clock.sleep_until(self.poll_at) => {}
        }
    }
}
