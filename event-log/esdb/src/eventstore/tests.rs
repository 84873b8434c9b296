//! The conformance suite, and failures of the connection to a cluster.

use std::time::{Duration, Instant};

use bytes::Bytes;
use event_schemas::envelope::{DataFormat, EventType, NewEvent};
use event_schemas::ids::{EventId, Position, Revision};
use event_schemas::stream::StreamId;
use uuid::Uuid;

use super::fake::{Cluster, FaultMode, RuntimeGuard, open, open_without_tail};
use super::{ConnectError, ConnectionState, EventStoreLog, WhenUnreachable, nodelay};
use event_log::clock::Clock;
use event_log::conformance::START;
use event_log::{AppendError, EventLog, Expected, Filter, Log, ReadError};

mod outages;
mod over_the_wire;
mod panics;

/// Runs against a node with gaps between positions, and with system events.
mod on_a_node_with_gaps {
    use super::*;

    fn make(clock: Clock) -> (Log, (Cluster, RuntimeGuard)) {
        let cluster = Cluster::start(clock);
        let (log, runtime) = open_without_tail(cluster.url(""));
        (Log::new(log), (cluster, runtime))
    }

    event_log::conformance_tests!(make);
}

/// The deadline of calls that are not answered.
const SHORT: &str = "defaultDeadline=2000";

/// The deadline of calls that are answered, with enough time on a busy machine.
const LONG: &str = "defaultDeadline=20000";

fn stream(name: &str) -> StreamId {
    name.parse().unwrap()
}

fn events(numbers: std::ops::Range<u128>) -> Vec<NewEvent> {
    let event = |number| NewEvent {
        id: EventId(Uuid::from_u128(number)),
        event_type: EventType::new("Happened"),
        format: DataFormat::Json,
        metadata: Bytes::from_static(b"{}"),
        data: Bytes::from_static(b" {\"a\": 1.0} "),
    };
    numbers.map(event).collect()
}

/// Waits until a condition holds; panics after 20 seconds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn clock() -> Clock {
    Clock::manual(START)
}

#[tokio::test]
async fn two_servers_agree_on_the_identity_and_share_events() {
    let cluster = Cluster::start(clock());
    let ((one, _one), (other, _other)) = (cluster.log(""), cluster.log(""));
    assert_eq!(one.identity(), other.identity());
    let appended = one.append(&stream("a-1"), Expected::NoStream, events(0..3)).await.unwrap();
    let mut head = other.head();
    head.wait_for(|head| *head >= appended.position).await.unwrap();
    let page = other.read_all(Position::START, &Filter::All, 10).await.unwrap();
    assert_eq!(page.events, one.read_stream(&stream("a-1"), Revision(0), 10).await.unwrap());
    let elsewhere = Cluster::start(clock());
    assert_ne!(elsewhere.log("").0.identity(), one.identity());
}

#[tokio::test]
async fn data_round_trips_exactly_as_json_or_binary() {
    let cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log("");
    let mut new = events(0..4);
    new[0].data = Bytes::from_static(br#"{"a":1.50,"b":"\u00e4"}"#);
    new[2].format = DataFormat::Bytes;
    new[3].data = Bytes::from_static(b"no json at all");
    log.append(&stream("a-1"), Expected::NoStream, new.clone()).await.unwrap();
    let read = log.read_stream(&stream("a-1"), Revision(0), 10).await.unwrap();
    assert!(read.iter().map(|event| &event.data).eq(new.iter().map(|event| &event.data)));
    assert_eq!((read[0].format, read[2].format), (DataFormat::Json, DataFormat::Bytes));
}

/// The client library truncates them to seconds.
#[tokio::test]
async fn times_keep_microseconds() {
    let at = START.after(Duration::from_micros(123_456));
    let cluster = Cluster::start(Clock::manual(at));
    let (log, _runtime) = cluster.log("");
    let appended = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    let read = log.read_stream(&stream("a-1"), Revision(0), 1).await.unwrap();
    assert_eq!((appended.recorded_at, read[0].recorded_at), (at, at));
}

#[tokio::test]
async fn reads_can_start_after_any_position() {
    let cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log("");
    for n in 0..30 {
        log.append(&stream("a-1"), Expected::Any, events(n * 100..n * 100 + 100)).await.unwrap();
    }
    // Another process that opens the log does not have the page ends.
    let (other, _other) = open_without_tail(cluster.url(""));
    let all = log.read_stream(&stream("a-1"), Revision(0), 4096).await.unwrap();
    let head = *other.head().borrow();
    for after in (0..head.0 + 2000).step_by(99_991) {
        let page = other.read_all(Position(after), &Filter::All, 3).await.unwrap();
        let expected = all.iter().filter(|event| event.position.0 > after).take(3);
        assert!(page.events.iter().eq(expected), "{after}");
    }
}

#[tokio::test]
async fn the_connection_has_tcp_nodelay() {
    let mut cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log("");
    log.append(&stream("a-1"), Expected::Any, events(0..1)).await.unwrap();
    // The node's own ends of the connections have it set already.
    let all_set = |port| nodelay::is_set(port) == (true, nodelay::is_set(port).1);
    assert!(all_set(cluster.port()) && nodelay::is_set(cluster.port()).1 > 0);
    cluster.restart();
    log.append(&stream("a-1"), Expected::Any, events(1..2)).await.unwrap();
    until("the new connection has the option", || {
        log.connection_state() == ConnectionState::Live && all_set(cluster.port())
    })
    .await;
}
