//! `matchbook events`: reads the log of a running server through its audit API, and manages the files of a log.

mod backup;
mod export;
mod import;
mod log_location;
mod migrate;
pub(super) mod progress;
mod repair;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use event_schemas::Category;
use futures_util::StreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use read_api::routes::history::EventDto;
use read_api::routes::operations::dto::Status;

use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, output_failure};

const NDJSON: &str = "application/x-ndjson";

#[derive(Subcommand, Debug)]
pub(crate) enum Events {
    /// Print events as they are recorded, until interrupted
    Tail(Tail),
    /// Export all events up to now as CloudEvents, one per line; an interrupted export is resumed
    Export(export::Export),
    /// Verify all checksums of a stopped server's log
    Verify(verify::Verify),
    /// Show how a stopped server's damaged log can be repaired; with --apply, quarantine the damaged part. Nothing is deleted
    Repair(repair::Repair),
    /// Back up the log, also while the server runs; an existing backup is updated
    Backup(backup::Backup),
    /// Restore a stopped server's log from a backup
    Restore(backup::Restore),
    /// Import exported events, with their times and ids, into a log that is not in use
    Import(import::Import),
    /// Copy a log from a folder to a cluster or back, and verify that both are equal
    Migrate(migrate::Migrate),
}

#[derive(Args, Debug)]
struct Selection {
    #[command(flatten)]
    server: Server,
    /// Only events of this stream
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Only events of this category
    #[arg(long, value_name = "CATEGORY", value_parser = PossibleValuesParser::new(Category::NAMES))]
    category: Option<String>,
    /// Only events of this type, such as MatchFound
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Tail {
    #[command(flatten)]
    selection: Selection,
    /// Start after this position instead of now; 0 prints all events
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
}

impl Events {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::Tail(tail) => tail.run(json).await,
            Self::Export(export) => export.run(json).await,
            Self::Import(import) => import.run(json).await,
            Self::Migrate(migrate) => migrate.run(json).await,
            Self::Verify(verify) => verify.run(json).await,
            Self::Repair(repair) => repair.run(json).await,
            Self::Backup(backup) => backup.run(json).await,
            Self::Restore(restore) => restore.run(json).await,
        }
    }
}

/// The folder of the events in a data folder, or the folder itself if it has no folder `events`.
pub(super) fn events_folder(data: &Path) -> PathBuf {
    let within = data.join("events");
    // Its head file remains if the folder itself is lost.
    if within.is_dir() || data.join("events.head").exists() { within } else { data.to_owned() }
}

impl Selection {
    fn query(&self, from: u64, to: Option<u64>) -> String {
        let mut query = format!("/audit/events?from={}", from + 1);
        if let Some(to) = to {
            query.push_str(&format!("&to={to}"));
        }
        for (name, value) in
            [("stream", &self.stream), ("category", &self.category), ("type", &self.event_type)]
        {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
            }
        }
        query
    }
}

/// The position of the newest event.
async fn head(client: &Client) -> Result<u64, Failure> {
    let status: Status = client.get("/status").await?;
    Ok(status.log.head.0)
}

impl Tail {
    async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.selection.server.clone())?;
        let mut from = match self.from {
            Some(from) => from,
            None => head(&client).await?,
        };
        let mut out = std::io::stdout().lock();
        loop {
            let path = self.selection.query(from, None);
            let ended = copy(&client, &path, |line| {
                let event: EventDto = serde_json::from_slice(line).map_err(|error| {
                    Failure::Failed(format!("the server sent a line that is no event: {error}"))
                })?;
                from = event.position.0;
                let printed = if json { out.write_all(line) } else { writeln!(out, "{}", readable(&event)) };
                printed.map_err(|error| output_failure(&error))
            })
            .await;
            // After a restart of the server, the tail resumes after the last printed event.
            match ended {
                Err(failure) if !client.has_responded() => return Err(failure),
                Ok(()) | Err(Failure::Unreachable(_)) => tokio::time::sleep(Duration::from_secs(1)).await,
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// Passes every line of a stream, including its line break, to `take`, until the stream ends.
async fn copy(
    client: &Client,
    path: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut stream = client.stream(path, NDJSON).await?.bytes_stream();
    let mut pending: Vec<u8> = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Failure::Unreachable(format!("the connection broke: {error}")))?;
        pending.extend_from_slice(&chunk);
        let mut start = 0;
        while let Some(end) =
            pending.iter().skip(start).position(|byte| *byte == b'\n').map(|at| start + at + 1)
        {
            let line = pending.get(start..end).unwrap_or_default();
            if line != b"\n" {
                take(line)?;
            }
            start = end;
        }
        pending.drain(..start);
    }
    Ok(())
}

/// `     42 10:00:00.123456 MatchFound matching-… {"match_id":…}`
fn readable(event: &EventDto) -> String {
    let recorded_at = event.recorded_at.to_string();
    let time = recorded_at.split_once('T').map_or("", |(_, time)| time.trim_end_matches('Z'));
    format!("{:>8} {time} {:<24} {} {}", event.position.0, event.event_type, event.stream, event.data)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn event_is_printed_on_one_line() {
        let event = serde_json::json!({
            "id": Uuid::nil(), "type": "JobCancelled", "schema_version": 1, "stream": "job-1", "revision": 3,
            "position": 42, "occurred_at": "2026-11-20T09:59:00Z", "recorded_at": "2026-11-20T10:00:00.123456Z",
            "tenant": "default", "actor": "system:test", "correlation_id": Uuid::nil(), "causation_id": Uuid::nil(),
            "data": {"from": "queued"},
        });
        assert_eq!(
            readable(&serde_json::from_value(event).unwrap()),
            r#"      42 10:00:00.123456 JobCancelled             job-1 {"from":"queued"}"#
        );
    }
}
