//! Nodes that stop, come back, or misbehave.

use super::*;

#[tokio::test]
async fn restarts_of_the_node_lose_and_duplicate_nothing() {
    let mut cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log(LONG);
    let mut subscription = Log::new(log.clone()).subscribe(Position::START, Filter::All);
    let mut seen = 0;
    for n in 0..6 {
        if n % 2 == 1 {
            cluster.restart();
        }
        let expected = Expected::after((n as u64).checked_sub(1).map(Revision));
        let appended = log.append(&stream("a-1"), expected, events(n..n + 1)).await.unwrap();
        assert_eq!(appended.revision, Revision(n as u64));
        while subscription.position() < appended.position {
            seen += subscription.next().await.unwrap().events.len();
        }
    }
    assert_eq!((seen, cluster.node.events()), (6, 6));
}

#[tokio::test]
async fn a_log_reports_a_lost_node_and_reconnects() {
    let mut cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log(SHORT);
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    assert_eq!(log.connection_state(), ConnectionState::Live);
    cluster.stop();
    until("it is disconnected", || matches!(log.connection_state(), ConnectionState::Disconnected(_))).await;
    let refused = log.append(&stream("a-1"), Expected::At(Revision(0)), events(1..2)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    let unread = log.read_stream(&stream("a-1"), Revision(0), 1).await;
    assert!(matches!(unread, Err(ReadError::Unavailable(_))), "{unread:?}");
    cluster.restart();
    until("it is live again", || log.connection_state() == ConnectionState::Live).await;
    let appended = log.append(&stream("a-1"), Expected::At(Revision(0)), events(1..2)).await.unwrap();
    assert_eq!(*log.head().borrow(), appended.position);
}

/// A client of the library stays broken after its first connection failed.
#[tokio::test]
async fn opening_waits_for_a_node_that_starts_late() {
    let mut cluster = Cluster::start(clock());
    let url = cluster.url(SHORT);
    cluster.stop();
    let refused = EventStoreLog::open(url.clone(), WhenUnreachable::Fail).await.unwrap_err();
    assert!(matches!(&refused, ConnectError::Unreachable { .. }), "{refused}");
    assert!(refused.to_string().contains("that the address is right"), "{refused}");
    let opening = tokio::spawn(EventStoreLog::open(url, WhenUnreachable::Wait));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!opening.is_finished());
    cluster.restart();
    let (log, _) = opening.await.unwrap().unwrap();
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
}

#[tokio::test]
async fn an_append_with_a_lost_response_is_in_the_log_once() {
    let cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log(LONG);
    for (n, expected) in [(0, Expected::NoStream), (1, Expected::At(Revision(0))), (2, Expected::Any)] {
        cluster.node.set_mode(FaultMode::CrashesAfterAppend);
        let node = cluster.node.clone();
        let before = node.call_count("append");
        let recovering = tokio::spawn(async move {
            until("it was called", || node.call_count("append") > before).await;
            node.set_mode(FaultMode::Healthy);
        });
        let appended = log.append(&stream("a-1"), expected, events(n..n + 1)).await.unwrap();
        recovering.await.unwrap();
        assert_eq!((appended.revision, cluster.node.events()), (Revision(n as u64), n as usize + 1));
    }
}

#[tokio::test]
async fn an_append_without_a_response_is_unknown() {
    let cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log(SHORT);
    for (n, mode) in [(0, FaultMode::CrashesAfterAppend), (1, FaultMode::Hangs)] {
        cluster.node.set_mode(mode);
        let outcome = log.append(&stream(&format!("a-{n}")), Expected::NoStream, events(n..n + 1)).await;
        assert!(matches!(outcome, Err(AppendError::Unknown { .. })), "{mode:?}: {outcome:?}");
    }
    cluster.node.set_mode(FaultMode::Healthy);
    for n in 0..2 {
        log.append(&stream(&format!("a-{n}")), Expected::NoStream, events(n..n + 1)).await.unwrap();
    }
    assert_eq!(cluster.node.events(), 2);
}

#[tokio::test]
async fn an_append_to_an_unavailable_node_is_retried() {
    let cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log(LONG);
    cluster.node.set_mode(FaultMode::Unavailable);
    let node = cluster.node.clone();
    let recovering = tokio::spawn(async move {
        until("it was called more than once", || node.call_count("append") > 1).await;
        node.set_mode(FaultMode::Healthy);
    });
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    recovering.await.unwrap();
    assert_eq!(cluster.node.events(), 1);
}

#[tokio::test]
async fn a_follower_redirects_to_its_leader() {
    let (leader, follower) = (Cluster::start(clock()), Cluster::start(clock()));
    follower.node.set_mode(FaultMode::FollowerOf(leader.port()));
    // The first calls redirect the client there.
    let (log, _) = EventStoreLog::open(follower.url(LONG), WhenUnreachable::Wait).await.unwrap();
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    assert_eq!((leader.node.events(), follower.node.events()), (1, 0));
}

#[tokio::test]
async fn a_log_switches_to_a_new_leader() {
    let (one, other) = (Cluster::start(clock()), Cluster::start(clock()));
    let (log, _runtime) = one.log("defaultDeadline=3000");
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    one.node.set_mode(FaultMode::FollowerOf(other.port()));
    log.append(&stream("a-2"), Expected::NoStream, events(1..2)).await.unwrap_or_else(|error| {
        // The other node has none of the first one's events, so the head cannot advance, but the append went there.
        assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
        event_log::Appended { position: Position::START, revision: Revision(0), recorded_at: START }
    });
    assert_eq!((one.node.events(), other.node.events()), (1, 1));
}

#[tokio::test]
async fn a_denied_user_gets_the_remedy_without_credentials() {
    let cluster = Cluster::start(clock());
    cluster.node.set_mode(FaultMode::DeniesAccess);
    let url = format!("esdb://ann:secret@127.0.0.1:{}?tls=false", cluster.port());
    let denied = EventStoreLog::open(url.parse().unwrap(), WhenUnreachable::Wait).await.unwrap_err();
    let text = format!("{denied} {denied:?}");
    assert!(matches!(denied, ConnectError::Denied { .. }) && text.contains("USER:PASSWORD@"), "{text}");
    assert!(!text.contains("secret") && !text.contains("ann"), "{text}");
}

#[tokio::test]
async fn a_closed_log_refuses_appends_and_its_head_is_closed() {
    let cluster = Cluster::start(clock());
    let (log, _runtime) = cluster.log(LONG);
    let mut head = log.head();
    log.close().await;
    log.close().await;
    assert!(head.changed().await.is_err());
    let refused = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await;
    assert!(matches!(refused, Err(AppendError::Closed { .. })), "{refused:?}");
    assert!(log.read_stream(&stream("a-1"), Revision(0), 1).await.unwrap().is_empty());
}
