//! How the read models behave together: restarts, rebuilds, events that nobody can read.

mod agreement;
mod following;
mod history;
mod listing;
mod lobby;
mod meetings;
mod queues;
mod recovery;
mod retries;
mod statements;
mod summary;

use std::time::Duration;

use event_schemas::ids::Position;

use crate::{Name, ReadModels, Settings};
use history::History;

/// Nothing here takes long; a test that waits this long has failed.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn open(folder: &tempfile::TempDir, history: &History) -> ReadModels {
    let settings = Settings { folder: folder.path().to_owned() };
    ReadModels::open(settings, history.log(), history.clock.clone()).await.unwrap()
}

/// Waits until all read models reflect the position.
pub(crate) async fn reach(models: &ReadModels, position: Position) {
    let names = models.0.handles.keys().copied().collect::<Vec<Name>>();
    models.wait_for(&names, position, SOON).await.unwrap();
}

/// Waits until something is so.
pub(crate) async fn until(is_so: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("it never came to be so");
}
