//! Tests with the crate `kurrentdb`.

use ::kurrentdb as crates;
use crates::{
    AppendToStreamOptions, Client, CurrentRevision, DeleteStreamOptions, Error, ReadAllOptions,
    RecordedEvent, StreamPosition, StreamState, SubscriptionEvent, SubscriptionFilter,
    TombstoneStreamOptions,
};

use super::{ExpectedState, serving};

#[path = "cases.rs"]
#[allow(clippy::duplicate_mod, reason = "the same cases, compiled against another client")]
mod cases;
#[path = "deletions.rs"]
#[allow(clippy::duplicate_mod, reason = "the same cases, compiled against another client")]
mod deletions;
#[path = "groups.rs"]
#[allow(clippy::duplicate_mod, reason = "the same cases, compiled against another client")]
mod groups;

const SCHEME: &str = "kurrentdb";

fn connect(url: &str) -> Client {
    Client::new(url.parse().unwrap()).unwrap()
}

fn expected(state: ExpectedState) -> StreamState {
    match state {
        ExpectedState::Any => StreamState::Any,
        ExpectedState::Exists => StreamState::StreamExists,
        ExpectedState::NoStream => StreamState::NoStream,
        ExpectedState::At(revision) => StreamState::StreamRevision(revision),
    }
}

fn appending(state: ExpectedState) -> AppendToStreamOptions {
    AppendToStreamOptions::default().stream_state(expected(state))
}

fn deleting(state: ExpectedState) -> DeleteStreamOptions {
    DeleteStreamOptions::default().stream_state(expected(state))
}

fn tombstoning(state: ExpectedState) -> TombstoneStreamOptions {
    TombstoneStreamOptions::default().stream_state(expected(state))
}

/// The expected and the actual revision of a wrong expected version error.
fn wrong(error: &Error) -> Option<(StreamState, Option<u64>)> {
    match error {
        Error::WrongExpectedVersion { expected, current: CurrentRevision::NoStream } => {
            Some((*expected, None))
        }
        Error::WrongExpectedVersion { expected, current: CurrentRevision::Current(revision) } => {
            Some((*expected, Some(*revision)))
        }
        _ => None,
    }
}

fn stream_of(event: &RecordedEvent) -> &str {
    event.stream_id()
}

fn is_caught_up(event: &SubscriptionEvent) -> bool {
    matches!(event, SubscriptionEvent::CaughtUp(Some(_)))
}

/// The other crate does not support filtered reads.
#[tokio::test]
async fn filtered_log_reads_work_in_both_directions() {
    let (_server, port) = serving(&[]).await;
    let client = connect(&format!("{SCHEME}://127.0.0.1:{port}?tls=false"));
    let mut all = Vec::new();
    for number in 0..30_usize {
        let stream = format!("{}-{}", ["cart", "cartoon", "parcel"][number % 3], number % 6);
        let kind = ["Opened", "Closed"][number % 2];
        let event = cases::event(kind, number);
        all.push((stream.clone(), kind));
        client.append_to_stream(stream, &appending(ExpectedState::Any), event).await.unwrap();
    }
    type Keep = fn(&(String, &str)) -> bool;
    let filters: [(SubscriptionFilter, Keep); 4] = [
        (SubscriptionFilter::on_stream_name().add_prefix("cart-"), |(stream, _)| stream.starts_with("cart-")),
        (SubscriptionFilter::on_stream_name().regex("^[a-z]+-[135]$"), |(stream, _)| {
            stream.ends_with(['1', '3', '5'])
        }),
        (SubscriptionFilter::on_event_type().add_prefix("Op"), |(_, kind)| *kind == "Opened"),
        (SubscriptionFilter::on_event_type().regex("^(?!Opened|\\$)"), |(_, kind)| *kind == "Closed"),
    ];
    for (filter, keep) in filters {
        let mut wanted: Vec<_> = all.iter().filter(|event| keep(event)).cloned().collect();
        assert!(!wanted.is_empty() && wanted.len() < all.len());
        let forwards = ReadAllOptions::default().filter(filter.clone());
        assert_eq!(read(&client, &forwards).await, wanted);
        wanted.reverse();
        let backwards = ReadAllOptions::default().position(StreamPosition::End).backwards().filter(filter);
        assert_eq!(read(&client, &backwards).await, wanted);
    }
}

async fn read(client: &Client, options: &ReadAllOptions) -> Vec<(String, &'static str)> {
    let events = cases::everything(client.read_all(options).await.unwrap()).await.unwrap();
    let kind = |name: &str| ["Opened", "Closed"].into_iter().find(|kind| *kind == name).unwrap_or("another");
    events.iter().map(|event| (stream_of(event).to_owned(), kind(&event.event_type))).collect()
}
