//! Stream deletion and stream metadata, with both crates.

use uuid::Uuid;

use super::super::ExpectedState;
use super::cases::{events, forwards, serving_with_client};
use super::crates::{Error, StreamMetadataBuilder, StreamMetadataResult};
use super::{appending, deleting, tombstoning};

#[tokio::test]
async fn a_deleted_stream_can_be_recreated_a_tombstoned_one_cannot() {
    let (_server, client) = serving_with_client().await;
    for stream in ["order-1", "order-2"] {
        client.append_to_stream(stream, &appending(ExpectedState::NoStream), events(3)).await.unwrap();
        assert!(client.delete_stream(stream, &deleting(ExpectedState::At(0))).await.is_err());
    }
    client.delete_stream("order-1", &deleting(ExpectedState::At(2))).await.unwrap();
    assert!(matches!(forwards(&client, "order-1").await, Err(Error::ResourceNotFound)));
    client.append_to_stream("order-1", &appending(ExpectedState::NoStream), events(1)).await.unwrap();
    assert_eq!(forwards(&client, "order-1").await.unwrap(), [3]);

    client.tombstone_stream("order-2", &tombstoning(ExpectedState::At(2))).await.unwrap();
    // The call fails, before any answer.
    let read = client.read_stream("order-2", &Default::default()).await;
    assert!(matches!(read.err(), Some(Error::ResourceDeleted)));
    let refused = client.append_to_stream("order-2", &appending(ExpectedState::Any), events(1)).await;
    assert!(matches!(refused, Err(Error::ResourceDeleted)), "{refused:?}");
}

#[tokio::test]
async fn stream_metadata_limits_the_visible_events() {
    let (_server, client) = serving_with_client().await;
    let found = client.get_stream_metadata("order-1", &Default::default()).await.unwrap();
    assert!(found.is_not_found());
    client.append_to_stream("order-1", &appending(ExpectedState::NoStream), events(10)).await.unwrap();
    let metadata = StreamMetadataBuilder::new().max_count(4).insert_custom_property("by", "ann").build();
    client.set_stream_metadata("order-1", &appending(ExpectedState::NoStream), &metadata).await.unwrap();
    let found = client.get_stream_metadata("order-1", &Default::default()).await.unwrap();
    let StreamMetadataResult::Success(found) = found else { panic!("{found:?}") };
    assert_eq!((found.metadata(), found.version()), (&metadata, 0));
    assert_eq!(forwards(&client, "order-1").await.unwrap(), [6, 7, 8, 9]);
}

#[tokio::test]
async fn clients_cannot_delete_domain_events() {
    let (_server, client) = serving_with_client().await;
    for stream in [format!("job-{}", Uuid::new_v4()), format!("matching-{}.3", Uuid::new_v4())] {
        let name = stream.as_str();
        let metadata = StreamMetadataBuilder::new().max_count(1).build();
        let refused = client.set_stream_metadata(name, &appending(ExpectedState::Any), &metadata).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
        let refused = client.delete_stream(name, &deleting(ExpectedState::Any)).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
        let refused = client.tombstone_stream(name, &tombstoning(ExpectedState::Any)).await;
        assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
    }
}
