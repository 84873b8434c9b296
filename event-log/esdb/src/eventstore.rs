//! The log on an EventStoreDB or KurrentDB cluster.
//!
//! The cluster stores the events; this module implements the contract of the log over it. Positions are the cluster's commit
//! positions, which have gaps. One subscription follows the whole log ([`subscriber`]): it advances the head, collects the
//! `recorded_at` times of events ([`recorded_times`]), keeps the latest events in memory ([`tail`]) for subscribers, and
//! reconnects when the connection is lost. Other reads go to the cluster and stop at the subscriber's position, so that all
//! reads agree.
//!
//! - `client` wraps the client library and works around its defects, with `url`, `tls` and `nodelay`;
//! - `reading` reads up to the subscriber's position; `appending` retries appends safely; `identity` reads the log's id.
//!
//! Operation, and the differences from the embedded log: `docs/eventstoredb.md`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use tokio::sync::watch;

use event_log::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, AppendError, Appended, EventLog, Expected, Filter, Identity,
    ImportError, Page, ReadError, check_size,
};

mod appending;
mod backoff;
mod client;
mod identity;
mod nodelay;
mod reading;
mod recorded_time_metadata;
mod recorded_times;
mod subscriber;
mod tail;
mod tls;
mod url;

pub use subscriber::ConnectionState;
pub use tls::TlsError;
pub use url::{ClusterUrl, InvalidClusterUrl};

use backoff::Backoff;
use client::{CallError, ClusterEvent, Connection, ReadFrom};
use identity::IdentifyError;
use recorded_times::RecordedTimes;
use subscriber::SubscriberState;
use tail::Tail;

/// The largest revision of the cluster, which counts them in 63 bits.
const REVISION_MAX: u64 = i64::MAX as u64;

/// The size of the log's end that is kept in memory for subscribers.
const TAIL_BYTES: usize = 16 << 20;

/// The shortest delay between attempts at which each attempt is logged; of shorter ones only the first is.
const LOGGED_DELAY_MIN: Duration = Duration::from_secs(2);

/// What to do if the cluster cannot be reached when the log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnreachable {
    /// Retry until it can be reached, and log the attempts.
    Wait,
    Fail,
}

/// An error that prevents opening the log on a cluster.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "cannot reach the event log at {url}: {reason}; check that the cluster runs, that the address is right, and whether it uses TLS (tls=true in the URL, which is the default) or not (tls=false)"
    )]
    Unreachable { url: ClusterUrl, reason: String },
    #[error(
        "the event log at {url} refuses the user; put the right USER:PASSWORD@ before the host in the URL, and allow the user to read $all and to append"
    )]
    Denied { url: ClusterUrl },
    #[error("the event log at {url} cannot be used: {reason}")]
    Unusable { url: ClusterUrl, reason: String },
    #[error("cannot connect to the event log at {url}: {error}")]
    Tls { url: ClusterUrl, error: Box<TlsError> },
}

/// The result of opening the log: its head, and the time that it took.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    pub head: Position,
    pub duration: Duration,
}

/// A log on a cluster. Clones share it; it is closed explicitly, or when its last clone is dropped.
#[derive(Clone, Debug)]
pub struct EventStoreLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    identity: Identity,
    connection: Arc<Connection>,
    state: Arc<SubscriberState>,
    head: watch::Receiver<Position>,
    subscriber: tokio::task::AbortHandle,
    page_ends: Mutex<VecDeque<Position>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.subscriber.abort();
    }
}

impl EventStoreLog {
    /// Connects, reads which log the cluster holds, and reads the whole log once to collect its recorded times.
    ///
    /// # Errors
    /// [`ConnectError`], each with its remedy. [`WhenUnreachable::Wait`] waits for a cluster that cannot be reached.
    pub async fn open(
        url: ClusterUrl,
        when_unreachable: WhenUnreachable,
    ) -> Result<(Self, Connected), ConnectError> {
        Self::open_with(url, when_unreachable, TAIL_BYTES).await
    }

