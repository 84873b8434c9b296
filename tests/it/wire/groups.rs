//! Persistent subscriptions, with either crate.

use uuid::Uuid;

use super::super::State;
use super::appending;
use super::cases::{event, serving_with_client};
use super::crates::{
    Client, Error, NakAction, PersistentSubscription, PersistentSubscriptionOptions, StreamPosition,
};
use crate::support::until;

async fn append(client: &Client, stream: &str, ids: &[Uuid]) {
    let events: Vec<_> = ids.iter().map(|id| event("OrderPlaced", 0).id(*id)).collect();
    client.append_to_stream(stream, &appending(State::Any), events).await.unwrap();
}

/// The ids of the next events, which are acknowledged.
async fn take(subscription: &mut PersistentSubscription, count: usize) -> Vec<Uuid> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let id = subscription.next().await.unwrap().get_original_event().id;
        subscription.ack_ids([id]).await.unwrap();
        ids.push(id);
    }
    ids
}

fn from_the_start() -> PersistentSubscriptionOptions {
    PersistentSubscriptionOptions::default().start_from(StreamPosition::Start)
}

#[tokio::test]
async fn a_group_gives_out_what_was_there_and_what_comes_and_ends_with_an_error_when_it_is_deleted() {
    let (_server, client) = serving_with_client().await;
    let ids: Vec<_> = (0..30).map(|_| Uuid::new_v4()).collect();
    append(&client, "order-1", &ids[..20]).await;
    client.create_persistent_subscription("order-1", "g", &from_the_start()).await.unwrap();
    let again = client.create_persistent_subscription("order-1", "g", &from_the_start()).await;
    assert!(matches!(again, Err(Error::ResourceAlreadyExists)), "{again:?}");
    let mut subscription =
        client.subscribe_to_persistent_subscription("order-1", "g", &Default::default()).await.unwrap();
    assert_eq!(take(&mut subscription, 20).await, ids[..20]);
    append(&client, "order-1", &ids[20..]).await;
    assert_eq!(take(&mut subscription, 10).await, ids[20..]);
    client.delete_persistent_subscription("order-1", "g", &Default::default()).await.unwrap();
    assert!(subscription.next().await.is_err());
    let gone = client.get_persistent_subscription_info("order-1", "g", &Default::default()).await;
    assert!(matches!(gone, Err(Error::ResourceNotFound)), "{gone:?}");
}

#[tokio::test]
async fn after_a_kill_a_group_gives_out_all_that_was_not_done_and_keeps_what_it_parked() {
    let (mut server, client) = serving_with_client().await;
    let ids: Vec<_> = (0..20).map(|_| Uuid::new_v4()).collect();
    append(&client, "order-1", &ids).await;
    client.create_persistent_subscription("order-1", "g", &from_the_start()).await.unwrap();
    let mut subscription =
        client.subscribe_to_persistent_subscription("order-1", "g", &Default::default()).await.unwrap();
    let first = subscription.next().await.unwrap().get_original_event().id;
    subscription.nack_ids([first], NakAction::Park, "not now").await.unwrap();
    take(&mut subscription, 5).await;
    let parked = async |client: &Client| {
        let info = client.get_persistent_subscription_info("order-1", "g", &Default::default()).await;
        info.ok().map(|info| info.stats.parked_message_count)
    };
    until("the event is parked", async || parked(&client).await == Some(1)).await;
    server.kill();
    server.restart().await;

    let client = Client::new(client.settings().clone()).unwrap();
    assert_eq!(parked(&client).await, Some(1));
    let mut subscription =
        client.subscribe_to_persistent_subscription("order-1", "g", &Default::default()).await.unwrap();
    // What was done behind the last checkpoint comes again.
    let mut seen = take(&mut subscription, 1).await;
    while *seen.last().unwrap() != ids[19] {
        seen.extend(take(&mut subscription, 1).await);
    }
    assert!(ids[6..].iter().all(|id| seen.contains(id)));
    client.replay_parked_messages("order-1", "g", &Default::default()).await.unwrap();
    assert_eq!(take(&mut subscription, 1).await, [first]);
}
