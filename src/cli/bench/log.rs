//! `matchbook bench log`: what the embedded log does on this machine's disk, beside SQLite and the bare disk.
//!
//! Both stores and the bare disk take turns within every round, so that what else the machine does meets all of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use event_log::clock::Clock;
use event_log::embedded::{EmbeddedLog, Settings};
use event_log::{EventLog, Expected, Filter};
use event_schemas::envelope::{DataFormat, EventType, NewEvent};
use event_schemas::ids::{EventId, Position};
use event_schemas::stream::StreamId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::percentile;
use crate::cli::{Failure, print};
use crate::wiring::open_failure;

mod sqlite;

use sqlite::SqliteLog;

const STREAMS: u64 = 100_000;
/// Appends in flight, and events in each.
const LEVELS: [(u64, u64); 4] = [(1, 1), (64, 1), (1024, 1), (64, 100)];

#[derive(Args, Debug)]
pub(crate) struct Log {
    /// Where a folder for the run is made, and removed at its end: on the disk that is to be measured
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// How many events the log is filled up to before it is opened and read
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    events: u64,
    /// How long each store appends at each level of a round
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    level: Duration,
    /// How often each level is measured; the stores take turns
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: u32,
}

#[derive(Clone)]
enum Store {
    Own(EmbeddedLog),
    Sqlite(SqliteLog),
}

/// One store at one level of one round.
#[derive(Clone, Copy)]
struct Measured {
    events_per_second: f64,
    cpu_micros_per_event: f64,
}

/// One level of one round.
struct Turn {
    level: (u64, u64),
    bare_syncs_per_second: f64,
    own: Measured,
    sqlite: Measured,
}

/// What opening and reading took.
struct Reading {
    events: u64,
    open_milliseconds: f64,
    read_events_per_second: f64,
}

impl Log {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let folder = tempfile::tempdir_in(&self.folder).map_err(|error| {
            Failure::Disk(format!("cannot make a folder in {}: {error}", self.folder.display()))
        })?;
        let settings = Settings { reserve_bytes: 0, ..Settings::new(folder.path().join("events")) };
        let (log, _) = open(&settings)?;
        let peer = SqliteLog::open(&folder.path().join("events.sqlite")).await?;
        let (own, sqlite) = (Store::Own(log.clone()), Store::Sqlite(peer));
        let mut turns = Vec::new();
        for round in 0..self.rounds {
            for level in LEVELS {
                let bare = bare_syncs(folder.path())
                    .map_err(|error| Failure::Disk(format!("cannot probe the disk: {error}")))?;
                let first = if round % 2 == 0 { [&own, &sqlite] } else { [&sqlite, &own] };
                let one = measure(first[0], level, self.level).await?;
                let other = measure(first[1], level, self.level).await?;
                let (own, sqlite) = if round % 2 == 0 { (one, other) } else { (other, one) };
                eprintln!(
                    "round {} of {}: {} in flight, {} each: {:.0} events/s, SQLite {:.0}/s, bare syncs {bare:.0}/s",
                    round + 1,
                    self.rounds,
                    level.0,
                    level.1,
                    own.events_per_second,
                    sqlite.events_per_second,
                );
                turns.push(Turn { level, bare_syncs_per_second: bare, own, sqlite });
            }
        }
        drop(sqlite);
        let left = self.events.saturating_sub(log.head().borrow().0);
        append(&own, (64, 100), None, left).await?;
        drop(own);
        log.close().await;
        drop(log);
        let reading = read(&settings).await?;
        report(&turns, &reading, json)
    }
}

fn open(settings: &Settings) -> Result<(EmbeddedLog, Duration), Failure> {
    let (log, opened) = EmbeddedLog::open(settings, Clock::System).map_err(|error| open_failure(&error))?;
    Ok((log, opened.duration))
}

async fn measure(store: &Store, level: (u64, u64), took: Duration) -> Result<Measured, Failure> {
    let (cpu, started) = (cpu_time(), Instant::now());
    let events = append(store, level, Some(started + took), u64::MAX).await? as f64;
    Ok(Measured {
        events_per_second: events / started.elapsed().as_secs_f64(),
        cpu_micros_per_event: (cpu_time() - cpu).as_secs_f64() * 1e6 / events.max(1.0),
    })
}

/// Closed loops, each of which appends as soon as its last append is durable. Returns how many events were appended.
async fn append(
    store: &Store,
    (in_flight, batch): (u64, u64),
    until: Option<Instant>,
    events_max: u64,
) -> Result<u64, Failure> {
    let mut appenders = Vec::new();
    for _ in 0..in_flight {
        let store = store.clone();
        appenders.push(tokio::spawn(async move {
            let mut random = Uuid::new_v4().as_u64_pair().1;
            let mut appended = 0;
            while until.is_none_or(|until| Instant::now() < until) && appended < events_max / in_flight {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let stream: StreamId = format!("matching-{:032x}", (random >> 32) % STREAMS)
                    .parse()
                    .expect("a category, a hyphen and hexadecimal digits");
                store.append(stream, (0..batch).map(|n| event(random, n)).collect()).await?;
                appended += batch;
            }
            Ok::<u64, Failure>(appended)
        }));
    }
    let mut events = 0;
    for appender in appenders {
        let appended = appender.await;
        events += appended.map_err(|error| Failure::Failed(format!("an appender broke off: {error}")))??;
    }
    Ok(events)
}

