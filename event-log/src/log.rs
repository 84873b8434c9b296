//! The log that a process runs on, without naming its implementation.

use std::fmt;
use std::sync::Arc;

use event_schemas::envelope::{NewEvent, Recorded};
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::{
    AppendError, Appended, EventLog, Expected, Filter, Identity, ImportError, Page, ReadError, Subscription,
};

/// The log that this process runs on. Clones share it.
///
/// It is the only use of dynamic dispatch for logs: an enum would need the implementations below this crate, and every crate
/// above would wait for a cluster's client to be compiled. The allocation of a call's future does not show beside a sync.
#[derive(Clone)]
pub struct Log(Arc<dyn BoxedLog>);

impl Log {
    pub fn new(log: impl EventLog + 'static) -> Self {
        Self(Arc::new(log))
    }

    /// A subscription to the events after `after`: first the existing events (catch-up), then new ones (live).
    pub fn subscribe(&self, after: Position, filter: Filter) -> Subscription {
        Subscription::new(self.clone(), after, filter)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("identity", &EventLog::identity(self)).finish_non_exhaustive()
    }
}

/// [`EventLog`] with boxed futures.
trait BoxedLog: Send + Sync {
    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'a, Result<Appended, AppendError>>;
    fn read_stream<'a>(
        &'a self,
        stream: &'a StreamId,
        from: Revision,
        events_max: usize,
    ) -> BoxFuture<'a, Result<Vec<Recorded>, ReadError>>;
    fn read_all<'a>(
        &'a self,
        after: Position,
        filter: &'a Filter,
        events_max: usize,
    ) -> BoxFuture<'a, Result<Page, ReadError>>;
    fn position_at(&self, at: Timestamp) -> BoxFuture<'_, Result<Position, ReadError>>;
    fn head(&self) -> watch::Receiver<Position>;
    fn identity(&self) -> Identity;
    fn short_page_means_end(&self) -> bool;
    fn import(&self, events: Vec<Recorded>) -> BoxFuture<'_, Result<(), ImportError>>;
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<L: EventLog> BoxedLog for L {
    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'a, Result<Appended, AppendError>> {
        EventLog::append(self, stream, expected, events).boxed()
    }

    fn read_stream<'a>(
        &'a self,
        stream: &'a StreamId,
        from: Revision,
        events_max: usize,
    ) -> BoxFuture<'a, Result<Vec<Recorded>, ReadError>> {
        EventLog::read_stream(self, stream, from, events_max).boxed()
    }

    fn read_all<'a>(
        &'a self,
        after: Position,
        filter: &'a Filter,
        events_max: usize,
    ) -> BoxFuture<'a, Result<Page, ReadError>> {
        EventLog::read_all(self, after, filter, events_max).boxed()
    }

    fn position_at(&self, at: Timestamp) -> BoxFuture<'_, Result<Position, ReadError>> {
        EventLog::position_at(self, at).boxed()
    }

    fn head(&self) -> watch::Receiver<Position> {
        EventLog::head(self)
    }

    fn identity(&self) -> Identity {
        EventLog::identity(self)
    }

    fn short_page_means_end(&self) -> bool {
        EventLog::short_page_means_end(self)
    }

    fn import(&self, events: Vec<Recorded>) -> BoxFuture<'_, Result<(), ImportError>> {
        EventLog::import(self, events).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        EventLog::close(self).boxed()
    }
}

impl EventLog for Log {
    async fn append(
        &self,
        stream: &StreamId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        self.0.append(stream, expected, events).await
    }

    async fn read_stream(
        &self,
        stream: &StreamId,
        from: Revision,
        events_max: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.0.read_stream(stream, from, events_max).await
    }

    async fn read_all(&self, after: Position, filter: &Filter, events_max: usize) -> Result<Page, ReadError> {
        self.0.read_all(after, filter, events_max).await
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, ReadError> {
        self.0.position_at(at).await
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.0.head()
    }

    fn identity(&self) -> Identity {
        self.0.identity()
    }

    fn short_page_means_end(&self) -> bool {
        self.0.short_page_means_end()
    }

    async fn import(&self, events: Vec<Recorded>) -> Result<(), ImportError> {
        self.0.import(events).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
