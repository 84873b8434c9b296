//! The rules for concurrent appends and for subscriptions.

use event_schemas::ids::{Position, Revision};
use futures_util::future::join_all;

use super::{all, append, events, ids, stream};
use crate::clock::Clock;
use crate::{Appended, EventLog, Expected, Filter, Log};

pub async fn one_concurrent_append_per_revision_wins(log: &Log, _: &Clock) {
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

pub async fn concurrent_appends_to_many_streams_succeed(log: &Log, _: &Clock) {
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
    // The events of each append are adjacent.
    for append in all.chunks(3) {
        assert!(append.windows(2).all(|pair| pair[0].id.0.as_u128() + 1 == pair[1].id.0.as_u128()));
        assert!(append.iter().all(|event| event.stream == append[0].stream));
    }
}

pub async fn concurrent_retries_append_once(log: &Log, _: &Clock) {
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

pub async fn subscription_delivers_all_events_in_order(log: &Log, _: &Clock) {
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
        assert!(page.next <= *log.head().borrow(), "no event is visible before it is durable");
        seen.extend(page.events);
    }
    writing.await.unwrap();
    let expected: Vec<u128> = (0..300).collect();
    assert_eq!(ids(&seen), expected);
    assert_eq!(subscription.position(), *log.head().borrow());
}

pub async fn filtered_subscription_delivers_its_streams(log: &Log, _: &Clock) {
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
