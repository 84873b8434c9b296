use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent};
use event_schemas::ids::EventId;
use event_schemas::time::Timestamp;
use proptest::prelude::*;
use std::time::Duration;
use uuid::Uuid;

use super::*;
use crate::EmbeddedLog;
use crate::Settings;
use event_log::clock::Clock;
use event_log::{Expected, MemoryLog};

fn new(number: u128) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::from_u128(number)),
        event_type: EventType::new("Happened"),
        format: DataFormat::Json,
        metadata: Bytes::from_static(b"{\"a\":1}"),
        data: Bytes::from(format!("{{\"n\":{number}}}")),
    }
}

/// A log in memory with so many events in a few streams, at increasing times.
async fn filled(events: u128) -> Log {
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let log = MemoryLog::new(clock.clone());
    for number in 0..events {
        let stream = format!("a-{}", number % 7).parse().unwrap();
        log.append(&stream, Expected::Any, vec![new(number)]).await.unwrap();
        clock.advance(Duration::from_millis(u64::try_from(number % 3).unwrap()));
    }
    Log::new(log)
}

fn empty() -> Log {
    // Its clock is far behind the times of the events.
    Log::new(MemoryLog::new(Clock::manual(Timestamp::EPOCH)))
}

async fn all(log: &Log) -> Vec<Recorded> {
    let mut source = TransferSource::log(log.clone(), Position::START);
    let mut events = Vec::new();
    while let Some(page) = source.next_events().await.unwrap() {
        events.extend(page);
    }
    events
}

async fn copy(events: &[Recorded], target: &Log) -> Result<CopyReport, TransferError> {
    let mut copier = LogCopier::new(target.clone());
    for event in events {
        copier.push(event.clone()).await?;
    }
    copier.finish().await
}

fn digest_of(events: &[Recorded]) -> LogDigest {
    let mut digest = LogDigestBuilder::default();
    for event in events {
        digest.add(event).unwrap();
    }
    digest.finish()
}

#[tokio::test]
async fn a_copy_has_the_same_events_with_the_same_times() {
    let (source, target) = (filled(100).await, empty());
    let events = all(&source).await;
    let copied = copy(&events, &target).await.unwrap();
    assert_eq!((copied.found, copied.added, copied.digest.streams), (0, 100, 7));
    assert_eq!(all(&target).await, events);
    assert_eq!(copied.digest, digest_of(&all(&target).await));
}

#[tokio::test]
async fn an_interrupted_copy_is_resumed() {
    let events = all(&filled(60).await).await;
    for interrupted in [0, 1, 30, 59, 60] {
        let target = empty();
        copy(&events[..interrupted], &target).await.unwrap();
        let copied = copy(&events, &target).await.unwrap();
        assert_eq!((copied.found, copied.added), (interrupted as u64, 60 - interrupted as u64));
        assert_eq!(all(&target).await, events, "interrupted after {interrupted}");
    }
}

#[tokio::test]
async fn a_partial_copy_continues_a_log_with_the_earlier_events() {
    let events = all(&filled(60).await).await;
    let target = empty();
    copy(&events[..40], &target).await.unwrap();
    // With an overlap and without one.
    copy(&events[30..50], &target).await.unwrap();
    let copied = copy(&events[50..], &target).await.unwrap();
    assert_eq!((copied.start, copied.added), (Position(50), 10));
    assert_eq!(all(&target).await, events);
    let gap = copy(&events[55..], &empty()).await.unwrap_err();
    assert!(matches!(gap, TransferError::Import(ImportError::Revision { .. })), "{gap}");
}

#[tokio::test]
async fn a_log_with_other_events_is_unchanged() {
    let events = all(&filled(60).await).await;
    let target = filled(3).await;
    let mut other = events.clone();
    other[20].data = Bytes::from_static(b"{}");
    let full = empty();
    copy(&other[..40], &full).await.unwrap();
    let before = all(&full).await;
    let differs = copy(&events, &full).await.unwrap_err();
    assert!(matches!(differs, TransferError::Differs { target: Position(21), .. }), "{differs}");
    assert_eq!(all(&full).await, before);
    let unrelated: Vec<Recorded> =
        events.into_iter().map(|event| Recorded { stream: "b-1".parse().unwrap(), ..event }).collect();
    let refused = copy(&unrelated[..1], &target).await.unwrap_err();
    assert!(matches!(refused, TransferError::NotEmpty { head: Position(3) }), "{refused}");
    assert_eq!(all(&target).await.len(), 3);
}

