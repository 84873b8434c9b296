//! The event log: its contract, the embedded log, the log on a cluster, and a log in memory that keeps the same contract.
//!
//! Start reading at [`EventLog`], whose doc comment is the specification; `conformance` holds every implementation to
//! it. This crate refuses to know what events mean: it sees names, ids, revisions and bytes.

pub mod clock;
pub mod cloud_event;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
#[cfg(feature = "eventstore")]
pub mod eventstore;
mod import;
pub mod memory;
mod subscription;
pub mod transfer;
#[cfg(feature = "wire")]
pub mod wire;

use std::future::Future;

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{LogId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::watch;

pub use embedded::EmbeddedLog;
#[cfg(feature = "eventstore")]
pub use eventstore::EventStoreLog;
pub use import::ImportError;
pub use memory::MemoryLog;
pub use subscription::Subscription;

/// The largest append, in bytes of types, metadata and data. EventStoreDB's own limit is 1 MiB for the whole message.
pub const APPEND_BYTES_MAX: usize = 1_000_000;

/// The most events in one append.
pub const APPEND_EVENTS_MAX: usize = 4096;

/// What the appender believes about the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It has no event yet.
    NoStream,
    /// This is its last event.
    At(Revision),
    /// Whatever it has. For facts that commute, such as interactions; for nothing else.
    Any,
}

impl Expected {
    /// What a fold that has seen events up to `last` expects.
    pub fn after(last: Option<Revision>) -> Self {
        last.map_or(Self::NoStream, Self::At)
    }
}

/// Where an append ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Of the last event.
    pub position: Position,
    /// Of the last event.
    pub revision: Revision,
    /// Of all its events.
    pub recorded_at: Timestamp,
}

/// Why nothing, or nothing certain, was appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    #[error("the stream is at revision {}, not where the appender believed", actual.map_or_else(|| "none".to_owned(), |r| r.to_string()))]
    Conflict { actual: Option<Revision> },
    #[error(
        "an append holds 1 to {APPEND_EVENTS_MAX} events of at most {APPEND_BYTES_MAX} bytes together; split it"
    )]
    Size { events: usize, bytes: usize },
    /// Nothing was written; reading goes on, and appending comes back by itself.
    #[error(
        "the log's disk is full ({free_bytes} bytes free, {reserve_bytes} kept in reserve); make room and try again"
    )]
    Full { free_bytes: u64, reserve_bytes: u64 },
    /// The events may be in the log or not. Load and decide again.
    #[error("the outcome of the append is unknown: {reason}; look whether it happened before trying again")]
    Unknown { reason: String },
    /// Nothing was written, because the log is out of reach; it comes back by itself.
    #[error("the log cannot be reached: {reason}")]
    Unavailable { reason: String },
    /// Nothing was written, and this log takes no more.
    #[error("the log takes no appends: {reason}")]
    Closed { reason: String },
}

/// Why events could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error(
        "the log is damaged: {0}; stop, put this file back from a backup, or see what `matchbook events repair` could keep, and \
         start again"
    )]
    Corrupt(String),
    #[error("the log cannot be read: {0}")]
    Unavailable(String),
}

/// Which log this is. Positions mean something only together with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: LogId,
    /// Raised by a restore from a backup, after which positions are given out anew.
    pub epoch: u32,
}

/// Which events of the whole log a reader wants.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    #[default]
    All,
    /// Those whose stream's name begins with one of these.
    StreamPrefixes(Vec<String>),
}

impl Filter {
    pub fn matches(&self, stream: &StreamId) -> bool {
        match self {
            Self::All => true,
            Self::StreamPrefixes(prefixes) => {
                prefixes.iter().any(|prefix| stream.as_str().starts_with(prefix.as_str()))
            }
        }
    }
}

/// A part of the whole log.
#[derive(Clone, Debug)]
pub struct Page {
    /// In position order.
    pub events: Vec<Recorded>,
    /// Everything up to here has been looked at: where to read on, even if the filter left nothing over.
    pub next: Position,
    /// Whether `next` was the durable head when the page was made.
    pub at_head: bool,
}

