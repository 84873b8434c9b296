//! Server-sent events, for every stream of the API.
//!
//! A route returns [`StreamResponse<T>`], where `T` describes the data. It opens a stream with [`stream`], whose closure
//! gets a [`Sender`] and sends [`Update`]s: missed ones with [`Sender::replay`], new ones with [`Sender::send`]. The rules
//! (how often progress is sent, when a subscriber is too slow) are in [`queue`], which uses neither tasks nor clocks.
//!
//! ```no_run
//! # use web::{shutdown::Shutdown, sse::{self, Update}};
//! # use serde_json::json;
//! # async fn route(shutdown: &Shutdown) {
//! let events: sse::Events<serde_json::Value> =
//!     sse::stream(&json!({"job_id": "…"}), shutdown, |sender| async move {
//!         let progress = json!({"progress": {"percentage": 40}});
//!         if sender.send(Update::progress("progress", None, &progress)).is_err() {
//!             return; // the subscriber has disconnected, or was too slow
//!         }
//!         let _ = sender.send(Update::last("completed", None, &json!({})));
//!     });
//! # }
//! ```

pub mod queue;
mod response;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use event_schemas::ids::Position;
use futures_util::FutureExt;
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::shutdown::Shutdown;
use crate::stream_permit::{PermitSlot, StreamEnd, StreamPermit};
use crate::value::ApiPosition;
use queue::SseQueue;

pub use queue::{Closed, Outgoing, Update};
pub use response::{Events, StreamResponse};

/// Gauge: open streams.
pub const STREAMS: &str = "matchbook_http_streams";

/// The position after which to resume: the `Last-Event-ID` header, which browsers send automatically, or else
/// `?last_event_id=`.
pub fn resume_after(header: Option<ApiPosition>, query: Option<ApiPosition>) -> Option<Position> {
    header.or(query).map(|position| position.0)
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<SseQueue>,
    /// Notified when there may be something to write.
    filled: Notify,
    /// Notified when there may be room again, or the subscriber has disconnected.
    drained: Notify,
    /// Notified when the subscriber has disconnected.
    disconnected: OnceLock<Arc<Notify>>,
    /// The permit of the stream, until its reader has it.
    permit: PermitSlot,
}

/// A stream in a response that has not been sent.
#[derive(Clone, Debug)]
pub(crate) struct OpenStream(Arc<Shared>);

impl OpenStream {
    /// Ends the stream when its permit does.
    pub(crate) fn govern(&self, permit: StreamPermit) {
        self.0.permit.put(permit);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, SseQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending half of a stream. The stream ends when it is dropped.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
}

impl Sender {
    /// Sends a new update. Never waits: a subscriber that is too slow gets `lagged` and is disconnected.
    ///
    /// # Errors
    /// If the stream has ended; nothing more needs to be sent.
    pub fn send(&self, update: Update) -> Result<(), Closed> {
        let mut queue = self.shared.queue();
        // Newer progress takes the place of queued progress, whose time the connection is already waiting for.
        let is_awaited = update.is_progress() && queue.has_progress();
        let sent = queue.push(update);
        if !is_awaited {
            self.shared.filled.notify_one();
        }
        sent
    }

    /// Sends an earlier update, as fast as the subscriber reads.
    ///
    /// # Errors
    /// If the stream has ended.
    pub async fn replay(&self, update: Update) -> Result<(), Closed> {
        loop {
            let drained = self.shared.drained.notified();
            {
                let mut queue = self.shared.queue();
                if queue.is_closed() {
                    return Err(Closed);
                }
                if queue.has_room() {
                    queue.push_replayed(update)?;
                    self.shared.filled.notify_one();
                    return Ok(());
                }
            }
            drained.await;
        }
    }

    /// Whether the stream has ended, so that nothing more can be sent.
    pub fn is_closed(&self) -> bool {
        self.shared.queue().is_closed()
    }

