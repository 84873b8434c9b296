//! What the integration tests stand on: the real program, started on a free port in a temporary folder.

pub(crate) mod answers;
pub(crate) mod arena;
pub(crate) mod cluster;
pub(crate) mod figures;
pub(crate) mod folder;
pub(crate) mod job;
pub(crate) mod load;
pub(crate) mod lossy;
pub(crate) mod outside;
pub(crate) mod reader;
pub(crate) mod server;

use std::time::{Duration, Instant};

/// A bound on what takes milliseconds on an idle machine. Only a failure waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A figure of a run that the environment may change: a longer run is the same test.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, is_so: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while !is_so().await {
            assert!(start.elapsed() < PATIENCE, "waited in vain at {caller} until {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
