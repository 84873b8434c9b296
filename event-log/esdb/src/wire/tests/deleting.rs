//! Stream metadata and deletion.

use std::time::Duration;

use event_schemas::ids::Revision;
use eventstore::{
    AppendToStreamOptions, Client, DeleteStreamOptions, Error, EventData, ExpectedRevision,
    ReadStreamOptions, StreamMetadata, StreamMetadataResult, StreamPosition, SubscribeToStreamOptions,
    TombstoneStreamOptions,
};

use super::{ServerFixture, event, events, soon};
use event_log::EventLog;

async fn append(
    client: &Client,
    expected: ExpectedRevision,
    numbers: std::ops::Range<u128>,
) -> Result<u64, Error> {
    let options = AppendToStreamOptions::default().expected_revision(expected);
    let written = client.append_to_stream("a", &options, events(numbers)).await?;
    Ok(written.next_expected_version)
}

async fn visible(client: &Client, options: &ReadStreamOptions) -> Result<Vec<u64>, Error> {
    let mut stream = client.read_stream("a", options).await?;
    let mut revisions = Vec::new();
    while let Some(event) = stream.next().await? {
        revisions.push(event.get_original_event().revision);
    }
    Ok(revisions)
}

async fn all_visible(client: &Client) -> Result<Vec<u64>, Error> {
    let forwards = visible(client, &ReadStreamOptions::default().position(StreamPosition::Start)).await?;
    let end = ReadStreamOptions::default().position(StreamPosition::End);
    let mut backwards = visible(client, &end).await?;
    backwards.reverse();
    assert_eq!(forwards, backwards, "both directions return the same");
    Ok(forwards)
}

async fn set(client: &Client, metadata: StreamMetadata) {
    client.set_stream_metadata("a", &AppendToStreamOptions::default(), &metadata).await.unwrap();
}

#[tokio::test]
async fn stream_metadata_hides_events_and_is_returned() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    append(&client, ExpectedRevision::Any, 0..10).await.unwrap();
    set(&client, StreamMetadata::builder().max_count(3).build()).await;
    assert_eq!(all_visible(&client).await.unwrap(), [7, 8, 9]);
    append(&client, ExpectedRevision::Any, 10..11).await.unwrap();
    assert_eq!(all_visible(&client).await.unwrap(), [8, 9, 10]);
    set(&client, StreamMetadata::builder().truncate_before(6).build()).await;
    assert_eq!(all_visible(&client).await.unwrap(), [6, 7, 8, 9, 10]);
    let from = ReadStreamOptions::default().position(StreamPosition::Position(2)).max_count(2);
    assert_eq!(visible(&client, &from).await.unwrap(), [6, 7]);
    fixture.clock.advance(Duration::from_secs(60));
    append(&client, ExpectedRevision::Any, 11..12).await.unwrap();
    // This client would write milliseconds, but the protocol has seconds.
    let settings = serde_json::json!({"$maxAge": 30, "mine": "kept"});
    let settings = EventData::json("$metadata", &settings).unwrap();
    client.append_to_stream("$$a", &AppendToStreamOptions::default(), settings).await.unwrap();
    assert_eq!(all_visible(&client).await.unwrap(), [11]);
    let StreamMetadataResult::Success(kept) =
        client.get_stream_metadata("a", &ReadStreamOptions::default()).await.unwrap()
    else {
        panic!("the stream has metadata")
    };
    assert_eq!(kept.metadata().custom_properties["mine"], "kept");
    // Only the latest metadata is visible.
    assert_eq!(kept.version(), 2);
}

#[tokio::test]
async fn a_deleted_stream_is_gone_and_can_be_recreated() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    append(&client, ExpectedRevision::Any, 0..3).await.unwrap();
    let options = DeleteStreamOptions::default().expected_revision(ExpectedRevision::Exact(2));
    client.delete_stream("a", &options).await.unwrap();
    assert!(matches!(all_visible(&client).await, Err(Error::ResourceNotFound)));
    let exists = append(&client, ExpectedRevision::StreamExists, 3..4).await;
    assert!(matches!(exists, Err(Error::ResourceDeleted)), "{exists:?}");
    let options = DeleteStreamOptions::default().expected_revision(ExpectedRevision::StreamExists);
    let again = client.delete_stream("a", &options).await;
    assert!(matches!(again, Err(Error::ResourceDeleted)), "{again:?}");
    let older = append(&client, ExpectedRevision::Exact(1), 3..4).await;
    assert!(matches!(older, Err(Error::WrongExpectedVersion { .. })), "{older:?}");
    assert_eq!(append(&client, ExpectedRevision::NoStream, 3..5).await.unwrap(), 4);
    assert_eq!(append(&client, ExpectedRevision::NoStream, 3..5).await.unwrap(), 4, "repeated");
    assert_eq!(all_visible(&client).await.unwrap(), [3, 4]);
    // The log still has all events.
    assert_eq!(fixture.log.read_stream(&"a".parse().unwrap(), Revision(0), 10).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_subscription_to_a_deleted_stream_gets_new_events() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    append(&client, ExpectedRevision::Any, 0..3).await.unwrap();
    client.delete_stream("a", &DeleteStreamOptions::default()).await.unwrap();
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Start);
    let mut stream = client.subscribe_to_stream("a", &options).await;
    append(&client, ExpectedRevision::Any, 3..4).await.unwrap();
    let event = soon(stream.next()).await.unwrap();
    assert_eq!(event.get_original_event().revision, 3);
}