/// An append-only log of events in streams, with one order over all of them.
///
/// - **Streams** have consecutive revisions from 0. **Positions** increase along the log and are never given out twice;
///   in the embedded log they are consecutive from 1.
/// - **Appending** is all or nothing, to one stream. `Ok` means durable: the events survive the process and the power.
///   [`AppendError::Unknown`] means that they may or may not be there; every other error means that they are not.
/// - **A retried append is recognised**: if the expectation fails, but the events that follow the expected revision are
///   exactly these (by id, in order), the answer is that of the first time and nothing is appended. With
///   [`Expected::Any`] the same holds if the stream's latest events are exactly these.
/// - **Nobody sees an event before it is durable**, on any path: reads and subscriptions stop at the durable head.
/// - **`recorded_at`** is given by the log and never decreases along it, whatever the clock does.
/// - **Reading** from beyond the end yields nothing, and an unknown stream has no events; neither is an error.
/// - **Readers never slow a writer down**, and never hold one another up.
pub trait EventLog: Send + Sync {
    /// All events or none.
    fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;

    /// The events of a stream from revision `from` on, oldest first, at most `events_max`.
    fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> impl Future<Output = Result<Vec<Recorded>, ReadError>> + Send;

    /// The events after position `after` that pass the filter, in position order, at most `events_max`. A page may be
    /// shorter than that, even empty, without being at the head: read on at its `next`.
    fn read_all(
        &self,
        after: Position,
        filter: &Filter,
        events_max: usize,
    ) -> impl Future<Output = Result<Page, ReadError>> + Send;

    /// The position of the last durable event that was recorded at or before `at`; the start if there is none.
    fn position_at(&self, at: Timestamp) -> impl Future<Output = Result<Position, ReadError>> + Send;

    /// The durable head, as it moves. It is closed when the log stops for good.
    fn head(&self) -> watch::Receiver<Position>;

    fn identity(&self) -> Identity;
}

/// The log that this process runs on.
#[derive(Clone, Debug)]
pub enum Log {
    Embedded(EmbeddedLog),
    #[cfg(feature = "eventstore")]
    EventStore(EventStoreLog),
    Memory(MemoryLog),
}

impl Log {
    /// Pages of events from `after` on, for ever: first what is there, then what comes.
    pub fn subscribe(&self, after: Position, filter: Filter) -> Subscription {
        Subscription::new(self.clone(), after, filter)
    }

    /// Whether a stream is read to its end once a page comes with fewer events than were asked for. A cluster cuts pages
    /// shorter and leaves out what is not ours, so there only an empty page says so.
    pub fn ends_with_a_short_page(&self) -> bool {
        match self {
            Self::Embedded(_) | Self::Memory(_) => true,
            #[cfg(feature = "eventstore")]
            Self::EventStore(_) => false,
        }
    }
}

impl EventLog for Log {
    async fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        match self {
            Self::Embedded(log) => log.append(stream, expected, events).await,
            #[cfg(feature = "eventstore")]
            Self::EventStore(log) => log.append(stream, expected, events).await,
            Self::Memory(log) => log.append(stream, expected, events).await,
        }
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        match self {
            Self::Embedded(log) => log.read_stream(stream, from, events_max).await,
            #[cfg(feature = "eventstore")]
            Self::EventStore(log) => log.read_stream(stream, from, events_max).await,
            Self::Memory(log) => log.read_stream(stream, from, events_max).await,
        }
    }

    async fn read_all(&self, after: Position, filter: &Filter, events_max: usize) -> Result<Page, ReadError> {
        match self {
            Self::Embedded(log) => log.read_all(after, filter, events_max).await,
            #[cfg(feature = "eventstore")]
            Self::EventStore(log) => log.read_all(after, filter, events_max).await,
            Self::Memory(log) => log.read_all(after, filter, events_max).await,
        }
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, ReadError> {
        match self {
            Self::Embedded(log) => log.position_at(at).await,
            #[cfg(feature = "eventstore")]
            Self::EventStore(log) => log.position_at(at).await,
            Self::Memory(log) => log.position_at(at).await,
        }
    }

    fn head(&self) -> watch::Receiver<Position> {
        match self {
            Self::Embedded(log) => log.head(),
            #[cfg(feature = "eventstore")]
            Self::EventStore(log) => log.head(),
            Self::Memory(log) => log.head(),
        }
    }

    fn identity(&self) -> Identity {
        match self {
            Self::Embedded(log) => log.identity(),
            #[cfg(feature = "eventstore")]
            Self::EventStore(log) => log.identity(),
            Self::Memory(log) => log.identity(),
        }
    }
}

/// What every log refuses before it looks at the stream.
fn check_size(events: &[NewEvent]) -> Result<(), AppendError> {
    let bytes = events
        .iter()
        .map(|event| event.event_type.as_str().len() + event.metadata.len() + event.data.len())
        .sum();
    if events.is_empty() || events.len() > APPEND_EVENTS_MAX || bytes > APPEND_BYTES_MAX {
        return Err(AppendError::Size { events: events.len(), bytes });
    }
    Ok(())
}
