//! Following all queues in numbers: a reader is told the newest, so there is nothing to resume.

use std::sync::Arc;

use event_schemas::ids::{Position, Tenant};
use tokio::sync::watch;
use web::problem::Problem;
use web::sse::outbox::PROGRESS_EVERY;
use web::sse::{Sender, Update};

use super::{Halt, LOOK_EVERY};
use crate::ReadApi;
use crate::answer::unanswered;

/// One reader of the queues of a tenant, or of all.
#[derive(Debug)]
pub(crate) struct FollowQueues {
    api: Arc<ReadApi>,
    tenant: Option<Tenant>,
    changes: watch::Receiver<Position>,
    /// The queues' last change that was told; none before the first.
    told: Option<Option<Position>>,
}

impl FollowQueues {
    pub(crate) fn new(api: &Arc<ReadApi>, tenant: Option<Tenant>) -> Self {
        let changes = api.models.queues().changes();
        Self { api: Arc::clone(api), tenant, changes, told: None }
    }

    /// Tells all changes, until nobody listens any more.
    pub(crate) async fn run(mut self, sender: Sender) {
        match self.follow(&sender).await {
            Ok(()) | Err(Halt::Closed) => {}
            // The stream breaks off, and the reader comes back.
            Err(Halt::Failed(problem)) => tracing::warn!(%problem, "a stream of queues broke off"),
        }
    }

    async fn follow(&mut self, sender: &Sender) -> Result<(), Halt> {
        // While somebody waits, the waits grow.
        let mut somebody_waits = false;
        loop {
            self.changes.mark_unchanged();
            let look_at = self.api.clock.now().after(LOOK_EVERY);
            let changed_at = self.changed_at()?;
            if somebody_waits || self.told != Some(changed_at) {
                let summary = self.api.queue_summary(self.tenant.as_ref()).await?;
                somebody_waits = summary.waiting > 0;
                sender.send(Update::progress("summary", Some(summary.position.0), &summary))?;
                self.told = Some(changed_at);
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
            tokio::select! {
                Ok(()) = self.changes.changed() => {}
                () = self.api.clock.sleep_until(look_at), if somebody_waits => {}
                () = sender.closed() => return Err(Halt::Closed),
            }
        }
    }

    fn changed_at(&self) -> Result<Option<Position>, Problem> {
        let changed = self.api.models.queues().changed_at(self.tenant.as_ref());
        changed.map_err(|error| unanswered(&error))
    }
}
