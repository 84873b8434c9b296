//! The live stream of queue statistics. Each update is complete, so there is nothing to resume.

use std::sync::Arc;
use std::time::Duration;

use event_schemas::ids::{Position, Tenant};
use event_schemas::time::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;
use web::problem::Problem;
use web::sse::Update;
use web::sse::queue::PROGRESS_EVERY;

use super::super::POLL_INTERVAL;
use super::super::engine::{Follower, Progress, TopicKey};
use crate::ReadApi;
use crate::errors::from_query_error;
use crate::routes::queue::QueueSummary;

/// Follows the queues of one tenant, or of all tenants.
#[derive(Debug)]
pub(crate) struct QueueSummaryFollower {
    api: Arc<ReadApi>,
    tenant: Option<Tenant>,
    changes: watch::Receiver<Position>,
    /// The latest change of the queues that was sent; the outer option is none before the first update.
    last_sent: Option<Option<Position>>,
    /// While players wait, their waiting times grow.
    has_waiting: bool,
    latest: Option<Update>,
    poll_at: Timestamp,
}

impl QueueSummaryFollower {
    pub(crate) fn new(api: &Arc<ReadApi>, tenant: Option<Tenant>) -> Self {
        let changes = api.models.queues().changes();
        let (api, poll_at) = (Arc::clone(api), api.clock.now());
        Self { api, tenant, changes, last_sent: None, has_waiting: false, latest: None, poll_at }
    }
}

impl Follower for QueueSummaryFollower {
    type Data = QueueSummary;

    const INTERVAL: Duration = PROGRESS_EVERY;

    fn key(&self) -> TopicKey {
        TopicKey { kind: "queues", tenant: self.tenant.clone(), id: Uuid::nil() }
    }

    fn received(&self) -> Option<Position> {
        None
    }

    fn changed(&self) -> Option<Position> {
        None
    }

    fn connected_event(&self) -> Option<QueueSummary> {
        None
    }

    async fn changes(&mut self) -> Result<Vec<Update>, Problem> {
        Ok(Vec::new())
    }

    async fn progress(&mut self) -> Result<Option<Progress>, Problem> {
        self.changes.mark_unchanged();
        self.poll_at = self.api.clock.now().after(POLL_INTERVAL);
        let changed_at = self.api.models.queues().changed_at(self.tenant.as_ref());
        let changed_at = changed_at.map_err(|error| from_query_error(&error))?;
        if !self.has_waiting && self.last_sent == Some(changed_at) {
            return Ok(None);
        }
        let summary = self.api.queue_summary(self.tenant.as_ref()).await?;
        self.has_waiting = summary.waiting > 0;
        self.last_sent = Some(changed_at);
        let update = Update::progress("summary", Some(summary.position), &summary);
        self.latest = Some(update.clone());
        Ok(Some(Progress { update, is_beyond_id: true }))
    }

    async fn first(&mut self) -> Result<Vec<Update>, Problem> {
        Ok(self.latest.iter().cloned().collect())
    }

    async fn wake(&mut self) {
        tokio::select! {
            Ok(()) = self.changes.changed() => {}
            () = self.api.clock.sleep_until(self.poll_at), if self.has_waiting => {}
        }
    }
}
