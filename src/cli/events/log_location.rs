//! Opens logs by their URLs, for reading and for appending.

use clap::Args;
use event_log::clock::Clock;
use event_log::{EventLog, Log};
use event_log_embedded::EmbeddedLog;
use event_log_embedded::transfer::TransferSource;
use event_schemas::ids::Position;

use super::backup::offline_read_failure;
use super::events_folder;
use matchbook::cluster;
use matchbook::config::EventLogUrl;
use matchbook::failure::{Failure, open_failure};

/// The options for a log that is created.
#[derive(Args, Clone, Debug)]
pub(super) struct NewLogOptions {
    /// Free disk space that an embedded log keeps in reserve, in bytes
    #[arg(long, env = "MATCHBOOK_RESERVE_BYTES", value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    reserve_bytes: u64,
    /// The size of a segment of an embedded log, in bytes
    #[arg(long, env = "MATCHBOOK_SEGMENT_BYTES", value_name = "BYTES", default_value_t = 64 * 1024 * 1024)]
    segment_bytes: u64,
}

/// Opens a log for reading. A log in a folder is neither locked nor written.
pub(super) async fn source(url: &EventLogUrl, after: Position) -> Result<TransferSource, Failure> {
    match url {
        EventLogUrl::Embedded(folder) => TransferSource::folder(&events_folder(folder), after)
            .map_err(|error| offline_read_failure(&error)),
        EventLogUrl::Cluster(url) => Ok(TransferSource::log(cluster::connect(url.clone()).await?, after)),
    }
}

/// Opens a log for appending. A log in a folder is locked, and created if it does not exist.
pub(super) async fn target(url: &EventLogUrl, options: &NewLogOptions) -> Result<Log, Failure> {
    match url {
        EventLogUrl::Embedded(folder) => {
            let settings = event_log_embedded::Settings {
                reserve_bytes: options.reserve_bytes,
                segment_bytes: options.segment_bytes,
                ..event_log_embedded::Settings::new(events_folder(folder))
            };
            let opening =
                tokio::task::spawn_blocking(move || EmbeddedLog::open(&settings, Clock::System)).await;
            let (log, _) = opening
                .map_err(|error| Failure::Failed(format!("opening the log failed: {error}")))?
                .map_err(|error| open_failure(&error))?;
            Ok(Log::new(log))
        }
        EventLogUrl::Cluster(url) => cluster::connect(url.clone()).await,
    }
}

/// The position of the last event.
pub(super) fn head(log: &Log) -> Position {
    *log.head().borrow()
}