impl Store {
    async fn append(&self, stream: StreamId, events: Vec<NewEvent>) -> Result<(), Failure> {
        match self {
            Self::Own(log) => {
                let appended = log.append(&stream, Expected::Any, events).await;
                appended.map(|_| ()).map_err(|error| Failure::Failed(error.to_string()))
            }
            Self::Sqlite(log) => log.append(stream, events).await,
        }
    }
}

/// About 330 bytes with its names, as a match has.
fn event(random: u64, n: u64) -> NewEvent {
    let data = format!(r#"{{"match_id":"hedge-{random:016x}","score":0.93,"text":"{n:180}"}}"#);
    NewEvent {
        id: EventId(Uuid::from_u64_pair(random, n)),
        event_type: EventType::new("MatchFound"),
        format: DataFormat::Json,
        metadata: Bytes::from_static(br#"{"schema_version":1,"tenant":"bench","actor":"worker:w-1"}"#),
        data: data.into(),
    }
}

/// Opens the closed log and reads all its envelopes, twice; the second time counts.
async fn read(settings: &Settings) -> Result<Reading, Failure> {
    let (log, opening) = open(settings)?;
    let (mut events, mut rate) = (0, 0.0);
    for _ in 0..2 {
        let (started, mut after) = (Instant::now(), Position::START);
        events = 0;
        loop {
            let page = log.read_all(after, &Filter::All, 4096).await;
            let page = page.map_err(|error| Failure::Failed(error.to_string()))?;
            events += page.events.len() as u64;
            after = page.next;
            if page.at_head {
                break;
            }
        }
        rate = events as f64 / started.elapsed().as_secs_f64();
    }
    log.close().await;
    Ok(Reading { events, open_milliseconds: opening.as_secs_f64() * 1e3, read_events_per_second: rate })
}

/// How often a second 400 bytes can be written over zeros and synced.
fn bare_syncs(folder: &Path) -> std::io::Result<f64> {
    let path = folder.join("probe");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; 4 << 20], 0)?;
    file.sync_all()?;
    let (started, mut syncs) = (Instant::now(), 0_u64);
    while started.elapsed() < Duration::from_millis(500) && syncs < 10_000 {
        file.write_all_at(&[1; 400], syncs * 400)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = syncs as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// Of this process, all threads.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn report(turns: &[Turn], reading: &Reading, json: bool) -> Result<(), Failure> {
    for level in LEVELS {
        let of = |value: &dyn Fn(&Turn) -> f64| {
            let mut values: Vec<f64> = turns.iter().filter(|turn| turn.level == level).map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let own = of(&|turn| turn.own.events_per_second);
        let sqlite = of(&|turn| turn.sqlite.events_per_second);
        let ratio = of(&|turn| turn.own.events_per_second / turn.sqlite.events_per_second);
        let bare = of(&|turn| turn.bare_syncs_per_second);
        let own_cpu = of(&|turn| turn.own.cpu_micros_per_event);
        let sqlite_cpu = of(&|turn| turn.sqlite.cpu_micros_per_event);
        let spread = |values: &[f64]| [0.0, 0.5, 1.0].map(|share| percentile(values, share));
        let (in_flight, batch) = level;
        if json {
            let figures = |values: &[f64]| -> Value {
                let [min, median, max] = spread(values);
                json!({ "min": min, "median": median, "max": max })
            };
            print(&json!({
                "bench": "log", "in_flight": in_flight, "events_each": batch,
                "events_per_second": figures(&own), "sqlite_events_per_second": figures(&sqlite),
                "ratio": figures(&ratio), "bare_syncs_per_second": figures(&bare),
                "cpu_micros_per_event": figures(&own_cpu), "sqlite_cpu_micros_per_event": figures(&sqlite_cpu),
            }))?;
        } else {
            let [least, middle, most] = spread(&ratio);
            print(&format_args!(
                "{in_flight:>5} in flight, {batch:>3} each: {:>7.0} events/s, SQLite {:>6.0}/s, ratio {middle:.1} [{least:.1}..{most:.1}]; \
                 CPU an event {:.1} us, SQLite {:.1} us, appenders included; bare syncs {:.0}/s",
                percentile(&own, 0.5),
                percentile(&sqlite, 0.5),
                percentile(&own_cpu, 0.5),
                percentile(&sqlite_cpu, 0.5),
                percentile(&bare, 0.5),
            ))?;
        }
    }
    if json {
        return print(&json!({
            "bench": "log", "events": reading.events, "open_ms": reading.open_milliseconds,
            "read_events_per_second": reading.read_events_per_second,
        }));
    }
    print(&format_args!(
        "{} events: opened in {:.0} ms, read at {:.0}/s",
        reading.events, reading.open_milliseconds, reading.read_events_per_second,
    ))
}
