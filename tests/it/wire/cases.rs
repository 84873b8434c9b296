//! Test cases for both crates. `super` adapts the names of the crate.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use super::super::{ExpectedState, serving};
use super::crates::{
    Client, Error, EventData, Position, ReadAllOptions, ReadStream, ReadStreamOptions, RecordedEvent,
    RetryOptions, StreamPosition, SubscribeToAllOptions, SubscribeToStreamOptions, Subscription,
    SubscriptionEvent, SubscriptionFilter,
};
use super::{SCHEME, appending, connect, expected, is_caught_up, stream_of, wrong};
use crate::support::certificates::Certificates;
use crate::support::server::Server;

pub(super) async fn serving_with_client() -> (Server, Client) {
    let (server, port) = serving(&[]).await;
    (server, connect(&format!("{SCHEME}://127.0.0.1:{port}?tls=false")))
}

pub(super) fn event(kind: &str, number: usize) -> EventData {
    EventData::json(kind, &json!({ "number": number })).unwrap().id(Uuid::new_v4())
}

pub(super) fn events(count: usize) -> Vec<EventData> {
    (0..count).map(|number| event("OrderPlaced", number)).collect()
}

pub(super) async fn everything(mut reading: ReadStream) -> Result<Vec<RecordedEvent>, Error> {
    let mut events = Vec::new();
    while let Some(event) = reading.next().await? {
        events.push(event.event.expect("links are not resolved"));
    }
    Ok(events)
}

async fn read(client: &Client, stream: &str, options: ReadStreamOptions) -> Result<Vec<u64>, Error> {
    let events = everything(client.read_stream(stream, &options).await?).await?;
    Ok(events.iter().map(|event| event.revision).collect())
}

pub(super) async fn forwards(client: &Client, stream: &str) -> Result<Vec<u64>, Error> {
    read(client, stream, ReadStreamOptions::default()).await
}

/// Receives the next events of a subscription and returns their ids.
async fn take(subscription: &mut Subscription, count: usize) -> Vec<Uuid> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.push(subscription.next().await.unwrap().event.unwrap().id);
    }
    ids
}

#[tokio::test]
async fn an_event_round_trips_exactly() {
    let (_server, client) = serving_with_client().await;
    let (text, blob) = (Uuid::new_v4(), Uuid::new_v4());
    let bytes = Bytes::from_iter(0..=255);
    let given = vec![
        EventData::json("Größe", &json!({ "Maß": "½" }))
            .unwrap()
            .id(text)
            .metadata(Bytes::from_static(b"{\"by\":1}")),
        EventData::binary("Blob", bytes.clone()).id(blob).metadata(bytes.slice(128..)),
    ];
    let written =
        client.append_to_stream("order 100 %", &appending(ExpectedState::NoStream), given).await.unwrap();
    assert_eq!(written.next_expected_version, 1);
    assert_eq!(written.position.commit, written.position.prepare);

    let read = client.read_stream("order 100 %", &ReadStreamOptions::default()).await.unwrap();
    let read = everything(read).await.unwrap();
    let [first, second] = read.as_slice() else { panic!("{read:?}") };
    assert_eq!((first.id, first.event_type.as_str(), first.is_json), (text, "Größe", true));
    assert_eq!(first.data, "{\"Maß\":\"½\"}".as_bytes());
    assert_eq!(first.custom_metadata, b"{\"by\":1}".as_slice());
    assert_eq!((second.id, second.event_type.as_str(), second.is_json), (blob, "Blob", false));
    assert_eq!((&second.data, &second.custom_metadata), (&bytes, &bytes.slice(128..)));
    assert_eq!((stream_of(second), second.revision, second.position), ("order 100 %", 1, written.position));
    assert!(first.position < second.position);
    let created: i64 = second.metadata["created"].parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((created / 10_000_000 - i64::try_from(now.as_secs()).unwrap()).abs() < 60, "{created}");
}

