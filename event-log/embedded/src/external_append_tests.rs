//! Appends and reads of EventStoreDB protocol clients over files, with sealed segments and a small in-memory tail.

use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use tempfile::TempDir;

use super::stream_heads::IDS_MAX;
use super::{ClientExpected, EmbeddedLog, SEGMENT_BYTES_MIN, Settings};
use event_log::clock::Clock;
use event_log::conformance::{START, event};
use event_log::{AppendError, EventLog, Expected, Filter};

const EVENTS: u64 = 900;

fn open(folder: &TempDir) -> EmbeddedLog {
    let settings = Settings {
        segment_bytes: SEGMENT_BYTES_MIN,
        reserve_bytes: 0,
        tail_bytes: 3000,
        ..Settings::new(folder.path().join("events"))
    };
    EmbeddedLog::open(&settings, Clock::manual(START)).unwrap().0
}

fn stream(number: u64) -> StreamId {
    format!("s-{}", number % 7 % 3).parse().unwrap()
}

/// A log with many segments, and all its events in order.
async fn filled(folder: &TempDir) -> (EmbeddedLog, Vec<Recorded>) {
    let log = open(folder);
    for number in 0..EVENTS {
        let new = vec![event(u128::from(number))];
        log.submit(&stream(number), ClientExpected::Any, new).await.unwrap().outcome().await.unwrap();
    }
    let mut all = Vec::new();
    while all.len() < EVENTS as usize {
        let after = Position(all.len() as u64);
        all.extend(log.read_all(after, &Filter::All, 500).await.unwrap().events);
    }
    (log, all)
}

#[tokio::test]
async fn backward_reads_match_forward_reads_across_segments() {
    let folder = tempfile::tempdir().unwrap();
    let (log, mut all) = filled(&folder).await;
    all.reverse();
    for (before, count) in
        [(u64::MAX, 2000), (EVENTS + 1, 7), (EVENTS, 1), (411, 300), (2, 5), (1, 5), (0, 5)]
    {
        let expected: Vec<_> =
            all.iter().filter(|event| event.position.0 < before).take(count).cloned().collect();
        assert_eq!(
            log.read_all_backwards(Position(before), count).await.unwrap(),
            expected,
            "before {before}"
        );
    }
    for name in (0..4).map(|number| format!("s-{number}").parse::<StreamId>().unwrap()) {
        for (from, count) in [(u64::MAX, 2000), (170, 3), (99, 60), (0, 4), (5, 0)] {
            let of_stream = all.iter().filter(|event| event.stream == name && event.revision.0 <= from);
            let expected: Vec<_> = of_stream.take(count).cloned().collect();
            let read = log.read_stream_backwards(&name, Revision(from), count).await.unwrap();
            assert_eq!(read, expected, "{name} from {from}");
        }
        let last = all.iter().find(|event| event.stream == name).cloned();
        assert_eq!(log.last_event(&name).await.unwrap(), last);
    }
}

#[tokio::test]
async fn ids_are_evicted_but_a_repeated_stream_end_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let (log, all) = filled(&folder).await;
    let again = |number: u64| vec![event(u128::from(number))];
    let repeated =
        log.submit(&stream(4), ClientExpected::Any, again(4)).await.unwrap().outcome().await.unwrap();
    assert_eq!(repeated.position, Position(5));
    log.close().await;

    let log = open(&folder);
    let last = all.last().unwrap();
    let known = log.submit(&last.stream, ClientExpected::Exists, again(EVENTS - 1)).await.unwrap();
    assert_eq!(known.outcome().await.unwrap().position, Position(EVENTS));
    let forgotten = log.submit(&stream(4), ClientExpected::Any, again(4)).await.unwrap();
    assert_eq!(forgotten.outcome().await.unwrap().position, Position(EVENTS + 1));
    // Enough events of other streams to evict the ids.
    let many: Vec<_> = (0..3 * IDS_MAX as u128).map(|number| event(1_000_000 + number)).collect();
    for part in many.chunks(8000) {
        let other = "other".parse().unwrap();
        log.submit(&other, ClientExpected::Any, part.to_vec()).await.unwrap().outcome().await.unwrap();
    }
    log.submit(&stream(4), ClientExpected::Any, again(5000)).await.unwrap().outcome().await.unwrap();
    let head = *log.head().borrow();
    let forgotten = log.submit(&stream(4), ClientExpected::Any, again(4)).await.unwrap();
    assert_eq!(forgotten.outcome().await.unwrap().position.0, head.0 + 1);
}

#[tokio::test]
async fn append_of_one_event_twice_is_recognised_when_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder);
    let a = "a".parse().unwrap();
    let submit = async |numbers: &[u128]| {
        let new = numbers.iter().map(|number| event(*number)).collect();
        log.submit(&a, ClientExpected::Any, new).await.unwrap().outcome().await.unwrap().position
    };
    let first = submit(&[1, 1, 2]).await;
    submit(&[3]).await;
    assert_eq!(submit(&[1, 1, 2]).await, first);
    assert_eq!(*log.head().borrow(), Position(4));
}

#[tokio::test]
async fn contract_appends_recognise_only_the_streams_latest_events() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder);
    let a = "a".parse().unwrap();
    for number in [1, 2, 1] {
        log.append(&a, Expected::Any, vec![event(number)]).await.unwrap();
    }
    assert_eq!(*log.head().borrow(), Position(3), "only the stream's latest events are recognised");
}

#[tokio::test]
async fn flush_waits_for_queued_appends_and_fails_after_close() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder);
    let pending = log.submit(&stream(0), ClientExpected::NoStream, vec![event(1)]).await.unwrap();
    log.flush().await.unwrap();
    assert_eq!(log.last_event(&stream(0)).await.unwrap().map(|event| event.position), Some(Position(1)));
    pending.outcome().await.unwrap();
    log.close().await;
    assert!(matches!(log.flush().await, Err(AppendError::Closed { .. })));
}
