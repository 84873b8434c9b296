//! Damage of the live generation: when it is met, the next one is built from the log.

use std::future::pending;
use std::time::Duration;

use event_schemas::time::Timestamp;
use tokio::sync::watch;

use super::runner::Runner;
use super::state::RunnerState;
use crate::sql::SqlError;
use crate::store::DAMAGE;

/// A generation that is damaged again within this time is not rebuilt at once: its disk may change what it stores.
const DAMAGED_AGAIN: Duration = Duration::from_secs(60);

/// The damage that a runner has handled.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// The time of the last one.
    met_at: Option<Timestamp>,
    /// The generation that is being replaced, because readers have met damage in it.
    replaced: Option<u64>,
}

/// Waits until readers meet damage.
pub(super) async fn met(damage: Option<watch::Receiver<Option<String>>>) -> String {
    if let Some(mut damage) = damage
        && let Ok(met) = damage.wait_for(Option::is_some).await
        && let Some(reason) = &*met
    {
        return reason.clone();
    }
    pending().await
}

impl Runner {
    /// Replaces the live generation, in which a reader has met damage. Until then it can be read: each read compares the
    /// checksums of what it returns. If the replacement fails, the generation is withdrawn.
    pub(super) async fn replace_damaged(&mut self, reason: String) {
        let live = match &self.state {
            RunnerState::Running(writer, _) | RunnerState::Paused(writer) | RunnerState::Stopped(writer)
                if writer.is_published() =>
            {
                Some(writer.target.number())
            }
            _ => None,
        };
        let error = SqlError::Damaged(reason);
        if live.is_none() || self.damage.replaced == live {
            return self.close(error).await;
        }
        self.damage.replaced = live;
        self.report_damage(&error);
        if self.rebuild().await.is_err() {
            self.close(error).await;
        }
    }

    /// Reports damage to the operator. Returns whether there was other damage shortly before.
    pub(super) fn report_damage(&mut self, error: &SqlError) -> bool {
        let (now, name) = (self.context.clock.now(), self.context.followed.name);
        tracing::error!(projection = %name, %error, "a read model is damaged; it is rebuilt from the log");
        metrics::counter!(DAMAGE, "projection" => name.as_str()).increment(1);
        self.context.tracker.damaged(error.to_string());
        let before = self.damage.met_at.replace(now);
        before.is_some_and(|before| before.after(DAMAGED_AGAIN) >= now)
    }
}
