//! Logs by their URLs, to read from and to put events into.

use clap::Args;
use event_log::clock::Clock;
use event_log::embedded::EmbeddedLog;
use event_log::transfer::Source;
use event_log::{EventLog, Log};
use event_schemas::ids::Position;

use super::backup::walk_failure;
use super::events_folder;
use crate::cli::Failure;
use crate::cluster;
use crate::config::EventLogUrl;
use crate::wiring::open_failure;

/// How a log is made where there is none.
#[derive(Args, Clone, Debug)]
pub(super) struct Making {
    /// Free disk space that is not used up by an embedded log, in bytes
    #[arg(long, env = "MATCHBOOK_RESERVE_BYTES", value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    reserve_bytes: u64,
    /// Size of the segments of an embedded log, in bytes
    #[arg(long, env = "MATCHBOOK_SEGMENT_BYTES", value_name = "BYTES", default_value_t = 64 * 1024 * 1024)]
    segment_bytes: u64,
}

/// Opens the log to read what it holds. One in a folder is not locked and not written to.
pub(super) async fn source(url: &EventLogUrl, after: Position) -> Result<Source, Failure> {
    match url {
        EventLogUrl::Embedded(folder) => {
            Source::folder(&events_folder(folder), after).map_err(|error| walk_failure(&error))
        }
        EventLogUrl::Cluster(url) => Ok(Source::log(cluster::reach(url.clone()).await?, after)),
    }
}

/// Opens the log to put events into it. A folder of one gets locked, and is made if it is not there.
pub(super) async fn target(url: &EventLogUrl, making: &Making) -> Result<Log, Failure> {
    match url {
        EventLogUrl::Embedded(folder) => {
            let settings = event_log::embedded::Settings {
                reserve_bytes: making.reserve_bytes,
                segment_bytes: making.segment_bytes,
                ..event_log::embedded::Settings::new(events_folder(folder))
            };
            let opening =
                tokio::task::spawn_blocking(move || EmbeddedLog::open(&settings, Clock::System)).await;
            let (log, _) = opening
                .map_err(|error| Failure::Failed(format!("opening the log broke off: {error}")))?
                .map_err(|error| open_failure(&error))?;
            Ok(Log::Embedded(log))
        }
        EventLogUrl::Cluster(url) => cluster::reach(url.clone()).await,
    }
}

/// Lets the log go, so that a server can have it.
pub(super) async fn close(log: Log) {
    match &log {
        Log::Embedded(log) => log.close().await,
        _ => cluster::close(&log).await,
    }
}

/// Where a log ends now.
pub(super) fn head(log: &Log) -> Position {
    *log.head().borrow()
}
