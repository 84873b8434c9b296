//! What every log must do, as one suite that each implementation runs.
//!
//! Each rule of the contract ([`EventLog`]) is a function over a fresh log and its clock, which stands still until it is
//! moved. [`conformance_tests!`](crate::conformance_tests) makes a test of every one.

#![allow(clippy::unwrap_used, reason = "these are tests, although they are not marked as such")]

use std::time::Duration;

use bytes::Bytes;
use event_schemas::envelope::{EventType, NewEvent, Recorded};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use futures_util::future::join_all;
use uuid::Uuid;

use crate::clock::Clock;
use crate::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, AppendError, Appended, EventLog, Expected, Filter, Log, Page,
};

mod model;

pub use model::any_history_agrees_with_a_plain_list;

/// When the clocks of the suite start.
pub const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// Makes a test of every rule. `$make` is an expression: a function from a clock to a fresh log, and to whatever must
/// live as long as it does. `$on` says how each is run.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests!($make:
            an_append_comes_back_as_it_was,
            positions_and_revisions_count_up,
            a_right_expectation_is_met,
            a_wrong_expectation_is_a_conflict_that_names_the_revision,
            any_takes_the_stream_as_it_is,
            a_retried_append_is_recognised,
            a_retry_of_an_older_append_is_recognised,
            a_retry_that_differs_is_no_retry,
            an_append_within_the_limits_is_taken_and_one_beyond_is_refused,
            a_refused_append_leaves_nothing,
            a_stream_is_read_in_pages,
            what_is_not_there_is_no_error,
            the_whole_log_is_read_in_pages,
            a_filter_leaves_over_its_streams_and_moves_on,
            the_position_at_an_instant_is_the_last_one_recorded_by_then,
            recorded_at_never_goes_back,
            the_head_moves_with_what_is_durable,
            of_concurrent_appenders_at_one_revision_one_wins,
            concurrent_appenders_on_many_streams_all_get_in,
            the_same_append_many_times_at_once_is_one,
            a_subscription_sees_everything_in_order_from_old_to_new,
            a_filtered_subscription_sees_only_its_streams,
        );

        #[test]
        fn any_history_agrees_with_a_plain_list() {
            $crate::conformance::any_history_agrees_with_a_plain_list($make);
        }
    };
    ($make:path: $($rule:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $rule() {
            let clock = $crate::clock::Clock::manual($crate::conformance::START);
            let (log, _kept) = $make(clock.clone());
            $crate::conformance::$rule(&log, &clock).await;
        }
    )*};
}

fn stream(name: &str) -> StreamId {
    name.parse().expect("the suite's names are proper")
}

