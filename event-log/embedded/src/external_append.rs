//! Operations that clients of the EventStoreDB protocol need beyond the contract: more kinds of expected revision, and
//! reading backwards.

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use tokio::sync::oneshot;

use super::writer::{Outcome, WriterMessage};
use super::{EmbeddedLog, record};
use event_log::{AppendError, Appended, Expected, ReadError};

/// The largest append of a client, in bytes of types, metadata and data: EventStoreDB's own limit.
pub const CLIENT_APPEND_BYTES_MAX: usize = 1 << 20;

/// The most bytes that a client's append takes in a segment: many small events can share one long stream name.
const CLIENT_RECORD_BYTES_MAX: usize = 16 << 20;

/// The expected state of the stream, as a client gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientExpected {
    NoStream,
    At(Revision),
    Any,
    /// The stream has at least one event.
    Exists,
}

impl ClientExpected {
    /// The same expectation in the terms of the contract. The caller checks [`Self::Exists`] separately.
    pub(super) fn as_expected(self) -> Expected {
        match self {
            Self::NoStream => Expected::NoStream,
            Self::At(revision) => Expected::At(revision),
            Self::Any | Self::Exists => Expected::Any,
        }
    }
}

/// The rules by which an append's expectation is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AppendExpectation {
    /// The contract of [`event_log::EventLog`].
    Contract(Expected),
    /// The same rules, and with `Any` or `Exists` a repeated append is also recognised when later events follow it in the
    /// stream: by the id of its first event, if that was appended recently. Then all its events must be there, or it is a
    /// conflict.
    Client(ClientExpected),
}

/// An append in the writer's queue. It continues if this is dropped.
#[derive(Debug)]
pub struct PendingAppend(oneshot::Receiver<Outcome>);

impl PendingAppend {
    pub(super) fn new(answered: oneshot::Receiver<Outcome>) -> Self {
        Self(answered)
    }

    /// Waits until the append is durable or refused.
    ///
    /// # Errors
    /// As [`event_log::EventLog::append`].
    pub async fn outcome(self) -> Result<Appended, AppendError> {
        let gone = || AppendError::Unknown { reason: "the log's writer ended early".to_owned() };
        self.0.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl EmbeddedLog {
    /// Enqueues an append of a client. Appends enter the log in the order of these calls.
    ///
    /// # Errors
    /// The append is empty or too large, or the log is closed.
    pub async fn submit(
        &self,
        stream: &StreamId,
        expected: ClientExpected,
        events: Vec<NewEvent>,
    ) -> Result<PendingAppend, AppendError> {
        let bytes = events
            .iter()
            .map(|event| event.event_type.as_str().len() + event.metadata.len() + event.data.len())
            .sum();
        let written: usize = events.iter().map(|event| record::event_bytes(stream, event)).sum();
        if events.is_empty() || bytes > CLIENT_APPEND_BYTES_MAX || written > CLIENT_RECORD_BYTES_MAX {
            return Err(AppendError::Size { events: events.len(), bytes });
        }
        self.queue(stream.clone(), AppendExpectation::Client(expected), events).await
    }

    /// Waits until all previously enqueued appends are durable or refused, so that reads see them.
    ///
    /// # Errors
    /// The log is closed.
    pub async fn flush(&self) -> Result<(), AppendError> {
        let closed = |_| AppendError::Closed { reason: "the log has stopped".to_owned() };
        let (answer, answered) = oneshot::channel();
        self.queue.send(WriterMessage::Flush(answer)).await.map_err(|_| closed(()))?;
        answered.await.map_err(|_| closed(()))
    }

    /// The events of a stream from revision `from` down, newest first, at most `events_max`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn read_stream_backwards(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let stream = stream.clone();
        self.query(move |view, access| view.stream_backwards(&stream, from, events_max, access)).await
    }

    /// The last event of a stream; `None` if the stream has no events.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn last_event(&self, stream: &StreamId) -> Result<Option<Recorded>, ReadError> {
        Ok(self.read_stream_backwards(stream, Revision(u64::MAX), 1).await?.pop())
    }

    /// The events before position `before`, newest first, at most `events_max`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn read_all_backwards(
        &self,
        before: Position,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.query(move |view, access| view.page_backwards(before, events_max, access)).await
    }
}
