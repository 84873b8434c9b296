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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use event_schemas::ids::Position;
use futures_util::FutureExt;
use futures_util::Stream;
use poem_openapi::types::ToJSON;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::shutdown::Shutdown;
use crate::value::ApiPosition;
use queue::SseQueue;

pub use queue::{Closed, Update};
pub use response::{Events, StreamResponse};

/// Gauge: open streams.
pub const STREAMS: &str = "http_server_streams";

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
        let sent = self.shared.queue().push(update);
        self.shared.filled.notify_one();
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

    /// Waits until the stream has ended.
    pub async fn closed(&self) {
        loop {
            let drained = self.shared.drained.notified();
            if self.shared.queue().is_closed() {
                return;
            }
            drained.await;
        }
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
pub fn stream<T, F, P>(connected: &impl ToJSON, shutdown: &Shutdown, produce: F) -> Events<T>
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
pub fn open<T>(connected: &impl ToJSON, shutdown: &Shutdown) -> (Sender, Events<T>) {
    let connection = Uuid::now_v7();
    let queue = SseQueue::new(connection, connected, Instant::now().into_std());
    let shared = Arc::new(Shared { queue: Mutex::new(queue), filled: Notify::new(), drained: Notify::new() });
    metrics::gauge!(STREAMS).increment(1.0);
    let reader = Reader { shared: shared.clone(), shutdown: shutdown.clone(), producer: None };
    (Sender { shared }, Events::new(reader))
}

/// The reading half of a stream, for the connection.
#[derive(Debug)]
struct Reader {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    producer: Option<AbortHandle>,
}

impl Reader {
    /// The next frames to write; waits if there are none. None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let filled = self.shared.filled.notified();
            let wake_at = {
                let mut queue = self.shared.queue();
                if let Some(frames) = queue.pop(Instant::now().into_std()) {
                    self.shared.drained.notify_waiters();
                    return Some(frames);
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
            }
        }
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
        futures_util::stream::unfold(self, |mut reader| async move {
            reader.next().await.map(|frames| (Ok(frames), reader))
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        metrics::gauge!(STREAMS).decrement(1.0);
        self.shared.queue().abandon();
        self.shared.drained.notify_waiters();
        if let Some(producer) = &self.producer {
            producer.abort();
        }
    }
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
