//! The event log: its contract, and a log in memory for tests. The packages in the folders of this one implement the contract:
//! `embedded` in a local folder, `esdb` on a cluster.
//!
//! Start reading at [`EventLog`], whose doc comment is the specification; `conformance` tests every implementation
//! against it. [`Log`] is any of them, so that the crates above compile without them. This crate does not know what events
//! mean: it sees names, ids, revisions and bytes.

pub mod clock;
pub mod cloud_event;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod import;
mod log;
pub mod memory;
mod subscription;

use std::future::Future;

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{LogId, Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::watch;

pub use import::ImportError;
pub use log::Log;
pub use memory::MemoryLog;
pub use subscription::Subscription;

/// The largest append, in bytes of types, metadata and data. EventStoreDB's own limit is 1 MiB for the whole message.
pub const APPEND_BYTES_MAX: usize = 1_000_000;

/// The most events in one append.
pub const APPEND_EVENTS_MAX: usize = 4096;

/// The expected state of the stream that an append is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The stream has no event yet.
    NoStream,
    /// The revision of the stream's last event.
    At(Revision),
    /// Any state. Only for facts that commute, such as interactions.
    Any,
}

impl Expected {
    /// The expectation of a fold whose last event has the revision `last`.
    pub fn after(last: Option<Revision>) -> Self {
        last.map_or(Self::NoStream, Self::At)
    }
}

/// The outcome of a successful append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The position of the last appended event.
    pub position: Position,
    /// The revision of the last appended event.
    pub revision: Revision,
    /// The recorded time, which all appended events share.
    pub recorded_at: Timestamp,
}

/// The reason why an append failed, or why its outcome is unknown.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    #[error("the stream is at revision {}, which is not the expected one; load the stream and decide again", actual.map_or_else(|| "none".to_owned(), |r| r.to_string()))]
    Conflict { actual: Option<Revision> },
    #[error(
        "an append must have 1 to {APPEND_EVENTS_MAX} events of at most {APPEND_BYTES_MAX} bytes in total; split it"
    )]
    Size { events: usize, bytes: usize },
    /// Nothing was written. Reads still work, and appends succeed again as soon as the disk has free space.
    #[error(
        "the log's disk is full ({free_bytes} bytes free, {reserve_bytes} kept in reserve); free disk space and retry"
    )]
    Full { free_bytes: u64, reserve_bytes: u64 },
    /// The events may or may not be in the log. Load the stream and decide again.
    #[error("the outcome of the append is unknown: {reason}; check whether it was recorded before retrying")]
    Unknown { reason: String },
    /// Nothing was written, because the log is not reachable. The connection is retried automatically.
    #[error("the log cannot be reached: {reason}")]
    Unavailable { reason: String },
    /// Nothing was written, and this log accepts no more appends.
    #[error("the log accepts no appends: {reason}")]
    Closed { reason: String },
}

/// The reason why events could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error(
        "the log is damaged: {0}; stop the server, restore this file from a backup or repair the log with `matchbook events repair`, \
         and start again"
    )]
    Corrupt(String),
    #[error("the log cannot be read: {0}")]
    Unavailable(String),
}

/// The identity of a log. A position has a meaning only together with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: LogId,
    /// Raised by a restore from a backup, because positions after the backup are assigned again.
    pub epoch: u32,
}

/// The events of the whole log that a reader wants.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    #[default]
    All,
    /// Events whose stream name starts with one of these prefixes.
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

/// A page of the whole log.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events, in position order.
    pub events: Vec<Recorded>,
    /// The position up to which events were examined. The next page starts here, even if the filter left no events.
    pub next: Position,
    /// Whether `next` was the durable head when the page was read.
    pub at_head: bool,
}

/// An append-only log of events in streams, with one order over all of them.
///
/// - **Streams** have consecutive revisions from 0. **Positions** increase along the log and are never assigned twice;
///   in the embedded log they are consecutive from 1.
/// - **Appends** are all or nothing, to one stream. `Ok` means durable: the events survive a crash of the process and a
///   loss of power. [`AppendError::Unknown`] means that they may or may not be recorded; every other error means that
///   they are not.
/// - **A retried append is recognised**: if the expectation fails, but the events that follow the expected revision are
///   exactly these (by id, in order), the first outcome is returned and nothing is appended. With
///   [`Expected::Any`] the same holds if the stream's latest events are exactly these.
/// - **No event is visible before it is durable**, on any path: reads and subscriptions stop at the durable head.
/// - **`recorded_at`** is set by the log and never decreases along it, even if the clock is set back.
/// - **Reads** from beyond the end return nothing, and an unknown stream has no events; neither is an error.
/// - **Readers block neither the writer** nor each other.
pub trait EventLog: Send + Sync {
    /// Appends all of the events, or none of them.
    fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;

    /// Returns at most `events_max` events of a stream from revision `from` on, oldest first.
    fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> impl Future<Output = Result<Vec<Recorded>, ReadError>> + Send;

    /// Returns at most `events_max` events after position `after` that pass the filter, in position order. A page may be
    /// shorter than that, even empty, before the head is reached: continue at its `next`.
    fn read_all(
        &self,
        after: Position,
        filter: &Filter,
        events_max: usize,
    ) -> impl Future<Output = Result<Page, ReadError>> + Send;

    /// Returns the position of the last durable event that was recorded at or before `at`; the start if there is none.
    fn position_at(&self, at: Timestamp) -> impl Future<Output = Result<Position, ReadError>> + Send;

    /// The durable head, as it moves. The channel is closed when the log stops permanently.
    fn head(&self) -> watch::Receiver<Position>;

    fn identity(&self) -> Identity;

    /// Whether a page of a stream with fewer events than requested is its last page. A cluster returns shorter pages and
    /// omits events of other programs, so there only an empty page marks the end.
    fn short_page_means_end(&self) -> bool {
        true
    }

    /// Appends events of another log, in this order, with their original ids, revisions and times, so that queries for an
    /// instant return the same as before. Positions are assigned by this log. After an error, none of the events are in the
    /// log, or, on a cluster, the first ones. It fails also if a stream has other events in this log, or if the times would
    /// decrease.
    fn import(&self, events: Vec<Recorded>) -> impl Future<Output = Result<(), ImportError>> + Send;

    /// Finishes the appends in progress and closes the log. Later appends are refused; reads still work. Closing twice has no
    /// effect.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// Rejects an append that is empty or too large, before its stream is examined. Every implementation calls it.
///
/// # Errors
/// [`AppendError::Size`].
pub fn check_size(events: &[NewEvent]) -> Result<(), AppendError> {
    let bytes = events
        .iter()
        .map(|event| event.event_type.as_str().len() + event.metadata.len() + event.data.len())
        .sum();
    if events.is_empty() || events.len() > APPEND_EVENTS_MAX || bytes > APPEND_BYTES_MAX {
        return Err(AppendError::Size { events: events.len(), bytes });
    }
    Ok(())
}
