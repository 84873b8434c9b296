//! The rules for reads.

use std::time::Duration;

use event_schemas::ids::{Position, Revision};
use event_schemas::time::Timestamp;

use super::{START, all, all_of, append, events, ids, stream};
use crate::clock::Clock;
use crate::{EventLog, Expected, Filter, Log};

pub async fn stream_is_read_in_pages(log: &Log, _: &Clock) {
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

pub async fn reads_beyond_the_end_are_empty(log: &Log, _: &Clock) {
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

pub async fn whole_log_is_read_in_pages(log: &Log, _: &Clock) {
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

pub async fn filter_selects_streams_and_advances(log: &Log, _: &Clock) {
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

pub async fn position_at_is_the_last_recorded_by_then(log: &Log, clock: &Clock) {
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

pub async fn recorded_at_never_decreases(log: &Log, clock: &Clock) {
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

pub async fn head_follows_durable_events(log: &Log, _: &Clock) {
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
