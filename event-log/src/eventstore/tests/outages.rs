//! Nodes that go, come back, or do not do what they are there for.

use super::*;

#[tokio::test]
async fn a_log_survives_a_restart_of_its_node_without_losing_or_doubling_anything() {
    let mut cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log(LONG);
    let mut subscription = Log::EventStore(log.clone()).subscribe(Position::START, Filter::All);
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
async fn while_its_node_is_away_a_log_says_so_and_comes_back_by_itself() {
    let mut cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log(SHORT);
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    assert_eq!(log.standing(), Standing::Following);
    cluster.stop();
    until("it notices", || matches!(log.standing(), Standing::Away(_))).await;
    let refused = log.append(&stream("a-1"), Expected::At(Revision(0)), events(1..2)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    let unread = log.read_stream(&stream("a-1"), Revision(0), 1).await;
    assert!(matches!(unread, Err(ReadError::Unavailable(_))), "{unread:?}");
    cluster.restart();
    until("it is back", || log.standing() == Standing::Following).await;
    let appended = log.append(&stream("a-1"), Expected::At(Revision(0)), events(1..2)).await.unwrap();
    assert_eq!(*log.head().borrow(), appended.position);
}

/// The client library answers nothing any more after a first connection that failed.
#[tokio::test]
async fn a_log_opens_on_a_node_that_comes_late() {
    let mut cluster = Cluster::start(clock());
    let url = cluster.url(SHORT);
    cluster.stop();
    let refused = EventStoreLog::open(url.clone(), Unreached::Refuse).await.unwrap_err();
    assert!(matches!(&refused, ConnectError::Unreached { .. }), "{refused}");
    assert!(refused.to_string().contains("whether the address is right"), "{refused}");
    let opening = tokio::spawn(EventStoreLog::open(url, Unreached::Wait));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!opening.is_finished());
    cluster.restart();
    let (log, _) = opening.await.unwrap().unwrap();
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_is_in_the_log_once() {
    let cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log(LONG);
    for (n, expected) in [(0, Expected::NoStream), (1, Expected::At(Revision(0))), (2, Expected::Any)] {
        cluster.node.put_into(Mood::DiesAfterAppending);
        let node = cluster.node.clone();
        let before = node.times_asked("append");
        let recovering = tokio::spawn(async move {
            until("it was tried", || node.times_asked("append") > before).await;
            node.put_into(Mood::Well);
        });
        let appended = log.append(&stream("a-1"), expected, events(n..n + 1)).await.unwrap();
        recovering.await.unwrap();
        assert_eq!((appended.revision, cluster.node.events()), (Revision(n as u64), n as usize + 1));
    }
}

#[tokio::test]
async fn an_append_of_which_nobody_says_what_became_of_it_is_unknown() {
    let cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log(SHORT);
    for (n, mood) in [(0, Mood::DiesAfterAppending), (1, Mood::Hangs)] {
        cluster.node.put_into(mood);
        let outcome = log.append(&stream(&format!("a-{n}")), Expected::NoStream, events(n..n + 1)).await;
        assert!(matches!(outcome, Err(AppendError::Unknown { .. })), "{mood:?}: {outcome:?}");
    }
    cluster.node.put_into(Mood::Well);
    for n in 0..2 {
        log.append(&stream(&format!("a-{n}")), Expected::NoStream, events(n..n + 1)).await.unwrap();
    }
    assert_eq!(cluster.node.events(), 2);
}

#[tokio::test]
async fn a_node_that_is_not_available_has_recorded_nothing_for_sure_or_is_asked_again() {
    let cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log(LONG);
    cluster.node.put_into(Mood::Unavailable);
    let node = cluster.node.clone();
    let recovering = tokio::spawn(async move {
        until("it was tried more than once", || node.times_asked("append") > 1).await;
        node.put_into(Mood::Well);
    });
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    recovering.await.unwrap();
    assert_eq!(cluster.node.events(), 1);
}

#[tokio::test]
async fn a_follower_sends_us_to_its_leader() {
    let (leader, follower) = (Cluster::start(clock()), Cluster::start(clock()));
    follower.node.put_into(Mood::FollowerOf(leader.port()));
    // The first calls are what sends it there.
    let (log, _) = EventStoreLog::open(follower.url(LONG), Unreached::Wait).await.unwrap();
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    assert_eq!((leader.node.events(), follower.node.events()), (1, 0));
}

#[tokio::test]
async fn a_log_goes_over_to_the_new_leader() {
    let (one, other) = (Cluster::start(clock()), Cluster::start(clock()));
    let (log, _kept) = one.log("defaultDeadline=3000");
    log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await.unwrap();
    one.node.put_into(Mood::FollowerOf(other.port()));
    log.append(&stream("a-2"), Expected::NoStream, events(1..2)).await.unwrap_or_else(|error| {
        // The other has none of the first one's events, so the head cannot follow; the append went there all the same.
        assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
        crate::Appended { position: Position::START, revision: Revision(0), recorded_at: START }
    });
    assert_eq!((one.node.events(), other.node.events()), (1, 1));
}

#[tokio::test]
async fn who_may_not_come_in_is_told_what_to_do() {
    let cluster = Cluster::start(clock());
    cluster.node.put_into(Mood::Denies);
    let url = format!("esdb://ann:secret@127.0.0.1:{}?tls=false", cluster.port());
    let denied = EventStoreLog::open(url.parse().unwrap(), Unreached::Wait).await.unwrap_err();
    let said = format!("{denied} {denied:?}");
    assert!(matches!(denied, ConnectError::Denied { .. }) && said.contains("USER:PASSWORD@"), "{said}");
    assert!(!said.contains("secret") && !said.contains("ann"), "{said}");
}

#[tokio::test]
async fn after_its_end_a_log_takes_nothing_and_its_head_is_closed() {
    let cluster = Cluster::start(clock());
    let (log, _kept) = cluster.log(LONG);
    let mut head = log.head();
    log.close().await;
    log.close().await;
    assert!(head.changed().await.is_err());
    let refused = log.append(&stream("a-1"), Expected::NoStream, events(0..1)).await;
    assert!(matches!(refused, Err(AppendError::Closed { .. })), "{refused:?}");
    assert!(log.read_stream(&stream("a-1"), Revision(0), 1).await.unwrap().is_empty());
}
