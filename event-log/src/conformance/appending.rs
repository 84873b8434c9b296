//! The rules for appends.

use std::time::Duration;

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};

use super::{START, all, append, event, events, ids, stream};
use crate::clock::Clock;
use crate::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, AppendError, Appended, EventLog, Expected, Log};

pub async fn append_is_read_back_unchanged(log: &Log, _: &Clock) {
    let new = vec![
        event(1),
        NewEvent {
            format: DataFormat::Bytes,
            metadata: Bytes::new(),
            data: Bytes::from_static(b"\0\xff not json"),
            ..event(2)
        },
    ];
    let appended = log.append(&stream("a-ä"), Expected::NoStream, new.clone()).await.unwrap();
    let read = log.read_stream(&stream("a-ä"), Revision(0), 10).await.unwrap();
    assert_eq!(read, all(log).await);
    for (n, (new, recorded)) in new.into_iter().zip(&read).enumerate() {
        let NewEvent { id, event_type, format, metadata, data } = new;
        let expected = Recorded {
            position: Position(recorded.position.0),
            recorded_at: START,
            stream: stream("a-ä"),
            revision: Revision(n as u64),
            id,
            event_type,
            format,
            metadata,
            data,
        };
        assert_eq!(*recorded, expected);
    }
    let last = read.last().unwrap();
    assert_eq!(
        appended,
        Appended { position: last.position, revision: Revision(1), recorded_at: last.recorded_at }
    );
}

pub async fn positions_and_revisions_increase(log: &Log, _: &Clock) {
    append(log, "a-1", Expected::NoStream, 0..3).await;
    append(log, "a-2", Expected::NoStream, 3..4).await;
    append(log, "a-1", Expected::At(Revision(2)), 4..6).await;
    let all = all(log).await;
    assert!(all.windows(2).all(|pair| pair[0].position < pair[1].position));
    let of_stream = log.read_stream(&stream("a-1"), Revision(0), 10).await.unwrap();
    assert_eq!(ids(&of_stream), [0, 1, 2, 4, 5]);
    assert!(of_stream.iter().enumerate().all(|(n, event)| event.revision == Revision(n as u64)));
}

pub async fn correct_expected_revision_succeeds(log: &Log, _: &Clock) {
    let first = append(log, "a-1", Expected::NoStream, 0..2).await;
    assert_eq!(first.revision, Revision(1));
    let second = append(log, "a-1", Expected::At(first.revision), 2..3).await;
    assert_eq!(second.revision, Revision(2));
    assert!(second.position > first.position);
}

pub async fn wrong_expected_revision_conflicts_with_actual(log: &Log, _: &Clock) {
    let conflict = |outcome: Result<Appended, AppendError>| match outcome {
        Err(AppendError::Conflict { actual }) => actual,
        other => panic!("expected a conflict, got {other:?}"),
    };
    let name = stream("a-1");
    let at = |revision| Expected::At(Revision(revision));
    assert_eq!(conflict(log.append(&name, at(0), events(0..1)).await), None);
    append(log, "a-1", Expected::NoStream, 1..3).await;
    for wrong in [Expected::NoStream, at(0), at(2), at(u64::MAX)] {
        let actual = conflict(log.append(&name, wrong, events(7..8)).await);
        assert_eq!(actual, Some(Revision(1)), "{wrong:?}");
    }
    assert_eq!(all(log).await.len(), 2);
}

pub async fn expected_any_ignores_the_revision(log: &Log, _: &Clock) {
    assert_eq!(append(log, "a-1", Expected::Any, 0..1).await.revision, Revision(0));
    assert_eq!(append(log, "a-1", Expected::Any, 1..3).await.revision, Revision(2));
}

