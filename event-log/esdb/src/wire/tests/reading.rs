//! Reads through the protocol.

use eventstore::{
    AppendToStreamOptions, Client, DeleteStreamOptions, Error, EventData, Position, ReadAllOptions,
    ReadStream, ReadStreamOptions, StreamPosition,
};

use super::{START, ServerFixture, event, events};

async fn revisions(mut stream: ReadStream) -> Vec<u64> {
    let mut revisions = Vec::new();
    while let Some(event) = stream.next().await.unwrap() {
        revisions.push(event.get_original_event().revision);
    }
    revisions
}

async fn positions(mut stream: ReadStream) -> Vec<u64> {
    let mut positions = Vec::new();
    while let Some(event) = stream.next().await.unwrap() {
        let event = event.get_original_event();
        assert_eq!(event.position.commit, event.position.prepare);
        positions.push(event.position.commit);
    }
    positions
}

async fn filled(client: &Client) {
    let any = AppendToStreamOptions::default();
    client.append_to_stream("a", &any, events(0..5)).await.unwrap();
    client.append_to_stream("b", &any, events(5..6)).await.unwrap();
    client.append_to_stream("a", &any, events(6..10)).await.unwrap();
}

#[tokio::test]
async fn a_stream_read_includes_its_start_in_both_directions() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    filled(&client).await;
    let options = ReadStreamOptions::default();
    for (options, expected) in [
        (options.clone(), vec![0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (options.clone().position(StreamPosition::Position(7)), vec![7, 8]),
        (options.clone().position(StreamPosition::Position(20)), vec![]),
        (options.clone().max_count(2), vec![0, 1]),
        (options.clone().backwards().position(StreamPosition::End), vec![8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (options.clone().backwards().position(StreamPosition::Position(2)), vec![2, 1, 0]),
        (options.clone().backwards().position(StreamPosition::End).max_count(1), vec![8]),
    ] {
        let stream = client.read_stream("a", &options).await.unwrap();
        assert_eq!(revisions(stream).await, expected);
    }
}

#[tokio::test]
async fn a_missing_stream_is_not_found() {
    let fixture = ServerFixture::new().await;
    let mut stream = fixture.client().read_stream("none", &ReadStreamOptions::default()).await.unwrap();
    assert!(matches!(stream.next().await, Err(Error::ResourceNotFound)));
}

#[tokio::test]
async fn a_log_read_is_inclusive_forwards_exclusive_backwards() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    filled(&client).await;
    let at = |position| StreamPosition::Position(Position { commit: position, prepare: position });
    let options = ReadAllOptions::default();
    for (options, expected) in [
        (options.clone().position(StreamPosition::Start), (1..=10).collect::<Vec<u64>>()),
        (options.clone().position(at(8)), vec![8, 9, 10]),
        (options.clone().position(at(8)).max_count(2), vec![8, 9]),
        (options.clone().position(at(11)), vec![]),
        (options.clone().backwards().position(StreamPosition::End), (1..=10).rev().collect()),
        (options.clone().backwards().position(at(4)), vec![3, 2, 1]),
        (options.clone().backwards().position(at(4)).max_count(1), vec![3]),
        (options.clone().backwards().position(at(u64::MAX)).max_count(1), vec![10]),
    ] {
        let stream = client.read_all(&options).await.unwrap();
        assert_eq!(positions(stream).await, expected);
    }
}

#[tokio::test]
async fn a_read_of_many_pages_returns_each_event_once() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    for n in 0..8 {
        let part = events(n * 300..(n + 1) * 300);
        client.append_to_stream("a", &AppendToStreamOptions::default(), part).await.unwrap();
    }
    let all = ReadAllOptions::default().position(StreamPosition::Start).max_count(usize::MAX);
    let all = client.read_all(&all).await.unwrap();
    assert_eq!(positions(all).await, (1..=2400).collect::<Vec<u64>>());
    let back = ReadAllOptions::default().backwards().position(StreamPosition::End).max_count(usize::MAX);
    let all = client.read_all(&back).await.unwrap();
    assert_eq!(positions(all).await, (1..=2400).rev().collect::<Vec<u64>>());
    let back = ReadStreamOptions::default().backwards().position(StreamPosition::End).max_count(usize::MAX);
    let all = client.read_stream("a", &back).await.unwrap();
    assert_eq!(revisions(all).await, (0..2400).rev().collect::<Vec<u64>>());
}

#[tokio::test]
async fn an_event_has_its_recorded_time_and_content_type() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    fixture.clock.advance(std::time::Duration::from_micros(7));
    client.append_to_stream("a", &AppendToStreamOptions::default(), event(1)).await.unwrap();
    let mut stream = client.read_stream("a", &ReadStreamOptions::default()).await.unwrap();
    let read = stream.next().await.unwrap().unwrap();
    let read = read.get_original_event();
    assert_eq!(read.metadata.get("created"), Some(&(START.micros() * 10 + 70).to_string()));
    assert_eq!(read.metadata.get("content-type").map(String::as_str), Some("application/json"));
    assert_eq!(
        (read.event_type.as_str(), read.is_json, read.id),
        ("Happened", true, uuid::Uuid::from_u128(1))
    );
}

#[tokio::test]
async fn links_are_resolved_on_request_unless_the_target_is_gone() {
    let fixture = ServerFixture::new().await;
    let client = fixture.client();
    let any = AppendToStreamOptions::default();
    client.append_to_stream("a", &any, events(0..3)).await.unwrap();
    client.append_to_stream("gone", &any, events(3..4)).await.unwrap();
    client.delete_stream("gone", &DeleteStreamOptions::default()).await.unwrap();
    for target in ["2@a", "7@a", "0@gone", "0@never", "no link"] {
        let link = EventData::binary("$>", target.as_bytes().to_vec().into());
        client.append_to_stream("links", &any, link).await.unwrap();
    }
    let mut targets = Vec::new();
    let mut stream =
        client.read_stream("links", &ReadStreamOptions::default().resolve_link_tos()).await.unwrap();
    while let Some(event) = stream.next().await.unwrap() {
        let link = event.link.unwrap();
        assert_eq!((link.event_type.as_str(), link.stream_id.as_str()), ("$>", "links"));
        targets.push(event.event.map(|event| (event.stream_id, event.revision)));
    }
    assert_eq!(targets, [Some(("a".to_owned(), 2)), None, None, None, None]);
    let mut stream = client.read_stream("links", &ReadStreamOptions::default()).await.unwrap();
    let plain = stream.next().await.unwrap().unwrap();
    assert!(plain.link.is_none());
    assert_eq!(plain.event.unwrap().event_type, "$>");
}
