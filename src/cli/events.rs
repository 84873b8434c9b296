//! `matchbook events`: the log of a running server, read by its auditors' API; and the files of one, looked after.

mod backup;
mod export;
mod import;
mod migrate;
mod pace;
mod place;
mod repair;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::StreamExt;
use serde_json::Value;

use super::client::{Client, Server};
use super::{Failure, written};

const NDJSON: &str = "application/x-ndjson";

#[derive(Subcommand, Debug)]
pub(crate) enum Events {
    /// Show events as they are recorded, until interrupted
    Tail(Tail),
    /// Write all events up to now as CloudEvents, one a line; what an earlier export left unfinished goes on
    Export(export::Export),
    /// Read the whole log of a stopped server, and tell whether every byte of it is right
    Verify(verify::Verify),
    /// Show what could be kept of a stopped server's damaged log; with --apply, set the rest aside. Nothing is deleted
    Repair(repair::Repair),
    /// Copy the log into a backup while the server runs, or add to the backup what is new
    Backup(backup::Backup),
    /// Make a stopped server's log from a backup
    Restore(backup::Restore),
    /// Put exported events into a log that is not in use, with their times and ids
    Import(import::Import),
    /// Move a log to another place, from a folder to a cluster or back, and verify that both hold the same
    Migrate(migrate::Migrate),
}

#[derive(Args, Debug)]
struct Selection {
    #[command(flatten)]
    server: Server,
    /// Only events of this stream
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Only events of this category: job, matching, worker
    #[arg(long, value_name = "CATEGORY")]
    category: Option<String>,
    /// Only events of this type, such as MatchFound
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Tail {
    #[command(flatten)]
    selection: Selection,
    /// Start after this position instead of now; 0 shows everything
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

/// The folder of the events in a data folder; a folder that has none may be that of the events itself.
fn events_folder(data: &Path) -> PathBuf {
    let within = data.join("events");
    if within.is_dir() { within } else { data.to_owned() }
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
                query.push_str(&format!("&{name}={}", escaped(value)));
            }
        }
        query
    }
}

/// A value as a query takes it.
fn escaped(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    value
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The position of the newest event.
async fn head(client: &Client) -> Result<u64, Failure> {
    let status: Value = client.get("/status").await?;
    status
        .pointer("/log/head")
        .and_then(Value::as_u64)
        .ok_or_else(|| Failure::Failed("the server does not say where its log ends".to_owned()))
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
                let event: Value = serde_json::from_slice(line).unwrap_or_default();
                from = event.get("position").and_then(Value::as_u64).unwrap_or(from);
                let shown = if json { out.write_all(line) } else { writeln!(out, "{}", readable(&event)) };
                shown.map_err(|error| written(&error))
            })
            .await;
            // A server that was stopped comes back; the tail goes on behind the last event that it showed.
            match ended {
                Ok(()) | Err(Failure::Unreachable(_)) => tokio::time::sleep(Duration::from_secs(1)).await,
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// Hands every line of a stream, with its end, to `take`, until the stream ends.
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
fn readable(event: &Value) -> String {
    let text = |member: &str| event.get(member).and_then(Value::as_str).unwrap_or_default();
    let position = event.get("position").and_then(Value::as_u64).unwrap_or_default();
    let time = text("recorded_at").split_once('T').map_or("", |(_, time)| time.trim_end_matches('Z'));
    let data = event.get("data").map(Value::to_string).unwrap_or_default();
    format!("{position:>8} {time} {:<24} {} {data}", text("type"), text("stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_on_a_readable_line() {
        let event = serde_json::json!({
            "position": 42, "recorded_at": "2026-11-20T10:00:00.123456Z", "type": "JobCancelled",
            "stream": "job-1", "data": {"from": "queued"},
        });
        assert_eq!(
            readable(&event),
            r#"      42 10:00:00.123456 JobCancelled             job-1 {"from":"queued"}"#
        );
    }
}
