//! Recommendations from the fold in memory, and where served lists are in the log.

use domain::recommend::Request;
use event_schemas::envelope::Event;
use event_schemas::ids::{ListId, Position, Tenant};
use event_schemas::stream::StreamId;
use event_schemas::user::{ListContext, ListServed, ServedItem};
use uuid::Uuid;

use super::catalogue::{ACTIONS, act, user};
use super::history::{History, tenant};
use super::test_store::TestStore;
use super::{open, reach};
use crate::matching_summary::UpTo;
use crate::{Name, ReadModels};

fn feed(of: u8) -> Request {
    Request { subject: Some(user(of)), ..Request::new(ListContext::Feed, 20) }
}

/// Compares lists that are computed while events come with those that are computed again from the log.
async fn compare(models: &ReadModels, history: &History, lists: u8) {
    for n in 0..lists {
        let (request, now) = (feed(n % 7), history.clock.now());
        let live = models.search().recommend(&tenant(), request.clone(), now).await.unwrap();
        let (list, position, at) = live.unwrap();
        let upto = UpTo::Position(position);
        let again = models.search().recommend_as_of(&tenant(), request, upto, Some(at)).await.unwrap();
        assert_eq!(again, Ok((list, position, at)), "at {position} of {}", history.head());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_exactly_that_of_its_position_while_events_come() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    let append = async |seed: u32| {
        for n in 0..400_u32 {
            let mixed = (n + seed).wrapping_mul(2_654_435_761) >> 8;
            let [a, b, c, _] = mixed.to_le_bytes();
            act(&history, a % ACTIONS, b % 7, c % 23).await;
        }
    };
    tokio::join!(append(1), append(77_777), compare(&models, &history, 40));
    reach(&models, history.head()).await;
    models.rebuild(Name::Search).await.unwrap();
    tokio::join!(append(123_456), compare(&models, &history, 10));
    reach(&models, history.head()).await;
    compare(&models, &history, 7).await;
}

#[tokio::test]
async fn served_list_is_found_by_its_tenant() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let list_id = ListId(Uuid::from_u128(5));
    let served = ListServed {
        subject_id: user(1),
        list_id,
        context: ListContext::Feed,
        items: vec![ServedItem::certain("1".parse().unwrap())],
        computed_from: Position(0),
        query: None,
        parameters: Box::default(),
        experiment: None,
        settings: None,
    };
    let event = Event::User(served.into());
    let position = history.append(StreamId::user(&tenant(), user(1)), std::slice::from_ref(&event)).await;
    let again = history.append(StreamId::user(&tenant(), user(1)), &[event]).await;
    reach(&models, again).await;
    let find = async |tenant: Tenant, list| models.served_lists().position(&tenant, list).await.unwrap();
    assert_eq!(find(tenant(), list_id).await, Some(position));
    assert_eq!(find("other".parse().unwrap(), list_id).await, None);
    assert_eq!(find(tenant(), ListId(Uuid::from_u128(6))).await, None);
}
