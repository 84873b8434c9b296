//! Appends through the protocol.

use bytes::Bytes;
use event_schemas::envelope::DataFormat;
use event_schemas::ids::{Position, Revision};
use eventstore::{
    AppendToStreamOptions, BatchAppendOptions, CurrentRevision, Error, EventData, ExpectedRevision,
};

use super::{START, ServerFixture, event, events};
use event_log::EventLog;

fn expecting(revision: ExpectedRevision) -> AppendToStreamOptions {
    AppendToStreamOptions::default().expected_revision(revision)
}

#[tokio::test]
async fn appended_events_are_in_the_log_unchanged() {
    let fixture = ServerFixture::new().await;
    let sent = EventData::binary("Image taken", Bytes::from_static(b"\xff\0"))
        .metadata(Bytes::from_static(b"not json"));
    let written =
        fixture.client().append_to_stream("camera", &Default::default(), vec![event(1), sent]).await.unwrap();
    let read = fixture.log.read_stream(&"camera".parse().unwrap(), Revision(0), 10).await.unwrap();
    assert_eq!((written.next_expected_version, written.position.commit), (1, 2));
    assert_eq!(read[0].format, DataFormat::Json);
    assert_eq!(read[1].event_type.as_str(), "Image taken");
    assert_eq!((read[1].format, &read[1].data[..]), (DataFormat::Bytes, &b"\xff\0"[..]));
    assert_eq!(&read[1].metadata[..], b"not json");
    assert_eq!(read[1].recorded_at, START);
}

#[tokio::test]
async fn a_wrong_expected_revision_reports_the_actual_one() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    client.append_to_stream("a", &expecting(ExpectedRevision::NoStream), events(0..2)).await.unwrap();
    client.append_to_stream("a", &expecting(ExpectedRevision::Exact(1)), events(2..3)).await.unwrap();
    client.append_to_stream("a", &expecting(ExpectedRevision::StreamExists), events(3..4)).await.unwrap();
    for (expected, stream, current) in [
        (ExpectedRevision::NoStream, "a", CurrentRevision::Current(3)),
        (ExpectedRevision::Exact(1), "a", CurrentRevision::Current(3)),
        (ExpectedRevision::Exact(7), "a", CurrentRevision::Current(3)),
        (ExpectedRevision::Exact(0), "none", CurrentRevision::NoStream),
        (ExpectedRevision::StreamExists, "none", CurrentRevision::NoStream),
    ] {
        let refused = client.append_to_stream(stream, &expecting(expected), event(9)).await.unwrap_err();
        let Error::WrongExpectedVersion { expected: reported, current: actual } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((reported, actual), (expected, current));
    }
    assert_eq!(fixture.head(), Position(4));
}

#[tokio::test]
async fn a_repeated_append_happens_once_even_after_later_events() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    let any = expecting(ExpectedRevision::Any);
    let first = client.append_to_stream("a", &any, events(0..3)).await.unwrap();
    client.append_to_stream("a", &any, events(3..5)).await.unwrap();
    for expected in [ExpectedRevision::Any, ExpectedRevision::StreamExists, ExpectedRevision::NoStream] {
        let again = client.append_to_stream("a", &expecting(expected), events(0..3)).await.unwrap();
        assert_eq!(again.next_expected_version, first.next_expected_version);
        assert_eq!(again.position, first.position);
    }
    let part = client.append_to_stream("a", &any, events(1..2)).await.unwrap();
    assert_eq!(part.next_expected_version, 1);
    assert_eq!(fixture.head(), Position(5));
    // Not all of these were appended together, so this is not a repeated append.
    let mixed = client.append_to_stream("a", &any, vec![event(4), event(9)]).await;
    assert!(matches!(mixed, Err(Error::WrongExpectedVersion { .. })), "{mixed:?}");
    // The same ids in another stream are other events.
    client.append_to_stream("b", &any, events(0..3)).await.unwrap();
    assert_eq!(fixture.head(), Position(8));
}

#[tokio::test]
async fn appends_of_a_batch_call_are_answered_in_order() {
    let fixture = ServerFixture::new().await;
    let batch = fixture.client().batch_append(&BatchAppendOptions::default()).await.unwrap();
    for n in 0..20 {
        let appended = batch.append_to_stream("a", ExpectedRevision::Any, vec![event(n)]).await.unwrap();
        assert_eq!(appended.current_revision(), Some(n as u64), "{appended:?}");
    }
    let refused = batch.append_to_stream("a", ExpectedRevision::NoStream, vec![event(99)]).await;
    assert!(refused.unwrap_err().to_string().contains("WrongExpectedVersion"));
    assert_eq!(fixture.head(), Position(20));
}

#[tokio::test]
async fn a_too_large_append_is_refused() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    let large = |bytes: usize| EventData::binary("Large", Bytes::from(vec![7; bytes]));
    let largest = (1 << 20) - "Large".len();
    client.append_to_stream("a", &Default::default(), large(largest)).await.unwrap();
    let refused = client.append_to_stream("a", &Default::default(), large(largest + 1)).await.unwrap_err();
    assert!(refused.to_string().contains("Maximum Append Size of 1048576 Exceeded"), "{refused}");
    assert_eq!(fixture.head(), Position(1));
}

#[tokio::test]
async fn clients_cannot_append_to_reserved_streams() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    for name in [
        "job-7b1e4f5e-0000-0000-0000-000000000001",
        "projection-x",
        "match_record-1",
        "player-a.b",
        "$$job-1",
        "$all",
        "$$$x",
    ] {
        let refused = client.append_to_stream(name, &Default::default(), event(1)).await.unwrap_err();
        assert!(matches!(refused, Error::AccessDenied), "{name}: {refused:?}");
    }
    assert_eq!(fixture.head(), Position::START);
}
