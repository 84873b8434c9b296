//! Persistent subscriptions, with both crates.

use uuid::Uuid;

use super::super::ExpectedState;
use super::appending;
use super::cases::{event, serving_with_client};
use super::crates::{
    Client, Error, NakAction, PersistentSubscription, PersistentSubscriptionOptions, StreamPosition,
};
use crate::support::wait_until;

async fn append(client: &Client, stream: &str, ids: &[Uuid]) {
    let events: Vec<_> = ids.iter().map(|id| event("OrderPlaced", 0).id(*id)).collect();
    client.append_to_stream(stream, &appending(ExpectedState::Any), events).await.unwrap();
}

/// Receives and acknowledges the next events, and returns their ids.
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
async fn a_group_delivers_all_events_and_ends_when_deleted() {
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
async fn a_killed_group_redelivers_events_and_keeps_parked_ones() {
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
    wait_until("the event is parked", async || parked(&client).await == Some(1)).await;
    server.kill();
    server.restart().await;

    let client = Client::new(client.settings().clone()).unwrap();
    assert_eq!(parked(&client).await, Some(1));
    let mut subscription =
        client.subscribe_to_persistent_subscription("order-1", "g", &Default::default()).await.unwrap();
    // Events acknowledged after the last checkpoint are delivered again.
    let mut seen = take(&mut subscription, 1).await;
    while *seen.last().unwrap() != ids[19] {
        seen.extend(take(&mut subscription, 1).await);
    }
    assert!(ids[6..].iter().all(|id| seen.contains(id)));
    client.replay_parked_messages("order-1", "g", &Default::default()).await.unwrap();
    assert_eq!(take(&mut subscription, 1).await, [first]);
}
