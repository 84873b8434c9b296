//! Support for the integration tests: the real program, started on a free port with a temporary folder.

pub(crate) mod arena;
pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod external_services;
pub(crate) mod fault_report;
pub(crate) mod folder;
pub(crate) mod job;
pub(crate) mod load;
pub(crate) mod lossy;
pub(crate) mod postgres;
pub(crate) mod server;
pub(crate) mod server_state;
pub(crate) mod sse_client;

use std::time::{Duration, Instant};

/// A limit for operations that take milliseconds on an idle machine. Only a failure waits this long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);

/// A parameter of a test run, which an environment variable can override for longer runs.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Waits until the condition holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while !condition().await {
            assert!(start.elapsed() < TIMEOUT, "timed out at {caller} while waiting until {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
