//! Measures the catch-up speed of each read model on a log in memory in which nearly every event is an image match, and
//! then the CPU time of lone events, and the delay until new events are visible, at 5,000 events per second.
//!
//! `cargo run --release -p projections --example catch_up -- [events] [jobs]`

use std::time::{Duration, Instant};

use event_log::clock::Clock;
use event_log::{EventLog, Expected, Log, MemoryLog};
use event_schemas::envelope::{Actor, Cause, Event, NewEvent};
use event_schemas::ids::{CommandId, CorrelationId, ImageMatchId, JobId, Position, Score, Tenant};
use event_schemas::image_match::MatchFound;
use event_schemas::job::{JobCreated, JobKind};
use event_schemas::stream::StreamId;
use projections::{Name, ReadModels, ReadStore, Settings};
use uuid::Uuid;

const BATCH_EVENTS: u64 = 1000;
const LIVE_TICKS: u64 = 10_000;
const LONE_EVENTS: u64 = 1000;
const TIMEOUT: Duration = Duration::from_secs(3600);

type Failure = Box<dyn std::error::Error>;

fn cause(tenant: &Tenant) -> Result<Cause, Failure> {
    let id = Uuid::now_v7();
    Ok(Cause {
        command_id: CommandId(id),
        correlation_id: CorrelationId(id),
        event_id: None,
        tenant: tenant.clone(),
        actor: Actor::Worker("worker-1".parse()?),
        subject: None,
        idempotency: None,
        traceparent: None,
    })
}

fn match_found(n: u64) -> Result<Event, Failure> {
    let (image, frame) = (n / 1000, n % 1000);
    let match_id: ImageMatchId =
        format!("product-{}/image-{image}@video-1/frame-{frame}", image % 50).parse()?;
    let found = MatchFound {
        match_id,
        product_id: format!("product-{}", image % 50).parse()?,
        video_id: "video-1".parse()?,
        img_id: format!("image-{image}").parse()?,
        frame_id: format!("frame-{frame}").parse()?,
        // Spread over the range 0 to 1, in no order.
        score: Score::new((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1_u64 << 53) as f64)?,
        evidence_path: None,
    };
    Ok(Event::ImageMatch(found.into()))
}

async fn fill(log: &Log, clock: &Clock, events: u64, jobs: u64) -> Result<(), Failure> {
    let tenant: Tenant = "bench".parse()?;
    for job in 0..jobs {
        let id = JobId(Uuid::from_u128(u128::from(job)));
        let created = JobCreated {
            job_id: id,
            kind: JobKind::ProductVideoMatching,
            source: None,
            name: None,
            metadata: Default::default(),
        };
        let stream = StreamId::job(id);
        let event = NewEvent::encode(&cause(&tenant)?, &stream, 0, clock.now(), &Event::Job(created.into()));
        log.append(&stream, Expected::NoStream, vec![event]).await?;
    }
    for batch in 0..events / BATCH_EVENTS {
        let id = JobId(Uuid::from_u128(u128::from(batch % jobs)));
        let stream = StreamId::image_match_shard(id, (batch % 16) as u8);
        let cause = cause(&tenant)?;
        let mut matches = Vec::new();
        for index in 0..BATCH_EVENTS {
            let event = match_found(batch * BATCH_EVENTS + index)?;
            matches.push(NewEvent::encode(&cause, &stream, index as usize, clock.now(), &event));
        }
        log.append(&stream, Expected::Any, matches).await?;
    }
    Ok(())
}

async fn measure(models: &ReadModels, name: Name, head: Position) -> Result<(), Failure> {
    let started = Instant::now();
    let generation = models.rebuild(name).await?;
    let is_done = || {
        models.status().into_iter().any(|status| {
            status.name == name.as_str() && status.generation == Some(generation) && status.position >= head
        })
    };
    while !is_done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{name}: {:.0} events/s ({seconds:.2} s)", head.0 as f64 / seconds);
    Ok(())
}

/// Appends five matches every millisecond, and measures the time until all read models show them.
async fn show_delays(models: &ReadModels, log: &Log) -> Result<(), Failure> {
    let stream = StreamId::image_match_shard(JobId(Uuid::from_u128(0)), 0);
    let tenant: Tenant = "bench".parse()?;
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut waiters = tokio::task::JoinSet::new();
    for tick in 0..LIVE_TICKS {
        ticks.tick().await;
        let cause = cause(&tenant)?;
        let mut batch = Vec::new();
        for index in 0..5 {
            // Above the numbers of all existing matches.
            let event = match_found((1 << 40) + tick * 5 + index)?;
            batch.push(NewEvent::encode(&cause, &stream, index as usize, Clock::System.now(), &event));
        }
        let appended = Instant::now();
        let position = log.append(&stream, Expected::Any, batch).await?.position;
        let models = models.clone();
        waiters.spawn(async move {
            let visible = models.wait_for(&Name::ALL, position, TIMEOUT).await;
            visible.map(|()| appended.elapsed())
        });
    }
    let mut delays = Vec::new();
    while let Some(delay) = waiters.join_next().await {
        delays.push(delay??);
    }
    delays.sort_unstable();
    let at = |share: f64| delays.get((delays.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!("visible in all models: p50 {:?}, p99 {:?}, p99.9 {:?}", at(0.5), at(0.99), at(0.999));
    Ok(())
}

/// The CPU time of the process, in seconds.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default();
    // The user and the system time, in hundredths.
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// Appends an event every ten milliseconds, so that none is gathered with another, and measures the CPU time.
async fn show_lone_events(log: &Log) -> Result<(), Failure> {
    let stream = StreamId::image_match_shard(JobId(Uuid::from_u128(0)), 0);
    let tenant: Tenant = "bench".parse()?;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let before = cpu_seconds()?;
    for tick in 0..LONE_EVENTS {
        ticks.tick().await;
        let event = match_found((1 << 41) + tick)?;
        let event = NewEvent::encode(&cause(&tenant)?, &stream, 0, Clock::System.now(), &event);
        log.append(&stream, Expected::Any, vec![event]).await?;
    }
    let micros = (cpu_seconds()? - before) * 1e6 / LONE_EVENTS as f64;
    println!("a lone event: {micros:.0} µs of CPU, with its append");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let events: u64 = arguments.next().map_or(Ok(400_000), |text| text.parse())?;
    let jobs: u64 = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let clock = Clock::System;
    let log = Log::new(MemoryLog::new(clock.clone()));
    fill(&log, &clock, events, jobs).await?;
    let head = *log.head().borrow();
    let folder = tempfile::tempdir()?;
    let started = Instant::now();
    let settings = Settings {
        store: ReadStore::Folder(folder.path().to_owned()),
        read_only: false,
        answer_cache_bytes: 0,
        vectors: None,
        encoder: None,
        recommend: domain::recommend::settings::Settings::default(),
    };
    let models = ReadModels::open(settings, log.clone(), clock).await?;
    models.wait_for(&Name::ALL, head, TIMEOUT).await?;
    println!("all at once: {:.2} s for {head} events", started.elapsed().as_secs_f64());
    for name in Name::ALL {
        measure(&models, name, head).await?;
    }
    // First, because the fold of a job with many matches is large, and stored each second.
    show_lone_events(&log).await?;
    show_delays(&models, &log).await?;
    models.shutdown().await;
    Ok(())
}
