//! The shutdown of the log, which happens once.

use std::sync::Arc;

use tokio::sync::watch;

/// The reason why a log accepts no more appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The log was closed.
    Closed,
    /// The disk failed, or a thread of the log panicked. Acknowledged events are durable; the process must end, and the next
    /// start recovers the log.
    Failed { reason: String },
}

/// Holds the first reason to stop; later ones are ignored. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Shutdown(Arc<watch::Sender<Option<Stopped>>>);

impl Shutdown {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    pub(super) fn fail(&self, reason: &str) {
        if self.stop(Stopped::Failed { reason: reason.to_owned() }) {
            tracing::error!(reason, "the log stops permanently");
        }
    }

    /// Returns whether this was the first reason.
    pub(super) fn stop(&self, stopped: Stopped) -> bool {
        self.0.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(stopped);
            }
            first
        })
    }

    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.0.borrow().clone()
    }

    pub(super) async fn wait(&self) -> Stopped {
        // The sender lives in `self`, so waiting cannot fail.
        match self.0.subscribe().wait_for(Option::is_some).await {
            Ok(state) => state.clone().unwrap_or(Stopped::Closed),
            Err(_) => Stopped::Closed,
        }
    }
}

/// A guard in a thread that the log depends on: stops the log if the thread panics.
#[derive(Debug)]
pub(super) struct PanicGuard(pub(super) Shutdown);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("one of its threads panicked");
        }
    }
}
