//! How the log ends, once and for good.

use std::sync::Arc;

use tokio::sync::watch;

/// Why a log takes no more appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was closed.
    Closed,
    /// The disk failed, or the log itself. What was acknowledged is durable; the process must end, and recover by starting again.
    Failed { reason: String },
}

/// Remembers the first reason to stop; later ones change nothing. Clones are the same latch.
#[derive(Clone, Debug)]
pub(super) struct Latch(Arc<watch::Sender<Option<Stopped>>>);

impl Latch {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    pub(super) fn fail(&self, reason: &str) {
        if self.stop(Stopped::Failed { reason: reason.to_owned() }) {
            tracing::error!(reason, "the log stops for good");
        }
    }

    /// Whether this was the first reason.
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

/// Held by a thread without which the log cannot go on: trips the latch if the thread panics.
#[derive(Debug)]
pub(super) struct Indispensable(pub(super) Latch);

impl Drop for Indispensable {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("a thread of it panicked");
        }
    }
}