#[tokio::test]
async fn a_tombstoned_stream_cannot_be_read_or_appended_to() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    append(&client, ExpectedRevision::Any, 0..3).await.unwrap();
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Position(1));
    let mut following = client.subscribe_to_stream("a", &options).await;
    assert_eq!(soon(following.next()).await.unwrap().get_original_event().revision, 2);
    client.tombstone_stream("a", &TombstoneStreamOptions::default()).await.unwrap();
    assert!(matches!(soon(following.next()).await, Err(Error::ResourceDeleted)));
    assert!(matches!(all_visible(&client).await, Err(Error::ResourceDeleted)));
    for expected in [ExpectedRevision::Any, ExpectedRevision::NoStream, ExpectedRevision::Exact(2)] {
        let refused = append(&client, expected, 3..4).await;
        assert!(matches!(refused, Err(Error::ResourceDeleted)), "{refused:?}");
    }
    let again = client.tombstone_stream("a", &TombstoneStreamOptions::default()).await;
    assert!(matches!(again, Err(Error::ResourceDeleted)), "{again:?}");
    let settings = client.get_stream_metadata("a", &ReadStreamOptions::default()).await;
    assert!(matches!(settings, Err(Error::ResourceDeleted)));
    // Its metadata can still be written, as with other servers of this protocol.
    set(&client, StreamMetadata::builder().max_count(3).build()).await;
    let tombstone = fixture.log.read_stream(&"a".parse().unwrap(), Revision(3), 1).await.unwrap();
    assert_eq!(tombstone[0].event_type.as_str(), "$streamDeleted");
    // A client cannot append a tombstone as an event.
    let forged = EventData::binary("$streamDeleted", bytes::Bytes::new());
    let refused = client.append_to_stream("b", &Default::default(), forged).await;
    assert!(matches!(refused, Err(Error::AccessDenied)), "{refused:?}");
    // A stream without events can be tombstoned as well.
    client.tombstone_stream("never", &TombstoneStreamOptions::default()).await.unwrap();
    let refused = client.append_to_stream("never", &Default::default(), event(1)).await;
    assert!(matches!(refused, Err(Error::ResourceDeleted)), "{refused:?}");
}

#[tokio::test]
async fn a_deletion_at_a_wrong_revision_has_the_text_clients_parse() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    append(&client, ExpectedRevision::Any, 0..3).await.unwrap();
    for (stream, expected, text) in [
        ("a", ExpectedRevision::Exact(1), "Stream: a, Expected version: 1, Actual version: 2"),
        ("a", ExpectedRevision::NoStream, "Stream: a, Expected version: -1, Actual version: 2"),
        ("none", ExpectedRevision::Any, "Stream: none, Expected version: -2, Actual version: -1"),
        ("none", ExpectedRevision::StreamExists, "Stream: none, Expected version: -4, Actual version: -1"),
    ] {
        let options = DeleteStreamOptions::default().expected_revision(expected);
        let refused = client.delete_stream(stream, &options).await.unwrap_err().to_string();
        let whole = format!("Delete failed due to WrongExpectedVersion. {text}");
        assert!(refused.contains(&whole), "{refused}");
    }
    let options = TombstoneStreamOptions::default().expected_revision(ExpectedRevision::Exact(7));
    let refused = client.tombstone_stream("a", &options).await.unwrap_err().to_string();
    assert!(refused.contains("Expected version: 7, Actual version: 2"), "{refused}");
    assert_eq!(all_visible(&client).await.unwrap(), [0, 1, 2]);
}

#[tokio::test]
async fn reserved_and_system_streams_cannot_be_deleted() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    for name in ["worker-a.b", "job-1", "$$a", "$all"] {
        let deleted = client.delete_stream(name, &DeleteStreamOptions::default()).await;
        assert!(matches!(deleted, Err(Error::AccessDenied)), "{name}: {deleted:?}");
        let ended = client.tombstone_stream(name, &TombstoneStreamOptions::default()).await;
        assert!(matches!(ended, Err(Error::AccessDenied)), "{name}: {ended:?}");
    }
}
