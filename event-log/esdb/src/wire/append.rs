//! Appends: one per call (`single`), or many over one call (`batch`).

use event_schemas::envelope::NewEvent;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::access::{self, Owner, Right};
use super::node::Node;
use super::refusal::Refusal;
use super::stream_metadata::StreamStatus;
use event_log::AppendError;
use event_log_embedded::{CLIENT_APPEND_BYTES_MAX, ClientExpected, PendingAppend};

/// The most events of one append, which also limits appends of empty events.
const EVENTS_MAX: usize = 65_536;

pub(super) mod batch;
pub(super) mod single;

/// A complete append request of a client.
#[derive(Debug)]
pub(super) struct AppendRequest {
    pub(super) stream: StreamId,
    pub(super) expected: ClientExpected,
    pub(super) events: ProposedEvents,
}

/// The events of an append while they are received. They are dropped if the append is too large.
#[derive(Debug, Default)]
pub(super) struct ProposedEvents {
    events: Vec<NewEvent>,
    bytes: usize,
    count: usize,
}

impl ProposedEvents {
    pub(super) fn push(&mut self, event: NewEvent) {
        self.bytes = self
            .bytes
            .saturating_add(event.event_type.as_str().len() + event.metadata.len() + event.data.len());
        self.count += 1;
        if self.is_too_large() {
            self.events = Vec::new();
        } else {
            self.events.push(event);
        }
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.bytes > CLIENT_APPEND_BYTES_MAX || self.count > EVENTS_MAX
    }

    pub(super) fn bytes(&self) -> usize {
        if self.is_too_large() { 0 } else { self.bytes }
    }

    fn into_events(self) -> Result<Vec<NewEvent>, Refusal> {
        if self.is_too_large() { Err(Refusal::TooLarge) } else { Ok(self.events) }
    }
}

/// The outcome of an append that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AppendOutcome {
    Appended {
        revision: Revision,
        position: Position,
    },
    /// The append had no events, and the stream is as expected.
    NoEvents {
        last: Option<Revision>,
    },
    Conflict {
        expected: ClientExpected,
        actual: Option<Revision>,
    },
}

/// An append whose place in the order of the log is decided.
#[derive(Debug)]
pub(super) enum SubmittedAppend {
    Queued { pending: PendingAppend, expected: ClientExpected },
    Finished(AppendOutcome),
}

impl SubmittedAppend {
    pub(super) async fn outcome(self) -> Result<AppendOutcome, Refusal> {
        match self {
            Self::Finished(outcome) => Ok(outcome),
            Self::Queued { pending, expected } => match pending.outcome().await {
                Ok(appended) => {
                    Ok(AppendOutcome::Appended { revision: appended.revision, position: appended.position })
                }
                Err(AppendError::Conflict { actual }) => Ok(AppendOutcome::Conflict { expected, actual }),
                Err(error) => Err(error.into()),
            },
        }
    }
}

impl Node {
    /// Checks an append and submits it to the log. Appends enter the log in the order of these calls.
    pub(super) async fn submit_append(
        &self,
        right: Right,
        append: AppendRequest,
    ) -> Result<SubmittedAppend, Refusal> {
        let AppendRequest { stream, expected, events } = append;
        let events = events.into_events()?;
        let owner = access::owner(&stream);
        access::check_append(right, &stream, &owner, &events)?;
        match owner {
            Owner::Client => {
                let shared = self.statuses.lock(&stream).read().await;
                match self.status_under_lock(&stream).await? {
                    StreamStatus::Unlimited | StreamStatus::Limited(_) => {
                        self.submit(&stream, expected, events).await
                    }
                    StreamStatus::Tombstoned => Err(Refusal::Deleted(stream)),
                    StreamStatus::Deleted => {
                        drop(shared);
                        self.append_to_deleted(stream, expected, events).await
                    }
                }
            }
            Owner::MetadataOf(of) => {
                let _exclusive = self.statuses.lock(&of).write().await;
                let submitted = self.submit(&stream, expected, events).await?;
                let outcome = submitted.outcome().await;
                self.statuses.invalidate(&of);
                Ok(SubmittedAppend::Finished(outcome?))
            }
            Owner::Domain | Owner::Identity | Owner::System => self.submit(&stream, expected, events).await,
        }
    }

    /// Appends to a deleted stream: the revisions continue, and the deleted events stay hidden.
    async fn append_to_deleted(
        &self,
        stream: StreamId,
        expected: ClientExpected,
        events: Vec<NewEvent>,
    ) -> Result<SubmittedAppend, Refusal> {
        let _exclusive = self.statuses.lock(&stream).write().await;
        self.log.flush().await?;
        // Another append may have been faster.
        match self.status_under_lock(&stream).await? {
            StreamStatus::Unlimited | StreamStatus::Limited(_) => {
                return self.submit(&stream, expected, events).await;
            }
            StreamStatus::Tombstoned => return Err(Refusal::Deleted(stream)),
            StreamStatus::Deleted => {}
        }
        let last = self.log.last_event(&stream).await?.map(|event| event.revision);
        let expected = match (expected, last) {
            (ClientExpected::Exists, _) => return Err(Refusal::Deleted(stream)),
            (ClientExpected::At(revision), last) if last != Some(revision) => {
                return Ok(SubmittedAppend::Finished(AppendOutcome::Conflict { expected, actual: last }));
            }
            (ClientExpected::NoStream, Some(last)) => ClientExpected::At(last),
            (expected, _) => expected,
        };
        if !events.is_empty() {
            // If the server stops after this event, the stream is still empty.
            let metadata = self.metadata_of(&stream).await?.unwrap_or_default();
            let next = last.map_or(Revision(0), Revision::next);
            self.truncate(&stream, metadata, next.0).await?;
        }
        self.submit(&stream, expected, events).await
    }

    async fn submit(
        &self,
        stream: &StreamId,
        expected: ClientExpected,
        events: Vec<NewEvent>,
    ) -> Result<SubmittedAppend, Refusal> {
        if !events.is_empty() {
            let pending = self.log.submit(stream, expected, events).await?;
            return Ok(SubmittedAppend::Queued { pending, expected });
        }
        self.log.flush().await?;
        let last = self.log.last_event(stream).await?.map(|event| event.revision);
        let as_expected = match expected {
            ClientExpected::Any => true,
            ClientExpected::Exists => last.is_some(),
            ClientExpected::NoStream => last.is_none(),
            ClientExpected::At(revision) => last == Some(revision),
        };
        Ok(SubmittedAppend::Finished(if as_expected {
            AppendOutcome::NoEvents { last }
        } else {
            AppendOutcome::Conflict { expected, actual: last }
        }))
    }
}
