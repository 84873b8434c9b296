//! How fast the embedded log is here: `cargo run --release -p event-log --example log_speed -- <folder> [events]`.
//!
//! Appends one event at a time with 1, 64 and 1,024 in flight and 100 at a time with 64, fills the log up to `events`
//! (a million), closes it, opens it, and reads all of it. The folder must be empty or not there. Beside each rate of
//! appends stands that of bare writes and syncs of one event in the same folder, just before.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::clock::Clock;
use event_log::embedded::{EmbeddedLog, Settings};
use event_log::{EventLog, Expected, Filter};
use event_schemas::envelope::{EventType, NewEvent};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use uuid::Uuid;

const STREAMS: u64 = 100_000;
const LEVEL: Duration = Duration::from_secs(3);

type Fault = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(worker_threads = 3)]
async fn main() -> Result<(), Fault> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("name an empty folder")?);
    let events_wanted: u64 = arguments.next().map_or(Ok(1_000_000), |events| events.parse())?;
    let mut out = std::io::stdout();
    let settings = Settings::new(folder.join("events"));
    let (log, opened) = EmbeddedLog::open(&settings, Clock::System)?;
    if opened.events > 0 {
        return Err("the folder holds a log already; name an empty one".into());
    }
    for (in_flight, batch) in [(1, 1), (64, 1), (1024, 1), (64, 100)] {
        let bare = bare_syncs(&folder)?;
        let cpu = cpu_time()?;
        let started = Instant::now();
        let events = append(&log, in_flight, batch, started + LEVEL, u64::MAX).await?;
        let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_time()? - cpu);
        writeln!(
            out,
            "append: {in_flight} in flight, {batch} each: {:.0} events/s, {:.2} us CPU an event, appenders included (bare syncs: {bare:.0}/s)",
            events as f64 / took,
            cpu.as_secs_f64() * 1e6 / events as f64,
        )?;
    }
    let left = events_wanted.saturating_sub(log.head().borrow().0);
    append(&log, 64, 100, Instant::now() + Duration::from_secs(600), left).await?;
    log.close().await;
    drop(log);

    let (log, opened) = EmbeddedLog::open(&settings, Clock::System)?;
    writeln!(
        out,
        "open: {} events in {} segments in {:.0} ms, {} MiB in memory",
        opened.events,
        opened.segments,
        opened.duration.as_secs_f64() * 1e3,
        resident_mib()?
    )?;
    read(&log, &mut out).await?;
    log.close().await;
    Ok(())
}

/// Closed loops, each of which appends as soon as its last append is durable. Returns how many events were appended.
async fn append(
    log: &EmbeddedLog,
    in_flight: u64,
    batch: u64,
    until: Instant,
    max: u64,
) -> Result<u64, Fault> {
    let mut appenders = Vec::new();
    for appender in 0..in_flight {
        let log = log.clone();
        appenders.push(tokio::spawn(async move {
            let mut random = Uuid::new_v4().as_u128() as u64 ^ appender;
            let mut appended = 0;
            while Instant::now() < until && appended < max / in_flight {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let stream: StreamId =
                    format!("matching-{:032x}", (random >> 32) % STREAMS).parse().map_err(Box::new)?;
                let events = (0..batch).map(|n| event(random, n)).collect();
                log.append(&stream, Expected::Any, events).await?;
                appended += batch;
            }
            Ok::<u64, Fault>(appended)
        }));
    }
    let mut events = 0;
    for appender in appenders {
        events += appender.await??;
    }
    Ok(events)
}

fn event(random: u64, n: u64) -> NewEvent {
    let data = format!(r#"{{"match_id":"hedge-{random:016x}","score":0.93,"text":"{:180}"}}"#, n);
    NewEvent {
        id: EventId(Uuid::from_u64_pair(random, n)),
        event_type: EventType::new("MatchFound"),
        metadata: Bytes::from_static(br#"{"schema_version":1,"tenant":"bench","actor":"worker:w-1"}"#),
        data: data.into(),
    }
}

async fn read(log: &EmbeddedLog, out: &mut impl Write) -> Result<(), Fault> {
    for round in 1..=2 {
        let (started, mut after, mut events) = (Instant::now(), Position::START, 0);
        loop {
            let page = log.read_all(after, &Filter::All, 4096).await?;
            events += page.events.len();
            after = page.next;
            if page.at_head {
                break;
            }
        }
        let rate = events as f64 / started.elapsed().as_secs_f64();
        writeln!(out, "read all, round {round}: {rate:.0} events/s")?;
    }
    let streams: Vec<StreamId> =
        (0..1000).map(|n| format!("matching-{:032x}", n * 97 % STREAMS).parse()).collect::<Result<_, _>>()?;
    let (started, mut events) = (Instant::now(), 0);
    for stream in &streams {
        events += log.read_stream(stream, Revision(0), 10_000).await?.len();
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / streams.len() as f64;
    writeln!(out, "read a stream: {each:.0} us for {} events on average", events / streams.len())?;
    let filter = Filter::StreamPrefixes(vec![streams[1].as_str().to_owned()]);
    let (started, mut after, mut events) = (Instant::now(), Position::START, 0);
    loop {
        let page = log.read_all(after, &filter, 4096).await?;
        events += page.events.len();
        after = page.next;
        if page.at_head {
            break;
        }
    }
    writeln!(
        out,
        "filter by one stream: {events} events in {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    )?;
    Ok(())
}

/// How often a second 400 bytes can be written over zeros and synced.
fn bare_syncs(folder: &Path) -> Result<f64, Fault> {
    let path = folder.join("probe");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; 4 << 20], 0)?;
    file.sync_all()?;
    let (started, mut syncs) = (Instant::now(), 0_u64);
    while started.elapsed() < Duration::from_secs(1) && syncs < 10_000 {
        file.write_all_at(&[1; 400], syncs * 400)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = syncs as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// Of this process, all threads.
fn cpu_time() -> Result<Duration, Fault> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

fn resident_mib() -> Result<u64, Fault> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').nth(1).ok_or("no resident pages in /proc/self/statm")?.parse()?;
    Ok((pages * 4096) >> 20)
}
