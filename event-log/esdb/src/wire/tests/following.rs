//! Subscriptions through the protocol.

use event_log::EventLog;
use std::time::Duration;

use eventstore::{
    AppendToStreamOptions, Error, StreamPosition, SubscribeToAllOptions, SubscribeToStreamOptions,
    Subscription, SubscriptionEvent, SubscriptionFilter,
};

use super::{ServerFixture, event, events, soon};

async fn next(subscription: &mut Subscription) -> SubscriptionEvent {
    soon(subscription.next_subscription_event()).await.unwrap()
}

/// The next messages in short form: `c` for a confirmation, `l` for caught up, `k<position>` for a checkpoint, and the
/// positions of events.
async fn messages(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.push(match next(subscription).await {
            SubscriptionEvent::Confirmed(_) => "c".to_owned(),
            SubscriptionEvent::CaughtUp => "l".to_owned(),
            SubscriptionEvent::Checkpoint(position) => format!("k{}", position.commit),
            SubscriptionEvent::EventAppeared(event) => event.get_original_event().position.commit.to_string(),
            other => format!("{other:?}"),
        });
    }
    messages
}

#[tokio::test]
async fn a_subscription_sends_existing_events_and_then_new_ones() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    let any = AppendToStreamOptions::default();
    client.append_to_stream("a", &any, events(0..2)).await.unwrap();
    client.append_to_stream("b", &any, events(2..3)).await.unwrap();
    let from_start = SubscribeToAllOptions::default().position(StreamPosition::Start);
    let mut all = client.subscribe_to_all(&from_start).await;
    let mut stream = client
        .subscribe_to_stream("a", &SubscribeToStreamOptions::default().start_from(StreamPosition::Start))
        .await;
    let mut from_end =
        client.subscribe_to_all(&SubscribeToAllOptions::default().position(StreamPosition::End)).await;
    assert_eq!(messages(&mut all, 5).await, ["c", "1", "2", "3", "l"]);
    assert_eq!(messages(&mut stream, 4).await, ["c", "1", "2", "l"]);
    assert_eq!(messages(&mut from_end, 2).await, ["c", "l"]);
    client.append_to_stream("b", &any, events(3..4)).await.unwrap();
    client.append_to_stream("a", &any, events(4..5)).await.unwrap();
    assert_eq!(messages(&mut all, 2).await, ["4", "5"]);
    assert_eq!(messages(&mut stream, 1).await, ["5"]);
    assert_eq!(messages(&mut from_end, 2).await, ["4", "5"]);
}

#[tokio::test]
async fn a_subscription_resumes_after_its_start_position() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    client.append_to_stream("a", &AppendToStreamOptions::default(), events(0..4)).await.unwrap();
    let at = eventstore::Position { commit: 2, prepare: 2 };
    let options = SubscribeToAllOptions::default().position(StreamPosition::Position(at));
    assert_eq!(messages(&mut client.subscribe_to_all(&options).await, 4).await, ["c", "3", "4", "l"]);
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Position(2));
    assert_eq!(messages(&mut client.subscribe_to_stream("a", &options).await, 3).await, ["c", "4", "l"]);
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::End);
    assert_eq!(messages(&mut client.subscribe_to_stream("a", &options).await, 2).await, ["c", "l"]);
}

#[tokio::test]
async fn a_missing_stream_can_be_subscribed_to() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    let mut stream = client.subscribe_to_stream("later", &SubscribeToStreamOptions::default()).await;
    assert_eq!(messages(&mut stream, 2).await, ["c", "l"]);
    // A stream whose name has the same prefix is another one.
    client.append_to_stream("later-on", &AppendToStreamOptions::default(), event(1)).await.unwrap();
    client.append_to_stream("later", &AppendToStreamOptions::default(), event(2)).await.unwrap();
    assert_eq!(messages(&mut stream, 1).await, ["2"]);
}

#[tokio::test]
async fn a_filtered_subscription_gets_checkpoints() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    let any = AppendToStreamOptions::default();
    client.append_to_stream("other", &any, events(0..70)).await.unwrap();
    client.append_to_stream("mine-1", &any, events(100..101)).await.unwrap();
    let filters = [
        SubscriptionFilter::on_stream_name().regex("^mine-"),
        SubscriptionFilter::on_stream_name().regex("^(?!other)"),
    ];
    for filter in filters {
        let options = SubscribeToAllOptions::default().position(StreamPosition::Start).filter(filter);
        let mut all = client.subscribe_to_all(&options).await;
        assert_eq!(messages(&mut all, 5).await, ["c", "k32", "k64", "71", "l"]);
    }
    let prefix = SubscriptionFilter::on_stream_name().add_prefix("mine").add_prefix("yours");
    let options = SubscribeToAllOptions::default().position(StreamPosition::Start).filter(prefix);
    let mut all = client.subscribe_to_all(&options).await;
    // The log itself applies a prefix filter, so there is no checkpoint until an event passes.
    assert_eq!(messages(&mut all, 4).await, ["c", "71", "k71", "l"]);
}

#[tokio::test]
async fn an_invalid_expression_is_refused() {
    let fixture = ServerFixture::new().await;
    let options = SubscribeToAllOptions::default().filter(SubscriptionFilter::on_event_type().regex("("));
    let mut all = fixture.client().subscribe_to_all(&options).await;
    let refused = soon(all.next_subscription_event()).await.unwrap_err();
    assert!(refused.to_string().contains("expression"), "{refused}");
}

#[tokio::test]
async fn stopping_the_server_ends_a_subscription_with_an_error() {
    let fixture = ServerFixture::new().await;
    let mut all = fixture.client().subscribe_to_all(&SubscribeToAllOptions::default()).await;
    assert!(matches!(next(&mut all).await, SubscriptionEvent::Confirmed(_)));
    let waiting = tokio::spawn(async move {
        loop {
            if let Err(error) = all.next_subscription_event().await {
                return error;
            }
        }
    });
    soon(fixture.server.stop(Duration::from_secs(10))).await;
    let error = soon(waiting).await.unwrap();
    assert!(matches!(error, Error::ServerError(_)), "{error:?}");
    fixture.log.close().await;
}
