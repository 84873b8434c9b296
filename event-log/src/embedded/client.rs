//! What the clients of the EventStoreDB protocol ask for beyond the contract: expectations of their own, and reading
//! backwards.

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use tokio::sync::oneshot;

use super::writer::{Message, Outcome};
use super::{EmbeddedLog, record};
use crate::{AppendError, Appended, Expected, ReadError};

/// The largest append of a client, in bytes of types, metadata and data: EventStoreDB's own limit.
pub const CLIENT_APPEND_BYTES_MAX: usize = 1 << 20;

/// The most that an append of a client takes in a segment: many small events have long names in common.
const CLIENT_RECORD_BYTES_MAX: usize = 16 << 20;

/// What a client believes about the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientExpected {
    NoStream,
    At(Revision),
    Any,
    /// It has an event.
    Exists,
}

impl ClientExpected {
    /// Without the demand that the stream exists.
    pub(super) fn as_expected(self) -> Expected {
        match self {
            Self::NoStream => Expected::NoStream,
            Self::At(revision) => Expected::At(revision),
            Self::Any | Self::Exists => Expected::Any,
        }
    }
}

/// What an append is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The contract of [`crate::EventLog`].
    Contract(Expected),
    /// The same, and with `Any` or `Exists` a repetition is also recognised behind later events of the stream: by the id
    /// of its first event, if that was appended lately. Then all its events must be there, or it is a conflict.
    Client(ClientExpected),
}

/// An append that the writer has in its queue. It goes on if this is dropped.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Outcome>);

impl Pending {
    pub(super) fn new(answered: oneshot::Receiver<Outcome>) -> Self {
        Self(answered)
    }

    /// Waits until the append is durable or refused.
    ///
    /// # Errors
    /// As [`crate::EventLog::append`].
    pub async fn outcome(self) -> Result<Appended, AppendError> {
        let gone = || AppendError::Unknown { reason: "the log's writer ended early".to_owned() };
        self.0.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl EmbeddedLog {
    /// Queues an append of a client. Appends come into the log in the order in which this was called.
    ///
    /// # Errors
    /// It is empty or too large, or the log takes no more.
    pub async fn submit(
        &self,
        stream: &StreamId,
        expected: ClientExpected,
        events: Vec<NewEvent>,
    ) -> Result<Pending, AppendError> {
        let bytes = events
            .iter()
            .map(|event| event.event_type.as_str().len() + event.metadata.len() + event.data.len())
            .sum();
        let written: usize = events.iter().map(|event| record::event_bytes(stream, event)).sum();
        if events.is_empty() || bytes > CLIENT_APPEND_BYTES_MAX || written > CLIENT_RECORD_BYTES_MAX {
            return Err(AppendError::Size { events: events.len(), bytes });
        }
        self.queue(stream.clone(), Claim::Client(expected), events).await
    }

    /// Waits until all appends that were queued before are durable or refused, so that reading shows them.
    ///
    /// # Errors
    /// The log takes no more.
    pub async fn settle(&self) -> Result<(), AppendError> {
        let closed = |_| AppendError::Closed { reason: "the log has stopped".to_owned() };
        let (answer, answered) = oneshot::channel();
        self.queue.send(Message::Settle(answer)).await.map_err(|_| closed(()))?;
        answered.await.map_err(|_| closed(()))
    }

    /// The events of a stream from revision `from` down, newest first, at most `events_max`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn read_stream_back(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let stream = stream.clone();
        self.ask(move |shelf, access| shelf.stream_back(&stream, from, events_max, access)).await
    }

    /// The last event of a stream; none if it has none.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn last_of(&self, stream: &StreamId) -> Result<Option<Recorded>, ReadError> {
        Ok(self.read_stream_back(stream, Revision(u64::MAX), 1).await?.pop())
    }

    /// The events before position `before`, newest first, at most `events_max`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn read_all_back(
        &self,
        before: Position,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.ask(move |shelf, access| shelf.page_back(before, events_max, access)).await
    }
}
