//! `matchbook-bench cluster`: measures the log on a cluster. The appended events stay there.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use event_log::{EventLog, Expected, Filter, Log};
use event_schemas::envelope::{DataFormat, EventType, NewEvent};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::percentile;
use matchbook::cluster;
use matchbook::config::EventLogUrl;
use matchbook::failure::{Failure, print};

/// The numbers of concurrent callers, and of events in each append.
const LEVELS: [(usize, u64); 4] = [(1, 1), (64, 1), (512, 1), (64, 100)];

#[derive(Args, Debug)]
pub(crate) struct Cluster {
    /// The cluster; use one for tests, because the events stay there
    #[arg(long, env = "MATCHBOOK_EVENT_LOG", value_name = "URL", hide_env_values = true)]
    log: EventLogUrl,
    /// The duration of each level in a round
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    level: Duration,
    /// The number of rounds; the levels take turns
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: u32,
}

/// The results of one level over all rounds.
#[derive(Default)]
struct Level {
    /// The durations of appends, in milliseconds.
    took: Vec<f64>,
    events_per_second: Vec<f64>,
}

impl Cluster {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let EventLogUrl::Cluster(url) = self.log else {
            return Err(Failure::Usage("--log: for an embedded log use `matchbook-bench log`".to_owned()));
        };
        let log = cluster::connect(url).await?;
        let mut levels: [Level; LEVELS.len()] = Default::default();
        for round in 0..self.rounds {
            for (measured, level) in levels.iter_mut().zip(LEVELS) {
                let started = Instant::now();
                let callers = (0..level.0).map(|_| append(&log, level.1, started + self.level));
                let mut appends = 0;
                for took in join_all(callers).await {
                    let took = took?;
                    appends += took.len();
                    measured.took.extend(took);
                }
                let events = appends as f64 * level.1 as f64;
                measured.events_per_second.push(events / started.elapsed().as_secs_f64());
            }
            eprintln!("round {} of {}", round + 1, self.rounds);
        }
        for (mut measured, (callers, batch)) in levels.into_iter().zip(LEVELS) {
            measured.took.sort_by(f64::total_cmp);
            measured.events_per_second.sort_by(f64::total_cmp);
            let (p50, p99) = (percentile(&measured.took, 0.5), percentile(&measured.took, 0.99));
            let rate = percentile(&measured.events_per_second, 0.5);
            if json {
                print(&json!({ "bench": "cluster", "callers": callers, "events_each": batch,
                            "append_p50_ms": p50, "append_p99_ms": p99, "events_per_second": rate }))?;
            } else {
                print(&format_args!(
                    "{callers:>4} callers, {batch:>3} each: {rate:>8.0} events/s, an append p50 {p50:.2} ms, p99 {p99:.2} ms"
                ))?;
            }
        }
        let (events, rate) = read(&log).await?;
        log.close().await;
        if json {
            return print(&json!({ "bench": "cluster", "events": events, "read_events_per_second": rate }));
        }
        print(&format_args!("{events} events read at {rate:.0}/s"))
    }
}

/// Appends sequentially to its own stream. Returns the duration of each append in milliseconds.
async fn append(log: &Log, batch: u64, until: Instant) -> Result<Vec<f64>, Failure> {
    let stream: StreamId = format!("bench-{}", Uuid::new_v4().simple()).parse().expect("letters and digits");
    let (mut revision, mut took) = (None, Vec::new());
    while Instant::now() < until {
        let started = Instant::now();
        let events = (0..batch).map(event).collect();
        let appended = log.append(&stream, Expected::after(revision), events).await;
        let appended = appended.map_err(|error| Failure::Failed(error.to_string()))?;
        revision = Some::<Revision>(appended.revision);
        took.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

fn event(n: u64) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::new_v4()),
        event_type: EventType::new("Benched"),
        format: DataFormat::Json,
        metadata: Bytes::from_static(br#"{"schema_version":1,"tenant":"bench","actor":"worker:w-1"}"#),
        data: format!(r#"{{"score":0.93,"text":"{n:180}"}}"#).into(),
    }
}

/// Reads all events. Returns their number, and the events per second.
async fn read(log: &Log) -> Result<(u64, f64), Failure> {
    let (started, mut after, mut events) = (Instant::now(), Position::START, 0);
    loop {
        let page = log.read_all(after, &Filter::All, 4096).await;
        let page = page.map_err(|error| Failure::Failed(error.to_string()))?;
        events += page.events.len() as u64;
        after = page.next;
        if page.at_head {
            return Ok((events, events as f64 / started.elapsed().as_secs_f64()));
        }
    }
}
