//! Tests of the log's public interface, in a real folder.

use std::path::Path;

use event_schemas::envelope::NewEvent;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use futures_util::FutureExt;

use super::harness::event;
use super::{EmbeddedLog, FaultKind, OpenError, SEGMENT_BYTES_MIN, Settings, SimDisk, Stopped};
use event_log::clock::Clock;
use event_log::conformance::START;
use event_log::{AppendError, EventLog, Expected, Filter, Log};

/// Settings with segments so small that nearly every test fills several, and a small tail, so that files are read.
fn small(folder: &Path) -> Settings {
    Settings {
        segment_bytes: SEGMENT_BYTES_MIN,
        reserve_bytes: 0,
        tail_bytes: 2000,
        ..Settings::new(folder.join("events"))
    }
}

fn make(clock: Clock) -> (Log, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = EmbeddedLog::open(&small(folder.path()), clock).unwrap();
    (Log::new(log), folder)
}

event_log::conformance_tests!(make);

/// The same contract with all reads from the tail in memory.
mod in_memory {
    use super::*;

    fn make(clock: Clock) -> (Log, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            reserve_bytes: 0,
            segment_bytes: 1 << 20,
            ..Settings::new(folder.path().join("events"))
        };
        (Log::new(EmbeddedLog::open(&settings, clock).unwrap().0), folder)
    }

    event_log::conformance_tests!(make);
}

fn open(settings: &Settings) -> EmbeddedLog {
    EmbeddedLog::open(settings, Clock::manual(START)).unwrap().0
}

fn stream(name: &str) -> StreamId {
    name.parse().unwrap()
}

fn events(numbers: std::ops::Range<u128>) -> Vec<NewEvent> {
    numbers.map(|number| event(number, 100)).collect()
}

async fn fill(log: &EmbeddedLog, streams: u128, appends: u128) {
    for n in 0..appends {
        let name = stream(&format!("a-{}", n % streams));
        log.append(&name, Expected::Any, events(n * 2..n * 2 + 2)).await.unwrap();
    }
}

#[tokio::test]
async fn reopened_log_has_the_same_events() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&small(folder.path()));
    fill(&log, 7, 200).await;
    let before = log.read_all(Position::START, &Filter::All, 1000).await.unwrap();
    let identity = log.identity();
    log.close().await;
    let (log, opened) = EmbeddedLog::open(&small(folder.path()), Clock::manual(START)).unwrap();
    assert_eq!((opened.events, opened.truncated), (400, None));
    assert!(opened.segments > 5);
    assert_eq!(log.identity(), identity);
    let mut after = Position::START;
    let mut events = Vec::new();
    while after < Position(400) {
        let page = log.read_all(after, &Filter::All, 1000).await.unwrap();
        events.extend(page.events);
        after = page.next;
    }
    assert_eq!(events[..before.events.len()], before.events);
    assert_eq!(events.len(), 400);
    assert_eq!(
        log.append(&stream("b-1"), Expected::NoStream, self::events(900..901)).await.unwrap().position,
        Position(401)
    );
}

#[tokio::test]
async fn recorded_at_never_decreases_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&small(folder.path()));
    fill(&log, 1, 3).await;
    log.close().await;
    let earlier = Clock::manual(START.before(std::time::Duration::from_secs(60)));
    let (log, _) = EmbeddedLog::open(&small(folder.path()), earlier).unwrap();
    assert_eq!(log.append(&stream("b-1"), Expected::Any, events(90..91)).await.unwrap().recorded_at, START);
}

#[tokio::test]
async fn retried_append_is_recognised_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&small(folder.path()));
    fill(&log, 3, 100).await;
    let (name, at) = (stream("a-1"), Expected::At(Revision(5)));
    let third = log.read_stream(&name, Revision(6), 2).await.unwrap();
    let numbers = third[0].id.0.as_u128()..third[1].id.0.as_u128() + 1;
    let any = log.append(&stream("b-1"), Expected::Any, events(700..703)).await.unwrap();
    log.close().await;
    let log = open(&small(folder.path()));
    let again = log.append(&name, at, events(numbers)).await.unwrap();
    assert_eq!((again.position, again.revision), (third[1].position, Revision(7)));
    assert_eq!(log.append(&stream("b-1"), Expected::Any, events(700..703)).await.unwrap(), any);
    assert_eq!(*log.head().borrow(), Position(203));
}

#[tokio::test]
async fn second_open_names_the_process_with_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&small(folder.path()));
    match EmbeddedLog::open(&small(folder.path()), Clock::System) {
        Err(error @ OpenError::Locked { .. }) => {
            assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        }
        other => panic!("{other:?}"),
    }
    log.close().await;
    open(&small(folder.path()));
}

#[tokio::test]
async fn closed_log_refuses_appends_but_serves_reads() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&small(folder.path()));
    fill(&log, 2, 20).await;
    let mut head = log.head();
    log.close().await;
    log.close().await;
    let refused = log.append(&stream("a-1"), Expected::Any, events(0..1)).await;
    assert!(matches!(refused, Err(AppendError::Closed { .. })), "{refused:?}");
    assert_eq!(log.stopped().await, Stopped::Closed);
    assert_eq!(log.read_stream(&stream("a-1"), Revision(0), 100).await.unwrap().len(), 20);
    head.borrow_and_update();
    assert!(head.changed().await.is_err(), "the head is closed as well");
}

