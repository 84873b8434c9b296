//! Subscribing through the protocol.

use std::time::Duration;

use eventstore::{
    AppendToStreamOptions, Error, StreamPosition, SubscribeToAllOptions, SubscribeToStreamOptions,
    Subscription, SubscriptionEvent, SubscriptionFilter,
};

use super::{Bench, event, events, soon};

async fn next(subscription: &mut Subscription) -> SubscriptionEvent {
    soon(subscription.next_subscription_event()).await.unwrap()
}

/// What came, in short: `c` for a confirmation, `l` for being live, `k<position>` for a checkpoint, and positions.
async fn told(subscription: &mut Subscription, messages: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..messages {
        told.push(match next(subscription).await {
            SubscriptionEvent::Confirmed(_) => "c".to_owned(),
            SubscriptionEvent::CaughtUp => "l".to_owned(),
            SubscriptionEvent::Checkpoint(position) => format!("k{}", position.commit),
            SubscriptionEvent::EventAppeared(event) => event.get_original_event().position.commit.to_string(),
            other => format!("{other:?}"),
        });
    }
    told
}

#[tokio::test]
async fn a_subscription_confirms_then_tells_what_was_then_what_comes() {
    let bench = Bench::new().await;
    let client = bench.client();
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
    assert_eq!(told(&mut all, 5).await, ["c", "1", "2", "3", "l"]);
    assert_eq!(told(&mut stream, 4).await, ["c", "1", "2", "l"]);
    assert_eq!(told(&mut from_end, 2).await, ["c", "l"]);
    client.append_to_stream("b", &any, events(3..4)).await.unwrap();
    client.append_to_stream("a", &any, events(4..5)).await.unwrap();
    assert_eq!(told(&mut all, 2).await, ["4", "5"]);
    assert_eq!(told(&mut stream, 1).await, ["5"]);
    assert_eq!(told(&mut from_end, 2).await, ["4", "5"]);
}

#[tokio::test]
async fn a_subscription_goes_on_behind_the_place_that_it_names() {
    let bench = Bench::new().await;
    let client = bench.client();
    client.append_to_stream("a", &AppendToStreamOptions::default(), events(0..4)).await.unwrap();
    let at = eventstore::Position { commit: 2, prepare: 2 };
    let options = SubscribeToAllOptions::default().position(StreamPosition::Position(at));
    assert_eq!(told(&mut client.subscribe_to_all(&options).await, 4).await, ["c", "3", "4", "l"]);
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Position(2));
    assert_eq!(told(&mut client.subscribe_to_stream("a", &options).await, 3).await, ["c", "4", "l"]);
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::End);
    assert_eq!(told(&mut client.subscribe_to_stream("a", &options).await, 2).await, ["c", "l"]);
}

#[tokio::test]
async fn a_stream_that_is_not_there_yet_can_be_subscribed_to() {
    let bench = Bench::new().await;
    let client = bench.client();
    let mut stream = client.subscribe_to_stream("later", &SubscribeToStreamOptions::default()).await;
    assert_eq!(told(&mut stream, 2).await, ["c", "l"]);
    // A stream whose name only begins alike is another one.
    client.append_to_stream("later-on", &AppendToStreamOptions::default(), event(1)).await.unwrap();
    client.append_to_stream("later", &AppendToStreamOptions::default(), event(2)).await.unwrap();
    assert_eq!(told(&mut stream, 1).await, ["2"]);
}

#[tokio::test]
async fn a_filtered_subscription_hears_how_far_it_is_where_nothing_passes() {
    let bench = Bench::new().await;
    let client = bench.client();
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
        assert_eq!(told(&mut all, 5).await, ["c", "k32", "k64", "71", "l"]);
    }
    let prefix = SubscriptionFilter::on_stream_name().add_prefix("mine").add_prefix("yours");
    let options = SubscribeToAllOptions::default().position(StreamPosition::Start).filter(prefix);
    let mut all = client.subscribe_to_all(&options).await;
    // Here the log leaves out what does not pass, and nothing is to be told of it until something does.
    assert_eq!(told(&mut all, 4).await, ["c", "71", "k71", "l"]);
}

#[tokio::test]
async fn an_expression_that_cannot_be_read_is_refused() {
    let bench = Bench::new().await;
    let options = SubscribeToAllOptions::default().filter(SubscriptionFilter::on_event_type().regex("("));
    let mut all = bench.client().subscribe_to_all(&options).await;
    let refused = soon(all.next_subscription_event()).await.unwrap_err();
    assert!(refused.to_string().contains("expression"), "{refused}");
}

#[tokio::test]
async fn the_end_of_the_server_ends_a_subscription_with_an_error() {
    let bench = Bench::new().await;
    let mut all = bench.client().subscribe_to_all(&SubscribeToAllOptions::default()).await;
    assert!(matches!(next(&mut all).await, SubscriptionEvent::Confirmed(_)));
    let waiting = tokio::spawn(async move {
        loop {
            if let Err(error) = all.next_subscription_event().await {
                return error;
            }
        }
    });
    soon(bench.server.stop(Duration::from_secs(10))).await;
    let error = soon(waiting).await.unwrap();
    assert!(matches!(error, Error::ServerError(_)), "{error:?}");
    bench.log.close().await;
}
