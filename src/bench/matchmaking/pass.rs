//! Measures a pairing pass over all queued players: decided in memory, and recorded in the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use commands::{Commands, ExternalServices, Settings};
use domain::matchmaking::queues::Queues;
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Filter, Log};
use event_log_embedded::EmbeddedLog;
use event_schemas::envelope::Event;
use event_schemas::game_match::GameMatchEvent;
use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use vault::Vault;

use super::{Figures, crowd, metric, open};
use matchbook::failure::Failure;

/// The number of entries that are paired in a step, as in the server.
const STEP_ENTRIES: usize = 8_192;
/// The timeout without a recorded pair.
const STUCK_AFTER: Duration = Duration::from_secs(60);

pub(super) async fn measure(folder: &TempDir, waiting: u64, round: u64) -> Result<Figures, Failure> {
    let log = open(folder).await?;
    let now = Clock::System.now();
    let first = round * waiting;
    let appends = (first..first + waiting).map(|number| {
        let queued = crowd::queued(number, 0, now);
        crowd::append(&log, crowd::of_player(number), now, vec![Event::Player(queued.into())])
    });
    crowd::all(appends).await?;
    let queues = fold(&log).await?;
    let decided = decide(&queues);
    let recorded = record(&log, decided.pairs).await?;
    log.close().await;
    Ok(vec![
        (metric("waiting", "queued players"), waiting as f64),
        (metric("pairs", "pairs found"), decided.pairs as f64),
        (metric("decided_cpu_ms", "decided: CPU, ms"), decided.cpu.as_secs_f64() * 1e3),
        (metric("longest_step_ms", "decided: the longest step, ms"), decided.step.as_secs_f64() * 1e3),
        (
            metric("recorded_s", "recorded: from the first pairing to the last match confirmed on disk, s"),
            recorded.all.as_secs_f64(),
        ),
        (metric("recorded_cpu_s", "recorded: CPU of the whole process, s"), recorded.cpu.as_secs_f64()),
        (
            metric("ready_s", "before: from the start of the server to the first pairing, s"),
            recorded.ready.as_secs_f64(),
        ),
    ])
}

pub(super) async fn fold(log: &EmbeddedLog) -> Result<Queues, Failure> {
    let mut queues = Queues::default();
    let mut after = Position::START;
    loop {
        let page = log.read_all(after, &Filter::All, 4096).await.map_err(|error| failed(&error))?;
        for recorded in &page.events {
            queues.apply(&recorded.decode().map_err(|error| failed(&error))?);
        }
        after = page.next;
        if page.at_head {
            return Ok(queues);
        }
    }
}

pub(super) fn failed(error: &impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

struct Decided {
    pairs: u64,
    cpu: Duration,
    step: Duration,
}

fn decide(queues: &Queues) -> Decided {
    let id = (crowd::tenant(), crowd::pool());
    let mut decided = Decided { pairs: 0, cpu: Duration::ZERO, step: Duration::ZERO };
    let Some(pool) = queues.pool(&id) else { return decided };
    let before = cpu(ClockId::ThreadCPUTime);
    let mut since = Instant::now();
    let mut pass = pool.pass(queues.blocks(), Clock::System.now(), |_| false);
    while !pass.is_done() {
        decided.pairs += pass.step(STEP_ENTRIES).len() as u64;
        decided.step = decided.step.max(since.elapsed());
        since = Instant::now();
    }
    decided.cpu = cpu(ClockId::ThreadCPUTime).saturating_sub(before);
    decided
}

/// The CPU time used so far.
fn cpu(of: ClockId) -> Duration {
    let time = clock_gettime(of);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Recorded {
    ready: Duration,
    all: Duration,
    cpu: Duration,
}

/// Starts the write side on the log, and waits until this number of matches is confirmed.
async fn record(log: &EmbeddedLog, pairs: u64) -> Result<Recorded, Failure> {
    let vault = Vault::in_memory().await.map_err(|error| failed(&error))?;
    let from = *log.head().borrow();
    let (started, before) = (Clock::System.now(), cpu(ClockId::ProcessCPUTime));
    let shared = Log::new(log.clone());
    let commands = Commands::open(
        Settings::default(),
        shared.clone(),
        Clock::System,
        Ids::Random,
        vault,
        ExternalServices::default(),
    );
    commands.start();
    let ready = {
        let commands = commands.clone();
        tokio::spawn(async move {
            while !commands.matchmaking().is_ready {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Clock::System.now()
        })
    };
    let mut instants = BTreeMap::new();
    let mut events = shared.subscribe(from, Filter::StreamPrefixes(vec!["match_record-".to_owned()]));
    let mut confirmed = 0;
    while confirmed < pairs {
        let page = tokio::time::timeout(STUCK_AFTER, events.next()).await;
        let page =
            page.map_err(|_| Failure::Failed(format!("only {confirmed} of {pairs} pairs were recorded")))?;
        for recorded in &page.map_err(|error| failed(&error))?.events {
            match recorded.decode().map_err(|error| failed(&error))?.event {
                Event::GameMatch(GameMatchEvent::MatchProposed(_)) => {
                    instants.entry("first proposed").or_insert(recorded.recorded_at);
                }
                Event::GameMatch(GameMatchEvent::MatchConfirmed(_)) => {
                    confirmed += 1;
                    instants.insert("last confirmed", recorded.recorded_at);
                }
                _ => {}
            }
        }
    }
    let cpu = cpu(ClockId::ProcessCPUTime).saturating_sub(before);
    let ready: Timestamp = ready.await.map_err(|error| failed(&error))?;
    commands.shutdown().await;
    let at = |name| instants.get(name).copied().unwrap_or(ready);
    // It may start pairing before it reports that it is ready.
    let acting = ready.min(at("first proposed"));
    Ok(Recorded { ready: acting.since(started), all: at("last confirmed").since(acting), cpu })
}
