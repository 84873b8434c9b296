//! Deleting streams, and what is said about them, with either crate.

use uuid::Uuid;

use super::super::State;
use super::cases::{events, forwards, serving_with_client};
use super::crates::{Error, StreamMetadataBuilder, StreamMetadataResult};
use super::{appending, deleting, tombstoning};

#[tokio::test]
async fn a_deleted_stream_is_gone_until_it_is_written_again_and_a_tombstone_is_for_ever() {
    let (_server, client) = serving_with_client().await;
    for stream in ["order-1", "order-2"] {
        client.append_to_stream(stream, &appending(State::NoStream), events(3)).await.unwrap();
        assert!(client.delete_stream(stream, &deleting(State::At(0))).await.is_err());
    }
    client.delete_stream("order-1", &deleting(State::At(2))).await.unwrap();
    assert!(matches!(forwards(&client, "order-1").await, Err(Error::ResourceNotFound)));
    client.append_to_stream("order-1", &appending(State::NoStream), events(1)).await.unwrap();
    assert_eq!(forwards(&client, "order-1").await.unwrap(), [3]);

    client.tombstone_stream("order-2", &tombstoning(State::At(2))).await.unwrap();
    // It is the call that fails, before any answer.
    let read = client.read_stream("order-2", &Default::default()).await;
    assert!(matches!(read.err(), Some(Error::ResourceDeleted)));
    let refused = client.append_to_stream("order-2", &appending(State::Any), events(1)).await;
    assert!(matches!(refused, Err(Error::ResourceDeleted)), "{refused:?}");
}

#[tokio::test]
async fn a_stream_shows_no_more_than_its_metadata_allows() {
    let (_server, client) = serving_with_client().await;
    let found = client.get_stream_metadata("order-1", &Default::default()).await.unwrap();
    assert!(found.is_not_found());
    client.append_to_stream("order-1", &appending(State::NoStream), events(10)).await.unwrap();
    let metadata = StreamMetadataBuilder::new().max_count(4).insert_custom_property("by", "ann").build();
    client.set_stream_metadata("order-1", &appending(State::NoStream), &metadata).await.unwrap();
    let found = client.get_stream_metadata("order-1", &Default::default()).await.unwrap();
    let StreamMetadataResult::Success(found) = found else { panic!("{found:?}") };
    assert_eq!((found.metadata(), found.version()), (&metadata, 0));
    assert_eq!(forwards(&client, "order-1").await.unwrap(), [6, 7, 8, 9]);
}

#[tokio::test]
async fn no_client_can_remove_an_event_of_the_domain() {
    let (_server, client) = serving_with_client().await;
    for stream in [format!("job-{}", Uuid::new_v4()), format!("matching-{}.3", Uuid::new_v4())] {
        let name = stream.as_str();
        let metadata = StreamMetadataBuilder::new().max_count(1).build();
        let refused = client.set_stream_metadata(name, &appending(State::Any), &metadata).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
        let refused = client.delete_stream(name, &deleting(State::Any)).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
        let refused = client.tombstone_stream(name, &tombstoning(State::Any)).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
    }
}