#[tokio::test]
async fn a_stream_is_read_in_both_directions_from_any_revision() {
    let (_server, client) = serving_with_client().await;
    client.append_to_stream("order-1", &appending(ExpectedState::NoStream), events(10)).await.unwrap();
    let at = |position| ReadStreamOptions::default().position(position);
    let all: Vec<u64> = (0..10).collect();
    assert_eq!(forwards(&client, "order-1").await.unwrap(), all);
    let back = read(&client, "order-1", at(StreamPosition::End).backwards()).await.unwrap();
    assert_eq!(back, all.iter().rev().copied().collect::<Vec<_>>());
    let from = at(StreamPosition::Position(4));
    assert_eq!(read(&client, "order-1", from.clone().max_count(2)).await.unwrap(), [4, 5]);
    assert_eq!(read(&client, "order-1", from.backwards().max_count(2)).await.unwrap(), [4, 3]);
    assert_eq!(read(&client, "order-1", at(StreamPosition::Position(10))).await.unwrap(), [0; 0]);
    assert!(matches!(forwards(&client, "order-2").await, Err(Error::ResourceNotFound)));
}

#[tokio::test]
async fn the_log_is_read_in_both_directions_in_the_same_order() {
    let (_server, client) = serving_with_client().await;
    let mut positions = Vec::new();
    for number in 0..20 {
        let stream = format!("order-{}", number % 3);
        let written = client
            .append_to_stream(stream, &appending(ExpectedState::Any), event("OrderPlaced", number))
            .await;
        positions.push(written.unwrap().position);
    }
    let all = async |options: ReadAllOptions| {
        let events = everything(client.read_all(&options).await.unwrap()).await.unwrap();
        events.iter().map(|event| event.position).collect::<Vec<_>>()
    };
    assert!(positions.is_sorted_by(|a, b| a < b));
    assert_eq!(all(ReadAllOptions::default()).await, positions);
    let middle = StreamPosition::Position(positions[12]);
    assert_eq!(all(ReadAllOptions::default().position(middle).max_count(3)).await, positions[12..15]);
    positions.reverse();
    let end = ReadAllOptions::default().position(StreamPosition::End).backwards();
    assert_eq!(all(end.clone()).await, positions);
    // The start position is exclusive backwards.
    assert_eq!(all(end.position(middle).max_count(3)).await, positions[8..11]);
}

#[tokio::test]
async fn a_wrong_expected_revision_reports_the_actual_one() {
    let (_server, client) = serving_with_client().await;
    client.append_to_stream("order-1", &appending(ExpectedState::NoStream), events(3)).await.unwrap();
    for (stream, state, there) in [
        ("order-1", ExpectedState::NoStream, Some(2)),
        ("order-1", ExpectedState::At(0), Some(2)),
        ("order-1", ExpectedState::At(3), Some(2)),
        ("order-2", ExpectedState::At(0), None),
        ("order-2", ExpectedState::Exists, None),
    ] {
        let refused = client.append_to_stream(stream, &appending(state), events(1)).await.unwrap_err();
        assert_eq!(wrong(&refused), Some((expected(state), there)), "{refused}");
    }
    for (state, next) in [(ExpectedState::At(2), 3), (ExpectedState::Exists, 4), (ExpectedState::Any, 5)] {
        let written = client.append_to_stream("order-1", &appending(state), events(1)).await.unwrap();
        assert_eq!(written.next_expected_version, next);
    }
}

#[tokio::test]
async fn a_retried_append_is_appended_once_with_the_same_answer() {
    let (_server, client) = serving_with_client().await;
    for (stream, state) in [("order-1", ExpectedState::NoStream), ("order-2", ExpectedState::Any)] {
        let ids: Vec<_> = (0..3).map(|_| Uuid::new_v4()).collect();
        let batch = || ids.iter().map(|id| event("OrderPlaced", 0).id(*id)).collect::<Vec<_>>();
        let first = client.append_to_stream(stream, &appending(state), batch()).await.unwrap();
        let again = client.append_to_stream(stream, &appending(state), batch()).await.unwrap();
        assert_eq!(
            (again.position, again.next_expected_version),
            (first.position, first.next_expected_version)
        );
        assert_eq!(forwards(&client, stream).await.unwrap(), [0, 1, 2]);
    }
}