#[tokio::test]
async fn stream_gaps_and_decreasing_times_are_refused() {
    let events = all(&filled(20).await).await;
    let (on_disk, _folder) = embedded();
    for target in [empty(), on_disk] {
        let mut gap = events.clone();
        gap.remove(3);
        assert!(copy(&gap, &target).await.is_err());
        let mut back = events.clone();
        back[15].recorded_at = Timestamp::EPOCH;
        let refused = copy(&back, &target).await.unwrap_err();
        assert!(matches!(refused, TransferError::Import(ImportError::Time { .. })), "{refused}");
        assert!(all(&target).await.is_empty());
    }
}

fn embedded() -> (Log, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { segment_bytes: 32 << 10, reserve_bytes: 0, ..Settings::new(folder.path().join("events")) };
    let (log, _) = EmbeddedLog::open(&settings, Clock::System).unwrap();
    (Log::new(log), folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_times_and_revisions_survive_a_restart() {
    let events = all(&filled(9_000).await).await;
    let (log, folder) = embedded();
    copy(&events, &log).await.unwrap();
    assert_eq!(all(&log).await, events);
    log.close().await;
    let (opened, _) = EmbeddedLog::open(&Settings::new(folder.path().join("events")), Clock::System).unwrap();
    let log = Log::new(opened.clone());
    assert_eq!(all(&log).await, events);
    for event in events.iter().step_by(611) {
        let last = events.partition_point(|other| other.recorded_at <= event.recorded_at) as u64;
        assert_eq!(log.position_at(event.recorded_at).await.unwrap(), Position(last));
        assert_eq!(
            log.read_stream(&event.stream, event.revision, 1).await.unwrap()[..],
            *std::slice::from_ref(event)
        );
    }
    let last = events.iter().rfind(|event| event.stream.as_str() == "a-1").unwrap();
    let appended = log.append(&last.stream, Expected::At(last.revision), vec![new(1 << 70)]).await.unwrap();
    assert_eq!(appended.revision, last.revision.next());
    let again = log.append(&last.stream, Expected::At(last.revision), vec![new(1 << 70)]).await.unwrap();
    assert_eq!(again, appended);
    opened.close().await;
    let folder = Settings::new(folder.path().join("events"));
    let verified = crate::verify(&folder, crate::Extent::All, |_| {}).unwrap();
    assert_eq!((verified.damages, verified.revisions_checked), (vec![], true));
    let mut walked = TransferSource::folder(&folder.folder, Position(8_990)).unwrap();
    let mut seen = Vec::new();
    while let Some(some) = walked.next_events().await.unwrap() {
        seen.extend(some);
    }
    assert_eq!(seen[..10], events[8_990..]);
}

proptest! {
    #[test]
    fn digests_are_equal_only_for_equal_events(at in 0..30_usize, what in 0..7_u8) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let events = runtime.block_on(async { all(&filled(30).await).await });
        let mut other = events.clone();
        let event = &mut other[at];
        match what {
            0 => event.data = Bytes::from_static(b"[]"),
            1 => event.metadata = Bytes::new(),
            2 => event.id = EventId(Uuid::from_u128(77)),
            3 => event.event_type = EventType::new("Other"),
            4 => event.recorded_at = Timestamp::EPOCH,
            5 => event.position = Position(99),
            _ => { let data = event.data.split_off(2); event.metadata = [&event.metadata[..], &event.data].concat().into(); event.data = data; }
        }
        let same = digest_of(&events) == digest_of(&other);
        prop_assert_eq!(same, what == 5, "only positions differ between logs");
    }
}