    async fn open_with(
        url: ClusterUrl,
        when_unreachable: WhenUnreachable,
        tail_bytes: usize,
    ) -> Result<(Self, Connected), ConnectError> {
        let started = Instant::now();
        let tls = |error| ConnectError::Tls { url: url.clone(), error: Box::new(error) };
        let connection = Arc::new(Connection::new(url.clone()).await.map_err(tls)?);
        let mut backoff = Backoff::new();
        let (identity, end) = loop {
            match identify_and_find_end(&connection).await {
                Ok(found) => break found,
                Err(error) => {
                    let error = connect_error(&url, error);
                    if when_unreachable == WhenUnreachable::Fail
                        || !matches!(error, ConnectError::Unreachable { .. })
                    {
                        return Err(error);
                    }
                    let pause = backoff.pause();
                    if backoff.attempts() == 1 || pause >= LOGGED_DELAY_MIN {
                        tracing::warn!(%error, "waiting for the cluster; retrying automatically");
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        };
        let head = watch::Sender::new(Position::START);
        let state = Arc::new(SubscriberState {
            times: RwLock::default(),
            tail: RwLock::new(Tail::new(tail_bytes)),
            reached: watch::Sender::new(Position::START),
            connection: watch::Sender::new(ConnectionState::CatchingUp),
        });
        let receiver = head.subscribe();
        let subscriber =
            tokio::spawn(subscriber::run(Arc::clone(&connection), Arc::clone(&state), head).boxed());
        let subscriber = subscriber.abort_handle();
        let page_ends = Mutex::default();
        let shared = Shared { identity, connection, state, head: receiver, subscriber, page_ends };
        let log = Self(Arc::new(shared));
        log.wait_caught_up(end).await;
        let head = *log.0.head.borrow();
        Ok((log, Connected { head, duration: started.elapsed() }))
    }

    /// Waits until the subscriber has reached `end`, and logs its progress.
    async fn wait_caught_up(&self, end: Position) {
        let mut reached = self.0.state.reached.subscribe();
        let mut progress = tokio::time::interval(Duration::from_secs(5));
        progress.tick().await;
        loop {
            tokio::select! {
                // The sender lives in `self`, so waiting cannot fail.
                _ = reached.wait_for(|reached| *reached >= end) => break,
                _ = progress.tick() => {
                    let at = *self.0.state.reached.borrow();
                    tracing::info!(%at, %end, "reading the log once, to collect its recorded times");
                }
            }
        }
        self.0.state.connection.send_replace(ConnectionState::Live);
    }

    /// The state of the connection to the cluster.
    pub fn connection_state(&self) -> ConnectionState {
        self.0.state.connection.borrow().clone()
    }

    /// The URL of the cluster, without the credentials.
    pub fn url(&self) -> &ClusterUrl {
        self.0.connection.url()
    }

    fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// The time for which a call is retried; the last attempt may take as long again.
    fn retry_timeout(&self) -> Duration {
        self.0.connection.deadline()
    }

    /// Waits until the subscriber has reached a position. False if it has not by `until`.
    async fn wait_reached(&self, position: Position, until: Instant) -> bool {
        let mut reached = self.0.state.reached.subscribe();
        let waiting = reached.wait_for(|reached| *reached >= position);
        matches!(tokio::time::timeout_at(until.into(), waiting).await, Ok(Ok(_)))
    }

    fn times(&self) -> std::sync::RwLockReadGuard<'_, RecordedTimes> {
        self.0.state.times.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn recorded_at(&self, position: Position, created: Timestamp) -> Timestamp {
        self.times().recorded_at(position, created)
    }

    fn recent_recorded_at(&self, position: Position) -> Option<Timestamp> {
        self.times().recent(position)
    }
}

/// The event to append, with the time at which the other log recorded it in its metadata.
fn with_time(event: &Recorded) -> NewEvent {
    NewEvent {
        id: event.id,
        event_type: event.event_type.clone(),
        format: event.format,
        metadata: recorded_time_metadata::with_time(&event.metadata, event.recorded_at),
        data: event.data.clone(),
    }
}

/// Splits the events into runs of neighbours in the same stream, each small enough for one append.
fn same_stream_runs(events: &[Recorded]) -> Vec<&[Recorded]> {
    let mut runs = Vec::new();
    let mut rest = events;
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let length = rest
            .iter()
            .take(APPEND_EVENTS_MAX)
            .take_while(|event| {
                bytes += event.event_type.as_str().len()
                    + event.metadata.len()
                    + event.data.len()
                    + RECORDED_TIME_BYTES;
                event.stream == first.stream && bytes <= APPEND_BYTES_MAX
            })
            .count();
        let (run, later) = rest.split_at(length.max(1));
        runs.push(run);
        rest = later;
    }
    runs
}

/// The most bytes that a recorded time adds to JSON metadata.
const RECORDED_TIME_BYTES: usize = 64;

fn user_event(event: ClusterEvent) -> Option<Recorded> {
    match event {
        ClusterEvent::User(event) => Some(event),
        ClusterEvent::System(_) => None,
    }
}

/// The identity of the log that the cluster holds, and its current end.
async fn identify_and_find_end(connection: &Connection) -> Result<(Identity, Position), IdentifyError> {
    let identity = identity::identify(connection).await?;
    let last = connection.read_all(ReadFrom::End, 1).await?;
    Ok((identity, last.first().map_or(Position::START, ClusterEvent::position)))
}

fn connect_error(url: &ClusterUrl, error: IdentifyError) -> ConnectError {
    let url = url.clone();
    match error {
        IdentifyError::Call(CallError::Denied) => ConnectError::Denied { url },
        IdentifyError::Call(CallError::Tls(error)) => ConnectError::Tls { url, error: Box::new(error) },
        IdentifyError::Call(CallError::Unreachable(reason) | CallError::Interrupted(reason)) => {
            ConnectError::Unreachable { url, reason }
        }
        IdentifyError::Call(CallError::NotLeader) => {
            ConnectError::Unreachable { url, reason: "it has no leader yet".to_owned() }
        }
        other => ConnectError::Unusable { url, reason: other.to_string() },
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

    fn short_page_means_end(&self) -> bool {
        false
    }

    /// Imports events of another log, consecutive events of the same stream in one append. The cluster assigns its own
    /// times, so the original ones are stored in the metadata.
    async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        let system = |event: &&Recorded| {
            event.stream.as_str().starts_with('$') || event.event_type.as_str().starts_with('$')
        };
        if let Some(event) = events.iter().find(system) {
            return Err(ImportError::System { stream: event.stream.clone() });
        }
        for run in same_stream_runs(&events) {
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

    /// Stops following the log.
    async fn close(&self) {
        self.0.subscriber.abort();
        let mut head = self.0.head.clone();
        // The head closes when the subscriber has ended.
        while head.changed().await.is_ok() {}
    }
}

#[cfg(test)]
#[cfg(feature = "wire")]
mod fake;
#[cfg(test)]
#[cfg(feature = "wire")]
mod tests;