pub async fn retried_append_is_recognised(log: &Log, clock: &Clock) {
    for (name, expected, numbers) in [
        ("a-1", Expected::NoStream, 0..2),
        ("a-1", Expected::At(Revision(1)), 2..4),
        ("a-1", Expected::Any, 4..7),
        ("a-2", Expected::Any, 7..8),
    ] {
        let first = append(log, name, expected, numbers.clone()).await;
        clock.advance(Duration::from_secs(1));
        assert_eq!(append(log, name, expected, numbers).await, first, "a retry returns the first outcome");
    }
    assert_eq!(ids(&all(log).await), [0, 1, 2, 3, 4, 5, 6, 7]);
}

pub async fn retry_of_an_older_append_is_recognised(log: &Log, _: &Clock) {
    let first = append(log, "a-1", Expected::NoStream, 0..3).await;
    let second = append(log, "a-1", Expected::At(Revision(2)), 3..5).await;
    append(log, "a-1", Expected::Any, 5..9).await;
    assert_eq!(append(log, "a-1", Expected::NoStream, 0..3).await, first);
    assert_eq!(append(log, "a-1", Expected::At(Revision(2)), 3..5).await, second);
    assert_eq!(
        append(log, "a-1", Expected::NoStream, 0..5).await,
        second,
        "a retry may span several appends"
    );
}

pub async fn different_events_are_not_a_retry(log: &Log, _: &Clock) {
    append(log, "a-1", Expected::NoStream, 0..3).await;
    let name = stream("a-1");
    let swapped = vec![event(1), event(0)];
    let longer = events(0..4);
    let other = vec![event(0), event(9)];
    for different in [swapped, longer, other] {
        let outcome = log.append(&name, Expected::NoStream, different).await;
        assert!(matches!(outcome, Err(AppendError::Conflict { actual: Some(Revision(2)) })), "{outcome:?}");
    }
    // With `Any` only the latest events count: these are appended again.
    assert_eq!(append(log, "a-1", Expected::Any, 0..1).await.revision, Revision(3));
    assert_eq!(append(log, "a-1", Expected::Any, 3..4).await.revision, Revision(4));
    // The same event at the end of another stream is not a retry either.
    assert_eq!(append(log, "a-2", Expected::Any, 3..4).await.revision, Revision(0));
}

pub async fn append_limits_are_enforced(log: &Log, _: &Clock) {
    let name = stream("a-1");
    let sized = |bytes: usize| {
        let mut event = event(1);
        event.metadata = Bytes::new();
        event.data = Bytes::from(vec![b'x'; bytes - event.event_type.as_str().len()]);
        vec![event]
    };
    let refused = |outcome: Result<Appended, AppendError>| matches!(outcome, Err(AppendError::Size { .. }));
    assert!(refused(log.append(&name, Expected::Any, Vec::new()).await));
    assert!(refused(log.append(&name, Expected::Any, sized(APPEND_BYTES_MAX + 1)).await));
    let many = |count: usize| events(0..count as u128);
    assert!(refused(log.append(&name, Expected::Any, many(APPEND_EVENTS_MAX + 1)).await));
    assert_eq!(all(log).await.len(), 0);
    log.append(&name, Expected::Any, sized(APPEND_BYTES_MAX)).await.unwrap();
    log.append(&name, Expected::Any, many(APPEND_EVENTS_MAX)).await.unwrap();
    assert_eq!(all(log).await.len(), APPEND_EVENTS_MAX + 1);
}

pub async fn refused_append_leaves_no_events(log: &Log, _: &Clock) {
    let before = append(log, "a-1", Expected::NoStream, 0..1).await;
    assert!(log.append(&stream("a-1"), Expected::At(Revision(5)), events(1..3)).await.is_err());
    assert!(log.append(&stream("a-2"), Expected::At(Revision(0)), events(3..4)).await.is_err());
    assert!(log.read_stream(&stream("a-2"), Revision(0), 10).await.unwrap().is_empty());
    let after = append(log, "a-1", Expected::At(Revision(0)), 4..5).await;
    assert!(after.position > before.position);
    assert_eq!(ids(&all(log).await), [0, 4]);
}
