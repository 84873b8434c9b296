//! The log on an EventStoreDB or KurrentDB cluster.
//!
//! The cluster keeps the events; this keeps the contract. Positions are the cluster's commit positions, which have gaps.
//! One subscription follows the whole log ([`reader`]): it moves the head, learns the times that events are shown with
//! ([`times`]), keeps the latest events ([`tail`]) for who follows the log, and brings the connection back when it is lost.
//! Other reads go to the cluster, and are cut where that reader is, so that all ways of reading agree.
//!
//! - `client` alone knows the client library, and what has to be known about it; `url`, `tls` and `nodelay` stand around it;
//! - `reading` stops where the reader is; `appending` repeats what may be repeated; `identity` says which log a cluster holds.
//!
//! How it is run, and what differs from the embedded log: `docs/eventstoredb.md`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use tokio::sync::watch;

use crate::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, AppendError, Appended, EventLog, Expected, Filter, Identity,
    ImportError, Page, ReadError, check_size,
};

mod appending;
mod backoff;
mod carried;
mod client;
mod identity;
mod nodelay;
mod reader;
mod reading;
mod tail;
mod times;
mod tls;
mod url;

pub use reader::Standing;
pub use tls::TlsFault;
pub use url::{ClusterUrl, NotACluster};

use backoff::Backoff;
use client::{Connection, Fault, Found, ReadFrom};
use identity::NotIdentified;
use reader::Seen;
use tail::Tail;
use times::Times;

/// The cluster counts revisions with one bit less.
const REVISION_MAX: u64 = i64::MAX as u64;

/// How much of the log's end is kept in memory for those who follow it.
const TAIL_BYTES: usize = 16 << 20;

/// Who waits for shorter than this is not told of each try.
const TOLD_FROM: Duration = Duration::from_secs(2);

/// What to do with a cluster that cannot be reached when the log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// Try again until it can be, and say so.
    Wait,
    Refuse,
}

/// Why the log on a cluster cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "cannot reach the event log at {url}: {reason}; look whether the cluster runs, whether the address is right, and whether it wants TLS (tls=true in the URL, which is the default) or not (tls=false)"
    )]
    Unreached { url: ClusterUrl, reason: String },
    #[error(
        "the event log at {url} refuses the user; put the right USER:PASSWORD@ before the host in the URL, and let the user read $all and append"
    )]
    Denied { url: ClusterUrl },
    #[error("the event log at {url} cannot be used: {reason}")]
    Unfit { url: ClusterUrl, reason: String },
    #[error("cannot connect to the event log at {url}: {fault}")]
    Tls { url: ClusterUrl, fault: Box<TlsFault> },
}

/// What opening the log took.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    pub head: Position,
    pub duration: Duration,
}

