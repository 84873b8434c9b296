//! The log on an EventStoreDB or KurrentDB cluster.
//!
//! The cluster keeps the events; this keeps the contract. Positions are the cluster's commit positions, which have gaps.
//! One subscription follows the whole log ([`reader`]): it moves the head, learns the times that events are shown with
//! ([`times`]), and brings the connection back when it is lost. Reads go to the cluster, and are cut where that reader is,
//! so that all ways of reading agree.
//!
//! - `client` alone knows the client library, and what has to be known about it; `url`, `tls` and `nodelay` stand around it;
//! - `appending` repeats what may be repeated; `identity` says which log a cluster holds.
//!
//! How it is run, and what differs from the embedded log: `docs/eventstoredb.md`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use tokio::sync::watch;

use crate::{AppendError, Appended, EventLog, Expected, Filter, Identity, Page, ReadError, check_size};

mod appending;
mod backoff;
mod client;
mod identity;
mod nodelay;
mod reader;
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
use times::{Place, Times};

/// The most events that one call reads of a stream, or of the whole log.
const READ_EVENTS_MAX: usize = 4096;

/// So many events are read at least where some of them are to be passed over.
const SKIP_EVENTS: usize = 1024;

/// Of so many places where pages ended it is remembered that one can read on there.
const ENDS_MAX: usize = 256;

/// The cluster counts revisions with one bit less.
const REVISION_MAX: u64 = i64::MAX as u64;

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
    Tls { url: ClusterUrl, fault: TlsFault },
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
        let started = Instant::now();
        let tls = |fault| ConnectError::Tls { url: url.clone(), fault };
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
                    tracing::warn!(%error, "waiting for the cluster; trying again in {} ms", pause.as_millis());
                    tokio::time::sleep(pause).await;
                }
            }
        };
        let head = watch::Sender::new(Position::START);
        let seen = Arc::new(Seen {
            times: RwLock::new(Times::default()),
            reached: watch::Sender::new(Position::START),
            standing: watch::Sender::new(Standing::CatchingUp),
        });
        let receiver = head.subscribe();
        let reader = tokio::spawn(reader::follow(Arc::clone(&connection), Arc::clone(&seen), head));
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

    /// Asks until there is an answer or patience ends.
    async fn ask<T, F>(&self, ask: impl Fn() -> F) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let until = Instant::now() + self.patience();
        let mut backoff = Backoff::new();
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(fault @ Fault::Deleted) => {
                    return Err(ReadError::Corrupt(format!("in the cluster at {}: {fault}", self.url())));
                }
                Err(fault @ (Fault::Unreachable(_) | Fault::Broken(_) | Fault::NotLeader)) => {
                    if Instant::now() >= until {
                        return Err(ReadError::Unavailable(fault.to_string()));
                    }
                }
                Err(fault) => return Err(ReadError::Unavailable(fault.to_string())),
            }
            backoff.wait().await;
        }
    }

    /// From where to read what is behind `after`: from there, if that is known to be the place of an event; a cluster
    /// reads from no other. Else from one before.
    fn start_for(&self, after: Position) -> ReadFrom<Position> {
        let ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.contains(&after) {
            return ReadFrom::At(after);
        }
        self.times().start_for(after).map_or(ReadFrom::Start, ReadFrom::At)
    }

    fn remember_end(&self, end: Position) {
        let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.back() != Some(&end) {
            ends.push_back(end);
        }
        if ends.len() > ENDS_MAX {
            ends.pop_front();
        }
    }

    /// Events of the whole log from a place on, as they are shown, up to `head`.
    async fn page(
        &self,
        from: ReadFrom<Position>,
        count: usize,
        head: Position,
    ) -> Result<Looked, ReadError> {
        let found = self.ask(|| self.connection().read_all(from, count)).await?;
        let last = found.last().map(Found::position);
        let full = found.len() >= count;
        let mut events: Vec<Recorded> = found.into_iter().filter_map(event).collect();
        events.retain(|event| event.position <= head);
        let times = self.times();
        for event in &mut events {
            event.recorded_at = times.shown(event.position, event.recorded_at);
        }
        Ok(Looked { events, last, full })
    }
}

