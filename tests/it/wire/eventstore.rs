//! Tests with the crate `eventstore`.

use ::eventstore as crates;
use crates::{
    AppendToStreamOptions, Client, CurrentRevision, DeleteStreamOptions, Error, ExpectedRevision,
    RecordedEvent, SubscriptionEvent, TombstoneStreamOptions,
};

use super::ExpectedState;

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

fn expected(state: ExpectedState) -> ExpectedRevision {
    match state {
        ExpectedState::Any => ExpectedRevision::Any,
        ExpectedState::Exists => ExpectedRevision::StreamExists,
        ExpectedState::NoStream => ExpectedRevision::NoStream,
        ExpectedState::At(revision) => ExpectedRevision::Exact(revision),
    }
}

fn appending(state: ExpectedState) -> AppendToStreamOptions {
    AppendToStreamOptions::default().expected_revision(expected(state))
}

fn deleting(state: ExpectedState) -> DeleteStreamOptions {
    DeleteStreamOptions::default().expected_revision(expected(state))
}

fn tombstoning(state: ExpectedState) -> TombstoneStreamOptions {
    TombstoneStreamOptions::default().expected_revision(expected(state))
}

/// The expected and the actual revision of a wrong expected version error.
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
