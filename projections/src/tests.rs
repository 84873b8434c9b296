//! Tests of the read models together: restarts, rebuilds, unreadable events.

mod agreement;
mod answers;
mod catalogue;
mod control;
mod damage;
mod encoding;
mod erasure;
mod experiments;
mod filling;
pub(crate) mod history;
mod interaction_settings;
mod leases;
mod live;
mod match_history;
#[path = "../../tests/it/support/postgres.rs"]
mod postgres;
mod queries;
mod queue_history;
mod queues;
mod recommendations;
mod recovery;
mod replicas;
mod retries;
mod statements;
mod store_failures;
mod summary;
mod test_store;

use std::time::Duration;

use event_schemas::ids::Position;

use crate::{Name, ReadModels};
use history::History;
use test_store::TestStore;

/// The timeout of all waits.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) async fn open(store: &TestStore, history: &History) -> ReadModels {
    ReadModels::open(store.settings(), history.log(), history.clock.clone()).await.unwrap()
}

/// Waits until all read models reflect the position.
pub(crate) async fn reach(models: &ReadModels, position: Position) {
    let names = models.0.runners.keys().copied().collect::<Vec<Name>>();
    models.wait_for(&names, position, TIMEOUT).await.unwrap();
}

/// Waits until a condition is met.
pub(crate) async fn until(is_met: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !is_met().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the condition was not met in time");
}
