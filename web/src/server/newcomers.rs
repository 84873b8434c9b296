//! Connections without a request yet. The oldest is closed when another client needs its slot, so that clients that only
//! connect shut no client out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

/// A connection, until its first request.
#[derive(Debug, Default)]
pub(super) struct Newcomer {
    has_request: AtomicBool,
    closing: Notify,
}

impl Newcomer {
    pub(super) fn has_request(&self) -> bool {
        self.has_request.load(Ordering::Relaxed)
    }

    /// Records the first request; the connection is not closed for another one any more.
    pub(super) fn request(&self) {
        self.has_request.store(true, Ordering::Relaxed);
    }

    /// Waits until the connection must be closed.
    pub(super) async fn closing(&self) {
        self.closing.notified().await;
    }
}

/// These connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Newcomers(Mutex<VecDeque<Weak<Newcomer>>>);

impl Newcomers {
    pub(super) fn add(&self) -> Arc<Newcomer> {
        let added = Arc::new(Newcomer::default());
        let mut queue = self.queue();
        while queue.front().is_some_and(|oldest| waiting(oldest).is_none()) {
            queue.pop_front();
        }
        queue.push_back(Arc::downgrade(&added));
        added
    }

    /// Closes the oldest connection without a request, if there is one.
    pub(super) fn close_oldest(&self) {
        let mut queue = self.queue();
        while let Some(oldest) = queue.pop_front() {
            if let Some(oldest) = waiting(&oldest) {
                return oldest.closing.notify_one();
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Weak<Newcomer>>> {
        // A queue that lost an entry to a panic is still valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waiting(newcomer: &Weak<Newcomer>) -> Option<Arc<Newcomer>> {
    newcomer.upgrade().filter(|newcomer| !newcomer.has_request())
}