#[tokio::test]
async fn queued_appends_are_committed_on_close() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&small(folder.path()));
    let name = stream("a-1");
    let appends = (0..50).map(|n| log.append(&name, Expected::Any, events(n..n + 1)));
    let (outcomes, ()) = tokio::join!(futures_util::future::join_all(appends), log.close());
    let durable = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(AppendError::Closed { .. }))));
    let (_, opened) = EmbeddedLog::open(&small(folder.path()), Clock::System).unwrap();
    assert_eq!(opened.events, durable);
}

#[tokio::test]
async fn disk_error_makes_pending_appends_unknown_and_closes() {
    let disk = SimDisk::new(1);
    let settings = super::harness::settings();
    let (log, _) = EmbeddedLog::open_simulated(disk.clone(), &settings, Clock::manual(START)).unwrap();
    fill(&log, 2, 3).await;
    let mut subscription = Log::new(log.clone()).subscribe(Position(6), Filter::All);
    // The next sync of a group: free space, write, sync.
    disk.inject_fault(3, FaultKind::Error);
    let pending = log.append(&stream("a-1"), Expected::Any, events(50..51)).await;
    assert!(
        matches!(&pending, Err(AppendError::Unknown { reason }) if reason.contains("sync")),
        "{pending:?}"
    );
    let later = log.append(&stream("a-1"), Expected::Any, events(51..52)).await;
    assert!(matches!(later, Err(AppendError::Closed { .. })), "{later:?}");
    assert!(matches!(log.stopped().await, Stopped::Failed { .. }));
    assert!(subscription.next().await.is_err(), "subscriptions end");
    assert_eq!(log.read_all(Position::START, &Filter::All, 100).await.unwrap().events.len(), 6);
}

#[tokio::test]
async fn panic_of_a_thread_stops_the_log() {
    let disk = SimDisk::new(1);
    let settings = super::harness::settings();
    let (log, _) = EmbeddedLog::open_simulated(disk.clone(), &settings, Clock::manual(START)).unwrap();
    fill(&log, 1, 1).await;
    disk.inject_fault(1, FaultKind::Panic);
    // Either the writer or the maintenance thread panics. Soon after that, appends are refused.
    let mut refused = None;
    for n in 50..1000 {
        refused = log.append(&stream("a-1"), Expected::Any, events(n..n + 1)).await.err();
        if refused.is_some() {
            break;
        }
    }
    let expected = matches!(refused, Some(AppendError::Unknown { .. } | AppendError::Closed { .. }));
    assert!(expected, "{refused:?}");
    log.close().await;
    assert!(matches!(log.stopped().now_or_never(), Some(Stopped::Failed { .. })));
}

#[tokio::test]
async fn selective_filter_reads_few_index_blocks() {
    let disk = SimDisk::new(1);
    let settings = super::harness::settings();
    let (log, _) = EmbeddedLog::open_simulated(disk.clone(), &settings, Clock::manual(START)).unwrap();
    for n in 0..600_u128 {
        let name = if n % 150 == 75 { stream("job-1") } else { stream(&format!("a-{n}")) };
        log.append(&name, Expected::Any, events(n..n + 1)).await.unwrap();
    }
    log.close().await;
    let (log, opened) = EmbeddedLog::open_simulated(disk.clone(), &settings, Clock::manual(START)).unwrap();
    assert!(opened.segments > 20);
    let calls = disk.calls();
    let filter = Filter::StreamPrefixes(vec!["job-".to_owned()]);
    let page = log.read_all(Position::START, &filter, 100).await.unwrap();
    assert_eq!((page.events.len(), page.at_head), (4, true));
    let per_segment = (disk.calls() - calls) / opened.segments as u64;
    assert!(per_segment < 40, "{per_segment} reads per segment");
    let calls = disk.calls();
    assert_eq!(log.read_stream(&stream("job-1"), Revision(0), 100).await.unwrap().len(), 4);
    assert!(disk.calls() - calls < 60, "{} reads", disk.calls() - calls);
}

#[tokio::test]
async fn appends_are_refused_below_the_reserve_until_space_is_free() {
    let disk = SimDisk::new(1);
    let settings = Settings { reserve_bytes: 1 << 20, ..super::harness::settings() };
    let (log, _) = EmbeddedLog::open_simulated(disk.clone(), &settings, Clock::manual(START)).unwrap();
    let name = stream("a-1");
    let first = log.append(&name, Expected::NoStream, events(0..2)).await.unwrap();
    disk.set_capacity(1 << 20);
    match log.append(&name, Expected::Any, events(2..3)).await {
        Err(error @ AppendError::Full { free_bytes, reserve_bytes }) => {
            assert_eq!(reserve_bytes, 1 << 20);
            assert!(free_bytes < reserve_bytes);
            assert!(error.to_string().contains("free disk space"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        log.append(&name, Expected::NoStream, events(0..2)).await.unwrap(),
        first,
        "a retry adds nothing"
    );
    assert_eq!(log.read_stream(&name, Revision(0), 10).await.unwrap().len(), 2);
    disk.set_capacity(u64::MAX);
    assert_eq!(log.append(&name, Expected::Any, events(2..3)).await.unwrap().position, Position(3));
}

#[tokio::test]
async fn new_log_is_not_created_on_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { reserve_bytes: u64::MAX / 2, ..small(folder.path()) };
    match EmbeddedLog::open(&settings, Clock::System) {
        Err(error @ OpenError::Full { .. }) => {
            assert!(error.to_string().contains("free disk space"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // The leftovers do not prevent a later start.
    open(&small(folder.path()));
}