/// A log on a cluster. Clones are the same log; it ends when it is closed, or with its last clone.
#[derive(Clone, Debug)]
pub struct EventStoreLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    identity: Identity,
    connection: Arc<Connection>,
    seen: Arc<Seen>,
    head: watch::Receiver<Position>,
    reader: tokio::task::AbortHandle,
    ends: Mutex<VecDeque<Position>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl EventStoreLog {
    /// Connects, finds out which log the cluster holds, and reads it once from its start to learn its times.
    ///
    /// # Errors
    /// [`ConnectError`], each naming the way out. With [`Unreached::Wait`] it waits for a cluster that cannot be reached.
    pub async fn open(url: ClusterUrl, unreached: Unreached) -> Result<(Self, Connected), ConnectError> {
        Self::open_with(url, unreached, TAIL_BYTES).await
    }

    async fn open_with(
        url: ClusterUrl,
        unreached: Unreached,
        tail_bytes: usize,
    ) -> Result<(Self, Connected), ConnectError> {
        let started = Instant::now();
        let tls = |fault| ConnectError::Tls { url: url.clone(), fault: Box::new(fault) };
        let connection = Arc::new(Connection::new(url.clone()).await.map_err(tls)?);
        let mut backoff = Backoff::new();
        let (identity, end) = loop {
            match meet(&connection).await {
                Ok(met) => break met,
                Err(error) => {
                    let error = connect_error(&url, error);
                    if unreached == Unreached::Refuse || !matches!(error, ConnectError::Unreached { .. }) {
                        return Err(error);
                    }
                    let pause = backoff.pause();
                    if backoff.tries() == 1 || pause >= TOLD_FROM {
                        tracing::warn!(%error, "waiting for the cluster; trying again by itself");
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        };
        let head = watch::Sender::new(Position::START);
        let seen = Arc::new(Seen {
            times: RwLock::default(),
            tail: RwLock::new(Tail::new(tail_bytes)),
            reached: watch::Sender::new(Position::START),
            standing: watch::Sender::new(Standing::CatchingUp),
        });
        let receiver = head.subscribe();
        let reader = tokio::spawn(reader::follow(Arc::clone(&connection), Arc::clone(&seen), head).boxed());
        let reader = reader.abort_handle();
        let shared = Shared { identity, connection, seen, head: receiver, reader, ends: Mutex::default() };
        let log = Self(Arc::new(shared));
        log.caught_up(end).await;
        let head = *log.0.head.borrow();
        Ok((log, Connected { head, duration: started.elapsed() }))
    }

    /// Waits until the reader has come to `end`, and says how far it is.
    async fn caught_up(&self, end: Position) {
        let mut reached = self.0.seen.reached.subscribe();
        let mut telling = tokio::time::interval(Duration::from_secs(5));
        telling.tick().await;
        loop {
            tokio::select! {
                // The sender lives in `self`, so waiting cannot fail.
                _ = reached.wait_for(|reached| *reached >= end) => break,
                _ = telling.tick() => {
                    tracing::info!(at = %*self.0.seen.reached.borrow(), %end, "reading the log once, to learn its times");
                }
            }
        }
        self.0.seen.standing.send_replace(Standing::Following);
    }

    /// How the connection to the cluster stands.
    pub fn standing(&self) -> Standing {
        self.0.seen.standing.borrow().clone()
    }

    /// Where the cluster is, without who may come in.
    pub fn url(&self) -> &ClusterUrl {
        self.0.connection.url()
    }

    /// Stops following the log. Appends after it are refused, reads still answer. Closing twice does nothing.
    pub async fn close(&self) {
        self.0.reader.abort();
        let mut head = self.0.head.clone();
        // The reader's end closes the head.
        while head.changed().await.is_ok() {}
    }

    /// Takes over events of another log, the events of one stream that follow each other at a time. The cluster gives them
    /// times of its own, so theirs go with their metadata.
    ///
    /// # Errors
    /// As [`crate::Log::import`]. What came before the error is in the log.
    pub(crate) async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        let system = |event: &&Recorded| {
            event.stream.as_str().starts_with('$') || event.event_type.as_str().starts_with('$')
        };
        if let Some(event) = events.iter().find(system) {
            return Err(ImportError::System { stream: event.stream.clone() });
        }
        for run in runs(&events) {
            let Some(first) = run.first() else { continue };
            let expected = Expected::after(first.revision.0.checked_sub(1).map(Revision));
            let new: Vec<NewEvent> = run.iter().map(with_time).collect();
            match appending::append(self, &first.stream, expected, &new).await {
                Ok(_) => {}
                Err(AppendError::Conflict { actual }) => {
                    return Err(ImportError::Revision {
                        stream: first.stream.clone(),
                        found: first.revision,
                        next: actual.map_or(Revision(0), Revision::next),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// For how long a call goes on trying; the last try may take as long again.
    fn patience(&self) -> Duration {
        self.0.connection.deadline()
    }

    /// Waits until the reader has come to a position. False if it has not by then.
    async fn seen(&self, position: Position, until: Instant) -> bool {
        let mut reached = self.0.seen.reached.subscribe();
        let waiting = reached.wait_for(|reached| *reached >= position);
        matches!(tokio::time::timeout_at(until.into(), waiting).await, Ok(Ok(_)))
    }

    fn times(&self) -> std::sync::RwLockReadGuard<'_, Times> {
        self.0.seen.times.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self, position: Position, created: Timestamp) -> Timestamp {
        self.times().shown(position, created)
    }

    fn time_of_recent(&self, position: Position) -> Option<Timestamp> {
        self.times().of_recent(position)
    }
}

/// The event as it is appended, with the time that it was recorded at elsewhere.
fn with_time(event: &Recorded) -> NewEvent {
    NewEvent {
        id: event.id,
        event_type: event.event_type.clone(),
        format: event.format,
        metadata: carried::with_time(&event.metadata, event.recorded_at),
        data: event.data.clone(),
    }
}

/// Neighbours of one stream, as many as one append takes.
fn runs(events: &[Recorded]) -> Vec<&[Recorded]> {
    let mut runs = Vec::new();
    let mut rest = events;
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let length = rest
            .iter()
            .take(APPEND_EVENTS_MAX)
            .take_while(|event| {
                bytes +=
                    event.event_type.as_str().len() + event.metadata.len() + event.data.len() + CARRIED_BYTES;
                event.stream == first.stream && bytes <= APPEND_BYTES_MAX
            })
            .count();
        let (run, later) = rest.split_at(length.max(1));
        runs.push(run);
        rest = later;
    }
    runs
}

/// What a carried time adds to an event's metadata, at most if that is JSON.
const CARRIED_BYTES: usize = 64;

fn event(found: Found) -> Option<Recorded> {
    match found {
        Found::Event(event) => Some(event),
        Found::System(_) => None,
    }
}

/// Which log the cluster holds, and where it ends now.
async fn meet(connection: &Connection) -> Result<(Identity, Position), NotIdentified> {
    let identity = identity::identify(connection).await?;
    let last = connection.read_all(ReadFrom::End, 1).await?;
    Ok((identity, last.first().map_or(Position::START, Found::position)))
}

fn connect_error(url: &ClusterUrl, error: NotIdentified) -> ConnectError {
    let url = url.clone();
    match error {
        NotIdentified::Fault(Fault::Denied) => ConnectError::Denied { url },
        NotIdentified::Fault(Fault::Tls(fault)) => ConnectError::Tls { url, fault: Box::new(fault) },
        NotIdentified::Fault(Fault::Unreachable(reason) | Fault::Broken(reason)) => {
            ConnectError::Unreached { url, reason }
        }
        NotIdentified::Fault(Fault::NotLeader) => {
            ConnectError::Unreached { url, reason: "it has no leader yet".to_owned() }
        }
        other => ConnectError::Unfit { url, reason: other.to_string() },
    }
}

/// The calls are boxed here. Otherwise each crate that awaits one would compile the whole gRPC client into itself.
impl EventLog for EventStoreLog {
    fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send {
        let (log, stream) = (self.clone(), stream.clone());
        let append = async move {
            check_size(&events)?;
            if log.0.head.has_changed().is_err() {
                return Err(AppendError::Closed { reason: "it was closed".to_owned() });
            }
            appending::append(&log, &stream, expected, &events).await
        };
        append.boxed()
    }

    fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> impl Future<Output = Result<Vec<Recorded>, ReadError>> + Send {
        let (log, stream) = (self.clone(), stream.clone());
        async move { log.stream(&stream, from, events_max).await }.boxed()
    }

    fn read_all(
        &self,
        after: Position,
        filter: &Filter,
        events_max: usize,
    ) -> impl Future<Output = Result<Page, ReadError>> + Send {
        let (log, filter) = (self.clone(), filter.clone());
        async move { log.all(after, &filter, events_max).await }.boxed()
    }

    fn position_at(&self, at: Timestamp) -> impl Future<Output = Result<Position, ReadError>> + Send {
        let log = self.clone();
        async move { log.last_by(at).await }.boxed()
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.0.head.clone()
    }

    fn identity(&self) -> Identity {
        self.0.identity
    }
}

#[cfg(test)]
#[cfg(feature = "wire")]
mod fake;
#[cfg(test)]
#[cfg(feature = "wire")]
mod tests;