    /// Chooses what is notified when the subscriber disconnects. One that has disconnected already
    /// notifies nothing; see [`Sender::is_closed`].
    pub fn on_disconnect(&self, notify: Arc<Notify>) {
        // Only the first choice counts: a sender is handed over at most once.
        let _ = self.shared.disconnected.set(notify);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.queue().close();
        self.shared.filled.notify_one();
    }
}

/// Opens a stream that is fed by `produce`, which runs until it returns, the subscriber disconnects or the server shuts
/// down. `connected` is the data of the first event.
pub fn stream<T, F, P>(connected: &impl Serialize, shutdown: &Shutdown, produce: F) -> Events<T>
where
    F: FnOnce(Sender) -> P,
    P: Future<Output = ()> + Send + 'static,
{
    let (sender, mut events) = open(connected, shutdown);
    let producer = tokio::spawn(produce(sender).boxed());
    events.reader.producer = Some(producer.abort_handle());
    events
}

/// Opens a stream and returns both halves.
pub fn open<T>(connected: &impl Serialize, shutdown: &Shutdown) -> (Sender, Events<T>) {
    let connection = Uuid::now_v7();
    let queue = SseQueue::new(connection, connected, Instant::now().into_std());
    let shared = Arc::new(Shared {
        queue: Mutex::new(queue),
        filled: Notify::new(),
        drained: Notify::new(),
        disconnected: OnceLock::new(),
        permit: PermitSlot::default(),
    });
    metrics::gauge!(STREAMS).increment(1.0);
    let reader = Reader {
        shared: shared.clone(),
        shutdown: shutdown.clone(),
        producer: None,
        permit: None,
        end: None,
    };
    (Sender { shared }, Events::new(reader))
}

/// The reading half of a stream, for the connection.
#[derive(Debug)]
struct Reader {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    producer: Option<AbortHandle>,
    permit: Option<StreamPermit>,
    /// Why it ended before its object.
    end: Option<StreamEnd>,
}

impl Reader {
    /// The next frames to write; waits if there are none. None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        self.wait(SseQueue::pop).await
    }

    /// Waits until `take` returns something. None at the end.
    async fn wait<T>(&mut self, take: impl Fn(&mut SseQueue, std::time::Instant) -> Option<T>) -> Option<T> {
        if self.permit.is_none() {
            self.permit = self.shared.permit.take();
        }
        loop {
            if let Some(end) = self.permit.as_ref().and_then(StreamPermit::end) {
                self.end(end);
            }
            let filled = self.shared.filled.notified();
            let wake_at = {
                let mut queue = self.shared.queue();
                if let Some(taken) = take(&mut queue, Instant::now().into_std()) {
                    self.shared.drained.notify_waiters();
                    return Some(taken);
                }
                if queue.is_finished() {
                    return None;
                }
                queue.wake_at()
            };
            tokio::select! {
                () = filled => {}
                () = tokio::time::sleep_until(wake_at.into()) => {}
                // The browser reconnects automatically once the server is back, and resumes at its last event.
                () = self.shutdown.requested() => return None,
                end = ended(self.permit.as_ref()) => self.end(end),
            }
        }
    }

    /// Ends the stream with an event that says why.
    fn end(&mut self, end: StreamEnd) {
        self.permit = None;
        self.end = Some(end);
        self.shared.queue().end(end.event());
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
        futures_util::stream::unfold(self, |mut reader| async move {
            reader.next().await.map(|frames| (Ok(frames), reader))
        })
    }
}

async fn ended(permit: Option<&StreamPermit>) -> StreamEnd {
    match permit {
        Some(permit) => permit.ended().await,
        None => std::future::pending().await,
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        metrics::gauge!(STREAMS).decrement(1.0);
        // The producer may still hold what it shares with the reader.
        drop(self.shared.permit.take());
        self.shared.queue().abandon();
        self.shared.drained.notify_waiters();
        if let Some(notify) = self.shared.disconnected.get() {
            notify.notify_one();
        }
        if let Some(producer) = &self.producer {
            producer.abort();
        }
    }
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
