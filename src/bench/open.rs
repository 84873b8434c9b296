//! `matchbook-bench open`: measures opening a large log, its memory, and the first access to its streams.
//!
//! It measures in a fresh process, so that memory from filling the log is not counted.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use event_log::clock::Clock;
use event_log::{AppendError, EventLog, Expected};
use event_log_embedded::{EmbeddedLog, Settings};
use event_schemas::envelope::{DataFormat, EventType, NewEvent};
use event_schemas::ids::{EventId, Revision};
use event_schemas::stream::StreamId;
use serde_json::json;
use uuid::Uuid;

use super::percentile;
use matchbook::failure::{Failure, open_failure, print};

/// Appends in flight while the log is filled.
const IN_FLIGHT: u64 = 2048;
/// The number of streams that are accessed, for each kind of operation.
const OPERATIONS: u64 = 10_000;

#[derive(Args, Debug)]
pub(crate) struct Open {
    /// The log's folder, which is kept: the next run reuses it
    #[arg(long, value_name = "FOLDER")]
    log: PathBuf,
    /// The number of events in the log
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000_000)]
    events: u64,
    /// The number of streams, to which events are appended in turn
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    streams: u64,
}

impl Open {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let settings = Settings { reserve_bytes: 0, ..Settings::new(&self.log) };
        let (before, started) = (memory_bytes(), Instant::now());
        let (log, opened) =
            EmbeddedLog::open(&settings, Clock::System).map_err(|error| open_failure(&error))?;
        let opening = started.elapsed();
        let held = memory_bytes().saturating_sub(before);
        if opened.events < self.events {
            return self.fill(log, opened.events).await;
        }
        let mut lines = vec![
            ("opening", vec![opening.as_secs_f64() * 1e3]),
            ("reading a stream", self.time(&log, Operation::Read).await?),
            ("refusing an append", self.time(&log, Operation::Conflict).await?),
            ("appending", self.time(&log, Operation::Append).await?),
        ];
        let (at_end, events) = (memory_bytes().saturating_sub(before), opened.events as f64);
        log.close().await;
        for (what, times) in &mut lines {
            times.sort_by(f64::total_cmp);
            let [p50, p99] = [0.5, 0.99].map(|share| percentile(times, share));
            if json {
                print(&json!({ "bench": "open", "what": what, "p50_ms": p50, "p99_ms": p99 }))?;
            } else {
                print(&format_args!("{what:<20} p50 {p50:.3} ms, p99 {p99:.3} ms"))?;
            }
        }
        let (held, at_end) = (held as f64 / events, at_end as f64 / events);
        if json {
            return print(&json!({
                "bench": "open", "events": opened.events, "streams": self.streams, "segments": opened.segments,
                "bytes_per_event": held, "bytes_per_event_at_end": at_end,
            }));
        }
        print(&format_args!(
            "{} events, {} streams, {} segments: {held:.1} bytes of memory per event once open, {at_end:.1} at the end",
            opened.events, self.streams, opened.segments,
        ))
    }

    /// Appends the missing events, and executes this command again in the same process.
    async fn fill(&self, log: EmbeddedLog, from: u64) -> Result<(), Failure> {
        let (next, last) = (Arc::new(AtomicU64::new(from)), self.events);
        let started = Instant::now();
        let streams = self.streams;
        let mut appenders = Vec::new();
        for _ in 0..IN_FLIGHT {
            let (log, next) = (log.clone(), Arc::clone(&next));
            appenders.push(tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= last {
                        return Ok::<(), Failure>(());
                    }
                    let appended = log.append(&stream(number % streams), Expected::Any, vec![event()]).await;
                    appended.map_err(|error| Failure::Failed(error.to_string()))?;
                    if number % 1_000_000 == 999_999 {
                        eprintln!("{} of {last} events after {:.0?}", number + 1, started.elapsed());
                    }
                }
            }));
        }
        for appender in appenders {
            let appended = appender.await;
            appended.map_err(|error| Failure::Failed(format!("an appender failed: {error}")))??;
        }
        log.close().await;
        drop(log);
        let failed = |error: &std::io::Error| Failure::Failed(format!("cannot start again: {error}"));
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        // `exec` returns only if it fails.
        Err(failed(&Command::new(program).args(std::env::args_os().skip(1)).exec()))
    }

    /// The durations of an operation on random streams, in milliseconds, one at a time.
    async fn time(&self, log: &EmbeddedLog, operation: Operation) -> Result<Vec<f64>, Failure> {
        let mut random = fastrand::Rng::new();
        let mut times = Vec::new();
        for _ in 0..OPERATIONS {
            let stream = stream(random.u64(..self.streams));
            let started = Instant::now();
            let answered = match operation {
                Operation::Read => match log.read_stream(&stream, Revision(0), 100).await {
                    Ok(events) if events.is_empty() => Err(format!("{stream} has no events")),
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.to_string()),
                },
                Operation::Conflict => match log.append(&stream, Expected::NoStream, vec![event()]).await {
                    Err(AppendError::Conflict { actual: Some(_) }) => Ok(()),
                    other => Err(format!("{stream} exists, but: {other:?}")),
                },
                Operation::Append => {
                    let appended = log.append(&stream, Expected::Any, vec![event()]).await;
                    appended.map(|_| ()).map_err(|error| error.to_string())
                }
            };
            answered.map_err(Failure::Failed)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    }
}

#[derive(Clone, Copy)]
enum Operation {
    /// Reads a stream from its start, at most a hundred events.
    Read,
    /// An append that expects a new stream, and is refused.
    Conflict,
    /// An append that is durable before it is acknowledged.
    Append,
}

fn stream(number: u64) -> StreamId {
    format!("matching-{number:032x}").parse().expect("a category, a hyphen and hexadecimal digits")
}

/// About 330 bytes with its names, like a match.
fn event() -> NewEvent {
    NewEvent {
        id: EventId(Uuid::new_v4()),
        event_type: EventType::new("MatchFound"),
        format: DataFormat::Json,
        metadata: Bytes::from_static(br#"{"schema_version":1,"tenant":"bench","actor":"worker:w-1"}"#),
        data: Bytes::from_static(&[b' '; 180]),
    }
}

/// The anonymous memory of this process in bytes; zero if the system does not report it.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = anonymous.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