/// What one call brought.
struct Looked {
    events: Vec<Recorded>,
    /// The last event that was looked at, of whatever kind.
    last: Option<Position>,
    /// Whether there may be more behind it.
    full: bool,
}

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
        NotIdentified::Fault(Fault::Tls(fault)) => ConnectError::Tls { url, fault },
        NotIdentified::Fault(Fault::Unreachable(reason) | Fault::Broken(reason)) => {
            ConnectError::Unreached { url, reason }
        }
        NotIdentified::Fault(Fault::NotLeader) => {
            ConnectError::Unreached { url, reason: "it has no leader yet".to_owned() }
        }
        other => ConnectError::Unfit { url, reason: other.to_string() },
    }
}

impl EventLog for EventStoreLog {
    async fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        check_size(&events)?;
        if self.0.head.has_changed().is_err() {
            return Err(AppendError::Closed { reason: "it was closed".to_owned() });
        }
        appending::append(self, stream, expected, &events).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        if events_max == 0 || from.0 > REVISION_MAX {
            return Ok(Vec::new());
        }
        let count = events_max.min(READ_EVENTS_MAX);
        let read = self.ask(|| async {
            match self.connection().read_stream(stream.as_str(), ReadFrom::At(from), count).await {
                Err(Fault::Missing) => Ok(Vec::new()),
                read => read,
            }
        });
        let mut events: Vec<Recorded> = read.await?.into_iter().filter_map(event).collect();
        if let Some(last) = events.last() {
            if last.position.0 == u64::MAX {
                return Err(ReadError::Unavailable(
                    "the cluster does not say where a stream's events are; it must be of version 22.6 or later".to_owned(),
                ));
            }
            if !self.seen(last.position, Instant::now() + self.patience()).await {
                return Err(ReadError::Unavailable(
                    "the connection to the cluster is not back yet".to_owned(),
                ));
            }
        }
        let times = self.times();
        for event in &mut events {
            event.recorded_at = times.shown(event.position, event.recorded_at);
        }
        Ok(events)
    }

    async fn read_all(&self, after: Position, filter: &Filter, events_max: usize) -> Result<Page, ReadError> {
        let head = *self.0.head.borrow();
        let until = Instant::now() + self.patience();
        let mut backoff = Backoff::new();
        let mut from = self.start_for(after);
        while after < head {
            let count = match from {
                // The event at the start is one that was seen already.
                ReadFrom::At(start) if start == after && *filter == Filter::All => {
                    events_max.saturating_add(1)
                }
                _ => events_max.max(SKIP_EVENTS),
            };
            let count = count.min(READ_EVENTS_MAX);
            let Looked { mut events, last, full } = self.page(from, count, head).await?;
            let last = last.unwrap_or(after);
            if last <= after && full {
                from = ReadFrom::At(last);
                continue;
            }
            if last <= after || (!full && last < head) {
                // The node that answered is behind the one whose events the reader has seen.
                if Instant::now() >= until {
                    return Err(ReadError::Unavailable("the node is behind the cluster".to_owned()));
                }
                backoff.wait().await;
                continue;
            }
            events.retain(|event| event.position > after && filter.matches(&event.stream));
            let mut next = last.min(head);
            if events.len() > events_max {
                events.truncate(events_max);
                next = events.last().map_or(after, |event| event.position);
            }
            self.remember_end(next);
            return Ok(Page { events, next, at_head: next >= head });
        }
        Ok(Page { events: Vec::new(), next: after, at_head: true })
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, ReadError> {
        let (place, head) = (self.times().place_at(at), *self.0.head.borrow());
        let mut found = match place {
            Place::Here(position) => return Ok(position.min(head)),
            Place::From(position) => position,
        };
        loop {
            let looked = self.page(ReadFrom::At(found), READ_EVENTS_MAX, head).await?;
            let by_then = looked.events.iter().take_while(|event| event.recorded_at <= at).count();
            let last = by_then.checked_sub(1).and_then(|index| looked.events.get(index));
            let further = last.is_some_and(|last| last.position > found);
            found = last.map_or(found, |last| last.position);
            if by_then < looked.events.len() || !looked.full || !further {
                return Ok(found);
            }
        }
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.0.head.clone()
    }

    fn identity(&self) -> Identity {
        self.0.identity
    }
}

#[cfg(all(test, feature = "wire"))]
mod fake;
#[cfg(all(test, feature = "wire"))]
mod tests;
