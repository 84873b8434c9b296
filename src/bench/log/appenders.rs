//! Appenders in closed loops, and the measured throughput and CPU time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent};
use event_schemas::ids::EventId;
use event_schemas::stream::StreamId;
use uuid::Uuid;

use super::stores::Store;
use matchbook::failure::Failure;

/// The number of different event texts.
const TEXTS: u64 = 1024;

/// The number of appends in flight, and of events in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) in_flight: u64,
    pub(super) each: u64,
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text} is not a level: write appends in flight and events each, such as 1024x1");
        let (in_flight, each) = text.split_once('x').ok_or_else(wrong)?;
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0).ok_or_else(wrong);
        Ok(Self { in_flight: number(in_flight)?, each: number(each)? })
    }
}

/// The events to append, prepared in advance, so that appenders cost little.
pub(super) struct Material {
    streams: Vec<StreamId>,
    texts: Vec<Bytes>,
    event_type: EventType,
}

impl Material {
    pub(super) fn new(streams: u64) -> Arc<Self> {
        let stream = |n| format!("matching-{n:032x}").parse();
        let stream = |n| stream(n).expect("a category, a hyphen and hexadecimal digits");
        let text =
            |n| Bytes::from(format!(r#"{{"match_id":"hedge-{n:016x}","score":0.93,"text":"{n:180}"}}"#));
        Arc::new(Self {
            streams: (0..streams).map(stream).collect(),
            texts: (0..TEXTS).map(text).collect(),
            event_type: EventType::new("MatchFound"),
        })
    }

    /// About 330 bytes with its names, like a match.
    fn event(&self, random: u64, n: u64) -> NewEvent {
        NewEvent {
            id: EventId(Uuid::from_u64_pair(random, n)),
            event_type: self.event_type.clone(),
            format: DataFormat::Json,
            metadata: Bytes::from_static(br#"{"schema_version":1,"tenant":"bench","actor":"worker:w-1"}"#),
            data: self.texts[(random >> 40) as usize % self.texts.len()].clone(),
        }
    }
}

/// The result of one store at one level in one round.
#[derive(Clone, Copy)]
pub(super) struct Measured {
    pub(super) events_per_second: f64,
    /// The CPU time of the process: appenders and store.
    pub(super) cpu_micros: f64,
    /// The CPU time of the threads of the embedded log.
    pub(super) log_cpu_micros: f64,
}

pub(super) async fn measure(
    store: &Store,
    material: &Arc<Material>,
    level: Level,
    took: Duration,
) -> Result<Measured, Failure> {
    let (cpu, log_cpu, started) = (cpu_time(), cpu_time_of_log(), Instant::now());
    let events = append(store, material, level, Some(started + took), u64::MAX).await?.max(1) as f64;
    let micros = |took: Duration| took.as_secs_f64() * 1e6 / events;
    Ok(Measured {
        events_per_second: events / started.elapsed().as_secs_f64(),
        cpu_micros: micros(cpu_time().saturating_sub(cpu)),
        log_cpu_micros: micros(cpu_time_of_log().saturating_sub(log_cpu)),
    })
}

/// Runs closed loops, each of which appends as soon as its last append is durable. Returns the number of appended events.
pub(super) async fn append(
    store: &Store,
    material: &Arc<Material>,
    level: Level,
    until: Option<Instant>,
    events_max: u64,
) -> Result<u64, Failure> {
    let mut appenders = Vec::new();
    for _ in 0..level.in_flight {
        let (store, material) = (store.clone(), Arc::clone(material));
        appenders.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::new();
            let mut appended = 0;
            while until.is_none_or(|until| Instant::now() < until) && appended < events_max / level.in_flight
            {
                let stream = &material.streams[random.usize(..material.streams.len())];
                let id = random.u64(..);
                let events = (0..level.each).map(|n| material.event(id, n)).collect();
                store.append(stream.clone(), events).await?;
                appended += level.each;
            }
            Ok::<u64, Failure>(appended)
        }));
    }
    let mut events = 0;
    for appender in appenders {
        let appended = appender.await;
        events += appended.map_err(|error| Failure::Failed(format!("an appender failed: {error}")))??;
    }
    Ok(events)
}

/// The CPU time of this process, all threads.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The CPU time of the log's own threads, identified by their names; zero if the system does not report it.
fn cpu_time_of_log() -> Duration {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let times = threads.flatten().filter_map(|thread| {
        let text = |file| std::fs::read_to_string(thread.path().join(file)).ok();
        let nanos = text("schedstat")?.split_whitespace().next()?.parse().ok()?;
        text("comm")?.starts_with("log-").then(|| Duration::from_nanos(nanos))
    });
    times.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_two_numbers() {
        assert_eq!("64x100".parse(), Ok(Level { in_flight: 64, each: 100 }));
        for wrong in ["", "64", "64x", "0x1", "1x0", "-1x1"] {
            assert!(wrong.parse::<Level>().is_err(), "{wrong}");
        }
    }
}