#[tokio::test]
async fn concurrent_batch_appends_are_each_answered() {
    let (_server, client) = serving_with_client().await;
    let batch = client.batch_append(&Default::default()).await.unwrap();
    let one = async |number: usize| {
        let stream = format!("order-{}", number % 5);
        let written = batch.append_to_stream(&stream, expected(ExpectedState::Any), events(4)).await.unwrap();
        assert_eq!(written.stream_name(), stream);
        written.current_position().unwrap().commit
    };
    let positions: BTreeSet<u64> =
        futures_util::future::join_all((0..50).map(one)).await.into_iter().collect();
    assert_eq!(positions.len(), 50);
    for stream in 0..5 {
        let revisions = forwards(&client, &format!("order-{stream}")).await.unwrap();
        assert_eq!(revisions, (0..40).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_too_large_append_writes_nothing() {
    let (_server, client) = serving_with_client().await;
    let blobs =
        |count, size| (0..count).map(|_| EventData::binary("Blob", vec![7; size].into())).collect::<Vec<_>>();
    client.append_to_stream("order-1", &appending(ExpectedState::NoStream), blobs(90, 10_000)).await.unwrap();
    for huge in [blobs(1, 1_100_000), blobs(20, 110_000), blobs(1, 4_500_000)] {
        let refused =
            client.append_to_stream("order-1", &appending(ExpectedState::Any), huge).await.unwrap_err();
        assert!(refused.to_string().contains("ize"), "{refused}");
    }
    let written =
        client.append_to_stream("order-1", &appending(ExpectedState::At(89)), events(1)).await.unwrap();
    assert_eq!(written.next_expected_version, 90);
}

#[tokio::test]
async fn a_subscription_catches_up_and_then_gets_new_events() {
    let (_server, client) = serving_with_client().await;
    client.append_to_stream("order-1", &appending(ExpectedState::NoStream), events(100)).await.unwrap();
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Position(49));
    let mut subscription = client.subscribe_to_stream("order-1", &options).await;
    let confirmed = subscription.next_subscription_event().await.unwrap();
    assert!(matches!(confirmed, SubscriptionEvent::Confirmed(_)), "{confirmed:?}");
    for revision in 50..100 {
        let event = subscription.next().await.unwrap().event.unwrap();
        assert_eq!(event.revision, revision);
    }
    while !is_caught_up(&subscription.next_subscription_event().await.unwrap()) {}
    let id = Uuid::new_v4();
    let late = event("OrderPlaced", 100).id(id);
    client.append_to_stream("order-1", &appending(ExpectedState::At(99)), late).await.unwrap();
    assert_eq!(take(&mut subscription, 1).await, [id]);
}

#[tokio::test]
async fn a_filtered_subscription_resumes_from_its_checkpoints() {
    let (_server, client) = serving_with_client().await;
    let mut marked = Vec::new();
    for number in 0..200 {
        let stream = if number % 50 == 49 { "marked-1" } else { "other-1" };
        let id = Uuid::new_v4();
        let given = event("OrderPlaced", number).id(id);
        let written = client.append_to_stream(stream, &appending(ExpectedState::Any), given).await.unwrap();
        if stream == "marked-1" {
            marked.push((written.position, id));
        }
    }
    let filter = SubscriptionFilter::on_stream_name().add_prefix("marked-").max(10);
    let options = SubscribeToAllOptions::default().filter(filter);
    let (mut seen, mut checkpoints) = (Vec::new(), Vec::<Position>::new());
    let mut subscription = client.subscribe_to_all(&options).await;
    loop {
        match subscription.next_subscription_event().await.unwrap() {
            SubscriptionEvent::EventAppeared(event) => seen.push(event.event.unwrap().id),
            SubscriptionEvent::Checkpoint(position) => checkpoints.push(position),
            other if is_caught_up(&other) => break,
            _ => {}
        }
    }
    assert_eq!(seen, marked.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    assert!(checkpoints.len() >= marked.len(), "{}", checkpoints.len());
    assert!(checkpoints.is_sorted());
    let checkpoint = checkpoints[checkpoints.len() / 2];
    let rest: Vec<_> =
        marked.iter().filter(|(position, _)| *position > checkpoint).map(|(_, id)| *id).collect();
    let mut subscription =
        client.subscribe_to_all(&options.position(StreamPosition::Position(checkpoint))).await;
    assert_eq!(take(&mut subscription, rest.len()).await, rest);
}

#[tokio::test]
async fn clients_cannot_append_domain_events() {
    let (_server, client) = serving_with_client().await;
    for stream in [format!("job-{}", Uuid::new_v4()), format!("matching-{}.3", Uuid::new_v4())] {
        let name = stream.as_str();
        let refused = client.append_to_stream(name, &appending(ExpectedState::NoStream), events(1)).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
        let batch = client.batch_append(&Default::default()).await.unwrap();
        assert!(batch.append_to_stream(name, expected(ExpectedState::NoStream), events(1)).await.is_err());
        assert!(matches!(forwards(&client, name).await, Err(Error::ResourceNotFound)));
    }
}

#[tokio::test]
async fn cluster_discovery_finds_the_server() {
    let (_server, port) = serving(&[]).await;
    let client = connect(&format!("{SCHEME}+discover://127.0.0.1:{port}?tls=false&nodePreference=leader"));
    client.append_to_stream("order-1", &appending(ExpectedState::NoStream), events(2)).await.unwrap();
    assert_eq!(forwards(&client, "order-1").await.unwrap(), [0, 1]);
}

#[tokio::test]
async fn tls_clients_need_the_right_password() {
    let certificates = Certificates::new();
    let (certificate, key) = (certificates.path("server.pem"), certificates.path("server.key"));
    let tls = [format!("--esdb-tls-cert={certificate}"), format!("--esdb-tls-key={key}")];
    let (_server, port) = serving(&[&tls[0], &tls[1], "--esdb-users=ann:secret"]).await;
    let authority = certificates.path("ca.pem");
    let client = |user: &str| connect(&format!("{SCHEME}://{user}localhost:{port}?tlsCaFile={authority}"));
    let ann = client("ann:secret@");
    ann.append_to_stream("order-1", &appending(ExpectedState::NoStream), events(2)).await.unwrap();
    assert_eq!(forwards(&ann, "order-1").await.unwrap(), [0, 1]);
    for client in [client(""), client("ann:wrong@"), client("eve:secret@")] {
        let refused = client.append_to_stream("order-1", &appending(ExpectedState::Any), events(1)).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
        assert!(matches!(forwards(&client, "order-1").await, Err(Error::AccessDenied)));
    }
}

/// An append whose response was lost is sent again with the same ids; the subscription resumes automatically.
#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_no_acknowledged_append_and_no_delivery() {
    let (mut server, client) = serving_with_client().await;
    let ids: Vec<_> = (0..90).map(|_| Uuid::new_v4()).collect();
    client
        .append_to_stream("order-1", &appending(ExpectedState::Any), event("OrderPlaced", 0).id(ids[0]))
        .await
        .unwrap();
    let retry = RetryOptions::default().retry_forever().retry_delay(Duration::from_millis(20));
    let options = SubscribeToAllOptions::default().retry_options(retry);
    let mut subscription = client.subscribe_to_all(&options).await;
    let mut seen = take(&mut subscription, 1).await;
    let following = tokio::spawn(async move {
        seen.extend(take(&mut subscription, 89).await);
        seen
    });
    for (number, id) in ids.iter().enumerate().skip(1) {
        if number % 30 == 0 {
            server.kill();
            server.restart().await;
        }
        while client
            .append_to_stream("order-1", &appending(ExpectedState::Any), event("OrderPlaced", number).id(*id))
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(following.await.unwrap(), ids);
    assert_eq!(forwards(&client, "order-1").await.unwrap(), (0..90).collect::<Vec<_>>());
}
