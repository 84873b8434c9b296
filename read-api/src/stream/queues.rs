//! The live stream of queue statistics. Each update is complete, so there is nothing to resume.

use std::sync::Arc;

use event_schemas::ids::{Position, Tenant};
use tokio::sync::watch;
use web::problem::Problem;
use web::sse::queue::PROGRESS_EVERY;
use web::sse::{Sender, Update};

use super::{POLL_INTERVAL, StopReason};
use crate::ReadApi;
use crate::errors::from_query_error;

/// The stream of the queues of one tenant, or of all tenants, to one client.
#[derive(Debug)]
pub(crate) struct QueueSummaryStream {
    api: Arc<ReadApi>,
    tenant: Option<Tenant>,
    changes: watch::Receiver<Position>,
    /// The latest change of the queues that was sent; the outer option is none before the first update.
    last_sent: Option<Option<Position>>,
}

impl QueueSummaryStream {
    pub(crate) fn new(api: &Arc<ReadApi>, tenant: Option<Tenant>) -> Self {
        let changes = api.models.queues().changes();
        Self { api: Arc::clone(api), tenant, changes, last_sent: None }
    }

    /// Sends all changes, until the client has disconnected.
    pub(crate) async fn run(mut self, sender: Sender) {
        match self.follow(&sender).await {
            Ok(()) | Err(StopReason::Closed) => {}
            // The stream is closed, and the client reconnects.
            Err(StopReason::Failed(problem)) => {
                tracing::warn!(%problem, "the stream of queue statistics failed");
            }
        }
    }

    async fn follow(&mut self, sender: &Sender) -> Result<(), StopReason> {
        // While players wait, their waiting times grow.
        let mut has_waiting = false;
        loop {
            self.changes.mark_unchanged();
            let poll_at = self.api.clock.now().after(POLL_INTERVAL);
            let changed_at = self.changed_at()?;
            if has_waiting || self.last_sent != Some(changed_at) {
                let summary = self.api.queue_summary(self.tenant.as_ref()).await?;
                has_waiting = summary.waiting > 0;
                sender.send(Update::progress("summary", Some(summary.position.0), &summary))?;
                self.last_sent = Some(changed_at);
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
            tokio::select! {
                Ok(()) = self.changes.changed() => {}
                () = self.api.clock.sleep_until(poll_at), if has_waiting => {}
                () = sender.closed() => return Err(StopReason::Closed),
            }
        }
    }

    fn changed_at(&self) -> Result<Option<Position>, Problem> {
        let changed = self.api.models.queues().changed_at(self.tenant.as_ref());
        changed.map_err(|error| from_query_error(&error))
    }
}