/// An event whose id and contents are derived from a number.
fn event(number: u128) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::from_u128(number)),
        event_type: EventType::new(if number.is_multiple_of(2) { "Happened" } else { "JobCreated" }),
        metadata: Bytes::from(format!(r#"{{"number":{number}}}"#)),
        data: Bytes::from(format!(r#"{{"data":"{}"}}"#, "x".repeat((number % 50) as usize))),
    }
}

fn events(numbers: std::ops::Range<u128>) -> Vec<NewEvent> {
    numbers.map(event).collect()
}

async fn append(log: &Log, name: &str, expected: Expected, numbers: std::ops::Range<u128>) -> Appended {
    log.append(&stream(name), expected, events(numbers)).await.expect("the append is right")
}

async fn all(log: &Log) -> Vec<Recorded> {
    all_of(log, &Filter::All, 1000).await
}

/// Everything that passes, page by page.
async fn all_of(log: &Log, filter: &Filter, events_max: usize) -> Vec<Recorded> {
    let mut events = Vec::new();
    let mut after = Position::START;
    loop {
        let Page { events: page, next, at_head } =
            log.read_all(after, filter, events_max).await.expect("the log can be read");
        assert!(page.len() <= events_max, "a page is not larger than asked for");
        assert!(page.iter().all(|event| event.position > after && event.position <= next));
        events.extend(page);
        assert!(next > after || at_head, "reading moves on until the head");
        after = next;
        if at_head {
            return events;
        }
    }
}

fn ids(events: &[Recorded]) -> Vec<u128> {
    events.iter().map(|event| event.id.0.as_u128()).collect()
}

pub async fn an_append_comes_back_as_it_was(log: &Log, _: &Clock) {
    let new = vec![
        event(1),
        NewEvent { metadata: Bytes::new(), data: Bytes::from_static(b"\0\xff not json"), ..event(2) },
    ];
    let appended = log.append(&stream("a-ä"), Expected::NoStream, new.clone()).await.unwrap();
    let read = log.read_stream(&stream("a-ä"), Revision(0), 10).await.unwrap();
    assert_eq!(read, all(log).await);
    for (n, (new, recorded)) in new.into_iter().zip(&read).enumerate() {
        let NewEvent { id, event_type, metadata, data } = new;
        let expected = Recorded {
            position: Position(recorded.position.0),
            recorded_at: START,
            stream: stream("a-ä"),
            revision: Revision(n as u64),
            id,
            event_type,
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

pub async fn positions_and_revisions_count_up(log: &Log, _: &Clock) {
    append(log, "a-1", Expected::NoStream, 0..3).await;
    append(log, "a-2", Expected::NoStream, 3..4).await;
    append(log, "a-1", Expected::At(Revision(2)), 4..6).await;
    let all = all(log).await;
    assert!(all.windows(2).all(|pair| pair[0].position < pair[1].position));
    let of_stream = log.read_stream(&stream("a-1"), Revision(0), 10).await.unwrap();
    assert_eq!(ids(&of_stream), [0, 1, 2, 4, 5]);
    assert!(of_stream.iter().enumerate().all(|(n, event)| event.revision == Revision(n as u64)));
}

pub async fn a_right_expectation_is_met(log: &Log, _: &Clock) {
    let first = append(log, "a-1", Expected::NoStream, 0..2).await;
    assert_eq!(first.revision, Revision(1));
    let second = append(log, "a-1", Expected::At(first.revision), 2..3).await;
    assert_eq!(second.revision, Revision(2));
    assert!(second.position > first.position);
}

pub async fn a_wrong_expectation_is_a_conflict_that_names_the_revision(log: &Log, _: &Clock) {
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

pub async fn any_takes_the_stream_as_it_is(log: &Log, _: &Clock) {
    assert_eq!(append(log, "a-1", Expected::Any, 0..1).await.revision, Revision(0));
    assert_eq!(append(log, "a-1", Expected::Any, 1..3).await.revision, Revision(2));
}

pub async fn a_retried_append_is_recognised(log: &Log, clock: &Clock) {
    for (name, expected, numbers) in [
        ("a-1", Expected::NoStream, 0..2),
        ("a-1", Expected::At(Revision(1)), 2..4),
        ("a-1", Expected::Any, 4..7),
        ("a-2", Expected::Any, 7..8),
    ] {
        let first = append(log, name, expected, numbers.clone()).await;
        clock.advance(Duration::from_secs(1));
        assert_eq!(append(log, name, expected, numbers).await, first, "the answer is that of the first time");
    }
    assert_eq!(ids(&all(log).await), [0, 1, 2, 3, 4, 5, 6, 7]);
}

pub async fn a_retry_of_an_older_append_is_recognised(log: &Log, _: &Clock) {
    let first = append(log, "a-1", Expected::NoStream, 0..3).await;
    let second = append(log, "a-1", Expected::At(Revision(2)), 3..5).await;
    append(log, "a-1", Expected::Any, 5..9).await;
    assert_eq!(append(log, "a-1", Expected::NoStream, 0..3).await, first);
    assert_eq!(append(log, "a-1", Expected::At(Revision(2)), 3..5).await, second);
    assert_eq!(
        append(log, "a-1", Expected::NoStream, 0..5).await,
        second,
        "over the bounds of appends as well"
    );
}

pub async fn a_retry_that_differs_is_no_retry(log: &Log, _: &Clock) {
    append(log, "a-1", Expected::NoStream, 0..3).await;
    let name = stream("a-1");
    let swapped = vec![event(1), event(0)];
    let longer = events(0..4);
    let other = vec![event(0), event(9)];
    for different in [swapped, longer, other] {
        let outcome = log.append(&name, Expected::NoStream, different).await;
        assert!(matches!(outcome, Err(AppendError::Conflict { actual: Some(Revision(2)) })), "{outcome:?}");
    }
    // With `Any` only the latest events count: these are appended once more.
    assert_eq!(append(log, "a-1", Expected::Any, 0..1).await.revision, Revision(3));
    assert_eq!(append(log, "a-1", Expected::Any, 3..4).await.revision, Revision(4));
    // The same event at the end of another stream is not a retry either.
    assert_eq!(append(log, "a-2", Expected::Any, 3..4).await.revision, Revision(0));
}

pub async fn an_append_within_the_limits_is_taken_and_one_beyond_is_refused(log: &Log, _: &Clock) {
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

pub async fn a_refused_append_leaves_nothing(log: &Log, _: &Clock) {
    let before = append(log, "a-1", Expected::NoStream, 0..1).await;
    assert!(log.append(&stream("a-1"), Expected::At(Revision(5)), events(1..3)).await.is_err());
    assert!(log.append(&stream("a-2"), Expected::At(Revision(0)), events(3..4)).await.is_err());
    assert!(log.read_stream(&stream("a-2"), Revision(0), 10).await.unwrap().is_empty());
    let after = append(log, "a-1", Expected::At(Revision(0)), 4..5).await;
    assert!(after.position > before.position);
    assert_eq!(ids(&all(log).await), [0, 4]);
}

pub async fn a_stream_is_read_in_pages(log: &Log, _: &Clock) {
    for n in 0..40_u128 {
        append(log, if n % 2 == 0 { "a-1" } else { "a-2" }, Expected::Any, n..n + 1).await;
    }
    let name = stream("a-1");
    let mut read = Vec::new();
    while let page = log.read_stream(&name, Revision(read.len() as u64), 7).await.unwrap()
        && !page.is_empty()
    {
        assert!(page.len() <= 7);
        read.extend(page);
    }
    let even: Vec<u128> = (0..40).step_by(2).collect();
    assert_eq!(ids(&read), even);
    let from_the_middle = log.read_stream(&name, Revision(15), 100).await.unwrap();
    assert_eq!(from_the_middle, read[15..]);
}

pub async fn what_is_not_there_is_no_error(log: &Log, _: &Clock) {
    assert!(log.read_stream(&stream("a-1"), Revision(0), 10).await.unwrap().is_empty());
    let page = log.read_all(Position::START, &Filter::All, 10).await.unwrap();
    assert!(page.events.is_empty() && page.at_head && page.next == Position::START);
    let end = append(log, "a-1", Expected::NoStream, 0..3).await.position;
    assert!(log.read_stream(&stream("a-1"), Revision(3), 10).await.unwrap().is_empty());
    assert!(log.read_stream(&stream("a-1"), Revision(u64::MAX), 10).await.unwrap().is_empty());
    assert!(log.read_stream(&stream("a-1"), Revision(0), 0).await.unwrap().is_empty());
    let beyond = Position(end.0 + 1000);
    let page = log.read_all(beyond, &Filter::All, 10).await.unwrap();
    assert!(page.events.is_empty() && page.at_head && page.next == beyond);
}

pub async fn the_whole_log_is_read_in_pages(log: &Log, _: &Clock) {
    for n in 0..30_u128 {
        append(log, &format!("a-{}", n % 7), Expected::Any, n * 3..n * 3 + 3).await;
    }
    let expected: Vec<u128> = (0..90).collect();
    for events_max in [1, 2, 7, 90, 1000] {
        assert_eq!(ids(&all_of(log, &Filter::All, events_max).await), expected, "{events_max} a page");
    }
    let head = *log.head().borrow();
    let page = log.read_all(Position::START, &Filter::All, 90).await.unwrap();
    assert_eq!(page.next, page.events.last().unwrap().position);
    assert!(page.next <= head);
}

pub async fn a_filter_leaves_over_its_streams_and_moves_on(log: &Log, _: &Clock) {
    for n in 0..60_u128 {
        append(log, ["a-1", "a-10", "b-1", "c-1.5"][n as usize % 4], Expected::Any, n..n + 1).await;
    }
    let filter =
        |prefixes: &[&str]| Filter::StreamPrefixes(prefixes.iter().map(|p| (*p).to_owned()).collect());
    let everything = all(log).await;
    for prefixes in [
        &["a-1"][..],
        &["a-10"],
        &["b-", "c-1."],
        &["a-1", "a-10"],
        &["nothing-"],
        &[],
        &["a", "b", "c"],
        &[""],
    ] {
        let wanted: Vec<_> = everything
            .iter()
            .filter(|event| prefixes.iter().any(|prefix| event.stream.as_str().starts_with(prefix)))
            .cloned()
            .collect();
        for events_max in [1, 4, 1000] {
            assert_eq!(all_of(log, &filter(prefixes), events_max).await, wanted, "{prefixes:?}");
        }
    }
}

pub async fn the_position_at_an_instant_is_the_last_one_recorded_by_then(log: &Log, clock: &Clock) {
    assert_eq!(log.position_at(START).await.unwrap(), Position::START);
    let mut at = Vec::new();
    for n in 0..40_u128 {
        let appended = append(log, &format!("a-{}", n % 3), Expected::Any, n * 2..n * 2 + 2).await;
        at.push((clock.now(), appended.position));
        clock.advance(Duration::from_secs(u64::from(n % 3 == 0) * 10));
    }
    assert_eq!(log.position_at(START.before(Duration::from_micros(1))).await.unwrap(), Position::START);
    for (instant, _) in &at {
        let last_by_then = at.iter().rev().find(|(then, _)| then <= instant).map(|(_, position)| *position);
        assert_eq!(Some(log.position_at(*instant).await.unwrap()), last_by_then);
        let before = instant.before(Duration::from_micros(1));
        let last_before = at.iter().rev().find(|(then, _)| *then <= before).map(|(_, position)| *position);
        assert_eq!(log.position_at(before).await.unwrap(), last_before.unwrap_or_default());
    }
    assert_eq!(
        log.position_at(clock.now().after(Duration::from_secs(9))).await.unwrap(),
        *log.head().borrow()
    );
}

pub async fn recorded_at_never_goes_back(log: &Log, clock: &Clock) {
    let first = append(log, "a-1", Expected::Any, 0..1).await;
    clock.set(START.before(Duration::from_secs(3600)));
    let second = append(log, "a-1", Expected::Any, 1..2).await;
    assert_eq!((first.recorded_at, second.recorded_at), (START, START));
    clock.set(START.after(Duration::from_secs(1)));
    let third = append(log, "a-1", Expected::Any, 2..3).await;
    assert_eq!(third.recorded_at, START.after(Duration::from_secs(1)));
    let recorded: Vec<Timestamp> = all(log).await.iter().map(|event| event.recorded_at).collect();
    assert!(recorded.is_sorted());
}

pub async fn the_head_moves_with_what_is_durable(log: &Log, _: &Clock) {
    let mut head = log.head();
    assert_eq!(*head.borrow_and_update(), Position::START);
    let appended = append(log, "a-1", Expected::NoStream, 0..5).await;
    assert!(head.has_changed().unwrap());
    assert_eq!(*head.borrow_and_update(), appended.position);
    assert!(log.append(&stream("a-1"), Expected::NoStream, events(9..10)).await.is_err());
    assert_eq!(*log.head().borrow(), appended.position);
    let page = log.read_all(Position::START, &Filter::All, 100).await.unwrap();
    assert_eq!((page.next, page.at_head), (appended.position, true));
}

pub async fn of_concurrent_appenders_at_one_revision_one_wins(log: &Log, _: &Clock) {
    let name = stream("a-1");
    let mut expected = Expected::NoStream;
    for round in 0..10_u128 {
        let appends =
            (0..20_u128).map(|n| log.append(&name, expected, events(round * 100 + n..round * 100 + n + 1)));
        let outcomes = join_all(appends).await;
        let won: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        expected = Expected::At(won[0].revision);
        assert_eq!(won[0].revision, Revision(round as u64));
    }
    assert_eq!(all(log).await.len(), 10);
}

pub async fn concurrent_appenders_on_many_streams_all_get_in(log: &Log, _: &Clock) {
    let appenders = (0..50_u128).map(|appender| async move {
        let mut expected = Expected::NoStream;
        for n in 0..8_u128 {
            let first = appender * 1000 + n * 3;
            let appended = append(log, &format!("a-{appender}"), expected, first..first + 3).await;
            expected = Expected::At(appended.revision);
        }
    });
    join_all(appenders).await;
    let all = all(log).await;
    assert_eq!(all.len(), 50 * 8 * 3);
    // Each append is in one piece.
    for append in all.chunks(3) {
        assert!(append.windows(2).all(|pair| pair[0].id.0.as_u128() + 1 == pair[1].id.0.as_u128()));
        assert!(append.iter().all(|event| event.stream == append[0].stream));
    }
}

pub async fn the_same_append_many_times_at_once_is_one(log: &Log, _: &Clock) {
    append(log, "a-1", Expected::NoStream, 0..1).await;
    for (expected, numbers) in
        [(Expected::At(Revision(0)), 1..4), (Expected::Any, 4..6), (Expected::Any, 6..7)]
    {
        let name = stream("a-1");
        let appends = (0..32).map(|_| log.append(&name, expected, events(numbers.clone())));
        let outcomes: Vec<Appended> = join_all(appends).await.into_iter().map(Result::unwrap).collect();
        assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{outcomes:?}");
    }
    assert_eq!(ids(&all(log).await), [0, 1, 2, 3, 4, 5, 6]);
}

pub async fn a_subscription_sees_everything_in_order_from_old_to_new(log: &Log, _: &Clock) {
    append(log, "a-1", Expected::NoStream, 0..100).await;
    let writing = tokio::spawn({
        let log = log.clone();
        async move {
            for n in 100..300_u128 {
                append(&log, &format!("a-{}", n % 5), Expected::Any, n..n + 1).await;
            }
        }
    });
    let mut subscription = log.subscribe(Position::START, Filter::All);
    let mut seen = Vec::new();
    while seen.len() < 300 {
        let page = subscription.next().await.unwrap();
        assert!(!page.events.is_empty());
        assert!(page.next <= *log.head().borrow(), "nothing is seen before it is durable");
        seen.extend(page.events);
    }
    writing.await.unwrap();
    let expected: Vec<u128> = (0..300).collect();
    assert_eq!(ids(&seen), expected);
    assert_eq!(subscription.position(), *log.head().borrow());
}

pub async fn a_filtered_subscription_sees_only_its_streams(log: &Log, _: &Clock) {
    append(log, "a-1", Expected::NoStream, 0..10).await;
    let filter = Filter::StreamPrefixes(vec!["b-".to_owned()]);
    let mut subscription = log.subscribe(Position::START, filter);
    append(log, "b-1", Expected::NoStream, 10..12).await;
    append(log, "a-1", Expected::Any, 12..13).await;
    append(log, "b-2", Expected::NoStream, 13..14).await;
    let mut seen = Vec::new();
    while subscription.position() < *log.head().borrow() {
        seen.extend(subscription.next().await.unwrap().events);
    }
    assert_eq!(ids(&seen), [10, 11, 13]);
}
