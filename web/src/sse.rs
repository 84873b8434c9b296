//! Server-sent events, as every stream of the API sends them.
//!
//! A route answers [`Answer<T>`], where `T` describes the data. It opens a stream with [`stream`], whose closure gets a
//! [`Sender`] and sends [`Update`]s: what the reader missed with [`Sender::replay`], what happens with [`Sender::send`].
//! The rules (how often progress is told, when a reader is too slow) are in [`outbox`], which knows neither tasks nor
//! clocks.
//!
//! ```no_run
//! # use web::{shutdown::Shutdown, sse::{self, Update}};
//! # use serde_json::json;
//! # async fn route(shutdown: &Shutdown) {
//! let events: sse::Events<serde_json::Value> =
//!     sse::stream(&json!({"job_id": "…"}), shutdown, |sender| async move {
//!         let progress = json!({"progress": {"percentage": 40}});
//!         if sender.send(Update::progress("progress", None, &progress)).is_err() {
//!             return; // the reader has gone, or was too slow
//!         }
//!         let _ = sender.send(Update::last("completed", None, &json!({})));
//!     });
//! # }
//! ```

pub mod outbox;
mod response;

use futures_util::FutureExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use event_schemas::ids::Position;
use futures_util::Stream;
use poem_openapi::types::ToJSON;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::shutdown::Shutdown;
use crate::value::Pos;
use outbox::Outbox;

pub use outbox::{Closed, Update};
pub use response::{Answer, Events};

/// Gauge: open streams.
pub const STREAMS: &str = "http_server_streams";

/// Where a reader stopped: the `Last-Event-ID` header that browsers send by themselves, else `?last_event_id=`.
pub fn resume_after(header: Option<Pos>, query: Option<Pos>) -> Option<Position> {
    header.or(query).map(|position| position.0)
}

#[derive(Debug)]
struct Shared {
    outbox: Mutex<Outbox>,
    /// There may be something to write.
    filled: Notify,
    /// There may be room again, or nobody left to read.
    drained: Notify,
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a stream that updates go into. The stream ends when it is dropped.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
}

impl Sender {
    /// Sends what just happened. Never waits: a reader that is too slow is told so and let go.
    ///
    /// # Errors
    /// If the stream is at its end; nothing more needs to be sent.
    pub fn send(&self, update: Update) -> Result<(), Closed> {
        let sent = self.shared.outbox().push(update);
        self.shared.filled.notify_one();
        sent
    }

    /// Sends what happened earlier, as fast as the reader takes it.
    ///
    /// # Errors
    /// If the stream is at its end.
    pub async fn replay(&self, update: Update) -> Result<(), Closed> {
        loop {
            let drained = self.shared.drained.notified();
            {
                let mut outbox = self.shared.outbox();
                if outbox.is_closed() {
                    return Err(Closed);
                }
                if outbox.has_room() {
                    outbox.push_replayed(update)?;
                    self.shared.filled.notify_one();
                    return Ok(());
                }
            }
            drained.await;
        }
    }

    /// Waits until nobody reads any more.
    pub async fn closed(&self) {
        loop {
            let drained = self.shared.drained.notified();
            if self.shared.outbox().is_closed() {
                return;
            }
            drained.await;
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.outbox().close();
        self.shared.filled.notify_one();
    }
}

/// A stream fed by `produce`, which runs until it returns, the reader goes or the server ends. `connected` is the data of
/// the first event.
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

/// A stream and the end that feeds it.
pub fn open<T>(connected: &impl ToJSON, shutdown: &Shutdown) -> (Sender, Events<T>) {
    let connection = Uuid::now_v7();
    let outbox = Outbox::new(connection, connected, Instant::now().into_std());
    let shared =
        Arc::new(Shared { outbox: Mutex::new(outbox), filled: Notify::new(), drained: Notify::new() });
    metrics::gauge!(STREAMS).increment(1.0);
    let reader = Reader { shared: shared.clone(), shutdown: shutdown.clone(), producer: None };
    (Sender { shared }, Events::new(reader))
}

/// The end of a stream that the connection reads.
#[derive(Debug)]
struct Reader {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    producer: Option<AbortHandle>,
}

impl Reader {
    /// Whatever can be written now, waiting if there is nothing; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let filled = self.shared.filled.notified();
            let wake_at = {
                let mut outbox = self.shared.outbox();
                if let Some(frames) = outbox.pop(Instant::now().into_std()) {
                    self.shared.drained.notify_waiters();
                    return Some(frames);
                }
                if outbox.is_finished() {
                    return None;
                }
                outbox.wake_at()
            };
            tokio::select! {
                () = filled => {}
                () = tokio::time::sleep_until(wake_at.into()) => {}
                // The reader comes back by itself to a server that is there, and goes on where it was.
                () = self.shutdown.begun() => return None,
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
        self.shared.outbox().abandon();
        self.shared.drained.notify_waiters();
        if let Some(producer) = &self.producer {
            producer.abort();
        }
    }
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
