//! The crate `eventstore`.

use ::eventstore as crates;
use crates::{
    AppendToStreamOptions, Client, CurrentRevision, DeleteStreamOptions, Error, ExpectedRevision,
    RecordedEvent, SubscriptionEvent, TombstoneStreamOptions,
};

use super::State;

#[path = "cases.rs"]
mod cases;
#[path = "deletions.rs"]
mod deletions;
#[path = "groups.rs"]
mod groups;

const SCHEME: &str = "esdb";

fn connect(url: &str) -> Client {
    Client::new(url.parse().unwrap()).unwrap()
}

fn expected(state: State) -> ExpectedRevision {
    match state {
        State::Any => ExpectedRevision::Any,
        State::Exists => ExpectedRevision::StreamExists,
        State::NoStream => ExpectedRevision::NoStream,
        State::At(revision) => ExpectedRevision::Exact(revision),
    }
}

fn appending(state: State) -> AppendToStreamOptions {
    AppendToStreamOptions::default().expected_revision(expected(state))
}

fn deleting(state: State) -> DeleteStreamOptions {
    DeleteStreamOptions::default().expected_revision(expected(state))
}

fn tombstoning(state: State) -> TombstoneStreamOptions {
    TombstoneStreamOptions::default().expected_revision(expected(state))
}

/// What was expected and where the stream is, if that is what the error is about.
fn wrong(error: &Error) -> Option<(ExpectedRevision, Option<u64>)> {
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
    &event.stream_id
}

fn is_caught_up(event: &SubscriptionEvent) -> bool {
    matches!(event, SubscriptionEvent::CaughtUp)
}
